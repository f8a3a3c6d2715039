"""Images and cameras turned by quarters of a turn about the optical axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry.camera import Camera
from crossfire_core.geometry.mask import Mask
from crossfire_core.geometry.pose import Pose

# Where a model's tangential coefficients p1, p2 stand; of the others only those of thin prisms and
# of a tilted sensor change with a turn, which follow in the rational model.
_TANGENTIAL = {"radtan": 2, "rational": 2, "omni": 3}
# Axes after a quarter anticlockwise: what went down goes right, what went right goes up.
_QUARTER = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def turned_from_camera(quarters: int) -> Pose:
    """How directions in a camera are seen by one whose image is turned anticlockwise."""
    return Pose(np.linalg.matrix_power(_QUARTER, quarters % 4), np.zeros(3))


def turned_image(image: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    """An image turned anticlockwise, in one piece of memory."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def turned_camera(camera: Camera, quarters: int) -> Camera:
    """The camera of an image that was turned anticlockwise."""
    for _ in range(quarters % 4):
        camera = _quarter(camera)
    return camera


def turned_pixels(
    pixels: NDArray[np.float64], camera: Camera, quarters: int
) -> NDArray[np.float64]:
    """Pixels ``[n, 2]`` of a camera's image where they lie once it is turned anticlockwise."""
    for _ in range(quarters % 4):
        pixels = np.stack([pixels[:, 1], camera.width - pixels[:, 0]], axis=1)
        camera = _quarter(camera)
    return pixels


def _quarter(camera: Camera) -> Camera:
    coefficients = list(camera.coefficients)
    first = _TANGENTIAL.get(camera.distortion)
    if first is not None and len(coefficients) > first + 1:
        p1, p2 = coefficients[first : first + 2]
        coefficients[first : first + 2] = -p2, p1
    s1, s2, s3, s4 = coefficients[8:12] or [0.0] * 4
    coefficients[8:12] = (s3, s4, -s1, -s2)[: len(coefficients[8:12])]
    if tilt := coefficients[12:]:  # exact up to the product of both angles, which are small
        coefficients[12:] = tilt[1], -tilt[0]
    return replace(
        camera,
        width=camera.height,
        height=camera.width,
        fx=camera.fy,
        fy=camera.fx,
        cx=camera.cy,
        cy=camera.width - camera.cx,
        coefficients=tuple(coefficients),
        mask=camera.mask and Mask(np.ascontiguousarray(np.rot90(camera.mask.usable))),
    )
