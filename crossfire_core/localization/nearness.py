"""How differently two cameras see a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose

FloatArray = NDArray[np.float64]


class ViewDistances:
    """How far a pose is from each mapping view, in radians of parallax and of turning."""

    def __init__(self, poses: Sequence[Pose], median_distance: float) -> None:
        """Keep the views.

        Args:
            poses: ``map_from_camera`` of all views.
            median_distance: of the surfaces from the cameras, metres.
        """
        self._centres = np.stack([pose.translation for pose in poses])
        self._axes = np.stack([pose.rotation[:, 2] for pose in poses])
        self._distance = median_distance

    def of(self, map_from_camera: Pose) -> FloatArray:
        """Of every view, ``[views]``: parallax and angle between the optical axes, added."""
        away = np.linalg.norm(self._centres - map_from_camera.translation, axis=1)
        turned = np.arccos(np.clip(self._axes @ map_from_camera.rotation[:, 2], -1.0, 1.0))
        return np.asarray(away / self._distance + turned)


def closeness(far: FloatArray, near: float, least: float) -> FloatArray:
    """Weights ``[views]`` by distance, 1 for the nearest view.

    Args:
        far: distances of the views.
        near: views this far off still count much alike.
        least: added to all: where none is near, the others decide.
    """
    weight = least + np.exp(-0.5 * (far / near) ** 2)
    return np.asarray(weight / weight.max())
