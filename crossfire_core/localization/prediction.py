"""Where a robot should be, from where it was: odometry as far as it reaches, then blind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Pose
from crossfire_core.localization.odometry import (
    OdometryHistory,
    OdometrySample,
    motion_covariance,
)
from crossfire_core.localization.uncertainty import FloatArray, at_lever, diagonal, symmetric

_VELOCITY_SPAN_NS = 1_000_000_000  # older fixes say nothing about how fast the robot is now
_LONGEST_CARRY_S = 1.0  # nobody keeps his velocity for longer


class PriorKind(str, Enum):
    """Where the starting point of a localization came from."""

    NONE = "none"
    GLOBAL = "global"
    HINT = "hint"
    ODOMETRY = "odometry"
    VELOCITY = "velocity"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Smoothed:
    """A pose with all that fixes and odometry have said so far.

    Attributes:
        map_from_base: the pose.
        covariance: ``[6, 6]`` of it, if errors of fixes were independent; they are not, so it
            weighs the next fix and is not for publishing.
    """

    map_from_base: Pose
    covariance: FloatArray


@dataclass(frozen=True)
class Anchor:
    """A pose at a time, from which later poses are predicted.

    Attributes:
        stamp_ns: nanoseconds.
        map_from_base: the pose.
        covariance: ``[6, 6]`` of the base in the map.
        odometry: the odometry at that time, or None.
        velocity: ``[6]`` twist of the base in its own axes, a second, or None.
        waits: without odometry, whether the pose stays as certain as it was (a hint that
            somebody gave does; a fix on a moving robot does not).
        shown: of a fix, the pose to publish where fixes are smoothed, else None; predictions
            start from the fix itself.
    """

    stamp_ns: int
    map_from_base: Pose
    covariance: FloatArray
    odometry: OdometrySample | None = None
    velocity: FloatArray | None = None
    waits: bool = False
    shown: Smoothed | None = None

    @property
    def published(self) -> Pose:
        """``map_from_base`` for others."""
        return self.map_from_base if self.shown is None else self.shown.map_from_base


@dataclass(frozen=True)
class Prediction:
    """Where the robot should be.

    Attributes:
        map_from_base: the pose.
        covariance: ``[6, 6]``, grown with the motion since the anchor.
        kind: what moved it there.
    """

    map_from_base: Pose
    covariance: FloatArray
    kind: PriorKind


def carried(
    anchor: Anchor, stamp_ns: int, odometry: OdometryHistory, config: TrackingConfig
) -> Prediction:
    """Where the robot is at a time that once was at an anchor.

    Args:
        anchor: a pose at another time.
        stamp_ns: nanoseconds.
        odometry: the recent past; where it ends early, the rest of the time is blind.
        config: errors of odometry, and of a robot without.
    """
    then = anchor.odometry
    now = odometry.at(stamp_ns) or odometry.before(stamp_ns)
    if then is None or now is None or now.epoch != then.epoch:
        return _blind(anchor, stamp_ns, config)
    if now.stamp_ns <= then.stamp_ns < stamp_ns:  # none since the anchor
        return _blind(anchor, stamp_ns, config)
    step = then.odom_from_base.inverse() @ now.odom_from_base
    moved = _moved(anchor, step, motion_covariance(then, now, config), PriorKind.ODOMETRY)
    if now.stamp_ns == stamp_ns:
        return moved
    return _blind(Anchor(now.stamp_ns, moved.map_from_base, moved.covariance), stamp_ns, config)


def velocity_between(before: Anchor | None, now: Anchor) -> FloatArray | None:
    """``[6]`` twist a second between two fixes in the axes of the robot, None if too far apart."""
    if before is None or not 0 < now.stamp_ns - before.stamp_ns <= _VELOCITY_SPAN_NS:
        return None
    step = (before.map_from_base.inverse() @ now.map_from_base).log()
    return np.asarray(step / ((now.stamp_ns - before.stamp_ns) * 1e-9))


def _blind(anchor: Anchor, stamp_ns: int, config: TrackingConfig) -> Prediction:
    """With the last velocity, and as uncertain as a robot is that nothing is heard of."""
    if anchor.waits:
        return Prediction(anchor.map_from_base, anchor.covariance, PriorKind.HINT)
    seconds = abs(stamp_ns - anchor.stamp_ns) * 1e-9
    step = Pose.identity()
    if anchor.velocity is not None:
        step = Pose.exp(anchor.velocity * min(seconds, _LONGEST_CARRY_S))
    noise = diagonal(config.blind_m_per_s * seconds, config.blind_rad_per_s * seconds)
    return _moved(anchor, step, noise, PriorKind.VELOCITY)


def _moved(anchor: Anchor, step: Pose, noise: FloatArray, kind: PriorKind) -> Prediction:
    """An anchor moved by ``then_from_now``, its covariance carried along and grown."""
    lever = anchor.map_from_base.rotation @ step.translation
    covariance = symmetric(at_lever(anchor.covariance, lever) + noise)
    return Prediction(anchor.map_from_base @ step, covariance, kind)
