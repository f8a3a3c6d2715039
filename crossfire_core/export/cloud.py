"""A map's surfaces as a cloud of points with colours and normals, and as a mesh."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import ExportConfig
from crossfire_core.errors import ExportError, optional
from crossfire_core.export.surfaces import Surfaces
from crossfire_core.files import write_bytes

Single = NDArray[np.float32]

_COARSER = 1.25  # until the points are few enough
_TRIM = 1.5  # so many octree levels below the cloud's density, a piece of mesh is a guess
_DEPTH = (6, 11)  # of the octree that a mesh is made in


@dataclass(frozen=True)
class Cloud:
    """Points on surfaces, evenly spread.

    Attributes:
        points: ``[n, 3]`` metres, in the map.
        normals: ``[n, 3]`` unit, towards who sees the surface.
        colours: ``[n, 3]`` uint8 RGB.
        voxel: metres, the side of the cubes of which each holds at most one point.
    """

    points: Single
    normals: Single
    colours: NDArray[np.uint8]
    voxel: float

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)


def cloud(surfaces: Surfaces, config: ExportConfig) -> Cloud:
    """One point for each small cube that enough views see a surface in: the mean of what they see.

    Args:
        surfaces: what the mapping views see.
        config: the cubes' side, which grows until there are no more than ``max_points``.

    Raises:
        ExportError: no cube is seen by enough views.
    """
    solid = surfaces.solid & surfaces.normals.any(axis=1)
    points, view = surfaces.points[solid], surfaces.view[solid]
    normals, colours = surfaces.normals[solid], surfaces.colours[solid]
    least = min(config.least_views, len(surfaces.origins))
    voxel = config.voxel
    while True:
        cube, kept = _cubes(points, view, voxel, least)
        if kept.sum() <= config.max_points:
            break
        voxel *= _COARSER
    if not kept.any():
        raise ExportError(
            f"no two views see the same {voxel} m of the map: set a larger --voxel, or "
            "--set least_views=1"
        )
    middle, normal, colour = (_means(v, cube, len(kept))[kept] for v in (points, normals, colours))
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    shown = np.rint(255.0 * np.clip(colour, 0.0, 1.0)).astype(np.uint8)
    return Cloud(middle.astype(np.float32), normal.astype(np.float32), shown, voxel)


def _cubes(
    points: Single, view: NDArray[np.int32], voxel: float, least: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The cube ``[n]`` that each point lies in, and which cubes ``[m]`` enough views see."""
    cells = np.floor(points.astype(np.float64) / voxel).astype(np.int64)
    cells -= cells.min(axis=0)
    columns, rows = cells[:, 0].max() + 1, cells[:, 1].max() + 1
    flat = cells[:, 0] + columns * (cells[:, 1] + rows * cells[:, 2])
    _, cube = np.unique(flat, return_inverse=True)
    pairs = np.unique(cube * (int(view.max(initial=0)) + 1) + view)
    seen_by = np.bincount(pairs // (int(view.max(initial=0)) + 1))
    return cube, seen_by >= least


def _means(values: Single, cube: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Means ``[count, 3]`` of values ``[n, 3]`` by cube."""
    number = np.bincount(cube, minlength=count)[:, None]
    total = np.stack([np.bincount(cube, column, count) for column in values.T], axis=1)
    return np.asarray(total / number)


def ply_bytes(made: Cloud) -> bytes:
    """A cloud as a binary PLY file: positions, normals, colours."""
    kinds = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    kinds += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(made), dtype=kinds)
    for values, names in (
        (made.points, ("x", "y", "z")),
        (made.normals, ("nx", "ny", "nz")),
        (made.colours, ("red", "green", "blue")),
    ):
        for column, name in enumerate(names):
            rows[name] = values[:, column]
    said = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(made)}"]
    lines += [f"property {said[kind]} {name}" for name, kind in kinds]
    return "\n".join([*lines, "end_header", ""]).encode() + rows.tobytes()


def write_mesh(path: Path, made: Cloud) -> int:
    """Write the surface through a cloud as a PLY file (Poisson reconstruction, by COLMAP).

    Args:
        path: of the mesh; an existing file is replaced only once the new one is complete.
        made: the cloud.

    Returns:
        Number of triangles.

    Raises:
        MissingDependencyError: pycolmap is not installed.
        ExportError: no surface could be made.
    """
    pycolmap = optional(
        "pycolmap",
        "a mesh is made with pycolmap: install it with pip install '.[sfm]' in the clone",
    )
    options = pycolmap.PoissonMeshingOptions()
    extent = float(np.ptp(made.points, axis=0).max())
    density = float(np.log2(max(extent / made.voxel, 2.0)))
    options.depth = int(np.clip(np.ceil(density), *_DEPTH))
    options.trim = max(density - _TRIM, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder, "cloud.ply"), Path(folder, "mesh.ply")
        given.write_bytes(ply_bytes(made))
        pycolmap.poisson_meshing(given, got, options)
        mesh = got.read_bytes() if got.is_file() else b""
    faces = _faces(mesh)
    if not faces:
        raise ExportError("no mesh comes of this map: its cloud has too few points")
    write_bytes(path, mesh)
    return faces


def _faces(mesh: bytes) -> int:
    """How many faces the head of a PLY file announces."""
    head = mesh[:2000].partition(b"end_header")[0].decode("ascii", "replace")
    counts = [line.split()[2] for line in head.splitlines() if line.startswith("element face")]
    return int(counts[0]) if counts else 0
