"""The pose solver where PoseLib is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization import pose_solver
from crossfire_core.localization.opencv_pose import sampled_pose_by_opencv

TRUTH = Pose.exp([0.1, -0.2, 0.3, 0.05, -0.1, 0.02])
CAMERA = Camera(640, 480, 500.0, 510.0, 322.0, 238.0)


def matches(count: int = 300, wrong: int = 100):
    """Pixels, points of the map that they show, and which of these are somewhere else."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (640, 480), size=(count, 2))
    ways = np.column_stack([(pixels - (322.0, 238.0)) / (500.0, 510.0), np.ones(count)])
    points = TRUTH.inverse().apply(ways * rng.uniform(1.0, 4.0, (count, 1)))
    points[:wrong] += rng.normal(size=(wrong, 3))
    return pixels, ways, points, np.arange(count) < wrong


def test_pose_among_wrong_matches():
    _, ways, points, wrong = matches()
    pose, inlier = sampled_pose_by_opencv(ways[:, :2], points, 505.0, 3.0, 1000, 0)
    metres, radians = pose.distance(TRUTH)
    assert metres < 1e-3 and radians < 1e-3
    assert inlier[~wrong].all() and inlier[wrong].sum() <= 3


@pytest.mark.parametrize("points", [np.zeros((50, 3)), np.full((50, 3), 1e9)])
def test_matches_that_give_no_pose(points):
    _, ways, _, _ = matches(50, 0)
    plane = ways[:, :2]
    assert not sampled_pose_by_opencv(plane, points, 505.0, 3.0, 100, 0)[1].any()
    assert not sampled_pose_by_opencv(plane[:5], points[:5], 505.0, 3.0, 100, 0)[1].any()


def test_solver_without_poselib(monkeypatch):
    monkeypatch.setattr(pose_solver, "poselib", None)
    pixels, _, points, wrong = matches()
    solved = pose_solver.solve_pose(pixels, points, np.ones(len(pixels)), CAMERA, 3.0, 1000)
    assert solved is not None and solved.camera_from_map.distance(TRUTH)[0] < 1e-5
    assert solved.inlier[~wrong].all()
