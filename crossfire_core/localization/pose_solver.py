"""From 2D-3D matches to a pose: LO-RANSAC by PoseLib, then robust weighted refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.sights import by_twist, offsets, pinholes
from crossfire_core.localization.estimate import Matches
from crossfire_core.localization.opencv_pose import sampled_pose_by_opencv

try:
    import poselib
except ImportError:  # it has no wheel for aarch64
    poselib = None

FloatArray = NDArray[np.float64]
Sampled: TypeAlias = tuple[Pose | None, NDArray[np.bool_]]
_RANSAC_MATCHES = 600  # the best; more cost time and add little
_MOST_HYPOTHESES = 100_000  # as PoseLib has it where nothing is said


@dataclass(frozen=True)
class SolvedPose:
    """A pose with what supports it.

    Attributes:
        camera_from_map: the pose.
        sights: ``[n, 3, 3]`` of the matches' pixels, see :meth:`.Camera.sights`.
        inlier: ``[n]`` bool.
        error_px: ``[n]`` reprojection errors in pixels, see :meth:`.Camera.sights`; infinite
            where a pixel shows nothing or its point lies behind.
        information: ``[6, 6]`` Gauss-Newton information of (translation, rotation) of a small
            motion of the camera in the map, before scaling by the noise.
    """

    camera_from_map: Pose
    sights: FloatArray
    inlier: NDArray[np.bool_]
    error_px: FloatArray
    information: FloatArray


# From matches to a pose; :func:`solve_pose` is the program's and says what is what.
Solver: TypeAlias = Callable[
    [FloatArray, FloatArray, FloatArray, Camera, float, int, int, Pose | None], SolvedPose | None
]


def solve_pose(
    pixels: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    camera: Camera,
    max_error_px: float,
    max_iterations: int,
    seed: int = 0,
    start: Pose | None = None,
    *,
    by_opencv: bool = False,
) -> SolvedPose | None:
    """Robust absolute pose.

    Args:
        pixels: ``[n, 2]`` in the image, distorted as the lens distorts.
        points: ``[n, 3]`` map frame, metres.
        weights: ``[n]`` non-negative, larger for surer matches.
        camera: the image's camera.
        max_error_px: inlier threshold.
        max_iterations: of RANSAC.
        seed: of RANSAC.
        start: ``camera_from_map`` known to within a few pixels, which makes RANSAC needless.
        by_opencv: sample with OpenCV also where PoseLib is.

    Returns:
        None with fewer than 6 matches, or if nothing agrees.
    """
    if len(pixels) < 6:
        return None
    sights = camera.sights(pixels)
    focal = 0.5 * (camera.fx + camera.fy)
    if start is not None:
        near = refine_pose(start, sights, points, weights, focal, 2.0 * max_error_px)
        start = near.camera_from_map
        return finite(refine_pose(start, sights, points, weights, focal, max_error_px))
    # PROSAC draws from the best first; the weakest matches would only slow the counting down
    order = np.argsort(-weights, kind="stable")[:_RANSAC_MATCHES]
    ransac = {"max_reproj_error": max_error_px, "max_iterations": max_iterations,
              "min_iterations": 50, "success_prob": 0.9999, "seed": seed,
              "progressive_sampling": True}  # fmt: skip
    bundle = {"loss_scale": 0.5 * max_error_px}
    found, inlier = sampled_pose(sights[order], points[order], camera, ransac, bundle, by_opencv)
    if found is None or inlier.sum() < 6:
        return None
    return finite(refine_pose(found, sights, points, weights, focal, max_error_px))


solve_pose_by_opencv: Solver = partial(solve_pose, by_opencv=True)


def finite(solved: SolvedPose) -> SolvedPose | None:
    """The pose, unless the least squares diverged on matches that fix none."""
    return solved if solved.camera_from_map.is_finite() else None


def sampled_pose(
    sights: FloatArray,
    points: FloatArray,
    camera: Camera,
    ransac: dict[str, Any],
    bundle: dict[str, Any],
    by_opencv: bool = False,
) -> Sampled:
    """``camera_from_map`` by PoseLib's LO-RANSAC, and which matches agree ``[n]``.

    The pose is None where PoseLib's is not finite, as on matches that fix no pose.

    Where PoseLib is not installed OpenCV finds it, from the side of the lens that sees most.

    Args:
        sights: ``[n, 3, 3]`` of the matches, see :meth:`.Camera.sights`.
        points: ``[n, 3]`` map frame.
        camera: theirs.
        ransac: PoseLib's options.
        bundle: PoseLib's options for its refinement.
        by_opencv: ask OpenCV in any case.
    """
    if poselib is None or by_opencv:
        return _sampled_by_opencv(sights, points, camera, ransac)
    focal = 0.5 * (camera.fx + camera.fy)
    model = {"model": "SIMPLE_PINHOLE", "width": camera.width, "height": camera.height,
             "params": [focal, 0.0, 0.0]}  # fmt: skip
    inlier = np.zeros(len(sights), dtype=bool)
    parts = pinholes(sights, flat=camera.is_flat)
    if camera.is_flat:
        (only,) = parts
        found, info = poselib.estimate_absolute_pose(
            only.plane * focal, points[only.index], model, ransac, bundle
        )
        inlier[only.index] = info["inliers"]
    else:
        pose, agreeing = sampled_generalized_pose(
            [part.plane * focal for part in parts], [points[part.index] for part in parts],
            [Pose(part.turn, np.zeros(3)) for part in parts], focal, ransac, bundle,
        )  # fmt: skip
        for part, agree in zip(parts, agreeing, strict=True):
            inlier[part.index] = agree
        return pose, inlier
    return pose_or_none(found), inlier


def _sampled_by_opencv(
    sights: FloatArray, points: FloatArray, camera: Camera, ransac: dict[str, Any]
) -> Sampled:
    focal = 0.5 * (camera.fx + camera.fy)
    inlier = np.zeros(len(sights), dtype=bool)
    most = max(pinholes(sights, flat=camera.is_flat), key=lambda part: len(part.index))
    found, inlier[most.index] = sampled_pose_by_opencv(
        most.plane, points[most.index], focal, ransac["max_reproj_error"],
        ransac.get("max_iterations", _MOST_HYPOTHESES), ransac["seed"],
    )  # fmt: skip
    return Pose(most.turn, np.zeros(3)).inverse() @ found, inlier


def pose_or_none(found: Any) -> Pose | None:
    """PoseLib's pose; None where it is no pose, as on matches that fix none."""
    matrix = np.asarray(found.Rt)
    return Pose.from_matrix(matrix) if np.isfinite(matrix).all() else None


def has_poselib() -> bool:
    """Whether PoseLib is installed."""
    return poselib is not None


def sampled_generalized_pose(
    pixels: list[FloatArray],
    points: list[FloatArray],
    mounts: list[Pose],
    focal: float,
    ransac: dict[str, Any],
    bundle: dict[str, Any],
) -> tuple[Pose | None, list[NDArray[np.bool_]]]:
    """``base_from_map`` of flat cameras that sit together, by PoseLib, and who agrees ``[n]``.

    The pose is None where PoseLib's is not finite.

    Args:
        pixels: ``[n, 2]`` from the principal point, by camera.
        points: ``[n, 3]`` map frame, by camera.
        mounts: ``camera_from_base``.
        focal: of all of them, pixels.
        ransac: PoseLib's options.
        bundle: PoseLib's options for its refinement.
    """
    model = {"model": "SIMPLE_PINHOLE", "width": 640, "height": 640, "params": [focal, 0.0, 0.0]}
    found, info = poselib.estimate_generalized_absolute_pose(
        pixels, points, [_poselib_pose(mount) for mount in mounts], [model] * len(mounts),
        ransac, bundle,
    )  # fmt: skip
    return pose_or_none(found), [np.asarray(agree, dtype=bool) for agree in info["inliers"]]


def _poselib_pose(pose: Pose) -> Any:
    """A pose in PoseLib's words."""
    made = poselib.CameraPose()
    x, y, z, w = pose.quaternion()
    made.q, made.t = np.array([w, x, y, z]), pose.translation
    return made


def refine_pose(
    camera_from_map: Pose,
    sights: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    focal: float,
    max_error_px: float,
    iterations: int = 6,
) -> SolvedPose:
    """Iteratively reweighted least squares on the reprojection error (Geman-McClure).

    Args:
        camera_from_map: start.
        sights: ``[n, 3, 3]`` of the matches' pixels, see :meth:`.Camera.sights`.
        points: ``[n, 3]`` map frame.
        weights: ``[n]``.
        focal: pixels, turns offsets into pixels.
        max_error_px: where a match stops to count; the kernel's width is half of it.
        iterations: at most this many steps.
    """
    pose = camera_from_map
    width = 0.5 * max_error_px
    information = np.eye(6)
    for _ in range(iterations):
        information, gradient = normal_equations(pose, sights, points, weights, focal, width)
        step = -np.linalg.solve(information + 1e-9 * np.eye(6), gradient)
        pose = Pose.exp(step) @ pose
        if np.linalg.norm(step) < 1e-6:
            break
    error = _errors(pose, sights, points, focal)
    return SolvedPose(pose, sights, error < max_error_px, error, information)


def normal_equations(
    camera_from_map: Pose,
    sights: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    focal: float,
    width: float,
) -> tuple[FloatArray, FloatArray]:
    """``J^T W J [6, 6]`` and ``J^T W r [6]`` of :func:`reprojection`, summed point by point.

    Args:
        camera_from_map: the pose.
        sights: ``[n, 3, 3]`` of the matches' pixels, see :meth:`.Camera.sights`.
        points: ``[n, 3]`` map frame.
        weights: ``[n]``, each multiplied by its match's robust weight (Geman-McClure).
        focal: pixels, turns offsets into pixels.
        width: of the robust kernel, pixels.
    """
    local = camera_from_map.apply(points)
    sums = np.zeros((7, 6))
    _sum_equations(local, sights, weights, focal, width * width, sums)
    return sums[:6], sums[6]


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[misc,unused-ignore]
def _sum_equations(
    local: FloatArray,
    sights: FloatArray,
    weights: FloatArray,
    focal: float,
    squared_width: float,
    sums: FloatArray,
) -> None:
    """Rows of ``sums``: six of ``J^T W J``, then ``J^T W r``; the slopes are :func:`offsets`'."""
    a, b = np.zeros(6), np.zeros(6)
    for i in range(len(local)):
        x, y, z = local[i, 0], local[i, 1], local[i, 2]
        m = sights[i]
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z
        if not depth > 1e-6:
            continue
        inverse = 1.0 / depth
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z) * inverse
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z) * inverse
        ru, rv = focal * u, focal * v
        kernel = squared_width / (squared_width + ru * ru + rv * rv)
        w = weights[i] * kernel * kernel
        for k in range(3):
            a[k] = (m[0, k] - u * m[2, k]) * inverse
            b[k] = (m[1, k] - v * m[2, k]) * inverse
        a[3], a[4], a[5] = y * a[2] - z * a[1], z * a[0] - x * a[2], x * a[1] - y * a[0]
        b[3], b[4], b[5] = y * b[2] - z * b[1], z * b[0] - x * b[2], x * b[1] - y * b[0]
        for j in range(6):
            left, right = focal * focal * w * a[j], focal * focal * w * b[j]
            for k in range(j, 6):
                sums[j, k] += left * a[k] + right * b[k]
            sums[6, j] += focal * w * (a[j] * ru + b[j] * rv)
    for j in range(6):
        for k in range(j):
            sums[j, k] = sums[k, j]


def rescore(
    solved: SolvedPose, camera_from_map: Pose, matches: Matches, camera: Camera, max_error_px: float
) -> SolvedPose:
    """The same matches under another pose; the information is kept."""
    focal = 0.5 * (camera.fx + camera.fy)
    error = _errors(camera_from_map, solved.sights, matches.points, focal)
    return replace(
        solved, camera_from_map=camera_from_map, inlier=error < max_error_px, error_px=error
    )


def _errors(pose: Pose, sights: FloatArray, points: FloatArray, focal: float) -> FloatArray:
    beside, _, ahead = offsets(sights, pose.apply(points))
    return np.where(ahead, focal * np.linalg.norm(beside, axis=1), np.inf)


def reprojection(
    pose: Pose, sights: FloatArray, points: FloatArray, focal: float
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Residuals ``[n, 2]`` in pixels, their Jacobian ``[n, 2, 6]``, and what lies ahead ``[n]``.

    The Jacobian is by a twist applied on the left of ``pose``, which is ``camera_from_map``,
    translation part first.
    """
    local = pose.apply(points)
    beside, by_point, ahead = offsets(sights, local)
    return focal * beside, focal * by_twist(by_point, local), ahead


def camera_covariance(solved: SolvedPose, noise_px: float, floor: float = 1e-10) -> FloatArray:
    """Covariance ``[6, 6]`` of the camera's position and of a rotation about the map's axes.

    Args:
        solved: the refined pose.
        noise_px: standard deviation of one match, already inflated for correlated errors.
        floor: least variance added, so that the result stays invertible.
    """
    information = solved.information + 1e-6 * np.eye(6)
    covariance = np.linalg.inv(information) * noise_px**2
    # camera_from_map = exp(twist) @ mean: the camera's centre moves by -R^T v, it turns by -R^T w
    rotation = solved.camera_from_map.rotation
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = -rotation.T
    moved = turn @ covariance @ turn.T
    return np.asarray(0.5 * (moved + moved.T) + floor * np.eye(6))
