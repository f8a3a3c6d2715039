"""What the mapping views see of a map's surfaces: one list of rays for every export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import ExportConfig
from crossfire_core.errors import ExportError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.upright import up_direction
from crossfire_core.localization.recorded_frame import RecordedFrame
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import Place
from crossfire_core.rendering.renderer import Rays, Renderer

FloatArray = NDArray[np.float64]
Single = NDArray[np.float32]
Progress = Callable[[int, int], None]

_LEAST_SLANT = 0.15  # cosine between a normal and the way back; below, neighbours are far apart


class SurfaceRenderer(Protocol):
    """What is asked of a renderer."""

    def rays(self, camera: Camera, map_from_camera: Pose, pixels: FloatArray) -> Rays:
        """Rays through pixels ``[n, 2]``."""
        ...

    def surface(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
        """Points ``[n, 3]``, opacity ``[n]`` and relative depth spread ``[n]``."""
        ...

    def colours(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
        """RGB ``[n, 3]``, points ``[n, 3]`` and opacity ``[n]``."""
        ...


@dataclass(frozen=True)
class Surfaces:
    """Rays of the mapping views and where they end, in the frame that poses are published in.

    Attributes:
        origins: ``[views, 3]`` camera centres, metres.
        up: ``[3]`` unit, away from the ground.
        view: ``[n]`` which view each ray is of, not decreasing.
        points: ``[n, 3]`` where the rays meet the map, metres.
        clear: ``[n]`` metres along the ray that are surely empty.
        solid: ``[n]`` whether the ray ends on one clear surface.
        normals: ``[n, 3]`` unit, towards the camera; zero where not solid, and where the surface
            is seen so much from the side that its neighbours do not say how it lies.
        colours: ``[n, 3]`` in [0, 1]; zero where not solid.
    """

    origins: FloatArray
    up: FloatArray
    view: NDArray[np.int32]
    points: Single
    clear: Single
    solid: NDArray[np.bool_]
    normals: Single
    colours: Single

    def moved(self, target_from_map: Pose) -> Surfaces:
        """The same in another frame."""
        turn = target_from_map.rotation
        return replace(
            self,
            origins=target_from_map.apply(self.origins),
            up=turn @ self.up,
            points=target_from_map.apply(self.points).astype(np.float32),
            normals=(self.normals @ turn.T).astype(np.float32),
        )


def map_surfaces(
    neural_map: NeuralMap | Place, config: ExportConfig, on_view: Progress | None = None
) -> Surfaces:
    """Cast the rays of a map's mapping views; of a place, those of every tile into that tile.

    Args:
        neural_map: the map.
        config: how many rays, and which of them count.
        on_view: called with (views done, views in all).

    Raises:
        ExportError: no ray meets a clear surface, or the map lies too far from its frame's origin.
    """
    if isinstance(neural_map, Place):
        return _of_tiles(neural_map, config, on_view)
    header = neural_map.header
    if any(header.origin):
        raise ExportError(
            "this map lies far from the origin of its frame (UTM?), where grids and clouds in "
            "single precision fall apart: train it from a recording whose poses are near zero"
        )
    trained = [view.map_from_camera for view in header.views]
    given = [view.recorded or view.map_from_camera for view in header.views]
    frame = RecordedFrame(trained, given, header.spacing.knee)
    renderer = Renderer(neural_map.field, header.spacing, header.render).freeze()
    cameras = [header.camera_of(view) for view in header.views]
    return cast(renderer, cameras, trained, config, frame.recorded, on_view)


def _of_tiles(place: Place, config: ExportConfig, on_view: Progress | None) -> Surfaces:
    found = []
    for number, tile in enumerate(place.tiles):
        seen = map_surfaces(place.load(number), config)
        found.append(seen.moved(tile.map_from_tile))
        if on_view:
            on_view(number + 1, len(place.tiles))
    first = np.cumsum([0, *(len(seen.origins) for seen in found)])
    up = np.mean([seen.up for seen in found], axis=0)
    names = ("origins", "points", "clear", "solid", "normals", "colours")
    columns = {name: np.concatenate([getattr(seen, name) for seen in found]) for name in names}
    views = [seen.view + offset for seen, offset in zip(found, first[:-1], strict=True)]
    return Surfaces(
        up=up / np.linalg.norm(up), view=np.concatenate(views).astype(np.int32), **columns
    )


def cast(
    renderer: SurfaceRenderer,
    cameras: Sequence[Camera],
    poses: Sequence[Pose],
    config: ExportConfig,
    published: Callable[[Pose], Pose] = lambda pose: pose,
    on_view: Progress | None = None,
) -> Surfaces:
    """Cast the rays of cameras into a map.

    Args:
        renderer: of the map.
        cameras: of each mapping image; smaller ones of their shape are used.
        poses: ``map_from_camera`` as the map was trained with.
        config: how many rays, and which of them count.
        published: such a pose in the frame that localization answers in.
        on_view: called with (views done, views in all).

    Raises:
        ExportError: no ray meets a clear surface.
    """
    count = min(config.views, len(poses))
    chosen = np.linspace(0, len(poses) - 1, count).round().astype(int).tolist()
    answers = [published(poses[i]) for i in chosen]
    seen: list[_Seen] = []
    for number, (index, answer) in enumerate(zip(chosen, answers, strict=True)):
        pose, camera = poses[index], _small(cameras[index], config.columns)
        seen.append(_look(renderer, camera, pose, config, answer @ pose.inverse()))
        if on_view:
            on_view(number + 1, count)
    surfaces = _joined(seen, answers)
    if not surfaces.solid.any():
        raise ExportError(
            "no mapping view sees a clear surface in the map: train it for longer, or allow "
            "more with --set max_depth_spread=0.2"
        )
    return surfaces


def _small(camera: Camera, columns: int) -> Camera:
    scale = min(columns / max(camera.size), 1.0)
    return camera.resized(max(round(camera.width * scale), 2), max(round(camera.height * scale), 2))


@dataclass(frozen=True)
class _Seen:
    """The rays of one view; see :class:`Surfaces`."""

    points: Single
    clear: Single
    solid: NDArray[np.bool_]
    normals: Single
    colours: Single


def _look(
    renderer: SurfaceRenderer,
    camera: Camera,
    pose: Pose,
    config: ExportConfig,
    published_from_trained: Pose,
) -> _Seen:
    rays = renderer.rays(camera, pose, camera.pixel_grid())
    points, opacity, spread = (_plain(part) for part in renderer.surface(rays))
    if camera.usable is not None:  # beyond a lens's border no ray has a direction of its own
        points[~camera.usable.ravel()] = np.nan
    depth = np.linalg.norm(points - pose.translation, axis=1)
    met = (opacity >= config.min_opacity) & np.isfinite(points).all(axis=1) & (depth > 0)
    normals = _normals(points.reshape(camera.height, camera.width, 3), pose)
    solid = met & (spread <= config.max_depth_spread) & (depth <= config.reach)
    clear = np.minimum(depth * (1.0 - np.minimum(spread, 1.0)), config.reach)
    colours = np.zeros_like(points)
    shown = np.flatnonzero(solid)
    if len(shown):
        colour, _, opaque = renderer.colours(Rays(rays.origins[shown], rays.directions[shown]))
        # rendered before black: what shines through does not darken the surface
        colours[shown] = _plain(colour) / np.maximum(_plain(opaque)[:, None], 1e-3)
    normals[~solid] = 0.0
    return _Seen(
        published_from_trained.apply(points[met]).astype(np.float32),
        clear[met].astype(np.float32),
        solid[met],
        (normals[met] @ published_from_trained.rotation.T).astype(np.float32),
        np.clip(colours[met], 0.0, 1.0).astype(np.float32),
    )


def _plain(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().double().numpy())


def _normals(grid: FloatArray, pose: Pose) -> FloatArray:
    """Normals ``[n, 3]`` of the surface through points ``[h, w, 3]``; zero where it is torn."""
    along = np.gradient(grid, axis=1)
    down = np.gradient(grid, axis=0)
    normals = np.cross(down, along).reshape(-1, 3)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    back = pose.translation - grid.reshape(-1, 3)
    back /= np.maximum(np.linalg.norm(back, axis=1, keepdims=True), 1e-9)
    facing = (normals * back).sum(axis=1)[:, None]
    whole = np.abs(facing) >= _LEAST_SLANT  # neither is what touches a lens's border
    return np.where(whole, normals * np.where(facing > 0, 1.0, -1.0), 0.0)


def _joined(seen: Sequence[_Seen], poses: Sequence[Pose]) -> Surfaces:
    counts = [len(part.points) for part in seen]
    return Surfaces(
        np.stack([pose.translation for pose in poses]),
        up_direction(poses),
        np.repeat(np.arange(len(seen), dtype=np.int32), counts),
        np.concatenate([part.points for part in seen]),
        np.concatenate([part.clear for part in seen]),
        np.concatenate([part.solid for part in seen]),
        np.concatenate([part.normals for part in seen]),
        np.concatenate([part.colours for part in seen]),
    )
