"""A map that is continued with a second recording keeps what it knew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_map import TINY
from toy_room import ToyRoom

from crossfire_core.config import FeatureConfig
from crossfire_core.geometry import Camera
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.patches import SIDE, Patches
from crossfire_core.recordings.lazy import Recording
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training.checkpoint import checkpoint_path
from crossfire_core.training.extension import Extension, extend_map
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import train_map

COUNT = 12
CAMERA = Camera(80, 60, 55.0, 55.0, 40.0, 30.0)
# enough for colours, which is what is compared
CONFIG = replace(TINY, features=FeatureConfig(64, 16, 16), image_side=80)
COURSE = Course(300, device="cpu")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is split by the number of threads, so results are compared at one number of them."""
    monkeypatch.setenv("CROSSFIRE_THREADS", "2")


def part(indices: range) -> Recording:
    """Some frames of the room."""
    room = ToyRoom(COUNT, camera=CAMERA)
    return PosedRecording(
        room, [p if i in indices else None for i, p in enumerate(room.poses)], "the formula"
    )


def psnr(neural_map: NeuralMap, recording: Recording) -> float:
    """How alike renderings and images are, dB."""
    header = neural_map.header
    renderer = Renderer(neural_map.field, header.spacing, header.render)
    errors = []
    for frame in recording:
        assert frame.world_from_camera is not None
        camera = frame.camera.resized(40, 30)
        seen = renderer.render(camera, frame.world_from_camera).colour
        small = frame.image.reshape(30, 2, 40, 2, 3).mean(axis=(1, 3)) / 255.0
        errors.append(np.mean((seen - small) ** 2))
    return float(-10.0 * np.log10(np.mean(errors)))


@pytest.fixture(scope="module")
def old_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "old.map"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFIRE_THREADS", "2")
        train_map(part(range(6)), path, CONFIG, COURSE)
    return path


def test_the_new_place_is_learnt_and_the_old_one_kept(old_map: Path, tmp_path: Path) -> None:
    old = NeuralMap.load(old_map, "cpu")
    old.header = replace(old.header, covariance_factor=1.7)
    output = tmp_path / "new.map"
    extend_map(old, part(range(6, COUNT)), output, CONFIG, COURSE)
    assert not checkpoint_path(output).exists()
    new = NeuralMap.load(output, "cpu")
    first, second = part(range(6)), part(range(6, COUNT))
    assert psnr(new, second) > psnr(old, second) + 0.5
    assert psnr(new, first) > psnr(old, first) - 1.0
    assert new.header.frame_id == old.header.frame_id
    assert new.header.base_frame == old.header.base_frame
    assert new.header.box == old.header.box
    assert new.header.covariance_factor == 1.7
    assert {i.name for i in first.infos} | {i.name for i in second.infos} == new.header.trained_on
    assert new.header.provenance["extends"] == old.header.provenance


def test_frames_of_the_same_names_keep_the_old_views_patches(old_map: Path, tmp_path: Path) -> None:
    """Folders number their images from zero, each one."""
    old = NeuralMap.load(old_map, "cpu")
    count = len(old.header.views)
    old.patches = Patches(
        np.arange(3.0 * count).reshape(count, 3), np.tile([0.0, 0.0, 1.0], (count, 1)),
        np.ones(count), np.arange(count), np.full((count, SIDE, SIDE), 99, np.uint8),
    )  # fmt: skip
    again = tmp_path / "again.map"
    trainer = Extension(
        old, part(range(6)), again, replace(CONFIG, patches=0), Course(2, device="cpu")
    )
    trainer.prepare()
    names = [view.name for view in trainer.views]
    assert len(set(names)) == len(names) == count + 6
    made = trainer._cut_patches()
    np.testing.assert_array_equal(made.points, old.patches.points)
    poses = [view.map_from_camera for view in old.header.views]
    for number, view in enumerate(made.view):
        assert trainer.views[view].map_from_camera.distance(poses[number])[0] < 1e-9


def test_it_goes_on_after_ctrl_c(old_map: Path, tmp_path: Path) -> None:
    old, output = NeuralMap.load(old_map, "cpu"), tmp_path / "new.map"

    def stop(progress) -> None:
        if progress.stage == "descriptors":
            raise KeyboardInterrupt

    short = Course(6, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        extend_map(old, part(range(6, COUNT)), output, CONFIG, short, stop)
    assert checkpoint_path(output).exists()
    made = extend_map(old, part(range(6, COUNT)), output, CONFIG, replace(short, resume=True))
    assert made.header.provenance["steps"] == [5, 1]
    assert output.exists()
    assert not checkpoint_path(output).exists()
