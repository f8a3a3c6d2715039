"""Rooms that are never the same, photographed from all around with exact distances.

What :mod:`crossfire_core.sample` furnishes once and carefully is here thrown together at random:
walls, pictures, boxes, tables and round things of any size, painted with its textures in any
colour, under any light. Used by ``tools/pretrain.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Camera, Pose
from crossfire_core.sample import room as furniture
from crossfire_core.sample import textures as tx
from crossfire_core.sample.raycast import Geometry, Lamp, Light, Scene, lit, paint
from crossfire_core.sample.room import Patch, box, facing, lying, prism
from crossfire_core.sample.textures import Painter

FloatArray = NDArray[np.float64]
SIDE = 320  # pixels of the longer side, what the network sees


@dataclass(frozen=True)
class Photograph:
    """One image of a room.

    Attributes:
        image: ``[height, width, 3]`` uint8 RGB.
        distance: ``[height, width]`` float32 metres along the ray, infinite where nothing is.
        camera: of exactly this size.
        room_from_camera: its pose.
    """

    image: NDArray[np.uint8]
    distance: NDArray[np.float32]
    camera: Camera
    room_from_camera: Pose


def photographs(
    rng: np.random.Generator, groups: int = 6, each: int = 6
) -> Iterator[list[Photograph]]:
    """Groups of photographs of one new room; those of a group show about the same."""
    size = rng.uniform([3.0, 3.0, 2.3], [9.0, 7.0, 4.0])
    patches = _room(rng, size)
    seed = int(rng.integers(2**31))
    geometry = Geometry(patches)
    scene = Scene(
        geometry, lit(patches, paint(patches, seed), geometry, _light(rng, size), (seed,))
    )
    grey = rng.random() < 0.3
    for _ in range(groups):
        camera = _camera(rng)
        anchor = _anchor(rng, size, geometry)
        group = []
        for _ in range(each):
            pose = anchor @ _nearby(rng)
            photograph = _photograph(rng, scene, camera, pose, grey)
            if np.percentile(photograph.distance, 10) > 0.25:
                group.append(photograph)
        if len(group) > 1:
            yield group


def _room(rng: np.random.Generator, size: FloatArray) -> list[Patch]:
    x, y, z = size
    ceiling = Patch(
        np.array([-x / 2, -y / 2, z]), np.array([x, 0.0, 0.0]), np.array([0.0, y, 0.0]),
        _painter(rng),
    )  # fmt: skip
    patches = [lying((0, 0, 0), x, y, 0.0, _painter(rng)), ceiling]
    walls = ((x, y, 180), (-x, y, 0), (y, x, 270), (-y, x, 90))
    for number, (away, wide, yaw) in enumerate(walls):
        centre = (away / 2, 0, z / 2) if number < 2 else (0, away / 2, z / 2)
        patches.append(facing(centre, wide, z, yaw, _painter(rng)))
        for _ in range(rng.integers(1, 6)):
            patches.append(_hung(rng, number, size, yaw))
    for _ in range(rng.integers(6, 22)):
        foot = [*(rng.uniform(-0.47, 0.47, 2) * size[:2]), 0.0]
        patches += _thing(rng, foot)
    return patches


def _hung(rng: np.random.Generator, wall: int, size: FloatArray, yaw: float) -> Patch:
    """Something flat on a wall."""
    wide = size[1] if wall < 2 else size[0]
    along, up = rng.uniform(-0.42, 0.42) * wide, rng.uniform(0.25, 0.8) * size[2]
    away = (size[0] if wall < 2 else size[1]) / 2 - 0.02
    away = away if wall in (0, 2) else -away
    centre = (away, along, up) if wall < 2 else (along, away, up)
    painter = tx.picture() if rng.random() < 0.7 else _painter(rng)
    return facing(centre, *rng.uniform(0.2, 1.4, 2), yaw, painter, glows=rng.random() < 0.1)


def _thing(rng: np.random.Generator, foot: list[float]) -> list[Patch]:
    """Something that stands in the room, with a smaller thing on top of it now and then."""
    yaw, kind = rng.uniform(0, 360), rng.random()
    if kind < 0.12:
        return furniture.bookcase(foot, yaw)
    if kind < 0.24:
        return furniture.table(foot, yaw)
    if kind < 0.32:
        return furniture.chair(foot, yaw, _painter(rng))
    if kind < 0.38:
        return furniture.sofa(foot, yaw, _painter(rng))
    height = rng.uniform(0.2, 1.6)
    if kind < 0.55:
        return prism(foot, rng.uniform(0.08, 0.35), height, _painter(rng))
    size = (*rng.uniform(0.2, 1.2, 2), height)
    parts = box(foot, size, yaw, _painter(rng), _painter(rng), _painter(rng))
    if rng.random() < 0.6:
        small = rng.uniform(0.1, 0.45, 3)
        parts += box([foot[0], foot[1], height], small, rng.uniform(0, 360), _painter(rng))
    return parts


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = rng.uniform(0.05, 0.95, 3) if rng.random() < 0.5 else [rng.random()] * 3
    return float(red), float(green), float(blue)


def _painter(rng: np.random.Generator) -> Painter:
    one, two = _colour(rng), _colour(rng)
    made = (
        lambda: tx.plain(one, rng.uniform(0.05, 0.5)),
        lambda: tx.wallpaper(one, two),
        lambda: tx.wood(one, rng.uniform(0.05, 0.4)),
        lambda: tx.bricks(one),
        lambda: tx.carpet((one, two, _colour(rng), _colour(rng))),
        lambda: tx.fabric(one, two),
        tx.books,
        tx.picture,
        lambda: _stains(one, two, rng.uniform(0.5, 3.0)),
    )
    return made[rng.integers(len(made))]()


def _stains(one: tuple[float, ...], two: tuple[float, ...], contrast: float) -> Painter:
    """Two colours in blots of all sizes, with sharp borders where the contrast is high."""

    def paint_stains(
        height: int, width: int, metres: float, rng: np.random.Generator
    ) -> tx.Texture:
        share = 1.0 / (1.0 + np.exp(-4.0 * contrast * tx.fractal(height, width, metres, rng)))
        blend = share[..., None] * np.array(one) + (1 - share[..., None]) * np.array(two)
        return blend.astype(np.float32)

    return paint_stains


def _light(rng: np.random.Generator, size: FloatArray) -> Light:
    lamps = []
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(-0.4, 0.4, 2) * size[:2]
        strength = rng.uniform(0.5, 3.0) * rng.uniform(0.8, 1.2, 3)
        lamps.append(Lamp((x, y, rng.uniform(0.6, 0.95) * size[2]), tuple(strength)))
    ambient = rng.uniform(0.2, 0.9) * rng.uniform(0.85, 1.15, 3)
    return Light(tuple(lamps), tuple(ambient))


def _camera(rng: np.random.Generator) -> Camera:
    width, height = SIDE, int(rng.choice([208, 240]))
    focal = rng.uniform(0.65, 1.3) * width
    return Camera(width, height, focal, focal, width / 2, height / 2)


def _anchor(rng: np.random.Generator, size: FloatArray, geometry: Geometry) -> Pose:
    """A place that is free in front, looking along the room."""
    for _ in range(50):
        position = np.array([*(rng.uniform(-0.4, 0.4, 2) * size[:2]), rng.uniform(0.5, 1.9)])
        pose = Pose(_looking(rng.uniform(0, 360), rng.uniform(-25, 15)), position)
        ahead = pose.rotation[:, 2]
        _, free = geometry.first_hit(position[None], ahead[None])
        if free[0] > 0.8:
            break
    return pose


def _looking(yaw_deg: float, pitch_deg: float) -> FloatArray:
    """Rotation of an optical frame (z ahead, y down)."""
    level = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    turn = Rotation.from_euler("ZY", [yaw_deg, -pitch_deg], degrees=True).as_matrix()
    return np.asarray(turn @ level)


def _nearby(rng: np.random.Generator) -> Pose:
    """Another pose of a camera that has moved on a little."""
    turn = Rotation.from_euler("xyz", rng.normal(0, [6.0, 9.0, 7.0]), degrees=True).as_matrix()
    return Pose(turn, rng.normal(0, [0.3, 0.2, 0.3]))


def _photograph(
    rng: np.random.Generator, scene: Scene, camera: Camera, pose: Pose, grey: bool
) -> Photograph:
    directions = camera.bearings(camera.pixel_grid()) @ pose.rotation.T
    colours, distance = scene.cast(pose.translation, directions, 1.0 / camera.fx)
    shape = (camera.height, camera.width)
    linear = cv2.GaussianBlur(colours.reshape(*shape, 3), (3, 3), rng.uniform(0.3, 0.7))
    if grey:
        linear = np.repeat(linear.mean(axis=2, keepdims=True), 3, axis=2)
    shown = np.clip(linear * rng.uniform(0.8, 1.3), 0, 1) ** (1 / rng.uniform(1.2, 2.2))
    noisy = 255 * shown + rng.normal(scale=rng.uniform(0.5, 4.0), size=shown.shape)
    image = np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
    return Photograph(image, distance.reshape(shape).astype(np.float32), camera, pose)
