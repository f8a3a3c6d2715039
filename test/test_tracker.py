"""The tracker against a scripted world: a robot on a circle, a localizer that can be broken."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import WIDE, PoseEstimate, Way
from crossfire_core.localization.tracker import PriorKind, Tracker, TrackingState, TrackResult
from crossfire_core.localization.uncertainty import (
    diagonal,
    mahalanobis_squared,
    sigmas,
)

CAMERA = Camera(64, 48, 50.0, 50.0, 32.0, 24.0)
BASE_FROM_CAMERA = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.2, 0, 0.5]))
MS = 1_000_000
TRUE_SIGMA = (0.01, 0.002)


@dataclass
class ScriptedLocalizer:
    """Finds the truth from a prior nearby or from nothing, unless told otherwise."""

    truth: Pose = field(default_factory=Pose.identity)  # map_from_camera
    alias: Pose | None = None  # where it believes to be instead
    lookalike: Pose | None = None  # a place of the map, from the like one in which the robot is
    blind: bool = False
    only_with_prior: bool = False
    basin_m: float = 1.0
    override: dict = field(default_factory=dict)  # fields of the estimate
    calls: list = field(default_factory=list)
    follows: list = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def localize(self, image, camera, prior=None, *, search=WIDE):
        self.calls.append((prior, search.sigma, search.iterations))
        self.follows.append(search.follow)
        there = self.truth if self.lookalike is None else self.lookalike @ self.truth
        too_far = prior is not None and prior.distance(there)[0] > self.basin_m
        if self.blind or too_far or (prior is None and self.only_with_prior):
            return PoseEstimate(False, "nothing matches")
        pose = self.alias or there
        noise = self.rng.normal(size=6) * np.repeat(TRUE_SIGMA, 3) * 0.5
        noisy = Pose.exp([0, 0, 0, *noise[3:]]).rotation @ pose.rotation
        estimate = PoseEstimate(
            True,
            "",
            Pose(noisy, pose.translation + noise[:3]),
            diagonal(*TRUE_SIGMA),
            inliers=200,
            matches=300,
            spread=0.9,
            residual_px=0.1,
            evidence=40.0,
            way=Way.PATCHES if search.follow else Way.FOUND,
        )
        return replace(estimate, **self.override)


class World:
    """A robot that drives a circle of 2 m radius at 0.5 m/s, its odometry drifting by 1 %."""

    def __init__(self, config: TrackingConfig | None = None, odometry: bool = True) -> None:
        self.localizer = ScriptedLocalizer()
        self.tracker = Tracker(self.localizer, config or TrackingConfig(), BASE_FROM_CAMERA)
        self.odometry = odometry
        self.now = 1_000_000 * MS
        self.phase = 0.0
        self.offset = Pose.identity()  # of the odometry's frame
        self.rng = np.random.default_rng(7)
        self.results: list[TrackResult] = []
        self.image = self.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        self.send_odometry()

    def map_from_base(self) -> Pose:
        return at_phase(self.phase)

    def send_odometry(self) -> None:
        if self.odometry:
            self.tracker.add_odometry(self.now, self.offset @ drifted(self.phase))

    def move(self, seconds: float, speed: float = 0.5) -> None:
        for _ in range(round(seconds * 50)):
            self.now += 20 * MS
            self.phase += speed * 0.02 / 2.0
            self.send_odometry()

    def see(self, image: np.ndarray | None = None) -> TrackResult:
        if image is None:
            image = self.rng.integers(0, 255, self.image.shape, dtype=np.uint8)
        self.localizer.truth = self.map_from_base() @ BASE_FROM_CAMERA
        self.image = image
        result = self.tracker.update(image, CAMERA, self.now)
        self.results.append(result)
        self.check_honesty(result)
        return result

    def check_honesty(self, result: TrackResult) -> None:
        """What is published lies within five standard deviations of the truth."""
        assert (result.map_from_base is None) == (result.covariance is None)
        misled = self.localizer.alias is not None or self.localizer.lookalike is not None
        if result.map_from_base is not None and not misled:
            off = mahalanobis_squared(result.map_from_base, self.map_from_base(), result.covariance)
            assert off < 25.0

    def run(self, seconds: float, period: float = 0.2) -> list[TrackResult]:
        results = []
        for _ in range(round(seconds / period)):
            self.move(period)
            results.append(self.see())
        return results

    def found(self, **changes) -> World:
        """After a cold start."""
        self.run(1.0)
        assert self.tracker.state is TrackingState.TRACKING
        return self


def at_phase(phase: float) -> Pose:
    turn = Pose.exp([0, 0, 0, 0, 0, phase + np.pi / 2]).rotation
    return Pose(turn, np.array([2 * np.cos(phase), 2 * np.sin(phase), 0.0]))


def drifted(phase: float) -> Pose:
    """What odometry makes of :func:`at_phase`."""
    pose = at_phase(phase)
    return Pose(pose.rotation, pose.translation * 1.01)


def turned(degrees: float, x: float = 0.0, y: float = 0.0) -> Pose:
    return Pose(Pose.exp([0, 0, 0, 0, 0, np.radians(degrees)]).rotation, np.array([x, y, 0.0]))


@pytest.mark.parametrize("odometry", [True, False])
def test_cold_start_is_confirmed_by_a_second_image_and_then_tracks(odometry):
    world = World(odometry=odometry)
    first, second, *rest = world.run(4.0)
    assert first.state is TrackingState.UNINITIALIZED and first.map_from_base is None
    assert first.prior is PriorKind.GLOBAL
    assert second.state is TrackingState.TRACKING and second.prior is PriorKind.CANDIDATE
    assert all(r.map_from_base is not None for r in rest)
    expected = PriorKind.ODOMETRY if odometry else PriorKind.VELOCITY
    assert {r.prior for r in rest} == {expected}


def test_odometry_that_turns_the_wrong_way_is_told_by_how_much():
    """No two places agree: a quarter of a radian is turned each second, and each way."""
    world = World(odometry=False)
    world.localizer.basin_m = 10.0
    for _ in range(3):
        for _ in range(50):
            world.move(0.02)
            wrong = Pose(drifted(world.phase).rotation.T, drifted(world.phase).translation)
            world.tracker.add_odometry(world.now, wrong)
        reason = world.see().reason
    assert world.tracker.state is TrackingState.UNINITIALIZED
    told = re.fullmatch(
        "found a place, waiting for confirmation: pose disagrees with odometry by [0-9.]+ m, "
        r"([0-9.]+) deg \(.*\) since the one before",
        reason,
    )
    assert float(told[1]) == pytest.approx(np.degrees(0.5), abs=0.5)


def test_map_from_odom_is_the_fix_over_the_odometry_at_the_image():
    world = World()
    world.offset = turned(40.0, 3.0, -1.0)
    world.tracker.odometry.clear()
    world.run(2.0)
    odometry = world.tracker.odometry.at(world.now)
    predicted = world.tracker.map_from_odom @ odometry.odom_from_base
    metres, radians = predicted.distance(world.map_from_base())
    assert metres < 0.03 and radians < 0.02


def test_without_odometry_there_is_no_map_from_odom():
    world = World(odometry=False).found()
    assert world.tracker.map_from_odom is None
    assert world.results[-1].map_from_base is not None


def test_prior_follows_the_odometry_to_the_image_stamp():
    world = World().found()
    world.move(0.5)
    world.see()
    prior, sigma, _ = world.localizer.calls[-1]
    metres, radians = prior.distance(world.localizer.truth)
    assert metres < 0.03 and radians < 0.02
    predicted = sigmas(world.tracker.predict(world.now).covariance)
    assert 0.005 < sigma[0] < 0.1 and sigma[0] < predicted[0] * 2


def test_search_is_narrow_while_all_goes_well_and_wide_after_a_failure():
    world = World().found()
    world.run(0.4)
    narrow = world.localizer.calls[-1][1]
    world.localizer.blind = True
    world.run(0.2)
    world.localizer.blind = False
    world.run(0.2)
    wide = world.localizer.calls[-1][1]
    assert wide[0] > 1.4 * narrow[0] and wide[1] > 1.4 * narrow[1]


def test_patches_go_first_but_for_a_check_each_second_and_after_a_failure():
    world = World(TrackingConfig(way="patches", check_every_s=1.0)).found()
    world.localizer.follows.clear()
    world.run(4.0)
    follows = world.localizer.follows
    checks = [number for number, follow in enumerate(follows) if not follow]
    assert np.diff(checks).tolist() == [5] * (len(checks) - 1) and len(checks) >= 3
    world.localizer.blind = True
    world.run(0.2)
    world.localizer.blind = False
    world.run(0.4)
    assert follows[-2] is False
    whole = World(TrackingConfig(way="full")).found()
    assert not any(whole.localizer.follows)


def test_covariance_grows_between_fixes():
    world = World().found()
    fresh = sigmas(world.tracker.predict(world.now).covariance)
    world.move(4.0)
    later = sigmas(world.tracker.predict(world.now).covariance)
    assert later[0] > 2 * fresh[0] and later[1] > 2 * fresh[1]


def test_covariance_of_the_fix_belongs_to_the_base_not_the_camera():
    world = World(TrackingConfig(floor_m=0.0, floor_deg=0.0, covariance_scale=1.0)).found()
    covariance = world.results[-1].covariance
    lever = np.linalg.norm(BASE_FROM_CAMERA.translation)
    worst = np.hypot(TRUE_SIGMA[0], TRUE_SIGMA[1] * lever)
    assert sigmas(covariance)[0] == pytest.approx(worst, rel=1e-6)


def test_covariance_of_the_base_worked_out_by_hand():
    """The base lies 0.2 m behind and 0.5 m below the camera, of a robot along the map's axes.

    A turn of the camera by (rx, ry, rz) moves it by (-0.5 ry, 0.5 rx - 0.2 rz, 0.2 ry).
    """
    position, (rx, ry, rz) = np.array([1.0, 4.0, 9.0]) * 1e-4, np.array([2.0, 3.0, 5.0]) * 1e-4
    localizer = ScriptedLocalizer(BASE_FROM_CAMERA)
    localizer.override = {
        "covariance": np.diag([*position, rx, ry, rz]),
        "map_from_camera": BASE_FROM_CAMERA,
    }
    config = TrackingConfig(covariance_scale=3.0, floor_m=0.02, floor_deg=np.degrees(0.03))
    tracker = Tracker(localizer, config, BASE_FROM_CAMERA)
    images = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        found = tracker.update(image, CAMERA, number * 100 * MS)
    assert found.map_from_base.distance(Pose.identity())[0] < 1e-12
    px, py, pz = 9.0 * position + 4e-4
    rx, ry, rz = 9.0 * np.array([rx, ry, rz]) + 9e-4
    expected = np.diag([px + 0.25 * ry, py + 0.25 * rx + 0.04 * rz, pz + 0.04 * ry, rx, ry, rz])
    for row, column, value in [
        (0, 2, -0.1 * ry), (0, 4, -0.5 * ry), (1, 3, 0.5 * rx), (1, 5, -0.2 * rz), (2, 4, 0.2 * ry),
    ]:  # fmt: skip
        expected[row, column] = expected[column, row] = value
    np.testing.assert_allclose(found.covariance, expected, atol=1e-15)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"inliers": 10}, "inliers"),
        ({"spread": 0.05}, "cover"),
        ({"residual_px": 3.0}, "residual"),  # 30 px at 640
        ({"residual_px": float("nan")}, "residual"),
        ({"covariance": diagonal(2.0, 0.1)}, "uncertain"),
        ({"covariance": None}, "no finite pose"),
        ({"covariance": np.full((6, 6), np.nan)}, "covariance"),
        ({"covariance": -np.eye(6)}, "covariance"),
        ({"map_from_camera": Pose(np.eye(3), np.array([np.nan, 0, 0]))}, "no finite pose"),
        ({"ok": False, "reason": "too dark to say"}, "too dark to say"),
    ],
)
def test_an_estimate_that_fails_a_gate_is_not_published(override, words):
    world = World().found()
    world.localizer.override = override
    (result,) = world.run(0.2)
    assert result.map_from_base is None and words in result.reason
    assert result.state is TrackingState.TRACKING and result.failures == 1
    world.localizer.override = {}
    (result,) = world.run(0.2)
    assert result.map_from_base is not None and result.failures == 0


@pytest.mark.parametrize("dark", [False, True])
def test_coasts_on_odometry_while_images_show_nothing(dark):
    """Three seconds at 30 Hz: ninety images without a fix, and the transform stays right."""
    world = World().found()
    world.localizer.blind = not dark
    certain = sigmas(world.tracker.predict(world.now).covariance)[0]
    for number in range(90):
        world.move(1 / 30)
        result = world.see(np.full((48, 64, 3), 3, np.uint8) if dark else None)
        assert result.map_from_base is None and result.reason
        blind_s = (world.now - world.tracker.last_fix.stamp_ns) * 1e-9
        expected = TrackingState.TRACKING if blind_s < 1.0 else TrackingState.COASTING
        assert result.state is expected, f"image {number}, {blind_s:.2f} s after the last fix"
        odometry = world.tracker.odometry.at(world.now)
        here = world.tracker.map_from_odom @ odometry.odom_from_base
        assert here.distance(world.map_from_base())[0] < 0.05
    assert sigmas(world.tracker.predict(world.now).covariance)[0] > 2 * certain
    world.localizer.blind = False
    assert world.run(0.4)[0].map_from_base is not None, "what agrees needs no second image"
    assert world.tracker.state is TrackingState.TRACKING


def test_the_whole_map_is_searched_while_coasting_and_not_before():
    world = World().found()
    world.localizer.blind = True
    world.localizer.calls.clear()
    world.run(0.9, 0.1)
    assert all(prior is not None for prior, _, _ in world.localizer.calls)
    world.run(1.0, 0.1)
    assert any(prior is None for prior, _, _ in world.localizer.calls)


def test_without_auto_global_coasting_looks_only_where_the_robot_should_be():
    world = World(TrackingConfig(auto_global=False))
    world.tracker.relocalize()
    world.found()
    world.localizer.blind = True
    world.localizer.calls.clear()
    world.run(3.0)
    assert world.tracker.state is TrackingState.COASTING
    assert all(prior is not None for prior, _, _ in world.localizer.calls)


def test_lost_once_the_prediction_is_worth_nothing_then_recovers_by_itself():
    world = World().found()
    world.localizer.blind = True
    while world.tracker.state is not TrackingState.LOST:
        believed = world.tracker.predict(world.now)
        assert sigmas(believed.covariance)[0] <= world.tracker.config.lost_sigma_m
        assert world.tracker.map_from_odom is not None
        world.run(0.2)
        assert world.phase < 20.0, "never given up"
    assert world.phase > 1.0, "two metres of good odometry are no reason"
    assert world.tracker.predict(world.now) is None and world.tracker.map_from_odom is None
    world.run(2.0)
    assert any(prior is None for prior, _, _ in world.localizer.calls[-4:]), "no global search"
    world.localizer.blind = False
    results = world.run(0.6)
    assert results[0].map_from_base is None
    assert results[-1].state is TrackingState.TRACKING
    assert not any(r.jumped for r in results), "odometry kept running: nothing jumped"


def test_poses_elsewhere_withdraw_the_transform_only_if_they_last():
    """Contradicting evidence: three poses in 0.4 s are not enough, nor are two in two seconds."""
    for period, images, expected in [
        (0.1, 5, TrackingState.TRACKING),
        (1.9, 2, TrackingState.COASTING),
        (0.2, 7, TrackingState.LOST),
    ]:
        world = World().found()
        for number in range(images):
            world.localizer.alias = turned(0.0, 3.0 + 2.0 * number, 4.0)
            world.run(period, period)
        assert world.tracker.state is expected, (period, images)
        assert (world.tracker.map_from_odom is None) == (expected is TrackingState.LOST)


def test_one_agreeing_pose_ends_a_contradiction():
    world = World().found()
    for number in range(20):
        world.localizer.alias = None if number % 4 == 3 else turned(0.0, 3.0 + 2 * number, 4.0)
        world.run(0.2)
        assert world.tracker.state.localized


def test_one_wrong_pose_is_refused_and_tracking_goes_on():
    world = World().found()
    world.localizer.alias = turned(10.0, 0.6, 0.3) @ world.localizer.truth
    (wrong,) = world.run(0.2)
    assert wrong.map_from_base is None and "disagrees with odometry" in wrong.reason
    world.localizer.alias = None
    (right,) = world.run(0.2)
    assert right.map_from_base is not None and not right.jumped


def test_wrong_poses_that_disagree_with_each_other_are_never_published():
    world = World().found()
    rng = np.random.default_rng(3)
    for _ in range(10):
        world.localizer.alias = turned(*rng.uniform(-40, 40, 1), *rng.uniform(0.5, 5.0, 2))
        (result,) = world.run(0.2)
        assert result.map_from_base is None
    assert result.state is TrackingState.LOST


def test_a_standing_alias_is_refused_while_odometry_says_that_the_robot_moves():
    world = World().found()
    world.localizer.alias = world.localizer.truth
    for _ in range(15):
        world.move(0.4)
        assert world.see().map_from_base is None or (
            world.results[-1].map_from_base.distance(world.map_from_base())[0] < 0.25
        )


@pytest.mark.parametrize("odometry", [True, False])
def test_kidnapping_that_odometry_does_not_notice(odometry):
    world = World(odometry=odometry).found()
    world.phase += 1.5  # 3 m along the circle
    world.offset = world.offset @ at_phase(world.phase - 1.5) @ at_phase(world.phase).inverse()
    results = world.run(3.0)
    good = [r.map_from_base is not None for r in results]
    assert good[-1] and world.tracker.state is TrackingState.TRACKING
    first = results[good.index(True)]
    assert (first.jumped or not odometry) and all(good[good.index(True) :])


def test_pushed_a_little_jumps_once_two_images_agree():
    world = World().found()
    world.phase += 0.2  # 0.4 m
    world.offset = at_phase(world.phase - 0.2) @ at_phase(world.phase).inverse()
    first, second, third = world.run(0.6)
    assert first.map_from_base is None
    assert second.map_from_base is not None and second.jumped
    assert third.map_from_base is not None and not third.jumped


def blind_for(world: World, images: int, period: float) -> None:
    world.localizer.blind = True
    world.run(images * period, period)
    world.localizer.blind = False


def test_one_image_moves_an_uncertain_prediction_only_a_little():
    """After a second without a fix or odometry almost any place lies within the gate."""
    world = World(odometry=False).found()
    blind_for(world, 3, 0.3)
    assert sigmas(world.tracker.predict(world.now).covariance)[0] > 0.3
    world.localizer.alias = turned(0.0, 1.2, 0.5) @ world.localizer.truth
    (wrong,) = world.run(0.3, 0.3)
    assert wrong.map_from_base is None and "disagrees" in wrong.reason
    world.localizer.alias = None
    assert any(r.map_from_base is not None for r in world.run(0.6, 0.3))


def test_a_long_drive_without_images_ends_with_two_images_that_agree():
    world = World().found()
    world.move(16.0)
    world.localizer.alias = turned(0.0, 1.0, 0.6) @ world.map_from_base() @ BASE_FROM_CAMERA
    assert world.see().map_from_base is None
    world.localizer.alias = None
    results = world.run(0.8)
    assert results[-1].map_from_base is not None
    assert results[-1].map_from_base.distance(world.map_from_base())[0] < 0.1


def test_a_turned_pose_needs_a_second_image_too():
    world = World(odometry=False).found()
    blind_for(world, 3, 0.3)
    here = world.map_from_base() @ BASE_FROM_CAMERA
    world.localizer.alias = Pose(turned(100.0).rotation @ here.rotation, here.translation)
    assert world.run(0.3, 0.3)[0].map_from_base is None


def test_two_places_far_apart_do_not_confirm_each_other_however_long_ago():
    world = World(odometry=False)
    world.localizer.basin_m = 100.0
    for x in (0.0, 2.0, 4.0, 6.0):
        world.localizer.alias = turned(0.0, x)
        world.move(1.5, speed=0.0)
        assert world.see().map_from_base is None


def test_a_place_proposed_while_tracking_is_dropped_when_later_images_fail():
    world = World().found()
    elsewhere = turned(0.0, 3.0) @ world.localizer.truth
    world.localizer.alias = elsewhere
    world.run(0.2)
    world.localizer.blind = True
    world.run(0.4)
    world.localizer.blind, world.localizer.alias = False, turned(0.0, 0.1) @ elsewhere
    assert world.run(0.2)[0].map_from_base is None


def test_black_camera_asks_no_localizer_and_says_why():
    world = World().found()
    asked = len(world.localizer.calls)
    for _ in range(6):
        world.move(0.2)
        result = world.see(np.full((48, 64, 3), 3, np.uint8))
    assert "covered or dark" in result.reason and result.state is TrackingState.COASTING
    assert len(world.localizer.calls) == asked
    assert world.run(0.4)[-1].state is TrackingState.TRACKING


@pytest.mark.parametrize("odometry", [True, False])
def test_frozen_camera_on_a_moving_robot_gives_no_fix(odometry):
    world = World(odometry=odometry).found()
    frozen, seen_at = world.image, world.localizer.truth
    world.localizer.alias = seen_at
    for _ in range(12):
        world.move(0.2)
        result = world.see(frozen)
        assert result.map_from_base is None
    assert "frozen" in result.reason
    assert result.state is (TrackingState.COASTING if odometry else TrackingState.LOST)


class TestStanding:
    """The very same image again and again, as a simulation renders it."""

    def see_again(self, world: World, seconds: float, period: float, odometry) -> None:
        """Images that repeat; ``odometry`` gives x and heading after so many seconds."""
        start, image = world.now, world.image
        while (world.now - start) * 1e-9 < seconds:
            for _ in range(round(period / 0.02)):
                world.now += 20 * MS
                x, heading = odometry((world.now - start) * 1e-9)
                step = Pose.exp([x, 0, 0, 0, 0, heading])
                world.tracker.add_odometry(world.now, drifted(world.phase) @ step)
            result = world.see(image)
            assert result.map_from_base is not None, result.reason

    @pytest.mark.parametrize("period", [0.1, 3.0])
    def test_creeping_odometry(self, period):
        """5 mm and half a degree a second: 45 mm in all, and never lost."""
        self.see_again(World().found(), 9.0, period, lambda s: (0.005 * s, 0.008 * s))

    def test_trembling_odometry(self):
        world = World().found()
        rng = np.random.default_rng(1)
        self.see_again(world, 10.0, 0.1, lambda s: 0.003 * rng.normal(size=2))

    @pytest.mark.parametrize(("speed", "turn"), [(0.05, 0.0), (0.0, 0.05)])
    def test_slow_robot_with_a_stuck_driver_is_noticed(self, speed, turn):
        world = World().found()
        image = world.image
        refused = 0
        for number in range(1, 31):
            world.now += 100 * MS
            step = Pose.exp([speed * 0.1 * number, 0, 0, 0, 0, turn * 0.1 * number])
            world.tracker.add_odometry(world.now, drifted(world.phase) @ step)
            refused += "frozen" in world.see(image).reason
        assert refused >= 20

    def test_robot_that_drives_off_after_standing_is_noticed(self):
        world = World().found()
        image = world.image
        self.see_again(world, 3.0, 0.2, lambda s: (0.0, 0.0))
        world.move(0.4)
        assert "frozen" in world.see(image).reason

    def test_an_image_seen_before_but_not_just_before_is_new(self):
        world = World(odometry=False).found()
        world.move(0.2, speed=0.0)
        first = world.image
        world.see()
        world.move(0.2, speed=0.0)
        assert world.see(first).map_from_base is not None


def test_image_that_is_not_newer_is_ignored():
    world = World().found()
    asked = len(world.localizer.calls)
    world.now -= 100 * MS
    result = world.see()
    assert "not newer" in result.reason and result.map_from_base is None
    assert result.state is TrackingState.TRACKING and result.failures == 0
    assert len(world.localizer.calls) == asked


def test_bag_loop_starts_over_and_finds_itself():
    world = World()
    start = world.now
    world.run(4.0)
    world.now, world.phase = start, 0.0
    results = world.run(1.0)
    assert results[0].map_from_base is None and results[0].state is TrackingState.LOST
    assert results[-1].state is TrackingState.TRACKING
    assert world.tracker.map_from_odom is not None


def test_bag_loop_whose_image_arrives_before_its_odometry():
    world = World()
    start = world.now
    world.run(4.0)
    world.now, world.phase = start, 0.0
    assert world.see().state is TrackingState.LOST
    assert world.tracker.odometry.empty, "what there was is of the other recording"
    assert world.run(1.0)[-1].state is TrackingState.TRACKING


def test_odometry_reset_stops_map_from_odom_at_once_and_recovers():
    world = World().found()
    world.offset = turned(90.0, -5.0, 2.0)
    world.move(0.02)
    assert world.tracker.map_from_odom is None
    results = world.run(0.8)
    assert results[0].map_from_base is None
    assert results[-1].state is TrackingState.TRACKING
    predicted = world.tracker.map_from_odom @ world.tracker.odometry.latest.odom_from_base
    assert predicted.distance(world.map_from_base())[0] < 0.05


def test_jump_to_another_part_of_a_recording():
    world = World().found()
    world.now += 60_000 * MS
    world.phase += 2.0
    results = world.run(3.0)
    good = [r.map_from_base is not None for r in results]
    assert any(good) and all(good[good.index(True) :])


def test_odometry_that_stops_leaves_images_to_carry_on():
    world = World().found()
    world.odometry = False
    results = world.run(3.0)
    assert all(r.map_from_base is not None for r in results[2:])


def test_without_odometry_no_images_for_long_is_lost():
    world = World(odometry=False).found()
    assert world.tracker.expire(world.now + 900 * MS) is TrackingState.TRACKING
    assert world.tracker.expire(world.now + 1_000 * MS) is TrackingState.COASTING
    assert world.tracker.predict(world.now + 1_500 * MS) is not None
    assert world.tracker.expire(world.now + 30_000 * MS) is TrackingState.LOST


def test_without_a_clock_the_newest_stamp_tells_how_old_the_state_is():
    world = World().found()
    world.move(0.8)
    assert world.tracker.expire() is TrackingState.TRACKING
    world.move(0.4)
    assert world.tracker.expire() is TrackingState.COASTING
    assert Tracker(ScriptedLocalizer()).expire() is TrackingState.UNINITIALIZED


@pytest.mark.parametrize(("period_ms", "jitter_ms"), [(100, 20), (200, 0), (200, 50), (330, 100)])
def test_slow_odometry_with_jitter_keeps_the_transform(period_ms, jitter_ms):
    """Images at 10 Hz that arrive before the odometry around them; asked at 50 Hz."""
    world = World(odometry=False)
    rng = np.random.default_rng(0)
    start, next_odometry, there, asked = world.now, 0.0, 0, 0
    for step in range(1, 401):
        elapsed = 20 * step
        world.now, world.phase = start + elapsed * MS, 0.5 * elapsed * 1e-3 / 2.0
        if elapsed >= next_odometry:
            world.odometry = True
            world.send_odometry()
            world.odometry = False
            next_odometry += period_ms + rng.uniform(-jitter_ms, jitter_ms)
        if step % 5 == 0:
            world.now += 1 * MS
            world.see()
        if step > 50:
            asked += 1
            correction = world.tracker.map_from_odom
            if correction is not None:
                there += 1
                here = correction @ drifted(world.phase)
                assert here.distance(world.map_from_base())[0] < 0.06
    assert there == asked
    assert all(r.map_from_base is not None for r in world.results[2:])


def test_one_fix_without_odometry_leaves_the_correction():
    world = World().found()
    before = world.tracker.map_from_odom
    world.odometry = False
    world.move(0.8)
    result = world.see()
    assert result.map_from_base is not None and result.map_from_odom is not None
    assert result.map_from_odom.distance(before)[0] == 0.0
    world.odometry = True
    results = world.run(0.4)
    assert all(r.map_from_base is not None and r.prior is PriorKind.ODOMETRY for r in results)


def test_correction_goes_with_odometry_that_has_fallen_silent():
    world = World().found()
    world.odometry = False
    world.run(1.0)
    assert world.tracker.map_from_odom is not None
    world.run(3.0)
    assert world.tracker.state is TrackingState.TRACKING
    assert world.tracker.map_from_odom is None


def test_fix_is_tied_to_odometry_that_comes_after_it():
    """Carried on, odometry missed that the robot braked; measured, it did not."""
    world = World().found()
    world.odometry = False
    world.move(0.2, speed=0.5)
    world.move(0.2, speed=0.0)
    world.see()
    measured = drifted(world.phase)
    guessed = world.tracker.last_fix.odometry.odom_from_base
    assert guessed.distance(measured)[0] > 0.05
    world.odometry = True
    world.move(0.02, speed=0.0)
    world.tracker.expire(world.now)
    assert world.tracker.last_fix.odometry.odom_from_base.distance(measured)[0] < 0.01
    here = world.tracker.map_from_odom @ measured
    assert here.distance(world.map_from_base())[0] < 0.03


def test_outage_of_odometry_after_a_long_drive_costs_only_its_own_time():
    """Ten seconds of odometry, then 0.8 s of none: not ten seconds of not knowing."""
    world = World().found()
    world.move(6.0)
    world.odometry = False
    world.move(0.8, speed=0.0)
    prediction = world.tracker.predict(world.now)
    assert prediction.kind is PriorKind.VELOCITY
    assert prediction.map_from_base.distance(world.map_from_base())[0] < 0.1
    assert 0.4 < sigmas(prediction.covariance)[0] < 0.8


class TestLookalikes:
    """The robot is in a corridor like the map's: answers move as the odometry does, for minutes."""

    SHIFT = turned(30.0, 6.0, -2.0)

    def mislead(self, world: World, low: float, high: float) -> None:
        """All answers from now on, with an evidence between these."""
        localizer, rng = world.localizer, np.random.default_rng(5)
        localizer.lookalike = self.SHIFT
        plain = localizer.localize

        def localize(*args, **options):
            found = plain(*args, **options)
            return replace(found, evidence=rng.uniform(low, high)) if found.ok else found

        localizer.localize = localize

    @pytest.mark.parametrize("odometry", [True, False])
    def test_start_in_one_says_unsure_for_as_long_as_it_lasts(self, odometry):
        world = World(odometry=odometry)
        self.mislead(world, 6.1, 11.9)
        for result in world.run(120.0, 0.5):
            assert result.map_from_base is None and result.map_from_odom is None
            assert result.state is TrackingState.UNINITIALIZED
            assert result.reason.startswith("unsure") and result.prior is PriorKind.GLOBAL
        assert world.tracker.map_from_odom is None

    @pytest.mark.parametrize("odometry", [True, False])
    def test_robot_that_drives_into_one_publishes_nothing_wrong_and_comes_back(self, odometry):
        world = World(odometry=odometry).found()
        plain = world.localizer.localize
        self.mislead(world, 6.1, 11.9)
        said = []
        for result in world.run(60.0, 0.5):
            assert result.map_from_base is None
            said.append(result.reason)
            correction = world.tracker.map_from_odom
            if correction is not None:  # good odometry may be trusted on
                here = correction @ world.tracker.odometry.at(world.now).odom_from_base
                assert here.distance(world.map_from_base())[0] < 0.2
        assert any("unsure" in reason for reason in said)
        assert world.tracker.state is TrackingState.LOST
        world.localizer.lookalike, world.localizer.localize = None, plain
        back = world.run(3.0)[-1]
        assert back.map_from_base.distance(world.map_from_base())[0] < 0.05

    def test_two_sure_images_in_a_row_are_needed_and_not_one_among_many(self):
        world = World()
        world.localizer.lookalike = self.SHIFT
        for number in range(60):
            world.localizer.override = {"evidence": 15.0 if number % 3 == 0 else 8.0}
            assert world.run(0.3, 0.3)[0].map_from_base is None, number
        world.localizer.override = {"evidence": 12.0}
        assert world.run(0.6, 0.3)[-1].map_from_base is not None

    def test_little_evidence_is_enough_where_the_robot_is_expected(self):
        world = World().found()
        world.localizer.override = {"evidence": 6.1}
        assert all(r.map_from_base is not None for r in world.run(4.0))

    def test_little_evidence_is_enough_where_somebody_says_that_the_robot_is(self):
        world = World()
        world.localizer.override = {"evidence": 6.1}
        world.tracker.set_prior(world.now, world.map_from_base(), diagonal(0.3, 0.2))
        first, second = world.run(0.4)
        assert first.map_from_base is None and second.map_from_base is not None

    def test_kept_pose_has_to_prove_itself(self):
        """The robot may have been carried to another floor while it was switched off."""
        world = World()
        world.localizer.override = {"evidence": 11.9}
        here = world.map_from_base()
        world.tracker.set_prior(world.now, here, diagonal(0.3, 0.2), coast=False)
        assert all(r.map_from_base is None for r in world.run(2.0))
        world.localizer.override = {"evidence": 12.0}
        assert world.run(0.4)[-1].map_from_base is not None


class TestHint:
    def test_is_believed_once_images_confirm_it(self):
        world = World(TrackingConfig(auto_global=False))
        world.localizer.only_with_prior = True
        assert "initial pose" in world.run(0.2)[0].reason
        near = turned(5.0, 0.3, 0.0) @ world.map_from_base()
        world.tracker.set_prior(world.now, near, diagonal(0.5, 0.3))
        first, second = world.run(0.4)
        assert first.prior is PriorKind.HINT and first.map_from_base is None
        assert second.state is TrackingState.TRACKING and second.map_from_base is not None

    def test_is_moved_by_odometry_since_its_stamp(self):
        world = World(TrackingConfig(auto_global=False))
        world.move(1.0)
        then, there = world.now, world.map_from_base()
        world.move(4.0)
        world.tracker.set_prior(then, there, diagonal(0.1, 0.05))
        world.see()
        prior, _, _ = world.localizer.calls[-1]
        assert prior.distance(world.localizer.truth)[0] < 0.1

    def test_before_any_odometry_it_waits(self):
        world = World(TrackingConfig(auto_global=False), odometry=False)
        world.tracker.set_prior(world.now, world.map_from_base(), diagonal(0.2, 0.1))
        world.now += 60_000 * MS
        world.see()
        world.odometry = True
        world.move(0.2, speed=0.0)
        assert world.see().state is TrackingState.TRACKING

    def test_with_stamp_zero_means_now(self):
        world = World(TrackingConfig(auto_global=False))
        world.move(4.0)
        world.tracker.set_prior(0, world.map_from_base(), diagonal(0.2, 0.1))
        world.move(1.0)
        world.see()
        assert world.localizer.calls[-1][0].distance(world.localizer.truth)[0] < 0.05

    def test_that_leads_nowhere_gives_way_to_global_search(self):
        world = World()
        world.tracker.set_prior(world.now, turned(0.0, 50.0, 50.0), diagonal(0.5, 0.3))
        results = world.run(2.0)
        assert results[-1].state is TrackingState.TRACKING
        assert PriorKind.GLOBAL in {r.prior for r in results}

    def test_gives_the_transform_at_once_and_coasts_from_there(self):
        world = World().found()
        there = turned(20.0, 5.0, 1.0) @ world.map_from_base()
        world.tracker.set_prior(world.now, there, diagonal(0.5, 0.3))
        assert world.tracker.state is TrackingState.COASTING and world.tracker.last_fix is None
        odometry = world.tracker.odometry
        here = world.tracker.map_from_odom @ odometry.latest.odom_from_base
        assert here.distance(there)[0] < 1e-9
        driven_from = world.map_from_base()
        world.move(1.0)
        driven = driven_from.inverse() @ world.map_from_base()
        here = world.tracker.map_from_odom @ odometry.latest.odom_from_base
        assert here.distance(there @ driven)[0] < 0.02
        assert world.tracker.predict(world.now).kind is PriorKind.HINT

    def test_while_tracking_starts_over(self):
        world = World().found()
        world.tracker.set_prior(world.now, world.map_from_base(), diagonal(0.5, 0.3))
        first, second = world.run(0.4)
        assert first.map_from_base is None and first.state is TrackingState.COASTING
        assert second.state is TrackingState.TRACKING and not second.jumped

    def test_that_is_only_to_be_tried_gives_no_transform(self):
        world = World(TrackingConfig(auto_global=False))
        world.tracker.set_prior(0, world.map_from_base(), diagonal(0.2, 0.1), coast=False)
        world.tracker.expire(world.now)
        assert world.tracker.state is TrackingState.UNINITIALIZED
        assert world.tracker.map_from_odom is None
        first, second = world.run(0.4)
        assert first.prior is PriorKind.HINT and second.state is TrackingState.TRACKING

    def test_less_certain_than_what_is_given_up_is_carried_on_too(self):
        world = World()
        world.tracker.set_prior(world.now, world.map_from_base(), diagonal(3.0, 0.3))
        world.move(1.0)
        assert world.tracker.expire(world.now) is TrackingState.COASTING
        assert world.tracker.map_from_odom is not None

    def test_is_never_dropped_where_nothing_else_is_tried(self):
        world = World(TrackingConfig(auto_global=False))
        world.tracker.set_prior(world.now, world.map_from_base(), diagonal(0.2, 0.1))
        world.localizer.blind = True
        world.run(60.0, 0.5)
        assert world.tracker.state is TrackingState.LOST, "half a minute of driving"
        assert all(prior is not None for prior, _, _ in world.localizer.calls)
        world.localizer.blind, world.localizer.basin_m = False, 5.0
        assert world.run(1.0, 0.5)[-1].state is TrackingState.TRACKING

    def test_before_any_odometry_is_tied_to_the_first_and_then_moves_with_it(self):
        world = World(TrackingConfig(auto_global=False), odometry=False)
        start = world.map_from_base()
        world.tracker.set_prior(0, start, diagonal(0.2, 0.1))
        assert world.tracker.map_from_odom is None
        world.odometry = True
        world.send_odometry()
        world.tracker.expire(world.now)
        assert world.tracker.state is TrackingState.COASTING
        world.move(4.0)
        here = world.tracker.map_from_odom @ world.tracker.odometry.latest.odom_from_base
        assert here.distance(world.map_from_base())[0] < 0.05
        world.see()
        prior, _, _ = world.localizer.calls[-1]
        assert prior.distance(world.localizer.truth)[0] < 0.05

    def test_of_the_clock_from_before_a_reset_is_dropped(self):
        world = World()
        start = world.now
        world.run(2.0)
        world.localizer.blind = True
        world.tracker.set_prior(world.now, turned(0.0, 9.0), diagonal(0.3, 0.3))
        world.run(0.2)
        world.now, world.phase = start, 0.0
        world.see()
        assert world.tracker.map_from_odom is None
        assert world.results[-1].prior is PriorKind.GLOBAL

    def test_of_the_new_clock_is_kept_over_its_reset(self):
        world = World()
        start = world.now
        world.run(4.0)
        world.localizer.blind = True
        world.now, world.phase = start, 0.0
        world.send_odometry()
        there = turned(0.0, 9.0)
        world.tracker.set_prior(start, there, diagonal(0.3, 0.3))
        world.run(0.2)
        assert world.results[-1].prior is PriorKind.HINT
        assert world.localizer.calls[-1][0].distance(there @ BASE_FROM_CAMERA)[0] < 0.2

    def test_is_kept_over_a_reset_of_the_clock_where_nothing_else_is_tried(self):
        world = World(TrackingConfig(auto_global=False))
        start = world.now
        world.localizer.blind = True
        world.run(2.0)
        world.tracker.set_prior(world.now, turned(0.0, 9.0), diagonal(0.3, 0.3))
        world.now, world.phase = start, 0.0
        assert world.see().prior is PriorKind.HINT
        assert world.tracker.map_from_odom is None, "of another recording: only tried"

    @pytest.mark.parametrize("nothing", [0.0, -1.0, 1e15, np.finfo(float).max, np.nan, np.inf])
    def test_axes_without_a_covariance_get_the_usual_one(self, nothing):
        """RViz fills x, y and yaw alone, planar drivers write huge numbers into the others."""
        world = World(TrackingConfig(floor_m=0.0, floor_deg=0.0))
        told = np.diag([0.04, 0.09, nothing, nothing, nothing, 0.01])
        told[0, 1] = told[1, 0] = 0.03
        world.tracker.set_prior(world.now, Pose.identity(), told)
        known = world.tracker.predict(world.now).covariance
        usual = np.radians(15.0) ** 2
        expected = np.diag([0.04, 0.09, 0.25, usual, usual, 0.01])
        expected[0, 1] = expected[1, 0] = 0.03
        np.testing.assert_allclose(known, expected, atol=1e-12)

    @pytest.mark.parametrize(
        ("pose", "covariance"),
        [(Pose.identity(), np.eye(5)), (Pose(np.eye(3), np.full(3, np.nan)), np.eye(6))],
    )
    def test_that_is_none_is_refused_and_changes_nothing(self, pose, covariance):
        world = World().found()
        with pytest.raises(ValueError, match=r"not finite|6 by 6"):
            world.tracker.set_prior(world.now, pose, covariance)
        assert world.tracker.state is TrackingState.TRACKING


def test_relocalize_searches_globally_even_where_it_is_not_automatic():
    world = World(TrackingConfig(auto_global=False))
    assert world.run(0.2)[0].prior is PriorKind.NONE
    world.tracker.relocalize()
    assert world.tracker.state is TrackingState.LOST
    results = world.run(0.4)
    assert results[0].prior is PriorKind.GLOBAL
    assert results[1].state is TrackingState.TRACKING


def test_reset_forgets():
    world = World(TrackingConfig(auto_global=False))
    world.tracker.relocalize()
    world.run(0.6)
    world.tracker.reset()
    assert world.tracker.state is TrackingState.UNINITIALIZED
    assert world.tracker.last_fix is None
    assert "initial pose" in world.run(0.2)[0].reason


def test_image_of_another_size_than_its_calibration_is_a_failure_not_a_crash():
    world = World().found()
    world.move(0.2)
    result = world.see(np.zeros((24, 32, 3), np.uint8))
    assert "calibration is for 64x48" in result.reason and result.failures == 1


def test_the_same_calls_give_the_same_poses():
    def poses() -> list[float]:
        world = World()
        world.run(2.0)
        world.localizer.blind = True
        world.run(1.4)
        world.localizer.blind = False
        world.run(2.0)
        return [r.map_from_base.matrix().tobytes() for r in world.results if r.map_from_base]

    assert poses() == poses()


EVENTS = ["see", "blind", "alias", "like", "dark", "loop", "reset", "restart", "hint", "away"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=25), st.booleans())
def test_whatever_happens_nothing_dishonest_is_published(events, odometry):
    """Any order of mishaps: what comes out is right within its covariance, or nothing."""
    world = World(odometry=odometry)
    world.localizer.basin_m = 100.0
    start = world.now
    for number, event in enumerate(events):
        world.move(1.5 if event == "away" else 0.2)
        world.localizer.blind = event == "blind"
        world.localizer.alias = None
        if event == "loop":
            world.now, world.phase = start, 0.0
            world.send_odometry()
        if event == "reset":
            world.offset = world.offset @ turned(50.0, 3.0, 1.0)
            world.send_odometry()
        if event == "restart":  # of the odometry's driver: silence, then zero
            world.now += 2_000 * MS
            world.offset = drifted(world.phase).inverse()
            world.send_odometry()
        if event == "hint":
            world.tracker.set_prior(world.now, turned(0.0, 1.0, 1.0), diagonal(0.3, 0.3))
        if event == "alias":
            # Never twice nearly the same: two images that agree are believed, and that is meant.
            world.localizer.alias = turned(30.0, 4.0 + 2.0 * (number % 5), 1.0)
        like = event == "like"  # the same place each time, and it moves as the robot does
        world.localizer.lookalike = turned(30.0, 6.0, -2.0) if like else None
        world.localizer.override = {"evidence": 11.0} if like else {}
        result = world.see(np.zeros((48, 64, 3), np.uint8) if event == "dark" else None)
        if result.map_from_base is not None:
            off = result.map_from_base.distance(world.map_from_base())[0]
            assert off < 0.5 or sigmas(result.covariance)[0] > 0.1
    world.localizer.blind, world.localizer.alias, world.localizer.lookalike = False, None, None
    world.localizer.override = {}
    assert world.run(3.0)[-1].state is TrackingState.TRACKING
