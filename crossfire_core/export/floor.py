"""The floor of a map: which way is up, and how high each spot lies above the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfire_core.config import ExportConfig
from crossfire_core.errors import ExportError
from crossfire_core.export.surfaces import Surfaces
from crossfire_core.geometry import Pose
from crossfire_core.geometry.upright import plane_axes

FloatArray = NDArray[np.float64]

_LEVEL = 0.9  # cosine between up and the normal of something that lies
_BIN_M, _CELL_M = 0.02, 0.1  # in which level surfaces are counted: finer than a map resolves
_SHARE = 0.25  # the floor is at least this large, measured by the largest level there is
_NEAR_M = 0.1  # of the floor: further off is something that stands on it
_ROUNDS = 8  # of fitting; it rests after a few
_STEEPEST = np.tan(np.radians(5.0))  # more is a ramp
_LEAST_CELLS = 20  # a fifth of a square metre: less is no floor


@dataclass(frozen=True)
class Floor:
    """A plane below the map, and coordinates over it: x and y level, height above the plane.

    Attributes:
        axes: ``[2, 3]`` unit, level, in the map: those of x and y. A map whose z is up keeps its
            own.
        up: ``[3]`` unit.
        plane: (a, b, c): at (x, y) the floor is ``a x + b y + c`` metres high along ``up``.
    """

    axes: FloatArray
    up: FloatArray
    plane: tuple[float, float, float]

    @property
    def is_level(self) -> bool:
        """Whether the map's own z axis is up, so that x and y are the map's."""
        return bool(self.up[2] > 1.0 - 1e-9)

    @property
    def grid_from_map(self) -> Pose:
        """The level frame whose x and y are the grid's, with the map's origin."""
        return Pose(np.concatenate([self.axes, self.up[None]]), np.zeros(3))

    def over(self, points: ArrayLike) -> FloatArray:
        """Points ``[n, 3]`` of the map as (x, y, height above the floor)."""
        p = np.asarray(points, dtype=np.float64)
        level = p @ self.axes.T
        a, b, c = self.plane
        height = p @ self.up - level @ np.array([a, b]) - c
        return np.concatenate([level, height[:, None]], axis=1)

    def map_from_corner(self, origin: tuple[float, float, float]) -> Pose:
        """Of a grid's corner (x, y, yaw) on the floor: a pose in the map whose z axis is up."""
        x, y, yaw = origin
        level = Pose.exp((0.0, 0.0, 0.0, 0.0, 0.0, yaw)).rotation
        corner = Pose(level, np.array([x, y, self.height_at(x, y)]))
        return self.grid_from_map.inverse() @ corner

    def height_at(self, x: float, y: float) -> float:
        """The floor's height along ``up``, metres."""
        a, b, c = self.plane
        return a * x + b * y + c


def find_floor(surfaces: Surfaces, config: ExportConfig) -> Floor:
    """The floor that the settings tell, or the lowest large level that the mapping views see.

    Raises:
        ExportError: nothing below the cameras is level.
    """
    axes, up = plane_axes(surfaces.up), surfaces.up
    if not config.find_floor:
        return Floor(axes, up, (0.0, 0.0, config.floor))
    lying = surfaces.solid & (surfaces.normals @ up > _LEVEL)
    lying &= (surfaces.points - surfaces.origins[surfaces.view]) @ up < 0.0
    points = surfaces.points[lying].astype(np.float64)
    return Floor(axes, up, _plane(points @ axes.T, points @ up))


def _plane(level: FloatArray, height: FloatArray) -> tuple[float, float, float]:
    """The lowest large plane through points, tilted a little where they are."""
    cells = np.stack(
        [*np.floor(level.T / _CELL_M), np.floor(height / _BIN_M)], axis=1
    ).astype(np.int64)  # fmt: skip
    _, first = np.unique(cells, axis=0, return_index=True)  # each spot counts once
    if len(first) < _LEAST_CELLS:
        raise ExportError(
            "no floor is seen in the map: tell its height along the map's up axis, with --floor "
            "or, for the node, export.floor and export.find_floor: false"
        )
    level, height = level[first], height[first]
    start = _lowest_level(height)
    plane = np.array([0.0, 0.0, start])
    design = np.concatenate([level, np.ones((len(level), 1))], axis=1)
    for _ in range(_ROUNDS):
        near = np.abs(height - design @ plane) < _NEAR_M
        fitted, *_ = np.linalg.lstsq(design[near], height[near], rcond=None)
        if near.sum() < _LEAST_CELLS or np.hypot(*fitted[:2]) > _STEEPEST:
            return 0.0, 0.0, start
        plane = fitted
    return float(plane[0]), float(plane[1]), float(plane[2])


def _lowest_level(height: FloatArray) -> float:
    """Where the heights first crowd, from below."""
    edges = np.arange(height.min() - 3 * _BIN_M, height.max() + 4 * _BIN_M, _BIN_M)
    count = np.histogram(height, edges)[0]
    crowd = np.convolve(count, np.ones(5), mode="same")
    enough = np.flatnonzero(crowd >= _SHARE * crowd.max())
    top = enough[0]
    while top + 1 < len(crowd) and crowd[top + 1] >= crowd[top]:
        top += 1
    near = np.abs(height - 0.5 * (edges[top] + edges[top + 1])) < 2.5 * _BIN_M
    return float(np.median(height[near]))
