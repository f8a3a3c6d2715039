"""Whether the images of a recording are raw or rectified, measured where nothing says it.

Matched pixels of two straight images lie on each other's epipolar lines, whatever the focal length
is; those of bent images do so only once the lens is taken out. No poses are needed for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.features.sift import root_sift
from crossfire_core.geometry import Camera
from crossfire_core.recordings.lazy import Recording

FloatArray = NDArray[np.float64]

_WIDTH, _FEATURES, _RATIO = 640, 1200, 0.8
_PAIRS, _STEP = 8, 4
_LEAST_MATCHES = 40
# Pixels of a 640 px wide image; what a lens bends is several times as much.
_THRESHOLD_PX = 0.7
# The better of the two must hold so much more of the matches.
_CLEARLY = 1.05


def looks_straight(recording: Recording, raw: Camera) -> bool | None:
    """Whether images look rectified rather than taken through a lens; None if they do not tell.

    Args:
        recording: whose images are looked at, some sixteen of them.
        raw: the camera that they are of if they are raw.
    """
    pairs = _pairs(len(recording))
    needed = sorted({i for pair in pairs for i in pair})
    seen = {
        index: _features(frame.image)
        for index, frame in zip(needed, recording.frames(needed), strict=True)
    }
    straight = bent = 0
    for first, second in pairs:
        a, b = _matched(seen[first], seen[second])
        if len(a) < _LEAST_MATCHES:
            continue
        straight += _agreeing(a, b, raw)
        bent += _agreeing(_unbent(raw, a), _unbent(raw, b), raw)
    if max(straight, bent) < _LEAST_MATCHES:
        return None
    if max(straight, bent) < _CLEARLY * min(straight, bent):
        return None
    return straight > bent


def _pairs(count: int) -> list[tuple[int, int]]:
    """Images spread over a recording, each with one soon after it."""
    starts = np.unique(np.linspace(0, max(0, count - 1 - _STEP), _PAIRS).astype(int))
    return [(int(i), min(int(i) + _STEP, count - 1)) for i in starts if i < count - 1]


def _features(image: NDArray[np.uint8]) -> tuple[FloatArray, NDArray[np.float32]]:
    """Pixels ``[n, 2]`` of the full-size image and descriptors ``[n, 128]``."""
    scale = min(1.0, _WIDTH / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels, descriptors = root_sift(small, _FEATURES)
    return pixels / scale, descriptors


def _matched(
    a: tuple[FloatArray, NDArray[np.float32]], b: tuple[FloatArray, NDArray[np.float32]]
) -> tuple[FloatArray, FloatArray]:
    """Pixels of two images that look alike and like no other."""
    if min(len(a[0]), len(b[0])) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    candidates: Sequence[Sequence[cv2.DMatch]] = cv2.BFMatcher().knnMatch(a[1], b[1], k=2)
    good = [m for m, n in candidates if m.distance < _RATIO * n.distance]
    return a[0][[m.queryIdx for m in good]], b[0][[m.trainIdx for m in good]]


def _unbent(camera: Camera, pixels: FloatArray) -> FloatArray:
    """Where an ideal pinhole of the same matrix would have seen the same."""
    return camera.undistorted().project(camera.bearings(pixels))


def _agreeing(a: FloatArray, b: FloatArray, camera: Camera) -> int:
    """How many pairs of pixels the best fundamental matrix explains."""
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    threshold = _THRESHOLD_PX * max(camera.size) / _WIDTH
    try:
        _, mask = cv2.findFundamentalMat(a[good], b[good], cv2.USAC_MAGSAC, threshold, 0.999, 2000)
    except cv2.error:  # as it says of some matches that no matrix explains
        return 0
    return int((np.asarray(mask).ravel() == 1).sum())
