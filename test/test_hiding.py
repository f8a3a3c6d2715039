"""A patch behind a wall is not looked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.hiding import Hiding
from crossfire_core.rendering.renderer import Rays

FloatArray = NDArray[np.float64]
CAMERA = Camera(320, 240, 200.0, 200.0, 160.0, 120.0)
NEAREST = np.array([0])
# Two metres ahead a wall covers the left half of the image; the right half is open to the sky.
POINTS = np.array(
    [
        [-0.5, 0.0, 2.0],  # on the wall
        [-0.5, 0.0, 2.1],  # a hand's breadth behind it: what depth may be off by
        [-1.0, 0.0, 4.0],  # in the room behind it
        [1.0, 0.0, 4.0],  # where nothing stands before
        [-9.0, 0.0, 2.0],  # not in the image
        [-0.5, 0.0, -1.0],  # behind the camera
    ]
)


@dataclass
class Wall:
    """Renders the wall at z = 2 for x < 0."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    looks: int = 0

    def surface(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
        self.looks += 1
        away = (2.0 - rays.origins[:, 2]) / rays.directions[:, 2]
        points = rays.origins + away[:, None] * rays.directions
        opaque = (away > 0.0) & (points[:, 0] < 0.0)
        return points, opaque.float(), torch.zeros(len(points))


def hiding(
    wall: Wall, poses: list[Pose], camera: Camera = CAMERA, points: FloatArray = POINTS
) -> Hiding:
    header = SimpleNamespace(
        field_poses=poses,
        spacing=SimpleNamespace(knee=2.0),
        views=poses,
        camera_of=lambda _: camera,
    )
    return Hiding(cast(Any, header), cast(Any, wall), points)


def moved(x: float, z: float = 0.0) -> Pose:
    return Pose(np.eye(3), np.array([x, 0.0, z]))


def names(mask: NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(mask).tolist()


def test_what_stands_behind_a_wall_is_hidden_and_nothing_else() -> None:
    assert names(hiding(Wall(), [moved(0.0)]).open_to(NEAREST)) == [0, 1, 3, 4, 5]


def test_the_room_behind_is_seen_by_a_camera_that_stands_in_it() -> None:
    # beyond the wall; rays that go on hit nothing, and what is in front now lies behind it
    there = hiding(Wall(), [moved(-1.0, 2.5)])
    assert names(there.open_to(NEAREST)) == [0, 1, 2, 3, 4, 5]


def test_two_views_look_and_are_rendered_once() -> None:
    wall = Wall()
    near = hiding(wall, [moved(-1.0, 2.5), moved(0.0), moved(0.1)])
    for _ in range(3):
        assert names(near.open_to(np.array([1, 2, 0]))) == [0, 1, 3, 4, 5]
    assert wall.looks == 2
    assert names(near.open_to(np.array([1, 0, 2]))) == [0, 1, 2, 3, 4, 5]  # one sees behind it


def test_no_points_at_all() -> None:
    none = hiding(Wall(), [moved(0.0)], points=np.zeros((0, 3)))
    assert none.open_to(NEAREST).shape == (0,)


@pytest.mark.parametrize("kind", ["equidistant", "radtan"])
def test_lenses_that_bend_see_the_same(kind: Any) -> None:
    lens = Camera(320, 240, 90.0, 90.0, 160.0, 120.0, kind, (-0.02, 0.005, 0.0, 0.0))
    assert names(hiding(Wall(), [moved(0.0)], lens).open_to(NEAREST)) == [0, 1, 3, 4, 5]
