"""Bundle adjustment from poses that are nearly right, without any further package.

Odometry that drifts, or poses of a SLAM that are off by centimetres and degrees, are close enough
to start from: points seen in several images are triangulated, then poses and points are improved
together (Gauss-Newton with the points eliminated, robust weights that sharpen step by step). What
the images leave open, above all the scale, stays as the given poses have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.pose import skew
from crossfire_core.geometry.sights import directions, offsets
from crossfire_core.vision.local_features import LocalFeatures, match
from crossfire_core.vision.triangulation import sampson_distances

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Matches = Mapping[tuple[int, int], NDArray[np.uint32]]

# Errors in pixels beyond which an observation loses its say, one after the other.
_LIMITS = (30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 1.0, 1.0)
_LAST_LIMITS = _LIMITS[-2:]
_STEPS = 3  # of Gauss-Newton at each limit
_MOST_POINTS = 8000  # those seen most often; more do not make the poses better
_LEAST_MATCHES = 20  # fewer make a pair of images by chance
_EPIPOLAR_PX = 2.0  # of keypoints, which are good to a pixel
_EPIPOLAR_TRIES = 250  # finds a geometry that a third of the matches have; others are worth little
_DENSE = 0.15  # share of a system's entries from which on a dense solution is quicker
_FAR = 50.0  # points beyond so many times the path's extent are not used
# Rays further aside are at the edge of what a lens model holds.
_AHEAD = float(np.cos(np.radians(75.0)))
_LEAST_SINE = float(np.sin(np.radians(1.0)))  # an angle below which depth is noise

# How far given poses are trusted, the loosest first: standard deviations in metres and degrees.
LOOSEST = (0.05, 3.0)
_TRUST = (LOOSEST, (0.02, 1.0), (0.01, 0.5), (0.005, 0.2), (0.002, 0.1), (0.001, 0.05))
_AGREED = 1.05  # images agree as well as under the loosest trust, to within this factor


@dataclass(frozen=True)
class Sightings:
    """Which point is seen where; one line an observation.

    Attributes:
        view: ``[n]`` number of the image.
        point: ``[n]`` number of the point.
        keypoint: ``[n]`` number of the keypoint in the image.
        sights: ``[n, 3, 3]`` of the keypoints, see :meth:`.Camera.sights`.
        focal: ``[n]`` pixels, to state errors in pixels.
    """

    view: IntArray
    point: IntArray
    keypoint: IntArray
    sights: FloatArray
    focal: FloatArray

    def where(self, use: NDArray[np.bool_]) -> Sightings:
        """Some of them, with points renumbered without gaps."""
        _, point = np.unique(self.point[use], return_inverse=True)
        return Sightings(
            self.view[use], point.astype(np.int64), self.keypoint[use], self.sights[use],
            self.focal[use],
        )  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """How far the given poses are trusted.

    Attributes:
        steps: pairs of images whose relative pose is trusted, in order of time.
        step_m: standard deviation of a step's translation, ``[steps]`` metres.
        step_rad: of its rotation, ``[steps]`` radians.
        pose_m: of every position by itself, metres.
        pose_rad: of every orientation by itself, radians.
    """

    steps: Sequence[tuple[int, int]]
    step_m: Sequence[float]
    step_rad: Sequence[float]
    pose_m: float
    pose_rad: float

    @staticmethod
    def of_odometry(poses: Sequence[Pose]) -> Prior:
        """Steps are good to some percent; where they lead to is not."""
        moved = [a.distance(b)[0] for a, b in pairwise(poses)]
        steps = list(pairwise(range(len(poses))))
        metres = [0.003 + 0.03 * m for m in moved]
        radians = [np.radians(0.3) + np.radians(2.0) * m for m in moved]
        return Prior(steps, metres, radians, 1e3, 1e3)

    @staticmethod
    def of_poses(metres: float, degrees: float) -> Prior:
        """Poses without drift, each off by about so much."""
        return Prior((), (), (), metres, float(np.radians(degrees)))


@dataclass(frozen=True)
class Adjusted:
    """The outcome.

    Attributes:
        poses: ``map_from_camera``.
        sightings: observations that agree with them.
        points: ``[p, 3]`` in the map.
        median_px: median reprojection error before and after.
    """

    poses: list[Pose]
    sightings: Sightings
    points: FloatArray
    median_px: tuple[float, float]


def match_pairs(
    features: Sequence[LocalFeatures],
    cameras: Sequence[Camera],
    pairs: Sequence[tuple[int, int]],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[int, int], NDArray[np.uint32]]:
    """Keypoints that belong together, those kept that fit one epipolar geometry.

    Args:
        features: of each image.
        cameras: of each image.
        pairs: of images.
        tell: called with pairs done and in all.
    """
    sights = {
        i: cameras[i].sights(features[i].pixels.astype(np.float64))
        for i in sorted({i for pair in pairs for i in pair})
    }
    found = {}
    for done, (i, j) in enumerate(pairs, 1):
        matches = match(features[i], features[j])
        if len(matches) >= _LEAST_MATCHES:
            limit = _EPIPOLAR_PX / cameras[i].fx
            inlier = agreeing(sights[i][matches[:, 0]], sights[j][matches[:, 1]], limit)
            if inlier.sum() >= _LEAST_MATCHES:
                found[i, j] = matches[inlier]
        tell(done, len(pairs))
    return found


def agreeing(a: FloatArray, b: FloatArray, limit: float) -> NDArray[np.bool_]:
    """Which pairs of sights ``[n, 3, 3]`` fit one epipolar geometry to a limit in focal lengths.

    OpenCV finds it on the plane z = 1, from what lies ahead; what a wide lens sees aside is then
    compared with it.
    """
    x, y = directions(a), directions(b)
    ahead = np.ones(len(x), bool)
    for way in (x, y):
        ahead &= way[:, 2] > _AHEAD * np.linalg.norm(way, axis=1)  # not NaN
    inlier = np.zeros(len(x), bool)
    if ahead.sum() < _LEAST_MATCHES:
        return inlier
    found: Any = cv2.findEssentialMat(
        x[ahead, :2] / x[ahead, 2:], y[ahead, :2] / y[ahead, 2:], np.eye(3), cv2.RANSAC,
        prob=0.999, threshold=limit, maxIters=_EPIPOLAR_TRIES,
    )  # fmt: skip
    if found[1] is None:
        return inlier
    inlier[ahead] = found[1].ravel() > 0
    aside = ~ahead
    if aside.any():
        inlier[aside] = sampson_distances(found[0][:3], a[aside], b[aside]) < limit
    return inlier


def join_matches(
    matches: Matches, features: Sequence[LocalFeatures], cameras: Sequence[Camera]
) -> Sightings:
    """Follow matches from image to image; a point seen twice in one image is ambiguous.

    Args:
        matches: of pairs of images.
        features: of each image.
        cameras: of each image.
    """
    first = np.concatenate([[0], np.cumsum([len(f.pixels) for f in features])])
    links = [
        np.stack([first[i] + m[:, 0].astype(np.int64), first[j] + m[:, 1].astype(np.int64)])
        for (i, j), m in matches.items()
    ]
    both = np.concatenate(links, axis=1) if links else np.zeros((2, 0), np.int64)
    total = int(first[-1])
    graph = sparse.coo_matrix((np.ones(both.shape[1], bool), (both[0], both[1])), (total, total))
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    node = np.unique(both)
    view = np.searchsorted(first, node, side="right") - 1
    key = label[node].astype(np.int64) * len(features) + view
    _, index, count = np.unique(key, return_index=True, return_counts=True)
    ambiguous = np.unique(label[node][index[count > 1]])
    node = node[~np.isin(label[node], ambiguous)]
    view = np.searchsorted(first, node, side="right") - 1
    keypoint = node - first[view]
    sights = np.zeros((len(node), 3, 3))
    for number in np.unique(view):
        at = view == number
        pixels = features[number].pixels[keypoint[at]].astype(np.float64)
        sights[at] = cameras[number].sights(pixels)
    focal = np.array([c.fx for c in cameras])[view]
    seen = Sightings(view, label[node].astype(np.int64), keypoint, sights, focal)
    return _often_seen(seen.where(np.ones(len(node), bool)))


def _often_seen(seen: Sightings) -> Sightings:
    times = np.bincount(seen.point)
    chosen = np.zeros(len(times), bool)
    chosen[np.argsort(-times, kind="stable")[:_MOST_POINTS]] = True
    return seen.where(chosen[seen.point])


def adjust(
    poses: Sequence[Pose],
    seen: Sightings,
    prior: Prior,
    tell: Callable[[int, int], None] = lambda done, total: None,
    start: Sequence[Pose] | None = None,
) -> Adjusted:
    """Improve poses and points together.

    Args:
        poses: ``map_from_camera`` as given; images without sightings move by the prior.
        seen: the observations.
        prior: how far the given poses are trusted.
        tell: called with rounds done and in all.
        start: poses that agree with the images already, to start from instead.
    """
    given, now = list(poses), list(start or poses)
    limits = _LAST_LIMITS if start else _LIMITS
    before = 0.0
    points = np.zeros((0, 3))
    for done, limit in enumerate(limits):
        seen, points = _triangulated(now, seen, 3.0 * limit)
        if done == 0:
            before = _median_error(now, points, seen)
        for _ in range(_STEPS):
            now, points = _step(now, points, seen, given, prior, limit)
        tell(done + 1, len(limits))
    seen, points = _triangulated(now, seen, 3.0)
    return Adjusted(now, seen, points, (before, _median_error(now, points, seen)))


def adjust_gently(
    poses: Sequence[Pose],
    seen: Sightings,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Adjusted:
    """Correct poses without drift by no more than the images ask for.

    What images leave open, above all a slow bend of a long path, drifts under a loose prior. So
    poses are trusted more and more, for as long as the images agree nearly as well.

    Args:
        poses: ``map_from_camera`` to start from.
        seen: the observations.
        tell: called with rounds done and in all.
    """
    best = loosest = adjust(poses, seen, Prior.of_poses(*LOOSEST))
    for done, trust in enumerate(_TRUST[1:], 1):
        tell(done, len(_TRUST))
        tighter = adjust(poses, seen, Prior.of_poses(*trust), start=best.poses)
        if not tighter.median_px[1] <= _AGREED * loosest.median_px[1]:
            break
        best = tighter
    tell(len(_TRUST), len(_TRUST))
    return replace(best, median_px=(loosest.median_px[0], best.median_px[1]))


def depth_sigmas(
    poses: Sequence[Pose], points: FloatArray, view: IntArray, point: IntArray, focal: FloatArray
) -> FloatArray:
    """Standard deviation of each sighting's distance that its parallax leaves, ``[n]`` metres.

    Args:
        poses: ``map_from_camera`` of the views.
        points: ``[p, 3]`` in the map.
        view: ``[n]`` number of the view of each sighting.
        point: ``[n]`` number of its point.
        focal: ``[n]`` pixels.
    """
    rays = points[point] - np.stack([p.translation for p in poses])[view]
    distance = np.linalg.norm(rays, axis=1)
    unit = rays / distance[:, None]
    count = len(points)
    mean = _summed(unit, point, count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    # twice the largest angle to the mean ray is about the largest parallax
    cosine = np.clip((unit * mean[point]).sum(axis=1), -1.0, 1.0)
    widest = np.zeros(count)
    np.maximum.at(widest, point, np.arccos(cosine))
    sine = np.maximum(np.sin(np.minimum(2.0 * widest, np.pi / 2)), _LEAST_SINE)[point]
    return np.asarray(np.maximum(distance / (focal * sine), 0.005 * distance))


def _triangulated(
    poses: Sequence[Pose], seen: Sightings, limit_px: float
) -> tuple[Sightings, FloatArray]:
    """Points nearest to their rays, and the sightings that agree with them."""
    for _ in range(2):
        points = _nearest_points(poses, seen)
        error = np.linalg.norm(_residuals(poses, points, seen)[0], axis=1)
        good = np.nan_to_num(error, nan=np.inf) < limit_px
        count = np.bincount(seen.point[good], minlength=len(points))
        seen = seen.where(good & (count[seen.point] >= 2))
    return seen, _nearest_points(poses, seen)


def _nearest_points(poses: Sequence[Pose], seen: Sightings) -> FloatArray:
    centres = np.stack([p.translation for p in poses])
    middle = centres.mean(axis=0)
    centres = centres - middle
    rotations = np.stack([p.rotation for p in poses])
    rays = directions(seen.sights)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rays = np.einsum("nij,nj->ni", rotations[seen.view], rays)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    count = int(seen.point.max(initial=-1)) + 1
    matrix = _summed(across, seen.point, count)
    target = _summed(np.einsum("nij,nj->ni", across, centres[seen.view]), seen.point, count)
    # nearly parallel rays: rather close to the cameras than at infinity
    matrix += 1e-6 * np.eye(3)
    return np.asarray(np.linalg.solve(matrix, target[:, :, None])[:, :, 0] + middle)


def _residuals(
    poses: Sequence[Pose], points: FloatArray, seen: Sightings
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Reprojection errors ``[n, 2]`` in pixels, NaN behind a sight; their slopes; camera points.

    The slopes ``[n, 2, 3]`` are by the point in the camera's frame, the points ``[n, 3]`` in it.
    """
    rotations = np.stack([p.rotation for p in poses])[seen.view]
    centres = np.stack([p.translation for p in poses])
    local = np.einsum("nji,nj->ni", rotations, points[seen.point] - centres[seen.view])
    extent = max(float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-6)
    depth = (seen.sights[:, 2] * local).sum(axis=1)
    beside, by_point, ahead = offsets(seen.sights, local)
    ahead &= (depth > 1e-3 * extent) & (depth < _FAR * extent)
    error = np.where(ahead[:, None], beside * seen.focal[:, None], np.nan)
    return error, by_point * seen.focal[:, None, None], local


def _median_error(poses: Sequence[Pose], points: FloatArray, seen: Sightings) -> float:
    error = np.linalg.norm(_residuals(poses, points, seen)[0], axis=1)
    return float(np.nanmedian(error)) if len(error) else float("nan")


def _step(
    poses: list[Pose],
    points: FloatArray,
    seen: Sightings,
    given: Sequence[Pose],
    prior: Prior,
    limit_px: float,
) -> tuple[list[Pose], FloatArray]:
    """One Gauss-Newton step; poses move by twists in their own camera's frame."""
    error, projection, local = _residuals(poses, points, seen)
    weight = 1.0 / (1.0 + np.nan_to_num((error**2).sum(axis=1), nan=np.inf) / limit_px**2) ** 2
    error = np.nan_to_num(error)
    by_view, by_point = _slopes(poses, projection, local, seen)
    weighted = weight[:, None, None] * by_view
    views, count = len(poses), len(points)
    hessian, gradient = _prior_terms(poses, given, prior)
    square = _summed(np.einsum("nki,nkj->nij", weighted, by_view), seen.view, views)
    hessian = hessian + _diagonal(square + 1e-6 * np.eye(6))
    gradient += _summed(np.einsum("nki,nk->ni", weighted, error), seen.view, views).ravel()
    heavy = weight[:, None, None] * by_point
    inner = _summed(np.einsum("nki,nkj->nij", heavy, by_point), seen.point, count)
    # a touch of damping keeps points of little parallax in place
    inner += (1e-6 + 1e-7 * np.trace(inner, axis1=1, axis2=2))[:, None, None] * np.eye(3)
    pull = _summed(np.einsum("nki,nk->ni", heavy, error), seen.point, count)
    inverse: FloatArray = np.asarray(np.linalg.inv(inner), dtype=np.float64)
    cross = _blocks(np.einsum("nki,nkj->nij", weighted, by_point), seen, views, count)
    reduced = cross @ _diagonal(inverse)
    gradient -= reduced @ pull.ravel()
    twists = -_solved(hessian - reduced @ cross.T, gradient)
    moved = pull.ravel() + cross.T @ twists
    points = points - np.einsum("nij,nj->ni", inverse, moved.reshape(-1, 3))
    return [p @ Pose.exp(t) for p, t in zip(poses, twists.reshape(-1, 6), strict=True)], points


def _slopes(
    poses: Sequence[Pose], projection: FloatArray, local: FloatArray, seen: Sightings
) -> tuple[FloatArray, FloatArray]:
    """Derivatives of the errors: by the view's twist ``[n, 2, 6]``, by the point ``[n, 2, 3]``."""
    by_twist = np.concatenate(
        [-np.broadcast_to(np.eye(3), (len(local), 3, 3)), skew(local)], axis=2
    )
    rotations = np.stack([p.rotation for p in poses])[seen.view]
    return projection @ by_twist, projection @ rotations.transpose(0, 2, 1)


def _solved(matrix: Any, target: FloatArray) -> FloatArray:
    """The solution of a symmetric sparse system.

    Images of one room nearly all share points: then a dense solution is quicker.
    """
    if matrix.nnz > _DENSE * matrix.shape[0] ** 2:
        return np.asarray(np.linalg.solve(matrix.toarray(), target))
    return np.asarray(
        splu(
            matrix.tocsc(),
            options={"SymmetricMode": True},
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
        ).solve(target)
    )


def _prior_terms(
    poses: Sequence[Pose], given: Sequence[Pose], prior: Prior
) -> tuple[Any, FloatArray]:
    """Sparse Hessian ``[6 n, 6 n]`` and gradient of what the given poses say."""
    count = len(poses)
    blocks, gradient = np.zeros((count, 6, 6)), np.zeros(6 * count)
    steps: list[tuple[FloatArray, IntArray]] = []
    own = np.repeat([1.0 / prior.pose_m**2, 1.0 / prior.pose_rad**2], 3)
    fixed = np.repeat([1e8, 1e8], 3)  # the first pose is the map's frame
    for i, (pose, start) in enumerate(zip(poses, given, strict=True)):
        weight = fixed if i == 0 and prior.steps else own
        off = (start.inverse() @ pose).log()
        at = slice(6 * i, 6 * i + 6)
        blocks[i] = np.diag(weight)
        gradient[at] += weight * off
    for (i, j), metres, radians in zip(prior.steps, prior.step_m, prior.step_rad, strict=True):
        weight = np.repeat([1.0 / metres**2, 1.0 / radians**2], 3)
        step = poses[i].inverse() @ poses[j]
        off = ((given[i].inverse() @ given[j]).inverse() @ step).log()
        slope = np.concatenate([-_adjoint(step.inverse()), np.eye(6)], axis=1)
        index = np.concatenate([np.arange(6 * i, 6 * i + 6), np.arange(6 * j, 6 * j + 6)])
        steps.append((slope.T * weight @ slope, index))
        gradient[index] += slope.T @ (weight * off)
    return _diagonal(blocks) + _scattered(steps, 6 * count), gradient


def _adjoint(pose: Pose) -> FloatArray:
    """How a pose carries twists ``[6]``, translation part first, to its target frame."""
    out = np.zeros((6, 6))
    out[:3, :3] = out[3:, 3:] = pose.rotation
    out[:3, 3:] = skew(pose.translation) @ pose.rotation
    return out


def _summed(values: FloatArray, index: IntArray, count: int) -> FloatArray:
    """Sum ``[n, ...]`` by index, ``[count, ...]``."""
    flat = values.reshape(len(values), -1)
    sums: Any = [np.bincount(index, column, minlength=count) for column in flat.T]
    return np.asarray(np.stack(sums, axis=1).reshape(count, *values.shape[1:]), dtype=np.float64)


def _blocks(values: FloatArray, seen: Sightings, views: int, points: int) -> Any:
    """Blocks ``[n, 6, 3]`` at (view, point) as a sparse ``[6 views, 3 points]``."""
    rows = 6 * seen.view[:, None, None] + np.arange(6)[None, :, None]
    columns = 3 * seen.point[:, None, None] + np.arange(3)[None, None, :]
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    row, column = (np.broadcast_to(a, shape).ravel() for a in (rows, columns))
    return sparse.csr_matrix((values.ravel(), (row, column)), shape=(6 * views, 3 * points))


def _scattered(blocks: Sequence[tuple[FloatArray, IntArray]], size: int) -> Any:
    """Square blocks added at their rows and columns of a sparse ``[size, size]``."""
    if not blocks:
        return sparse.csr_matrix((size, size))
    values = np.stack([block for block, _ in blocks])
    index = np.stack([index for _, index in blocks])
    row, column = (np.broadcast_to(a, values.shape) for a in (index[:, :, None], index[:, None]))
    at = (row.ravel(), column.ravel())
    return sparse.csr_matrix((values.ravel(), at), shape=(size, size))


def _diagonal(blocks: FloatArray) -> Any:
    """Blocks ``[n, k, k]`` along the diagonal of a sparse ``[n k, n k]``."""
    count, size = len(blocks), blocks.shape[-1] * len(blocks)
    return sparse.bsr_matrix((blocks, np.arange(count), np.arange(count + 1)), shape=(size, size))
