"""Covariances against values worked out by hand and against sampling; no two axes are alike."""

from __future__ import annotations

import numpy as np
import pytest

from crossfire_core.geometry import Pose
from crossfire_core.localization.uncertainty import (
    at_lever,
    completed,
    diagonal,
    difference,
    is_covariance,
    known_variances,
    mahalanobis_squared,
    sigmas,
    symmetric,
)


def uneven(seed: int = 0) -> np.ndarray:
    """A covariance of small motions with every axis and every pair of axes different."""
    spread = np.array([0.02, 0.05, 0.01, 0.004, 0.009, 0.002])
    mixing = np.eye(6) + 0.4 * np.random.default_rng(seed).normal(size=(6, 6))
    return spread[:, None] * (mixing @ mixing.T) * spread


def test_standard_deviations_become_variances():
    np.testing.assert_array_equal(diagonal(3.0, 0.5), np.diag([9.0] * 3 + [0.25] * 3))


class TestLever:
    def test_by_hand(self):
        """Only heading is unsure, by 0.1 rad: 2 m ahead that is 0.2 m to the left, and together.

        A turn to the left (positive) moves what lies ahead to the left (positive y).
        """
        heading = np.diag([0.0, 0, 0, 0, 0, 0.01])
        ahead = at_lever(heading, np.array([2.0, 0.0, 0.0]))
        expected = np.zeros((6, 6))
        expected[1, 1], expected[5, 5] = 0.04, 0.01
        expected[1, 5] = expected[5, 1] = 0.02
        np.testing.assert_allclose(ahead, expected, atol=1e-15)

    def test_of_each_axis_by_hand(self):
        """A turn w moves a lever l by the cross product w x l."""
        lever = np.array([1.0, 2.0, 3.0])
        for axis in range(3):
            turn = np.zeros(3)
            turn[axis] = 0.1
            moved = np.concatenate([np.cross(turn, lever), turn])
            covariance = np.zeros((6, 6))
            covariance[3 + axis, 3 + axis] = 0.01
            np.testing.assert_allclose(
                at_lever(covariance, lever), np.outer(moved, moved), atol=1e-15
            )

    @pytest.mark.parametrize("seed", range(4))
    def test_against_sampling(self, seed):
        rng = np.random.default_rng(seed)
        body, body_from_tip = Pose.exp(rng.normal(size=6)), Pose.exp(rng.normal(size=6))
        covariance = uneven(seed)
        samples = rng.multivariate_normal(np.zeros(6), covariance, size=1500)
        tip = body @ body_from_tip
        tips = []
        for sample in samples:
            rotation = Pose.exp([0, 0, 0, *sample[3:]]).rotation @ body.rotation
            moved = Pose(rotation, body.translation + sample[:3]) @ body_from_tip
            tips.append(difference(moved, tip))
        predicted = at_lever(covariance, body.rotation @ body_from_tip.translation)
        scale = np.sqrt(np.diag(predicted))
        off = (np.cov(np.array(tips).T) - predicted) / np.outer(scale, scale)
        assert np.abs(off).max() < 0.15

    def test_there_and_back_is_where_it_was(self):
        lever = np.array([0.3, -2.0, 1.0])
        again = at_lever(at_lever(uneven(), lever), -lever)
        np.testing.assert_allclose(again, uneven(), atol=1e-12)


class TestDifference:
    def test_is_of_the_first_from_the_second_about_the_axes_of_the_reference_frame(self):
        reference = Pose(Pose.exp([0, 0, 0, 0, 0, np.pi / 2]).rotation, np.array([1.0, 2.0, 3.0]))
        turn = Pose.exp([0, 0, 0, 0.1, 0, 0]).rotation  # about the map's x, not the robot's
        pose = Pose(turn @ reference.rotation, np.array([1.5, 1.0, 3.25]))
        expected = [0.5, -1.0, 0.25, 0.1, 0.0, 0.0]
        np.testing.assert_allclose(difference(pose, reference), expected, atol=1e-12)

    def test_distance_by_hand(self):
        pose = Pose(Pose.exp([0, 0, 0, 0, 0, 0.2]).rotation, np.array([0.3, 0.0, 0.8]))
        covariance = np.diag([0.01, 9.0, 0.04, 9.0, 9.0, 0.16])
        squared = mahalanobis_squared(pose, Pose.identity(), covariance)
        assert squared == pytest.approx(9.0 + 16.0 + 0.25)

    def test_distance_knows_what_goes_together(self):
        """Ahead and to the left by 0.1 m each, of which 90 % go together: 2 * 0.1^2 / 0.019."""
        covariance = np.eye(6)
        covariance[:2, :2] = [[0.01, 0.009], [0.009, 0.01]]
        together = Pose(np.eye(3), np.array([0.1, 0.1, 0.0]))
        apart = Pose(np.eye(3), np.array([0.1, -0.1, 0.0]))
        identity = Pose.identity()
        assert mahalanobis_squared(together, identity, covariance) == pytest.approx(0.02 / 0.019)
        assert mahalanobis_squared(apart, identity, covariance) == pytest.approx(20.0)

    def test_a_covariance_of_nothing_gives_a_number(self):
        near = Pose(np.eye(3), np.array([1e-9, 0.0, 0.0]))
        assert np.isfinite(mahalanobis_squared(near, Pose.identity(), np.zeros((6, 6))))


def test_sigmas_are_those_of_the_worst_direction_not_of_the_worst_axis():
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = [[0.02, 0.02], [0.02, 0.02]]
    covariance[2, 2] = 0.03
    covariance[3:, 3:] = np.diag([0.01, 0.25, 0.04])
    assert sigmas(covariance) == pytest.approx((0.2, 0.5))
    assert sigmas(-1e-18 * np.eye(6)) == (0.0, 0.0)


def test_diagonal_and_symmetric_by_hand():
    np.testing.assert_array_equal(np.diag(diagonal(2.0, 3.0)), [4.0, 4, 4, 9, 9, 9])
    np.testing.assert_array_equal(symmetric(np.array([[1.0, 2], [4, 3]])), [[1, 3], [3, 3]])


class TestIsCovariance:
    @pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
    def test_of_any_size(self, scale):
        assert is_covariance(scale * uneven())
        assert is_covariance(np.zeros((6, 6))) and is_covariance(scale * np.ones((6, 6)))

    def test_what_is_none(self):
        lopsided = uneven().copy()
        lopsided[0, 1] += 1e-5
        assert not is_covariance(lopsided)
        assert not is_covariance(np.diag([1.0, 1, 1, 1, 1, -1e-3]))
        assert not is_covariance(np.eye(5)) and not is_covariance(np.eye(7))
        broken = np.eye(6)
        broken[2, 2] = np.nan
        assert not is_covariance(broken)
        crossed = np.eye(6)
        crossed[0, 5] = crossed[5, 0] = 1.01  # more in common than they have
        assert not is_covariance(crossed)

    def test_what_rounding_leaves_is_forgiven(self):
        rounded = uneven() + 1e-12 * np.arange(36).reshape(6, 6)
        assert is_covariance(rounded)
        assert is_covariance(np.diag([1.0, 1, 1, 1, 1, -1e-8]))


class TestReported:
    def test_what_says_nothing_is_nan_by_axis(self):
        reported = np.diag([0.01, 0.0, 1e6, -1.0, np.finfo(float).max, 0.02])
        expected = [0.01, np.nan, np.nan, np.nan, np.nan, 0.02]
        np.testing.assert_array_equal(known_variances(reported), expected)

    def test_up_to_a_hundred_metres_and_half_a_turn_it_is_an_answer(self):
        largest = np.array([1e4] * 3 + [np.pi**2] * 3)
        np.testing.assert_array_equal(known_variances(np.diag(largest)), largest)
        assert np.isnan(known_variances(np.diag(1.001 * largest))).all()

    def test_unknown_axes_are_filled_in_and_have_nothing_to_do_with_the_others(self):
        reported = uneven()
        reported[1] = reported[:, 1] = 1e15
        full = completed(reported, np.diag(np.arange(1.0, 7.0)))
        known = [0, 2, 3, 4, 5]
        np.testing.assert_array_equal(full[np.ix_(known, known)], uneven()[np.ix_(known, known)])
        np.testing.assert_array_equal(full[1], [0, 2.0, 0, 0, 0, 0])
        np.testing.assert_array_equal(full[:, 1], full[1])

    @pytest.mark.parametrize("values", [np.full(36, np.nan), np.arange(36.0), np.full(36, -1.0)])
    def test_rubbish_becomes_the_usual_one(self, values):
        usual = diagonal(0.5, 0.2)
        np.testing.assert_array_equal(completed(values.reshape(6, 6), usual), usual)
