"""Whether poses lay two places on one another: the same spot, but another picture.

Structure from motion and SLAM take places that look alike for one. Then a robot seems to come back
to where it was, and its camera shows something else there. What two images share is measured in
keypoints that match where the poses let expect it, against what an image shares with its neighbour
in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossfire_core.geometry import Pose
from crossfire_core.recordings.checks.finding import Finding, warning
from crossfire_core.recordings.checks.pairs import Features, distinct_matches, read_features
from crossfire_core.recordings.lazy import FrameInfo, Recording

_PAIRS, _STARTS = 16, 200  # that are looked at: some seconds
_NEAR_STEPS, _MOST_TURN_DEG = 4.0, 15.0  # two visits of one place, in steps of the path
_LEAST_WAY = 5.0  # between two visits, in what counts as near
_REACH = 30  # images in which the camera has moved as far as between the two visits
_PARALLAX = 0.12  # of the width: what a step aside moves things in the image
_LEAST_MATCHES = 40  # with the neighbour; fewer say nothing
_UNLIKE = 0.25  # of the neighbour's matches: less is another place
_LEAST_UNLIKE, _LEAST_SHARE = 3, 0.15  # pairs that make it no accident


@dataclass(frozen=True)
class Visit:
    """Two images that were taken at the same spot at different times, by their poses.

    Attributes:
        first: position of one in the recording.
        second: of the other.
        neighbour: of an image soon after (or before) the first, at least as far from it.
    """

    first: int
    second: int
    neighbour: int


@dataclass(frozen=True)
class Merges:
    """What such images have in common.

    Attributes:
        visits: those whose images have keypoints enough.
        likeness: for each, matches of the two images, in matches of the first with its neighbour.
        names: of the two images of each.
    """

    visits: tuple[Visit, ...]
    likeness: tuple[float, ...]
    names: tuple[tuple[str, str], ...]

    @property
    def unlike(self) -> list[int]:
        """Which visits show something else, the least alike first."""
        order = np.argsort(self.likeness, kind="stable").tolist()
        return [i for i in order if self.likeness[i] < _UNLIKE]

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {"visits": len(self.visits), "unlike_visits": len(self.unlike)}


def find_merges(recording: Recording, on_progress: Callable[[int, int], None]) -> Merges:
    """Compare the images of spots that the camera came back to.

    Args:
        recording: whose images can be read.
        on_progress: called with the number of images done and in all.
    """
    chosen = choose_visits(recording.infos)
    features: dict[int, Features] = {}
    needed = {i for v in chosen for i in (v.first, v.second, v.neighbour)}
    read_features(recording, needed, features, on_progress)
    infos = recording.infos
    visits, likeness = [], []
    for visit in chosen:
        usual = shared(infos, features, visit.first, visit.neighbour)
        if usual >= _LEAST_MATCHES:
            visits.append(visit)
            likeness.append(shared(infos, features, visit.first, visit.second) / usual)
    names = tuple((infos[v.first].name, infos[v.second].name) for v in visits)
    return Merges(tuple(visits), tuple(likeness), names)


def judge_merges(merges: Merges) -> list[Finding]:
    """What is wrong; nothing is said where all is as it should be."""
    unlike, count = merges.unlike, len(merges.visits)
    if len(unlike) < max(_LEAST_UNLIKE, _LEAST_SHARE * count):
        return []
    one, other = merges.names[unlike[0]]
    return [
        warning(
            "merged",
            f"{len(unlike)} of {count} pairs of images from the same spot show different pictures, "
            f"such as {one} and {other}: the poses lay two places on one another, or much was "
            "changed between them. Look at both: if they are two places, leave one out or take "
            "poses from another source",
        )
    ]


def choose_visits(infos: Sequence[FrameInfo]) -> list[Visit]:
    """Spots that the camera came back to, spread over the recording."""
    posed = [(i, info.world_from_camera) for i, info in enumerate(infos) if info.world_from_camera]
    if len(posed) < _REACH:
        return []
    indices, poses = [i for i, _ in posed], [pose for _, pose in posed]
    centres = np.stack([pose.translation for pose in poses])
    looks = np.stack([pose.rotation for pose in poses])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    moving = steps[steps > 0.1 * steps.mean()]
    near = _NEAR_STEPS * float(np.median(moving)) if len(moving) else 0.0
    found = []
    for start in np.unique(np.linspace(0, len(posed) - 1, _STARTS).astype(int)).tolist():
        distance = np.linalg.norm(centres - centres[start], axis=1)
        cosine = (np.einsum("nij,ij->n", looks, looks[start]) - 1) / 2
        fit = (way - way[start] > _LEAST_WAY * near) & (distance < near)
        fit &= cosine > np.cos(np.radians(_MOST_TURN_DEG))
        if fit.any():
            other = int(np.flatnonzero(fit)[distance[fit].argmin()])
            found.append((start, other, _neighbour(poses, start, other)))
    if not found:
        return []
    chosen = np.unique(np.linspace(0, len(found) - 1, _PAIRS).astype(int)).tolist()
    return [Visit(*(indices[i] for i in found[c])) for c in chosen]


def _neighbour(poses: Sequence[Pose], start: int, other: int) -> int:
    """The first image in time that is as far from the start as the other visit is."""
    metres, radians = poses[start].distance(poses[other])
    onwards = 1 if start + _REACH < len(poses) else -1
    for step in range(1, _REACH):
        moved, turned = poses[start].distance(poses[start + onwards * step])
        if moved >= metres and turned >= radians:
            break
    return start + onwards * step


def shared(
    infos: Sequence[FrameInfo], features: Mapping[int, Features], first: int, second: int
) -> int:
    """How many keypoints of one image are in another about where the camera's turn takes them."""
    one, other = infos[first], infos[second]
    assert one.world_from_camera is not None and other.world_from_camera is not None
    pixels, partners = distinct_matches(features[first], features[second])
    if len(pixels) == 0:
        return 0
    turn = other.world_from_camera.rotation.T @ one.world_from_camera.rotation
    expected = other.camera.project(one.camera.bearings(pixels) @ turn.T)
    off = np.linalg.norm(expected - partners, axis=1)
    return int((off < _PARALLAX * other.camera.width).sum())
