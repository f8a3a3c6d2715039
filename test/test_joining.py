"""Maps that were trained apart become one place, and a place gets further tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_neural_map import tiny_map
from test_place import new_tiles
from toy_room import ToyRoom

from crossfire_core.cli import run
from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.mapping_poses.joining import agreed, first_from_second
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.maps.header import MappingView
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import Place, write_place
from crossfire_core.training.extension import new_parts

QUARTER = Pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, 20.0, 3.0]))


def pairs(count: int, rng: np.random.Generator) -> list[tuple[Pose, Pose]]:
    """One camera in two maps, each pose a little off."""
    found = []
    for _ in range(count):
        there = Pose.exp((*rng.uniform(-4, 4, 3), *rng.uniform(-1, 1, 3)))
        off = Pose.exp((*rng.normal(0, 0.02, 3), *rng.normal(0, 0.003, 3)))
        found.append((QUARTER @ there @ off, there))
    return found


def test_a_transform_is_what_most_images_agree_on() -> None:
    rng = np.random.default_rng(0)
    wrong = [(Pose.exp(rng.normal(0, 3, 6)), there) for _, there in pairs(10, rng)]
    move, count = agreed([*wrong[:5], *pairs(20, rng), *wrong[5:]])
    assert count == 20
    # a turn to the left and 10, 20, 3 metres: what is one metre ahead comes to lie on the left
    assert move.apply([1.0, 0.0, 0.0]) == pytest.approx([10.0, 21.0, 3.0], abs=0.03)
    assert move.apply([0.0, 2.0, 0.5]) == pytest.approx([8.0, 20.0, 3.5], abs=0.03)


def test_images_that_contradict_each_other_tell_no_transform() -> None:
    rng = np.random.default_rng(1)
    wrong = [(Pose.exp(rng.normal(0, 3, 6)), there) for _, there in pairs(10, rng)]
    with pytest.raises(TrainingError, match="13 images are recognised by both maps and 3 agree"):
        agreed([*wrong, *pairs(3, rng)])
    with pytest.raises(TrainingError, match="0 images"):
        agreed([])


def test_only_images_that_both_maps_recognise_count() -> None:
    room = ToyRoom(12)
    pose_of = {f.image.tobytes(): p for f, p in zip(room, room.poses, strict=True)}

    class Map:
        """Knows some of the images."""

        def __init__(self, move: Pose, known: set[int]) -> None:
            self.move, self.known = move, [room.poses[i] for i in known]

        def localize(self, image, camera, prior=None, **_):  # type: ignore[no-untyped-def]
            pose = pose_of[image.tobytes()]
            ok = any(pose is each for each in self.known)
            return PoseEstimate(
                ok, "" if ok else "unknown", self.move @ pose if ok else Pose.exp(np.ones(6))
            )

    first, second = Map(QUARTER, set(range(8))), Map(Pose.identity(), set(range(3, 12)))
    move, count = first_from_second(room, first, second)
    assert count == 5  # 3 to 7
    assert move.distance(QUARTER) == pytest.approx((0.0, 0.0), abs=1e-6)


def views_along_x(start: float, length: float) -> tuple[MappingView, ...]:
    spots = np.arange(start, start + length, 0.5)
    return tuple(
        MappingView(f"{x:.1f}", i, Pose(np.eye(3), np.array([x, 0.0, 0.0])))
        for i, x in enumerate(spots)
    )


def test_join_puts_the_other_map_where_it_is_told_to(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = tiny_map()
        made.header = replace(made.header, frame_id=name, views=views_along_x(2.0, 1.5))
        made.save(tmp_path / f"{name}.map")
    command = ["join", tmp_path / "a.map", tmp_path / "b.map", "-o", tmp_path / "both.map"]
    assert run([*map(str, command), "--transform", "10 20 3 0 0 0.70710678 0.70710678"]) == 0
    place = Place.open(tmp_path / "both.map")
    assert place.frame_id == "a" and len(place.tiles) == 2
    # views at x = 2 to 3 of the second map: y = 22 to 23 in the first
    centres = [v.map_from_camera.translation for v in place.header.views]
    assert np.ptp(centres, axis=0) == pytest.approx([8.0, 23.0, 3.0])
    assert place.tiles[1].outside(np.array([10.0, 22.4, 3.0])) == pytest.approx(0.0, abs=1e-6)
    assert place.tiles[1].outside(np.array([10.0, 24.0, 3.0])) == pytest.approx(1.0, abs=1e-6)
    assert place.tiles[0].outside(np.array([2.5, 0.0, 0.0])) == 0.0
    again = ["join", tmp_path / "both.map", tmp_path / "b.map", "-o", tmp_path / "both.map"]
    assert run([*map(str, again), "--transform", "0 0 9 0 0 0 1"]) == 0
    assert len(Place.open(tmp_path / "both.map").tiles) == 3


@pytest.mark.parametrize("options", [[], ["--transform", "0 0 0 0 0 0 1", "--images", "bag"]])
def test_join_wants_to_know_how_maps_lie_to_each_other(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["join", "a.map", "b.map", "-o", str(tmp_path / "c.map"), *options]) == 2
    assert "--transform or --images" in " ".join(capsys.readouterr().err.split())


# -- extend ------------------------------------------------------------------------------------


def path(start: float, length: float) -> PosedRecording:
    """A recording along x; its images are of no account."""
    poses = [view.map_from_camera for view in views_along_x(start, length)]
    return PosedRecording(ToyRoom(len(poses)), poses, "the formula")


def small_map() -> NeuralMap:
    """Views at 0 to 5 m; surfaces are 1.3 m away, so 9.1 m are one map's size."""
    made = tiny_map()
    made.header = replace(made.header, views=views_along_x(0.0, 5.5))
    return made


def test_a_map_is_extended_by_itself_while_all_is_one_maps_size() -> None:
    assert new_parts(small_map(), path(4.0, 5.0)) == []


def test_what_lies_beyond_a_map_becomes_tiles() -> None:
    (part,) = new_parts(small_map(), path(4.0, 10.5))  # to 14 m
    assert part.low[0] == 6.0 and part.high[0] == 14.0  # 5.5 m is known
    # positions of the recording's frames: from 5.5 m, which is within 0.975 m of the core
    assert part.views.tolist() == list(range(3, 21))
    parts = new_parts(small_map(), path(4.0, 30.5))
    assert len(parts) == 4 and max(np.ptp([p.low[0], p.high[0]]) for p in parts) <= 9.1


def test_a_place_that_knows_all_of_a_recording_says_so(tmp_path: Path) -> None:
    place = write_place(tmp_path / "row.map", "map", new_tiles(tmp_path, 2))  # 0 to 8 m
    with pytest.raises(TrainingError, match="nothing to add"):
        new_parts(place, path(0.0, 8.0))
    (part,) = new_parts(place, path(0.0, 12.5))
    assert part.low[0] == 9.0 and part.high[0] == 12.0
