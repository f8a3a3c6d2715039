"""Cast rays into patches with Embree and light them.

Light is baked into each texture once: lamps with shadows, the window, and how much of its
surroundings a spot sees. A picture is then one ray a sample and one texture look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import MissingDependencyError
from crossfire_core.sample.room import Patch
from crossfire_core.sample.textures import Texture

FloatArray = NDArray[np.float64]

TEXEL, LUXEL = 0.005, 0.09
AMBIENT_RAYS = 24
_MADE = 2**32 - 1  # where a place has its copy: goods are the same in all of them


@dataclass(frozen=True)
class Lamp:
    """A small bright body.

    Attributes:
        position: metres.
        colour: strength of red, green and blue at one metre.
    """

    position: tuple[float, float, float]
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """All light of a scene: lamps, and what comes from everywhere."""

    lamps: tuple[Lamp, ...]
    ambient: tuple[float, float, float]


class Geometry:
    """Patches as triangles, two each, ready for rays."""

    def __init__(self, patches: Sequence[Patch]) -> None:
        """Build the search tree.

        Raises:
            MissingDependencyError: trimesh or embreex is not installed.
        """
        trimesh, intersector = _embree()
        self.corner = np.stack([p.corner for p in patches])
        self.along = np.stack([p.along for p in patches])
        self.down = np.stack([p.down for p in patches])
        self.normal = np.stack([p.normal for p in patches])
        corners = [
            self.corner,
            self.corner + self.along,
            self.corner + self.along + self.down,
            self.corner + self.down,
        ]
        vertices = np.stack(corners, axis=1).reshape(-1, 3)
        first = 4 * np.arange(len(patches))[:, None]
        faces = np.stack([first + np.array(t) for t in ((0, 1, 2), (0, 2, 3))], axis=1).reshape(
            -1, 3
        )
        self._rays = intersector(trimesh.Trimesh(vertices, faces, process=False))

    def first_hit(
        self, origins: FloatArray, directions: FloatArray
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """What rays meet first.

        Args:
            origins: ``[n, 3]``.
            directions: ``[n, 3]`` unit.

        Returns:
            Patch ``[n]`` (-1 for none) and distance ``[n]`` (infinite for none).
        """
        triangle = np.asarray(self._rays.intersects_first(origins, directions), dtype=np.int64)
        patch = np.where(triangle >= 0, triangle // 2, -1)
        normal = self.normal[patch]
        slope = np.einsum("ij,ij->i", directions, normal)
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        distance = np.einsum("ij,ij->i", self.corner[patch] - origins, normal) / slope
        return patch, np.where(triangle >= 0, distance, np.inf)

    def blocked(self, origins: FloatArray, targets: FloatArray) -> NDArray[np.bool_]:
        """Whether anything stands between points ``[n, 3]`` and points ``[n, 3]``."""
        way = targets - origins
        length = np.linalg.norm(way, axis=1)
        _, distance = self.first_hit(origins, way / np.maximum(length, 1e-9)[:, None])
        return np.asarray(distance < length - 0.02)


def _embree() -> tuple[Any, Any]:
    try:
        import embreex  # noqa: F401  (trimesh falls back to something slow without it)
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector
    except ImportError as error:
        raise MissingDependencyError(
            "the sample recording is ray cast with trimesh and embreex: "
            "install them with pip install '.[demo]' in the clone"
        ) from error
    return trimesh, RayMeshIntersector


def paint(
    patches: Sequence[Patch], seed: int, copy: int = 0, texel: float = TEXEL
) -> list[Texture]:
    """The texture of each patch, drawn from generators that depend on its number alone.

    Args:
        patches: of one place.
        seed: of all surfaces.
        copy: which of several places of the same makes this is; only patches that have a make
            look the same in all of them.
        texel: side of a texel, metres.
    """
    textures = []
    for number, patch in enumerate(patches):
        width, height = np.linalg.norm(patch.along), np.linalg.norm(patch.down)
        columns, rows = (max(int(side / texel), 8) for side in (width, height))
        own = (seed, number, copy) if patch.make is None else (seed, patch.make, _MADE)
        generator = np.random.default_rng(own)
        textures.append(np.asarray(patch.painter(rows, columns, float(width), generator)))
    return textures


def lit(
    patches: Sequence[Patch],
    textures: Sequence[Texture],
    geometry: Geometry,
    light: Light,
    seed: Sequence[int],
) -> list[Texture]:
    """The textures as they look under a light; shadows of small things differ with the seed."""
    shown = []
    generator = np.random.default_rng(seed)
    for patch, texture in zip(patches, textures, strict=True):
        if patch.glows:
            shown.append(texture)
            continue
        brightness = _brightness(patch, geometry, light, generator)
        smooth = cv2.resize(brightness, texture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        shown.append((texture * smooth).astype(np.float32))
    return shown


def _brightness(
    patch: Patch, geometry: Geometry, light: Light, generator: np.random.Generator
) -> Texture:
    """Light that falls on a patch, ``[rows, columns, 3]``, one value each few centimetres."""
    sides = np.linalg.norm(patch.along), np.linalg.norm(patch.down)
    columns, rows = (max(int(np.ceil(side / LUXEL)), 2) for side in sides)
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    at = patch.corner + u.reshape(-1, 1) * patch.along + v.reshape(-1, 1) * patch.down
    at = at + 0.01 * patch.normal
    total = _openness(at, patch.normal, geometry, generator)[:, None] * np.array(light.ambient)
    for lamp in light.lamps:
        way = np.array(lamp.position) - at
        square = np.einsum("ij,ij->i", way, way)
        slope = way @ patch.normal / np.sqrt(square)
        lit_side = np.flatnonzero(slope > 0)
        if not len(lit_side):
            continue
        target = np.broadcast_to(np.array(lamp.position), (len(lit_side), 3))
        seen = lit_side[~geometry.blocked(at[lit_side], target)]
        total[seen] += (slope[seen] / (square[seen] + 0.3))[:, None] * np.array(lamp.colour)
    image = total.reshape(rows, columns, 3).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0.7))


def _openness(
    at: FloatArray, normal: FloatArray, geometry: Geometry, generator: np.random.Generator
) -> FloatArray:
    """Share of the half space within a metre that is free, ``[n]``."""
    directions = generator.normal(size=(len(at), AMBIENT_RAYS, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions *= np.sign(directions @ normal)[..., None]
    origins = np.repeat(at, AMBIENT_RAYS, axis=0)
    _, distance = geometry.first_hit(origins, directions.reshape(-1, 3))
    near = np.minimum(distance, 1.0).reshape(len(at), AMBIENT_RAYS)
    return np.asarray(near.mean(axis=1))


class Scene:
    """Patches with their lit textures, ready to be photographed."""

    def __init__(
        self, geometry: Geometry, textures: Sequence[Texture], texel: float = TEXEL
    ) -> None:
        """Pack the textures and their smaller versions into one array."""
        self._geometry, self._texel = geometry, texel
        self._levels = [_Packed(level) for level in _pyramid(textures, 4)]

    def cast(
        self, origin: FloatArray, directions: FloatArray, pixel_angle: float
    ) -> tuple[NDArray[np.float32], FloatArray]:
        """Look along rays from one point.

        Args:
            origin: ``[3]``.
            directions: ``[n, 3]`` unit.
            pixel_angle: radians between neighbouring rays, which chooses the texture's size.

        Returns:
            Colours ``[n, 3]`` (black where nothing is) and distances ``[n]``.
        """
        geometry = self._geometry
        patch, distance = geometry.first_hit(np.broadcast_to(origin, directions.shape), directions)
        hit = patch >= 0
        patch, far, rays = patch[hit], distance[hit], directions[hit]
        local = origin + rays * far[:, None] - geometry.corner[patch]
        u, v = (_share(local, side[patch]) for side in (geometry.along, geometry.down))
        slope = np.abs(np.einsum("ij,ij->i", rays, geometry.normal[patch]))
        texels = far * pixel_angle / np.sqrt(np.maximum(slope, 0.05)) / self._texel
        level = np.clip(np.round(np.log2(np.maximum(texels, 1.0))), 0, 3).astype(int)
        colours = np.zeros((len(directions), 3), np.float32)
        found = np.zeros((len(patch), 3), np.float32)
        for number, packed in enumerate(self._levels):
            chosen = level == number
            found[chosen] = packed.sample(patch[chosen], u[chosen], v[chosen])
        colours[hit] = found
        return colours, distance


def _share(local: FloatArray, side: FloatArray) -> FloatArray:
    """How far along a side points lie, 0 to 1."""
    share = np.einsum("ij,ij->i", local, side) / np.einsum("ij,ij->i", side, side)
    return np.asarray(share)


def _pyramid(textures: Sequence[Texture], count: int) -> list[list[Texture]]:
    levels = [list(textures)]
    for _ in range(count - 1):
        smaller = []
        for texture in levels[-1]:
            size = tuple(max(n // 2, 2) for n in texture.shape[1::-1])
            reduced = cv2.resize(texture, size, interpolation=cv2.INTER_AREA)
            smaller.append(np.asarray(reduced, dtype=np.float32))
        levels.append(smaller)
    return levels


class _Packed:
    """Textures of different sizes in one long array of texels."""

    def __init__(self, textures: Sequence[Texture]) -> None:
        self.texels = np.concatenate([t.reshape(-1, 3) for t in textures]).astype(np.float32)
        self.rows = np.array([t.shape[0] for t in textures])
        self.columns = np.array([t.shape[1] for t in textures])
        self.start = np.concatenate([[0], np.cumsum(self.rows * self.columns)[:-1]])

    def sample(self, patch: NDArray[np.int64], u: FloatArray, v: FloatArray) -> Texture:
        """Bilinear look-up at (u, v) in 0..1, ``[n, 3]``."""
        columns, rows = self.columns[patch], self.rows[patch]
        x = np.clip(u * columns - 0.5, 0, columns - 1.001)
        y = np.clip(v * rows - 0.5, 0, rows - 1.001)
        left, top = x.astype(np.int64), y.astype(np.int64)
        fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
        at = self.start[patch] + top * columns + left
        upper = self.texels[at] * (1 - fx) + self.texels[at + 1] * fx
        lower = self.texels[at + columns] * (1 - fx) + self.texels[at + columns + 1] * fx
        return np.asarray(upper * (1 - fy) + lower * fy)
