"""Which way an image goes while a robot is followed: the full way, or on patches alone.

The full way renders descriptors at the prior, matches, solves, and finishes on patches. Where it
keeps up with the camera every image goes it. Where the camera is faster, patches go first from the
odometry's prior, and the full way comes back as an independent check of where the robot is.

Only images that are looked at are known here. A camera that is faster loses images to those, but
never so many that the full way takes less than half of the time between them.
"""

from __future__ import annotations

from crossfire_core.config import TrackingConfig
from crossfire_core.localization.estimate import PoseEstimate, Way

_RECENT = 0.2  # weight of the newest measurement in a running mean
_KEEPS_UP = 0.5  # of the time between images: what takes more may have cost images in between


class Pace:
    """Knows how fast the camera is, how long the full way takes, and when it was last gone."""

    def __init__(self) -> None:
        """Nothing is known: the full way comes first."""
        self._full_ms: float | None = None
        self._interval_ms: float | None = None
        self._last_ns: int | None = None
        self._checked_ns: int | None = None

    def seen(self, stamp_ns: int) -> None:
        """An image came."""
        if self._last_ns is not None and stamp_ns > self._last_ns:
            self._interval_ms = _blended(self._interval_ms, (stamp_ns - self._last_ns) * 1e-6)
        self._last_ns = stamp_ns

    def gone(self, stamp_ns: int, estimate: PoseEstimate) -> None:
        """An image was localized, one way or the other."""
        if estimate.way is Way.PATCHES or not estimate.ok:
            return
        self._full_ms = _blended(self._full_ms, sum(estimate.timings_ms.values()))
        self._checked_ns = stamp_ns

    def follows(self, config: TrackingConfig, stamp_ns: int) -> bool:
        """Whether patches may go first now; never without a check since ``check_every_s``."""
        checked = self._checked_ns
        if config.way == "full" or checked is None:
            return False
        if not 0 <= stamp_ns - checked < config.check_every_s * 1e9:
            return False
        if config.way == "patches":
            return True
        interval, full = self._interval_ms, self._full_ms
        return interval is not None and full is not None and full > _KEEPS_UP * interval


def _blended(mean: float | None, value: float) -> float:
    return value if mean is None else (1.0 - _RECENT) * mean + _RECENT * value
