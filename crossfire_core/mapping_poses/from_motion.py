"""Poses by structure from motion: keyframes, features, pairs, matches, mapper, gauge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from crossfire_core.config import SfmConfig, to_dict
from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses import gauge
from crossfire_core.mapping_poses.keyframes import choose_keyframes, glance
from crossfire_core.mapping_poses.posed import PosedRecording, sessions
from crossfire_core.mapping_poses.reconstruction import (
    MatchStore,
    Reconstruction,
    load_pycolmap,
    reconstruct,
)
from crossfire_core.mapping_poses.workspace import Workspace
from crossfire_core.recordings.lazy import Recording
from crossfire_core.vision import local_features
from crossfire_core.vision.local_features import LocalFeatures
from crossfire_core.vision.pairs import image_signatures, loop_pairs, sequential_pairs

Tell = Callable[[str, int, int], None]
_NAMES_IN_NOTE = 5  # of images that could not be placed; more do not fit a line
_KEYPOINTS = 2  # what a workspace keeps holds until they are found otherwise
_WIDE_SPREAD = 0.05  # a scale that varies by more along the path is said


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


def poses_from_motion(
    recording: Recording,
    config: SfmConfig,
    workspace: Path,
    *,
    seed: int = 0,
    known: Sequence[Pose | None] | None = None,
    tell: Tell = silent,
) -> PosedRecording:
    """Find the poses of a recording's keyframes.

    Args:
        recording: its own poses are not looked at; joined recordings end up in one frame.
        config: number of keyframes, features and pairs.
        workspace: folder for what an interruption shall leave behind; see :class:`.Workspace`.
        seed: of all random choices.
        known: ``map_from_camera`` of some frames, which then decide scale and frame instead of
            the odometry. They stay as they are, but for outliers; others are moved by what those
            around are off.
        tell: called with what is being done, how much of it, and of how much.

    Returns:
        The placed keyframes; those that failed are named in its notes.

    Raises:
        MissingDependencyError: pycolmap is not installed.
        TrainingError: nothing could be reconstructed.
    """
    load_pycolmap()  # before any work is done in vain
    odometry = odometry_poses(recording)
    space = Workspace(workspace, fingerprint(recording, config, seed))
    keyframes = choose_frames(recording, odometry, config, space, tell)
    found = space.outcome()
    if found is None:
        found = _reconstruct(recording, odometry, keyframes, config, space, seed, tell)
        space.keep(found)
    numbered = {keyframes[number]: pose for number, pose in found.poses.items()}
    measure, notes = _gauge(recording, numbered, odometry, known, found)
    placed = {index: measure.pose(pose) for index, pose in numbered.items()}
    if known is not None:
        distance = measure.scale * _median_distance(found)
        placed, wrong = gauge.bent_to_known(placed, known, distance)
        notes += _doubted(recording, wrong)
    poses = [placed.get(index) for index in range(len(recording))]
    lost = [i for number, i in enumerate(keyframes) if number not in found.poses]
    return PosedRecording(
        recording, poses, _source(found, known), cameras=found.cameras,
        notes=(*_left_out(recording, keyframes, lost), *notes),
    )  # fmt: skip


def odometry_poses(recording: Recording) -> list[Pose | None]:
    """``odom_from_camera`` of every frame; each session has an odometry frame of its own."""
    poses: list[Pose | None] = []
    for part in sessions(recording):
        path = part.odometry()
        for info in part.infos:
            base = path.at(info.stamp_ns) if path is not None else None
            poses.append(None if base is None else base @ part.mounted(info))
    return poses


def fingerprint(recording: Recording, config: SfmConfig, seed: int) -> str:
    """Of everything that decides the outcome."""
    frames = [[i.name, i.stamp_ns, i.camera.to_json()] for i in recording.infos]
    what = [_KEYPOINTS, recording.name, recording.masks, frames, to_dict(config), seed]
    text = json.dumps(what, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def choose_frames(
    recording: Recording,
    odometry: Sequence[Pose | None],
    config: SfmConfig,
    space: Workspace,
    tell: Tell,
) -> list[int]:
    """Keyframes of every session, or those chosen before an interruption."""
    earlier = space.keyframes()
    if earlier is not None:
        return earlier
    chosen: list[int] = []
    first = 0
    for part in sessions(recording):
        own = odometry[first : first + len(part)]
        look = glance(part, own, partial(tell, "choosing keyframes"))
        chosen += [first + i for i in choose_keyframes(look, config.keyframes)]
        first += len(part)
    space.keep_keyframes(chosen)
    return chosen


def _reconstruct(
    recording: Recording,
    odometry: Sequence[Pose | None],
    keyframes: list[int],
    config: SfmConfig,
    space: Workspace,
    seed: int,
    tell: Tell,
) -> Reconstruction:
    features, pairs = features_and_pairs(recording, odometry, keyframes, config, space, seed, tell)
    infos = recording.infos
    store = MatchStore(space.database, [infos[i].camera for i in keyframes], seed)
    store.add_images(features)
    store.add_matches(features, pairs, partial(tell, "matching"))
    return reconstruct(store, config, seed, partial(tell, "placing images"))


def features_and_pairs(
    recording: Recording,
    poses: Sequence[Pose | None],
    keyframes: Sequence[int],
    config: SfmConfig,
    space: Workspace,
    seed: int,
    tell: Tell,
) -> tuple[list[LocalFeatures], list[tuple[int, int]]]:
    """Keypoints of the keyframes, and pairs to match: neighbours in time, and what looks alike."""
    features = find_features(
        recording, keyframes, config, space, partial(tell, "finding keypoints")
    )
    session = [_session(recording, i) for i in keyframes]
    pairs = sequential_pairs(session, config.overlap)
    if config.loops:
        alike = image_signatures([f.descriptors for f in features], seed)
        near = [poses[i] for i in keyframes]
        pairs |= loop_pairs(alike, session, near, config.overlap, config.loops)
    return features, sorted(pairs)


def find_features(
    recording: Recording,
    keyframes: Sequence[int],
    config: SfmConfig,
    space: Workspace,
    tell: Callable[[int, int], None],
) -> list[LocalFeatures]:
    """Keypoints of the keyframes; those found before an interruption are read."""
    found: dict[int, LocalFeatures] = {}
    for number in range(len(keyframes)):
        kept = local_features.load(space.features(number))
        if kept is not None:
            found[number] = kept
    missing = [number for number in range(len(keyframes)) if number not in found]
    frames = recording.frames([keyframes[number] for number in missing])
    for number, frame in zip(missing, frames, strict=True):
        found[number] = local_features.detect(frame.image, config.features, frame.camera)
        local_features.save(space.features(number), found[number])
        tell(len(found), len(keyframes))
    return [found[number] for number in range(len(keyframes))]


def _session(recording: Recording, index: int) -> int:
    for number, part in enumerate(sessions(recording)):
        if index < len(part):
            return number
        index -= len(part)
    raise IndexError(index)


def _gauge(
    recording: Recording,
    placed: dict[int, Pose],
    odometry: Sequence[Pose | None],
    known: Sequence[Pose | None] | None,
    found: Reconstruction,
) -> tuple[gauge.Gauge, list[str]]:
    """Scale, gravity and origin, and what to say about them."""
    if known is not None:
        both = [(placed[i], known[i]) for i in sorted(placed) if known[i] is not None]
        if not both:
            raise TrainingError(
                "none of the images of known pose could be placed: see crossfire check"
            )
        return gauge.from_poses([a for a, _ in both], [b for _, b in both if b is not None]), []
    # other sessions' odometry begins elsewhere: the first one decides
    for session in range(len(sessions(recording))):
        own = [i for i in sorted(placed) if _session(recording, i) == session]
        pairs = [(placed[i], pose) for i in own if (pose := odometry[i]) is not None]
        if len(pairs) >= 3:
            measure = gauge.from_odometry([a for a, _ in pairs], [b for _, b in pairs])
            return measure, _spread_note(measure)
    depths = np.concatenate([[1.0], found.points.sigma_m])
    if len(found.points):
        centres = np.stack([found.poses[int(i)].translation for i in found.points.view])
        depths = np.linalg.norm(found.points.point - centres, axis=1)
    note = "no odometry: the map's scale is a guess, lengths are not in metres"
    return gauge.from_depth(list(placed.values()), depths), [note]


def _median_distance(found: Reconstruction) -> float:
    """Of points from the cameras that see them, metres; 1 where there are none."""
    points = found.points
    if not len(points):
        return 1.0
    centres = np.stack([found.poses[int(i)].translation for i in points.view])
    return float(np.median(np.linalg.norm(points.point - centres, axis=1)))


def _spread_note(measure: gauge.Gauge) -> list[str]:
    spread = measure.scale_spread
    if not spread > _WIDE_SPREAD:
        return []
    return [
        f"the odometry's scale varies by {100 * spread:.0f} % along the path: lengths in the map "
        "are that uncertain"
    ]


def _source(found: Reconstruction, known: Sequence[Pose | None] | None) -> str:
    frame = "aligned with known poses" if known is not None else "aligned with the odometry"
    return (
        f"structure from motion of {len(found.poses)} images "
        f"({found.mean_error_px:.2f} px), {frame}"
    )


def _left_out(recording: Recording, keyframes: Sequence[int], lost: Sequence[int]) -> list[str]:
    notes = []
    between = len(recording) - len(keyframes)
    if between:
        notes.append(f"{between} of {len(recording)} images lie between the keyframes: not used")
    if lost:
        notes.append(
            f"{len(lost)} of {len(keyframes)} keyframes could not be placed and are left out: "
            f"{_names(recording, lost)}"
        )
    return notes


def _doubted(recording: Recording, wrong: Sequence[int]) -> list[str]:
    if not wrong:
        return []
    return [
        f"{len(wrong)} images lie elsewhere than the recording says, unlike those around them: "
        f"their poses were replaced: {_names(recording, wrong)}"
    ]


def _names(recording: Recording, frames: Sequence[int]) -> str:
    infos = recording.infos
    names = ", ".join(infos[i].name for i in frames[:_NAMES_IN_NOTE])
    more = f" and {len(frames) - _NAMES_IN_NOTE} more" if len(frames) > _NAMES_IN_NOTE else ""
    return names + more
