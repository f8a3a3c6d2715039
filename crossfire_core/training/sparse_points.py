"""Sparse depth for free: SIFT points triangulated between mapping images of known pose.

They tell how large the scene is and where surfaces are, which the photometric loss alone
learns slowly. No correspondences are kept: a point is a depth in one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.features.sift import root_sift
from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import skew
from crossfire_core.training.views import View

FloatArray = NDArray[np.float64]
_CONTRAST = 0.02


@dataclass(frozen=True)
class SparsePoints:
    """Triangulated observations.

    Attributes:
        view: ``[n]`` int64, in which view the point was seen.
        pixel: ``[n, 2]`` where, in that view's image.
        point: ``[n, 3]`` in the map frame, metres.
        sigma_m: ``[n]`` standard deviation of the distance along that view's ray.
    """

    view: NDArray[np.int64]
    pixel: FloatArray
    point: FloatArray
    sigma_m: FloatArray

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.view)


@dataclass(frozen=True)
class _Keypoints:
    pixels: FloatArray
    bearings: FloatArray
    descriptors: NDArray[np.float32]


def triangulate(
    views: Sequence[View], neighbours: int = 6, features: int = 1500, max_error_px: float = 2.0
) -> SparsePoints:
    """Match every view with neighbours that see the same place from elsewhere.

    Args:
        views: mapping views with poses.
        neighbours: views each one is matched with.
        features: SIFT keypoints a view.
        max_error_px: matches whose reprojection error is larger in either view are dropped.
    """
    keypoints = [_detect(view, features) for view in views]
    parts = []
    for i, j in view_pairs(views, neighbours):
        parts += _match_pair(views, keypoints, i, j, max_error_px)
    if not parts:
        empty = np.zeros((0, 3))
        return SparsePoints(np.zeros(0, np.int64), empty[:, :2], empty, empty[:, 0])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return SparsePoints(*columns)


def view_pairs(views: Sequence[View], neighbours: int) -> list[tuple[int, int]]:
    """Pairs (i < j) with similar views and a baseline between, the best few of every view."""
    centres = np.stack([v.map_from_camera.translation for v in views])
    axes = np.stack([v.map_from_camera.rotation[:, 2] for v in views])
    baseline = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    angle = np.degrees(np.arccos(np.clip(axes @ axes.T, -1.0, 1.0)))
    extent = max(float(np.median(baseline)), 1e-6)
    wanted = 0.25 * extent  # enough parallax, still the same surfaces
    cost = np.abs(np.log((baseline + 1e-6) / wanted)) + angle / 20.0
    cost[(angle > 45.0) | (baseline < 0.02 * extent)] = np.inf
    pairs = set()
    for i in range(len(views)):
        for j in np.argsort(cost[i])[:neighbours]:
            if np.isfinite(cost[i, j]):
                pairs.add((min(i, int(j)), max(i, int(j))))
    return sorted(pairs)


def _detect(view: View, features: int) -> _Keypoints:
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    pixels, descriptors = root_sift(grey, features, _CONTRAST)
    return _Keypoints(pixels, view.camera.bearings(pixels), descriptors)


def _match_pair(
    views: Sequence[View], keypoints: Sequence[_Keypoints], i: int, j: int, max_error_px: float
) -> list[tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray]]:
    a, b = keypoints[i], keypoints[j]
    if len(a.pixels) < 8 or len(b.pixels) < 8:
        return []
    first, second = mutual_ratio(a.descriptors, b.descriptors)
    pose_a, pose_b = views[i].map_from_camera, views[j].map_from_camera
    points = midpoints(pose_a, a.bearings[first], pose_b, b.bearings[second])
    good = np.isfinite(points).all(axis=1)
    for view, k, index in ((views[i], a, first), (views[j], b, second)):
        back = view.camera.project(view.map_from_camera.inverse().apply(points))
        error = np.linalg.norm(back - k.pixels[index], axis=1)
        good &= np.nan_to_num(error, nan=np.inf) < max_error_px
    points, first, second = points[good], first[good], second[good]
    parallax = _parallax(points, pose_a, pose_b)
    wide = parallax > np.radians(1.0)
    points, first, second, parallax = points[wide], first[wide], second[wide], parallax[wide]
    out = []
    for number, k, index in ((i, a, first), (j, b, second)):
        view = views[number]
        distance = np.linalg.norm(points - view.map_from_camera.translation, axis=1)
        sigma = np.maximum(distance / (view.camera.fx * np.sin(parallax)), 0.005 * distance)
        out.append((np.full(len(points), number), k.pixels[index], points, sigma))
    return out


def mutual_ratio(
    a: NDArray[np.float32], b: NDArray[np.float32], ratio: float = 0.85
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of mutual nearest neighbours that beat their runner-up.

    Args:
        a: ``[n, d]`` unit descriptors, at least two.
        b: ``[m, d]`` likewise.
        ratio: the distance to the nearest must be below this share of that to the second.
    """
    similarity = a @ b.T
    best = similarity.argmax(axis=1)
    back = similarity.argmax(axis=0)
    top = np.partition(similarity, -2, axis=1)[:, -2:]
    first, second = np.sqrt(np.maximum(2 - 2 * top[:, 1], 0)), np.sqrt(2 - 2 * top[:, 0])
    keep = (back[best] == np.arange(len(a))) & (first < ratio * second)
    index = np.flatnonzero(keep)
    return index, best[index]


def midpoints(pose_a: Pose, rays_a: FloatArray, pose_b: Pose, rays_b: FloatArray) -> FloatArray:
    """Points nearest to pairs of rays, ``[n, 3]``; NaN where the rays diverge.

    Args:
        pose_a: ``map_from_camera`` of the first view.
        rays_a: ``[n, 3]`` unit bearings in its frame; likewise for b.
        pose_b: of the second view.
        rays_b: its bearings.
    """
    u, v = rays_a @ pose_a.rotation.T, rays_b @ pose_b.rotation.T
    base = pose_b.translation - pose_a.translation
    normal = np.einsum("nij,nj->ni", skew(u), v)
    size = np.maximum((normal**2).sum(axis=1), 1e-12)
    s = np.einsum("ni,ni->n", np.cross(base, v), normal) / size
    t = np.einsum("ni,ni->n", np.cross(base, u), normal) / size
    points = 0.5 * (pose_a.translation + s[:, None] * u + pose_b.translation + t[:, None] * v)
    points[(s <= 0) | (t <= 0)] = np.nan
    return np.asarray(points)


def _parallax(points: FloatArray, pose_a: Pose, pose_b: Pose) -> FloatArray:
    a, b = points - pose_a.translation, points - pose_b.translation
    sine = np.linalg.norm(np.cross(a, b), axis=1)
    return np.asarray(np.arctan2(sine, (a * b).sum(axis=1)))


def depth_image_points(
    views: Sequence[View], rng: np.random.Generator, per_view: int = 4000, noise: float = 0.01
) -> SparsePoints:
    """Observations from the views' depth images, where they have any.

    Args:
        views: mapping views.
        rng: picks the pixels.
        per_view: at most so many a view.
        noise: relative standard deviation of a measured depth.
    """
    numbers, pixels, points, sigmas = [], [], [], []
    for number, view in enumerate(views):
        if view.depth is None:
            continue
        rows, columns = np.nonzero(np.isfinite(view.depth) & (view.depth > 0))
        if len(rows) == 0:
            continue
        picks = rng.choice(len(rows), min(per_view, len(rows)), replace=False)
        pixel = np.stack([columns[picks], rows[picks]], axis=1) + 0.5
        bearing = view.camera.bearings(pixel)
        distance = view.depth[rows[picks], columns[picks]] / bearing[:, 2]
        numbers.append(np.full(len(picks), number))
        pixels.append(pixel)
        points.append(view.map_from_camera.apply(bearing * distance[:, None]))
        sigmas.append(np.maximum(noise * distance, 0.005))
    if not numbers:
        return SparsePoints(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))
    parts = (numbers, pixels, points, sigmas)
    return SparsePoints(*(np.concatenate(p) for p in parts))
