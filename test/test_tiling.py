"""How a place is cut into tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_room import ToyRoom

from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses.posed import JoinedRecording, PosedRecording
from crossfire_core.training.tiling import MARGIN, Part, cut, parts_of, surface_distance

DISTANCE = 2.0  # of surfaces, metres


def line(length: float, axis: int, level: float = 0.0) -> np.ndarray:
    """A path with a view every half metre along one axis, a metre wide."""
    along = np.arange(0.0, length, 0.5)
    points = np.zeros((len(along), 3))
    points[:, axis] = along
    points[:, (axis + 1) % 2] = 0.5 * np.sin(along)
    points[:, 2] = level
    return points


def owners(parts: list[Part], centres: np.ndarray) -> list[list[int]]:
    """Of each view, in which cores it lies."""
    inside = [((p.low <= centres) & (centres <= p.high)).all(axis=1) for p in parts]
    return [np.flatnonzero(each).tolist() for each in np.array(inside).T]


def test_a_room_is_one_part() -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, (200, 3)) * (13.9, 6.0, 1.0)  # seven distances are 14 m
    (part,) = cut(centres, DISTANCE)
    assert part.views.tolist() == list(range(200))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_corridor_is_cut_across_its_length_alone(axis: int) -> None:
    centres = line(40.0, axis)
    parts = cut(centres, DISTANCE)
    assert len(parts) == 3  # 40 m, none longer than 14 m
    lows = sorted(part.low[axis] for part in parts)
    assert np.diff(lows).min() > 9.0  # none is a splinter
    assert all(len(o) == 1 for o in owners(parts, centres))
    other = (axis + 1) % 2
    assert all(np.ptp([part.low[other], part.high[other]]) <= 1.0 for part in parts)


@pytest.mark.parametrize("scale", [1.0, 0.13])
def test_every_view_lies_in_a_tile_with_all_that_stand_around_it(scale: float) -> None:
    """In a storey of 40 by 24 m; whatever the unit."""
    grid = np.stack(np.meshgrid(np.arange(0, 40, 1.0), np.arange(0, 24, 1.0), [1.5]), -1)
    centres = grid.reshape(-1, 3) * scale
    parts = cut(centres, DISTANCE * scale)
    reach = MARGIN * DISTANCE * scale
    for centre, (owner,) in zip(centres, owners(parts, centres), strict=True):
        around = np.flatnonzero((np.abs(centres - centre) <= reach + 1e-9).all(axis=1))
        assert set(around) <= set(parts[owner].views)
    assert all(np.ptp(centres[part.views], axis=0).max() <= 17.0 * scale for part in parts)
    assert len(parts) == 6  # 40 m and 24 m, no core longer than 14 m


def test_floors_are_not_in_one_tile() -> None:
    """The storeys are 3.2 m apart, which a tile's size would allow."""
    centres = np.concatenate([line(40.0, 0), line(40.0, 0, level=3.2)])
    parts = cut(centres, DISTANCE)
    assert len(parts) == 6
    assert all(np.ptp(centres[part.views, 2]) == 0.0 for part in parts)


def test_a_low_ceiling_is_no_gap_in_a_room() -> None:
    """What is small stays whole, wherever its views stand."""
    centres = np.concatenate([line(8.0, 0), line(8.0, 0, level=3.2)])
    assert len(cut(centres, DISTANCE)) == 1


def shifted(room: ToyRoom, offset: tuple[float, float, float]) -> PosedRecording:
    poses = [Pose(p.rotation, p.translation + np.array(offset)) for p in room.poses]
    return PosedRecording(room, poses, "the formula")


def test_the_distance_of_surfaces_is_measured_in_images() -> None:
    """The wall that the path looks at is 1.8 to 2.4 m away, its corners 2.8 m."""
    room = ToyRoom(24)
    distance = surface_distance(room, list(range(24)))
    assert distance is not None and 1.8 < distance < 2.8
    large = PosedRecording(
        room, [replace(p, translation=10.0 * p.translation) for p in room.poses], "the formula"
    )
    assert surface_distance(large, list(range(24))) == pytest.approx(10.0 * distance, rel=1e-6)


def test_rooms_far_apart_are_tiles_and_one_room_is_not() -> None:
    here, there = ToyRoom(30, name="here"), shifted(ToyRoom(30, name="there"), (30.0, 0.0, 0.0))
    (whole,) = parts_of(here)
    assert whole.views.tolist() == list(range(30))
    parts = parts_of(JoinedRecording([here, there]))
    assert sorted(part.views.tolist() for part in parts) == [list(range(30)), list(range(30, 60))]


def test_images_that_share_nothing_are_one_part() -> None:
    room = ToyRoom(4)
    far = [Pose(p.rotation, 100.0 * i * np.ones(3)) for i, p in enumerate(room.poses)]
    (part,) = parts_of(PosedRecording(room, far, "wrong"))
    assert part.views.tolist() == [0, 1, 2, 3]
