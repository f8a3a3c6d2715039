"""Which frames structure from motion looks at: spread over the motion, the sharpest of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.geometry.trajectory import motion_along
from crossfire_core.recordings.checks.images import blur_of
from crossfire_core.recordings.lazy import Recording

_WIDTH = 320  # pixels, enough to tell motion
_CORNERS = 200  # of which the median motion is taken
_STILL = 1e-3  # share of the image's width; less is the noise of a standing camera


@dataclass(frozen=True)
class Look:
    """What a glance at every frame says.

    Attributes:
        blur: ``[n]`` 0 (crisp) to 1.
        travelled: ``[n]`` motion up to each frame, growing, of any unit.
    """

    blur: NDArray[np.float64]
    travelled: NDArray[np.float64]


def glance(
    recording: Recording,
    odometry: Sequence[Pose | None],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Look:
    """Decode every frame once, small.

    Args:
        recording: one session.
        odometry: ``odom_from_camera`` of each frame; where one is missing, motion is measured
            by the optical flow instead.
        tell: called with frames done and in all.
    """
    known = [pose for pose in odometry if pose is not None]
    by_odometry = len(known) == len(recording)
    blur, flow = [], [0.0]
    before = None
    for done, frame in enumerate(recording, 1):
        grey = _small(frame.image)
        blur.append(blur_of(grey))
        if not by_odometry and before is not None:
            flow.append(flow_between(before, grey))
        before = grey
        tell(done, len(recording))
    travelled = motion_along(known) if by_odometry else np.cumsum(flow)
    return Look(np.array(blur), travelled)


def choose_keyframes(look: Look, count: int) -> list[int]:
    """The sharpest frame in each of ``count`` equal shares of the motion.

    Shares without a frame are passed over, and a standing camera gives one frame.

    Args:
        look: what :func:`glance` saw.
        count: largest number of keyframes.

    Returns:
        Positions of the frames, rising.
    """
    frames = len(look.travelled)
    if frames <= count:
        return list(range(frames))
    total = max(float(look.travelled[-1]), 1e-12)
    share = np.minimum((look.travelled / total * count).astype(int), count - 1)
    chosen = []
    for number in np.unique(share):
        inside = np.flatnonzero(share == number)
        chosen.append(int(inside[look.blur[inside].argmin()]))
    return chosen


def flow_between(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """How far the picture moved from one image to the next, as a share of its width."""
    corners: Any = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 8)  # None for a blank image
    if corners is None:
        return _STILL
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)  # type: ignore[call-overload]
    good = found[:, 0] == 1
    if good.sum() < 8:
        return 0.5  # nothing could be followed: a large motion, or a cut
    length = np.linalg.norm((moved - corners)[good].reshape(-1, 2), axis=1)
    share = float(np.median(length)) / before.shape[1]
    return share if share > _STILL else 0.0


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _WIDTH / grey.shape[1])
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)
