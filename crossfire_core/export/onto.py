"""Lay a map's grid on one that is there already: which rigid motion takes one to the other.

Both grids see the same walls. All turns and shifts are tried on coarse cells by correlation, the
best ones are then slid by least squares until our walls lie on theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.optimize import least_squares
from scipy.signal import fftconvolve

from crossfire_core.errors import ExportError
from crossfire_core.export.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyGrid

FloatArray = NDArray[np.float64]

_COARSE_M = 0.1  # cells of the first search
_TURNS = 120  # that it tries: every three degrees
_CANDIDATES = 6  # that are made exact
_CONTRADICTION = 0.5  # a wall on free space counts this much against walls on walls
_FAR_M = 1.0  # walls further off than this are not each other's
_NEAR_CELLS = 2.0  # of the coarser grid: so near, walls agree
_LEAST_WALLS = 20  # cells: fewer fit anywhere
_LEAST_AGREE = 0.5  # of the walls: less is another place
_RIVAL = 0.9  # of the best: a place that fits as well, which is said


@dataclass(frozen=True)
class Laid:
    """Where a map lies in an existing grid's frame.

    Attributes:
        transform: ``existing_from_map`` as (x, y, yaw), metres and radians.
        residual_m: median distance of our walls to theirs, over those that agree.
        agree: share of our walls, where theirs are known, that lie within two cells of one.
        rival: how nearly another place fits, as a share of how this one does; 1 is a tie.
    """

    transform: tuple[float, float, float]
    residual_m: float
    agree: float
    rival: float

    @property
    def is_ambiguous(self) -> bool:
        """Whether another place fits nearly as well, as in a symmetric room."""
        return self.rival > _RIVAL

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        x, y, yaw = self.transform
        return {
            "existing_from_map": {"x": x, "y": y, "yaw": yaw},
            "residual_m": self.residual_m,
            "agree": self.agree,
            "rival": self.rival,
        }


def lay_onto(ours: OccupancyGrid, theirs: OccupancyGrid) -> Laid:
    """The rigid motion under which walls lie on walls, and free space on free space.

    Raises:
        ExportError: a grid has hardly any walls, or they do not fit anywhere.
    """
    for grid, whose in ((ours, "the map's grid"), (theirs, "the existing grid")):
        if len(grid.centres(OCCUPIED)) < _LEAST_WALLS:
            raise ExportError(f"{whose} has too few occupied cells to lay it on another")
    field = _WallField(theirs)
    found = []
    for start in _starts(ours, theirs):
        motion = field.slide(ours.centres(OCCUPIED), start)
        found.append((*field.judge(ours.centres(OCCUPIED), motion), motion))
    found.sort(key=lambda each: -each[0])
    agree, residual, motion = found[0]
    if agree < _LEAST_AGREE:
        raise ExportError(
            f"the map does not fit the existing grid: only {100 * agree:.0f} % of its walls lie on "
            "one; is it the same place, with the same heights in its grid?"
        )
    others = [a for a, _, other in found[1:] if _apart(motion, other)]
    x, y, yaw = (float(v) for v in motion)
    yaw = float(np.arctan2(np.sin(yaw), np.cos(yaw)))
    return Laid((x, y, yaw), residual, agree, max(others, default=0.0) / agree)


def moved(points: FloatArray, motion: FloatArray) -> FloatArray:
    """Points ``[n, 2]`` after a motion (x, y, yaw)."""
    x, y, yaw = motion
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return np.asarray(points @ turn.T + np.array([x, y]))


def _apart(a: FloatArray, b: FloatArray) -> bool:
    turn = abs(np.arctan2(np.sin(a[2] - b[2]), np.cos(a[2] - b[2])))
    return bool(np.hypot(*(a[:2] - b[:2])) > 0.5 or turn > np.radians(10.0))


class _WallField:
    """Distances to the walls of a grid, anywhere."""

    def __init__(self, grid: OccupancyGrid) -> None:
        margin = int(np.ceil(_FAR_M / grid.resolution))
        cells = np.pad(grid.cells, margin, constant_values=UNKNOWN)
        self._distance = distance_transform_edt(cells != OCCUPIED) * grid.resolution
        known = (cells != UNKNOWN).astype(np.uint8)
        self._known = cv2.dilate(known, np.ones((3, 3), np.uint8)).astype(np.float64)
        self._grid, self._margin = grid, margin

    def _look(self, field: FloatArray, points: FloatArray, outside: float) -> FloatArray:
        x, y, yaw = self._grid.origin
        local = moved(points - np.array([x, y]), np.array([0.0, 0.0, -yaw]))
        at = local / self._grid.resolution - 0.5 + self._margin
        return np.asarray(
            map_coordinates(field, at[:, ::-1].T, order=1, mode="constant", cval=outside)
        )

    def slide(self, walls: FloatArray, start: FloatArray) -> FloatArray:
        """The motion (x, y, yaw) near a start that brings walls ``[n, 2]`` onto the grid's."""
        middle = walls.mean(axis=0)
        arm = max(float(np.abs(walls - middle).max()), self._grid.resolution)
        anchor = moved(middle[None], start)[0]

        def at(step: FloatArray) -> FloatArray:
            """A motion, from a shift of the walls' middle and a turn about it."""
            yaw = start[2] + step[2] / arm
            turned = moved(middle[None], np.array([0.0, 0.0, yaw]))[0]
            return np.array([*(anchor + step[:2] - turned), yaw])

        def off(step: FloatArray) -> FloatArray:
            distance = self._look(self._distance, moved(walls, at(step)), _FAR_M)
            return np.minimum(distance, _FAR_M)

        step = self._grid.resolution
        solved = least_squares(off, np.zeros(3), loss="soft_l1", f_scale=step, diff_step=[step] * 3)
        return at(solved.x)

    def judge(self, walls: FloatArray, motion: FloatArray) -> tuple[float, float]:
        """Share of the walls that agree, and the median distance of those that do."""
        placed = moved(walls, motion)
        known = self._look(self._known, placed, 0.0) > 0.5
        distance = self._look(self._distance, placed, _FAR_M)
        near = known & (distance < _NEAR_CELLS * self._grid.resolution)
        if not near.any():
            return 0.0, _FAR_M
        # walls outside of what they know are no contradiction, but most must be inside
        compared = max(float(known.sum()), 0.5 * len(walls))
        return float(near.sum()) / compared, float(np.median(distance[near]))


def _starts(ours: OccupancyGrid, theirs: OccupancyGrid) -> list[FloatArray]:
    """Motions worth sliding from: the best of all turns and shifts, on coarse cells."""
    cell = max(_COARSE_M, theirs.resolution, ours.resolution)
    their_walls, their_free, corner = _raster(theirs, cell)
    their_walls = np.asarray(cv2.GaussianBlur(their_walls, (0, 0), 1.0), dtype=np.float32)
    scores = []
    for yaw in np.arange(_TURNS) * (2 * np.pi / _TURNS):
        walls, free, low = _raster(ours, cell, yaw)
        score = _correlated(their_walls, walls)
        score -= _CONTRADICTION * _correlated(their_free, walls)
        score -= _CONTRADICTION * _correlated(their_walls, free)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        shift = np.array([column - walls.shape[1] + 1, row - walls.shape[0] + 1])
        scores.append((float(score.max()), np.array([*(corner - low + shift * cell), yaw])))
    scores.sort(key=lambda each: -each[0])
    kept: list[FloatArray] = []
    for _, motion in scores:
        if len(kept) < _CANDIDATES and all(_apart(motion, other) for other in kept):
            kept.append(motion)
    return kept


def _correlated(image: NDArray[np.float32], part: NDArray[np.float32]) -> FloatArray:
    return np.asarray(fftconvolve(image, part[::-1, ::-1], mode="full"), dtype=np.float64)


def _raster(
    grid: OccupancyGrid, cell: float, yaw: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32], FloatArray]:
    """Walls and free space of a grid, turned, as pictures of one kind; and their corner (x, y)."""
    turn = np.array([0.0, 0.0, yaw])
    walls, free = (moved(grid.centres(kind), turn) for kind in (OCCUPIED, FREE))
    both = np.concatenate([walls, free])
    low = np.floor(both.min(axis=0) / cell) * cell
    columns, rows = np.floor((both.max(axis=0) - low) / cell).astype(int) + 1
    pictures = []
    for points in (walls, free):
        at = np.floor((points - low) / cell).astype(int)
        picture = np.zeros((rows, columns), np.float32)
        picture[at[:, 1], at[:, 0]] = 1.0
        pictures.append(picture)
    pictures[1][pictures[0] > 0] = 0.0
    return pictures[0], pictures[1], low
