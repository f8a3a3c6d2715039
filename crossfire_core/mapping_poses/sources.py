"""Choosing where the mapping poses come from: the recording, structure from motion, odometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from crossfire_core import recordings
from crossfire_core.config import SfmConfig
from crossfire_core.errors import ConfigError, RecordingError, TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses.from_motion import Tell, odometry_poses, poses_from_motion, silent
from crossfire_core.mapping_poses.posed import JoinedRecording, PosedRecording, without_holdout
from crossfire_core.mapping_poses.refinement import refine_poses
from crossfire_core.recordings.lazy import Recording
from crossfire_core.recordings.options import NO_POSES, RecordingOptions

MODES = ("auto", "given", "sfm", "odometry")


def open_for_mapping(
    paths: Sequence[Path],
    options: RecordingOptions,
    mode: str,
    config: SfmConfig,
    workspace: Path,
    *,
    align: bool = False,
    refine: bool = False,
    holdout_every: int = 0,
    seed: int = 0,
    tell: Tell = silent,
) -> Recording:
    """Open one recording or several as one, with poses of the mapping images in one frame.

    Args:
        paths: recordings of one place.
        options: how to read them.
        mode: ``given``, ``sfm``, ``odometry``, or ``auto`` for the best that there is.
        config: of structure from motion.
        workspace: where structure from motion keeps what an interruption shall leave behind.
        align: the recordings' poses are in frames of their own: bring them into the first's.
        refine: correct given poses by bundle adjustment; those of odometry always are.
        holdout_every: every n-th frame of each recording is not trained on.
        seed: of all random choices.
        tell: called with what is being done, how much of it, and of how much.

    Returns:
        The recording; ``pose_source`` says what was chosen, ``held_out`` whether it lacks the
        frames that are held out: one recording with poses of its own still has them.

    Raises:
        RecordingError: no poses of the wanted kind.
        ConfigError: the options contradict each other.
        MissingDependencyError: structure from motion without pycolmap.
        TrainingError: structure from motion failed, and there is no odometry to fall back on.
    """
    if mode not in MODES:
        raise ConfigError(f"--poses is {mode!r}, choose from {', '.join(MODES)}")
    if align and len(paths) < 2:
        raise ConfigError("--align-recordings brings several recordings together: name two or more")
    if align and refine:
        raise ConfigError("--align-recordings is by structure from motion: not with --refine-poses")
    if align and mode == "odometry":
        raise ConfigError(
            "--align-recordings is by structure from motion: not with --poses odometry"
        )
    parts = [_opened(path, options, mode) for path in paths]
    chosen = _best(parts) if mode == "auto" and not align else mode
    as_it_is = chosen == "given" and not refine
    if len(parts) > 1 or not as_it_is:
        parts = [without_holdout(part, holdout_every) for part in parts]
    if align:
        return _aligned(parts, mode, config, workspace, seed, tell)
    joined = parts[0] if len(parts) == 1 else JoinedRecording(parts)
    if as_it_is:
        return joined
    if chosen != "sfm":
        return _refined(parts, chosen, config, workspace, seed, tell)
    try:
        return poses_from_motion(joined, config, workspace, seed=seed, tell=tell)
    except TrainingError as problem:
        if mode != "auto" or len(parts) > 1 or joined.odometry() is None:
            raise
        return _fallen_back(parts, config, workspace, seed, tell, str(problem))


def poses_from_odometry(recording: Recording) -> PosedRecording:
    """Every frame where the odometry says it was.

    Raises:
        RecordingError: there is no odometry.
    """
    poses = odometry_poses(recording)
    missing = sum(pose is None for pose in poses)
    if missing == len(poses):
        raise RecordingError(
            f"{recording.name} has no odometry at the time of its images: record /odom, or use "
            "--poses sfm"
        )
    notes = [f"{missing} of {len(poses)} images have no odometry near their time"]
    return PosedRecording(recording, poses, "odometry", notes=notes if missing else (), drift=True)


def _refined(
    parts: Sequence[Recording],
    chosen: str,
    config: SfmConfig,
    workspace: Path,
    seed: int,
    tell: Tell,
) -> Recording:
    """Poses that are nearly right, corrected."""
    if len(parts) > 1:
        raise ConfigError("several recordings are corrected by --align-recordings, not one by one")
    start = poses_from_odometry(parts[0]) if chosen == "odometry" else parts[0]
    poses = [info.world_from_camera for info in start.infos]
    return refine_poses(
        start, poses, config, workspace, start.pose_source, odometry=start.poses_drift,
        seed=seed, tell=tell,
    )  # fmt: skip


def _fallen_back(
    parts: Sequence[Recording],
    config: SfmConfig,
    workspace: Path,
    seed: int,
    tell: Tell,
    why: str,
) -> Recording:
    """The odometry's poses, corrected, with a note that says why not those of the images."""
    found = _refined(parts, "odometry", config, workspace, seed, tell)
    found.notes = (*found.notes, f"poses are the odometry's, corrected, because {why}")
    return found


def _opened(path: Path, options: RecordingOptions, mode: str) -> Recording:
    if mode == "given" or options.pose_topic not in ("", NO_POSES):
        return recordings.open_recording(path, options)
    if mode == "auto":
        return recordings.open_recording(path, replace(options, require_poses=False))
    return recordings.open_recording(
        path, replace(options, pose_topic=NO_POSES, require_poses=False)
    )


def _best(parts: Sequence[Recording]) -> str:
    """The best source that all recordings have; in that order: given, sfm, odometry."""
    if all(part.pose_source and not part.poses_drift for part in parts):
        return "given"
    if find_spec("pycolmap") is not None:
        return "sfm"
    if any(part.odometry() is None for part in parts):
        raise RecordingError(
            f"{parts[0].name} has neither poses nor odometry: record poses, or let structure from "
            "motion find them (pip install '.[sfm]' in the clone)"
        )
    return "odometry"


def _aligned(
    parts: Sequence[Recording],
    mode: str,
    config: SfmConfig,
    workspace: Path,
    seed: int,
    tell: Tell,
) -> Recording:
    """All recordings in the frame of the first, by one structure from motion over all of them."""
    first = parts[0]
    trusted = mode in ("auto", "given") and bool(first.pose_source) and not first.poses_drift
    known: list[Pose | None] | None = None
    if trusted:
        known = [info.world_from_camera for info in first.infos]
        known += [None] * sum(len(part) for part in parts[1:])
    joined = JoinedRecording(parts)
    return poses_from_motion(joined, config, workspace, seed=seed, known=known, tell=tell)
