"""What the mapping images have in common, looked for once a training.

Keypoints are found and matched once. Their tracks make the poses agree with each other, say where
surfaces are (:class:`.sparse_points.SparsePoints`), and are the corners on which patches lie.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crossfire_core.training.views import View
from crossfire_core.vision.adjustment import (
    adjust_gently,
    depth_sigmas,
    join_matches,
    match_pairs,
)
from crossfire_core.vision.local_features import LocalFeatures, detect
from crossfire_core.vision.sparse_points import SparsePoints
from crossfire_core.vision.triangulation import Tracks, triangulate, view_pairs
from crossfire_core.vision.triangulation import View as Sight

_FEATURES = 2000  # SIFT keypoints a view
_GAPS, _SPATIAL = (1, 2, 4, 8, 16), 4  # views that each one is matched with, in time and space
_LIMIT_PX = 2.0  # of a 640 px wide image: sightings further from their point are wrong
_LEAST_SIGHTINGS = 500  # fewer say nothing about poses


class FrontEnd:
    """Keypoints of the mapping views, and which of them show the same."""

    def __init__(
        self,
        views: Sequence[View],
        tell: Callable[[], None] = lambda: None,
        seconds: float = math.inf,
        seed: int = 0,
    ) -> None:
        """Find keypoints and match them in pairs of views.

        Args:
            views: with their images and poses that are nearly right, in order of time.
            tell: called now and then.
            seconds: after so many no further pair is matched; half of them are for pairs, however
                long finding keypoints takes.
            seed: of the order of pairs, so that those matched in time are spread over all views.
        """
        end = time.monotonic() + seconds
        self._tell = tell
        features: list[LocalFeatures] = []
        for view in views:
            features.append(detect(view.image, _FEATURES, view.camera))
            tell()
        end = max(end, time.monotonic() + 0.5 * seconds)
        pairs = view_pairs([view.map_from_camera for view in views], _SPATIAL, _GAPS)
        cameras = [view.camera for view in views]
        self._matches: dict[tuple[int, int], NDArray[np.uint32]] = {}
        for i in np.random.default_rng(seed).permutation(len(pairs)):
            if time.monotonic() > end:
                break
            self._matches |= match_pairs(features, cameras, [pairs[i]])
            tell()
        nothing = np.zeros((0, 128), np.float32)  # descriptors are a megabyte a view
        self._features = [LocalFeatures(found.pixels, nothing) for found in features]

    def corrected(self, views: Sequence[View]) -> list[View]:
        """The views with poses under which their images agree with each other.

        A recording's poses have errors of their own: stamps that are milliseconds off, a tracker's
        noise, poses interpolated between others. Bundle adjustment moves them by no more than it
        takes for the images to agree, and not at all where these have too little in common.
        """
        seen = join_matches(self._matches, self._features, [view.camera for view in views])
        if len(seen.view) < _LEAST_SIGHTINGS:
            return list(views)
        poses = [view.map_from_camera for view in views]
        found = adjust_gently(poses, seen, lambda done, total: self._tell())
        return [
            replace(view, map_from_camera=pose)
            for view, pose in zip(views, found.poses, strict=True)
        ]

    def tracks(self, views: Sequence[View]) -> Tracks:
        """Points triangulated under the views' poses, with the keypoints that see them."""
        sights = [
            Sight.of(view.camera, view.map_from_camera, found.pixels.astype(np.float64))
            for view, found in zip(views, self._features, strict=True)
        ]
        matches = [(i, j, pairs.astype(np.int64)) for (i, j), pairs in self._matches.items()]
        limit = _LIMIT_PX * views[0].camera.relative_size
        return triangulate(sights, matches, pixels=limit)

    def sparse(self, views: Sequence[View], tracks: Tracks) -> SparsePoints:
        """Depths in the views: every sighting of a triangulated point is one."""
        if len(tracks.points) == 0:
            return SparsePoints.none()
        pixel = np.zeros((len(tracks.view), 2))
        for number, found in enumerate(self._features):
            mine = tracks.view == number
            pixel[mine] = found.pixels[tracks.keypoint[mine]]
        focal = np.array([view.camera.fx for view in views])[tracks.view]
        poses = [view.map_from_camera for view in views]
        sigma = depth_sigmas(poses, tracks.points, tracks.view, tracks.point, focal)
        inside = (pixel < np.array([view.camera.size for view in views])[tracks.view]).all(axis=1)
        return SparsePoints(
            tracks.view[inside], pixel[inside], tracks.points[tracks.point[inside]], sigma[inside]
        )
