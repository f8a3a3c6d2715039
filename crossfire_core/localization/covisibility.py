"""What the mapping cameras saw, and which of them saw the same.

Both are told from the surface points that a map keeps for finding places, on a coarse grid over
the map's contracted space: cells are small where the cameras were and grow with the distance, as
the points do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from crossfire_core.field.scene_box import SceneBox

_CELLS = 32  # along an axis; the inner box takes half of them
_SHARED = 0.1  # of the cells of the view that saw less: from here on two views saw the same


class SeenSpace:
    """Where surfaces were seen by at least one mapping view, to within a cell."""

    def __init__(self, box: SceneBox, points: Tensor) -> None:
        """Mark the cells of surface points, and the cells around them.

        Args:
            box: of the map.
            points: ``[n, 3]`` surface points that the mapping views saw, metres; without any,
                as while a map is being trained, nothing is known and everything counts as seen.
        """
        self._box = box
        marked = torch.zeros(_CELLS**3, device=points.device)
        marked[cells_of(box, points)] = 1.0
        grown = functional.max_pool3d(marked.view(1, _CELLS, _CELLS, _CELLS), 3, 1, 1)
        self._seen = (grown.flatten() > 0) | (len(points) == 0)

    def contains(self, points: Tensor) -> Tensor:
        """Which points ``[n, 3]`` lie where something was seen, ``[n]`` bool."""
        return self._seen[cells_of(self._box, points)]


def cells_of(box: SceneBox, points: Tensor) -> Tensor:
    """Number of the cell of each point ``[n, 3]``, ``[n]`` int64."""
    at = (box.normalize(points) * _CELLS).long().clamp(0, _CELLS - 1)
    return (at[:, 0] * _CELLS + at[:, 1]) * _CELLS + at[:, 2]


def shared_views(box: SceneBox, points: Tensor, view: Tensor, count: int) -> NDArray[np.bool_]:
    """Which mapping views saw some of the same space.

    Args:
        box: of the map.
        points: ``[n, 3]`` surface points, metres.
        view: ``[n]`` which view saw each.
        count: number of views.

    Returns:
        ``[count, count]``, symmetric.
    """
    _, cell = cells_of(box, points).cpu().unique(return_inverse=True)
    saw = torch.zeros(count, int(cell.max()) + 1 if len(cell) else 1)
    saw[view.cpu(), cell] = 1.0
    both, each = saw @ saw.T, saw.sum(dim=1)
    least = torch.minimum(each[:, None], each[None]).clamp_min(1.0)
    return np.asarray((both / least).numpy() >= _SHARED)


def grouped(views: Sequence[int], shared: NDArray[np.bool_]) -> list[list[int]]:
    """Views put together that see the same, directly or through others of them.

    Places that look alike fall into different groups, so that each is tried with its own views
    only.

    Args:
        views: the likeliest first.
        shared: ``[n, n]`` of :func:`shared_views`.

    Returns:
        Groups in the order of their likeliest views.
    """
    left, groups = list(views), []
    while left:
        group = [left.pop(0)]
        for member in group:  # grows while it is walked through
            linked = [other for other in left if shared[member, other]]
            group += linked
            left = [other for other in left if other not in linked]
        groups.append(group)
    return groups
