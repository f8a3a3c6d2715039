"""Whether calibration, poses and pictures fit together, by the epipolar error.

A pixel of one image has its partner on a line of the other, which poses and calibration give.
Where the camera turns, a wrong focal length moves that line; where it moves, so does a wrong time
of the poses. Each is scanned for the value at which the error is smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.features.sift import root_sift
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.lazy import FrameInfo, Recording

FloatArray = NDArray[np.float64]

_WIDTH = 640
_FEATURES = 1200
_RATIO = 0.8
_MOST_MATCHES = 200
_LEAST_MATCHES, _LEAST_INLIERS = 25, 0.5
_PAIRS, _LEAST_PAIRS = 14, 4
_REACH = 90
_MOST_TURN_DEG, _LEAST_TURN_DEG = 16.0, 3.0
_LEAST_BASELINE = 0.01
FOCAL_SCALES = np.arange(70, 143, 2) / 100
TIME_SHIFTS_S = np.arange(-20, 21, 2) / 100
_FOCAL_TOLERANCE, _TIME_TOLERANCE_S = 0.05, 0.03
_BAD_ERROR_PX = 6.0


@dataclass(frozen=True)
class Pair:
    """Matched pixels of two frames, full-size images, without outliers."""

    first: int
    second: int
    pixels_first: FloatArray
    pixels_second: FloatArray


@dataclass(frozen=True)
class Fit:
    """How well everything fits.

    Attributes:
        pairs: number of image pairs that were compared.
        turn_deg: median angle between the images of a pair.
        error_px: median epipolar error as calibrated, pixels of a 640 px wide image.
        focal_errors: the same with the focal length times each of ``FOCAL_SCALES``.
        time_errors: the same with poses taken later by each of ``TIME_SHIFTS_S``; empty for
            recordings without time.
    """

    pairs: int
    turn_deg: float
    error_px: float
    focal_errors: FloatArray
    time_errors: FloatArray

    @property
    def focal_scale(self) -> float:
        """The factor on the focal length that fits best."""
        return float(FOCAL_SCALES[self.focal_errors.argmin()])

    @property
    def time_shift_s(self) -> float:
        """How much later the poses that fit best are, 0 without time."""
        return float(TIME_SHIFTS_S[self.time_errors.argmin()]) if len(self.time_errors) else 0.0

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "pairs": self.pairs,
            "turn_deg": self.turn_deg,
            "epipolar_error_px": self.error_px,
            "focal_scale": self.focal_scale,
            "pose_time_shift_s": self.time_shift_s,
        }


def measure_fit(recording: Recording, on_progress: Callable[[int, int], None]) -> Fit | None:
    """Match pairs of images and scan focal length and time; None with too few good pairs.

    Args:
        recording: whose images can be read.
        on_progress: called with the number of images done and in all.
    """
    infos = recording.infos
    chosen = choose_pairs(infos)
    pairs = match_pairs(recording, chosen, on_progress)
    if len(pairs) < _LEAST_PAIRS:
        return None
    poses = {i: infos[i].world_from_camera for pair in pairs for i in (pair.first, pair.second)}
    turns = [np.degrees(poses[p.first].distance(poses[p.second])[1]) for p in pairs]  # type: ignore[union-attr,arg-type]
    focal = np.array([_median_error(pairs, infos, poses, scale) for scale in FOCAL_SCALES])
    return Fit(
        len(pairs),
        float(np.median(turns)),
        _median_error(pairs, infos, poses, 1.0),
        focal,
        _time_errors(pairs, infos),
    )


def judge_fit(fit: Fit | None) -> list[Finding]:
    """What the scans say."""
    if fit is None:
        return [
            warning(
                "calibration_unchecked",
                "too few image pairs with poses and matches: the calibration was not checked",
            )
        ]
    if fit.turn_deg < _LEAST_TURN_DEG and fit.error_px < _BAD_ERROR_PX:
        text = "the camera hardly turns: the focal length was not checked"
        return [warning("calibration_unchecked", text)]
    focal_gain = _gain(fit.error_px, float(fit.focal_errors.min()))
    time_gain = _gain(fit.error_px, float(fit.time_errors.min())) if len(fit.time_errors) else 0.0
    off = fit.focal_scale - 1.0
    if abs(off) > _FOCAL_TOLERANCE and focal_gain > max(0.2, time_gain):
        return [
            error(
                "focal_length",
                f"the focal length seems {1 / fit.focal_scale - 1:+.0%} off: the images fit best "
                f"to {fit.focal_scale:.2f} times the calibrated one (epipolar error "
                f"{fit.error_px:.1f} px, then {fit.focal_errors.min():.1f} px): calibrate again",
            )
        ]
    if abs(fit.time_shift_s) > _TIME_TOLERANCE_S and time_gain > 0.35:
        return [
            warning(
                "pose_time",
                f"the poses fit best when taken {fit.time_shift_s:+.2f} s later than the images "
                f"(epipolar error {fit.error_px:.1f} px, then {fit.time_errors.min():.1f} px): "
                "their stamps are off",
            )
        ]
    if fit.error_px > _BAD_ERROR_PX:
        return [
            warning(
                "epipolar",
                f"poses and images disagree by {fit.error_px:.1f} px (median): the poses are "
                "poor, or the tf from base to camera is wrong",
            )
        ]
    return [good("calibration", f"poses, calibration and images agree to {fit.error_px:.1f} px")]


def _gain(before: float, after: float) -> float:
    """The share of an error that goes away; little ones count as nothing."""
    return (before - after) / before if before - after > 0.3 else 0.0


def choose_pairs(infos: Sequence[FrameInfo]) -> list[tuple[int, int]]:
    """Pairs of frames, spread over the recording, that share a view after a turn and a move."""
    posed = [i for i, info in enumerate(infos) if info.world_from_camera is not None]
    if len(posed) < 2:
        return []
    poses = {i: infos[i].world_from_camera for i in posed}
    extent = np.linalg.norm(np.ptp([poses[i].translation for i in posed], axis=0))  # type: ignore[union-attr]
    pairs = []
    for place in np.unique(np.linspace(0, len(posed) - 2, _PAIRS).astype(int)):
        start = posed[place]
        best = (0.0, -1)
        for other in posed[place + 1 : place + 1 + _REACH]:
            distance, angle = poses[start].distance(poses[other])  # type: ignore[union-attr,arg-type]
            turn = float(np.degrees(angle))
            if turn > _MOST_TURN_DEG:
                break
            if distance > _LEAST_BASELINE * extent:
                best = max(best, (turn, other))
        if best[1] >= 0:
            pairs.append((start, best[1]))
    return pairs


def match_pairs(
    recording: Recording,
    chosen: Sequence[tuple[int, int]],
    on_progress: Callable[[int, int], None],
) -> list[Pair]:
    """Matches of the pairs that have enough of them."""
    needed = sorted({i for pair in chosen for i in pair})
    features = {}
    for number, (index, frame) in enumerate(zip(needed, recording.frames(needed), strict=True)):
        features[index] = _features(frame.image)
        on_progress(number + 1, len(needed))
    pairs = []
    for first, second in chosen:
        camera = recording.infos[first].camera
        matched = _match(features[first], features[second], camera)
        if matched is not None:
            pairs.append(Pair(first, second, *matched))
    return pairs


def _features(image: NDArray[np.uint8]) -> tuple[FloatArray, NDArray[np.float32]]:
    """Pixels ``[n, 2]`` of the full-size image and descriptors ``[n, 128]``."""
    scale = min(1.0, _WIDTH / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels, descriptors = root_sift(small, _FEATURES)
    return pixels / scale, descriptors


def _match(
    a: tuple[FloatArray, NDArray[np.float32]],
    b: tuple[FloatArray, NDArray[np.float32]],
    camera: Camera,
) -> tuple[FloatArray, FloatArray] | None:
    """Matches that some fundamental matrix explains; that takes no focal length."""
    if min(len(a[0]), len(b[0])) < _LEAST_MATCHES:
        return None
    candidates = cv2.BFMatcher().knnMatch(a[1], b[1], k=2)
    good_ones = [m for m, n in candidates if m.distance < _RATIO * n.distance]
    if len(good_ones) < _LEAST_MATCHES:
        return None
    first = a[0][[m.queryIdx for m in good_ones]]
    second = b[0][[m.trainIdx for m in good_ones]]
    a_straight, b_straight = (
        camera.undistorted().project(camera.bearings(pixels)) for pixels in (first, second)
    )
    threshold = 1.5 * max(camera.size) / _WIDTH
    try:
        _, mask = cv2.findFundamentalMat(
            a_straight, b_straight, cv2.USAC_MAGSAC, threshold, 0.999, 2000
        )
    except cv2.error:  # as it says of some matches that no matrix explains
        return None
    inlier = np.asarray(mask).ravel() == 1  # None where no matrix was found
    if inlier.sum() < max(_LEAST_MATCHES, _LEAST_INLIERS * len(good_ones)):
        return None
    kept = np.flatnonzero(inlier)[:: max(1, int(inlier.sum()) // _MOST_MATCHES)]
    return first[kept], second[kept]


def _median_error(
    pairs: Sequence[Pair],
    infos: Sequence[FrameInfo],
    poses: dict[int, Pose | None],
    focal_scale: float,
) -> float:
    """Median over the pairs of the median epipolar error, pixels of a 640 px wide image."""
    errors = []
    for pair in pairs:
        first, second = poses.get(pair.first), poses.get(pair.second)
        if first is None or second is None:
            continue
        camera = infos[pair.first].camera
        scaled = replace(camera, fx=camera.fx * focal_scale, fy=camera.fy * focal_scale)
        distance = epipolar_distances(
            scaled, pair.pixels_first, pair.pixels_second, second.inverse() @ first
        )
        errors.append(float(np.median(distance)) * _WIDTH / max(camera.size))
    return float(np.median(errors)) if errors else float("inf")


def epipolar_distances(
    camera: Camera, first: FloatArray, second: FloatArray, second_from_first: Pose
) -> FloatArray:
    """How far pixels lie from the lines that their partners give, in pixels.

    Args:
        camera: of both images.
        first: ``[n, 2]`` pixels in one image.
        second: ``[n, 2]`` their partners.
        second_from_first: between the two camera frames.
    """
    normals = np.cross(
        second_from_first.translation, camera.bearings(first) @ second_from_first.rotation.T
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.abs((normals * camera.bearings(second)).sum(axis=1)) * camera.fx)


def _time_errors(pairs: Sequence[Pair], infos: Sequence[FrameInfo]) -> FloatArray:
    """Errors with the poses of other times, nothing for numbered photographs."""
    samples = [(i.stamp_ns, i.world_from_camera) for i in infos if i.world_from_camera is not None]
    if samples[-1][0] - samples[0][0] < len(samples) * 1_000_000:
        return np.empty(0)
    path = Trajectory.from_samples(samples)
    errors = []
    for shift in TIME_SHIFTS_S:
        later = {
            i: path.at(infos[i].stamp_ns + round(shift * 1e9))
            for pair in pairs
            for i in (pair.first, pair.second)
        }
        errors.append(_median_error(pairs, infos, later, 1.0))
    return np.array(errors)
