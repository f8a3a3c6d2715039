"""A corridor with furnished rooms on both sides, and copies of it that test what a map believes."""

from __future__ import annotations

from crossfire_core.errors import ConfigError
from crossfire_core.sample.drive import Route
from crossfire_core.sample.furnishing import ROOM, Style
from crossfire_core.sample.plan import WALL
from crossfire_core.sample.recording import PassSettings
from crossfire_core.sample.storey import DAY, EVENING, Lighting, Point, Site, Storey

SIZE = (320, 240)
_WIDTH, _PITCH, _END = 1.9, 4.0, 0.7
_TEXEL = 0.007


def corridor_passes(rooms: int, alike: bool, seed: int) -> tuple[PassSettings, ...]:
    """What is recorded: the corridor itself, and copies of it.

    ``mapping`` is for training; ``query``, ``relit`` (evening) and ``rearranged`` (the furniture
    stands elsewhere) show the same corridor; ``lookalike`` and ``foreign`` do not: a lookalike
    has the same plan, materials and furniture, but small things and wear of its own, and a foreign
    corridor is furnished in another way.

    Args:
        rooms: how many.
        alike: whether all rooms are furnished in the same way.
        seed: of everything that is drawn at random.

    Raises:
        ConfigError: fewer than two rooms.
    """
    if rooms < 2:
        raise ConfigError(f"a corridor has at least 2 rooms, got {rooms}")
    storey = corridor(rooms)
    here, elsewhere = Style(seed, alike), Style(seed + 1_000_003, alike, copy=2)

    def recorded(name: str, style: Style, lighting: Lighting, rate_hz: float) -> PassSettings:
        return PassSettings(
            name,
            corridor_route(storey, other=name != "mapping"),
            rate_hz,
            lighting.light((storey,)),
            visitor=False,
            patches=lambda: storey.patches(style),
            copy=style.copy,
            texel=_TEXEL,
        )

    return (
        recorded("mapping", here, DAY, 4.0),
        recorded("query", here, DAY, 1.5),
        recorded("relit", here, EVENING, 1.5),
        recorded("rearranged", Style(seed, alike, rearranged=True), DAY, 1.5),
        recorded("lookalike", Style(seed, alike, copy=1), DAY, 6.0),
        recorded("foreign", elsewhere, DAY, 1.5),
    )


def corridor(rooms: int) -> Storey:
    """Rooms in pairs on both sides of a corridor along x, which begins at the origin."""
    away = _WIDTH / 2 + WALL + ROOM[1] / 2
    sites = []
    for number in range(rooms):
        x = _END + _PITCH * (number // 2 + 0.5)
        sites.append(Site(number, (x, away if number % 2 == 0 else -away), 180.0 * (number % 2)))
    length = 2 * _END + _PITCH * ((rooms + 1) // 2)
    return Storey(tuple(sites), (((0.0, -_WIDTH / 2), (length, _WIDTH / 2)),))


def corridor_route(storey: Storey, *, other: bool) -> Route:
    """There past the rooms of one side and back past those of the other, into each of them.

    Args:
        storey: of :func:`corridor`.
        other: another way than the mapping drive's: the other side first, glances elsewhere.
    """
    first, second = storey.sites[0::2], storey.sites[1::2]
    if other:
        first, second = second, first
    end = storey.corridors[0][1][0]
    beside = 0.22 if other else 0.1
    points: list[Point] = [(0.45, beside, 0.0)]
    for site in first:
        points += _past(storey, site, 1.0, other)
    points += [(end - 0.75, -0.3, 0.0), (end - 0.45, 0.0, 0.0), (end - 0.75, 0.3, 0.0)]
    for site in reversed(second):
        points += _past(storey, site, -1.0, other)
    points.append((0.45, -beside, 0.0))
    seed, phase, glance = (22, 1.3, 0.5) if other else (21, 0.0, 0.6)
    return Route((tuple(points),), 0.7, glance, phase, seed)


def _past(storey: Storey, site: Site, forth: float, other: bool) -> list[Point]:
    """Along the corridor to a room's door, through the room and on."""
    x = site.centre[0]
    visit = storey.visit(site, other=other)
    return [(x - 0.75 * forth, 0.0, 0.0), *visit, (x + 0.75 * forth, 0.0, 0.0)]
