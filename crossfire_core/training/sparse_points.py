"""Depths that are known before training, in some pixels of the mapping images.

They tell how large the scene is and where surfaces are, which the photometric loss alone
learns slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossfire_core.training.views import View
from crossfire_core.vision.sparse_points import SparsePoints


def depth_image_points(
    views: Sequence[View], rng: np.random.Generator, per_view: int = 4000, noise: float = 0.01
) -> SparsePoints:
    """Observations from the views' depth images, where they have any.

    Args:
        views: mapping views.
        rng: picks the pixels.
        per_view: at most so many a view.
        noise: relative standard deviation of a measured depth.
    """
    numbers, pixels, points, sigmas = [], [], [], []
    for number, view in enumerate(views):
        if view.depth is None:
            continue
        known = np.isfinite(view.depth) & (view.depth > 0)
        if view.camera.usable is not None:
            known &= view.camera.usable
        rows, columns = np.nonzero(known)
        if len(rows) == 0:
            continue
        picks = rng.choice(len(rows), min(per_view, len(rows)), replace=False)
        pixel = np.stack([columns[picks], rows[picks]], axis=1) + 0.5
        bearing = view.camera.bearings(pixel)
        distance = view.depth[rows[picks], columns[picks]] / bearing[:, 2]
        numbers.append(np.full(len(picks), number))
        pixels.append(pixel)
        points.append(view.map_from_camera.apply(bearing * distance[:, None]))
        sigmas.append(np.maximum(noise * distance, 0.005))
    if not numbers:
        return SparsePoints.none()
    parts = (numbers, pixels, points, sigmas)
    return SparsePoints(*(np.concatenate(p) for p in parts))
