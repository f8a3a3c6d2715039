"""A room of boxes whose rays are cast exactly, in place of a trained map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.rendering.renderer import Rays

LENS = Camera(96, 72, 48.0, 48.0, 48.0, 36.0)
ROOM = (np.array([-2.0, -1.5, 0.0]), np.array([2.0, 1.5, 2.5]))
RED, GREEN, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.9), (0.5, 0.5, 0.5)
# what stands or hangs there: two corners and a colour
CRATE = ((0.2, -1.2, 0.0), (1.2, -0.7, 0.6), RED)
CABINET = ((-2.0, 0.5, 0.0), (-1.5, 1.5, 2.5), BLUE)
LAMP = ((0.0, 0.2, 1.8), (0.4, 0.6, 2.0), GREEN)
DOORSTEP = ((1.5, 0.5, 0.0), (1.9, 1.2, 0.05), GREEN)


@dataclass
class BoxRoom:
    """Stands for a renderer; ``world_from_room`` says where the room lies in the map."""

    boxes: tuple = (CRATE, CABINET, LAMP, DOORSTEP)
    world_from_room: Pose = field(default_factory=Pose.identity)
    spread: float = 0.01

    def rays(self, camera: Camera, map_from_camera: Pose, pixels: NDArray[np.float64]) -> Rays:
        bearings = camera.bearings(pixels)
        bearings[np.isnan(bearings[:, 0])] = (0.0, 0.0, 1.0)  # as the renderer does
        directions = bearings @ map_from_camera.rotation.T
        origins = np.broadcast_to(map_from_camera.translation, directions.shape).copy()
        return Rays(torch.tensor(origins), torch.tensor(directions))

    def surface(self, rays: Rays):
        points, _, count = *self._hit(rays), len(rays.origins)
        return torch.tensor(points), torch.ones(count), torch.full((count,), self.spread)

    def colours(self, rays: Rays):
        points, colour = self._hit(rays)
        return torch.tensor(colour), torch.tensor(points), torch.ones(len(points))

    def _hit(self, rays: Rays):
        room = self.world_from_room.inverse()
        start = room.apply(rays.origins.numpy())
        way = rays.directions.numpy() @ room.rotation.T
        way = np.where(np.abs(way) < 1e-9, 1e-9, way)
        low, high = ROOM
        distance = np.maximum((low - start) / way, (high - start) / way).min(axis=1)
        colour = np.tile(np.array(GREY), (len(way), 1))
        for first, last, paint in self.boxes:
            slabs = np.sort([(first - start) / way, (last - start) / way], axis=0)
            enter, leave = slabs[0].max(axis=1), slabs[1].min(axis=1)
            nearer = (enter < leave) & (enter > 0) & (enter < distance)
            distance = np.where(nearer, enter, distance)
            colour[nearer] = paint
        points = rays.origins.numpy() + rays.directions.numpy() * distance[:, None]
        return points, colour

    def views(self, height: float = 1.0, down_deg: float = 15.0, count: int = 40) -> list[Pose]:
        """``map_from_camera`` along an oval through the room, looking all around."""
        poses = []
        for number in range(count):
            angle = 2 * np.pi * number / count
            place = np.array([1.0 * np.cos(angle), 0.5 * np.sin(angle), height])
            yaw, down = 5 * angle, np.radians(down_deg)
            forward = np.array(
                [np.cos(yaw) * np.cos(down), np.sin(yaw) * np.cos(down), -np.sin(down)]
            )
            right = np.cross(forward, [0.0, 0.0, 1.0])
            right /= np.linalg.norm(right)
            turn = np.stack([right, np.cross(forward, right), forward], axis=1)
            poses.append(self.world_from_room @ Pose(turn, place))
        return poses


def true_cells(grid, low: float = 0.1, high: float = 1.5, boxes=(CRATE, CABINET, LAMP, DOORSTEP)):
    """What is inside of something in a height band, ``[rows, columns]``; room frame, no yaw."""
    rows, columns = grid.cells.shape
    x = grid.origin[0] + (np.arange(columns) + 0.5) * grid.resolution
    y = grid.origin[1] + (np.arange(rows) + 0.5) * grid.resolution
    x, y = np.meshgrid(x, y)
    full = (np.abs(x) > ROOM[1][0]) | (np.abs(y) > ROOM[1][1])
    for first, last, _ in boxes:
        if first[2] < high and last[2] > low:
            inside = (x > first[0]) & (x < last[0]) & (y > first[1]) & (y < last[1])
            full |= inside
    return full
