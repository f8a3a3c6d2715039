"""One storey: corridors with furnished rooms beside them, its lamps, and ways through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossfire_core.sample import textures as tx
from crossfire_core.sample.furnishing import (
    ROOM,
    Style,
    door_sign,
    finish,
    furnished,
    posters,
)
from crossfire_core.sample.plan import WALL, Doorway, Space, built
from crossfire_core.sample.raycast import Lamp, Light
from crossfire_core.sample.room import Patch, facing, moved

FloatArray = NDArray[np.float64]
Point = tuple[float, float, float]
Rectangle = tuple[tuple[float, float], tuple[float, float]]

_DOOR_WIDTH, _DOOR_HEIGHT = 0.95, 2.1
_CORRIDOR = 100_000  # no room has this number
_LAMP_HEIGHT, _LAMP_EVERY = 2.4, 4.0
# What stands free in a room is this wide; whoever visits it drives once around its middle.
_TURN = 0.45


@dataclass(frozen=True)
class Site:
    """Where a room lies.

    Attributes:
        number: of the room in the whole place.
        centre: ``(x, y)`` of its middle, metres.
        yaw_deg: 0 if its door is towards -y; a multiple of 90.
    """

    number: int
    centre: tuple[float, float]
    yaw_deg: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """``(x, y)`` in the place of a point in the room's frame."""
        turned = Rotation.from_euler("z", self.yaw_deg, degrees=True).apply([x, y, 0.0])
        return float(self.centre[0] + turned[0]), float(self.centre[1] + turned[1])

    @property
    def space(self) -> Rectangle:
        """The room's corners with the least and the greatest coordinates."""
        corners = np.array(
            [self.place(sx * ROOM[0] / 2, sy * ROOM[1] / 2) for sx in (-1, 1) for sy in (-1, 1)]
        )
        low, high = corners.min(axis=0).round(6), corners.max(axis=0).round(6)
        return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))

    @property
    def door(self) -> tuple[float, float]:
        """The middle of its doorway, in the middle of the wall."""
        return self.place(0.0, -(ROOM[1] + WALL) / 2)


@dataclass(frozen=True)
class Notice:
    """Where something of its own hangs in a corridor.

    Attributes:
        at: ``(x, y)`` on the face of the wall, metres.
        yaw_deg: where it faces.
    """

    at: tuple[float, float]
    yaw_deg: float


@dataclass(frozen=True)
class Storey:
    """The plan of one floor.

    Attributes:
        sites: its rooms.
        corridors: rectangles, (low, high) corners.
        passages: (middle, axis, width) of openings from corridor to corridor.
        level: height of the floor, metres.
        notices: what hangs in the corridors besides.
    """

    sites: tuple[Site, ...]
    corridors: tuple[Rectangle, ...]
    passages: tuple[tuple[tuple[float, float], int, float], ...] = ()
    level: float = 0.0
    notices: tuple[Notice, ...] = ()

    def patches(self, style: Style) -> list[Patch]:
        """Everything that is to be seen of it."""
        frame = tx.wood(tx.PINE, 0.3)
        spaces = [Space(*rectangle, finish(style, _CORRIDOR)) for rectangle in self.corridors]
        doorways = [Doorway(at, axis, width, 2.35, frame) for at, axis, width in self.passages]
        for site in self.sites:
            spaces.append(Space(*site.space, finish(style, style.kind(site.number))))
            axis = 1 if site.yaw_deg % 180 == 0 else 0
            doorways.append(Doorway(site.door, axis, _DOOR_WIDTH, _DOOR_HEIGHT, frame))
        parts = built(spaces, doorways, self.level)
        for site in self.sites:
            here = (*site.centre, self.level)
            parts += moved(furnished(style, site.number), here, site.yaw_deg)
            face = (*site.place(0.0, -ROOM[1] / 2 - WALL), self.level)
            outside = [door_sign(style, site.number), *posters(style, site.number)]
            parts += moved(outside, face, site.yaw_deg)
        sheet = facing((0.015, 0.0, 1.5), 0.3, 0.4, 0.0, tx.picture())
        for notice in self.notices:
            parts += moved([sheet], (*notice.at, self.level), notice.yaw_deg)
        return parts

    def lamps(
        self, room: tuple[float, float, float], corridor: tuple[float, float, float], shift: float
    ) -> list[Lamp]:
        """A lamp in every room and some in the corridors.

        Args:
            room: strength of red, green and blue of a room's lamp.
            corridor: of a corridor's.
            shift: how far all are from their usual places, metres.
        """
        height = self.level + _LAMP_HEIGHT
        lamps = [Lamp((*site.place(0.2 + shift, 0.1 - shift), height), room) for site in self.sites]
        for low, high in self.corridors:
            axis = 0 if high[0] - low[0] > high[1] - low[1] else 1
            count = max(round((high[axis] - low[axis]) / _LAMP_EVERY), 1)
            for index in range(count):
                at = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
                at[axis] = low[axis] + (high[axis] - low[axis]) * (index + 0.5) / count + shift
                lamps.append(Lamp((at[0], at[1], height), corridor))
        return lamps

    def visit(self, site: Site, *, other: bool) -> list[Point]:
        """Into a room, once around its middle and out to its door again.

        Args:
            site: of the room.
            other: a little beside, and the other way around.
        """
        side, turn = (-1.0, 0.85 * _TURN) if other else (1.0, _TURN)
        middle = (0.08, -0.12) if other else (0.0, -0.05)
        inside = -ROOM[1] / 2
        angles = np.radians([-90, -30, 30, 90, 150, 210, 270 - 25])
        local = [(0.0, inside - WALL), (0.0, inside + 0.4)]
        local += [
            (middle[0] + side * turn * float(np.cos(a)), middle[1] + turn * float(np.sin(a)))
            for a in angles
        ]
        local += [(-0.06 * side, inside + 0.4), (0.0, inside - WALL)]
        return [(*site.place(x, y), self.level) for x, y in local]


@dataclass(frozen=True)
class Lighting:
    """How lamps shine at some hour.

    Attributes:
        room: strength of red, green and blue of a room's lamp.
        corridor: of a corridor's.
        ambient: of what comes from everywhere.
        shift: how far lamps are from their usual places, metres.
    """

    room: tuple[float, float, float]
    corridor: tuple[float, float, float]
    ambient: tuple[float, float, float]
    shift: float = 0.0

    def light(self, storeys: tuple[Storey, ...]) -> Light:
        """All lamps of some storeys."""
        lamps = [lamp for s in storeys for lamp in s.lamps(self.room, self.corridor, self.shift)]
        return Light(tuple(lamps), self.ambient)


DAY = Lighting((1.5, 1.45, 1.35), (1.1, 1.1, 1.1), (0.55, 0.55, 0.57))
EVENING = Lighting((1.3, 1.0, 0.68), (0.55, 0.45, 0.32), (0.3, 0.29, 0.29), 0.5)
