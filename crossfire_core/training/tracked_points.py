"""Sparse depth from the points that structure from motion has found already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.recordings.lazy import Recording
from crossfire_core.training.sparse_points import SparsePoints
from crossfire_core.training.views import View

_LEAST = 200


def tracked_points(recording: Recording, views: Sequence[View]) -> SparsePoints | None:
    """The recording's own points in the mapping views, or None where it has too few.

    Args:
        recording: any; only those with poses from structure from motion have points.
        views: mapping views, whose images may be smaller than the recorded ones.
    """
    tracks = recording.tracks if isinstance(recording, PosedRecording) else None
    if tracks is None:
        return None
    infos = recording.infos
    number_of = {view.name: number for number, view in enumerate(views)}
    numbers = np.array([number_of.get(info.name, -1) for info in infos], dtype=np.int64)
    view = numbers[tracks.frame]
    use = view >= 0
    if use.sum() < _LEAST:
        return None
    recorded = np.array([info.camera.size for info in infos], dtype=np.float64)
    shrunk = np.array([v.camera.size for v in views], dtype=np.float64)
    view, frame = view[use], tracks.frame[use]
    pixel = tracks.pixel[use] * shrunk[view] / recorded[frame]
    inside = ((pixel >= 0) & (pixel < shrunk[view])).all(axis=1)
    kept = np.flatnonzero(use)[inside]
    return SparsePoints(view[inside], pixel[inside], tracks.point[kept], tracks.sigma_m[kept])
