"""The recent past of the odometry: interpolation, resets, and how far it can be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Pose
from crossfire_core.localization.odometry import OdometryHistory, motion_covariance

MS = 1_000_000


def turned(degrees: float, x: float = 0.0, y: float = 0.0) -> Pose:
    return Pose(Pose.exp([0, 0, 0, 0, 0, np.radians(degrees)]).rotation, np.array([x, y, 0.0]))


def history(config: TrackingConfig | None = None) -> OdometryHistory:
    return OdometryHistory(config or TrackingConfig())


def test_interpolates_between_samples():
    h = history()
    h.add(0, turned(0.0), None)
    h.add(100 * MS, turned(10.0, 0.4), None)
    middle = h.at(50 * MS)
    assert middle.odom_from_base.distance(turned(5.0, 0.2))[0] < 1e-9
    assert middle.travelled_m == pytest.approx(0.2)


def test_path_and_turns_are_interpolated_where_there_were_some_before():
    """After 0.1 m and 10 degrees, three quarters of 0.4 m more and of 20 degrees more."""
    h = history()
    told = [np.diag([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]) * k for k in (1.0, 1.0, 5.0)]
    h.add(0, turned(0.0), told[0])
    h.add(100 * MS, turned(10.0, 0.1), told[1])
    h.add(200 * MS, turned(30.0, 0.5), told[2])
    later = h.at(175 * MS)
    assert later.travelled_m == pytest.approx(0.4)
    assert later.turned_rad == pytest.approx(np.radians(25.0))
    assert later.reported == pytest.approx(np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]) * 4.0)
    assert (later.stamp_ns, later.epoch, later.ahead_s) == (175 * MS, 0, 0.0)


def test_carries_on_a_little_past_its_end_and_not_further():
    h = history()
    for i in range(5):
        h.add(i * 20 * MS, turned(0.0, 0.02 * i), None)
    assert h.at(100 * MS).odom_from_base.translation[0] == pytest.approx(0.1)
    assert h.at(1000 * MS) is None


def test_does_not_bridge_gaps_and_knows_nothing_before_its_start():
    h = history()
    h.add(1000 * MS, turned(0.0), None)
    h.add(3000 * MS, turned(0.0, 0.5), None)
    assert h.at(2000 * MS) is None and h.at(0) is None


def test_late_sample_is_dropped_and_a_clock_reset_begins_an_epoch():
    h = history()
    h.add(10_000 * MS, turned(0.0), None)
    assert not h.add(9_900 * MS, turned(0.0), None) and h.epoch == 0
    assert h.add(1_000 * MS, turned(0.0), None) and h.epoch == 1
    assert h.reset_reason == "its clock went back"


def test_jump_begins_an_epoch_but_fast_driving_does_not():
    h = history()
    h.add(0, turned(0.0), None)
    h.add(100 * MS, turned(0.0, 0.9), None)
    assert h.epoch == 0
    assert h.reset_reason == ""
    h.add(120 * MS, turned(40.0, 3.0), None)
    assert h.epoch == 1 and h.reset_reason.startswith(
        "it jumped by 2.10 m and 40 deg within 0.02 s"
    )


@pytest.mark.parametrize(
    ("before", "silence_ms", "after", "epochs"),
    [
        pytest.param((90.0, 4.0), 5_000, (0.0, 0.0), 1, id="driver restarts at zero"),
        pytest.param((90.0, 4.0), 5_000, (90.0, 6.0), 0, id="driver goes on"),
        pytest.param((0.0, 0.0), 60_000, (0.0, 0.0), 0, id="stands at zero all the while"),
        pytest.param((0.0, 1.0), 60_000, (0.0, 40.0), 1, id="no silence makes that possible"),
    ],
)
def test_silence_is_bridged_unless_the_driver_restarted(before, silence_ms, after, epochs):
    h = history()
    h.add(0, turned(*before), None)
    h.add(silence_ms * MS, turned(*after), None)
    assert h.epoch == epochs


def test_memory_is_bounded():
    h = history()
    for i in range(1_000):
        h.add(i * 200 * MS, Pose.identity(), None)
    assert 150 <= len(h._samples) <= 301, "half a minute to a minute at 5 Hz"
    assert h.at(170_000 * MS) is not None and h.at(130_000 * MS) is None


def drive(h: OdometryHistory, stamps_ms, speed: float = 1.0, turn: float = 0.0) -> None:
    """A robot that drives along x, or turns on the spot."""
    for ms in stamps_ms:
        h.add(ms * MS, turned(np.degrees(turn * ms * 1e-3), speed * ms * 1e-3), None)


class TestLookup:
    def test_a_second_sample_with_the_same_stamp_is_dropped(self):
        h = history()
        assert h.add(5_000 * MS, turned(0.0, 1.0), None)
        assert not h.add(5_000 * MS, turned(0.0, 2.0), None)
        assert h.epoch == 0 and h.at(5_000 * MS).odom_from_base.translation[0] == 1.0

    def test_between_two_samples_a_quarter_of_the_way(self):
        h = history()
        h.add(1_000 * MS, turned(0.0, 2.0), np.diag([1.0, 2, 3, 0.4, 0.5, 0.6]))
        h.add(1_200 * MS, turned(40.0, 2.8), np.diag([2.0, 4, 3, 0.8, 0.5, 1.6]))
        found = h.at(1_050 * MS)
        assert found.odom_from_base.translation == pytest.approx([2.2, 0, 0])
        assert found.odom_from_base.distance(turned(10.0, 2.2))[1] < 1e-9
        assert found.travelled_m == pytest.approx(0.2)
        assert found.turned_rad == pytest.approx(np.radians(10.0))
        assert found.reported == pytest.approx([1.25, 2.5, 3.0, 0.5, 0.5, 0.85])
        assert (found.stamp_ns, found.epoch, found.ahead_s) == (1_050 * MS, 0, 0.0)

    def test_a_gap_of_just_the_limit_is_bridged_and_a_longer_one_not(self):
        config = TrackingConfig(odometry_max_gap_s=0.4)
        for gap, bridged in [(400, True), (401, False)]:
            h = history(config)
            drive(h, [1_000, 1_000 + gap])
            assert (h.at(1_200 * MS) is not None) == bridged

    @pytest.mark.parametrize(("turn", "speed"), [(0.0, 0.8), (0.5, 0.0)])
    @pytest.mark.parametrize("period", [5, 20, 100, 200, 400])
    def test_carries_on_with_the_present_speed_at_any_rate(self, period, turn, speed):
        h = history()
        drive(h, range(10_000, 12_001, period), speed, turn)
        found = h.at(12_100 * MS)
        expected = turned(np.degrees(turn * 12.1), speed * 12.1)
        metres, radians = found.odom_from_base.distance(expected)
        assert metres < 1e-6 and radians < 1e-6
        assert found.ahead_s == pytest.approx(0.1)
        assert found.travelled_m - h.latest.travelled_m == pytest.approx(0.1 * speed)
        assert found.turned_rad - h.latest.turned_rad == pytest.approx(0.1 * turn, abs=1e-9)

    def test_speed_is_that_of_the_last_60_ms_not_of_earlier(self):
        h = history()
        drive(h, range(10_000, 10_501, 20), speed=0.0)
        for i in range(1, 4):
            h.add((10_500 + 20 * i) * MS, turned(0.0, 0.02 * i), None)
        assert h.at(10_600 * MS).odom_from_base.translation[0] == pytest.approx(0.1)

    def test_speed_is_the_mean_of_60_ms_not_of_the_last_two_samples(self):
        """Encoders step: 3 cm in every other sample of 20 ms is a metre a second."""
        h = history()
        for ms, x in [(1_000, 0.0), (1_020, 0.03), (1_040, 0.03), (1_060, 0.06)]:
            h.add(ms * MS, turned(0.0, x), None)
        assert h.at(1_100 * MS).odom_from_base.translation[0] == pytest.approx(0.1)

    def test_carries_on_for_just_the_limit(self):
        h = history(TrackingConfig(odometry_max_gap_s=0.4))
        drive(h, [1_000, 1_100])
        assert h.at(1_500 * MS) is not None and h.at(1_501 * MS) is None

    def test_one_sample_has_no_speed_to_be_carried_on_with(self):
        h = history()
        drive(h, [1_000])
        assert h.at(1_000 * MS) is not None and h.at(1_010 * MS) is None

    def test_after_a_gap_there_is_no_speed_either(self):
        h = history()
        drive(h, [1_000, 3_000])
        assert h.at(3_010 * MS) is None

    def test_before_gives_the_newest_that_is_not_newer(self):
        h = history()
        drive(h, [1_000, 2_000, 3_000])
        assert h.before(999 * MS) is None
        assert h.before(1_000 * MS).stamp_ns == 1_000 * MS
        assert h.before(2_999 * MS).stamp_ns == 2_000 * MS
        assert h.before(9_000 * MS).stamp_ns == 3_000 * MS

    def test_nothing_is_known_of_an_epoch_that_ended(self):
        h = history()
        drive(h, [1_000, 1_100])
        h.clear()
        assert h.empty and h.latest is None and h.epoch == 1
        assert h.at(1_050 * MS) is None and h.before(1_050 * MS) is None
        drive(h, [2_000])
        assert (h.latest.travelled_m, h.latest.epoch) == (0.0, 1)


class TestReach:
    """A pose out of reach is a reset; what a robot can do is none."""

    def resets(self, gap_ms: int, there: Pose, **changes) -> bool:
        h = history(TrackingConfig(**changes))
        h.add(1_000 * MS, turned(0.0, 1.0), None)
        h.add((1_000 + gap_ms) * MS, there, None)
        return h.epoch == 1

    def test_speed_limit(self):
        assert not self.resets(100, turned(0.0, 1.0 + 0.2 + 0.049), max_speed_m_per_s=2.0)
        assert self.resets(100, turned(0.0, 1.0 + 0.2 + 0.051), max_speed_m_per_s=2.0)

    def test_turning_limit_of_20_rad_a_second(self):
        assert not self.resets(100, turned(np.degrees(2.04), 1.0))
        assert self.resets(100, turned(np.degrees(2.06), 1.0))

    def test_a_second_of_silence_counts_no_more_than_a_second(self):
        assert not self.resets(5_000, turned(0.0, 1.0 + 2.04), max_speed_m_per_s=2.0)
        assert self.resets(5_000, turned(0.0, 1.0 + 2.06), max_speed_m_per_s=2.0)

    def test_back_at_zero_after_a_silence_only(self):
        assert not self.resets(500, Pose.identity())
        assert self.resets(501, Pose.identity())
        assert not self.resets(501, turned(0.0, 0.02)), "a centimetre from zero is no beginning"
        assert not self.resets(501, turned(1.0)), "nor is a degree"
        h = history()
        h.add(1_000 * MS, turned(90.0), None)
        h.add(2_000 * MS, Pose.identity(), None)
        assert h.epoch == 1, "turned back to zero on the spot"

    def test_slightly_off_zero_and_back_is_no_reset(self):
        h = history()
        h.add(1_000 * MS, turned(0.0, 0.04), None)
        h.add(2_000 * MS, Pose.identity(), None)
        assert h.epoch == 0

    def test_a_clock_that_goes_back_by_the_limit_or_more(self):
        for back_ms, epoch in [(999, 0), (1_000, 1)]:
            h = history()
            drive(h, [10_000])
            h.add((10_000 - back_ms) * MS, turned(0.0, 10.0), None)
            assert h.epoch == epoch

    def test_new_settings_hold_from_the_next_sample_on(self):
        h = history()
        drive(h, [1_000])
        h.configure(TrackingConfig(max_speed_m_per_s=0.1))
        h.add(1_100 * MS, turned(0.0, 1.2), None)
        assert h.epoch == 1


def motion(start_ms: int, end_ms: int, h: OdometryHistory, **changes) -> np.ndarray:
    config = TrackingConfig(**changes)
    return np.sqrt(np.diag(motion_covariance(h.at(start_ms * MS), h.at(end_ms * MS), config)))


NO_ERRORS = dict(
    odometry_m_per_m=0.0, odometry_rad_per_rad=0.0, odometry_rad_per_m=0.0, odometry_m_per_s=0.0
)


class TestMotionCovariance:
    def test_grows_with_the_path_the_turn_and_the_time(self):
        h = history()
        drive(h, range(0, 2_001, 100))
        path = NO_ERRORS | {"odometry_m_per_m": 0.05}
        assert motion(0, 2_000, h, **path) == pytest.approx([0.1] * 3 + [0.0] * 3)
        time = NO_ERRORS | {"odometry_m_per_s": 0.02}
        assert motion(0, 2_000, h, **time) == pytest.approx([0.04] * 3 + [0.0] * 3)
        heading = NO_ERRORS | {"odometry_rad_per_m": 0.03}  # 0.06 rad, half of it over 2 m
        assert motion(0, 2_000, h, **heading) == pytest.approx([0.06] * 3 + [0.06] * 3)
        h = history()
        drive(h, range(0, 2_001, 100), 0.0, 0.5)
        turn = NO_ERRORS | {"odometry_rad_per_rad": 0.05}
        assert motion(0, 2_000, h, **turn) == pytest.approx([0.0] * 3 + [0.05] * 3)
        assert motion(2_000, 0, h, **turn) == pytest.approx([0.0] * 3 + [0.05] * 3)

    def test_back_and_forth_is_a_path_though_it_leads_nowhere(self):
        h = history()
        for i, x in enumerate([0.0, 0.5, 1.0, 0.5, 0.0]):
            h.add(i * 100 * MS, turned(0.0, x), None)
        path = NO_ERRORS | {"odometry_m_per_m": 0.05}
        assert motion(0, 400, h, **path)[0] == pytest.approx(0.1)

    def test_turns_there_and_back_add_up(self):
        h = history()
        for i, degrees in enumerate([0.0, 30.0, 60.0, 30.0, 0.0]):
            h.add(i * 100 * MS, turned(degrees), None)
        turn = NO_ERRORS | {"odometry_rad_per_rad": 0.05}
        assert motion(0, 400, h, **turn)[3] == pytest.approx(0.05 * np.radians(120.0))

    def test_trembling_of_a_standing_robot_is_no_path(self):
        """Ten seconds of 200 Hz with 3 mm and 3 mrad would be seven metres of path."""
        h, rng = history(), np.random.default_rng(0)
        for i in range(2_001):
            x, heading = 0.003 * np.clip(rng.normal(size=2), -2.5, 2.5)
            h.add(i * 5 * MS, turned(np.degrees(heading), x), None)
        assert h.latest.travelled_m == 0.0 and h.latest.turned_rad == 0.0
        path = NO_ERRORS | {"odometry_m_per_m": 0.05, "odometry_rad_per_rad": 0.05}
        assert motion(0, 10_000, h, **path).max() < 0.001

    def test_a_slow_path_is_counted_to_its_last_bit(self):
        h = history()
        drive(h, range(0, 10_001, 10), speed=0.013)
        path = NO_ERRORS | {"odometry_m_per_m": 0.05}
        assert motion(0, 10_000, h, **path)[0] == pytest.approx(0.05 * 0.13)
        assert motion(0, 1_000, h, **path)[0] == pytest.approx(0.05 * 0.013)

    def test_growth_of_what_odometry_reports_counts_along_its_worst_axes(self):
        h = history()
        h.add(0, Pose.identity(), np.diag([0.01, 0.02, 0.03, 1e-4, 2e-4, 3e-4]))
        h.add(100 * MS, Pose.identity(), np.diag([0.02, 0.06, 0.03, 1e-4, 1e-4, 5e-4]))
        sigma = motion(0, 100, h, **NO_ERRORS)
        assert sigma == pytest.approx([0.2] * 3 + [np.sqrt(2e-4)] * 3)

    def test_metres_and_radians_that_are_reported_grow_each_for_themselves(self):
        for axis in range(6):
            h = history()
            later = np.full(6, 0.01)
            later[axis] = 0.05
            h.add(0, Pose.identity(), np.diag([0.01] * 6))
            h.add(100 * MS, Pose.identity(), np.diag(later))
            expected = [0.2] * 3 + [0.0] * 3 if axis < 3 else [0.0] * 3 + [0.2] * 3
            assert motion(0, 100, h, **NO_ERRORS) == pytest.approx(expected)

    def test_the_larger_of_both_models_counts(self):
        h = history()
        h.add(0, Pose.identity(), np.diag([0.01] * 6))
        h.add(100 * MS, turned(0.0, 0.5), np.diag([0.02] * 6))
        model = NO_ERRORS | {"odometry_m_per_m": 1.0}
        assert motion(0, 100, h, **model) == pytest.approx([0.5] * 3 + [0.1] * 3)

    @pytest.mark.parametrize("nothing", [0.0, -1.0, 1e15, np.finfo(float).max, np.nan, np.inf])
    def test_an_axis_that_is_not_known_before_or_after_does_not_grow(self, nothing):
        for before, after in [(nothing, nothing), (nothing, 0.5), (0.5, nothing)]:
            h = history()
            h.add(0, Pose.identity(), np.diag([before, 0.01, before, before, before, 1e-4]))
            h.add(100 * MS, Pose.identity(), np.diag([after, 0.05, after, after, after, 5e-4]))
            sigma = motion(0, 50, h, **NO_ERRORS)
            assert sigma == pytest.approx([np.sqrt(0.02)] * 3 + [np.sqrt(2e-4)] * 3)

    def test_carried_on_it_may_have_braked(self):
        """Half a metre a second squared over 0.4 s: 8 cm; the turning twice as much."""
        h = history()
        drive(h, range(0, 1_001, 200), speed=0.0)
        assert motion(0, 1_400, h, **NO_ERRORS) == pytest.approx([0.08] * 3 + [0.16] * 3)
        assert motion(1_400, 0, h, **NO_ERRORS) == pytest.approx([0.08] * 3 + [0.16] * 3)
