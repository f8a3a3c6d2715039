"""Between the poses that a map was trained with and those that its recording has.

Before a map is trained its images are made to agree with each other, which moves their poses: some
by chance, as where stamps jitter, and whole stretches of the path together, where the recording's
poses and the images do not agree about a bend. A robot has its goals, and an evaluation its truth,
in the frame of the recording. So answers are moved back by what the mapping images around were
moved: chance averages out, what neighbours share comes back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.localization.nearness import ViewDistances

FloatArray = NDArray[np.float64]
_NEAR = 0.05  # views this far off (radians of parallax and of turning) were moved alike
_FAR = 1e-3  # weight of all others: where none is near, their mean counts


class RecordedFrame:
    """Moves poses from the frame of the trained map to that of the recording, and back."""

    def __init__(
        self, trained: Sequence[Pose], recorded: Sequence[Pose], median_distance: float
    ) -> None:
        """Keep what was moved.

        Args:
            trained: ``map_from_camera`` of the mapping views, as the map was trained with.
            recorded: of the same views, as the recording has them.
            median_distance: of the surfaces from the cameras, metres.
        """
        pairs = list(zip(trained, recorded, strict=True))
        self._twists = np.stack([(a.inverse() @ b).log() for a, b in pairs])
        self._views = ViewDistances(trained, median_distance)
        self._same = bool(np.abs(self._twists).max() < 1e-9)

    def recorded(self, pose: Pose) -> Pose:
        """``map_from_camera`` as the recording would have it, of a pose in the trained map."""
        return pose if self._same else pose @ Pose.exp(self._twist(pose))

    def trained(self, pose: Pose) -> Pose:
        """The inverse of :meth:`recorded`, to within what corrections change over their size."""
        return pose if self._same else pose @ Pose.exp(-self._twist(pose))

    def scatter(self, pose: Pose) -> FloatArray:
        """How much the recording's poses differ by chance, around a pose in the trained map.

        Returns:
            Covariance ``[6, 6]`` of one of them about :meth:`recorded`: of the camera's position
            and of a rotation, along the map's axes, metres and radians.
        """
        weight = self._weight(pose)
        beside = self._twists - weight @ self._twists
        own = (weight[:, None] * beside).T @ beside / max(1.0 - float(weight @ weight), 1e-9)
        turn = np.kron(np.eye(2), pose.rotation)
        return np.asarray(turn @ own @ turn.T)

    def _twist(self, pose: Pose) -> FloatArray:
        return np.asarray(self._weight(pose) @ self._twists)

    def _weight(self, pose: Pose) -> FloatArray:
        """Of every view, the nearest ones most; their sum is 1."""
        weight = np.exp(-0.5 * (self._views.of(pose) / _NEAR) ** 2) + _FAR
        return np.asarray(weight / weight.sum())
