"""Which pairs of keyframes are matched: neighbours in time, and places seen again."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import rotation_angle

Pair = tuple[int, int]
_WORDS = 48  # to tell some hundred images apart
_SAMPLE = 20_000  # descriptors that words are chosen from
# What is further apart than this by odometry, its drift allowed for, cannot show the same.
_NEAR_M, _DRIFT_M_PER_M, _MOST_TURN = 3.0, 0.1, np.radians(100.0)


def sequential_pairs(session: Sequence[int], overlap: int) -> set[Pair]:
    """Each keyframe with those that follow it, and with a few far ones at doubling distances.

    Args:
        session: number of the recording of each keyframe; neighbours must share it.
        overlap: so many following keyframes.
    """
    steps = {*range(1, overlap + 1), 2 * overlap, 4 * overlap}
    count = len(session)
    return {
        (i, i + step)
        for i in range(count)
        for step in steps
        if i + step < count and session[i] == session[i + step]
    }


def loop_pairs(
    signatures: NDArray[np.float32],
    session: Sequence[int],
    odometry: Sequence[Pose | None],
    overlap: int,
    a_keyframe: int,
) -> set[Pair]:
    """Each keyframe with those that look most alike and are not its neighbours in time.

    Args:
        signatures: ``[n, d]`` unit, of :func:`image_signatures`.
        session: number of the recording of each keyframe.
        odometry: ``odom_from_camera`` of each; what cannot see the same place is left out.
        overlap: neighbours in time that are matched anyway.
        a_keyframe: so many pairs a keyframe, and as many again with every other session.
    """
    likeness = signatures @ signatures.T
    number = np.asarray(session)
    apart = np.abs(np.arange(len(number))[:, None] - np.arange(len(number))[None])
    same = number[:, None] == number[None]
    likeness[same & (apart <= overlap)] = -np.inf
    likeness[same & ~_in_reach(odometry)] = -np.inf
    pairs: set[Pair] = set()
    for i in range(len(number)):
        for other in np.unique(number):
            row = np.where(number == other, likeness[i], -np.inf)
            for j in np.argsort(-row, kind="stable")[:a_keyframe]:
                if np.isfinite(row[j]):
                    pairs.add((min(i, int(j)), max(i, int(j))))
    return pairs


def _in_reach(odometry: Sequence[Pose | None]) -> NDArray[np.bool_]:
    """Which keyframes may see the same place, ``[n, n]``; all where odometry is missing."""
    count = len(odometry)
    known = [pose for pose in odometry if pose is not None]
    reach = np.ones((count, count), dtype=bool)
    if len(known) < count:
        return reach
    centres = np.stack([pose.translation for pose in known])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    path = np.concatenate([[0.0], np.cumsum(steps)])
    drift = _DRIFT_M_PER_M * np.abs(path[:, None] - path[None])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    reach = np.asarray(apart < _NEAR_M + drift, dtype=bool)
    for i, a in enumerate(known):
        for j in range(i):
            if reach[i, j] and rotation_angle(a.rotation.T @ known[j].rotation) > _MOST_TURN:
                reach[i, j] = reach[j, i] = False
    return reach


def image_signatures(descriptors: Sequence[NDArray[np.float32]], seed: int) -> NDArray[np.float32]:
    """One vector an image from its local descriptors: VLAD (Jegou et al., CVPR 2010).

    Args:
        descriptors: ``[k, d]`` unit, of each image.
        seed: of the choice of words.

    Returns:
        ``[n, words * d]`` unit; alike images have a large dot product. With fewer than two
        descriptors in all, ``[n, 1]`` zeros: nothing is alike.
    """
    rng = np.random.default_rng(seed)
    everything = np.concatenate(descriptors)
    sample = everything[rng.permutation(len(everything))[:_SAMPLE]]
    if len(sample) < 2:  # OpenCV takes a single row for a column
        return np.zeros((len(descriptors), 1), np.float32)
    words = min(_WORDS, len(sample))
    cv2.setRNGSeed(seed)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 15, 1e-4)
    _, _, centres = cv2.kmeans(sample, words, None, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return np.stack([_vlad(each, centres) for each in descriptors])


def _vlad(descriptors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    sums = np.zeros_like(centres)
    if len(descriptors):
        squared = (centres**2).sum(axis=1)[None] - 2.0 * descriptors @ centres.T
        word = squared.argmin(axis=1)
        np.add.at(sums, word, descriptors - centres[word])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    flat = sums.ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9), dtype=np.float32)
