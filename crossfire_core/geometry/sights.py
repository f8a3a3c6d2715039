"""Sights: how far beside a pixel a point is seen, whatever the lens.

A sight is a small pinhole camera around one direction, a matrix ``[3, 3]``: a point ``p`` of the
camera frame lies ``(M p)[:2] / (M p)[2]`` beside the direction. Its picture plane is z = 1 for a
lens whose whole view lies there, and touches the unit sphere at the direction for any other, so
that nothing gets out of hand at 90 degrees and beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_AHEAD = 1e-6  # metres before the camera
# Rotations from a camera to its six sides: ahead, right, behind, left, below, above.
_SIDES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    ],
    dtype=np.float64,
)


def flat_sights(bearings: FloatArray) -> FloatArray:
    """Sights ``[n, 3, 3]`` of bearings ``[n, 3]`` on the plane z = 1."""
    out = np.zeros((len(bearings), 3, 3))
    out[:, 0, 0] = out[:, 1, 1] = 1.0
    out[:, 2, 2] = bearings[:, 2] / bearings[:, 2]  # 1, or NaN where there is no bearing
    out[:, :2, 2] = -bearings[:, :2] / bearings[:, 2:]
    return out


def tangent_sights(points: FloatArray, slopes: FloatArray, flat: bool) -> FloatArray:
    """Sights that move as the lens does around points.

    Args:
        points: ``[n, 3]`` of the camera frame.
        slopes: ``[n, 2, 3]`` derivative of what is to be measured by the point.
        flat: whether their picture plane is z = 1.

    Returns:
        ``[n, 3, 3]``, meaningless where the slopes are 0.
    """
    distance = points[:, 2] if flat else np.linalg.norm(points, axis=1)
    out = np.empty((len(points), 3, 3))
    out[:, :2] = slopes * distance[:, None, None]
    out[:, 2] = np.array([0.0, 0.0, 1.0]) if flat else points / distance[:, None]
    return out


def directions(sights: FloatArray) -> FloatArray:
    """The direction of each sight ``[n, 3]``, not of unit length; of a flat one z is 1."""
    a, b = sights[:, 0].T, sights[:, 1].T
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
                     a[0] * b[1] - a[1] * b[0]], axis=1)  # fmt: skip


@dataclass(frozen=True)
class Pinhole:
    """What one of several pinhole cameras in one place sees.

    Attributes:
        turn: ``[3, 3]`` rotation from the camera to it.
        index: ``[k]`` which of the sights these are.
        plane: ``[k, 2]`` on its plane z = 1.
    """

    turn: FloatArray
    index: NDArray[np.int64]
    plane: FloatArray


def pinholes(sights: FloatArray, flat: bool) -> list[Pinhole]:
    """Sights as pinhole cameras that solvers of others understand.

    Args:
        sights: ``[n, 3, 3]``; those that are NaN are left out.
        flat: whether one such camera sees them all; else six, a side of the camera each.
    """
    ways = directions(sights)
    seen = np.isfinite(ways).all(axis=1)
    side = np.zeros(len(ways), np.int64) if flat else np.argmax(ways @ _SIDES[:, 2].T, axis=1)
    parts = []
    for number, turn in enumerate(_SIDES[:1] if flat else _SIDES):
        index = np.flatnonzero(seen & (side == number))
        turned = ways[index] @ turn.T
        parts.append(Pinhole(turn, index, turned[:, :2] / turned[:, 2:]))
    return parts


def offsets(
    sights: FloatArray, points: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """How far points of the camera frame lie beside sights.

    Args:
        sights: ``[n, 3, 3]``.
        points: ``[n, 3]``.

    Returns:
        Offsets ``[n, 2]``, their derivative ``[n, 2, 3]`` by the point, and which points lie
        before their sight's picture plane ``[n]``; the others are meaningless.
    """
    count = len(points)
    beside, by_point = np.zeros((count, 2)), np.zeros((count, 2, 3))
    ahead = np.zeros(count, np.bool_)
    _offsets(sights, points, beside, by_point, ahead)
    return beside, by_point, ahead


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[misc,unused-ignore]
def _offsets(
    sights: FloatArray,
    points: FloatArray,
    beside: FloatArray,
    by_point: FloatArray,
    ahead: NDArray[np.bool_],
) -> None:
    for i in range(len(points)):
        m, x, y, z = sights[i], points[i, 0], points[i, 1], points[i, 2]
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z
        if not depth > _AHEAD:  # nor NaN
            continue
        ahead[i] = True
        inverse = 1.0 / depth
        for row in range(2):
            value = (m[row, 0] * x + m[row, 1] * y + m[row, 2] * z) * inverse
            beside[i, row] = value
            for k in range(3):
                by_point[i, row, k] = (m[row, k] - value * m[2, k]) * inverse


def by_twist(by_point: FloatArray, points: FloatArray) -> FloatArray:
    """From derivatives by the point to those by a twist applied on the left of its pose.

    Args:
        by_point: ``[n, 2, 3]``.
        points: ``[n, 3]`` as the pose gives them.

    Returns:
        ``[n, 2, 6]``, translation first.
    """
    x, y, z = (points[:, None, k] for k in range(3))
    a, b, c = by_point[:, :, 0], by_point[:, :, 1], by_point[:, :, 2]
    out = np.empty((len(points), 2, 6))
    out[:, :, :3] = by_point
    out[:, :, 3], out[:, :, 4], out[:, :, 5] = y * c - z * b, z * a - x * c, x * b - y * a
    return out
