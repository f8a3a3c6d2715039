"""Keypoints of the keyframes and which of them belong together in a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.files import read_arrays, write_arrays
from crossfire_core.geometry import Camera
from crossfire_core.vision.sift import root_sift

_RATIO = 0.8  # Lowe's
_CONTRAST = 0.015  # low, so that dim walls have keypoints
_QUANTUM = 512.0  # as COLMAP stores root-SIFT: an eighth of the memory, no visible loss


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints of one image.

    Attributes:
        pixels: ``[k, 2]`` float32, centres at .5.
        descriptors: ``[k, 128]`` float32, unit (root-SIFT).
    """

    pixels: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def detect(image: NDArray[np.uint8], count: int, camera: Camera) -> LocalFeatures:
    """The strongest SIFT keypoints of an image ``[height, width, 3]`` RGB, on usable pixels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pixels, root = root_sift(grey, count, _CONTRAST, camera.usable)
    return LocalFeatures(pixels.astype(np.float32), _unit(np.rint(root * _QUANTUM).clip(0, 255)))


def match(a: LocalFeatures, b: LocalFeatures) -> NDArray[np.uint32]:
    """Mutual nearest neighbours that beat their runner-up, as ``[m, 2]`` indices."""
    if min(len(a.pixels), len(b.pixels)) < 2:
        return np.zeros((0, 2), np.uint32)
    cosine = a.descriptors @ b.descriptors.T
    rows = np.arange(len(cosine))
    best, column_best = cosine.argmax(axis=1), cosine.max(axis=0)
    first = cosine[rows, best]
    mutual = first >= column_best[best]
    cosine[rows, best] = -1.0
    second = cosine.max(axis=1)
    # of unit vectors, squared distances are 2 - 2 cos
    clear = (1.0 - first) < _RATIO**2 * (1.0 - second)
    use = clear & mutual
    return np.stack([rows[use], best[use]], axis=1).astype(np.uint32)


def save(path: Path, features: LocalFeatures) -> None:
    """Keep features, to go on from after an interruption."""
    write_arrays(path, pixels=features.pixels, words=_bytes(features.descriptors))


def load(path: Path) -> LocalFeatures | None:
    """What :func:`save` kept, or None where it is not there or damaged."""
    stored = read_arrays(path)
    if stored is None or not {"pixels", "words"} <= set(stored):
        return None
    return LocalFeatures(stored["pixels"], _unit(stored["words"].astype(np.float32)))


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-9), dtype=np.float32)


def _bytes(descriptors: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(descriptors * _QUANTUM).clip(0, 255), dtype=np.uint8)
