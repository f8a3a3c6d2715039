"""Pictures that compare the map with the images: overlays, renderings, a view from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.upright import plane_axes, up_direction
from crossfire_core.localization.estimate import Matches
from crossfire_core.reports.plots import TopView

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

INLIER, OUTLIER = (60, 220, 90), (235, 70, 60)


class Rendering(Protocol):
    """What a renderer gives back; shapes are those of the camera."""

    @property
    def colour(self) -> NDArray[np.float32]:
        """``[h, w, 3]``, 0 to 1."""
        ...

    @property
    def z_depth(self) -> NDArray[np.float32]:
        """``[h, w]``, metres along z."""
        ...

    @property
    def opacity(self) -> NDArray[np.float32]:
        """``[h, w]``, 0 where the ray met nothing."""
        ...


class MapRenderer(Protocol):
    """Renders a map from a pose."""

    def render(self, camera: Camera, map_from_camera: Pose) -> Rendering:
        """Colour and depth of every pixel of an undistorted or distorted camera."""
        ...


def encode_png(image: Image) -> bytes:
    """An RGB image as a PNG file."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def draw_matches(image: Image, camera: Camera, pose: Pose | None, matches: Matches) -> Image:
    """The image with a line from each matched pixel to where the map says it should be.

    Inliers are green, the rest red; without a pose only the pixels are marked.
    """
    canvas = np.ascontiguousarray(image).copy()
    radius = max(image.shape[1] // 320, 1)
    target = matches.pixels
    if pose is not None:
        target = camera.project(pose.inverse().apply(matches.points))
    order = np.argsort(matches.inlier, kind="stable")  # inliers last, on top
    for index in order:
        color = INLIER if matches.inlier[index] else OUTLIER
        start = _pixel(matches.pixels[index])
        if np.isfinite(target[index]).all() and np.abs(target[index]).max() < 1e5:
            cv2.line(canvas, start, _pixel(target[index]), color, 1, cv2.LINE_AA)
        cv2.circle(canvas, start, radius, color, -1, cv2.LINE_AA)
    return canvas


def _pixel(point: FloatArray) -> tuple[int, int]:
    return int(np.floor(point[0])), int(np.floor(point[1]))


def resized_camera(camera: Camera, width: int) -> Camera:
    """The camera at another width, its shape kept."""
    return camera.resized(width, max(round(camera.height * width / camera.width), 1))


def small_camera(camera: Camera, width: int = 320) -> Camera:
    """The camera at a size that renders in a few seconds, never larger than it is."""
    return resized_camera(camera, min(width, camera.width))


def encode_depth(z_depth: NDArray[Any]) -> bytes:
    """Depth in metres as a 16-bit PNG in millimetres, 0 where unknown or beyond 65 m."""
    millimetres = np.nan_to_num(np.asarray(z_depth, dtype=np.float64) * 1e3)
    millimetres[(millimetres < 0) | (millimetres > 65535)] = 0
    ok, data = cv2.imencode(".png", np.round(millimetres).astype(np.uint16))
    if not ok:
        raise ValueError(f"cannot encode a depth image of shape {z_depth.shape}")
    return data.tobytes()


def compare(
    renderer: MapRenderer, image: Image, camera: Camera, map_from_camera: Pose, width: int = 320
) -> Image:
    """One row: the image, the rendering at the pose, a chequered mix of both, the depth."""
    small = small_camera(camera, width)
    real = np.asarray(cv2.resize(image, small.size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    rendering = renderer.render(small, map_from_camera)
    shown = to_bytes(np.asarray(rendering.colour))
    depth = depth_colours(np.asarray(rendering.z_depth), np.asarray(rendering.opacity))
    gap = np.full((small.height, 4, 3), 255, dtype=np.uint8)
    parts = [real, gap, shown, gap, chequered(real, shown), gap, depth]
    return np.concatenate(parts, axis=1)


def to_bytes(colour: NDArray[Any]) -> Image:
    """Colours 0 to 1 as uint8."""
    return np.asarray(np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)


def chequered(a: Image, b: Image, cells: int = 8) -> Image:
    """Tiles of two images in turn: misalignment shows at the seams."""
    side = max(a.shape[1] // cells, 1)
    rows, columns = np.indices(a.shape[:2]) // side
    return np.where(((rows + columns) % 2 == 0)[..., None], a, b)


def depth_colours(z_depth: NDArray[Any], opacity: NDArray[Any] | None = None) -> Image:
    """Depth as colours, near bright and far dark; white where nothing was met."""
    known = np.isfinite(z_depth) & (z_depth > 0)
    if opacity is not None:
        known &= opacity > 0.5
    if not known.any():
        return np.full((*z_depth.shape, 3), 255, dtype=np.uint8)
    low, high = np.percentile(z_depth[known], (2, 98))
    scaled = np.clip((high - z_depth) / max(high - low, 1e-6), 0, 1)
    levels = np.where(known, scaled * 255, 0).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    colours[~known] = 255
    return colours.astype(np.uint8)


def view_from_above(
    renderer: MapRenderer,
    camera: Camera,
    poses: Sequence[Pose],
    *,
    views: int = 40,
    columns: int = 96,
) -> TopView:
    """The map seen from above, with what lies over the cameras' heads taken off.

    The map is rendered from a selection of poses, the pixels are lifted to points, and the
    highest point of each cell gives the cell's colour.

    Args:
        renderer: the map.
        camera: any camera; used at a small size.
        poses: where the mapping cameras stood.
        views: at most this many are rendered.
        columns: rendered pixels along x of each view.
    """
    up = up_direction(poses)
    axes = plane_axes(up)
    chosen = [poses[i] for i in np.unique(np.linspace(0, len(poses) - 1, views).astype(int))]
    small = small_camera(camera, columns)
    parts = [lift(renderer, small, pose) for pose in chosen]
    points = np.concatenate([p for p, _ in parts])
    colours = np.concatenate([c for _, c in parts])
    ceiling = float(np.max([p.translation @ up for p in poses])) + 0.2
    keep = points @ up < ceiling
    return _splat(points[keep] @ axes.T, points[keep] @ up, colours[keep], axes)


def empty_view(poses: Sequence[Pose]) -> TopView:
    """A view from above without a picture, for maps that cannot be rendered."""
    axes = plane_axes(up_direction(poses))
    return TopView(np.zeros((0, 0, 4)), (0.0, 1.0, 0.0, 1.0), axes)


def lift(renderer: MapRenderer, camera: Camera, pose: Pose) -> tuple[FloatArray, FloatArray]:
    """Map points ``[n, 3]`` and colours ``[n, 3]`` of what one view shows."""
    rendering = renderer.render(camera, pose)
    z_depth = np.asarray(rendering.z_depth, dtype=np.float64).ravel()
    bearings = camera.bearings(camera.pixel_grid())
    known = np.isfinite(z_depth) & (z_depth > 0) & (np.asarray(rendering.opacity).ravel() > 0.5)
    local = bearings * (z_depth / bearings[:, 2])[:, None]
    colours = np.asarray(rendering.colour, dtype=np.float64).reshape(-1, 3)
    return pose.apply(local[known]), colours[known]


def _splat(
    plane: FloatArray, height: FloatArray, colours: FloatArray, axes: FloatArray, cells: int = 260
) -> TopView:
    if len(plane) < 10:
        return TopView(np.zeros((0, 0, 4)), (0.0, 1.0, 0.0, 1.0), axes)
    low, high = np.percentile(plane, 1, axis=0) - 0.05, np.percentile(plane, 99, axis=0) + 0.05
    size = float((high - low).max()) / cells
    shape = np.maximum(np.ceil((high - low) / size).astype(int), 1)
    inside = np.all((plane >= low) & (plane < low + shape * size), axis=1)
    plane, height, colours = plane[inside], height[inside], colours[inside]
    order = np.argsort(height, kind="stable")  # the highest is written last
    column, row = np.floor((plane[order] - low) / size).astype(int).T
    image = np.zeros((shape[1], shape[0], 4))
    image[row, column, :3] = np.clip(colours[order], 0, 1)
    image[row, column, 3] = 0.85
    image = _without_gaps(image)
    top = low + shape * size
    return TopView(image, (float(low[0]), float(top[0]), float(low[1]), float(top[1])), axes)


def _without_gaps(image: FloatArray) -> FloatArray:
    """Empty cells take the mean of their neighbours where most of these are known."""
    known = (image[..., 3] > 0).astype(np.float64)
    share = cv2.blur(known, (3, 3))
    mean = cv2.blur(image[..., :3] * known[..., None], (3, 3)) / np.maximum(share, 1e-9)[..., None]
    gap = (known == 0) & (share > 0.4)
    filled = image.copy()
    filled[gap, :3] = mean[gap]
    filled[gap, 3] = image[..., 3].max(initial=0.0)
    return filled
