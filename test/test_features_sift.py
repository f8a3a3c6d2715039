"""SIFT keypoints lie where they are seen."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from crossfire_core.vision.sift import root_sift


def spots(seed: int = 0) -> np.ndarray:
    """Blurred noise of many scales, which has corners and blobs everywhere."""
    rng = np.random.default_rng(seed)
    total = np.zeros((240, 320))
    for size in (1, 2, 4, 8):
        noise = rng.normal(size=total.shape).astype(np.float32)
        blurred = cv2.GaussianBlur(noise, None, size)
        total += blurred / blurred.std()
    return cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_an_image_turned_by_half_has_its_keypoints_turned_by_half():
    """Any pull to one side would show twice, as it turns with the picture."""
    grey = spots()
    there, _ = root_sift(grey, 500, 0.02)
    turned, _ = root_sift(np.ascontiguousarray(grey[::-1, ::-1]), 500, 0.02)
    back = np.array([320.0, 240.0]) - turned
    distance, nearest = cKDTree(back).query(there)
    same = distance < 1.5
    assert same.sum() > 100
    pull = np.median(there[same] - back[nearest[same]], axis=0) / 2
    np.testing.assert_allclose(pull, 0.0, atol=0.02)


def test_descriptors_are_unit_vectors_and_no_more_than_asked_for():
    """Of every keypoint."""
    pixels, descriptors = root_sift(spots(), 50)
    assert pixels.shape == (len(descriptors), 2) and 0 < len(pixels) <= 50
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)


def test_a_blank_image_has_none():
    """And that is no error."""
    pixels, descriptors = root_sift(np.full((64, 64), 90, np.uint8), 100)
    assert pixels.shape == (0, 2) and descriptors.shape == (0, 128)
