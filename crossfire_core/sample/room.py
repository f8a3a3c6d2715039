"""A furnished room of 5 x 4 x 2.6 m, made of flat patches.

The floor is z = 0, z is up, the origin lies in the middle of the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossfire_core.sample import textures as tx
from crossfire_core.sample.textures import Painter

FloatArray = NDArray[np.float64]

SIZE = (5.0, 4.0, 2.6)


@dataclass(frozen=True)
class Patch:
    """A parallelogram with a texture.

    Attributes:
        corner: ``[3]`` where the texture's top left lies, metres.
        along: ``[3]`` the texture's columns, from left to right.
        down: ``[3]`` the texture's rows, from top to bottom.
        painter: draws it.
        glows: shown as painted, whatever the light.
        make: painted as every other patch of this make, as a maker's goods are alike; None
            paints it unlike all others.
    """

    corner: FloatArray
    along: FloatArray
    down: FloatArray
    painter: Painter
    glows: bool = False
    make: int | None = None

    @cached_property
    def normal(self) -> FloatArray:
        """``[3]`` unit, towards whoever sees the texture the right way round."""
        n = np.cross(self.down, self.along)
        return np.asarray(n / np.linalg.norm(n))


def facing(
    centre: Sequence[float],
    width: float,
    height: float,
    yaw_deg: float,
    painter: Painter,
    *,
    glows: bool = False,
) -> Patch:
    """An upright patch whose normal points along ``yaw_deg`` (0 is +x, 90 is +y)."""
    yaw = np.radians(yaw_deg)
    along = width * np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    down = np.array([0.0, 0.0, -height])
    return Patch(np.array(centre) - along / 2 - down / 2, along, down, painter, glows)


def lying(
    centre: Sequence[float], length: float, width: float, yaw_deg: float, painter: Painter
) -> Patch:
    """A level patch seen from above."""
    yaw = np.radians(yaw_deg)
    along = length * np.array([np.cos(yaw), np.sin(yaw), 0.0])
    down = width * np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    return Patch(np.array(centre) - along / 2 - down / 2, along, down, painter)


def raised(foot: Sequence[float], height: float) -> FloatArray:
    """A point above another, ``[3]``."""
    x, y, z = foot
    return np.array([x, y, z + height])


def moved(patches: Sequence[Patch], to: Sequence[float], yaw_deg: float) -> list[Patch]:
    """The patches turned about the vertical through the origin, then shifted.

    Args:
        patches: around the origin.
        to: where the origin goes, metres.
        yaw_deg: how far they turn, counterclockwise seen from above.
    """
    turn = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    return [
        replace(
            patch,
            corner=turn @ patch.corner + np.array(to),
            along=turn @ patch.along,
            down=turn @ patch.down,
        )
        for patch in patches
    ]


def box(
    foot: Sequence[float],
    size: Sequence[float],
    yaw_deg: float,
    side: Painter,
    top: Painter | None = None,
    front: Painter | None = None,
) -> list[Patch]:
    """A box standing on ``foot`` (the centre of its base), size (depth, width, height).

    Args:
        foot: metres.
        size: extent along its own x (where ``front`` faces), y and z.
        yaw_deg: where its front faces.
        side: painter of the sides.
        top: painter of the top and the underside, else as the sides.
        front: painter of the face along +x, else as the sides.
    """
    depth, width, height = size
    centre = raised(foot, height / 2)
    patches = []
    for turn, away, across, painter in (
        (0.0, depth, width, front or side),
        (90.0, width, depth, side),
        (180.0, depth, width, side),
        (270.0, width, depth, side),
    ):
        yaw = np.radians(yaw_deg + turn)
        offset = 0.5 * away * np.array([np.cos(yaw), np.sin(yaw), 0.0])
        patches.append(facing((centre + offset).tolist(), across, height, yaw_deg + turn, painter))
    for level in (height, 0.0):
        middle = raised(foot, level)
        patches.append(lying(middle.tolist(), depth, width, yaw_deg, top or side))
    return patches


def prism(
    foot: Sequence[float], radius: float, height: float, painter: Painter, sides: int = 14
) -> list[Patch]:
    """An upright round body, closed by a level square inside its rim."""
    centre = raised(foot, height / 2)
    width = 2 * radius * np.tan(np.pi / sides)
    patches = []
    for index in range(sides):
        yaw = 360.0 * index / sides
        at = centre + radius * np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), 0.0])
        patches.append(facing(at.tolist(), width, height, yaw, painter))
    cover = raised(foot, height - 0.004)
    patches.append(lying(cover.tolist(), 1.8 * radius, 1.8 * radius, 0.0, painter))
    return patches


def shell() -> list[Patch]:
    """Floor, ceiling and four walls, seen from inside."""
    x, y, z = SIZE
    floor = lying((0, 0, 0), x, y, 0.0, tx.wood(tx.OAK))
    ceiling = Patch(
        np.array([-x / 2, -y / 2, z]),
        np.array([x, 0.0, 0.0]),
        np.array([0.0, y, 0.0]),
        tx.plain((0.9, 0.89, 0.86), 0.12),
    )
    green = tx.wallpaper((0.62, 0.7, 0.6), (0.42, 0.52, 0.42))
    cream = tx.wallpaper((0.86, 0.79, 0.66), (0.68, 0.5, 0.36))
    return [
        floor,
        ceiling,
        facing((x / 2, 0, z / 2), y, z, 180, cream),
        facing((-x / 2, 0, z / 2), y, z, 0, tx.bricks((0.6, 0.32, 0.25))),
        facing((0, y / 2, z / 2), x, z, 270, green),
        facing((0, -y / 2, z / 2), x, z, 90, tx.plain((0.72, 0.78, 0.85), 0.16)),
    ]


def on_walls() -> list[Patch]:
    """Pictures, a window, a door and a clock-like disc of boards."""
    x, y = SIZE[0] / 2 - 0.015, SIZE[1] / 2 - 0.015
    art = tx.picture
    return [
        facing((x, 0.9, 1.5), 0.9, 0.65, 180, art()),
        facing((x, -0.35, 1.6), 0.5, 0.7, 180, art()),
        facing((x, -1.35, 1.45), 0.6, 0.45, 180, art()),
        facing((-x, 1.2, 1.6), 0.7, 0.5, 0, art()),
        facing((-x, -1.25, 1.35), 0.55, 0.8, 0, art()),
        facing((1.5, y, 1.55), 0.8, 0.55, 270, art()),
        facing((-1.6, y, 1.5), 0.6, 0.8, 270, art()),
        facing((-0.1, y, 1.5), 1.3, 1.1, 270, tx.window(), glows=True),
        facing((-1.5, -y, 1.02), 0.9, 2.04, 90, tx.wood(tx.PINE, 0.3)),
        facing((0.2, -y, 1.55), 1.0, 0.6, 90, art()),
        facing((1.6, -y, 1.4), 0.5, 0.5, 90, art()),
    ]


def furniture() -> list[Patch]:
    """What stands in the room, all of it near the walls."""
    cloth = tx.fabric((0.25, 0.35, 0.55), (0.8, 0.8, 0.75))
    red = tx.fabric((0.65, 0.2, 0.18), (0.9, 0.75, 0.5))
    parts = [lying((0.0, 0.0, 0.006), 2.6, 1.7, 8.0, tx.carpet(_CARPET))]
    parts += bookcase((2.3, 1.25, 0.0), 180.0)
    parts += bookcase((-2.3, 0.25, 0.0), 0.0)
    parts += sofa((0.35, -1.55, 0.0), 90.0, cloth)
    parts += table((-1.75, 1.3, 0.0), 15.0)
    parts += table((1.75, -1.2, 0.0), -30.0)
    parts += chair((-1.2, 1.5, 0.0), 200.0, red)
    parts += box((2.2, -0.1, 0), (0.45, 0.9, 0.75), 180, tx.wood(tx.WALNUT, 0.2))
    parts += box((2.2, -0.25, 0.75), (0.2, 0.3, 0.22), 170, tx.books())
    parts += box((-2.2, -1.5, 0), (0.5, 0.5, 1.1), 30, tx.wood(tx.PINE, 0.15), front=tx.picture())
    parts += box((1.0, 1.72, 0), (0.4, 0.6, 0.5), 265, tx.wood(tx.OAK, 0.1), front=tx.picture())
    parts += prism((2.1, 0.15, 0.75), 0.09, 0.3, tx.fabric((0.2, 0.5, 0.5), (0.9, 0.9, 0.7)))
    parts += prism((1.05, 1.72, 0.5), 0.12, 0.35, tx.bricks((0.75, 0.45, 0.3)))
    parts += prism((-0.75, -1.75, 0), 0.16, 0.6, tx.fabric((0.75, 0.6, 0.3), (0.3, 0.2, 0.1)))
    return parts


_CARPET = ((0.55, 0.15, 0.14), (0.88, 0.8, 0.62), (0.15, 0.2, 0.35), (0.7, 0.45, 0.2))


def bookcase(foot: Sequence[float], yaw_deg: float) -> list[Patch]:
    """A case of five rows of books, 0.9 m wide and 1.9 m tall."""
    turn = Rotation.from_euler("z", yaw_deg, degrees=True)
    parts = box(foot, (0.3, 0.9, 1.9), yaw_deg, tx.wood(tx.WALNUT, 0.3))
    for row in range(5):
        centre = np.array(foot) + turn.apply([0.153, 0.0, 0.23 + 0.36 * row])
        parts.append(facing(centre.tolist(), 0.82, 0.3, yaw_deg, tx.books()))
    return parts


def sofa(foot: Sequence[float], yaw_deg: float, cloth: Painter) -> list[Patch]:
    """Seat, back, arms and two cushions."""
    cushion = tx.fabric((0.85, 0.65, 0.2), (0.3, 0.15, 0.3))
    pieces = [
        ((0.0, 0.0, 0.0), (0.75, 1.6, 0.42), cloth),
        ((-0.3, 0.0, 0.42), (0.18, 1.6, 0.4), cloth),
        ((0.0, 0.72, 0.42), (0.7, 0.16, 0.18), cloth),
        ((0.0, -0.72, 0.42), (0.7, 0.16, 0.18), cloth),
        ((-0.1, 0.35, 0.42), (0.14, 0.4, 0.32), cushion),
        ((-0.08, -0.3, 0.42), (0.14, 0.36, 0.3), tx.picture()),
    ]
    return _assembled(foot, yaw_deg, pieces)


def table(foot: Sequence[float], yaw_deg: float) -> list[Patch]:
    """A table on four legs with things on it."""
    wood = tx.wood(tx.PINE, 0.18)
    pieces = [((0.0, 0.0, 0.7), (0.75, 1.1, 0.04), wood)]
    pieces += [((x, y, 0.0), (0.06, 0.06, 0.7), wood) for x in (-0.32, 0.32) for y in (-0.48, 0.48)]
    pieces += [
        ((0.1, 0.2, 0.74), (0.28, 0.2, 0.12), tx.books()),
        ((-0.15, -0.2, 0.74), (0.2, 0.3, 0.25), tx.picture()),
    ]
    parts = _assembled(foot, yaw_deg, pieces)
    mug = np.array(foot) + Rotation.from_euler("z", yaw_deg, degrees=True).apply([0.2, -0.3, 0.74])
    return parts + prism(mug.tolist(), 0.05, 0.13, tx.bricks((0.3, 0.45, 0.7)), 10)


def chair(foot: Sequence[float], yaw_deg: float, cloth: Painter) -> list[Patch]:
    """Four legs, seat and back."""
    wood = tx.wood(tx.WALNUT, 0.1)
    pieces = [((0.0, 0.0, 0.42), (0.42, 0.42, 0.06), cloth)]
    pieces += [((-0.19, 0.0, 0.48), (0.04, 0.42, 0.45), cloth)]
    pieces += [
        ((x, y, 0.0), (0.04, 0.04, 0.42), wood) for x in (-0.18, 0.18) for y in (-0.18, 0.18)
    ]
    return _assembled(foot, yaw_deg, pieces)


_Piece = tuple[tuple[float, float, float], tuple[float, float, float], Painter]


def _assembled(foot: Sequence[float], yaw_deg: float, pieces: Sequence[_Piece]) -> list[Patch]:
    turn = Rotation.from_euler("z", yaw_deg, degrees=True)
    parts: list[Patch] = []
    for offset, size, painter in pieces:
        at = np.array(foot) + turn.apply(offset)
        parts += box(at.tolist(), size, yaw_deg, painter)
    return parts


def visitor(x: float, y: float) -> list[Patch]:
    """Somebody who was not there while mapping: body, head and a shirt to look at."""
    shirt = tx.fabric((0.15, 0.45, 0.3), (0.95, 0.9, 0.3))
    parts = prism((x, y, 0.0), 0.17, 0.85, tx.plain((0.16, 0.18, 0.28), 0.2), 10)
    parts += prism((x, y, 0.85), 0.22, 0.6, shirt, 10)
    return parts + prism((x, y, 1.48), 0.11, 0.24, tx.plain((0.75, 0.58, 0.48), 0.15), 10)


def furnished_room() -> list[Patch]:
    """Everything that stays where it is."""
    return shell() + on_walls() + furniture()
