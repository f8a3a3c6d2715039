"""An occupancy grid from a map: surfaces fill cells, the mapping views' rays empty them.

Space over the floor is cut into small boxes. Of each, the views are counted that see a surface in
it and those that look through it. A cell of the grid is occupied where a box above it is, free
where its floor, or the space just over it, was seen and nothing stands there, and unknown else.
Rays that do not know to within a cell where they end fill nothing; where they end, nothing is free.
(Counting hits and misses is OctoMap's way, Hornung et al. 2013.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import ExportConfig
from crossfire_core.errors import ConfigError, ExportError
from crossfire_core.export.floor import Floor
from crossfire_core.export.surfaces import Surfaces

FloatArray = NDArray[np.float64]
Cells = NDArray[np.int8]

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
_MOST_BOXES = 100_000_000  # ten bytes each
_MARGIN_CELLS = 2  # around what was seen
_LEAST_HITS = 0.1  # share of the views of a box that see a surface in it: thin things are seen past
_MOST_STOPPED = 0.05  # share of them that may see one there, and the cell is still free
_LOW_M = 0.3  # over the band's lower end: who looks through here sees what stands there
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}


@dataclass(frozen=True)
class OccupancyGrid:
    """Cells seen from above.

    Attributes:
        cells: ``[rows, columns]`` int8: 0 free, 100 occupied, -1 unknown. Rows go along y and
            columns along x, from the origin on, as in ``nav_msgs/OccupancyGrid``.
        resolution: metres a cell.
        origin: (x, y, yaw) of the outer corner of the first cell, metres and radians.
    """

    cells: Cells
    resolution: float
    origin: tuple[float, float, float]

    def centres(self, value: int) -> FloatArray:
        """Middles ``[n, 2]`` of all cells with a value, metres in the grid's frame."""
        rows, columns = np.nonzero(self.cells == value)
        local = (np.stack([columns, rows], axis=1) + 0.5) * self.resolution
        x, y, yaw = self.origin
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        return np.asarray(local @ turn.T + np.array([x, y]))

    def areas(self) -> dict[str, float]:
        """Square metres by kind of cell."""
        cell = self.resolution**2
        kinds = {"free": FREE, "occupied": OCCUPIED, "unknown": UNKNOWN}
        return {k: round(float((self.cells == v).sum()) * cell, 2) for k, v in kinds.items()}


def occupancy(surfaces: Surfaces, floor: Floor, config: ExportConfig) -> OccupancyGrid:
    """The grid of everything between the lowest and the highest height over the floor.

    Args:
        surfaces: what the mapping views see.
        floor: of the map; the grid lies on it.
        config: resolution and height band.

    Raises:
        ConfigError: the height band is empty.
        ExportError: the map is too large for the resolution, or nothing of it is in the band.
    """
    if config.highest <= config.lowest:
        raise ConfigError(
            f"the height band from {config.lowest} to {config.highest} m is empty: "
            "set highest above lowest"
        )
    ends = floor.over(surfaces.points)
    eyes = floor.over(surfaces.origins)
    counts = _counted(surfaces, eyes, ends, config)
    least = min(config.least_views, len(eyes))
    occupied = counts.hits >= least
    occupied &= counts.hits >= _LEAST_HITS * (counts.hits + counts.passes)
    empty = (counts.passes >= least) & ~occupied
    low = max(round(_LOW_M / counts.layer), 1)
    clear = empty[:low].any(axis=0) | (counts.ground >= least)
    stopped = counts.hits + counts.doubts
    clear &= (stopped <= _MOST_STOPPED * (stopped + counts.passes)).all(axis=0)
    full = occupied.any(axis=0)
    cells = np.full(full.shape, UNKNOWN, np.int8)
    cells[clear] = FREE
    cells[full] = OCCUPIED
    x, y = counts.corner
    grid = OccupancyGrid(cells, config.resolution, (float(x), float(y), 0.0))
    return _reachable(grid, eyes[:, :2])


@dataclass(frozen=True)
class _Counts:
    """Numbers of views by box ``[layers, rows, columns]`` and, for the ground, by cell."""

    hits: NDArray[np.int16]
    doubts: NDArray[np.int16]
    passes: NDArray[np.int16]
    ground: NDArray[np.int16]
    corner: FloatArray
    layer: float


def _counted(
    surfaces: Surfaces, eyes: FloatArray, ends: FloatArray, config: ExportConfig
) -> _Counts:
    corner, shape = _extent(surfaces, eyes, ends, config)
    layers = max(round((config.highest - config.lowest) / config.resolution), 1)
    layer = (config.highest - config.lowest) / layers
    if layers * shape[0] * shape[1] > _MOST_BOXES:
        raise ExportError(
            f"a grid of {shape[1]} x {shape[0]} cells is too large: set a coarser --resolution "
            "or a smaller --set reach"
        )
    unit = np.array([config.resolution, config.resolution, layer])
    base = np.array([*corner, config.lowest])
    hits, doubts, passes = (np.zeros((layers, *shape), np.int16) for _ in range(3))
    ground, marks = np.zeros(shape, np.int16), np.zeros((layers, *shape), np.int32)
    ground_marks = np.zeros(shape, np.int32)
    length = np.linalg.norm(surfaces.points - surfaces.origins[surfaces.view], axis=1)
    share = np.clip(surfaces.clear / np.maximum(length, 1e-6), 0.0, 1.0)
    sharp = surfaces.solid & (length - surfaces.clear <= config.resolution)
    starts, stops = (eyes - base) / unit, (ends - base) / unit
    for number in range(len(eyes)):
        rays = slice(*np.searchsorted(surfaces.view, [number, number + 1]))
        for chosen, into in ((sharp[rays], hits), (surfaces.solid[rays] & ~sharp[rays], doubts)):
            _hit(stops[rays][chosen], number + 1, into, ground, marks, ground_marks)
        _pass(starts[number], stops[rays], share[rays], number + 1, passes, marks)
    return _Counts(hits, doubts, passes, ground, corner, layer)


def _extent(
    surfaces: Surfaces, eyes: FloatArray, ends: FloatArray, config: ExportConfig
) -> tuple[FloatArray, tuple[int, int]]:
    """The grid's corner, on a multiple of the resolution, and its rows and columns."""
    inside = surfaces.solid & (ends[:, 2] < config.highest)
    if not inside.any():
        raise ExportError(
            f"no surface of the map is lower than {config.highest} m above the floor: "
            "tell the floor's height with --floor"
        )
    seen = ends[inside, :2]
    low, high = np.percentile(seen, [0.1, 99.9], axis=0)
    low, high = np.minimum(low, eyes[:, :2].min(axis=0)), np.maximum(high, eyes[:, :2].max(axis=0))
    first = np.floor(low / config.resolution) - _MARGIN_CELLS
    last = np.ceil(high / config.resolution) + _MARGIN_CELLS
    columns, rows = (last - first).astype(int)
    return first * config.resolution, (int(rows), int(columns))


def _reachable(grid: OccupancyGrid, eyes: FloatArray) -> OccupancyGrid:
    """Without free cells that no way over free cells joins with where the cameras were.

    A ray that slips through a wall frees cells behind it; nobody has been there.
    """
    free = (grid.cells == FREE).astype(np.uint8)
    _, parts = cv2.connectedComponents(free, connectivity=4)
    x, y, _ = grid.origin
    columns, rows = np.floor((eyes - (x, y)) / grid.resolution).astype(int).T
    visited = np.zeros(int(parts.max()) + 1, dtype=bool)
    visited[parts[rows, columns]] = True
    visited[0] = False
    if not visited.any():  # cameras over furniture, as of a drone: nothing can be told
        return grid
    cells = grid.cells.copy()
    cells[(cells == FREE) & ~visited[parts]] = UNKNOWN
    return replace(grid, cells=cells)


@numba.njit(**_JIT)
def _hit(ends, number, hits, ground, marks, ground_marks):  # type: ignore[no-untyped-def]
    """Count a view in every box and on every spot of ground where one of its rays ends."""
    layers, rows, columns = hits.shape
    for n in range(len(ends)):
        i, j = int(np.floor(ends[n, 0])), int(np.floor(ends[n, 1]))
        k = int(np.floor(ends[n, 2]))
        if i < 0 or i >= columns or j < 0 or j >= rows or k >= layers:
            continue
        if k < 0:
            if ground_marks[j, i] != number:
                ground_marks[j, i] = number
                ground[j, i] += 1
        elif marks[k, j, i] != number:
            marks[k, j, i] = number
            hits[k, j, i] += 1


@numba.njit(inline="always", **_JIT)
def _inside(start, way, share, size):  # type: ignore[no-untyped-def]
    """Which part of a ray's first ``share`` lies among the boxes: shares (from, to)."""
    enter, leave = 0.0, share
    for axis in range(3):
        if abs(way[axis]) < 1e-12:
            if start[axis] < 0.0 or start[axis] >= size[axis]:
                leave = -1.0
            continue
        first = -start[axis] / way[axis]
        last = (size[axis] - start[axis]) / way[axis]
        enter = max(enter, min(first, last))
        leave = min(leave, max(first, last))
    return enter, leave


@numba.njit(**_JIT)
def _pass(start, ends, share, number, passes, marks):  # type: ignore[no-untyped-def]
    """Count a view in every box that one of its rays goes through and none ends in.

    Boxes along a ray are visited one after the other (Amanatides and Woo 1987).
    """
    layers, rows, columns = passes.shape
    size = (columns, rows, layers)
    box, step = np.empty(3, np.int64), np.empty(3, np.int64)
    following, length = np.empty(3), np.empty(3)
    for n in range(len(ends)):
        way = ends[n] - start
        enter, leave = _inside(start, way, share[n], size)
        if leave <= enter:
            continue
        for axis in range(3):
            at = start[axis] + enter * way[axis]
            box[axis] = min(max(int(np.floor(at)), 0), size[axis] - 1)
            step[axis] = 1 if way[axis] > 0 else -1
            if abs(way[axis]) < 1e-12:
                following[axis] = length[axis] = np.inf
            else:
                edge = box[axis] + (1 if way[axis] > 0 else 0)
                following[axis] = (edge - start[axis]) / way[axis]
                length[axis] = abs(1.0 / way[axis])
        while True:
            if abs(marks[box[2], box[1], box[0]]) != number:
                marks[box[2], box[1], box[0]] = -number
                passes[box[2], box[1], box[0]] += 1
            axis = int(np.argmin(following))
            if following[axis] >= leave:
                break
            box[axis] += step[axis]
            if box[axis] < 0 or box[axis] >= size[axis]:
                break
            following[axis] += length[axis]
