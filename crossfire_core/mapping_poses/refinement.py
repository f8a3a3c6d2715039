"""Poses that are nearly right, made right by what the images have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import SfmConfig
from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.mapping_poses.from_motion import (
    Tell,
    choose_frames,
    features_and_pairs,
    fingerprint,
    silent,
)
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.mapping_poses.workspace import Workspace
from crossfire_core.recordings.lazy import Recording
from crossfire_core.vision.adjustment import (
    LOOSEST,
    Adjusted,
    Prior,
    adjust,
    join_matches,
    match_pairs,
)
from crossfire_core.vision.local_features import LocalFeatures

_LEAST_SIGHTINGS = 500  # fewer do not hold poses against noise


def refine_poses(
    recording: Recording,
    poses: Sequence[Pose | None],
    config: SfmConfig,
    workspace: Path,
    source: str,
    *,
    odometry: bool,
    seed: int = 0,
    tell: Tell = silent,
) -> PosedRecording:
    """Correct the poses of a recording's keyframes by bundle adjustment.

    Args:
        recording: one session.
        poses: ``map_from_camera`` of every frame, or None; nearly right.
        config: number of keyframes, features and pairs.
        workspace: folder for what an interruption shall leave behind.
        source: of the poses, for people.
        odometry: whether errors grow along the path, instead of being alike everywhere.
        seed: of all random choices.
        tell: called with what is being done, how much of it, and of how much.

    Returns:
        The keyframes with corrected poses.

    Raises:
        TrainingError: the images have too little in common.
    """
    mark = f"refine {source} {_digest(poses)} {fingerprint(recording, config, seed)}"
    space = Workspace(workspace, mark)
    keyframes = choose_frames(recording, poses, config, space, tell)
    keyframes = [i for i in keyframes if poses[i] is not None]
    start = [pose for i in keyframes if (pose := poses[i]) is not None]
    found = _adjusted(recording, poses, keyframes, start, config, space, odometry, seed, tell)
    corrected: list[Pose | None] = [None] * len(recording)
    for index, pose in zip(keyframes, found.poses, strict=True):
        corrected[index] = pose
    return PosedRecording(
        recording, corrected, f"{source}, corrected by the images",
        notes=_notes(recording, start, found),
    )  # fmt: skip


def _digest(poses: Sequence[Pose | None]) -> str:
    """Of poses to a tenth of a millimetre: they decide keyframes and pairs."""
    numbers = [pose and np.round(pose.matrix(), 4).tolist() for pose in poses]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def _adjusted(
    recording: Recording,
    poses: Sequence[Pose | None],
    keyframes: list[int],
    start: list[Pose],
    config: SfmConfig,
    space: Workspace,
    odometry: bool,
    seed: int,
    tell: Tell,
) -> Adjusted:
    features, pairs = features_and_pairs(recording, poses, keyframes, config, space, seed, tell)
    cameras = [recording.infos[i].camera for i in keyframes]
    matches = _matched(features, cameras, pairs, space, partial(tell, "matching"))
    seen = join_matches(matches, features, cameras)
    if len(seen.view) < _LEAST_SIGHTINGS:
        raise TrainingError(
            f"the images of {recording.name} have too little in common to correct their poses: "
            "run crossfire check"
        )
    prior = Prior.of_odometry(start) if odometry else Prior.of_poses(*LOOSEST)
    return adjust(start, seen, prior, partial(tell, "adjusting"))


def _matched(
    features: Sequence[LocalFeatures],
    cameras: Sequence[Camera],
    pairs: Sequence[tuple[int, int]],
    space: Workspace,
    tell: Callable[[int, int], None],
) -> dict[tuple[int, int], NDArray[np.uint32]]:
    """Matches of all pairs; those found before an interruption are read."""
    found: dict[tuple[int, int], NDArray[np.uint32]] = {}
    done = 0
    for first, group in groupby(sorted(pairs), key=itemgetter(0)):
        mine = list(group)
        kept = space.matches(first)
        if kept is None:
            kept = match_pairs(features, cameras, mine)
            space.keep_matches(first, kept)
        found |= kept
        done += len(mine)
        tell(done, len(pairs))
    return found


def _notes(recording: Recording, start: Sequence[Pose], found: Adjusted) -> list[str]:
    moved = np.array([a.distance(b) for a, b in zip(start, found.poses, strict=True)])
    metres, radians = np.median(moved, axis=0)
    before, after = found.median_px
    notes = [
        f"poses were corrected by {100 * metres:.1f} cm and {np.degrees(radians):.2f} degrees "
        f"(median); the images now agree to {after:.1f} px, before to {before:.1f} px"
    ]
    if len(start) < len(recording):
        notes.append(f"{len(start)} of {len(recording)} images are keyframes, the others not used")
    return notes
