"""The recent past of the odometry, looked up at image stamps."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import rotation_angle
from crossfire_core.localization.uncertainty import FloatArray, diagonal, known_variances

_KEPT_NS = 30_000_000_000  # images come later than that from no camera
_SLACK_M, _SLACK_RAD = 0.05, 0.05  # noise of one sample, beyond what speed explains
_MAX_TURN_RAD_PER_S = 20.0  # no robot turns faster: three turns a second
_LONGEST_REACH_S = 1.0  # a longer silence allows no larger jump
_ZERO_M, _ZERO_RAD = 0.01, 0.01  # a driver that begins anew begins this near its origin
_JITTER_M, _JITTER_RAD = 0.02, 0.02  # odometry of a standing robot trembles by less: no path
_SPEED_SPAN_NS = 60_000_000  # samples of so long tell how fast the robot is now
# How much a robot may speed up or brake while its odometry is carried on, a second squared.
_ACCELERATION_M, _ACCELERATION_RAD = 1.0, 2.0
_NOTHING_REPORTED = np.full(6, np.nan)


@dataclass(frozen=True)
class OdometrySample:
    """The odometry at one time.

    Attributes:
        stamp_ns: nanoseconds.
        odom_from_base: the pose it reports.
        travelled_m: length of the path since the last reset, metres.
        turned_rad: sum of the rotations since the last reset, radians.
        reported: ``[6]`` variances that came with it, NaN along axes it says nothing about.
        epoch: counts resets; samples of different epochs share no ``odom`` frame.
        ahead_s: seconds by which it was carried on past what was measured.
    """

    stamp_ns: int
    odom_from_base: Pose
    travelled_m: float
    turned_rad: float
    reported: NDArray[np.float64]
    epoch: int
    ahead_s: float = 0.0


class _Path:
    """Length of a path, and the sum of its turns, without the jitter of a standing robot."""

    def __init__(self, start: Pose) -> None:
        self._place, self._heading = start.translation, start.rotation
        self.metres = self.radians = 0.0

    def extend(self, pose: Pose) -> None:
        metres = float(np.linalg.norm(pose.translation - self._place))
        if metres >= _JITTER_M:
            self.metres += metres
            self._place = pose.translation
        radians = rotation_angle(self._heading.T @ pose.rotation)
        if radians >= _JITTER_RAD:
            self.radians += radians
            self._heading = pose.rotation


class OdometryHistory:
    """Half a minute of odometry, or a little more.

    :meth:`add` may be called from another thread than :meth:`at`: messages arrive while an
    image is being localized.

    Attributes:
        epoch: how often the odometry was reset; a pose from before a reset says nothing after it.
        reset_reason: what was wrong with the odometry when this epoch began, for people; empty if
            nothing.
    """

    def __init__(self, config: TrackingConfig) -> None:
        """Start empty."""
        self._config = config
        self._samples: list[OdometrySample] = []
        self._path: _Path | None = None
        self.epoch = 0
        self.reset_reason = ""
        self._lock = threading.Lock()

    def configure(self, config: TrackingConfig) -> None:
        """Change the thresholds from the next sample on."""
        self._config = config

    @property
    def empty(self) -> bool:
        """Whether no odometry has arrived since the last reset."""
        return not self._samples

    @property
    def latest(self) -> OdometrySample | None:
        """The newest sample."""
        samples = self._samples
        return samples[-1] if samples else None

    def clear(self) -> None:
        """Forget everything; a new epoch begins."""
        with self._lock:
            self._restart("")

    def add(self, stamp_ns: int, odom_from_base: Pose, covariance: FloatArray | None) -> bool:
        """Append a sample.

        Samples that come late by less than ``clock_jump_s`` are dropped; a clock that goes back
        further, a pose out of reach, or one that is back at zero after a silence begins a new
        epoch.

        Returns:
            Whether the sample was used.
        """
        with self._lock:
            last = self._samples[-1] if self._samples else None
            if last is not None and stamp_ns <= last.stamp_ns:
                if last.stamp_ns - stamp_ns < self._config.clock_jump_s * 1e9:
                    return False
                self._restart("its clock went back")
                last = None
            reason = "" if last is None else self._broken(last, stamp_ns, odom_from_base)
            if reason:
                self._restart(reason)
            self._samples.append(self._sample(stamp_ns, odom_from_base, covariance))
            if len(self._samples) > 1 and stamp_ns - self._samples[0].stamp_ns > 2 * _KEPT_NS:
                kept = bisect_left(self._samples, stamp_ns - _KEPT_NS, key=lambda s: s.stamp_ns)
                self._samples = self._samples[kept:]
            return True

    def at(self, stamp_ns: int) -> OdometrySample | None:
        """The odometry at a time: interpolated, or carried on a little past its newest sample.

        Returns:
            None in gaps, before the first sample, and further past the last one than
            ``odometry_max_gap_s``.
        """
        with self._lock:
            samples = self._samples
            right = bisect_left(samples, stamp_ns, key=lambda s: s.stamp_ns)
            if right < len(samples) and samples[right].stamp_ns == stamp_ns:
                return samples[right]
            if right == 0:
                return None
            if right == len(samples):
                return _carried_on(samples, stamp_ns, self._max_gap_ns)
            return _between(samples[right - 1], samples[right], stamp_ns, self._max_gap_ns)

    def before(self, stamp_ns: int) -> OdometrySample | None:
        """The newest sample that is not newer than a time; None if there is none."""
        with self._lock:
            right = bisect_right(self._samples, stamp_ns, key=lambda s: s.stamp_ns)
            return self._samples[right - 1] if right else None

    @property
    def _max_gap_ns(self) -> int:
        return int(self._config.odometry_max_gap_s * 1e9)

    def _restart(self, reason: str) -> None:
        self._samples = []
        self._path = None
        self.epoch += 1
        self.reset_reason = reason

    def _broken(self, last: OdometrySample, stamp_ns: int, pose: Pose) -> str:
        """How a sample is out of the last one's reach, or a driver has begun anew; else empty."""
        metres, radians = last.odom_from_base.distance(pose)
        gap_ns = stamp_ns - last.stamp_ns
        # A silence is no reason to believe in any distance.
        seconds = min(gap_ns * 1e-9, _LONGEST_REACH_S)
        reach_m = self._config.max_speed_m_per_s * seconds + _SLACK_M
        reach_rad = _MAX_TURN_RAD_PER_S * seconds + _SLACK_RAD
        moved = metres > _SLACK_M or radians > _SLACK_RAD
        anew = gap_ns > self._max_gap_ns and moved and _is_zero(pose)
        if not anew and metres <= reach_m and radians <= reach_rad:
            return ""
        return (
            f"it jumped by {metres:.2f} m and {np.degrees(radians):.0f} deg within "
            f"{gap_ns * 1e-9:.2f} s: if the robot did not, see to its units, or raise "
            "tracking.max_speed_m_per_s"
        )

    def _sample(self, stamp_ns: int, pose: Pose, covariance: FloatArray | None) -> OdometrySample:
        reported = _NOTHING_REPORTED if covariance is None else known_variances(covariance)
        path = self._path = self._path or _Path(pose)
        path.extend(pose)
        return OdometrySample(stamp_ns, pose, path.metres, path.radians, reported, self.epoch)


def motion_covariance(
    start: OdometrySample, end: OdometrySample, config: TrackingConfig
) -> FloatArray:
    """How uncertain the motion between two samples of one epoch is.

    The larger of two models: errors that grow with path, turn and time (what wheel and visual
    odometry do), and the growth of the covariance that the odometry itself reports along its
    worst axes. Many drivers report a constant or nothing, whose growth is zero. Where an end was
    carried on, the robot may have changed its speed.

    Returns:
        ``[6, 6]`` diagonal, metres and radians squared, alike along every axis because the axes
        of odometry and map need not agree.
    """
    straight_m, straight_rad = start.odom_from_base.distance(end.odom_from_base)
    # A path is counted in steps, so the last bit of one may not have been counted yet.
    metres = max(abs(end.travelled_m - start.travelled_m), straight_m)
    radians = max(abs(end.turned_rad - start.turned_rad), straight_rad)
    seconds = abs(end.stamp_ns - start.stamp_ns) * 1e-9
    grown = np.fmax(end.reported - start.reported, 0.0)  # zero where either is unknown
    carried = 0.5 * (start.ahead_s**2 + end.ahead_s**2)
    sigma_rad = config.odometry_rad_per_rad * radians + config.odometry_rad_per_m * metres
    # A heading that drifts on the way leads half its error aside.
    aside_m = 0.5 * sigma_rad * straight_m
    sigma_m = config.odometry_m_per_m * metres + config.odometry_m_per_s * seconds + aside_m
    return diagonal(
        max(sigma_m + carried * _ACCELERATION_M, float(np.sqrt(grown[:3].max()))),
        max(sigma_rad + carried * _ACCELERATION_RAD, float(np.sqrt(grown[3:].max()))),
    )


def _is_zero(pose: Pose) -> bool:
    """Where drivers begin."""
    metres, radians = pose.distance(Pose.identity())
    return metres < _ZERO_M and radians < _ZERO_RAD


def _carried_on(
    samples: Sequence[OdometrySample], stamp_ns: int, max_gap_ns: int
) -> OdometrySample | None:
    """The newest sample moved on with its velocity: that of 60 ms, or since the one before it."""
    last = samples[-1]
    ahead_ns = stamp_ns - last.stamp_ns
    if ahead_ns > max_gap_ns or len(samples) < 2:
        return None
    recent = bisect_left(samples, last.stamp_ns - _SPEED_SPAN_NS, key=lambda s: s.stamp_ns)
    before = samples[min(recent, len(samples) - 2)]
    span_ns = last.stamp_ns - before.stamp_ns
    if span_ns > max_gap_ns:
        return None
    step = (before.odom_from_base.inverse() @ last.odom_from_base).log() * (ahead_ns / span_ns)
    pose = last.odom_from_base @ Pose.exp(step)
    metres, radians = last.odom_from_base.distance(pose)
    return replace(
        last,
        stamp_ns=stamp_ns,
        odom_from_base=pose,
        travelled_m=last.travelled_m + metres,
        turned_rad=last.turned_rad + radians,
        ahead_s=ahead_ns * 1e-9,
    )


def _between(
    left: OdometrySample, right: OdometrySample, stamp_ns: int, max_gap_ns: int
) -> OdometrySample | None:
    span_ns = right.stamp_ns - left.stamp_ns
    if span_ns > max_gap_ns:
        return None
    f = (stamp_ns - left.stamp_ns) / span_ns
    return OdometrySample(
        stamp_ns,
        left.odom_from_base.interpolate(right.odom_from_base, f),
        (1.0 - f) * left.travelled_m + f * right.travelled_m,
        (1.0 - f) * left.turned_rad + f * right.turned_rad,
        (1.0 - f) * left.reported + f * right.reported,
        left.epoch,
    )
