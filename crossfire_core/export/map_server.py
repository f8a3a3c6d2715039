"""Files of nav2's ``map_server``: a YAML beside a picture, written and read.

The picture's first row is the grid's last one; black is occupied, white is free. Thresholds are
those under which grey 205 is unknown, whatever mode a reader takes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from crossfire_core.errors import ExportError
from crossfire_core.export.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyGrid
from crossfire_core.files import write_bytes, write_text

_GREY = {FREE: 254, OCCUPIED: 0, UNKNOWN: 205}
_OCCUPIED, _FREE = 0.65, 0.196
_MODES = ("trinary", "scale", "raw")


def write_grid(path: Path, grid: OccupancyGrid) -> Path:
    """Write ``place.yaml`` and ``place.pgm``, each whole or not at all.

    Args:
        path: of the YAML file.
        grid: to write.

    Returns:
        Where the picture is.

    Raises:
        OSError: the folder cannot be written.
    """
    picture = path.with_suffix(".pgm")
    grey = np.full(grid.cells.shape, _GREY[UNKNOWN], np.uint8)
    for value in (FREE, OCCUPIED):
        grey[grid.cells == value] = _GREY[value]
    rows, columns = grid.cells.shape
    head = f"P5\n{columns} {rows}\n255\n".encode()
    write_bytes(picture, head + np.flipud(grey).tobytes())
    about = {
        "image": picture.name,
        "mode": "trinary",
        "resolution": grid.resolution,
        "origin": [float(v) for v in grid.origin],
        "negate": 0,
        "occupied_thresh": _OCCUPIED,
        "free_thresh": _FREE,
    }
    write_text(path, yaml.safe_dump(about, sort_keys=False, default_flow_style=None))
    return picture


def read_grid(path: Path) -> OccupancyGrid:
    """Read a grid as ``map_server`` does.

    Raises:
        ExportError: no such file, or one that describes no grid.
    """
    try:
        about = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ExportError(f"cannot read the grid {path}: {str(error).splitlines()[0]}") from error
    try:
        return _grid(about, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{path} describes no occupancy grid: it needs image, resolution and origin as nav2's "
            f"map_server has them ({error})"
        ) from error


def _grid(about: Any, folder: Path) -> OccupancyGrid:
    resolution = float(about["resolution"])
    origin = [float(v) for v in about["origin"]]
    if len(origin) != 3 or not np.isfinite([*origin, resolution]).all() or resolution <= 0:
        raise ValueError("resolution or origin is out of range")
    mode = str(about.get("mode", "trinary"))
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}, known are {', '.join(_MODES)}")
    image = folder / str(about["image"])
    raw = cv2.imread(str(image), cv2.IMREAD_UNCHANGED) if image.is_file() else None
    if raw is None or raw.dtype != np.uint8:
        raise ValueError(f"there is no 8-bit picture {image}")
    grey, seen = _shades(raw.astype(np.uint8))
    cells = _cells(grey, mode, about)
    cells[~seen] = UNKNOWN
    x, y, yaw = origin
    return OccupancyGrid(np.flipud(cells).copy(), resolution, (x, y, math.remainder(yaw, math.tau)))


def _shades(raw: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Grey values ``[h, w]``, the mean of colours, and where the picture is not transparent."""
    if raw.ndim == 2:
        return raw.astype(np.float64), np.ones(raw.shape, dtype=bool)
    seen = raw[..., 3] > 0 if raw.shape[2] == 4 else np.ones(raw.shape[:2], dtype=bool)
    return raw[..., :3].mean(axis=2), seen


def _cells(grey: NDArray[np.float64], mode: str, about: dict[str, Any]) -> NDArray[np.int8]:
    shade = grey / 255.0
    taken = shade if int(about.get("negate", 0)) else 1.0 - shade
    if mode == "raw":
        cells = np.round(grey)
        return np.where(cells <= OCCUPIED, cells, UNKNOWN).astype(np.int8)
    high = float(about.get("occupied_thresh", _OCCUPIED))
    low = float(about.get("free_thresh", _FREE))
    between = np.full(grey.shape, float(UNKNOWN))
    if mode == "scale":
        between = np.rint((taken - low) / max(high - low, 1e-9) * 100.0)
    return np.where(taken > high, OCCUPIED, np.where(taken < low, FREE, between)).astype(np.int8)
