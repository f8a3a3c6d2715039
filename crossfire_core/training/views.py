"""The mapping images in memory, and how rays are drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.errors import TrainingError
from crossfire_core.features.network import fitted
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.pose import nearest_rotation
from crossfire_core.recordings.frame import Frame
from crossfire_core.rendering.renderer import Rays


@dataclass(frozen=True)
class View:
    """One mapping image, resized for training.

    Attributes:
        name: the frame's name in its recording.
        stamp_ns: the frame's stamp.
        image: ``[height, width, 3]`` uint8 RGB.
        camera: intrinsics of exactly this size.
        map_from_camera: its pose.
        depth: ``[height, width]`` float32 along z in metres, 0 where unknown, or None.
        rig_camera: name of the rig's camera that took it; empty where there is one camera.
    """

    name: str
    stamp_ns: int
    image: NDArray[np.uint8]
    camera: Camera
    map_from_camera: Pose
    depth: NDArray[np.float32] | None = None
    rig_camera: str = ""


def view_of(frame: Frame, side: int) -> View:
    """Shrink a frame's longer side to at most ``side`` pixels; its pose must be known."""
    if frame.world_from_camera is None:
        raise ValueError(f"frame {frame.name} has no pose")
    image, camera, depth = frame.image, frame.camera, frame.depth
    if max(camera.size) > side:
        size = fitted(*camera.size, side)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        camera = camera.resized(*size)
    if depth is not None:
        depth = cv2.resize(depth, camera.size, interpolation=cv2.INTER_NEAREST).astype(np.float32)
    name = frame.mount.camera if frame.mount else ""
    return View(frame.name, frame.stamp_ns, image, camera, frame.world_from_camera, depth, name)


def rotate(rotation_vectors: Tensor, vectors: Tensor) -> Tensor:
    """Rotate ``[n, 3]`` vectors by ``[n, 3]`` rotation vectors (Rodrigues), differentiable at 0."""
    angle = (rotation_vectors.square().sum(dim=1, keepdim=True) + 1e-16).sqrt()
    axis = rotation_vectors / angle
    cross: Tensor = torch.linalg.cross(axis, vectors)
    along = axis * (axis * vectors).sum(dim=1, keepdim=True)
    return vectors * angle.cos() + cross * angle.sin() + along * (1.0 - angle.cos())


class RayTable:
    """All pixels of all views, to draw rays with their colours from.

    Bearings are computed once a distinct camera, whatever its lens.
    """

    def __init__(self, views: Sequence[View], device: torch.device) -> None:
        """Flatten the views; images stay uint8 (0.9 MB each at 640x480)."""
        self.device = device
        self.sizes = np.array([v.camera.size for v in views])  # [views, 2]
        counts = self.sizes.prod(axis=1)
        self.first = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)[:-1]])).to(device)
        self.counts = torch.from_numpy(counts).to(device)
        self.widths = torch.from_numpy(self.sizes[:, 0].copy()).to(device)
        self.heights = torch.from_numpy(self.sizes[:, 1].copy()).to(device)
        flat = np.concatenate([v.image.reshape(-1, 3) for v in views])
        self.pixels = torch.from_numpy(flat).to(device)
        self.all_usable = all(v.camera.usable is None for v in views)
        self._cameras = [v.camera for v in views]
        self._places: dict[int, _Places] = {}
        lenses = [replace(v.camera, mask=None) for v in views]  # masks may differ by the image
        cameras = list(dict.fromkeys(lenses))
        tables = [c.bearings(c.pixel_grid()).astype(np.float32) for c in cameras]
        starts = np.concatenate([[0], np.cumsum([len(t) for t in tables])[:-1]])
        self.bearings = torch.from_numpy(np.concatenate(tables)).to(device)
        which = np.array([cameras.index(lens) for lens in lenses])
        self.bearing_first = torch.from_numpy(starts[which]).to(device)
        as_tensor = lambda a: torch.tensor(np.stack(a), dtype=torch.float32, device=device)  # noqa: E731
        self.rotations = as_tensor([v.map_from_camera.rotation for v in views])
        self.translations = as_tensor([v.map_from_camera.translation for v in views])

    def share_images(self, views: Sequence[View]) -> list[View]:
        """The same views, in order, with their images in this table's memory if that is a CPU's.

        Images then lie in memory once, not twice: half a gigabyte for 500 of them.
        """
        if self.device.type != "cpu":
            return list(views)
        flat, first = self.pixels.numpy(), self.first.tolist()
        return [
            replace(v, image=flat[a : a + v.image.size // 3].reshape(v.image.shape))
            for v, a in zip(views, first, strict=True)
        ]

    def __len__(self) -> int:
        """Number of views."""
        return len(self.first)

    def rays(self, view: Tensor, pixel: Tensor, twists: Tensor | None = None) -> Rays:
        """Rays through pixels, given as view ``[n]`` and index within the image ``[n]``.

        Args:
            view: number of the view.
            pixel: index within its image.
            twists: ``[views, 6]`` small corrections of the poses, differentiable: a shift in
                metres and a rotation vector, both about the map's axes at the camera's centre.
        """
        bearing = self.bearings[self.bearing_first[view] + pixel]
        directions = (self.rotations[view] @ bearing[:, :, None])[:, :, 0]
        origins = self.translations[view]
        if twists is None:
            return Rays(origins, directions)
        twist = twists[view]
        return Rays(origins + twist[:, :3], rotate(twist[:, 3:], directions))

    def correct(self, twists: Tensor) -> None:
        """Take corrections over into the poses; see :meth:`rays`."""
        axes = torch.eye(3, device=self.device)
        turns = [rotate(twists[:, 3:], axis.expand(len(twists), 3)) for axis in axes]
        self.rotations = torch.stack(turns, dim=2) @ self.rotations
        self.translations = self.translations + twists[:, :3]

    def poses(self) -> list[Pose]:
        """``map_from_camera`` of every view."""
        rotations, translations = self.rotations.cpu().double(), self.translations.cpu().double()
        return [
            Pose(nearest_rotation(r.numpy()), t.numpy())
            for r, t in zip(rotations, translations, strict=True)
        ]

    def colours(self, view: Tensor, pixel: Tensor) -> Tensor:
        """RGB ``[n, 3]`` in [0, 1] of pixels."""
        return self.pixels[self.first[view] + pixel].float() / 255.0

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Usable pixels drawn evenly over all views: (view ``[n]``, pixel ``[n]``)."""
        if not self.all_usable:
            return self._usable(1).draw(count, rng)
        view = torch.randint(len(self), (count,), generator=rng, device=self.device)
        share = torch.rand(count, generator=rng, device=self.device)
        return view, (share * self.counts[view]).long()

    def draw_patches(self, count: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Square patches of usable pixels: (view, pixel), each ``[count * size * size]``.

        One patch comes after the other.

        Raises:
            TrainingError: masks leave no room for one.
        """
        if self.all_usable:
            view = torch.randint(len(self), (count,), generator=rng, device=self.device)
            x = (
                torch.rand(count, generator=rng, device=self.device) * (self.widths[view] - size)
            ).long()
            y = (
                torch.rand(count, generator=rng, device=self.device) * (self.heights[view] - size)
            ).long()
            corner = y * self.widths[view] + x
        else:
            view, corner = self._usable(size).draw(count, rng)
        step = torch.arange(size, device=self.device)
        beside = step[None, :, None] * self.widths[view][:, None, None] + step  # [n, size, size]
        pixel = corner[:, None, None] + beside
        return view.repeat_interleave(size * size), pixel.reshape(-1)

    def _usable(self, size: int) -> _Places:
        """Where patches of a size have their first pixel."""
        if size not in self._places:
            self._places[size] = _Places.of(self._cameras, size, self.device)
        return self._places[size]


@dataclass(frozen=True)
class _Places:
    """Pixels to choose from in every view.

    Attributes:
        views: ``[k]`` numbers of the views that have any.
        first: ``[k]`` where a view's pixels begin in ``pixels``.
        counts: ``[k]`` how many there are.
        pixels: indices within the view's image.
    """

    views: Tensor
    first: Tensor
    counts: Tensor
    pixels: Tensor

    @staticmethod
    def of(cameras: Sequence[Camera], size: int, device: torch.device) -> _Places:
        """First pixels of squares of that size, all of whose pixels are usable.

        Raises:
            TrainingError: there are none.
        """
        distinct = list(dict.fromkeys(cameras))
        lists = [_corners(camera, size) for camera in distinct]
        starts = np.concatenate([[0], np.cumsum([len(found) for found in lists])])
        which = np.array([distinct.index(camera) for camera in cameras])
        counts = np.diff(starts)[which]
        views = np.flatnonzero(counts)
        if len(views) == 0:
            raise TrainingError(
                f"the masks and the lens leave no square of {size} pixels in any image: "
                "white is what may be used, black is left out"
            )
        first, counts = starts[:-1][which][views], counts[views]
        columns = (views, first, counts, np.concatenate(lists))
        return _Places(*(torch.from_numpy(column).to(device) for column in columns))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Evenly over the views: (view ``[n]``, pixel ``[n]``)."""
        device = self.views.device
        chosen = torch.randint(len(self.views), (count,), generator=rng, device=device)
        share = torch.rand(count, generator=rng, device=device)
        index = self.first[chosen] + (share * self.counts[chosen]).long()
        return self.views[chosen], self.pixels[index].long()


def _corners(camera: Camera, size: int) -> NDArray[np.int32]:
    """Indices of pixels that begin a usable square to their right and below."""
    usable = camera.usable
    if usable is None:
        usable = np.ones((camera.height, camera.width), bool)
    square = np.ones((size, size), np.uint8)
    whole = cv2.erode(usable.astype(np.uint8), square, anchor=(0, 0)) > 0
    whole[max(camera.height - size + 1, 0) :] = False
    whole[:, max(camera.width - size + 1, 0) :] = False
    return np.flatnonzero(whole).astype(np.int32)
