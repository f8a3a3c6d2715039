"""Localize the images of a recording and compare with the poses that it carries."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from crossfire_core.errors import ConfigError, RecordingError
from crossfire_core.evaluation.metrics import (
    Alignment,
    FrameError,
    aligned,
    moved,
    pose_error,
    summarize,
)
from crossfire_core.evaluation.rigs import RigEvaluation, by_moment
from crossfire_core.files import write_text
from crossfire_core.geometry import Pose, Trajectory
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.mapping_poses.posed import qualified
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import Recording, hold_out

PriorSource = Literal["retrieval", "previous", "odometry"]
AlignMode = Literal["none", "rigid", "similarity"]


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and from which starting points.

    Attributes:
        prior: ``retrieval`` localizes every image without a prior; ``previous`` starts from the
            last pose that was found; ``odometry`` moves that pose by the recorded odometry.
        holdout_every: evaluate just the frames that training with the same number kept out;
            0 takes all.
        align: bring the estimates onto the truth first, for maps in a frame of their own.
    """

    prior: PriorSource = "retrieval"
    holdout_every: int = 0
    align: AlignMode = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.prior not in get_args(PriorSource):
            raise ConfigError(
                f"prior {self.prior!r} is unknown: choose {', '.join(get_args(PriorSource))}"
            )
        if self.align not in get_args(AlignMode):
            raise ConfigError(
                f"align {self.align!r} is unknown: choose {', '.join(get_args(AlignMode))}"
            )


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation.

    Attributes:
        errors: one entry a frame, in order of time.
        map_bytes: size of the map file.
        context: what was run: recording, prior, map and so on, for reports and JSON.
        alignment: what brought the estimates onto the truth, None if nothing did.
    """

    errors: list[FrameError]
    map_bytes: int
    context: dict[str, Any] = field(default_factory=dict)
    alignment: Alignment | None = None

    def errors_in_map(self) -> list[FrameError]:
        """The frames with all poses in the frame of the map, for drawing."""
        if self.alignment is None:
            return self.errors
        return [moved(error, self.alignment.inverse()) for error in self.errors]

    def summary(self) -> dict[str, Any]:
        """See :func:`~crossfire_core.evaluation.metrics.summarize`."""
        return summarize(self.errors, self.map_bytes)

    def to_json(self) -> dict[str, Any]:
        """Summary, context and per-frame list."""
        return {
            **self.summary(),
            "context": self.context,
            "alignment": _alignment_json(self.alignment),
            "per_frame": [error.to_json() for error in self.errors],
        }

    def save_json(self, path: Path) -> None:
        """Write :meth:`to_json` to a file, all of it or nothing."""
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")


class PriorKeeper:
    """Carries the last good pose to the next image."""

    def __init__(
        self, source: PriorSource, odometry: Trajectory | None, base_from_camera: Pose
    ) -> None:
        """Start without a pose.

        Args:
            source: see :class:`EvaluationOptions`.
            odometry: ``odom_from_base`` of the recording, needed for ``odometry``.
            base_from_camera: where the camera sits.

        Raises:
            RecordingError: ``odometry`` is asked of a recording that has none.
        """
        if source == "odometry" and (odometry is None or len(odometry) == 0):
            raise RecordingError(
                "this recording has no odometry: use --start-from previous, or retrieval"
            )
        self._source = source
        self._odometry = odometry
        self._base_from_camera = base_from_camera
        self._last: tuple[Pose, int] | None = None

    def at(self, stamp_ns: int) -> Pose | None:
        """The prior for an image: ``map_from_camera``, or None for a global search."""
        if self._last is None or self._source == "retrieval":
            return None
        pose, since = self._last
        if self._source == "previous":
            return pose
        before, now = self._odom_from_camera(since), self._odom_from_camera(stamp_ns)
        return pose @ before.inverse() @ now if before and now else None

    def keep(self, stamp_ns: int, estimate: PoseEstimate) -> None:
        """Remember an outcome; after a failure the next image is searched globally."""
        pose = estimate.map_from_camera
        self._last = (pose, stamp_ns) if estimate.ok and pose is not None else None

    def _odom_from_camera(self, stamp_ns: int) -> Pose | None:
        odom_from_base = self._odometry.at(stamp_ns) if self._odometry else None
        return odom_from_base @ self._base_from_camera if odom_from_base else None


def evaluate(
    localizer: ImageLocalizer,
    recording: Recording,
    options: EvaluationOptions | None = None,
    *,
    map_bytes: int = 0,
    trained: frozenset[str] = frozenset(),
    context: dict[str, Any] | None = None,
    on_frame: Callable[[int, int, FrameError], None] | None = None,
) -> Evaluation:
    """Localize the frames of a recording one after the other; of a rig, moment after moment.

    Args:
        localizer: what is evaluated.
        recording: frames without ``world_from_camera`` are passed over.
        options: prior, selection, alignment.
        map_bytes: size of the map, for the summary.
        trained: names of frames that the map was made from; with ``holdout_every`` they are
            never evaluated.
        context: noted in the outcome.
        on_frame: called after each frame with (frames done, frames in all, outcome).

    Raises:
        RecordingError: no frame has a pose to compare with, or odometry is missing.
    """
    options = options or EvaluationOptions()
    rig = RigEvaluation(localizer, recording) if len(recording.mounts) > 1 else None
    mount = recording.base_from_camera if rig is None else Pose.identity()
    keeper = PriorKeeper(options.prior, recording.odometry(), mount)
    indices = chosen(recording, options.holdout_every)
    errors: list[FrameError] = []
    done = 0
    for frames in by_moment(recording, indices):
        done += len(frames)
        known = {n for f in frames for n in (f.name, qualified(recording.name, f.name))}
        if options.holdout_every and not trained.isdisjoint(known):
            continue
        posed = [f for f in frames if f.world_from_camera is not None]
        if not posed:
            continue
        errors.append(_localize_moment(localizer, rig, keeper, frames, posed[0]))
        if on_frame:
            on_frame(done, len(indices), errors[-1])
    if not errors:
        raise RecordingError(_nothing(recording.name, options, trained))
    names = {name for e in errors for name in (e.name, qualified(recording.name, e.name))}
    notes = {
        "recording": recording.name,
        "prior": options.prior,
        "trained_on": len(trained & names),
        **({"found alone by each camera": rig.alone} if rig else {}),
        **(context or {}),
    }
    alignment = None
    if options.align != "none":
        errors, alignment = _align(errors, options.align)
    return Evaluation(errors, map_bytes, notes, alignment)


def _nothing(name: str, options: EvaluationOptions, trained: frozenset[str]) -> str:
    if options.holdout_every and trained:
        return (
            f"no image of {name} was kept out of training: "
            f"train with --holdout-every {options.holdout_every} too"
        )
    return (
        f"{name} has no image with a pose to compare with: "
        "name its topic with --pose-topic, or use crossfire localize"
    )


def chosen(recording: Recording, holdout_every: int) -> list[int]:
    """Indices of the frames that take part: all, or those of every n-th moment.

    Training with the same number keeps just these out.

    Raises:
        ConfigError: the number is negative or 1.
    """
    every_one, held = hold_out(recording.infos, holdout_every)
    return held if holdout_every else every_one


def _localize_moment(
    localizer: ImageLocalizer,
    rig: RigEvaluation | None,
    keeper: PriorKeeper,
    frames: Sequence[Frame],
    posed: Frame,
) -> FrameError:
    """The images of one time: of a single camera one, of a rig one a camera."""
    if rig is None:
        assert posed.world_from_camera is not None
        return localize_frame(localizer, keeper, posed, posed.world_from_camera)
    stamp = posed.stamp_ns
    error, estimate = rig.localize(frames, keeper.at(stamp))
    keeper.keep(stamp, estimate)
    return error


def localize_frame(
    localizer: ImageLocalizer, keeper: PriorKeeper, frame: Frame, truth: Pose
) -> FrameError:
    """One frame through the localizer, timed from outside."""
    prior = keeper.at(frame.stamp_ns)
    start = time.perf_counter()
    estimate = localizer.localize(frame.image, frame.camera, prior)
    total_ms = 1e3 * (time.perf_counter() - start)
    keeper.keep(frame.stamp_ns, estimate)
    metres, degrees = pose_error(estimate.map_from_camera, truth)
    return FrameError(
        name=frame.name,
        stamp_ns=frame.stamp_ns,
        localized=estimate.ok and estimate.map_from_camera is not None,
        reason=estimate.reason,
        truth=truth,
        estimate=estimate.map_from_camera,
        translation_m=metres,
        rotation_deg=degrees,
        inliers=estimate.inliers,
        matches=estimate.matches,
        residual_px=estimate.residual_px,
        covariance=estimate.covariance,
        prior=prior,
        timings_ms={**estimate.timings_ms, "total": total_ms},
        evidence=estimate.evidence,
        way=estimate.way.value,
    )


def _align(errors: list[FrameError], mode: AlignMode) -> tuple[list[FrameError], Alignment]:
    try:
        return aligned(errors, with_scale=mode == "similarity")
    except ValueError as error:
        raise RecordingError(f"cannot align the poses: {error}") from error


def _alignment_json(alignment: Alignment | None) -> dict[str, Any] | None:
    return None if alignment is None else {"scale": alignment.scale, **alignment.pose.to_json()}
