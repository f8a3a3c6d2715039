"""A room of six textured walls, ray cast in numpy, as a recording with exact poses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import Recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo

HALF = np.array([1.6, 1.4, 1.1])  # metres from the middle of the room to its walls
CAMERA = Camera(160, 120, 130.0, 130.0, 80.0, 60.0)


def textures(seed: int = 0, size: int = 256) -> NDArray[np.float32]:
    """Six faces ``[6, size, size, 3]`` in [0, 255]: noise of several sizes, so fine and coarse."""
    rng = np.random.default_rng(seed)
    faces = np.zeros((6, size, size, 3), np.float32)
    for cells, strength in ((4, 90.0), (9, 60.0), (20, 40.0), (60, 25.0)):
        for face in faces:
            noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
            face += strength * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(faces + 128.0, 0, 255)


def look(faces: NDArray[np.float32], pose: Pose, camera: Camera) -> tuple[NDArray, NDArray]:
    """Image ``[h, w, 3]`` uint8 and z-depth ``[h, w]`` metres seen from inside the room."""
    bearings = camera.bearings(camera.pixel_grid())
    rays = bearings @ pose.rotation.T
    with np.errstate(divide="ignore"):
        reach = (np.sign(rays) * HALF - pose.translation) / rays  # [n, 3] to each pair of walls
    reach[~np.isfinite(reach)] = np.inf
    axis = reach.argmin(axis=1)
    n = np.arange(len(rays))
    distance = reach[n, axis]
    hit = pose.translation + rays * distance[:, None]
    face = 2 * axis + (rays[n, axis] > 0)
    unit = 0.5 + 0.5 * hit / HALF
    u, v = unit[n, (axis + 1) % 3], unit[n, (axis + 2) % 3]
    shape = (camera.height, camera.width)
    x, y = ((w * (faces.shape[1] - 1)).astype(np.float32).reshape(shape) for w in (u, v))
    colours = np.zeros((*shape, 3), np.float32)
    for number in np.unique(face):
        on = (face == number).reshape(shape)
        colours[on] = cv2.remap(faces[number], x, y, cv2.INTER_LINEAR)[on]
    depth = (distance * bearings[:, 2]).astype(np.float32)
    return np.rint(colours).astype(np.uint8), depth.reshape(shape)


def poses(count: int, seed: int = 1) -> list[Pose]:
    """A path through the room, panning over two walls and back."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        phase = 2 * np.pi * i / count
        yaw = 0.8 * np.sin(phase)
        pitch = 0.15 * np.cos(3 * phase)
        forward = np.array(
            [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)]
        )
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        place = np.array([-0.5 + 0.3 * np.cos(phase), 0.5 * np.sin(2 * phase), 0.2 * np.sin(phase)])
        out.append(Pose(rotation, place + rng.normal(0, 0.03, 3)))
    return out


class ToyRoom(Recording):
    """Frames of the room, made when they are asked for."""

    pose_source, base_frame = "the formula", "chassis"

    def __init__(
        self,
        count: int = 36,
        *,
        posed: bool = True,
        depth: bool = False,
        name: str = "toy room",
        camera: Camera = CAMERA,
    ) -> None:
        """Lay out the path."""
        self.name, self.depth, self.camera = name, depth, camera
        self.poses = poses(count)
        self.posed = posed
        self.faces = textures()

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames without their pixels."""
        return [
            FrameInfo(f"{i:03d}", 10**9 * i, self.camera, pose if self.posed else None)
            for i, pose in enumerate(self.poses)
        ]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Cast the rays of some frames."""
        infos = self.infos
        for i in sorted(set(indices)):
            image, depth = look(self.faces, self.poses[i], self.camera)
            info = infos[i]
            yield Frame(
                info.name, image, info.camera, info.stamp_ns, info.world_from_camera,
                depth if self.depth else None,
            )  # fmt: skip
