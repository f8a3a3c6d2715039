"""One pose of a robot from the matches of all its cameras.

A generalized absolute pose (PoseLib), refined by the same least squares as a single camera's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.pose import skew
from crossfire_core.geometry.sights import pinholes
from crossfire_core.localization.pose_solver import (
    has_poselib,
    normal_equations,
    reprojection,
    sampled_generalized_pose,
    solve_pose,
)
from crossfire_core.localization.uncertainty import symmetric

FloatArray = NDArray[np.float64]

_RANSAC_MATCHES = 400  # of one camera
_STEPS = 8  # of Gauss-Newton, at most


@dataclass(frozen=True)
class RigSight:
    """Matches of one camera of a rig.

    Attributes:
        camera: its calibration.
        base_from_camera: where it sits on the robot.
        pixels: ``[n, 2]``, centres at .5.
        points: ``[n, 3]`` in the map, metres.
        weights: ``[n]`` non-negative, larger for surer matches.
    """

    camera: Camera
    base_from_camera: Pose
    pixels: FloatArray
    points: FloatArray
    weights: FloatArray

    @property
    def focal(self) -> float:
        """Pixels, the mean of both axes."""
        return 0.5 * (self.camera.fx + self.camera.fy)


@dataclass(frozen=True)
class SolvedRig:
    """A robot's pose with what supports it.

    Attributes:
        base_from_map: the pose.
        inliers: ``[n]`` bool by camera.
        errors_px: ``[n]`` reprojection errors by camera, pixels of images 640 wide.
        information: ``[6, 6]`` Gauss-Newton information of a twist on the left of the pose
            (translation first), before scaling by the noise of such a pixel.
    """

    base_from_map: Pose
    inliers: tuple[NDArray[np.bool_], ...]
    errors_px: tuple[FloatArray, ...]
    information: FloatArray


def solve_rig(
    sights: Sequence[RigSight],
    max_error_px: float,
    max_iterations: int,
    seed: int = 0,
) -> SolvedRig | None:
    """Robust pose of a robot from the matches of all its cameras.

    Args:
        sights: matches, one entry a camera; cameras without any are allowed.
        max_error_px: inlier threshold in pixels of images 640 wide, the same angle in every camera.
        max_iterations: of RANSAC.
        seed: of RANSAC.

    Returns:
        None with fewer than 6 matches in all, or if nothing agrees.
    """
    if sum(len(sight.pixels) for sight in sights) < 6:
        return None
    seen = [sight.camera.sights(sight.pixels) for sight in sights]
    # all cameras are brought to one focal length, so that a pixel is the same angle in each
    focal = float(np.median([s.focal / s.camera.relative_size for s in sights]))
    if has_poselib():
        starts = _sampled(sights, seen, focal, max_error_px, max_iterations, seed)
    else:
        starts = _camera_by_camera(sights, max_error_px, max_iterations, seed)
    found = [_refined(start, sights, seen, focal, max_error_px) for start in starts]
    best = max(found, key=_agreed, default=None)
    return best if best is not None and _agreed(best) >= 6 else None


def _agreed(solved: SolvedRig) -> int:
    return sum(int(inlier.sum()) for inlier in solved.inliers)


def _sampled(
    sights: Sequence[RigSight],
    seen: Sequence[FloatArray],
    focal: float,
    max_error_px: float,
    max_iterations: int,
    seed: int,
) -> list[Pose]:
    """``base_from_map`` by PoseLib's generalized absolute pose; empty if nothing agrees."""
    pixels, points, mounts = [], [], []
    for sight, matrices in zip(sights, seen, strict=True):
        best = np.argsort(-sight.weights, kind="stable")[:_RANSAC_MATCHES]
        for part in pinholes(matrices[best], flat=sight.camera.is_flat):
            pixels.append(focal * part.plane)
            points.append(sight.points[best][part.index])
            turn = Pose(part.turn, np.zeros(3))
            mounts.append(turn @ sight.base_from_camera.inverse())
    found, agreeing = sampled_generalized_pose(
        pixels, points, mounts, focal,
        {"max_reproj_error": max_error_px, "max_iterations": max_iterations,
         "min_iterations": 50, "success_prob": 0.9999, "seed": seed},
        {"loss_scale": 0.5 * max_error_px},
    )  # fmt: skip
    agreed = sum(int(agree.sum()) for agree in agreeing) >= 6
    return [found] if found is not None and agreed else []


def _camera_by_camera(
    sights: Sequence[RigSight], max_error_px: float, max_iterations: int, seed: int
) -> list[Pose]:
    """``base_from_map`` as each camera has it, where PoseLib is not: it has no wheel for aarch64.

    Matches of several cameras that no single one could be solved by are lost this way.
    """
    poses = []
    for sight in sights:
        limit = max_error_px * sight.camera.relative_size
        own = solve_pose(
            sight.pixels, sight.points, sight.weights, sight.camera, limit, max_iterations, seed
        )
        if own is not None:
            poses.append(sight.base_from_camera @ own.camera_from_map)
    return poses


def _refined(
    base_from_map: Pose,
    sights: Sequence[RigSight],
    seen: Sequence[FloatArray],
    focal: float,
    max_error_px: float,
) -> SolvedRig:
    """Reweighted least squares over all cameras; twists act on the left of ``base_from_map``."""
    camera_from_base = [sight.base_from_camera.inverse() for sight in sights]
    carried = [_adjoint(pose) for pose in camera_from_base]
    information = np.eye(6)
    for _ in range(_STEPS):
        information, gradient = np.zeros((6, 6)), np.zeros(6)
        for sight, matrices, mount, to_camera in zip(
            sights, seen, camera_from_base, carried, strict=True
        ):
            own, slope = normal_equations(
                mount @ base_from_map, matrices, sight.points, sight.weights, focal,
                0.5 * max_error_px,
            )  # fmt: skip
            information += to_camera.T @ own @ to_camera
            gradient += to_camera.T @ slope
        step = -np.linalg.solve(information + 1e-9 * np.eye(6), gradient)
        base_from_map = Pose.exp(step) @ base_from_map
        if np.linalg.norm(step) < 1e-6:
            break
    errors = []
    for sight, matrices, mount in zip(sights, seen, camera_from_base, strict=True):
        residual, _, ahead = reprojection(mount @ base_from_map, matrices, sight.points, focal)
        errors.append(np.where(ahead, np.linalg.norm(residual, axis=1), np.inf))
    inliers = tuple(error < max_error_px for error in errors)
    return SolvedRig(base_from_map, inliers, tuple(errors), information)


def _adjoint(pose: Pose) -> FloatArray:
    """``[6, 6]``: what a twist (translation first) is on the other side of a pose."""
    moved = np.zeros((6, 6))
    moved[:3, :3] = moved[3:, 3:] = pose.rotation
    moved[:3, 3:] = skew(pose.translation) @ pose.rotation
    return moved


def rig_covariance(solved: SolvedRig, noise_px: float) -> FloatArray:
    """Covariance ``[6, 6]`` of the base's position and of a rotation about the map's axes.

    Args:
        solved: the pose.
        noise_px: standard deviation of one match, already inflated for correlated errors.
    """
    covariance = np.linalg.inv(solved.information + 1e-6 * np.eye(6)) * noise_px**2
    turn = np.kron(np.eye(2), -solved.base_from_map.rotation.T)
    return symmetric(turn @ covariance @ turn.T) + 1e-10 * np.eye(6)
