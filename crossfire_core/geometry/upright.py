"""Where up is in a map, and the plane below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry.pose import Pose

FloatArray = NDArray[np.float64]


def up_direction(poses: Sequence[Pose]) -> FloatArray:
    """Where up is in the map, ``[3]`` unit: the mean of the cameras' upward axes.

    A map axis within 20 degrees of it is taken instead, since most maps are levelled.
    """
    mean = -np.sum([p.rotation[:, 1] for p in poses], axis=0)
    up = mean / max(float(np.linalg.norm(mean)), 1e-12)
    axis = int(np.argmax(np.abs(up)))
    if abs(up[axis]) > np.cos(np.radians(20.0)):
        up = np.sign(up[axis]) * np.eye(3)[axis]
    return np.asarray(up, dtype=np.float64)


def plane_axes(up: FloatArray) -> FloatArray:
    """Two axes ``[2, 3]`` that look down along ``up``; the map's x and y if z is up."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(up[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = helper - (helper @ up) * up
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])
