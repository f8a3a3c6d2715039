"""Which of a map's patches stand behind something.

From a pose, a third or more of what a map holds in front of the camera may lie behind a wall or a
truck. Such patches cost time, and that they are not found says nothing about the place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from crossfire_core.features.network import fitted
from crossfire_core.geometry import Camera, Pose
from crossfire_core.maps.header import MapHeader
from crossfire_core.rendering.renderer import Rays, Renderer

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_ALONG = 48  # rays along a view's longer side
_BEHIND = 1.25  # times as far as the surface: depth is off, more at edges
_OPAQUE = 0.5  # what lets more light through hides nothing
_LOOKERS = 2  # so many of the nearest mapping views say what a pose sees


class Hiding:
    """Says which points of a map nothing hides."""

    def __init__(self, header: MapHeader, renderer: Renderer, points: FloatArray) -> None:
        """Prepare a map's points.

        Args:
            header: of the map.
            renderer: of its field.
            points: ``[n, 3]`` metres in the map frame.
        """
        self._header, self._renderer, self._points = header, renderer, points
        self._poses = header.field_poses
        self._known: dict[int, tuple[BoolArray, BoolArray]] = {}

    def open_to(self, views: NDArray[np.int64]) -> BoolArray:
        """Points ``[n]`` that the first two of some views see, or that lie outside their images.

        Each view is rendered once, when it is first asked for.

        Args:
            views: numbers of mapping views, the nearest to a pose first.
        """
        looks = [self._look(int(view)) for view in views[:_LOOKERS]]
        inside, seen = (np.any(each, axis=0) for each in zip(*looks, strict=True))
        return np.asarray(seen | ~inside)

    def _look(self, view: int) -> tuple[BoolArray, BoolArray]:
        """Which points lie in the image of a view, and which of them nothing hides."""
        if view not in self._known:
            camera = self._header.camera_of(self._header.views[view])
            small = camera.resized(*fitted(*camera.size, _ALONG))
            self._known[view] = self._looked(small, self._poses[view])
        return self._known[view]

    def _looked(self, camera: Camera, pose: Pose) -> tuple[BoolArray, BoolArray]:
        pixels = camera.project(pose.inverse().apply(self._points))
        within = (pixels >= 0.0) & (pixels < np.array(camera.size))
        inside: BoolArray = np.asarray(within.all(axis=1))  # not NaN
        away = np.linalg.norm(self._points[inside] - pose.translation, axis=1)
        x, y = pixels[inside].T - 0.5
        # of a flat surface this changes evenly from pixel to pixel
        near = map_coordinates(self._nearness(camera, pose), [y, x], order=1, mode="nearest")
        seen = np.zeros(len(inside), bool)
        seen[inside] = near * away < _BEHIND
        return inside, seen

    def _nearness(self, camera: Camera, pose: Pose) -> FloatArray:
        """One by the distance of the surface along each pixel's ray, ``[height, width]``."""
        bearings = camera.bearings(camera.pixel_grid()) @ pose.rotation.T
        shown = np.isfinite(bearings).all(axis=1)
        device = self._renderer.device
        directions = torch.tensor(bearings[shown], dtype=torch.float32, device=device)
        origin = torch.tensor(pose.translation, dtype=torch.float32, device=device)
        points, opacity, _ = self._renderer.surface(
            Rays(origin.expand(len(directions), 3), directions)
        )
        near = 1.0 / (points - origin).norm(dim=1)
        near[opacity < _OPAQUE] = 0.0
        nearness = np.zeros(len(bearings))
        nearness[shown] = near.double().cpu().numpy()
        return nearness.reshape(camera.height, camera.width)
