"""What can be said of a scene before training: its size, its place, its sparse depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.field.scene_box import SceneBox
from crossfire_core.rendering.sampling import Spacing
from crossfire_core.training.views import View
from crossfire_core.vision.sparse_points import SparsePoints

_OPEN = 2.0  # a scene that reaches so many times beyond the cameras' foreground is open
_FOREGROUND = 3.0  # ends so many times further off than the nearest tenth of all points


@dataclass(frozen=True)
class Survey:
    """The frame in which the field is built.

    Attributes:
        box: the inner box of the scene.
        spacing: how samples spread along rays.
        sparse: triangulated depths, possibly none.
    """

    box: SceneBox
    spacing: Spacing
    sparse: SparsePoints


def survey(views: Sequence[View], sparse: SparsePoints) -> Survey:
    """Fit box and spacing to the cameras and the points they see.

    Without points (too few matches) the scene is assumed to reach three times as far as the
    cameras moved.
    """
    centres = np.stack([v.map_from_camera.translation for v in views])
    points = sparse.point if len(sparse) >= 200 else _guessed_points(views, centres)
    low, high = np.percentile(points, [3, 97], axis=0)
    low, high = np.minimum(low, centres.min(axis=0)), np.maximum(high, centres.max(axis=0))
    half, middle = float((high - low).max()) / 2, (low + high) / 2
    spacing = _spacing(views, sparse, half)
    near = float(np.ptp(centres, axis=0).max()) / 2 + spacing.knee
    if half > _OPEN * near:
        half, middle = near, (centres.max(axis=0) + centres.min(axis=0)) / 2
    half = max(1.1 * half, 1e-3)
    box = SceneBox((float(middle[0]), float(middle[1]), float(middle[2])), half)
    return Survey(box, spacing, sparse)


def _spacing(views: Sequence[View], sparse: SparsePoints, half: float) -> Spacing:
    if len(sparse) < 200:
        return Spacing(0.02 * half, 20.0 * half, half)
    centres = np.stack([views[i].map_from_camera.translation for i in sparse.view])
    distance = np.linalg.norm(sparse.point - centres, axis=1)
    near, few, middle, far = np.percentile(distance, [0.2, 10, 50, 99])
    # what is near says where a camera is, also where most of an image is the horizon
    knee = min(middle, _FOREGROUND * few)
    # rooms end soon behind the farthest point; outdoors the farthest points stand for the sky
    return Spacing(0.4 * float(near), 2.0 * float(far), float(knee))


def _guessed_points(views: Sequence[View], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    extent = float(np.linalg.norm(np.ptp(centres, axis=0))) or 1.0
    axes = np.stack([v.map_from_camera.rotation[:, 2] for v in views])
    return np.concatenate([centres, centres + 3.0 * extent * axes])
