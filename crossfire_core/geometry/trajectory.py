"""A pose over time, looked up between its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry.pose import Pose, rotation_angle


@dataclass(frozen=True)
class Trajectory:
    """Poses with strictly increasing stamps.

    Attributes:
        stamps_ns: ``[n]`` int64 nanoseconds, increasing.
        poses: as many poses, all with the same two frames.
    """

    stamps_ns: NDArray[np.int64]
    poses: Sequence[Pose]

    @staticmethod
    def from_samples(samples: Sequence[tuple[int, Pose]]) -> Trajectory:
        """Sort by stamp; of samples with one stamp the last wins."""
        latest = dict(sorted(samples, key=lambda sample: sample[0]))
        return Trajectory(np.array(list(latest), dtype=np.int64), tuple(latest.values()))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.poses)

    def at(self, stamp_ns: int, max_gap_ns: int = 500_000_000) -> Pose | None:
        """The pose at a time, interpolated between its two neighbours.

        Args:
            stamp_ns: nanoseconds.
            max_gap_ns: neighbours further apart than this are not bridged.

        Returns:
            None outside the trajectory or inside a gap.
        """
        right = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if right < len(self) and self.stamps_ns[right] == stamp_ns:
            return self.poses[right]
        if right == 0 or right == len(self):
            return None
        start, end = int(self.stamps_ns[right - 1]), int(self.stamps_ns[right])
        if end - start > max_gap_ns:
            return None
        fraction = (stamp_ns - start) / (end - start)
        return self.poses[right - 1].interpolate(self.poses[right], fraction)


def motion_along(poses: Sequence[Pose]) -> NDArray[np.float64]:
    """Length of the path up to each pose; all turns together count as much as all steps."""
    steps = [a.distance(b)[0] for a, b in pairwise(poses)]
    turns = [rotation_angle(a.rotation.T @ b.rotation) for a, b in pairwise(poses)]
    scale = max(sum(steps), 1e-9) / max(sum(turns), 1e-9)
    total = np.array(steps) + scale * np.array(turns) + 1e-9
    return np.concatenate([[0.0], np.cumsum(total)])
