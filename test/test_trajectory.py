"""Poses over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfire_core.geometry import Pose, Trajectory
from crossfire_core.geometry.trajectory import motion_along


def at(x: float) -> Pose:
    """A pose along x."""
    return Pose(np.eye(3), np.array([x, 0.0, 0.0]))


LINE = Trajectory.from_samples([(10, at(1.0)), (20, at(2.0)), (40, at(4.0))])


@given(st.integers(10, 40))
def test_between_samples_is_interpolated(stamp: int) -> None:
    pose = LINE.at(stamp)
    assert pose is not None
    assert pose.translation[0] == pytest.approx(stamp / 10)


@pytest.mark.parametrize("stamp", [-5, 9, 41, 10**18])
def test_outside_is_unknown(stamp: int) -> None:
    assert LINE.at(stamp) is None


def test_gaps_are_not_bridged_but_their_ends_are_known() -> None:
    assert LINE.at(30, max_gap_ns=15) is None
    assert LINE.at(15, max_gap_ns=15) is not None
    assert LINE.at(20, max_gap_ns=15) is not None
    assert LINE.at(40, max_gap_ns=15) is not None


def test_samples_are_sorted_and_the_last_of_a_stamp_wins() -> None:
    mixed = Trajectory.from_samples([(40, at(4)), (10, at(9)), (10, at(1)), (20, at(2))])
    np.testing.assert_array_equal(mixed.stamps_ns, [10, 20, 40])
    assert mixed.poses[0].translation[0] == 1
    assert len(mixed) == 3


def test_nanoseconds_since_1970_keep_their_last_digit() -> None:
    start = 1_700_000_000_000_000_000
    line = Trajectory.from_samples([(start, at(0.0)), (start + 1000, at(1.0))])
    pose = line.at(start + 1)
    assert pose is not None
    assert pose.translation[0] == pytest.approx(0.001, abs=1e-12)


def test_half_a_second_is_bridged_unless_said_otherwise() -> None:
    for gap, known in ((500_000_000, True), (500_000_001, False)):
        line = Trajectory.from_samples([(0, at(0.0)), (gap, at(1.0))])
        assert (line.at(gap // 2) is not None) == known


def test_motion_counts_turns_as_much_as_steps() -> None:
    """3 m ahead, a quarter turn, 1 m ahead with a quarter turn: two quarters are worth 4 m."""
    quarter = Pose.exp([0.0, 0.0, 0.0, 0.0, 0.0, np.pi / 2])
    poses = [at(0.0), at(3.0), at(3.0) @ quarter, at(4.0) @ quarter @ quarter]
    np.testing.assert_allclose(motion_along(poses), [0.0, 3.0, 5.0, 8.0], atol=1e-8)
    np.testing.assert_allclose(motion_along([at(1.0), at(0.0)]), [0.0, 1.0], atol=1e-8)
    np.testing.assert_allclose(motion_along([at(1.0)]), [0.0])
    still = motion_along([at(1.0)] * 3)
    assert 0.0 == still[0] < still[1] < still[2] < 1e-6


def test_an_empty_trajectory_knows_nothing() -> None:
    assert Trajectory.from_samples([]).at(0) is None
