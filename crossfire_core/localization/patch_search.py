"""Patches found from afar: templates of them, searched over windows of a reduced image.

Sliding (:mod:`.patches`) brings a patch home from a pixel or two. Where the pose is only known to
some centimetres, whole windows are searched first, on an image of half the size, where a window is
a quarter as large and small errors of a patch's shape do not count.
"""

from __future__ import annotations

from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.field.threads import for_ranges

FloatArray = NDArray[np.float64]
REDUCED = 2  # the search runs on an image this much smaller
_HALF = 3  # a template has so many pixels on each side of its middle
_SOFT = 0.8  # samples: the blur that goes with the smaller image
_LEAST_CONTRAST = 4.0  # standard deviation of a template's grey values
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": True}


def search(
    grey: NDArray[np.float32],
    centres: FloatArray,
    warps: FloatArray,
    patches: NDArray[np.float32],
    reach_px: float,
) -> tuple[FloatArray, FloatArray]:
    """Where patches fit best in windows around their places.

    Args:
        grey: ``[height, width]`` the image.
        centres: ``[n, 2]`` pixels where the patches' middles are expected, centres at .5.
        warps: ``[n, 2, 2]`` pixels a sample along the patch's columns and rows.
        patches: ``[n, side, side]`` grey values.
        reach_px: half the side of the windows.

    Returns:
        Shifts ``[n, 2]`` in pixels, to a fraction of one, and likeness ``[n]``, the normalized
        correlation there; -1 where a patch is flat or its window shows no peak.
    """
    small = cv2.resize(grey, None, fx=1 / REDUCED, fy=1 / REDUCED, interpolation=cv2.INTER_AREA)
    soft = (
        np.stack([cv2.GaussianBlur(p, (0, 0), 0.8) for p in patches]) if len(patches) else patches
    )
    out = np.zeros((len(centres), 3))
    out[:, 2] = -1.0
    radius = max(1, int(np.ceil(reach_px / REDUCED)))
    for_ranges(
        lambda start, stop: _search(small, centres, warps, soft, radius, out, start, stop),
        len(centres),
        smallest=16,
    )
    return out[:, :2], out[:, 2]


@numba.njit(**_JIT)
def _search(small, centres, warps, patches, radius, out, start, stop):  # type: ignore[no-untyped-def]
    """Fill ``out [n, (x, y, likeness)]``."""
    height, width = small.shape
    side = 2 * _HALF + 1
    wanted = np.empty((side, side), np.float32)
    scores = np.empty((2 * radius + 1, 2 * radius + 1), np.float32)
    for i in range(start, stop):
        middle_x, middle_y = centres[i, 0] / REDUCED - 0.5, centres[i, 1] / REDUCED - 0.5
        cx, cy = int(np.rint(middle_x)), int(np.rint(middle_y))
        off_x, off_y = REDUCED * (cx - middle_x), REDUCED * (cy - middle_y)
        if not _template(patches[i], warps[i], off_x, off_y, wanted):
            continue
        best, bx, by = np.float32(-2.0), 0, 0
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                x, y = cx + dx - _HALF, cy + dy - _HALF
                score = np.float32(-1.0)
                if x >= 0 and y >= 0 and x + side <= width and y + side <= height:
                    score = _correlation(small, x, y, wanted)
                scores[dy + radius, dx + radius] = score
                if score > best:
                    best, bx, by = score, dx, dy
        if abs(bx) >= radius or abs(by) >= radius or best <= 0.0:
            continue
        row, column = by + radius, bx + radius
        fine_x = _peak(scores[row, column - 1], best, scores[row, column + 1])
        fine_y = _peak(scores[row - 1, column], best, scores[row + 1, column])
        out[i, 0] = REDUCED * (bx + fine_x)
        out[i, 1] = REDUCED * (by + fine_y)
        out[i, 2] = best


@numba.njit(**_JIT)
def _template(patch, warp, off_x, off_y, wanted):  # type: ignore[no-untyped-def]
    """What the reduced image shows where the patch lies, of mean 0 and length 1."""
    a, b, c, d = warp[0, 0], warp[0, 1], warp[1, 0], warp[1, 1]
    det = a * d - b * c
    if abs(det) < 1e-9:
        return False
    side, last = 2 * _HALF + 1, patch.shape[0] - 1
    mean = np.float32(0.0)
    for row in range(side):
        for column in range(side):
            px = REDUCED * (column - _HALF) + off_x
            py = REDUCED * (row - _HALF) + off_y
            s = (d * px - b * py) / det + 0.5 * last
            t = (a * py - c * px) / det + 0.5 * last
            s, t = min(max(s, 0.0), last - 1e-3), min(max(t, 0.0), last - 1e-3)
            u, v = int(s), int(t)
            p, q = s - u, t - v
            top = patch[v, u] + p * (patch[v, u + 1] - patch[v, u])
            low = patch[v + 1, u] + p * (patch[v + 1, u + 1] - patch[v + 1, u])
            wanted[row, column] = top + q * (low - top)
            mean += wanted[row, column]
    mean /= side * side
    length = np.float32(0.0)
    for row in range(side):
        for column in range(side):
            wanted[row, column] -= mean
            length += wanted[row, column] ** 2
    length = np.sqrt(length)
    if length < _LEAST_CONTRAST * side:
        return False
    for row in range(side):
        for column in range(side):
            wanted[row, column] /= length
    return True


@numba.njit(**_JIT)
def _correlation(small, x, y, wanted):  # type: ignore[no-untyped-def]
    side = 2 * _HALF + 1
    total, squares, product = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for row in range(side):
        for column in range(side):
            value = small[y + row, x + column]
            total += value
            squares += value * value
            product += value * wanted[row, column]
    count = side * side
    variance = squares - total * total / count
    if variance < count:  # a standard deviation of one grey level
        return np.float32(-1.0)
    return product / np.sqrt(variance)


@numba.njit(inline="always", **_JIT)
def _peak(left, middle, right):  # type: ignore[no-untyped-def]
    """Offset of a parabola's top through three neighbours, within half a pixel."""
    bend = left - 2.0 * middle + right
    if bend > -1e-6:
        return 0.0
    return min(max(0.5 * (left - right) / bend, -0.5), 0.5)
