"""The last fraction of a pixel: small pictures of surfaces, slid over the image until they fit.

A descriptor is learned to look alike from many sides, and is found to about a pixel. The grey
values of one mapping image around a corner, seen as a small flat piece of surface, are found to a
tenth of that. A map keeps some thousands of them, each with the point that was triangulated
there; where they fit the image around a pose that the descriptors found, they say
how the pose must move. (Patches on points are how direct methods track a camera, e.g. SVO, Forster
et al. 2014; here they hang on a map.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.field.threads import for_ranges
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.evidence import Agreement
from crossfire_core.localization.nearness import ViewDistances, closeness
from crossfire_core.localization.patch_search import search
from crossfire_core.localization.pose_solver import (
    SolvedPose,
    finite,
    refine_pose,
    solve_pose,
)
from crossfire_core.maps.patches import SIDE, Patches

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_BLUR_PX = 0.7  # takes the noise of pixels, not the pattern
_VIEWS = 64  # patches of so many views, the nearest, are tried
_NEAR = 0.07  # views this far off (radians of parallax and of turning) share their pose's error
_FAR = 0.02  # weight of the other views' patches: where none is near, they decide
_INNER = 7  # samples of a patch that count: so many on each side of its middle, less than SIDE / 2
_STEPS = 8  # of Gauss-Newton; most patches rest after four
_RESTLESS_PX = 0.25  # a last step longer than this went nowhere
_MOST_PX = 4.0  # of a 640 px wide image: what is found further off is something else
_LEAST_LIKENESS = 0.85  # correlation; see docs/how_it_works.md
_SEEK_LIKENESS = 0.7  # of a patch that is searched from afar
_SEEK_SPAN = (0.7, 2.5)  # pixels that one of its samples spans
_SEEK_TRIED, _SEEK_PATCHES = 240, 160  # looked at, and searched for
_SEEK_ITERATIONS = 500  # of RANSAC
_SEEK_ERROR_PX = 3.0  # of a 640 px wide image: what such patches are off by, at most
_TRIED = 3  # times as many are looked at as are slid over the image
_LEAST_CONTRAST = 4.0  # standard deviation of a patch's grey values
LEAST_SLANT = 0.3  # cosine between a surface's normal and the way to it
_SCALES = (0.4, 2.5)  # an image pixel is at least and at most so many samples
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}


def axes(normals: FloatArray, rotations: FloatArray) -> FloatArray:
    """Along a patch's columns and rows in the map frame, ``[n, 3, 2]``, metres a metre.

    Args:
        normals: ``[n, 3]`` unit.
        rotations: ``[n, 3, 3]`` of ``map_from_camera`` of the views they were cut from: columns
            run along the image's rows, as far as the surface lets them.
    """
    right = rotations[:, :, 0]
    right = right - (right * normals).sum(axis=1, keepdims=True) * normals
    right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-9)
    down = np.cross(right, normals)  # the normal looks back at the camera, whose z runs away
    return np.stack([right, down], axis=2)


def softened(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey values ``[height, width]`` of an RGB image, without the noise of single pixels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR_PX)  # type: ignore[return-value]


@dataclass(frozen=True)
class PatchFit:
    """A pose from patches.

    Attributes:
        solved: the pose, and which patches agree with it.
        pixels: ``[n, 2]`` of the patches that were found, in the camera's image.
        points: ``[n, 3]`` of theirs in the map, metres.
        tried: how many were looked for, found or not.
        agreement: how much of the image they speak for.
    """

    solved: SolvedPose
    pixels: FloatArray
    points: FloatArray
    tried: int
    agreement: Agreement


class PatchAligner:
    """Moves a pose so that the map's patches lie where the image shows them."""

    def __init__(
        self,
        patches: Patches,
        poses: Sequence[Pose],
        median_distance: float,
        side: int,
        open_to: Callable[[IntArray], NDArray[np.bool_]] | None = None,
    ) -> None:
        """Prepare a map's patches.

        Args:
            patches: of the map.
            poses: ``map_from_camera`` of all mapping views.
            median_distance: of the surfaces from the cameras, metres.
            side: images are shrunk to this longer side, that of the images they were cut from.
            open_to: of views, the nearest first, which patches ``[n]`` nothing hides from there;
                by default all. See :class:`.hiding.Hiding`.
        """
        self._side = side
        self._open_to = open_to or (lambda views: np.ones(len(patches), bool))
        rotations = np.stack([pose.rotation for pose in poses])
        self._patches = patches
        self._axes = axes(patches.normals, rotations[patches.view]) * patches.spacing[:, None, None]
        self._grey = patches.grey.astype(np.float32)
        self._of_view = [np.flatnonzero(patches.view == number) for number in range(len(poses))]
        self._views = ViewDistances(poses, median_distance)

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._patches)

    def fit(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        map_from_camera: Pose,
        max_error_px: float,
        most: int,
        reach_px: float = 0.0,
    ) -> PatchFit | None:
        """The pose under which patches lie where they are found.

        Args:
            image: ``[height, width, 3]`` uint8 RGB, of the camera's size.
            camera: its calibration.
            map_from_camera: start, within a pixel or two of the truth, or within ``reach_px``.
            max_error_px: of the camera's image; patches further off are taken for wrong.
            most: so many patches are tried: half of them of the nearest views, the others evenly
                from the views after them.
            reach_px: patches are searched so far from where the start has them, in pixels of the
                camera's image, before they are slid; 0 for a start that is right already.

        Returns:
            None where fewer than 6 patches are found.
        """
        grey, scale = _shrunk(image, self._side)
        small = camera.resized(grey.shape[1], grey.shape[0])
        start: Pose | None = map_from_camera
        if reach_px > 0.0:
            start = self._sought(grey, small, map_from_camera, reach_px * float(scale[0]))
        if start is None:
            return None
        index, centres, warps, weights = self._in_sight(small, start, most)
        shifts, likeness = slide(grey, centres, warps, self._grey[index])
        limit = _MOST_PX * small.relative_size
        found = (likeness > _LEAST_LIKENESS) & (np.linalg.norm(shifts, axis=1) < limit)
        if found.sum() < 6:
            return None
        pixels = (centres + shifts)[found] / scale
        points = self._patches.points[index[found]]
        focal = 0.5 * (camera.fx + camera.fy)
        solved = finite(
            refine_pose(
                start.inverse(), camera.sights(pixels), points, weights[found], focal, max_error_px
            )
        )
        if solved is None:
            return None
        agrees = np.zeros(len(index), bool)
        agrees[np.flatnonzero(found)[solved.inlier]] = True
        agreement = Agreement.of(centres / scale, agrees, camera)
        return PatchFit(solved, pixels, points, len(index), agreement)

    def _sought(
        self, grey: NDArray[np.float32], camera: Camera, map_from_camera: Pose, reach_px: float
    ) -> Pose | None:
        """A pose from patches searched in windows around where a start has them."""
        index, centres, warps, _ = self._in_sight(camera, map_from_camera, _SEEK_TRIED)
        span = np.sqrt(np.abs(np.linalg.det(warps)))
        use = np.flatnonzero((span > _SEEK_SPAN[0]) & (span < _SEEK_SPAN[1]))
        use = use[_half_near(len(use), _SEEK_PATCHES)]
        shifts, likeness = search(grey, centres[use], warps[use], self._grey[index[use]], reach_px)
        found = likeness > _SEEK_LIKENESS
        limit = _SEEK_ERROR_PX * camera.relative_size
        solved = solve_pose(
            (centres[use] + shifts)[found], self._patches.points[index[use[found]]],
            likeness[found], camera, limit, _SEEK_ITERATIONS,
        )  # fmt: skip
        return None if solved is None else solved.camera_from_map.inverse()

    def _in_sight(
        self, camera: Camera, map_from_camera: Pose, most: int
    ) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
        """Patches to try, where they are ``[n, 2]``, their warps ``[n, 2, 2]``, weights ``[n]``."""
        p = self._patches
        far = self._views.of(map_from_camera)
        weight = closeness(far, _NEAR, _FAR)[p.view]
        # about every second one faces the camera and lies in its image
        views = np.argsort(far, kind="stable")[:_VIEWS]
        index = np.concatenate([self._of_view[view] for view in views])
        index = index[self._open_to(views)[index]]
        index = index[_half_near(len(index), _TRIED * most)]
        way = p.points[index] - map_from_camera.translation
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
        index = index[-(way * p.normals[index]).sum(axis=1) > LEAST_SLANT]
        camera_from_map = map_from_camera.inverse()
        centres, slopes = camera.project_with_slopes(camera_from_map.apply(p.points[index]))
        warps = slopes @ camera_from_map.rotation @ self._axes[index]
        area = np.linalg.det(warps)  # 0 where the lens does not see a point
        good = (area > _SCALES[0] ** 2) & (area < _SCALES[1] ** 2)
        good &= ((centres > 0.0) & (centres < np.array(camera.size))).all(axis=1)
        reach = _INNER * np.abs(warps).sum(axis=2).max(axis=1)
        good &= camera.clearance(centres) > reach  # all of a patch shows the scene
        chosen = np.flatnonzero(good)
        chosen = chosen[_half_near(len(chosen), most)]
        weight = weight[index[chosen]]
        weight /= weight.max(initial=1e-9)  # of the views that have patches here
        return index[chosen], centres[chosen], warps[chosen], weight


def _half_near(count: int, most: int) -> IntArray:
    """Which of so many to take, the nearest being first: half of them, the rest evenly.

    The nearest know best, but share one error of the mapping poses; many views do not.
    """
    if count <= most:
        return np.arange(count)
    near = most // 2
    rest = np.linspace(near, count - 1, most - near).astype(np.int64)
    return np.concatenate([np.arange(near), rest])


def _shrunk(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Softened grey values, and the scale (x, y) by which the image was shrunk."""
    height, width = image.shape[:2]
    factor = side / max(width, height)
    if factor < 1.0:
        size = (round(width * factor), round(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    scale = np.array([image.shape[1] / width, image.shape[0] / height])
    return softened(image), scale


def slide(
    grey: NDArray[np.float32],
    centres: FloatArray,
    warps: FloatArray,
    patches: NDArray[np.float32],
) -> tuple[FloatArray, FloatArray]:
    """Where patches fit best around their places in an image.

    Gauss-Newton over a shift, on grey values without their mean and contrast; slopes are those of
    the patch, so they are computed once (Baker and Matthews 2004).

    Args:
        grey: ``[height, width]`` the image.
        centres: ``[n, 2]`` pixels where the patches' middles are expected, centres at .5.
        warps: ``[n, 2, 2]`` pixels a sample along the patch's columns and rows.
        patches: ``[n, SIDE, SIDE]`` grey values.

    Returns:
        Shifts ``[n, 2]`` in pixels and likeness ``[n]``, the correlation there; -1 where a patch
        is flat, leaves the image or does not come to rest.
    """
    out = np.zeros((len(centres), 3))
    out[:, 2] = -1.0
    for_ranges(
        lambda start, stop: _slide(grey, centres, warps, patches, out, start, stop),
        len(centres),
        smallest=32,
    )
    return out[:, :2], out[:, 2]


@numba.njit(**_JIT)
def _slide(grey, centres, warps, patches, out, start, stop):  # type: ignore[no-untyped-def]
    """Fill ``out [n, (x, y, likeness)]``."""
    count = 4 * _INNER * _INNER
    wanted, slopes, seen = np.empty(count), np.empty((count, 2)), np.empty(count)
    for i in range(start, stop):
        if not _prepare(patches[i], warps[i], wanted, slopes):
            continue
        xx, xy, yy = 0.0, 0.0, 0.0
        for k in range(count):
            xx += slopes[k, 0] * slopes[k, 0]
            xy += slopes[k, 0] * slopes[k, 1]
            yy += slopes[k, 1] * slopes[k, 1]
        bend = xx * yy - xy * xy
        if bend < 1e-6 * (xx + yy) ** 2:
            continue
        x, y, likeness, length = 0.0, 0.0, -1.0, 0.0
        for _ in range(_STEPS):
            likeness = -1.0
            if not _sample(grey, centres[i, 0] + x, centres[i, 1] + y, warps[i], seen):
                break
            if not _normalize(seen, 1.0):
                break
            likeness, gx, gy = 0.0, 0.0, 0.0
            for k in range(count):
                likeness += seen[k] * wanted[k]
                gx += slopes[k, 0] * (seen[k] - wanted[k])
                gy += slopes[k, 1] * (seen[k] - wanted[k])
            likeness /= count
            dx, dy = (yy * gx - xy * gy) / bend, (xx * gy - xy * gx) / bend
            length = np.sqrt(dx * dx + dy * dy)
            if length > 1.0:
                dx, dy = dx / length, dy / length
            x, y = x - dx, y - dy
            if length < 0.02:
                break
        else:
            if length > _RESTLESS_PX:
                likeness = -1.0
        out[i, 0], out[i, 1], out[i, 2] = x, y, likeness


@numba.njit(**_JIT)
def _prepare(patch, warp, wanted, slopes):  # type: ignore[no-untyped-def]
    """A patch's inner values ``wanted [count]`` and their ``slopes [count, 2]`` a pixel.

    Both without the values' mean and contrast; false for a flat patch or a flat warp.
    """
    a, b, c, d = warp[0, 0], warp[0, 1], warp[1, 0], warp[1, 1]
    det = a * d - b * c
    if abs(det) < 1e-9:
        return False
    across = 2 * _INNER
    first = (SIDE - across) // 2
    mean_x, mean_y = 0.0, 0.0
    for k in range(len(wanted)):
        row, column = first + k // across, first + k % across
        wanted[k] = patch[row, column]
        u = 0.5 * (patch[row, column + 1] - patch[row, column - 1])
        v = 0.5 * (patch[row + 1, column] - patch[row - 1, column])
        # from slopes a sample to slopes a pixel: the transposed inverse of the warp
        slopes[k, 0] = (d * u - c * v) / det
        slopes[k, 1] = (a * v - b * u) / det
        mean_x += slopes[k, 0]
        mean_y += slopes[k, 1]
    contrast = _normalize(wanted, _LEAST_CONTRAST)
    if contrast == 0.0:
        return False
    for k in range(len(wanted)):
        slopes[k, 0] = (slopes[k, 0] - mean_x / len(wanted)) / contrast
        slopes[k, 1] = (slopes[k, 1] - mean_y / len(wanted)) / contrast
    return True


@numba.njit(**_JIT)
def _normalize(values, least):  # type: ignore[no-untyped-def]
    """Take mean and contrast from values; returns the contrast, 0 where it is below ``least``."""
    mean = 0.0
    for k in range(len(values)):
        mean += values[k]
    mean /= len(values)
    contrast = 0.0
    for k in range(len(values)):
        contrast += (values[k] - mean) ** 2
    contrast = np.sqrt(contrast / len(values))
    if contrast < least:
        return 0.0
    for k in range(len(values)):
        values[k] = (values[k] - mean) / contrast
    return contrast


@numba.njit(**_JIT)
def _sample(grey, x, y, warp, seen):  # type: ignore[no-untyped-def]
    """What the image shows under a patch whose middle lies at (x, y); false outside of it."""
    height, width = grey.shape
    across = 2 * _INNER
    first = (SIDE - across) // 2
    for k in range(len(seen)):
        s = first + k % across - 0.5 * (SIDE - 1)
        t = first + k // across - 0.5 * (SIDE - 1)
        px = x + warp[0, 0] * s + warp[0, 1] * t - 0.5
        py = y + warp[1, 0] * s + warp[1, 1] * t - 0.5
        if not (px >= 0.0 and py >= 0.0 and px < width - 1 and py < height - 1):
            return False
        u, v = int(px), int(py)
        p, q = px - u, py - v
        top = grey[v, u] + p * (grey[v, u + 1] - grey[v, u])
        low = grey[v + 1, u] + p * (grey[v + 1, u + 1] - grey[v + 1, u])
        seen[k] = top + q * (low - top)
    return True
