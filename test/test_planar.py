"""Robots on a level floor: against brute force, conditional Gaussians and sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from test_tracker import BASE_FROM_CAMERA, MS, World
from test_uncertainty import uneven

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Pose
from crossfire_core.localization.planar import _SLACK, flat, on_floor, planar
from crossfire_core.localization.tracker import TrackingState
from crossfire_core.localization.uncertainty import diagonal, difference, mahalanobis_squared

FREE, HELD = [0, 1, 5], [2, 3, 4]


def shaken(pose: Pose, by: np.ndarray) -> Pose:
    """Moved by a small motion in the terms of the covariances."""
    return Pose(Pose.exp([0, 0, 0, *by[3:]]).rotation @ pose.rotation, pose.translation + by[:3])


@pytest.mark.parametrize("seed", range(5))
def test_is_the_likeliest_pose_on_the_floor(seed):
    rng = np.random.default_rng(seed)
    truth = planar(*rng.uniform(-3, 3, 3), 0.4)
    covariance = 4.0 * uneven(seed)
    found = shaken(truth, rng.multivariate_normal(np.zeros(6), covariance))

    def distance(state):
        there = planar(state[0], state[1], state[2], 0.4)
        return mahalanobis_squared(there, found, covariance + _SLACK)

    best, _, squared = on_floor(found, covariance, 0.4)
    start = [*flat(found).translation[:2], np.arctan2(*found.rotation[[1, 0], 0])]
    brute = minimize(distance, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert squared == pytest.approx(brute.fun, abs=1e-6)
    np.testing.assert_allclose(difference(best, planar(*brute.x, 0.4)), 0.0, atol=1e-5)
    assert best.translation[2] == 0.4, "exactly"
    assert best.rotation[2].tolist() == [0, 0, 1] and best.rotation[:, 2].tolist() == [0, 0, 1]


def test_covariance_is_that_of_x_y_and_yaw_once_the_others_are_known():
    covariance = uneven()
    free = covariance + _SLACK
    given = free[np.ix_(FREE, FREE)] - free[np.ix_(FREE, HELD)] @ np.linalg.solve(
        free[np.ix_(HELD, HELD)], free[np.ix_(HELD, FREE)]
    )
    _, found, squared = on_floor(planar(1.0, 2.0, 0.5, 0.0), covariance, 0.0)
    np.testing.assert_allclose(found[np.ix_(FREE, FREE)], given, rtol=1e-6)
    np.testing.assert_allclose(found[np.ix_(HELD, HELD)], 1e-6 * np.eye(3))
    assert not found[np.ix_(FREE, HELD)].any() and squared == pytest.approx(0.0)


def test_is_better_than_cutting_off_where_errors_go_together():
    rng = np.random.default_rng(0)
    truth = planar(1.0, -2.0, 0.7, 0.0)
    # Half a metre above the floor: who leans forward by mistake is ahead by mistake.
    together = np.eye(6)
    together[0, 4] = 0.5
    spread = np.diag(np.square([0.005, 0.01, 0.01, 0.01, 0.05, 0.01]))
    covariance = together @ spread @ together.T
    solved, cut, honest = [], [], []
    for sample in rng.multivariate_normal(np.zeros(6), covariance, size=300):
        found = shaken(truth, sample)
        best, its, _ = on_floor(found, covariance, 0.0)
        solved.append(difference(best, truth)[FREE])
        cut.append(difference(flat(found), truth)[FREE])
        honest.append(mahalanobis_squared(best, truth, its))
    solved, cut = (np.sqrt(np.mean(np.square(errors), axis=0)) for errors in (solved, cut))
    assert (solved <= cut * 1.01).all() and solved[0] < 0.5 * cut[0]
    assert np.mean(honest) < 3.5, "three degrees of freedom"


def test_yaw_over_half_a_turn_and_large_tilt():
    for yaw in (3.1, -3.1, 2.0):
        tilted = shaken(planar(0.5, 0.2, yaw, 0.0), np.array([0, 0, 0, 0.4, -0.3, 0.0]))
        best, _, _ = on_floor(tilted, diagonal(0.1, 0.2), 0.0)
        assert best.distance(planar(0.5, 0.2, yaw, 0.0))[1] < 0.1


class TiltingWorld(World):
    """Its odometry has a z, a roll and a pitch of its own, as with an IMU in it."""

    def send_odometry(self) -> None:
        real = self.tracker.add_odometry

        def tilting(stamp, pose, covariance=None):
            trembling = 0.02 * np.sin(stamp * 1e-9 * np.array([3.0, 5.0, 7.0]))
            return real(stamp, shaken(pose, np.array([0, 0, trembling[0], *trembling[1:], 0.0])))

        self.tracker.add_odometry = tilting
        super().send_odometry()
        del self.tracker.add_odometry


def drive(two_d: bool) -> tuple[TiltingWorld, np.ndarray]:
    """Errors of a robot on the floor in x, y and yaw over 30 fixes."""
    world = TiltingWorld(TrackingConfig(two_d=two_d))
    errors = []
    for result in world.run(6.0):
        if result.map_from_base is not None:
            errors.append(difference(result.map_from_base, world.map_from_base()))
    return world, np.array(errors)


def test_poses_and_transform_lie_exactly_on_the_floor():
    world, _ = drive(two_d=True)
    fixes = [r for r in world.results if r.map_from_base is not None]
    assert len(fixes) == 29
    for result in fixes:
        for pose in (result.map_from_base, result.map_from_odom):
            assert pose.translation[2] == 0.0
            assert pose.rotation[2].tolist() == [0, 0, 1]
            assert pose.rotation[:, 2].tolist() == [0, 0, 1]
        assert np.diag(result.covariance)[HELD] == pytest.approx([1e-6] * 3)
        assert (np.diag(result.covariance)[FREE] > 1e-5).all()
    predicted = world.tracker.predict(world.now).map_from_base
    assert predicted.translation[2] == 0.0 and predicted.rotation[2, 2] == 1.0


def test_a_robot_on_the_floor_is_followed_no_worse_than_without():
    free, held = (
        np.sqrt(np.mean(drive(two_d)[1][:, FREE] ** 2, axis=0)) for two_d in (False, True)
    )
    assert (held <= 1.05 * free).all()


def test_floor_at_another_height():
    world = World(TrackingConfig(two_d=True, floor_z=-0.25))
    ground = Pose(np.eye(3), np.array([0.0, 0.0, -0.25]))
    level = world.map_from_base
    world.map_from_base = lambda: ground @ level()
    fix = [r for r in world.run(1.0) if r.map_from_base is not None][-1]
    assert fix.map_from_base.translation[2] == -0.25
    assert fix.map_from_odom.translation[2] == -0.25


def test_a_pose_off_the_floor_is_refused_and_says_why():
    world = World(TrackingConfig(two_d=True)).found()
    world.move(0.2)
    above = shaken(world.map_from_base(), np.array([0, 0, 0.4, 0.2, 0, 0])) @ BASE_FROM_CAMERA
    world.localizer.alias = above
    result = world.see()
    assert result.map_from_base is None
    assert "0.40 m off the floor and tilted by 11.5 deg" in result.reason


def test_hint_is_put_on_the_floor():
    """RViz gives z 0, a tool may give anything."""
    world = World(TrackingConfig(two_d=True, floor_z=0.1))
    tilted = shaken(planar(1.0, 2.0, 0.3, 0.7), np.array([0, 0, 0, 0.1, -0.2, 0]))
    world.tracker.set_prior(world.now, tilted, np.zeros((6, 6)))
    there = world.tracker.predict(world.now).map_from_base
    assert there.translation[2] == 0.1 and there.rotation[2, 2] == 1.0
    assert np.linalg.norm(there.translation[:2] - [1.0, 2.0]) < 0.05


def test_switching_it_on_while_running_begins_odometry_anew_and_finds_the_robot_again():
    world = World().found()
    epoch = world.tracker.odometry.epoch
    world.tracker.configure(TrackingConfig(two_d=True))
    assert world.tracker.odometry.epoch == epoch + 1
    assert world.run(1.0)[-1].state is TrackingState.TRACKING
    world.tracker.configure(TrackingConfig(two_d=True, gate=30.0))
    assert world.tracker.odometry.epoch == epoch + 1
    assert world.tracker.odometry.at(world.now - 20 * MS) is not None
