"""Final pose: slide the map's descriptors over the image's until they agree best.

Matches treat every point alike; the descriptors around a point on an edge only say how far it is
across the edge. Minimising the descriptor residual over the pose uses just what each point knows
(the idea of direct, feature-metric alignment, e.g. PixLoc, Sarlin et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.field.threads import for_ranges
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.pose_solver import plane_points

FloatArray = NDArray[np.float64]
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "boundscheck": False}


@dataclass(frozen=True)
class LensTangent:
    """The way from undistorted coordinates to cells of the grid, straight around some points.

    A lens hardly bends over the cell or two that an alignment moves.

    Attributes:
        plane: ``[n, 2]`` coordinates on the plane z = 1.
        cells: ``[n, 2]`` where they fall on the grid.
        slope: ``[n, 2, 2]`` derivative of the one by the other.
    """

    plane: FloatArray
    cells: FloatArray
    slope: FloatArray

    @staticmethod
    def at(
        camera_from_map: Pose, points: FloatArray, camera: Camera, scale: tuple[float, float]
    ) -> LensTangent:
        """Around points ``[n, 3]`` of the map seen from a pose; ``scale`` is cells a pixel."""
        coordinates, _, ahead = plane_points(camera_from_map, points)
        plane = np.where(ahead[:, None], coordinates, 0.0)
        pixels, slope = camera.bend(plane)
        factor = np.array(scale)
        return LensTangent(plane, pixels * factor - 0.5, slope * factor[:, None])


@dataclass(frozen=True)
class Aligned:
    """The outcome of an alignment.

    Attributes:
        camera_from_map: the pose.
        cost: ``[n]`` squared descriptor residuals there; 4 where a point left the image.
        information: ``[6, 6]`` of a left twist, before scaling by the noise.
    """

    camera_from_map: Pose
    cost: FloatArray
    information: FloatArray


def align(
    grid: NDArray[np.float32],
    scale: tuple[float, float],
    descriptors: NDArray[np.float32],
    points: FloatArray,
    weights: FloatArray,
    camera: Camera,
    camera_from_map: Pose,
    iterations: int = 5,
    kernel_width: float = 0.4,
) -> Aligned:
    """Gauss-Newton on the descriptor residual, robust (Geman-McClure).

    Args:
        grid: ``[rows, columns, d]`` the image's descriptors.
        scale: cells a pixel; cell = pixel * scale - 0.5.
        descriptors: ``[n, d]`` unit, of the map's points.
        points: ``[n, 3]`` map frame, metres.
        weights: ``[n]``.
        camera: the image's camera, distortion included.
        camera_from_map: start, within a cell or two of the truth.
        iterations: at most this many steps.
        kernel_width: descriptor distance at which a point counts a quarter.
    """
    pose = camera_from_map
    normal, cost = np.eye(6), np.full(len(points), 4.0)
    lens = LensTangent.at(pose, points, camera, scale)
    for step_number in range(iterations + 1):
        cells, by_twist = cells_and_jacobian(pose, points, lens)
        square, slope, cost = residual_terms(grid, cells, descriptors)
        w = weights * (kernel_width**2 / (kernel_width**2 + cost)) ** 2 * (cost < 4.0)
        weighted = (by_twist * w[:, None, None]).reshape(-1, 6)  # [2 n, 6]
        normal = weighted.T @ (square @ by_twist).reshape(-1, 6)
        if step_number == iterations:
            break
        damping = 1e-6 * np.trace(normal) / 6.0 + 1e-12
        twist = -np.linalg.solve(normal + damping * np.eye(6), weighted.T @ slope.ravel())
        pose = Pose.exp(twist) @ pose
        if np.linalg.norm(twist) < 1e-5:
            break
    return Aligned(pose, cost, normal)


def cells_and_jacobian(
    camera_from_map: Pose, points: FloatArray, lens: LensTangent
) -> tuple[FloatArray, FloatArray]:
    """Where points fall on the descriptor grid.

    Args:
        camera_from_map: the pose.
        points: ``[n, 3]`` map frame.
        lens: of the image's camera at the same points, from a pose nearby.

    Returns:
        Cells ``[n, 2]`` (NaN behind the camera) and their derivative ``[n, 2, 6]`` by a twist
        applied on the left, translation first.
    """
    plane, by_twist, ahead = plane_points(camera_from_map, points)
    moved = (lens.slope @ (plane - lens.plane)[..., None])[..., 0]
    cells = np.where(ahead[:, None], lens.cells + moved, np.nan)
    return cells, (lens.slope @ by_twist) * ahead[:, None, None]


def residual_terms(
    grid: NDArray[np.float32], cells: FloatArray, descriptors: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Descriptor residuals and what Gauss-Newton needs of them.

    The residual is ``r = image descriptor - map descriptor``, ``G`` its slope over the grid.

    Returns:
        ``G^T G [n, 2, 2]``, ``G^T r [n, 2]`` and ``r^T r [n]``; 0, 0 and 4 outside the grid.
    """
    out = np.zeros((len(cells), 6), np.float32)
    places = cells.astype(np.float32)
    for_ranges(
        lambda a, b: _residuals(grid, places, descriptors, out, a, b), len(cells), smallest=128
    )
    terms = out.astype(np.float64)
    square = np.stack([terms[:, 0], terms[:, 1], terms[:, 1], terms[:, 2]], axis=1)
    return square.reshape(-1, 2, 2), terms[:, 3:5], terms[:, 5]


@numba.njit(**_JIT)
def _residuals(grid, cells, descriptors, out, start, stop):  # type: ignore[no-untyped-def]
    """Bilinear values, and slopes as central differences over one cell on each side."""
    height, width, size = grid.shape
    for i in range(start, stop):
        x, y = cells[i, 0], cells[i, 1]
        out[i, 5] = np.float32(4)
        if not (x >= 1 and y >= 1 and x < width - 2 and y < height - 2):  # also refuses NaN
            continue
        u, v = int(x), int(y)
        a, b = x - np.float32(u), y - np.float32(v)
        p, q = np.float32(1) - a, np.float32(1) - b
        xx = xy = yy = xr = yr = rr = np.float32(0)
        for k in range(size):
            g00, g10 = grid[v, u, k], grid[v, u + 1, k]
            g01, g11 = grid[v + 1, u, k], grid[v + 1, u + 1, k]
            left = q * grid[v, u - 1, k] + b * grid[v + 1, u - 1, k]
            right = q * grid[v, u + 2, k] + b * grid[v + 1, u + 2, k]
            above = p * grid[v - 1, u, k] + a * grid[v - 1, u + 1, k]
            below = p * grid[v + 2, u, k] + a * grid[v + 2, u + 1, k]
            low, high = q * g00 + b * g01, q * g10 + b * g11
            top, bottom = p * g00 + a * g10, p * g01 + a * g11
            r = p * low + a * high - descriptors[i, k]
            # value at x + 1 minus value at x - 1, halved; likewise along y
            dx = np.float32(0.5) * ((p * high + a * right) - (p * left + a * low))
            dy = np.float32(0.5) * ((q * bottom + b * below) - (q * above + b * top))
            xx += dx * dx
            xy += dx * dy
            yy += dy * dy
            xr += dx * r
            yr += dy * r
            rr += r * r
        out[i, 0], out[i, 1], out[i, 2] = xx, xy, yy
        out[i, 3], out[i, 4], out[i, 5] = xr, yr, rr
