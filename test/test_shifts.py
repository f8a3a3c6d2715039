"""Points moved to where the mapping images saw them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crossfire_core.features.network import DenseDescriptors
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.shifts import PointShifts
from crossfire_core.training.view_shifts import _shifts_of
from crossfire_core.training.views import View

FloatArray = NDArray[np.float64]
CAMERA = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)
MOVED = np.array([0.01, -0.02, 0.005])


def wall(count: int, seed: int = 0) -> FloatArray:
    """Points of a wall 4 m in front of a camera at the origin, in its field of view."""
    across = np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 2)) * [2.0, 1.5]
    return np.column_stack([across, np.full(count, 4.0)])


MIDDLE = wall(50, 7) * [0.8, 0.8, 1.0]


def standing_at(x: float) -> Pose:
    return Pose(np.eye(3), np.array([x, 0.0, 0.0]))


def shifts_of(*moved: FloatArray, xs: list[float]) -> PointShifts:
    """Views at some places that all see the wall, each with its own shift."""
    points = np.concatenate([wall(3000, i) for i in range(len(moved))])
    view = np.arange(len(moved)).repeat(3000)
    shifts = np.concatenate([np.tile(m, (3000, 1)) for m in moved])
    return PointShifts(points, shifts, view, [standing_at(x) for x in xs], 4.0)


def test_a_camera_at_a_view_gets_what_that_view_saw() -> None:
    shifts = shifts_of(MOVED, -MOVED, xs=[0.0, 3.0])
    for x, expected in ((0.0, MOVED), (3.0, -MOVED)):
        found = shifts.at(MIDDLE, standing_at(x))
        np.testing.assert_allclose(found, np.tile(expected, (50, 1)), atol=0.1 * abs(MOVED).max())


def test_far_from_all_views_their_mean_counts() -> None:
    shifts = shifts_of(MOVED, -MOVED, 3 * MOVED, xs=[4.0, 4.1, 4.2])
    found = shifts.at(MIDDLE, standing_at(-3.0))
    np.testing.assert_allclose(found, np.tile(MOVED, (50, 1)), atol=0.4 * abs(MOVED).max())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_what_is_near_is_looked_at_and_nothing_of_it_is_missed(axis: int) -> None:
    """The weighted mean of the documentation, summed up in full."""
    rng = np.random.default_rng(axis)
    long = np.where(np.arange(3) == axis, 6.0, 1.5)
    points, shifts = rng.uniform(-long, long, (800, 3)), rng.normal(0, 0.01, (800, 3))
    asked, pose = rng.uniform(-long, long, (40, 3)), standing_at(9.0)
    found = PointShifts(points, shifts, np.zeros(800, np.int64), [pose], 4.0).at(asked, pose)
    reach = 0.05 * np.linalg.norm(asked - pose.translation, axis=1)
    squared = ((asked[:, None] - points[None]) ** 2).sum(axis=2) / reach[:, None] ** 2
    weight = np.where(squared < 2.5**2, np.exp(-0.5 * squared), 0.0)
    expected = weight @ shifts / (weight.sum(axis=1, keepdims=True) + 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found).max() > 1e-3


def test_nothing_known_moves_nothing() -> None:
    none = np.zeros((0, 3))
    empty = PointShifts(none, none, np.zeros(0, np.int64), [standing_at(0.0)], 4.0)
    assert not empty.at(wall(5), standing_at(0.0)).any()
    unknown = shifts_of(np.zeros(3), xs=[0.0])  # as in maps that were made before
    assert not unknown.at(wall(5), standing_at(0.0)).any()
    elsewhere = wall(5) + np.array([0.0, 0.0, 30.0])
    assert not shifts_of(MOVED, xs=[0.0]).at(elsewhere, standing_at(0.0)).any()
    assert shifts_of(MOVED, xs=[0.0]).at(none, standing_at(0.0)).shape == (0, 3)


def test_an_unknown_shift_says_nothing_against_a_known_one() -> None:
    alone = shifts_of(MOVED, xs=[0.0]).at(wall(20, 7), standing_at(0.0))
    both = shifts_of(MOVED, np.zeros(3), xs=[0.0, 0.0]).at(wall(20, 7), standing_at(0.0))
    np.testing.assert_allclose(both, alone)


class Matcher:
    """Finds every point of the wall where another wall would show it."""

    def __init__(self, moved: FloatArray, noise_px: float, wrong: int) -> None:
        rng = np.random.default_rng(3)
        self.points = wall(8000, 5)
        self.pixels = CAMERA.project(self.points + moved) + rng.normal(0, noise_px, (8000, 2))
        self.pixels[:wrong] += 100.0

    def matches_at(
        self, dense: DenseDescriptors, camera: Camera, map_from_camera: Pose
    ) -> tuple[FloatArray, FloatArray]:
        return self.pixels, self.points


@pytest.mark.parametrize("wrong", [0, 3200])
def test_what_a_view_measures_brings_its_points_onto_its_matches(wrong: int) -> None:
    view = View("", 0, np.zeros((480, 640, 3), np.uint8), CAMERA, standing_at(0.0))
    dense = DenseDescriptors(torch.zeros(1, 1, 1), (1.0, 1.0))
    points = wall(100, 9) * [0.8, 0.8, 1.0]
    sideways = MOVED * [1.0, 1.0, 0.0]
    found = _shifts_of(Matcher(sideways, 1.0, wrong), view, dense, points)  # type: ignore[arg-type]
    wanted = CAMERA.project(points + sideways) - CAMERA.project(points)
    got = CAMERA.project(points + found) - CAMERA.project(points)
    assert np.median(np.linalg.norm(wanted - got, axis=1)) < 0.5
    assert np.median(np.linalg.norm(wanted, axis=1)) > 2.0


def test_a_view_without_matches_measures_nothing() -> None:
    view = View("", 0, np.zeros((480, 640, 3), np.uint8), CAMERA, standing_at(0.0))
    dense = DenseDescriptors(torch.zeros(1, 1, 1), (1.0, 1.0))
    all_wrong = Matcher(MOVED, 1.0, 8000)
    assert not _shifts_of(all_wrong, view, dense, wall(10)).any()  # type: ignore[arg-type]
