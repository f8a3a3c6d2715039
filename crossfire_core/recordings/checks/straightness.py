"""Whether the images of a recording are raw or rectified, measured where nothing says it.

Matched pixels of two straight images lie on each other's epipolar lines, whatever the focal length
is; those of bent images do so only once the lens is taken out. No poses are needed for that.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera
from crossfire_core.recordings.checks.pairs import (
    WIDTH,
    Features,
    distinct_matches,
    read_features,
)
from crossfire_core.recordings.lazy import Recording

FloatArray = NDArray[np.float64]

# Images are compared with one soon after, and with one that shares less but tells more.
_STARTS, _STEPS = 6, (4, 12)
_LEAST_MATCHES = 40  # fewer bend anyhow
# Pixels of the image that features are found in: no more than they are inexact by, since a matrix
# absorbs a good part of what a lens bends.
_THRESHOLD_PX = 0.4
# The better of the two must hold so much more of the matches.
_CLEARLY = 1.05


def looks_straight(recording: Recording, raw: Camera) -> bool | None:
    """Whether images look rectified rather than taken through a lens; None if they do not tell.

    Args:
        recording: whose images are looked at, some sixteen of them.
        raw: the camera that they are of if they are raw.
    """
    pairs = _pairs(len(recording))
    seen: dict[int, Features] = {}
    read_features(recording, (i for pair in pairs for i in pair), seen, lambda done, total: None)
    straight = bent = 0
    for first, second in pairs:
        a, b = distinct_matches(seen[first], seen[second])
        if len(a) < _LEAST_MATCHES:
            continue
        as_straight = _agreeing(a, b, raw)
        as_bent = _agreeing(_unbent(raw, a), _unbent(raw, b), raw)
        if as_straight and as_bent:  # the search fails for some matches, which says nothing
            straight += as_straight
            bent += as_bent
    if max(straight, bent) < _LEAST_MATCHES:
        return None
    if max(straight, bent) < _CLEARLY * min(straight, bent):
        return None
    return straight > bent


def _pairs(count: int) -> list[tuple[int, int]]:
    """Images spread over a recording, each with some soon after it."""
    starts = np.unique(np.linspace(0, max(0, count - 1 - min(_STEPS)), _STARTS).astype(int))
    found = {(int(i), min(int(i) + step, count - 1)) for i in starts for step in _STEPS}
    return sorted((a, b) for a, b in found if a < b)


def _unbent(camera: Camera, pixels: FloatArray) -> FloatArray:
    """Where an ideal pinhole of the same matrix would have seen the same."""
    return camera.undistorted().project(camera.bearings(pixels))


def _agreeing(a: FloatArray, b: FloatArray, camera: Camera) -> int:
    """How many pairs of pixels the best fundamental matrix explains."""
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    threshold = _THRESHOLD_PX * max(1.0, max(camera.size) / WIDTH)
    try:
        _, mask = cv2.findFundamentalMat(a[good], b[good], cv2.USAC_MAGSAC, threshold, 0.999, 2000)
    except cv2.error:  # as it says of some matches that no matrix explains
        return 0
    return int((np.asarray(mask).ravel() == 1).sum())
