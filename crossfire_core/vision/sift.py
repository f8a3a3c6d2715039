"""SIFT keypoints: for structure from motion, for sparse depth, for checks and for a peer."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def root_sift(
    grey: NDArray[Any],
    count: int,
    contrast: float = 0.04,
    usable: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The strongest keypoints of a grey image.

    The image is doubled for the finest scale; unless that is done precisely, OpenCV's keypoints
    all lie a quarter of a pixel too far right and down.

    Args:
        grey: ``[height, width]`` uint8.
        count: at most so many keypoints.
        contrast: least contrast; lower finds more, fainter ones.
        usable: ``[height, width]`` where keypoints may lie, a little away from the border of what
            may not be used, which looks like an edge; None for everywhere.

    Returns:
        Pixels ``[k, 2]``, centres at .5, and root-SIFT descriptors ``[k, 128]`` of unit length
        (Arandjelovic and Zisserman 2012, "Three things everyone should know").
    """
    sift: Any = cv2.SIFT.create(
        nfeatures=count, contrastThreshold=contrast, enable_precise_upscale=True
    )
    where = None if usable is None else cv2.erode(usable.astype(np.uint8), np.ones((7, 7)))
    found, values = sift.detectAndCompute(grey, where)
    if values is None or not found:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    pixels = np.array([keypoint.pt for keypoint in found], np.float64)[:count] + 0.5
    values = np.asarray(values, np.float32)[:count]
    root = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-9))
    return pixels, root
