"""Floor plans: rectangular spaces with doorways between them, as patches seen from inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossfire_core.sample.room import Patch, facing, lying
from crossfire_core.sample.textures import Painter

HEIGHT = 2.6
WALL = 0.14  # thickness, metres


@dataclass(frozen=True)
class Finish:
    """What a space is made of.

    Attributes:
        floor: painter of the floor.
        walls: painter of the walls.
        ceiling: painter of the ceiling.
    """

    floor: Painter
    walls: Painter
    ceiling: Painter


@dataclass(frozen=True)
class Space:
    """A room or a corridor without its furniture.

    Attributes:
        low: ``(x, y)`` of the corner with the least coordinates, metres.
        high: of the opposite one.
        finish: what it is made of.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    finish: Finish


@dataclass(frozen=True)
class Doorway:
    """An opening through a wall.

    Attributes:
        at: ``(x, y)`` of its middle, in the middle of the wall, metres.
        axis: 0 if one passes it along x, 1 along y.
        width: metres.
        height: metres; the lintel is above.
        frame: painter of its reveals.
    """

    at: tuple[float, float]
    axis: int
    width: float
    height: float
    frame: Painter


def built(spaces: Sequence[Space], doorways: Sequence[Doorway], level: float) -> list[Patch]:
    """Floors, ceilings, walls and doorways of one floor.

    Args:
        spaces: they lie beside one another, a wall's thickness apart.
        doorways: each in the wall between two spaces.
        level: height of the floor, metres.
    """
    parts: list[Patch] = []
    for space in spaces:
        parts += _floor_and_ceiling(space, level)
        for axis in (0, 1):
            for end in (space.low, space.high):
                parts += _wall(space, axis, end[axis], doorways, level)
    for doorway in doorways:
        parts += _reveals(doorway, level)
    return parts


def _floor_and_ceiling(space: Space, level: float) -> list[Patch]:
    (x0, y0), (x1, y1) = space.low, space.high
    middle = ((x0 + x1) / 2, (y0 + y1) / 2, level)
    ceiling = Patch(
        np.array([x0, y0, level + HEIGHT]),
        np.array([x1 - x0, 0.0, 0.0]),
        np.array([0.0, y1 - y0, 0.0]),
        space.finish.ceiling,
    )
    return [lying(middle, x1 - x0, y1 - y0, 0.0, space.finish.floor), ceiling]


def _wall(
    space: Space, axis: int, at: float, doorways: Sequence[Doorway], level: float
) -> list[Patch]:
    """The wall of a space that is crossed along an axis, in pieces around its doorways."""
    across = 1 - axis
    inwards = 180.0 if at == space.high[axis] else 0.0
    yaw = inwards + 90.0 * axis
    start, end = space.low[across], space.high[across]

    parts: list[Patch] = []

    def add(low: float, high: float, bottom: float, top: float) -> None:
        centre = [0.0, 0.0, level + (bottom + top) / 2]
        centre[axis], centre[across] = at, (low + high) / 2
        if high > low and top > bottom:
            parts.append(facing(centre, high - low, top - bottom, yaw, space.finish.walls))

    for doorway in sorted(doorways, key=lambda d: d.at[across]):
        low, high = (doorway.at[across] + s * doorway.width / 2 for s in (-1, 1))
        near = abs(doorway.at[axis] - at) <= WALL
        if doorway.axis != axis or not near or low < start or high > space.high[across]:
            continue
        add(start, low, 0.0, HEIGHT)
        add(low, high, doorway.height, HEIGHT)
        start = high
    add(start, end, 0.0, HEIGHT)
    return parts


def _reveals(doorway: Doorway, level: float) -> list[Patch]:
    """Jambs, lintel and threshold, as deep as the wall is thick."""
    axis, across = doorway.axis, 1 - doorway.axis
    half = doorway.width / 2
    parts = []
    for side in (-1, 1):
        at = [*doorway.at, level + doorway.height / 2]
        at[across] += side * half
        yaw = 90.0 * across + (180.0 if side > 0 else 0.0)
        parts.append(facing(at, WALL, doorway.height, yaw, doorway.frame))
    size = [0.0, 0.0]
    size[axis], size[across] = WALL, doorway.width
    foot = (*doorway.at, level)
    parts.append(lying(foot, size[0], size[1], 0.0, doorway.frame))
    corner = np.array([*doorway.at, level + doorway.height]) - np.array([*size, 0.0]) / 2
    lintel = Patch(
        corner, np.array([size[0], 0.0, 0.0]), np.array([0.0, size[1], 0.0]), doorway.frame
    )
    return [*parts, lintel]
