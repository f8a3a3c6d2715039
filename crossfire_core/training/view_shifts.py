"""The last look of a training: where does every mapping image see the map's points?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from crossfire_core.features.network import DenseDescriptors
from crossfire_core.localization.localizer import Localizer
from crossfire_core.training.views import View

FloatArray = NDArray[np.float64]
_MOST_PX = 12.0  # of a 640 px wide image: matches further off are wrong, not shifted
_REACH = 0.05  # of the distance: matches so near a point are taken together
_LEAST = 5  # matches around a point; such a number also draws their median towards zero


@torch.no_grad()
def measure_shifts(
    localizer: Localizer,
    views: Sequence[View],
    images: Sequence[tuple[Tensor, tuple[float, float]]],
) -> Tensor:
    """By how much the map's points of each view are to be moved, so that its image agrees.

    Args:
        localizer: of the finished map.
        views: its mapping views, in order.
        images: of each view, as the image network takes it in bytes, and its descriptors' scale.

    Returns:
        ``[n, 3]`` metres in the map frame, for the map's places; zero where too little matches.
    """
    places = localizer.neural_map.places
    points, of_view = places.points.double().numpy(), places.point_view.numpy()
    shifts = np.zeros_like(points)
    for number, (view, (image, scale)) in enumerate(zip(views, images, strict=True)):
        mine = np.flatnonzero(of_view == number)
        if len(mine) == 0:
            continue
        values = localizer.neural_map.network(image.to(localizer.neural_map.device) / 255.0)[0]
        shifts[mine] = _shifts_of(localizer, view, DenseDescriptors(values, scale), points[mine])
    return torch.from_numpy(shifts).float()


def _shifts_of(
    localizer: Localizer, view: View, dense: DenseDescriptors, points: FloatArray
) -> FloatArray:
    """Shifts of points ``[n, 3]`` that one view sees."""
    pose, camera = view.map_from_camera, view.camera
    shifts = np.zeros_like(points)
    pixels, space = localizer.matches_at(dense, camera, pose)
    beside = pixels - camera.project(pose.inverse().apply(space))
    good = np.linalg.norm(beside, axis=1) < _MOST_PX * camera.relative_size  # not NaN
    if good.sum() < _LEAST:
        return shifts
    beside, tree = beside[good], cKDTree(space[good])
    distance = np.linalg.norm(points - pose.translation, axis=1)
    around = tree.query_ball_point(points, _REACH * distance)
    found = np.flatnonzero([len(near) >= _LEAST for near in around])
    if len(found) == 0:
        return shifts
    middle = np.stack(
        [
            np.median(beside[around[i]], axis=0) * len(around[i]) / (len(around[i]) + _LEAST)
            for i in found
        ]
    )
    here = camera.project(pose.inverse().apply(points[found]))
    turn = camera.bearings(here + middle) - camera.bearings(here)
    moved = (turn * distance[found, None]) @ pose.rotation.T
    shifts[found] = np.nan_to_num(moved, nan=0.0, posinf=0.0, neginf=0.0)
    return shifts
