"""Where the mapping images themselves saw the map's points.

A rendered descriptor is found a little beside the pixel that shows its point: depth is not
perfect, one descriptor stands for what many images saw from many sides, and the mapping poses have
errors of their own. The error is alike over patches of an image and for cameras that stand close
together, so it does not average out over the matches of one image. But it can be looked up: when
a map is finished, every mapping image is matched at its own pose, and how far its matches lie
beside their points is kept with the map. Here points are moved by what the mapping images around
a pose say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.field.threads import for_ranges
from crossfire_core.geometry import Pose
from crossfire_core.localization.nearness import ViewDistances, closeness

FloatArray = NDArray[np.float64]
_NEAR = 0.07  # views this far off (radians of parallax and of turning) still see the same error
_FAR = 0.005  # weight of the others asked: where none is near, their mean counts
_VIEWS = 32  # so many, the nearest, are asked
_REACH = 0.05  # of the distance: points this far apart have much the same error
_PRIOR = 0.5  # weight of no shift at all, in observations by the nearest view
_CUT = 2.5  # observations further off than this many reaches do not count
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "boundscheck": False}


class PointShifts:
    """Answers by how much points are to be moved for a camera at some pose."""

    def __init__(
        self,
        points: FloatArray,
        shifts: FloatArray,
        point_view: NDArray[np.int64],
        poses: Sequence[Pose],
        median_distance: float,
    ) -> None:
        """Keep the observations.

        Args:
            points: ``[n, 3]`` surface points, metres in the map frame.
            shifts: ``[n, 3]`` by how much to move them for the view that saw them, metres;
                all zero where that is not known.
            point_view: ``[n]`` which view saw each.
            poses: ``map_from_camera`` of all views.
            median_distance: of the surfaces from the cameras, metres.
        """
        known = (shifts != 0.0).any(axis=1)
        # along the longest axis, so that what lies near a point is a short piece of the list
        self._axis = int(np.argmax(np.ptp(points[known], axis=0))) if known.any() else 0
        order = np.flatnonzero(known)[np.argsort(points[known, self._axis], kind="stable")]
        self._points, self._shifts = points[order], shifts[order]
        self._view = point_view[order]
        self._views = ViewDistances(poses, median_distance)

    def at(self, points: FloatArray, map_from_camera: Pose) -> FloatArray:
        """Shifts ``[n, 3]`` of points ``[n, 3]`` as seen from a pose, metres in the map frame."""
        shifts = np.zeros_like(points)
        if len(self._points) == 0 or len(points) == 0:
            return shifts
        weight = self._weights(map_from_camera)
        use = weight[self._view] > 0.0
        known, moved = self._points[use], self._shifts[use]
        theirs = weight[self._view[use]]
        reach = _REACH * np.linalg.norm(points - map_from_camera.translation, axis=1)
        for_ranges(
            lambda start, stop: _means(
                points, reach, known, moved, theirs, self._axis, shifts, start, stop
            ),
            len(points),
        )
        return shifts

    def _weights(self, map_from_camera: Pose) -> FloatArray:
        """Of every view, the nearest ones most; 0 for those that are not asked."""
        far = self._views.of(map_from_camera)
        weight = closeness(far, _NEAR, _FAR)
        weight[np.argsort(far)[_VIEWS:]] = 0.0
        return weight


@numba.njit(**_JIT)  # type: ignore[misc,unused-ignore]
def _means(
    points: FloatArray,
    reach: FloatArray,
    known: FloatArray,
    moved: FloatArray,
    weight: FloatArray,
    axis: int,
    out: FloatArray,
    start: int,
    stop: int,
) -> None:
    """Weighted means of the shifts around points ``start`` to ``stop``, drawn towards zero.

    What is known is in order along ``axis``.
    """
    along = known[:, axis]
    for i in range(start, stop):
        squared = max(reach[i], 1e-9) ** 2
        x, y, z, total = 0.0, 0.0, 0.0, _PRIOR
        first = np.searchsorted(along, points[i, axis] - _CUT * reach[i])
        last = np.searchsorted(along, points[i, axis] + _CUT * reach[i])
        for j in range(first, last):
            d = (known[j, 0] - points[i, 0]) ** 2 + (known[j, 1] - points[i, 1]) ** 2
            d += (known[j, 2] - points[i, 2]) ** 2
            if d < _CUT * _CUT * squared:
                w = weight[j] * np.exp(-0.5 * d / squared)
                x += w * moved[j, 0]
                y += w * moved[j, 1]
                z += w * moved[j, 2]
                total += w
        out[i, 0], out[i, 1], out[i, 2] = x / total, y / total, z / total
