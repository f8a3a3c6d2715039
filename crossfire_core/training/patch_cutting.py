"""Cut from the mapping images what :mod:`crossfire_core.localization.patches` aligns."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.localization.patches import LEAST_SLANT, axes, softened
from crossfire_core.maps.patches import SIDE, Patches
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training.views import View
from crossfire_core.vision.triangulation import Tracks

FloatArray = NDArray[np.float64]
_LEAST_VIEWS = 3  # a patch's point is seen by so many
_ASIDE_PX = 6.0  # surfaces this far beside a point say how it is inclined
_AGREE = 0.05  # of the distance: the field must have a surface so near a point
_CELLS = 4  # along an image's longer side, over which patches are spread
_MARGIN_PX = SIDE / 2 + 2.0  # a patch, turned and smoothed, lies within the image


def cut_patches(
    views: Sequence[View], tracks: Tracks, renderer: Renderer, most: int, seed: int = 0
) -> Patches:
    """The patches of a map.

    Args:
        views: the mapping views with their images.
        tracks: points of the scene and who sees them.
        renderer: of the finished geometry, which says how surfaces are inclined.
        most: patches in all; every view gets its share.
        seed: of the choice among the points that a view sees.
    """
    tracks = tracks.seen_by(_LEAST_VIEWS)
    if len(tracks.points) == 0 or most == 0:
        return Patches.none()
    rng = np.random.default_rng(seed)
    share = max(1, most // len(views))
    parts = []
    for number, view in enumerate(views):
        mine = rng.permutation(np.unique(tracks.point[tracks.view == number]))
        parts.append(_of_view(view, number, tracks.points[mine], renderer, share))
    return Patches.joined(parts)


def _of_view(
    view: View,
    number: int,
    points: FloatArray,
    renderer: Renderer,
    share: int,
) -> Patches:
    pixels = view.camera.project(view.map_from_camera.inverse().apply(points))
    size = np.array(view.camera.size)
    inside = ((pixels > _MARGIN_PX) & (pixels < size - _MARGIN_PX)).all(axis=1)  # not NaN
    inside &= view.camera.clearance(pixels) > _MARGIN_PX
    points, pixels = points[inside], pixels[inside]
    normals, solid = _inclination(view, points, pixels, renderer)
    points, pixels, normals = points[solid], pixels[solid], normals[solid]
    chosen = _spread(pixels, view.camera.size, share)
    points, normals = points[chosen], normals[chosen]
    spacing = _pixel_sizes(view, points)
    grey, whole = _pictures(view, points, normals, spacing)
    views = np.full(len(points), number)
    return Patches(points[whole], normals[whole], spacing[whole], views[whole], grey[whole])


def _pixel_sizes(view: View, points: FloatArray) -> FloatArray:
    """Metres ``[n]`` that a pixel of the view spans at points, the lens's bend included."""
    local = view.map_from_camera.inverse().apply(points)
    _, sights = view.camera.tangents(local)
    steps = np.linalg.inv(sights)  # the first two columns are a pixel on the picture plane
    area = np.linalg.norm(np.cross(steps[:, :, 0], steps[:, :, 1]), axis=1)
    return np.asarray((sights[:, 2] * local).sum(axis=1) * np.sqrt(area))


def _inclination(
    view: View, points: FloatArray, pixels: FloatArray, renderer: Renderer
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Normals ``[n, 3]`` of the surfaces around points, and where there is one at the point."""
    aside = _ASIDE_PX * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    at = (pixels[None] + aside[:, None]).reshape(-1, 2)
    around, _, _ = renderer.surface(renderer.rays(view.camera, view.map_from_camera, at))
    right, left, down, up = around.double().cpu().numpy().reshape(4, -1, 3)
    normals = np.cross(down - up, right - left)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    way = points - view.map_from_camera.translation
    distance = np.linalg.norm(way, axis=1)
    way /= np.maximum(distance[:, None], 1e-9)
    flat = -(normals * way).sum(axis=1) < LEAST_SLANT  # seen from the side: rather torn apart
    normals[flat] = -way[flat]
    middle = 0.25 * (right + left + down + up)
    off = np.linalg.norm(middle - view.map_from_camera.translation, axis=1) / distance - 1.0
    return normals, np.abs(off) < _AGREE


def _spread(pixels: FloatArray, size: tuple[int, int], share: int) -> NDArray[np.int64]:
    """Which points to take, the first ones of every part of the image."""
    cell = (pixels * (_CELLS / max(size))).astype(np.int64) @ np.array([1, _CELLS])
    order = np.argsort(cell, kind="stable")
    _, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - np.repeat(first, count)
    return np.argsort(rank, kind="stable")[:share]


def _pictures(
    view: View, points: FloatArray, normals: FloatArray, spacing: FloatArray
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grey values ``[n, SIDE, SIDE]`` of the view on planes through points; which it sees whole."""
    rotations = np.broadcast_to(view.map_from_camera.rotation, (len(points), 3, 3))
    along = axes(normals, rotations) * spacing[:, None, None]
    steps = np.arange(SIDE) - 0.5 * (SIDE - 1)
    column, row = np.meshgrid(steps, steps)
    samples = np.stack([column.ravel(), row.ravel()])
    space = points[:, None] + (along @ samples).swapaxes(1, 2)
    pixels = view.camera.project(view.map_from_camera.inverse().apply(space.reshape(-1, 3))) - 0.5
    where = pixels.astype(np.float32).reshape(-1, SIDE, SIDE, 2)
    last = np.array(view.camera.size, np.float32) - 1
    whole = np.all((where >= 0) & (where <= last), axis=(1, 2, 3))  # not NaN
    if len(where) == 0:
        return np.zeros((0, SIDE, SIDE), np.uint8), np.zeros(0, bool)
    image = softened(view.image)
    grey = [cv2.remap(image, w[..., 0], w[..., 1], cv2.INTER_CUBIC) for w in where]
    return np.clip(np.round(np.stack(grey)), 0, 255).astype(np.uint8), np.asarray(whole)
