"""Whether an image can show anything: before it costs any work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera
from crossfire_core.localization.odometry import OdometryHistory

_STEP = 8  # every eighth pixel along both sides tells whether an image is the last one again
# Odometry that moves by less in a second only creeps or trembles: the robot stands.
_STILL_M, _STILL_RAD = 0.02, 0.02
_STILL_NS = 1_000_000_000  # the second of these


class ImageCheck:
    """Refuses images that are dark, of the wrong size, or come from a camera that is frozen."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self._last: tuple[int, NDArray[np.uint8]] | None = None
        self._same_since_ns = 0

    def forget(self) -> None:
        """The next image is taken for the first one."""
        self._last = None

    def refusal(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        stamp_ns: int,
        odometry: OdometryHistory,
        min_contrast: float,
    ) -> str:
        """Why an image shows nothing new, or an empty string.

        Args:
            image: ``[height, width, 3]`` uint8 RGB.
            camera: its calibration.
            stamp_ns: nanoseconds, later than that of the image before.
            odometry: tells whether the robot stands, as the same image may come again then.
            min_contrast: smallest standard deviation of the grey levels.
        """
        if image.shape != (camera.height, camera.width, 3):
            return (
                f"image has shape {image.shape}, its calibration is for "
                f"{camera.width}x{camera.height}"
            )
        thumbnail = image[::_STEP, ::_STEP].copy()
        if float(thumbnail.std()) < min_contrast:
            self.forget()
            return "image shows nothing: is the camera covered or dark?"
        before, self._last = self._last, (stamp_ns, thumbnail)
        if before is None or not np.array_equal(before[1], thumbnail):
            self._same_since_ns = stamp_ns
            return ""
        # The very same pixels again: fine on a robot that stands still (in simulation, say),
        # a stuck driver on one that moves.
        if _stands(
            odometry, max(self._same_since_ns, min(before[0], stamp_ns - _STILL_NS)), stamp_ns
        ):
            return ""
        return "camera is frozen: the same image again, and the robot may have moved"


def _stands(odometry: OdometryHistory, since_ns: int, until_ns: int) -> bool:
    """Whether a robot moves no faster than odometry creeps on one that stands."""
    before, now = odometry.at(since_ns), odometry.at(until_ns)
    if before is None or now is None:
        return False
    metres, radians = before.odom_from_base.distance(now.odom_from_base)
    seconds = max(1.0, (until_ns - since_ns) / _STILL_NS)
    return metres < _STILL_M * seconds and radians < _STILL_RAD * seconds
