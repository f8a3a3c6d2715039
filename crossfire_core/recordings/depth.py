"""Depth images of another camera, seen from the colour camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose


def register_depth(
    depth: NDArray[np.float32], depth_camera: Camera, colour_camera: Camera, colour_from_depth: Pose
) -> NDArray[np.float32]:
    """Move a depth image into the colour camera; of points in one pixel the nearest stays.

    Args:
        depth: ``[h, w]`` metres along z of the depth camera, 0 where unknown.
        depth_camera: its calibration.
        colour_camera: calibration of the image to register to.
        colour_from_depth: where the depth camera sits.

    Returns:
        ``[height, width]`` of the colour camera, metres along its z, 0 where unknown.
    """
    known = depth > 0
    bearings = depth_camera.bearings(depth_camera.pixel_grid()[known.ravel()])
    z = depth[known].astype(np.float64)
    points = bearings * (z / bearings[:, 2])[:, None]
    seen = colour_from_depth.apply(points)
    pixels = colour_camera.project(seen)
    # A point behind the camera has NaN for a pixel, which is neither above nor below anything.
    inside = np.all((pixels >= 0) & (pixels < np.array(colour_camera.size)), axis=1)
    columns, rows = pixels[inside].astype(np.int64).T
    nearest = np.full((colour_camera.height, colour_camera.width), np.inf, np.float32)
    np.minimum.at(nearest, (rows, columns), seen[inside, 2].astype(np.float32))
    return np.where(np.isfinite(nearest), nearest, np.float32(0))
