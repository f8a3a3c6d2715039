"""A building of several storeys: a corridor between two wings, and rooms that are alike.

Each storey is 40 x 25 m. The robot is carried from one storey to the next, as up a stair, which
is a cut in the drive: its odometry knows nothing of it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from crossfire_core.errors import ConfigError
from crossfire_core.sample.drive import Route
from crossfire_core.sample.furnishing import ROOM, Style
from crossfire_core.sample.plan import WALL
from crossfire_core.sample.recording import PassSettings
from crossfire_core.sample.storey import DAY, Notice, Point, Site, Storey

SIZE = (320, 240)
MOST_ROOMS = 26  # a storey
_STOREY_HEIGHT = 3.2
_LENGTH, _HALF_DEPTH, _WIDTH, _PITCH = 40.0, 12.5, 1.9, 4.0
_TEXEL = 0.01
_FAR_APART = 1.5
# Middles of the wings along x, and where the corridor between them begins and ends.
_WEST = ROOM[1] + WALL + _WIDTH / 2
_EAST = _LENGTH - _WEST
_START, _END = _WEST + _WIDTH / 2 + WALL, _EAST - _WIDTH / 2 - WALL


def building_passes(rooms: int, floors: int, seed: int) -> tuple[PassSettings, ...]:
    """``mapping``, through all corridors and rooms, and ``query``, the other way around.

    Args:
        rooms: how many in all.
        floors: how many storeys.
        seed: of everything that is drawn at random.

    Raises:
        ConfigError: too few rooms or too many for so many storeys.
    """
    if floors < 1 or not 2 * floors <= rooms <= MOST_ROOMS * floors:
        raise ConfigError(
            f"a building has 2 to {MOST_ROOMS} rooms a floor, got {rooms} rooms on {floors} floors"
        )
    storeys = building(rooms, floors)
    style = Style(seed, alike=True)

    def recorded(name: str, rate_hz: float, *, other: bool) -> PassSettings:
        return PassSettings(
            name,
            building_route(storeys, other=other),
            rate_hz,
            DAY.light(storeys),
            visitor=False,
            patches=lambda: [patch for storey in storeys for patch in storey.patches(style)],
            texel=_TEXEL,
        )

    return recorded("mapping", 1.5, other=False), recorded("query", 0.5, other=True)


def building(rooms: int, floors: int) -> tuple[Storey, ...]:
    """The storeys, rooms spread evenly over them."""
    firsts = [rooms * floor // floors for floor in range(floors + 1)]
    return tuple(
        _storey(first, last - first, _STOREY_HEIGHT * floor)
        for floor, (first, last) in enumerate(pairwise(firsts))
    )


def _storey(first: int, count: int, level: float) -> Storey:
    spots = _spots()
    chosen = np.linspace(0, len(spots) - 1, count).round().astype(int)
    half = _WIDTH / 2
    wings = [((x - half, -_HALF_DEPTH), (x + half, _HALF_DEPTH)) for x in (_WEST, _EAST)]
    passages = [((x, 0.0), 0, _WIDTH - 0.3) for x in (_START - WALL / 2, _END + WALL / 2)]
    return Storey(
        tuple(Site(first + i, *spots[spot]) for i, spot in enumerate(chosen)),
        (wings[0], ((_START, -half), (_END, half)), wings[1]),
        tuple(passages),
        level,
        tuple(_notices()),
    )


def _spots() -> list[tuple[tuple[float, float], float]]:
    """(middle, yaw) of where rooms may be: outside the wings and on both sides of the corridor."""
    away = _WIDTH / 2 + WALL + ROOM[1] / 2
    wing = [_PITCH * (i - 2.5) for i in range(6)]
    middle = [(_START + _END) / 2 + _PITCH * (i - 3) for i in range(7)]
    return [
        *(((_WEST - away, y), 90.0) for y in wing),
        *(((x, away), 0.0) for x in middle),
        *(((x, -away), 180.0) for x in middle),
        *(((_EAST + away, y), 270.0) for y in wing),
    ]


def _notices() -> list[Notice]:
    """What hangs in the corridors, between where doors may be."""
    half = _WIDTH / 2
    along = [(_START + _END) / 2 + _PITCH * (i - 3.5) for i in range(1, 7)]
    across = [_PITCH * (i - 3) for i in range(7) if i != 3]
    found = [Notice((x, side * half), 180.0 + 90.0 * side) for x in along for side in (1, -1)]
    for wing in (_WEST, _EAST):
        for y in across:
            found += [Notice((wing - half, y), 0.0), Notice((wing + half, y), 180.0)]
    return found


def building_route(storeys: tuple[Storey, ...], *, other: bool) -> Route:
    """Storey after storey, every corridor in both directions and every room once.

    Args:
        storeys: of :func:`building`.
        other: from the end to the beginning, glancing elsewhere.
    """
    tours = [tuple(_straightened(_tour(storey, other=other))) for storey in storeys]
    if other:
        tours = [tour[::-1] for tour in reversed(tours)]
    seed, phase, glance = (32, 1.3, 0.5) if other else (31, 0.0, 0.6)
    return Route(tuple(tours), 0.7, glance, phase, seed)


def _tour(storey: Storey, *, other: bool) -> list[Point]:
    """Up the west wing, along the corridor, up and down the east wing, and back."""
    end, beside = _HALF_DEPTH - 0.7, 0.35
    north = [s for s in storey.sites if s.yaw_deg == 0.0]
    south = [s for s in storey.sites if s.yaw_deg == 180.0]
    west = [s for s in storey.sites if s.yaw_deg == 90.0]
    east = [s for s in storey.sites if s.yaw_deg == 270.0]
    plain: list[tuple[float, float] | tuple[Site, float]] = [(_WEST, -end)]
    plain += [(site, 1.0) for site in west]
    plain += [(_WEST - beside, end - 0.5), (_WEST, end), (_WEST + beside, end - 0.5)]
    plain += [(_WEST + 0.1, 1.6), (_START, 0.0)]
    plain += [(site, 1.0) for site in north]
    plain += [(_END, 0.0), (_EAST - 0.1, 1.6), (_EAST - beside, end - 0.5), (_EAST, end)]
    plain += [(_EAST + beside, end - 0.5)]
    plain += [(site, -1.0) for site in reversed(east)]
    plain += [(_EAST + beside, 0.5 - end), (_EAST, -end), (_EAST - beside, 0.5 - end)]
    plain += [(_EAST - 0.1, -1.6), (_END, 0.0)]
    plain += [(site, -1.0) for site in reversed(south)]
    plain += [(_START, 0.0), (_WEST + 0.4, 0.0)]
    points: list[Point] = []
    for at, y in plain:
        if isinstance(at, Site):
            points += _into(storey, at, y, other=other)
        else:
            points.append((at, y, storey.level))
    return points


def _into(storey: Storey, site: Site, forth: float, *, other: bool) -> list[Point]:
    """Along a corridor to a room's door, through the room and on."""
    visit = storey.visit(site, other=other)
    if site.yaw_deg in (90.0, 270.0):
        x = _WEST if site.yaw_deg == 90.0 else _EAST
        around = [(x, site.centre[1] + step * forth, storey.level) for step in (-0.75, 0.75)]
    else:
        around = [(site.centre[0] + step * forth, 0.0, storey.level) for step in (-0.75, 0.75)]
    return [around[0], *visit, around[1]]


def _straightened(points: list[Point]) -> list[Point]:
    """The points with others between those far apart, where a smooth line would swing."""
    found = points[:1]
    for start, end in pairwise(points):
        parts = int(np.linalg.norm(np.subtract(end, start)) / _FAR_APART) + 1
        way = np.linspace(start, end, parts + 1)[1:]
        found += [(float(x), float(y), float(z)) for x, y, z in way]
    return found
