"""Images that claim to be taken from one place: do they show the same?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from crossfire_core.recordings.checks.finding import Finding, error
from crossfire_core.recordings.checks.pairs import Features, distinct_matches, read_features
from crossfire_core.recordings.lazy import FrameInfo, Recording

_PAIRS = 6  # that are looked at: some seconds
_MOST_FRAMES = 600  # among which pairs are looked for
_NEAR = 1e-3  # of the recording's extent
_SAME_TURN_DEG = 1.0  # and no more turned: the same pose
# With so many features in both images, it is no accident if hardly one is where it was.
_LEAST_FEATURES, _LEAST_STAYING = 150, 10
_STAYING_SHARE = 0.1  # of the image's width


def judge_places(recording: Recording) -> list[Finding]:
    """Whether images with one pose show different places."""
    infos = recording.infos
    chosen = pairs_at_one_place(infos)
    features: dict[int, Features] = {}
    read_features(recording, [i for pair in chosen for i in pair], features, lambda *_: None)
    apart = [(a, b) for a, b in chosen if _differ(features[a], features[b], infos[a].camera.width)]
    if not apart:
        return []
    first, second = (infos[i].name for i in apart[0])
    return [
        error(
            "one_pose",
            f"{len(apart)} of {len(chosen)} pairs of images with one pose show different places, "
            f"first {first} and {second}: the pose source stood still, or two recordings that do "
            "not belong together were joined",
        )
    ]


def _differ(a: Features, b: Features, width: int) -> bool:
    """Whether two images with much in them have nothing in common."""
    if min(len(a[0]), len(b[0])) < _LEAST_FEATURES:
        return False
    first, second = distinct_matches(a, b)
    moved = np.linalg.norm(first - second, axis=1)
    return int((moved < _STAYING_SHARE * width).sum()) < _LEAST_STAYING


def pairs_at_one_place(infos: Sequence[FrameInfo]) -> list[tuple[int, int]]:
    """Some pairs of frames of nearly one pose, far apart in the recording first."""
    posed = [i for i, info in enumerate(infos) if info.world_from_camera is not None]
    if len(posed) < 2:
        return []
    posed = [
        posed[i] for i in np.linspace(0, len(posed) - 1, min(len(posed), _MOST_FRAMES)).astype(int)
    ]
    poses = [infos[i].world_from_camera for i in posed]
    centres = np.stack([pose.translation for pose in poses if pose is not None])
    reach = max(_NEAR * float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-9)
    near = cKDTree(centres).query_pairs(reach, output_type="ndarray")
    near = near[np.argsort(near[:, 0] - near[:, 1], kind="stable")]
    chosen: list[tuple[int, int]] = []
    used: set[int] = set()
    for a, b in near.tolist():
        first, second = poses[a], poses[b]
        if used & {a, b} or first is None or second is None:
            continue
        if np.degrees(first.distance(second)[1]) < _SAME_TURN_DEG:
            chosen.append((posed[a], posed[b]))
            used |= {a, b}
        if len(chosen) == _PAIRS:
            break
    return chosen
