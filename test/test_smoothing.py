"""Fixes weighed against odometry: what it does to steps, errors, slips and jumps."""

from __future__ import annotations

import numpy as np
import pytest
from test_tracker import World

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Pose
from crossfire_core.localization.prediction import Prediction, PriorKind
from crossfire_core.localization.smoothing import smoothed
from crossfire_core.localization.tracker import TrackResult

SMOOTH = TrackingConfig(smooth=True)


def test_each_axis_goes_as_far_as_the_fix_is_surer() -> None:
    """Scalars by hand: a share P / (P + R) of the way, variance P R / (P + R)."""
    before = np.diag([4.0, 1.0, 9.0, 0.04, 0.01, 0.09]) * 1e-4
    fix = np.diag([1.0, 1.0, 3.0, 0.01, 0.03, 0.01]) * 1e-4
    found = Pose(Pose.exp((0, 0, 0, 0.001, 0, 0)).rotation, np.array([0.01, -0.01, 0.012]))
    carried = Prediction(Pose.identity(), before, PriorKind.ODOMETRY)
    after = smoothed(found, fix, carried)
    np.testing.assert_allclose(after.map_from_base.translation, [0.008, -0.005, 0.009])
    turn = after.map_from_base.distance(Pose.identity())[1]
    assert turn == pytest.approx(0.0008)
    expected = np.array([0.8, 0.5, 2.25, 0.008, 0.0075, 0.009]) * 1e-4
    np.testing.assert_allclose(np.diag(after.covariance), expected, rtol=1e-6)


def test_a_fix_that_odometry_cannot_explain_holds_alone() -> None:
    """Wheels have slipped: no later fix would make up for it quickly."""
    carried = Prediction(Pose.identity(), 1e-4 * np.eye(6), PriorKind.ODOMETRY)
    found = Pose(np.eye(3), np.array([0.2, 0.0, 0.0]))
    after = smoothed(found, 1e-4 * np.eye(6), carried)
    assert after.map_from_base is found


def steps_and_errors(world: World, results: list[TrackResult]) -> tuple[np.ndarray, np.ndarray]:
    """How far each correction moves the robot, and how far off it is: metres."""
    corrections = [r.map_from_odom for r in results]
    assert all(c is not None for c in corrections)
    odometry = [c.inverse() @ r.map_from_base for c, r in zip(corrections, results, strict=True)]
    steps = [
        (before @ now).distance(after @ now)[0]
        for before, after, now in zip(corrections, corrections[1:], odometry[1:], strict=False)
    ]
    return np.array(steps), np.array(world.off)


class Watched(World):
    """Notes how far each fix is from the truth."""

    def __init__(self, config: TrackingConfig) -> None:
        self.off: list[float] = []
        super().__init__(config)

    def see(self, image=None) -> TrackResult:
        result = super().see(image)
        if result.map_from_base is not None:
            self.off.append(result.map_from_base.distance(self.map_from_base())[0])
        return result


def driven(config: TrackingConfig) -> tuple[np.ndarray, np.ndarray, list[TrackResult]]:
    world = Watched(config)
    results = [r for r in world.run(20.0) if r.map_from_base is not None]
    return *steps_and_errors(world, results), results


def test_steps_shrink_and_errors_do_not_grow() -> None:
    raw_steps, raw_errors, raw = driven(TrackingConfig())
    steps, errors, smooth = driven(SMOOTH)
    assert np.median(steps) < 0.4 * np.median(raw_steps) and steps.max() < raw_steps.max()
    assert np.median(errors) < np.median(raw_errors)
    assert np.quantile(errors, 0.9) < np.quantile(raw_errors, 0.9)
    # and nothing is called surer by it: errors of neighbouring fixes are alike
    for one, other in zip(raw, smooth, strict=True):
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-9)


def test_a_robot_that_was_carried_away_is_there_at_once() -> None:
    world = Watched(SMOOTH)
    world.run(3.0)
    world.phase += 2.0  # three metres further, unnoticed by odometry
    world.offset = world.offset @ Pose.identity()
    results = world.run(6.0)
    jumped = [r for r in results if r.jumped]
    assert jumped and jumped[0].map_from_base is not None
    after = results[results.index(jumped[0]) :]
    assert all(r.map_from_base is not None for r in after)
    assert max(world.off[-len(after) :]) < 0.05


def test_on_a_floor_it_stays_on_the_floor() -> None:
    world = Watched(TrackingConfig(smooth=True, two_d=True))
    for result in world.run(5.0):
        if result.map_from_base is not None:
            assert result.map_from_base.translation[2] == 0.0, "exactly"
            assert result.map_from_base.rotation[2].tolist() == [0, 0, 1]
