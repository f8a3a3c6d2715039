"""A peer: a sparse map of triangulated features, and poses by RANSAC on its matches."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import TrainingError
from crossfire_core.evaluation.peers.features import FeatureMethod, Features, Pairs
from crossfire_core.evaluation.peers.retrieval import nearest, vlad, words
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.pose_solver import sampled_pose
from crossfire_core.recordings.frame import Frame
from crossfire_core.vision.triangulation import (
    IntArray,
    Tracks,
    View,
    epipolar_inliers,
    triangulate,
    view_pairs,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SparseMap:
    """Everything that localization needs.

    Attributes:
        points: ``[p, 3]`` in the map.
        descriptors: ``[p, d]`` mean of each point's observations, unit.
        seen: for each mapping view the points that it shows.
        features: for each mapping view all of its keypoints.
        point_of: for each mapping view the point of each keypoint, -1 for none.
        vectors: ``[v, k]`` one vector a mapping view.
        words: ``[c, d]`` what the vectors are made with.
    """

    points: FloatArray
    descriptors: NDArray[np.float32]
    seen: list[IntArray]
    features: list[Features]
    point_of: list[IntArray]
    vectors: NDArray[np.float32]
    words: NDArray[np.float32]

    def file_bytes(self, bytes_a_number: int, with_features: bool = False) -> int:
        """Size of the map on disk.

        Args:
            bytes_a_number: of a descriptor: 1 for quantised ones, 2 for half floats.
            with_features: also store each view's own keypoints, which learned matchers need.
        """
        kind = np.uint8 if bytes_a_number == 1 else np.float16
        arrays = {
            "points": self.points.astype(np.float32),
            "descriptors": np.zeros(self.descriptors.shape, kind),
            "seen": np.concatenate([np.zeros(0, np.int64), *self.seen]).astype(np.uint32),
            "sizes": np.array([len(s) for s in self.seen], np.uint32),
            "vectors": self.vectors.astype(np.float16),
            "words": self.words.astype(np.float16),
        }
        if with_features:
            pixels = np.concatenate([f.pixels for f in self.features]).astype(np.float32)
            arrays["pixels"] = pixels
            arrays["descriptors"] = np.zeros((len(pixels), self.descriptors.shape[1]), kind)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return len(buffer.getvalue())


def build(
    frames: Iterable[Frame],
    method: FeatureMethod,
    on_step: Callable[[str, int, int], None] | None = None,
) -> SparseMap:
    """Extract, match, triangulate.

    Args:
        frames: mapping frames with poses, in order of time.
        method: the features.
        on_step: told (what, done, of how many).

    Raises:
        TrainingError: fewer than two frames with poses, or nothing could be triangulated.
    """
    tell = on_step or (lambda *_: None)
    features: list[Features] = []
    views: list[View] = []
    for frame in frames:
        if frame.world_from_camera is not None:
            features.append(method.extract(frame.image))
            view = View.of(frame.camera, frame.world_from_camera, features[-1].pixels)
            views.append(view)
            tell("features", len(views), 0)
    if len(views) < 2:
        raise TrainingError("a sparse map needs at least two mapping frames with poses")
    tracks = _tracks(views, features, method, tell)
    if len(tracks.points) == 0:
        raise TrainingError(f"{method.name}: nothing could be triangulated")
    return _packed(tracks, features)


def _tracks(
    views: list[View], features: list[Features], method: FeatureMethod, tell: Callable[..., None]
) -> Tracks:
    pairs = view_pairs([v.pose for v in views])
    limit = method.noise_px * max(features[0].size) / 640.0
    matches = []
    for done, (a, b) in enumerate(pairs, 1):
        found = method.match(features[a], features[b])
        matches.append((a, b, epipolar_inliers(views[a], views[b], found, limit)))
        tell("pairs", done, len(pairs))
    return triangulate(views, matches, pixels=limit)


def _packed(tracks: Tracks, features: list[Features]) -> SparseMap:
    total = np.zeros((len(tracks.points), features[0].descriptors.shape[1]), np.float32)
    seen: list[IntArray] = []
    point_of: list[IntArray] = []
    for index, each in enumerate(features):
        mine = tracks.view == index
        np.add.at(total, tracks.point[mine], each.descriptors[tracks.keypoint[mine]])
        seen.append(tracks.point[mine])
        point_of.append(np.full(len(each.pixels), -1, np.int64))
        point_of[-1][tracks.keypoint[mine]] = tracks.point[mine]
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
    centres = words(np.concatenate([f.descriptors for f in features]))
    vectors = np.stack([vlad(f.descriptors, centres) for f in features])
    return SparseMap(tracks.points, total, seen, features, point_of, vectors, centres)


def describe_places(frames: Iterable[Frame], method: FeatureMethod) -> tuple[SparseMap, list[Pose]]:
    """A map without points: one vector a mapping view, and the views' poses."""
    features: list[Features] = []
    poses: list[Pose] = []
    for frame in frames:
        if frame.world_from_camera is not None:
            features.append(method.extract(frame.image))
            poses.append(frame.world_from_camera)
    none = np.zeros(0, np.int64)
    return _packed(Tracks(np.zeros((0, 3)), none, none, none), features), poses


class _PointLocalizer(ABC):
    """Localizes by points of a sparse map that the most similar mapping images lead to."""

    def __init__(
        self, sparse_map: SparseMap, method: FeatureMethod, views: int, least_inliers: int = 12
    ) -> None:
        """Look at the ``views`` most similar mapping images."""
        self._map, self._method = sparse_map, method
        self._views, self._least = views, least_inliers

    @abstractmethod
    def _matched(self, query: Features, views: Sequence[int]) -> IntArray:
        """(keypoint of the query, point of the map) ``[m, 2]`` by some mapping views."""

    def localize(
        self, image: NDArray[np.uint8], camera: Camera, prior: Pose | None = None, **unused: object
    ) -> PoseEstimate:
        """Find the pose of one image; priors are not used."""
        clock = _Clock()
        query = self._method.extract(image)
        clock.lap("features")
        vector = vlad(query.descriptors, self._map.words)
        views = nearest(vector, self._map.vectors, self._views)
        clock.lap("retrieve")
        pairs = self._matched(query, views)
        clock.lap("match")
        pixels, points = query.pixels[pairs[:, 0]], self._map.points[pairs[:, 1]]
        pose, inlier = solve(pixels, points, camera)
        clock.lap("solve")
        return outcome(pose, inlier, pixels, points, camera, self._least, clock.laps)


class SparseLocalizer(_PointLocalizer):
    """Matches with all points that the most similar mapping images show."""

    def __init__(self, sparse_map: SparseMap, method: FeatureMethod, views: int = 20) -> None:
        """Match against what the ``views`` most similar mapping images show."""
        super().__init__(sparse_map, method, views)

    def _matched(self, query: Features, views: Sequence[int]) -> IntArray:
        visible = np.unique(np.concatenate([self._map.seen[i] for i in views]))
        stored = Features(np.zeros((0, 2)), self._map.descriptors[visible], query.size)
        pairs = self._method.match(query, stored)
        return np.stack([pairs[:, 0], visible[pairs[:, 1]]], axis=1)


class GluedLocalizer(_PointLocalizer):
    """Matches image against image with a learned matcher, then lifts through the points."""

    def __init__(
        self,
        sparse_map: SparseMap,
        method: FeatureMethod,
        matcher: Callable[[Features, Features], Pairs],
        views: int = 5,
    ) -> None:
        """Match with the ``views`` most similar mapping images."""
        super().__init__(sparse_map, method, views)
        self._matcher = matcher

    def _matched(self, query: Features, views: Sequence[int]) -> IntArray:
        return np.unique(np.concatenate([self._lifted(query, view) for view in views]), axis=0)

    def _lifted(self, query: Features, view: int) -> IntArray:
        pairs = self._matcher(query, self._map.features[view])
        point = self._map.point_of[view][pairs[:, 1]]
        return np.stack([pairs[:, 0], point], axis=1)[point >= 0]


class RetrievalLocalizer:
    """Answers with the pose of the most similar mapping image: the floor for every method."""

    def __init__(self, sparse_map: SparseMap, method: FeatureMethod, poses: Sequence[Pose]) -> None:
        """Keep the poses of the mapping views, in the order of the map's vectors."""
        self._map, self._method, self._poses = sparse_map, method, poses

    def localize(
        self, image: NDArray[np.uint8], camera: Camera, prior: Pose | None = None, **unused: object
    ) -> PoseEstimate:
        """The pose of the nearest mapping image; it is always sure of itself."""
        clock = _Clock()
        vector = vlad(self._method.extract(image).descriptors, self._map.words)
        clock.lap("features")
        best = nearest(vector, self._map.vectors, 1)[0]
        clock.lap("retrieve")
        return PoseEstimate(True, "", self._poses[best], timings_ms=clock.laps)


class _Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now


def solve(
    pixels: FloatArray, points: FloatArray, camera: Camera, error_px: float = 4.0
) -> tuple[Pose | None, NDArray[np.bool_]]:
    """LO-RANSAC and refinement by PoseLib on undistorted pixels.

    Args:
        pixels: ``[n, 2]``.
        points: ``[n, 3]``.
        camera: of the pixels.
        error_px: inlier threshold in pixels of a 640 px wide image.

    Returns:
        ``map_from_camera`` or None, and which matches agree ``[n]``.
    """
    if len(pixels) < 6:
        return None, np.zeros(len(pixels), dtype=bool)
    threshold = error_px * camera.relative_size
    found, inlier = sampled_pose(
        camera.sights(pixels), points, camera, {"max_reproj_error": threshold, "seed": 0},
        {"loss_type": "CAUCHY"},
    )  # fmt: skip
    return found.inverse() if found is not None and inlier.sum() >= 4 else None, inlier


def outcome(
    pose: Pose | None,
    inlier: NDArray[np.bool_],
    pixels: FloatArray,
    points: FloatArray,
    camera: Camera,
    least_inliers: int,
    timings_ms: dict[str, float],
) -> PoseEstimate:
    """The estimate of a sparse localizer; fewer inliers than the least is a failure."""
    count = int(inlier.sum())
    ok = pose is not None and count >= least_inliers
    residual = float("nan")
    if pose is not None and count:
        seen = camera.project(pose.inverse().apply(points[inlier]))
        residual = float(np.nanmedian(np.linalg.norm(seen - pixels[inlier], axis=1)))
    return PoseEstimate(
        ok,
        "" if ok else f"{count} inliers, {least_inliers} needed",
        pose,
        inliers=count,
        matches=len(pixels),
        residual_px=residual,
        timings_ms=timings_ms,
        details=Matches(pixels, points, np.ones(len(pixels)), inlier),
    )
