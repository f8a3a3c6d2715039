"""From 2D-3D matches to a pose: LO-RANSAC by PoseLib, then robust weighted refinement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numba
import numpy as np
import poselib
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import Matches

FloatArray = NDArray[np.float64]
_RANSAC_MATCHES = 600


@dataclass(frozen=True)
class SolvedPose:
    """A pose with what supports it.

    Attributes:
        camera_from_map: the pose.
        ideal: ``[n, 2]`` the matches' undistorted coordinates on the plane z = 1.
        inlier: ``[n]`` bool.
        error_px: ``[n]`` reprojection errors in pixels of the undistorted image.
        information: ``[6, 6]`` Gauss-Newton information of (translation, rotation) of a small
            motion of the camera in the map, before scaling by the noise.
    """

    camera_from_map: Pose
    ideal: FloatArray
    inlier: NDArray[np.bool_]
    error_px: FloatArray
    information: FloatArray


class Solver(Protocol):
    """From matches to a pose; :func:`solve_pose` is the program's, which says what is what."""

    def __call__(
        self,
        pixels: FloatArray,
        points: FloatArray,
        weights: FloatArray,
        camera: Camera,
        max_error_px: float,
        max_iterations: int,
        seed: int = 0,
        start: Pose | None = None,
    ) -> SolvedPose | None:
        """Robust absolute pose, or None."""
        ...


def solve_pose(
    pixels: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    camera: Camera,
    max_error_px: float,
    max_iterations: int,
    seed: int = 0,
    start: Pose | None = None,
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

    Returns:
        None with fewer than 6 matches, or if nothing agrees.
    """
    if len(pixels) < 6:
        return None
    ideal = camera.normalized(pixels)
    focal = 0.5 * (camera.fx + camera.fy)
    if start is not None:
        near = refine_pose(start, ideal, points, weights, focal, 2.0 * max_error_px)
        return refine_pose(near.camera_from_map, ideal, points, weights, focal, max_error_px)
    model = {"model": "SIMPLE_PINHOLE", "width": camera.width, "height": camera.height,
             "params": [focal, 0.0, 0.0]}  # fmt: skip
    # PROSAC draws from the best first; the weakest matches would only slow the counting down
    order = np.argsort(-weights, kind="stable")[:_RANSAC_MATCHES]
    ransac = {"max_reproj_error": max_error_px, "max_iterations": max_iterations,
              "min_iterations": 50, "success_prob": 0.9999, "seed": seed,
              "progressive_sampling": True}  # fmt: skip
    found, info = poselib.estimate_absolute_pose(
        ideal[order] * focal, points[order], model, ransac, {"loss_scale": 0.5 * max_error_px}
    )
    if info["num_inliers"] < 6:
        return None
    start = Pose.from_matrix(found.Rt)
    return refine_pose(start, ideal, points, weights, focal, max_error_px)


def refine_pose(
    camera_from_map: Pose,
    ideal: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    focal: float,
    max_error_px: float,
    iterations: int = 6,
) -> SolvedPose:
    """Iteratively reweighted least squares on the reprojection error (Geman-McClure).

    Args:
        camera_from_map: start.
        ideal: ``[n, 2]`` undistorted coordinates on the plane z = 1.
        points: ``[n, 3]`` map frame.
        weights: ``[n]``.
        focal: pixels, turns coordinates into pixels.
        max_error_px: where a match stops to count; the kernel's width is half of it.
        iterations: at most this many steps.
    """
    pose = camera_from_map
    width = 0.5 * max_error_px
    information = np.eye(6)
    for _ in range(iterations):
        information, gradient = normal_equations(pose, ideal, points, weights, focal, width)
        step = -np.linalg.solve(information + 1e-9 * np.eye(6), gradient)
        pose = Pose.exp(step) @ pose
        if np.linalg.norm(step) < 1e-6:
            break
    error = _errors(pose, ideal, points, focal)
    return SolvedPose(pose, ideal, error < max_error_px, error, information)


def normal_equations(
    camera_from_map: Pose,
    ideal: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    focal: float,
    width: float,
) -> tuple[FloatArray, FloatArray]:
    """``J^T W J [6, 6]`` and ``J^T W r [6]`` of :func:`reprojection`, summed point by point.

    Args:
        camera_from_map: the pose.
        ideal: ``[n, 2]`` undistorted coordinates on the plane z = 1.
        points: ``[n, 3]`` map frame.
        weights: ``[n]``, each multiplied by its match's robust weight (Geman-McClure).
        focal: pixels, turns coordinates into pixels.
        width: of the robust kernel, pixels.
    """
    local = camera_from_map.apply(points)
    sums = np.zeros((7, 6))
    _sum_equations(local, ideal, weights, focal, width * width, sums)
    return sums[:6], sums[6]


@numba.njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[misc,unused-ignore]
def _sum_equations(
    local: FloatArray,
    ideal: FloatArray,
    weights: FloatArray,
    focal: float,
    squared_width: float,
    sums: FloatArray,
) -> None:
    """Rows of ``sums``: six of ``J^T W J``, then ``J^T W r``; the slopes are plane_points'."""
    a, b = np.zeros(6), np.zeros(6)
    for i in range(len(local)):
        z = local[i, 2]
        if not z > 1e-6:
            continue
        inverse = 1.0 / z
        u, v = local[i, 0] * inverse, local[i, 1] * inverse
        ru, rv = focal * (u - ideal[i, 0]), focal * (v - ideal[i, 1])
        kernel = squared_width / (squared_width + ru * ru + rv * rv)
        w = weights[i] * kernel * kernel
        a[0], a[2], a[3], a[4], a[5] = inverse, -u * inverse, -u * v, 1.0 + u * u, -v
        b[1], b[2], b[3], b[4], b[5] = inverse, -v * inverse, -1.0 - v * v, u * v, u
        for j in range(6):
            left, right = focal * focal * w * a[j], focal * focal * w * b[j]
            for k in range(6):
                sums[j, k] += left * a[k] + right * b[k]
            sums[6, j] += focal * w * (a[j] * ru + b[j] * rv)


def rescore(
    solved: SolvedPose, camera_from_map: Pose, matches: Matches, camera: Camera, max_error_px: float
) -> SolvedPose:
    """The same matches under another pose; the information is kept."""
    focal = 0.5 * (camera.fx + camera.fy)
    error = _errors(camera_from_map, solved.ideal, matches.points, focal)
    return replace(
        solved, camera_from_map=camera_from_map, inlier=error < max_error_px, error_px=error
    )


def _errors(pose: Pose, ideal: FloatArray, points: FloatArray, focal: float) -> FloatArray:
    residual, _, ahead = reprojection(pose, ideal, points, focal)
    return np.where(ahead, np.linalg.norm(residual, axis=1), np.inf)


def reprojection(
    pose: Pose, ideal: FloatArray, points: FloatArray, focal: float
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Residuals ``[n, 2]`` in pixels, their Jacobian ``[n, 2, 6]``, and what lies ahead ``[n]``.

    The Jacobian is by a twist applied on the left of ``pose``, which is ``camera_from_map``,
    translation part first.
    """
    plane, by_twist, ahead = plane_points(pose, points)
    return focal * (plane - ideal), focal * by_twist, ahead


def plane_points(
    camera_from_map: Pose, points: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Points of the map on the camera's plane z = 1.

    Returns:
        Coordinates ``[n, 2]``, their derivative ``[n, 2, 6]`` by a twist applied on the left
        (translation first), and which points lie ahead ``[n]``; the others are meaningless.
    """
    p = camera_from_map.apply(points)
    ahead = p[:, 2] > 1e-6
    inverse = 1.0 / np.where(ahead, p[:, 2], 1.0)
    u, v = p[:, 0] * inverse, p[:, 1] * inverse
    by_twist = np.zeros((len(p), 2, 6))
    by_twist[:, 0, 0] = by_twist[:, 1, 1] = inverse
    by_twist[:, 0, 2], by_twist[:, 1, 2] = -u * inverse, -v * inverse
    by_twist[:, 0, 3], by_twist[:, 0, 4], by_twist[:, 0, 5] = -u * v, 1.0 + u * u, -v
    by_twist[:, 1, 3], by_twist[:, 1, 4], by_twist[:, 1, 5] = -1.0 - v * v, u * v, u
    return np.stack([u, v], axis=1), by_twist, ahead


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
