"""How far off poses are, frame by frame and in sum.

A frame without a pose counts as a miss in every recall. Medians are taken over the localized
frames alone, which the summary says beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import nearest_rotation
from crossfire_core.localization.uncertainty import mahalanobis_squared

FloatArray = NDArray[np.float64]

RECALL_THRESHOLDS: dict[str, tuple[float, float]] = {
    "2cm/2deg": (0.02, 2.0),
    "5cm/5deg": (0.05, 5.0),
    "25cm/5deg": (0.25, 5.0),
    "1m/10deg": (1.0, 10.0),
}


@dataclass(frozen=True)
class FrameError:
    """One evaluated frame.

    Attributes:
        name: the frame's name in its recording.
        stamp_ns: nanoseconds.
        localized: whether the localizer vouched for its pose.
        reason: why not, else empty.
        truth: ``map_from_camera`` of the recording.
        estimate: ``map_from_camera`` as found, also when it failed a gate, or None.
        translation_m: distance between the two camera centres, NaN without an estimate.
        rotation_deg: angle between the two orientations, NaN without an estimate.
        inliers: matches that agree with the pose.
        matches: matches that the solver saw.
        residual_px: median reprojection error of the inliers.
        covariance: ``[6, 6]`` as estimated, or None.
        prior: ``map_from_camera`` that the search started from, None for a global search.
        timings_ms: milliseconds by stage.
        evidence: decimal digits of evidence that the pose is in the right place, 0 if not known.
        way: how the pose came about, empty if not known.
    """

    name: str
    stamp_ns: int
    localized: bool
    reason: str
    truth: Pose
    estimate: Pose | None
    translation_m: float
    rotation_deg: float
    inliers: int = 0
    matches: int = 0
    residual_px: float = math.nan
    covariance: FloatArray | None = None
    prior: Pose | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    evidence: float = 0.0
    way: str = ""

    @property
    def latency_ms(self) -> float:
        """Milliseconds for the whole frame."""
        if "total" in self.timings_ms:
            return self.timings_ms["total"]
        return sum(self.timings_ms.values())

    @property
    def normalized_error(self) -> float:
        """Squared error in units of the covariance, 6 on average where it is right, or NaN."""
        if self.covariance is None or self.estimate is None:
            return math.nan
        if not np.isfinite(self.covariance).all():
            return math.nan
        return mahalanobis_squared(self.estimate, self.truth, self.covariance)

    def to_json(self) -> dict[str, Any]:
        """For the per-frame list of the JSON output; NaN becomes null."""
        words = ("name", "stamp_ns", "localized", "reason", "inliers", "matches", "way")
        numbers = (
            "translation_m", "rotation_deg", "residual_px", "evidence", "normalized_error"
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in words},
            **{name: _number(getattr(self, name)) for name in numbers},
            "position_sigma_m": _number(position_sigma(self.covariance)),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "truth": self.truth.to_json(),
            "timings_ms": {k: round(v, 3) for k, v in self.timings_ms.items()},
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def position_sigma(covariance: FloatArray | None) -> float:
    """Standard deviation of the position in metres along its worst axis, or NaN."""
    if covariance is None or not np.isfinite(covariance).all():
        return math.nan
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance[:3, :3])[-1], 0.0)))


def pose_error(estimate: Pose | None, truth: Pose) -> tuple[float, float]:
    """(metres, degrees) between two poses, (NaN, NaN) without an estimate."""
    if estimate is None:
        return math.nan, math.nan
    metres, radians = truth.distance(estimate)
    return metres, math.degrees(radians)


def recall(errors: Sequence[FrameError], metres: float, degrees: float) -> float:
    """Share of all frames localized within both thresholds; a frame without a pose is a miss."""
    if not errors:
        return 0.0
    hits = sum(
        e.localized and e.translation_m <= metres and e.rotation_deg <= degrees for e in errors
    )
    return hits / len(errors)


def summarize(errors: Sequence[FrameError], map_bytes: int) -> dict[str, Any]:
    """The figures of one evaluation as plain types.

    Args:
        errors: all evaluated frames.
        map_bytes: size of the map file.

    Returns:
        ``frames``, ``localized``, ``median_translation_m`` and ``median_rotation_deg`` (null
        if nothing was localized) with ``median_over`` saying what they are taken over,
        ``recall`` by threshold, ``normalized_error`` (``mean`` and ``median`` of the squared
        error in units of the covariance, six degrees of freedom, ``in_90`` the share of errors
        within the ellipsoid that should hold nine in ten), ``latency_ms`` and ``map_bytes``.
    """
    found = [e for e in errors if e.localized]
    return {
        "frames": len(errors),
        "localized": len(found),
        "median_translation_m": median([e.translation_m for e in found]),
        "median_rotation_deg": median([e.rotation_deg for e in found]),
        "median_over": "localized frames",
        "recall": {name: recall(errors, *limit) for name, limit in RECALL_THRESHOLDS.items()},
        "normalized_error": normalized_errors(found),
        "latency_ms": latency(errors),
        "map_bytes": map_bytes,
    }


def normalized_errors(errors: Sequence[FrameError]) -> dict[str, float | None]:
    """How honest the covariances are: 6, 5.35 and 0.9 would be perfect, less is too modest."""
    values = [e.normalized_error for e in errors if math.isfinite(e.normalized_error)]
    if not values:
        return {"mean": None, "median": None, "in_90": None}
    inside = np.mean(np.array(values) < stats.chi2.ppf(0.9, 6))
    return {"mean": float(np.mean(values)), "median": median(values), "in_90": float(inside)}


def median(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return float(np.median(values)) if len(values) else None


def latency(errors: Sequence[FrameError]) -> dict[str, Any]:
    """Median and 95th percentile of a frame's time, and the median by stage, in milliseconds."""
    totals = [e.latency_ms for e in errors if e.timings_ms]
    stages = list(dict.fromkeys(stage for e in errors for stage in e.timings_ms))
    return {
        "median": median(totals),
        "p95": float(np.percentile(totals, 95)) if totals else None,
        "by_stage": {
            stage: median([e.timings_ms[stage] for e in errors if stage in e.timings_ms])
            for stage in stages
            if stage != "total"
        },
    }


@dataclass(frozen=True)
class Alignment:
    """``p_truth = pose(scale * p_estimate)``: what a map without a given frame leaves open.

    Attributes:
        pose: ``truth_from_estimate``.
        scale: metres of the truth for one unit of the map; 1 for a rigid alignment.
    """

    pose: Pose
    scale: float

    def apply(self, pose: Pose) -> Pose:
        """A camera pose of the map expressed in the frame of the truth."""
        rotated = self.pose.rotation @ (self.scale * pose.translation)
        return Pose(self.pose.rotation @ pose.rotation, rotated + self.pose.translation)

    def inverse(self) -> Alignment:
        """From the frame of the truth back to the map's."""
        back = self.pose.inverse()
        return Alignment(Pose(back.rotation, back.translation / self.scale), 1.0 / self.scale)


def align(estimates: Sequence[Pose], truths: Sequence[Pose], with_scale: bool = False) -> Alignment:
    """The alignment that brings estimated cameras onto the true ones, outliers left out.

    :func:`fit` repeated on the pairs whose distance is within three times the median until the
    set no longer changes.

    Args:
        estimates: at least three poses.
        truths: as many, in the same order.
        with_scale: similarity instead of rigid.

    Raises:
        ValueError: fewer than three pairs.
    """
    if len(estimates) != len(truths) or len(estimates) < 3:
        raise ValueError(f"an alignment needs three pairs of poses, got {len(estimates)}")
    kept = np.ones(len(estimates), dtype=bool)
    for _ in range(10):
        chosen = np.flatnonzero(kept).tolist()
        result = fit([estimates[i] for i in chosen], [truths[i] for i in chosen], with_scale)
        moved = [result.apply(e).translation for e in estimates]
        distance = np.linalg.norm(np.stack(moved) - [t.translation for t in truths], axis=1)
        near = distance <= 3.0 * np.median(distance) + 1e-9
        if near.sum() < 3 or (near == kept).all():
            break
        kept = near
    return result


def fit(estimates: Sequence[Pose], truths: Sequence[Pose], with_scale: bool) -> Alignment:
    """Least-squares alignment of camera poses.

    Umeyama's closed form (1991, IEEE PAMI 13(4)), where the orientations count as much as the
    centres, so that cameras on one line leave nothing open.
    """
    source = np.stack([p.translation for p in estimates])
    target = np.stack([p.translation for p in truths])
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    weight = max(float(np.sqrt(np.sum(a * a) * np.sum(b * b))) / (3 * len(a)), 1e-12)
    turns = sum(t.rotation @ e.rotation.T for e, t in zip(estimates, truths, strict=True))
    rotation = nearest_rotation(b.T @ a + weight * turns)
    scale = 1.0
    if with_scale:
        scale = float(np.sum((a @ rotation.T) * b) / max(np.sum(a * a), 1e-300))
    return Alignment(Pose(rotation, mean_target - scale * rotation @ mean_source), scale)


def aligned(errors: Sequence[FrameError], with_scale: bool) -> tuple[list[FrameError], Alignment]:
    """The same frames after the one alignment that brings the estimates onto the truth.

    Args:
        errors: evaluated frames, at least three of them localized.
        with_scale: similarity instead of rigid.

    Raises:
        ValueError: fewer than three localized frames.
    """
    pairs = [(e.estimate, e.truth) for e in errors if e.localized and e.estimate is not None]
    alignment = align([p[0] for p in pairs], [p[1] for p in pairs], with_scale)
    return [_realigned(e, alignment) for e in errors], alignment


def moved(error: FrameError, alignment: Alignment) -> FrameError:
    """The frame with both of its poses expressed in another frame; its errors stay."""
    estimate = alignment.apply(error.estimate) if error.estimate else None
    return replace(error, estimate=estimate, truth=alignment.apply(error.truth))


def _realigned(error: FrameError, alignment: Alignment) -> FrameError:
    if error.estimate is None:
        return error
    estimate = alignment.apply(error.estimate)
    metres, degrees = pose_error(estimate, error.truth)
    covariance = error.covariance
    if covariance is not None:
        turn = np.zeros((6, 6))
        turn[:3, :3] = alignment.scale * alignment.pose.rotation
        turn[3:, 3:] = alignment.pose.rotation
        covariance = turn @ covariance @ turn.T
    return replace(
        error,
        estimate=estimate,
        translation_m=metres,
        rotation_deg=degrees,
        covariance=covariance,
    )
