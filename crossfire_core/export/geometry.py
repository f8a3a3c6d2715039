"""What a robot's other programs want of a map, made in one go."""

from __future__ import annotations

from dataclasses import dataclass, field

from crossfire_core.config import ExportConfig
from crossfire_core.export.cloud import Cloud, cloud
from crossfire_core.export.floor import find_floor
from crossfire_core.export.occupancy import OccupancyGrid, occupancy
from crossfire_core.export.surfaces import map_surfaces
from crossfire_core.geometry import Pose
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import Place


@dataclass(frozen=True)
class MapGeometry:
    """Grid and cloud of a map, each where it was asked for.

    Attributes:
        grid: seen from above.
        map_from_grid: of its first cell's outer corner, on the floor; its z axis is up.
        cloud: points in the map.
    """

    grid: OccupancyGrid | None = None
    map_from_grid: Pose = field(default_factory=Pose.identity)
    cloud: Cloud | None = None


def map_geometry(
    neural_map: NeuralMap | Place, config: ExportConfig, *, grid: bool, points: bool
) -> MapGeometry:
    """Make what is asked for; without anything the map is not looked at.

    Args:
        neural_map: the map.
        config: of the exports.
        grid: whether an occupancy grid is wanted.
        points: whether a cloud is wanted.

    Raises:
        ExportError: the map shows no surfaces, or no floor.
        ConfigError: the grid's height band is empty.
    """
    if not (grid or points):
        return MapGeometry()
    surfaces = map_surfaces(neural_map, config)
    made = cloud(surfaces, config) if points else None
    if not grid:
        return MapGeometry(cloud=made)
    floor = find_floor(surfaces, config)
    cells = occupancy(surfaces, floor, config)
    return MapGeometry(cells, floor.map_from_corner(cells.origin), made)
