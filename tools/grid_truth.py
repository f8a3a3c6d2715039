"""The occupancy grid of a map of a generated place, against the true one.

``python tools/grid_truth.py room.map --place room`` looks at the place that ``crossfire sample``
makes from where the map's views were taken. True are the cells above which there is a surface, in
the grid's height band, that two of these views see. A cell agrees if one of the other grid lies
within one cell. Prints JSON: the agreement, and how far off the map's surfaces are along its rays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from crossfire_core.cli.shell import configured
from crossfire_core.config import ExportConfig
from crossfire_core.export.floor import find_floor
from crossfire_core.export.occupancy import FREE, OCCUPIED, OccupancyGrid, occupancy
from crossfire_core.export.surfaces import Surfaces, map_surfaces
from crossfire_core.geometry import Camera, Pose
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.sample.places import PLACES, Request
from crossfire_core.sample.raycast import Geometry

_AROUND = np.ones((3, 3), bool)
_COLUMNS = 320  # exact rays along an image's longer side


def seen_cells(
    grid: OccupancyGrid, place: Geometry, views: Sequence[tuple[Camera, Pose]], config: ExportConfig
) -> np.ndarray:
    """Cells ``[rows, columns]`` above which two views see a surface of the height band."""
    rows, columns = grid.cells.shape
    count = np.zeros(rows * columns, int)
    for camera, pose in views:
        scale = _COLUMNS / max(camera.size)
        small = camera.resized(round(camera.width * scale), round(camera.height * scale))
        ways = small.bearings(small.pixel_grid()) @ pose.rotation.T
        _, far = place.first_hit(np.broadcast_to(pose.translation, ways.shape), ways)
        ends = pose.translation + ways * np.where(np.isfinite(far), far, 0.0)[:, None]
        cells = np.floor((ends[:, :2] - grid.origin[:2]) / grid.resolution).astype(int)
        kept = np.isfinite(far) & (ends[:, 2] > config.lowest) & (ends[:, 2] < config.highest)
        kept &= ((cells >= 0) & (cells < (columns, rows))).all(axis=1)
        count[np.unique(cells[kept, 1] * columns + cells[kept, 0])] += 1
    return (count >= 2).reshape(rows, columns)


def inside(grid: OccupancyGrid, place: Geometry, config: ExportConfig) -> np.ndarray:
    """Cells ``[rows, columns]`` in which something stands: a ray along z meets it in the band."""
    rows, columns = np.indices(grid.cells.shape)
    at = (np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) * grid.resolution
    level = at + np.array(grid.origin[:2])
    full = np.zeros(len(level), bool)
    for start, way in ((config.highest, -1.0), (config.lowest, 1.0)):
        origins = np.column_stack([level, np.full(len(level), start)])
        _, far = place.first_hit(origins, np.tile([0.0, 0.0, way], (len(level), 1)))
        full |= far < config.highest - config.lowest
    return full.reshape(grid.cells.shape)


def compared(grid: OccupancyGrid, true: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """Agreement of a grid with true cells, and how much of it is free inside of something."""
    found = grid.cells == OCCUPIED
    agree = found & binary_dilation(true, _AROUND)
    missed = true & ~binary_dilation(found, _AROUND)
    invented = found & ~agree
    iou = agree.sum() / max(agree.sum() + invented.sum() + missed.sum(), 1)
    within = (grid.cells == FREE) & binary_erosion(full, _AROUND)
    counts = {"true": true, "invented": invented, "missed": missed, "free_inside": within}
    return {"iou": round(float(iou), 3), **{k: int(v.sum()) for k, v in counts.items()}}


def depths(seen: Surfaces, place: Geometry) -> dict[str, float]:
    """How far off the map's surfaces are along its rays, metres; negative is too near."""
    origins = seen.origins[seen.view]
    ways = (seen.points - origins)[seen.solid]
    length = np.linalg.norm(ways, axis=1)
    _, far = place.first_hit(origins[seen.solid], ways / length[:, None])
    off = (length - far)[np.isfinite(far)]
    five, ninety = np.quantile(off, [0.05, 0.95])
    middle = np.median(np.abs(off))
    return {"median_m": float(middle), "5_percent_m": float(five), "95_percent_m": float(ninety)}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("map", type=Path)
    parser.add_argument("--place", choices=sorted(PLACES), default="room")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a setting of the export")
    told = parser.parse_args()
    config = configured(ExportConfig(), None, told.set)
    made = NeuralMap.load(told.map, "cpu")
    place = Geometry(Request(told.place, seed=told.seed).passes()[0].patches())
    seen = map_surfaces(made, config)
    every = made.header.views
    chosen = np.linspace(0, len(every) - 1, len(seen.origins)).round().astype(int)
    views = [
        (made.header.camera_of(every[i]), every[i].recorded or every[i].map_from_camera)
        for i in chosen
    ]
    grid = occupancy(seen, find_floor(seen, config), config)
    cells = compared(grid, seen_cells(grid, place, views, config), inside(grid, place, config))
    print(json.dumps({**cells, **depths(seen, place)}, indent=1))


if __name__ == "__main__":
    main()
