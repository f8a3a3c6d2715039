"""Whether calibration, poses and pictures fit together, by the epipolar error.

Where the camera turns, a wrong focal length moves the lines on which partners must lie; where it
moves, so does a wrong time of the poses. Each is scanned for the value at which the error is
smallest; and poses that do not fit at all are tried in other conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossfire_core.geometry import Trajectory
from crossfire_core.recordings.checks.conventions import best_convention
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.checks.pairs import (
    FloatArray,
    OnProgress,
    Pair,
    choose_pairs,
    match_pairs,
    median_error,
    neighbours,
)
from crossfire_core.recordings.lazy import FrameInfo, Recording, is_timed

_LEAST_PAIRS = 4  # fewer tell no focal length
FOCAL_SCALES = np.arange(70, 143, 2) / 100  # that are tried
TIME_SHIFTS_S = np.arange(-20, 21) / 100  # that are tried
_FOCAL_TOLERANCE, _TIME_TOLERANCE_S = 0.05, 0.03  # so much is noise
# A focal length that is off by a tenth must show by so much, or it cannot be told from the images.
_LEAST_EFFECT_PX = 0.1
_OFF_CENTRE = 0.25  # of the image; lenses and sensors are off by a few hundredths
_FINE_ERROR_PX = 1.0  # below, nobody asks why
_BAD_ERROR_PX, _HOPELESS_ERROR_PX = 6.0, 20.0  # of 640: a warning, an error; docs/recordings.md
# Another convention is the right one if its error is small, and small against that of the given.
_FITTING_ERROR_PX, _FITTING_SHARE = 2.0, 0.25


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
        convention: the reading of the poses that fits best, in words, where the one that they are
            given in does not fit; else empty.
        convention_error_px: the error with that reading.
    """

    pairs: int
    turn_deg: float
    error_px: float
    focal_errors: FloatArray
    time_errors: FloatArray
    convention: str = ""
    convention_error_px: float = float("inf")

    @property
    def focal_scale(self) -> float:
        """The factor on the focal length that fits best."""
        return float(FOCAL_SCALES[self.focal_errors.argmin()])

    @property
    def time_shift_s(self) -> float:
        """How much later the poses that fit best are, 0 without time."""
        return float(TIME_SHIFTS_S[self.time_errors.argmin()]) if len(self.time_errors) else 0.0

    @property
    def shows_focal(self) -> bool:
        """Whether the images tell a right focal length from one that is a tenth off."""
        off = self.focal_errors[np.isclose(FOCAL_SCALES, 0.9) | np.isclose(FOCAL_SCALES, 1.1)]
        return bool(off.min() - self.focal_errors.min() > _LEAST_EFFECT_PX)

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "pairs": self.pairs,
            "turn_deg": self.turn_deg,
            "epipolar_error_px": self.error_px,
            "focal_scale": self.focal_scale,
            "pose_time_shift_s": self.time_shift_s,
        }


def measure_fit(recording: Recording, on_progress: OnProgress) -> Fit | None:
    """Match pairs of images and scan focal length and time; None with too few good pairs.

    Args:
        recording: whose images can be read.
        on_progress: called with the number of images done and in all.
    """
    infos = recording.infos
    pairs = match_pairs(recording, choose_pairs(infos), on_progress)
    if len(pairs) < _LEAST_PAIRS:  # where poses are anyhow, those near each other show nothing
        pairs = match_pairs(recording, neighbours(infos), on_progress)
    if len(pairs) < _LEAST_PAIRS:
        return None
    poses = {i: infos[i].world_from_camera for pair in pairs for i in (pair.first, pair.second)}
    turns = [np.degrees(poses[p.first].distance(poses[p.second])[1]) for p in pairs]  # type: ignore[union-attr,arg-type]
    as_given = median_error(pairs, poses)
    other = best_convention(pairs, poses) if as_given > _BAD_ERROR_PX else (float("inf"), "")
    return Fit(
        len(pairs),
        float(np.median(turns)),
        as_given,
        np.array([median_error(pairs, poses, scale) for scale in FOCAL_SCALES]),
        _time_errors(pairs, infos),
        other[1],
        other[0],
    )


def judge_fit(
    fit: Fit | None, *, mounted: bool, straight: Callable[[], bool | None] = lambda: None
) -> list[Finding]:
    """What the scans say.

    Args:
        fit: of :func:`measure_fit`.
        mounted: whether a transform from a robot's base to the camera is part of the poses.
        straight: whether images that are read through a lens look as if they were rectified
            already; asked where they do not fit well.
    """
    if fit is None:
        return [
            warning(
                "calibration_unchecked",
                "too few image pairs with poses and matches: the calibration was not checked",
            )
        ]
    if fit.convention_error_px < min(_FITTING_ERROR_PX, _FITTING_SHARE * fit.error_px):
        return [_other_convention(fit, mounted=mounted)]
    if fit.error_px > _FINE_ERROR_PX and straight():
        return [_rectified_before(fit)]
    return [_wrong_focal(fit) or _wrong_time(fit) or _wrong_poses(fit, mounted=mounted)]


def judge_centres(infos: Sequence[FrameInfo]) -> list[Finding]:
    """Whether a principal point lies far from the middle, as if of another size of image."""
    for camera in dict.fromkeys(info.camera for info in infos):
        x, y = camera.cx / camera.width, camera.cy / camera.height
        if max(abs(x - 0.5), abs(y - 0.5)) > _OFF_CENTRE:
            return [
                warning(
                    "principal_point",
                    f"the principal point ({camera.cx:.0f}, {camera.cy:.0f}) lies far from the "
                    f"middle of images of {camera.width}x{camera.height}: is the calibration for "
                    "images of another size, or for the uncut ones?",
                )
            ]
    return []


def _other_convention(fit: Fit, *, mounted: bool) -> Finding:
    where = "turn the camera's frame in tf" if mounted else "convert the poses"
    return error(
        "pose_convention",
        f"poses and images disagree by {fit.error_px:.1f} px, but agree to "
        f"{fit.convention_error_px:.1f} px if these are {fit.convention}: {where}",
    )


def _rectified_before(fit: Fit) -> Finding:
    return error(
        "rectified",
        f"poses and images disagree by {fit.error_px:.1f} px, and the images look rectified "
        "although the calibration is that of raw ones: say --rectified, or give the calibration "
        "of these images with --calibration",
    )


def _wrong_focal(fit: Fit) -> Finding | None:
    least = float(fit.focal_errors.min())
    gain = _gain(fit.error_px, least)
    time_gain = _gain(fit.error_px, float(fit.time_errors.min())) if len(fit.time_errors) else 0.0
    off = abs(fit.focal_scale - 1.0) > _FOCAL_TOLERANCE
    if not off or gain <= max(0.2, time_gain) or least > _BAD_ERROR_PX:
        return None
    return error(
        "focal_length",
        f"the focal length seems {1 / fit.focal_scale - 1:+.0%} off: the images fit best "
        f"to {fit.focal_scale:.2f} times the calibrated one (epipolar error "
        f"{fit.error_px:.1f} px, then {least:.1f} px): calibrate again",
    )


def _wrong_time(fit: Fit) -> Finding | None:
    if not len(fit.time_errors) or abs(fit.time_shift_s) <= _TIME_TOLERANCE_S:
        return None
    least = float(fit.time_errors.min())
    if _gain(fit.error_px, least) <= 0.35 or least > _BAD_ERROR_PX:
        return None
    return warning(
        "pose_time",
        f"the poses fit best when taken {fit.time_shift_s:+.2f} s later than the images "
        f"(epipolar error {fit.error_px:.1f} px, then {least:.1f} px): their stamps are off",
    )


def _wrong_poses(fit: Fit, *, mounted: bool) -> Finding:
    if fit.error_px > _BAD_ERROR_PX:
        cause = "poor, or the tf from base to camera is wrong" if mounted else "poor"
        judge = error if fit.error_px > _HOPELESS_ERROR_PX else warning
        return judge(
            "epipolar",
            f"poses and images disagree by {fit.error_px:.1f} px (median): the poses are {cause}",
        )
    if not fit.shows_focal:
        return warning(
            "calibration_unchecked",
            f"poses and images agree to {fit.error_px:.1f} px, but the camera hardly turns: the "
            "focal length was not checked",
        )
    return good("calibration", f"poses, calibration and images agree to {fit.error_px:.1f} px")


def _gain(before: float, after: float) -> float:
    """The share of an error that goes away; little ones count as nothing."""
    return (before - after) / before if before - after > 0.3 else 0.0


def _time_errors(pairs: Sequence[Pair], infos: Sequence[FrameInfo]) -> FloatArray:
    """Errors with the poses of other times, nothing for numbered photographs."""
    samples = [(i.stamp_ns, i.world_from_camera) for i in infos if i.world_from_camera is not None]
    if not is_timed(infos):
        return np.empty(0)
    path = Trajectory.from_samples(samples)
    errors = []
    for shift in TIME_SHIFTS_S:
        later = {
            i: path.at(infos[i].stamp_ns + round(shift * 1e9))
            for pair in pairs
            for i in (pair.first, pair.second)
        }
        errors.append(median_error(pairs, later))
    return np.array(errors)
