"""One pose from several cameras that are fixed on one robot.

Each camera is localized by itself first. Those that find too little alone are looked at again from
where the others say the robot is, and the matches of all are solved together: a generalized
absolute pose (PoseLib), refined by the same least squares as a single camera's. A camera whose
matches do not agree with that pose is left out, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import poselib
from numpy.typing import NDArray

from crossfire_core.config import LocalizationConfig, TrackingConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.pose import skew
from crossfire_core.geometry.sights import pinholes
from crossfire_core.localization.estimate import ImageLocalizer, Matches, PoseEstimate
from crossfire_core.localization.pose_solver import (
    normal_equations,
    poselib_pose,
    reprojection,
)
from crossfire_core.localization.uncertainty import at_lever, difference, symmetric

FloatArray = NDArray[np.float64]

_LEAST_INLIERS = 12  # of one camera, by which it counts
_RANSAC_MATCHES = 400  # of one camera
_STEPS = 8
_NEIGHBOURLY = (0.15, float(np.radians(3.0)))  # how surely one camera tells another its place


@dataclass(frozen=True)
class RigImage:
    """What one camera of a rig saw at the common stamp.

    Attributes:
        image: ``[height, width, 3]`` uint8 RGB.
        camera: its calibration.
        base_from_camera: where it sits on the robot.
    """

    image: NDArray[np.uint8]
    camera: Camera
    base_from_camera: Pose


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


@dataclass(frozen=True)
class RigEstimate:
    """The outcome of localizing a rig.

    Attributes:
        ok: whether the pose passed its gates; only then may it be used.
        reason: empty if ok, else one line for people.
        map_from_base: the pose, or None.
        covariance: ``[6, 6]`` of the base's position and of a small rotation about the axes of
            the map, metres and radians; None without a pose.
        inliers: matches that agree with the pose, by camera.
        left_out: why each camera has no say; empty where it has.
        alone: what each camera finds by itself.
    """

    ok: bool
    reason: str
    map_from_base: Pose | None = None
    covariance: FloatArray | None = None
    inliers: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    alone: tuple[PoseEstimate, ...] = ()


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
    model = {"model": "SIMPLE_PINHOLE", "width": 640, "height": 640, "params": [focal, 0.0, 0.0]}
    pixels, points, mounts = [], [], []
    for sight, matrices in zip(sights, seen, strict=True):
        best = np.argsort(-sight.weights, kind="stable")[:_RANSAC_MATCHES]
        for part in pinholes(matrices[best], flat=sight.camera.is_flat):
            pixels.append(focal * part.plane)
            points.append(sight.points[best][part.index])
            turn = Pose(part.turn, np.zeros(3))
            mounts.append(poselib_pose(turn @ sight.base_from_camera.inverse()))
    found, info = poselib.estimate_generalized_absolute_pose(
        pixels, points, mounts, [model] * len(mounts),
        {"max_reproj_error": max_error_px, "max_iterations": max_iterations,
         "min_iterations": 50, "success_prob": 0.9999, "seed": seed},
        {"loss_scale": 0.5 * max_error_px},
    )  # fmt: skip
    if info["num_inliers"] < 6:
        return None
    return _refined(Pose.from_matrix(found.Rt), sights, seen, focal, max_error_px)


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


class RigLocalizer:
    """Localizes all cameras of a rig together."""

    def __init__(
        self,
        localizer: ImageLocalizer,
        config: LocalizationConfig | None = None,
        min_contrast: float = TrackingConfig.min_contrast,
    ) -> None:
        """Wrap a localizer of single images.

        Args:
            localizer: of the map.
            config: thresholds; by default the program's.
            min_contrast: standard deviation of grey values below which an image shows nothing.
        """
        self.localizer, self.config = localizer, config or LocalizationConfig()
        self.min_contrast = min_contrast

    def localize(
        self,
        images: Sequence[RigImage],
        prior: Pose | None = None,
        *,
        prior_sigma: tuple[float, float] | None = None,
    ) -> RigEstimate:
        """Find the pose of a robot from images of one stamp.

        Args:
            images: one a camera.
            prior: ``map_from_base`` to start from, or None for a global search.
            prior_sigma: standard deviations of the prior, metres and radians.

        Raises:
            CalibrationError: an image is not of its camera's size.
        """
        alone = [self._alone(each, prior, prior_sigma) for each in images]
        alone = self._helped(images, alone)
        sights = [_sight(image, own.details) for image, own in zip(images, alone, strict=True)]
        c = self.config
        solved = solve_rig(sights, c.ransac_error_px, c.ransac_iterations, c.seed)
        if solved is None:
            return RigEstimate(False, "no camera finds the place", alone=tuple(alone))
        counts = tuple(int(inlier.sum()) for inlier in solved.inliers)
        left_out = tuple(
            "" if n >= _LEAST_INLIERS else own.reason or f"only {n} of its matches agree"
            for n, own in zip(counts, alone, strict=True)
        )
        total = sum(n for n, out in zip(counts, left_out, strict=True) if not out)
        reason = ""
        if total < c.min_inliers:
            reason = f"only {total} matches of all cameras agree, {c.min_inliers} are needed"
        pose, covariance = self._answer(images, alone, left_out, solved)
        return RigEstimate(not reason, reason, pose, covariance, counts, left_out, tuple(alone))

    def _alone(
        self, each: RigImage, prior: Pose | None, sigma: tuple[float, float] | None
    ) -> PoseEstimate:
        if float(each.image.mean(axis=2).std()) < self.min_contrast:
            return PoseEstimate(False, "the image shows nothing")
        start = prior @ each.base_from_camera if prior is not None else None
        return self.localizer.localize(each.image, each.camera, start, prior_sigma=sigma)

    def _helped(
        self, images: Sequence[RigImage], alone: Sequence[PoseEstimate]
    ) -> list[PoseEstimate]:
        """Cameras that found too little, from where the surest of the others says they are."""
        surest = int(np.argmax([own.inliers for own in alone]))
        pose = alone[surest].map_from_camera
        if pose is None:
            return list(alone)
        map_from_base = pose @ images[surest].base_from_camera.inverse()
        return [
            own
            if own.ok or number == surest or own.reason == "the image shows nothing"
            else self._alone(each, map_from_base, _NEIGHBOURLY)
            for number, (each, own) in enumerate(zip(images, alone, strict=True))
        ]

    def _answer(
        self,
        images: Sequence[RigImage],
        alone: Sequence[PoseEstimate],
        left_out: Sequence[str],
        solved: SolvedRig,
    ) -> tuple[Pose, FloatArray]:
        """The joint pose; where cameras passed alone, the mean of theirs, which is finer."""
        joint = solved.base_from_map.inverse()
        errors = np.concatenate(
            [e[i] for e, i in zip(solved.errors_px, solved.inliers, strict=True)]
        )
        noise = max(float(np.median(errors)) if len(errors) else np.inf, 0.3)
        covariance = rig_covariance(solved, noise * self.config.covariance_inflation)
        weights, total, count = np.zeros((6, 6)), np.zeros(6), 0
        for each, own, out in zip(images, alone, left_out, strict=True):
            if out or not own.ok or own.map_from_camera is None or own.covariance is None:
                continue
            base = own.map_from_camera @ each.base_from_camera.inverse()
            lever = base.translation - own.map_from_camera.translation
            weight = np.linalg.inv(at_lever(own.covariance, lever))
            weights += weight
            total += weight @ difference(base, joint)
            count += 1
        if not count:
            return joint, covariance
        mean = symmetric(np.asarray(np.linalg.inv(weights), dtype=np.float64))
        step = mean @ total
        covariance = count * mean  # cameras share the map's errors, which do not average out
        turn = Pose.exp((0.0, 0.0, 0.0, *step[3:])).rotation
        return Pose(turn @ joint.rotation, joint.translation + step[:3]), covariance


def _sight(each: RigImage, matches: Matches | None) -> RigSight:
    if matches is None:
        empty = np.zeros((0, 3))
        return RigSight(each.camera, each.base_from_camera, empty[:, :2], empty, empty[:, 0])
    return RigSight(
        each.camera, each.base_from_camera, matches.pixels, matches.points, matches.scores
    )
