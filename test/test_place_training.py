"""Training a place of several tiles, here, in other processes, and after an interruption."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_map import SMALL, TINY
from toy_room import ToyRoom, textures

from crossfire_core.config import LocalizationConfig, to_dict
from crossfire_core.errors import MissingDependencyError, TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.localization.place import PlaceLocalizer
from crossfire_core.mapping_poses.posed import JoinedRecording, PosedRecording
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import Place
from crossfire_core.recordings import Recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.training.engines import Cluster, Workers
from crossfire_core.training.extension import extend_place, new_parts
from crossfire_core.training.progress import Progress
from crossfire_core.training.schedule import Course
from crossfire_core.training.tiles import train_place, work_folder
from crossfire_core.training.tiling import Part

AWAY = np.array([30.0, 0.0, 0.0])
HELD_OUT = 6
LOOSE = LocalizationConfig(points_along=48, min_inliers=30)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is split by the number of threads, so results are compared at one number of them."""
    monkeypatch.setenv("CROSSFIRE_THREADS", "2")


def house(count: int = 24) -> Recording:
    """Two rooms with walls of their own, 30 m apart."""
    return JoinedRecording([ToyRoom(count, depth=True, name="here"), there(count)])


def there(count: int = 24) -> Recording:
    """The other room."""
    room = ToyRoom(count, depth=True, name="there")
    room.faces = textures(seed=5)
    far = [Pose(p.rotation, p.translation + AWAY) for p in room.poses]
    return PosedRecording(room, far, "the formula")


@pytest.fixture(scope="module")
def place(toy_map: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The toy room, to which another one is added; the network is the toy room's."""
    parts = new_parts(NeuralMap.load(toy_map, "cpu"), there())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFIRE_THREADS", "2")
        return extend_place(
            toy_map, there(), tmp_path_factory.mktemp("house") / "house.map", SMALL,
            Course(600, holdout_every=HELD_OUT, use_depth=True, device="cpu", seed=1),
            parts=parts,
        )  # fmt: skip


def queries() -> list[Frame]:
    """Frames of both rooms that were held out, four of each."""
    here = ToyRoom(30, depth=True).frames(range(0, 20, 5))
    return [*here, *there().frames(range(0, 24, HELD_OUT))]


def test_a_room_is_added_and_the_known_one_stays_as_it_is(place: Place, toy_map: Path) -> None:
    assert (place.folder / "tile_000.map").read_bytes() == toy_map.read_bytes()
    assert [len(header.views) for header in place.headers] == [24, 20]
    assert len({tile.network for tile in place.tiles}) == 1
    assert not work_folder(place.folder).exists()
    assert not {info.name for info in there().infos[::HELD_OUT]} & place.headers[1].trained_on
    summary = place.summary()
    assert summary["mapping_views"] == 44 and summary["networks"] == 1
    assert len(summary["tiles"]) == 2 and summary["path_extent_m"][0] > 30.0


def test_images_are_found_in_their_room_from_nothing(place: Place) -> None:
    localizer = PlaceLocalizer(place, LOOSE, "cpu")
    errors = []
    for frame in queries():
        found = localizer.localize(frame.image, frame.camera)
        assert found.map_from_camera is not None and frame.world_from_camera is not None
        errors.append(found.map_from_camera.distance(frame.world_from_camera))
    metres, radians = np.array(errors).T
    assert np.median(metres) < 0.1 and np.degrees(np.median(radians)) < 3.0
    assert (metres < 1.0).all()  # none is in the wrong room
    assert sorted(localizer.loaded) == [0, 1]


def test_a_prior_leads_to_the_tile_it_lies_in_alone(place: Place) -> None:
    localizer = PlaceLocalizer(place, LOOSE, "cpu")
    frame = queries()[-1]
    found = localizer.localize(frame.image, frame.camera, frame.world_from_camera)
    assert found.map_from_camera is not None and frame.world_from_camera is not None
    assert found.map_from_camera.distance(frame.world_from_camera)[0] < 0.2
    assert localizer.loaded == [1]


def test_views_of_a_place_are_rendered_from_their_tiles(place: Place) -> None:
    localizer = PlaceLocalizer(place, LOOSE, "cpu")
    for frame in (queries()[0], queries()[-1]):
        assert frame.depth is not None and frame.world_from_camera is not None
        seen = localizer.renderer.render(frame.camera, frame.world_from_camera)
        # colours are hardly learnt in so few steps
        assert np.median(np.abs(seen.z_depth / frame.depth - 1.0)) < 0.05


# -- interruption ------------------------------------------------------------------------------


def stop_in(words: str) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if words in progress.stage:
            raise KeyboardInterrupt

    return on_progress


def tiny_parts() -> list[Part]:
    """Two tiles that nobody has to look for."""
    return [Part(np.zeros(3), np.ones(3), np.arange(i, i + 6)) for i in (0, 24)]


def train_tiny(output: Path, resume: bool = False, steps: int = 200, **options: Any) -> Place:
    course = Course(steps, use_depth=True, resume=resume, device="cpu")
    return train_place(house(), output, TINY, course, parts=tiny_parts(), **options)


def test_a_stopped_training_goes_on_with_the_tile_it_stopped_in(tmp_path: Path) -> None:
    output = tmp_path / "a.map"
    with pytest.raises(TrainingError, match="without --resume"):
        train_tiny(output, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(output, on_progress=stop_in("tile 2 of 2: geometry"))
    assert not output.exists()
    first = work_folder(output) / "tile_000.map"
    stamp = first.stat().st_mtime_ns
    assert (work_folder(output) / "tile_001.map.checkpoint").exists()
    with pytest.raises(TrainingError, match="other settings"):
        train_tiny(output, resume=True, steps=202)
    stages: list[str] = []

    def watch(progress: Progress) -> None:
        stages.append(progress.stage)
        assert first.stat().st_mtime_ns == stamp

    made = train_tiny(output, resume=True, on_progress=watch)
    assert len(made.tiles) == 2 and all(stage.startswith("tile 2") for stage in stages)
    assert not work_folder(output).exists()


# -- other processes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Chore:
    """As a tile's task; its process is killed the first so many times."""

    number: int
    output: Path
    deaths: int = 0
    fails: bool = False

    @property
    def done(self) -> bool:
        return self.output.exists()

    def run(self, tell: Callable[[Progress], None]) -> None:
        tell(Progress("at work", 1, 2, 0.5, 20.0, None, 1.0, 1.0))
        if self.fails:
            raise TrainingError("no surfaces")
        tries = self.output.with_suffix(".tries")
        count = int(tries.read_text()) if tries.exists() else 0
        tries.write_text(str(count + 1))
        if count < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        self.output.write_text(str(os.getpid()))


def chores(folder: Path, *rest: Any) -> list[Any]:
    folder.mkdir(exist_ok=True)
    return [Chore(i, folder / f"tile_{i:03d}.map", *each) for i, each in enumerate(rest)]


def test_a_tile_whose_process_is_killed_is_begun_again(tmp_path: Path) -> None:
    heard: list[Progress] = []
    tasks = chores(tmp_path, (1,), (0,))
    Workers(2)(tasks, heard.append)
    assert all(task.done for task in tasks)
    assert (tmp_path / "tile_000.tries").read_text() == "2"
    assert {task.output.read_text() for task in tasks}.isdisjoint({str(os.getpid())})
    assert heard[-1].stage == "2 of 2 further tiles" or heard[-1].step > 0


def test_what_fails_in_a_process_is_said_with_its_tile(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="tile 1: no surfaces"):
        Workers(1)(chores(tmp_path, (0, True)), lambda progress: None)
    with pytest.raises(TrainingError, match=r"tile 1 died 3 times"):
        Workers(1)(chores(tmp_path, (9,)), lambda progress: None)


def test_a_tile_trained_in_another_process_is_the_same(tmp_path: Path) -> None:
    """The recording, the settings and the network of the first tile go to the process and back."""
    here = train_tiny(tmp_path / "here.map")
    there = train_tiny(tmp_path / "there.map", engine=Workers(1))
    maps = [NeuralMap.load(p.folder / "tile_001.map", "cpu") for p in (here, there)]
    assert to_dict(maps[0].header.field) == to_dict(maps[1].header.field)
    assert maps[0].header.provenance["steps"] == maps[1].header.provenance["steps"]
    a, b = (m.field.state_dict() for m in maps)
    assert all((a[name] == b[name]).all() for name in a)
    assert here.tiles[1].network == there.tiles[1].network


def test_a_cluster_begins_a_killed_tile_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[cluster]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where workers find this module

    heard: list[Progress] = []
    try:
        cluster = Cluster("local")
        tasks = chores(tmp_path, (1,), (0,))
        cluster(tasks, heard.append)
        assert cluster.lanes >= 1 and all(task.done for task in tasks)
        assert (tmp_path / "tile_000.tries").read_text() == "2"
        with pytest.raises(TrainingError, match="tile 1: no surfaces"):
            cluster(chores(tmp_path / "more", (0, True)), heard.append)
    finally:
        ray.shutdown()


def test_without_ray_a_cluster_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"\[cluster\]"):
        Cluster("local")
