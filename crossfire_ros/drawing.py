"""Pictures for `~/debug_image`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.localization.tracker import TrackResult

_GREEN, _RED, _WHITE, _BLACK = (60, 220, 60), (230, 60, 50), (255, 255, 255), (0, 0, 0)


def draw_matches(image: NDArray[np.uint8], result: TrackResult) -> NDArray[np.uint8]:
    """The camera image with its matches, inliers green, and the outcome in words.

    Args:
        image: ``[height, width, 3]`` uint8 RGB; not changed.
        result: of that image.
    """
    canvas = np.ascontiguousarray(image).copy()
    details = result.estimate.details if result.estimate is not None else None
    if details is not None:
        order = np.argsort(details.inlier)  # inliers last, on top
        for (x, y), good in zip(details.pixels[order], details.inlier[order], strict=True):
            cv2.circle(canvas, (round(x - 0.5), round(y - 0.5)), 2, _GREEN if good else _RED, -1)
    text = result.state.value
    if result.estimate is not None:
        text += f", {result.estimate.inliers} inliers"
    if result.reason:
        text += f": {result.reason}"
    scale = max(0.4, image.shape[1] / 1600)
    at = (8, image.shape[0] - 10)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK, 3, cv2.LINE_AA)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, 1, cv2.LINE_AA)
    return canvas
