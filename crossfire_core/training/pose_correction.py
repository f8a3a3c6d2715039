"""Poses that contradict each other a little blur a map: make them agree before training.

A recording's poses come with errors of their own: stamps that are milliseconds off, a tracker's
noise, poses interpolated between others. Bundle adjustment makes the mapping images agree with
each other, and moves poses by no more than that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from crossfire_core.mapping_poses.adjustment import (
    adjust_gently,
    join_matches,
    match_pairs,
)
from crossfire_core.mapping_poses.local_features import detect
from crossfire_core.training.sparse_points import view_pairs
from crossfire_core.training.views import View

_FEATURES = 1500  # SIFT keypoints a view
_NEIGHBOURS = 6  # views that each one is matched with, beside those before and after it
_LEAST_SIGHTINGS = 500


def corrected(views: Sequence[View], tell: Callable[[], None] = lambda: None) -> list[View]:
    """Views whose images agree with each other.

    Args:
        views: in order of time, with poses that are nearly right.
        tell: called now and then.

    Returns:
        The views with other poses, or as they were where the images have too little in common
        to say anything.
    """
    features = []
    for view in views:
        features.append(detect(view.image, _FEATURES))
        tell()
    cameras = [view.camera for view in views]
    near = pairwise(range(len(views)))
    pairs = sorted({*view_pairs(views, _NEIGHBOURS), *near})
    matches = match_pairs(features, cameras, pairs, lambda done, total: tell())
    if not matches:
        return list(views)
    seen = join_matches(matches, features, cameras)
    if len(seen.view) < _LEAST_SIGHTINGS:
        return list(views)
    found = adjust_gently([v.map_from_camera for v in views], seen, lambda done, total: tell())
    return [
        replace(view, map_from_camera=pose) for view, pose in zip(views, found.poses, strict=True)
    ]
