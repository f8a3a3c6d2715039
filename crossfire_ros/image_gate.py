"""Which images are looked at: a robot has other things to compute."""

from __future__ import annotations

import math

from crossfire_core.localization.tracker import Tracker, TrackingState
from crossfire_ros.settings import NodeConfig

# Of the time after which a robot without a fix counts as coasting.
_LOOK_AFTER = 0.5


class RateLimit:
    """Lets images pass at a rate, on average also where their stamps jitter."""

    def __init__(self) -> None:
        """Let the first one pass."""
        self._due_ns = -math.inf

    def passes(self, stamp_ns: int, rate: float) -> bool:
        """Whether an image is due.

        Args:
            stamp_ns: of the image; one far before the others begins anew.
            rate: Hz, 0 for no limit.
        """
        if rate <= 0.0:
            return True
        period_ns = 1e9 / rate
        early = self._due_ns - stamp_ns
        if 0.0 < early <= period_ns:
            return False
        on_time = -period_ns < early <= 0.0
        self._due_ns = (self._due_ns if on_time else stamp_ns) + period_ns
        return True


def stands(tracker: Tracker, stamp_ns: int, config: NodeConfig) -> bool:
    """Whether an image cannot show anything new: the robot is where the last fix was.

    Args:
        tracker: that knows the last fix and the odometry.
        stamp_ns: of the image.
        config: how far the robot must have moved.
    """
    fix = tracker.last_fix
    if config.min_motion_m <= 0.0 or fix is None or fix.odometry is None:
        return False
    if tracker.state is not TrackingState.TRACKING:
        return False
    if not 0 <= stamp_ns - fix.stamp_ns < _LOOK_AFTER * tracker.config.coast_after_s * 1e9:
        return False
    now = tracker.odometry.at(stamp_ns)
    if now is None or now.epoch != fix.odometry.epoch:
        return False
    metres, radians = fix.odometry.odom_from_base.distance(now.odom_from_base)
    return metres < config.min_motion_m and math.degrees(radians) < config.min_motion_deg
