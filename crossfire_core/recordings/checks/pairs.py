"""Pairs of images with matched pixels, and how far matches lie from where poses put them.

A pixel of one image has its partner on a line of the other, which poses and calibration give: the
distance from it, the epipolar error, needs no depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.lazy import FrameInfo, Recording
from crossfire_core.vision.adjustment import agreeing
from crossfire_core.vision.sift import root_sift

FloatArray = NDArray[np.float64]
Features = tuple[FloatArray, NDArray[np.float32]]
OnProgress = Callable[[int, int], None]

WIDTH = 640  # errors are pixels of an image of this size
_FEATURES = 1200  # an image; enough for two hundred matches
_RATIO = 0.8  # of SIFT's ratio test, as Lowe has it
_MOST_MATCHES = 200  # of a pair: more do not make it surer
_LEAST_MATCHES, _LEAST_INLIERS = 25, 0.5  # a pair with less shows nothing
_WIDE_LIMIT = 3.0  # of focal lengths that are off by a tenth
_PAIRS = 14  # that are looked at: some seconds
_REACH = 90  # images further on, among which its partner is
_MOST_TURN_DEG = 16.0  # more and too little is seen in both
_LEAST_BASELINE = 0.01  # of the recording's extent


@dataclass(frozen=True)
class Pair:
    """Matched pixels of two frames, full-size images, without outliers.

    Attributes:
        first: position of one frame in the recording.
        second: of the other.
        cameras: of the two images.
        pixels: ``[n, 2]`` in each.
    """

    first: int
    second: int
    cameras: tuple[Camera, Camera]
    pixels: tuple[FloatArray, FloatArray]


def choose_pairs(infos: Sequence[FrameInfo]) -> list[tuple[int, int]]:
    """Pairs of frames, spread over the recording, that may share a view after a turn and a move."""
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


def neighbours(infos: Sequence[FrameInfo]) -> list[tuple[int, int]]:
    """Pairs of frames that follow each other, spread over the recording, wherever poses put them.

    But for those that stand still, which show no epipolar lines.
    """
    posed = [(i, info.world_from_camera) for i, info in enumerate(infos)]
    posed = [(i, pose) for i, pose in posed if pose is not None]
    if len(posed) < 2:
        return []
    extent = np.linalg.norm(np.ptp([p.translation for _, p in posed], axis=0))  # type: ignore[union-attr]
    moved = [
        (i, j)
        for (i, first), (j, second) in pairwise(posed)
        if first.distance(second)[0] > _LEAST_BASELINE * extent  # type: ignore[union-attr,arg-type]
    ]
    some = np.unique(np.linspace(0, len(moved) - 1, min(2 * _PAIRS, len(moved))).astype(int))
    return [moved[k] for k in some]


def match_pairs(
    recording: Recording, chosen: Sequence[tuple[int, int]], on_progress: OnProgress
) -> list[Pair]:
    """Matches of pairs; where two images share too little, of one and a nearer partner.

    Along a corridor the image after the greatest turn shows another part of it.

    Args:
        recording: whose images can be read.
        chosen: positions of frames.
        on_progress: called with the number of images done and in all, as far as that is known.
    """
    infos = recording.infos
    posed = [i for i, info in enumerate(infos) if info.world_from_camera is not None]
    place = {index: number for number, index in enumerate(posed)}
    features: dict[int, Features] = {}
    pairs: list[Pair] = []
    while chosen:
        read_features(recording, (i for pair in chosen for i in pair), features, on_progress)
        nearer = []
        for first, second in chosen:
            pair = match(first, second, infos, features)
            if pair is not None:
                pairs.append(pair)
            elif (gap := place[second] - place[first]) > 1:
                nearer.append((first, posed[place[first] + gap // 2]))
        chosen = nearer
    return sorted(pairs, key=lambda pair: pair.first)


def read_features(
    recording: Recording, indices: Iterable[int], known: dict[int, Features], tell: OnProgress
) -> None:
    """Add the features of the frames that are not yet known."""
    missing = sorted(set(indices) - known.keys())
    total = len(known) + len(missing)
    for index, frame in zip(missing, recording.frames(missing), strict=True):
        known[index] = _features(frame.image, frame.camera)
        tell(len(known), total)


def _features(image: NDArray[np.uint8], camera: Camera) -> Features:
    """Pixels ``[n, 2]`` of the full-size image and descriptors ``[n, 128]``."""
    scale = min(1.0, WIDTH / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    usable = camera.usable_cells(small.shape[1], small.shape[0])
    pixels, descriptors = root_sift(small, _FEATURES, usable=usable)
    return pixels / scale, descriptors


def match(
    first: int, second: int, infos: Sequence[FrameInfo], features: Mapping[int, Features]
) -> Pair | None:
    """Matches that some epipolar geometry explains, whatever the poses are.

    Returns:
        None where too few are left.
    """
    cameras = infos[first].camera, infos[second].camera
    a, b = distinct_matches(features[first], features[second])
    seen = np.isfinite(np.hstack([cameras[0].bearings(a), cameras[1].bearings(b)])).all(axis=1)
    a, b = a[seen], b[seen]
    if len(a) < _LEAST_MATCHES:
        return None
    flat = all(camera.is_flat for camera in cameras)
    inlier = _straight_inliers(a, b, cameras) if flat else _wide_inliers(a, b, cameras)
    if inlier.sum() < max(_LEAST_MATCHES, _LEAST_INLIERS * len(inlier)):
        return None
    kept = np.flatnonzero(inlier)[:: max(1, int(inlier.sum()) // _MOST_MATCHES)]
    return Pair(first, second, cameras, (a[kept], b[kept]))


def _straight_inliers(
    a: FloatArray, b: FloatArray, cameras: tuple[Camera, Camera]
) -> NDArray[np.bool_]:
    """Matches that a fundamental matrix explains, whatever the focal length is."""
    straight = [
        camera.undistorted().project(camera.bearings(pixels))
        for camera, pixels in zip(cameras, (a, b), strict=True)
    ]
    try:
        _, mask = cv2.findFundamentalMat(
            straight[0], straight[1], cv2.USAC_MAGSAC, _limit_px(cameras), 0.999, 2000
        )
    except cv2.error:  # as it says of some matches that no matrix explains
        return np.zeros(len(a), bool)
    return np.asarray(np.broadcast_to(np.asarray(mask).ravel() == 1, len(a)))


def _wide_inliers(
    a: FloatArray, b: FloatArray, cameras: tuple[Camera, Camera]
) -> NDArray[np.bool_]:
    """The same of lenses that see aside, as their calibration has it; a loose limit forgives it."""
    limit = _WIDE_LIMIT * _limit_px(cameras) / cameras[0].fx
    return agreeing(cameras[0].sights(a), cameras[1].sights(b), limit)


def _limit_px(cameras: tuple[Camera, Camera]) -> float:
    return 1.5 * max(max(camera.size) for camera in cameras) / WIDTH


def distinct_matches(a: Features, b: Features) -> tuple[FloatArray, FloatArray]:
    """Pixels ``[n, 2]`` of features that are much more like one another than like the next."""
    if min(len(a[0]), len(b[0])) < 2:
        return np.empty((0, 2)), np.empty((0, 2))
    candidates = cv2.BFMatcher().knnMatch(a[1], b[1], k=2)
    good = [m for m, n in candidates if m.distance < _RATIO * n.distance]
    return a[0][[m.queryIdx for m in good]], b[0][[m.trainIdx for m in good]]


def median_error(
    pairs: Sequence[Pair], poses: Mapping[int, Pose | None], focal_scale: float = 1.0
) -> float:
    """Median over the pairs of the median epipolar error, pixels of an image of ``WIDTH``.

    Args:
        pairs: matches.
        poses: ``world_from_camera`` of their frames; a pair with an unknown one is passed over.
        focal_scale: factor on the focal lengths.
    """
    errors = []
    for pair in pairs:
        first, second = poses.get(pair.first), poses.get(pair.second)
        if first is None or second is None:
            continue
        scaled = [
            replace(camera, fx=camera.fx * focal_scale, fy=camera.fy * focal_scale)
            for camera in pair.cameras
        ]
        rays = [camera.bearings(pixels) for camera, pixels in zip(scaled, pair.pixels, strict=True)]
        distance = epipolar_angles(rays[0], rays[1], second.inverse() @ first)
        camera = scaled[1]
        errors.append(float(np.nanmedian(distance)) * camera.fx * WIDTH / max(camera.size))
    return float(np.median(errors)) if errors else float("inf")


def epipolar_angles(first: FloatArray, second: FloatArray, second_from_first: Pose) -> FloatArray:
    """Sines of the angles between directions and the planes that their partners give.

    Args:
        first: ``[n, 3]`` unit directions in one camera's frame.
        second: ``[n, 3]`` their partners in the other's.
        second_from_first: between the two frames.
    """
    normals = np.cross(second_from_first.translation, first @ second_from_first.rotation.T)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.abs((normals * second).sum(axis=1)))
