"""Depths that are known in some pixels: a point is a depth in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SparsePoints:
    """Known depths.

    Attributes:
        view: ``[n]`` int64, number of the image in which the point was seen.
        pixel: ``[n, 2]`` where, centres at .5.
        point: ``[n, 3]`` in the map frame, metres.
        sigma_m: ``[n]`` standard deviation of the distance along that view's ray.
    """

    view: NDArray[np.int64]
    pixel: FloatArray
    point: FloatArray
    sigma_m: FloatArray

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.view)

    @staticmethod
    def none() -> SparsePoints:
        """No observations."""
        return SparsePoints(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))
