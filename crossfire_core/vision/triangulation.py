"""Points from matched keypoints of images whose poses are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.pose import skew
from crossfire_core.geometry.sights import directions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """A mapping image for triangulation.

    Attributes:
        pose: ``world_from_camera``.
        sights: ``[n, 3, 3]`` of keypoints, see :meth:`.Camera.sights`; all finite.
        focal: pixels, to state errors in pixels.
    """

    pose: Pose
    sights: FloatArray
    focal: float

    @staticmethod
    def of(camera: Camera, pose: Pose, pixels: FloatArray) -> View:
        """From keypoints in pixels."""
        return View(pose, camera.sights(pixels), camera.fx)


@dataclass(frozen=True)
class Tracks:
    """Points and where they were seen.

    Attributes:
        points: ``[p, 3]`` in the world.
        point: ``[o]`` index of the point of each observation.
        view: ``[o]`` index of its view.
        keypoint: ``[o]`` index of its keypoint in the view.
    """

    points: FloatArray
    point: IntArray
    view: IntArray
    keypoint: IntArray

    def seen_by(self, least: int) -> Tracks:
        """Those points only that at least so many views see."""
        seen = np.bincount(self.point, minlength=len(self.points)) >= least
        kept = seen[self.point]
        number = np.cumsum(seen) - 1
        return Tracks(
            self.points[seen], number[self.point[kept]], self.view[kept], self.keypoint[kept]
        )


def epipolar_inliers(a: View, b: View, pairs: IntArray, pixels: float) -> IntArray:
    """Matches whose Sampson distance to the known epipolar geometry is small.

    Args:
        a: first view.
        b: second view.
        pairs: ``[m, 2]`` keypoints of a and b.
        pixels: largest distance.
    """
    b_from_a = b.pose.inverse() @ a.pose
    essential = skew(b_from_a.translation) @ b_from_a.rotation
    distance = sampson_distances(essential, a.sights[pairs[:, 0]], b.sights[pairs[:, 1]])
    return np.asarray(pairs[distance * 0.5 * (a.focal + b.focal) <= pixels])


def sampson_distances(essential: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """How far pairs of keypoints lie from an epipolar geometry, in focal lengths.

    Args:
        essential: ``[3, 3]``, ``y^T E x = 0`` for directions x of the first and y of the second.
        a: ``[n, 3, 3]`` sights in the first image.
        b: ``[n, 3, 3]`` sights in the second.

    Returns:
        ``[n]``; NaN where a sight is.
    """
    # the first two columns of an inverse are steps of a focal length, the third is the direction
    step_a, step_b = np.linalg.inv(a), np.linalg.inv(b)
    x, y = step_a[:, :, 2], step_b[:, :, 2]
    line_b, line_a = x @ essential.T, y @ essential
    error = np.einsum("ij,ij->i", y, line_b)
    slope = np.sum((line_b[:, None] @ step_b[:, :, :2]) ** 2, axis=(1, 2))
    slope += np.sum((line_a[:, None] @ step_a[:, :, :2]) ** 2, axis=(1, 2))
    return np.asarray(np.abs(error) / np.sqrt(np.maximum(slope, 1e-18)))


def view_pairs(
    poses: Sequence[Pose], spatial: int = 8, gaps: Sequence[int] = (1, 2, 4, 8, 16, 32)
) -> list[tuple[int, int]]:
    """Which views to match: neighbours in time at growing gaps, and neighbours in space.

    Args:
        poses: ``world_from_camera`` in order of time.
        spatial: so many neighbours in space for each view, far in time.
        gaps: so many views later in time, each.
    """
    count = len(poses)
    pairs = {(i, i + gap) for gap in gaps for i in range(count - gap)}
    centres = np.stack([p.translation for p in poses])
    ahead = np.stack([p.rotation[:, 2] for p in poses])
    reach = np.median(np.linalg.norm(centres - np.median(centres, axis=0), axis=1)) + 1e-9
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) / reach
    turned = np.arccos(np.clip(ahead @ ahead.T, -1, 1)) / np.radians(40.0)
    cost = apart + turned
    cost[turned > 1.2] = np.inf
    index = np.arange(count)
    cost[np.abs(index[:, None] - index[None]) <= 4] = np.inf
    for i in range(count):
        for j in np.argsort(cost[i], kind="stable")[:spatial].tolist():
            if np.isfinite(cost[i, j]):
                pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def joined(
    views: Sequence[View], matches: Sequence[tuple[int, int, IntArray]]
) -> tuple[IntArray, IntArray, IntArray]:
    """Chain pairwise matches to tracks.

    Args:
        views: all views.
        matches: (view a, view b, ``[m, 2]`` keypoints).

    Returns:
        For each observation its track, view and keypoint; no track meets a view twice.
    """
    start = np.concatenate([[0], np.cumsum([len(v.sights) for v in views])]).astype(np.int64)
    ends = [np.zeros((0, 2), np.int64)]
    ends += [pairs + np.array([start[a], start[b]]) for a, b, pairs in matches]
    edges = np.concatenate(ends)
    view_of = np.searchsorted(start, np.arange(start[-1]), side="right") - 1
    words = np.zeros((int(start[-1]), len(views) // 63 + 1), np.int64)
    words[np.arange(len(view_of)), view_of // 63] = np.int64(1) << (view_of % 63)
    label = _united(edges, words)
    node = np.unique(edges)
    view, track = view_of[node], label[node]
    order = np.lexsort((view, track))
    node, view, track = node[order], view[order], track[order]
    renumbered = np.unique(track, return_inverse=True)[1]
    return renumbered.astype(np.int64), view, node - start[view]


@numba.njit(cache=True)
def _united(edges: IntArray, seen_by: IntArray) -> IntArray:
    """Union-find over matches; a match that would make a track meet one view twice is refused.

    Args:
        edges: ``[m, 2]`` keypoints.
        seen_by: ``[keypoints, words]`` bits of the views that a keypoint's track meets; changed.

    Returns:
        ``[keypoints]`` the track's number.
    """
    parent = np.arange(len(seen_by))
    for e in range(len(edges)):
        a, b = edges[e, 0], edges[e, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a == b or (seen_by[a] & seen_by[b]).any():
            continue
        parent[b] = a
        seen_by[a] |= seen_by[b]
    for node in range(len(parent)):
        root = node
        while parent[root] != root:
            root = parent[root]
        parent[node] = root
    return parent


def triangulate(
    views: Sequence[View],
    matches: Sequence[tuple[int, int, IntArray]],
    *,
    pixels: float = 2.0,
    least_angle_deg: float = 1.0,
    least_views: int = 2,
) -> Tracks:
    """Points from all of their observations that agree.

    The point nearest to all rays in the least-squares sense, reweighted with the distances so
    that the angles count, and robustly (Huber). What does not fit that point is dropped, the rest
    gives it anew, and tracks are kept by parallax and number of views.

    Args:
        views: all views.
        matches: (view a, view b, ``[m, 2]`` keypoints), best checked by the epipolar geometry.
        pixels: observations with a larger reprojection error are dropped.
        least_angle_deg: the widest angle of a point's rays with their mean is at least half of
            this.
        least_views: a point is seen by at least so many views.
    """
    track, view, keypoint = joined(views, matches)
    centres, rays, focal = _rays(views, view, keypoint)
    points = _nearest_points(track, centres, rays, focal)
    error, depth = _reprojection(points[track], centres, rays, focal)
    keep = (error <= pixels) & (depth > 0)
    track, view, keypoint = track[keep], view[keep], keypoint[keep]
    points = _nearest_points(track, centres[keep], rays[keep], focal[keep], len(points))
    count = np.bincount(track, minlength=len(points))
    wide = _widest_angle(track, rays[keep], len(points)) >= np.radians(least_angle_deg)
    good = (count >= least_views) & wide & np.isfinite(points).all(axis=1)
    number = np.cumsum(good) - 1
    kept = good[track]
    return Tracks(points[good], number[track[kept]], view[kept], keypoint[kept])


def _rays(
    views: Sequence[View], view: IntArray, keypoint: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Camera centre ``[o, 3]``, unit ray ``[o, 3]`` and focal length ``[o]`` of observations."""
    centres, rays = np.zeros((len(view), 3)), np.zeros((len(view), 3))
    focal = np.array([v.focal for v in views])[view]
    for index, each in enumerate(views):
        mine = view == index
        local = directions(each.sights[keypoint[mine]])
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        rays[mine] = local @ each.pose.rotation.T
        centres[mine] = each.pose.translation
    return centres, rays, focal


def _nearest_points(
    track: IntArray,
    centres: FloatArray,
    rays: FloatArray,
    focal: FloatArray,
    count: int | None = None,
) -> FloatArray:
    """The point of each track ``[t, 3]``; NaN where its rays are parallel."""
    count = int(track.max()) + 1 if count is None and len(track) else (count or 0)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    weight = np.ones(len(track))
    points: FloatArray = np.zeros((count, 3))
    for _ in range(5):
        matrix, right = np.zeros((count, 3, 3)), np.zeros((count, 3))
        np.add.at(matrix, track, weight[:, None, None] * across)
        np.add.at(right, track, weight[:, None] * np.einsum("oij,oj->oi", across, centres))
        flat = np.linalg.det(matrix) < 1e-12 * np.maximum(np.trace(matrix.T), 1e-30) ** 3
        matrix[flat] = np.eye(3)
        points = np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0], dtype=np.float64)
        points[flat] = np.nan
        error, depth = _reprojection(points[track], centres, rays, focal)
        huber = np.minimum(1.0, 1.0 / np.maximum(error, 1e-9))
        weight = np.nan_to_num(huber / np.maximum(depth, 1e-3) ** 2)
    return points


def _reprojection(
    points: FloatArray, centres: FloatArray, rays: FloatArray, focal: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Angle between ray and point in pixels of the image's middle ``[o]``; distance ``[o]``."""
    way = points - centres
    along = np.einsum("oi,oi->o", way, rays)
    off = np.linalg.norm(way - along[:, None] * rays, axis=1)
    error = focal * off / np.maximum(along, 1e-9)
    return np.where(np.isfinite(error), error, np.inf), np.nan_to_num(along)


def _widest_angle(track: IntArray, rays: FloatArray, count: int) -> FloatArray:
    """Twice the widest angle between a track's rays and their mean ``[t]``, radians."""
    mean = np.zeros((count, 3))
    np.add.at(mean, track, rays)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(np.einsum("oi,oi->o", mean[track], rays), -1, 1))
    widest = np.zeros(count)
    np.maximum.at(widest, track, 2 * angle)
    return widest
