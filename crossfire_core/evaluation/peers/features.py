"""Local features of the peers, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.vision.sift import root_sift

FloatArray = NDArray[np.float64]
Descriptors = NDArray[np.float32]
Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """Keypoints of one image.

    Attributes:
        pixels: ``[n, 2]``, centres at .5.
        descriptors: ``[n, d]`` float32, unit length.
        size: (width, height) of the image.
    """

    pixels: FloatArray
    descriptors: Descriptors
    size: tuple[int, int]


class FeatureMethod(Protocol):
    """A detector with descriptors and the rule that matches them.

    Attributes:
        name: for tables.
        bytes_a_number: of a stored descriptor.
        noise_px: how far off a matched keypoint may be, pixels of a 640 px wide image.
    """

    name: str
    bytes_a_number: int
    noise_px: float

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of an RGB image."""
        ...

    def match(self, a: Features, b: Features) -> Pairs:
        """Corresponding keypoints ``[m, 2]`` (index in a, index in b)."""
        ...


def mutual_matches(a: Descriptors, b: Descriptors, ratio: float, least: float) -> Pairs:
    """Mutual nearest neighbours by cosine.

    Args:
        a: ``[n, d]`` unit.
        b: ``[m, d]`` unit.
        ratio: the distance to the nearest must be below this share of that to the second
            nearest; 1 or more asks nothing.
        least: least cosine.

    Returns:
        ``[k, 2]`` indices into a and b.
    """
    if len(a) == 0 or len(b) < 2:
        return np.zeros((0, 2), np.int64)
    similar = a @ b.T
    forward, backward = similar.argmax(axis=1), similar.argmax(axis=0)
    index = np.arange(len(a))
    best = similar[index, forward]
    keep = (backward[forward] == index) & (best >= least)
    if ratio < 1.0:
        similar[index, forward] = -np.inf
        second = similar.max(axis=1)
        keep &= (1 - best) <= ratio**2 * (1 - second)
    return np.stack([index[keep], forward[keep]], axis=1)


class Sift:
    """Root-SIFT as OpenCV computes it."""

    name = "SIFT"
    bytes_a_number = 1
    noise_px = 2.0

    def __init__(self, count: int = 2000, ratio: float = 0.85) -> None:
        """Keep the ``count`` strongest keypoints; match with a ratio test."""
        self._count = count
        self._ratio = ratio

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of an RGB image."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        pixels, descriptors = root_sift(grey, self._count, contrast=0.01)
        return Features(pixels, descriptors, (image.shape[1], image.shape[0]))

    def match(self, a: Features, b: Features) -> Pairs:
        """Mutual nearest neighbours with the ratio test."""
        return mutual_matches(a.descriptors, b.descriptors, self._ratio, -1.0)
