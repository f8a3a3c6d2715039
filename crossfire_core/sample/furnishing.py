"""Rooms and corridors furnished by a seed: alike but for small things, or each in its own way.

A room of :data:`ROOM` metres has its origin in the middle of its floor and its door in the wall
towards -y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from crossfire_core.sample import room
from crossfire_core.sample import textures as tx
from crossfire_core.sample.plan import Finish
from crossfire_core.sample.room import Patch, box, facing, lying, moved, prism

ROOM = (3.6, 3.4)
# Numbers of makes: so many kinds of rooms a seed, so many goods a room, the last ones posters.
_MOST_KINDS, _MAKES_A_ROOM, _POSTERS = 1_000_000, 1000, 990
_Foot = tuple[float, float, float]
# (foot, yaw) of what stands along the walls; the middle stays free for whoever drives there.
_SLOTS: tuple[tuple[_Foot, float], ...] = (
    ((-1.38, 0.35, 0.0), 0.0),
    ((1.38, 0.35, 0.0), 180.0),
    ((0.0, 1.28, 0.0), 270.0),
)
_CORNERS: tuple[tuple[_Foot, float], ...] = (((-1.5, -1.4, 0.0), 45.0), ((1.5, -1.4, 0.0), 135.0))


@dataclass(frozen=True)
class Style:
    """What tells rooms of one place from those of another.

    Attributes:
        seed: of furniture, colours and small things.
        alike: all rooms are furnished in the same way.
        copy: which of several places of this style; its small things are its own.
        rearranged: the furniture stands elsewhere.
    """

    seed: int
    alike: bool
    copy: int = 0
    rearranged: bool = False

    def kind(self, number: int) -> int:
        """Rooms of the same kind have the same furniture."""
        return 0 if self.alike else number + 1

    def first_make(self, number: int) -> int:
        """The first of the makes of what belongs to a room; see :class:`.room.Patch`."""
        return _MAKES_A_ROOM * (self.seed * _MOST_KINDS + self.kind(number))

    def generator(self, kind: int) -> np.random.Generator:
        """Decides how rooms of a kind are furnished."""
        return np.random.default_rng((self.seed, kind, 1))


def finish(style: Style, kind: int) -> Finish:
    """Floor, walls and ceiling; those of one kind are of the same materials."""
    generator = style.generator(kind)
    wall, second, floor = _muted(generator), _muted(generator), _muted(generator)
    floors = (tx.wood(tx.OAK), tx.wood(tx.PINE, 0.2), tx.plain(floor, 0.25), tx.bricks(floor))
    walls = (tx.plain(wall, 0.2), tx.wallpaper(wall, second))
    return Finish(
        floors[generator.integers(len(floors))],
        walls[generator.integers(len(walls))],
        tx.plain((0.9, 0.89, 0.86), 0.12),
    )


def furnished(style: Style, number: int) -> list[Patch]:
    """What stands and hangs in a room, in the room's own frame.

    Args:
        style: of the place.
        number: of the room.
    """
    generator = style.generator(style.kind(number))
    pieces = [_PIECES[i] for i in generator.permutation(len(_PIECES))[: len(_SLOTS)]]
    order = np.roll(np.arange(len(_SLOTS)), 1) if style.rearranged else np.arange(len(_SLOTS))
    parts: list[Patch] = []
    for piece, slot in zip(pieces, order, strict=True):
        foot, yaw = _SLOTS[slot]
        parts += moved(piece(generator), foot, yaw + generator.uniform(-4.0, 4.0))
    corners = _CORNERS[::-1] if style.rearranged else _CORNERS
    for piece, (foot, yaw) in zip((_crate, _pot), corners, strict=True):
        parts += moved(piece(generator), foot, yaw)
    parts += _hung(generator)
    first = style.first_make(number)
    made = [replace(part, make=first + i) for i, part in enumerate(parts)]
    return made + _small_things(style, number)


def _small_things(style: Style, number: int) -> list[Patch]:
    """A picture, a note on a wall and what lies about: a room's own, in every copy of it."""
    generator = np.random.default_rng((style.seed, number, style.copy, 2))
    x, y = ROOM[0] / 2 - 0.02, ROOM[1] / 2 - 0.02
    parts = [
        facing((x, generator.uniform(-1.0, -0.6), 1.5), 0.4, 0.5, 180, tx.picture()),
        facing((generator.uniform(0.8, 1.2), -y, 1.4), 0.3, 0.21, 90, tx.picture()),
    ]
    at = (generator.uniform(-1.2, -0.9), generator.uniform(-1.3, -1.0), 0.0)
    size = generator.uniform(0.12, 0.3, 3).tolist()
    parts += box(at, size, generator.uniform(0, 360), tx.books())
    return parts


def _hung(generator: np.random.Generator) -> list[Patch]:
    """Window, pictures and a carpet."""
    x, y = ROOM[0] / 2 - 0.015, ROOM[1] / 2 - 0.015
    colours = tuple(_muted(generator) for _ in range(4))
    return [
        facing((generator.uniform(-0.4, 0.4), y, 1.65), 1.3, 1.0, 270, tx.window(), glows=True),
        facing((-x, generator.uniform(0.1, 0.6), 1.7), 0.8, 0.55, 0, tx.picture()),
        facing((x, generator.uniform(0.1, 0.6), 1.75), 0.6, 0.6, 180, tx.picture()),
        facing((-x, -0.9, 1.4), 0.45, 0.6, 0, tx.picture()),
        facing((-1.1, -y, 1.5), 0.5, 0.4, 90, tx.picture()),
        lying((0.0, -0.1, 0.006), 1.7, 1.5, generator.uniform(-6.0, 6.0), tx.carpet(colours)),
    ]


def _bookcase(generator: np.random.Generator) -> list[Patch]:
    return moved(room.bookcase((0.0, 0.0, 0.0), 0.0), (-0.2, generator.uniform(-0.3, 0.3), 0), 0)


def _sofa(generator: np.random.Generator) -> list[Patch]:
    return room.sofa((0.0, 0.0, 0.0), 0.0, tx.fabric(_muted(generator), _muted(generator)))


def _desk(generator: np.random.Generator) -> list[Patch]:
    cloth = tx.fabric(_muted(generator), _muted(generator))
    seat = (0.1, generator.choice([-0.85, 0.85]), 0.0)
    return room.table((0.0, 0.0, 0.0), 0.0) + room.chair(seat, generator.uniform(0, 360), cloth)


def _cupboard(generator: np.random.Generator) -> list[Patch]:
    height, wood = generator.uniform(0.8, 1.3), tx.wood(_muted(generator), 0.25)
    parts = box((-0.1, 0.0, 0.0), (0.5, 1.2, height), 0.0, wood)
    at = (-0.1, generator.uniform(-0.4, 0.4), height)
    parts += prism(at, 0.12, 0.3, tx.fabric(_muted(generator), _muted(generator)), 8)
    return parts + box((-0.1, -at[1] / 2, height), (0.25, 0.3, 0.2), 10.0, tx.books())


def _crate(generator: np.random.Generator) -> list[Patch]:
    size = generator.uniform((0.3, 0.35, 0.35), (0.4, 0.5, 0.8)).tolist()
    return box((0.0, 0.0, 0.0), size, 0.0, tx.wood(_muted(generator), 0.12), front=tx.picture())


def _pot(generator: np.random.Generator) -> list[Patch]:
    return prism((0.0, 0.0, 0.0), 0.17, generator.uniform(0.4, 0.9), tx.bricks(_muted(generator)))


_Piece = Callable[[np.random.Generator], list[Patch]]
_PIECES: tuple[_Piece, ...] = (_bookcase, _sofa, _desk, _cupboard)


def door_sign(style: Style, number: int) -> Patch:
    """The plate beside a room's door, a room's own in every copy of it.

    Its frame is the room's, shifted to the middle of the door in the corridor's wall.
    """
    generator = np.random.default_rng((style.seed, number, style.copy, 3))
    height = 1.5 + generator.uniform(-0.05, 0.05)
    return facing((0.75, -0.015, height), 0.22, 0.16, 270, tx.picture())


def posters(style: Style, number: int) -> list[Patch]:
    """What hangs left and right of a room's door, in the frame of :func:`door_sign`."""
    first = style.first_make(number) + _POSTERS
    hung = [
        facing((-1.2, -0.015, 1.45), 0.8, 0.6, 270, tx.picture()),
        facing((1.4, -0.015, 1.35), 0.5, 0.7, 270, tx.picture()),
    ]
    return [replace(part, make=first + i) for i, part in enumerate(hung)]


def _muted(generator: np.random.Generator) -> tuple[float, float, float]:
    """A colour as walls and furniture have it."""
    red, green, blue = generator.uniform(0.3, 0.85) * generator.uniform(0.7, 1.1, 3)
    return float(red), float(green), float(blue)
