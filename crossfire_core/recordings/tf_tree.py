"""Transforms of a bag: which frame hangs on which, when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from crossfire_core.geometry import Pose, Trajectory

# REP-105: what is expressed in these frames does not drift.
_WORLD_NAMES = ("map", "world", "earth")
_CONSTANT = 1e-9


class Frames:
    """Which frame hangs on which, and the way from one to another.

    Attributes:
        parents: of each frame that hangs on another.
    """

    def __init__(self) -> None:
        """No frames."""
        self.parents: dict[str, str] = {}

    @property
    def frames(self) -> set[str]:
        """All frames."""
        return set(self.parents) | set(self.parents.values())

    def chain(self, frame: str) -> list[str]:
        """The frame and everything it hangs on, up to the root."""
        chain = [plain(frame)]
        while (parent := self.parents.get(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        return chain

    def links(self, target: str, source: str) -> tuple[list[str], list[str]] | None:
        """Frames to climb from the source, and from the target, to their common ancestor.

        None where there is none.
        """
        up, down = self.chain(source), self.chain(target)
        meeting = next((frame for frame in up if frame in down), None)
        if meeting is None:
            return None
        return up[: up.index(meeting)], down[: down.index(meeting)]


def climbed(frames: Sequence[str], step: Callable[[str], Pose | None]) -> Pose | None:
    """``ancestor_from_first`` over frames that each hang on the next, or None.

    Args:
        frames: from the first to the one below the ancestor.
        step: gives ``parent_from_child`` of a child, or None where it is not known.
    """
    pose = Pose.identity()
    for frame in frames:
        found = step(frame)
        if found is None:
            return None
        pose = found @ pose
    return pose


class TfTree(Frames):
    """Static and moving transforms, looked up along the chain between two frames.

    A link holds until it changes where it is known not to move by itself: one that is the same in
    all its samples, and the correction from a map to odometry, which jumps from value to value.
    What moves is known between samples that lie close together.

    Attributes:
        conflicts: frames that were said to hang on two others; the first parent holds.
    """

    def __init__(self) -> None:
        """An empty tree."""
        super().__init__()
        self.conflicts: set[str] = set()
        self._static: dict[str, tuple[str, Pose]] = {}
        self._samples: dict[str, list[tuple[int, Pose]]] = defaultdict(list)
        self._moving: dict[str, Trajectory] = {}
        self._constant: dict[str, bool] = {}

    def add(self, parent: str, child: str, parent_from_child: Pose, stamp_ns: int | None) -> None:
        """Add one transform.

        Args:
            parent: frame it leads to; a leading slash is ignored, here as everywhere.
            child: frame it comes from.
            parent_from_child: the transform.
            stamp_ns: when it held, or None for always.
        """
        parent, child = plain(parent), plain(child)
        if parent == child or self.parents.setdefault(child, parent) != parent:
            self.conflicts.add(child)
            return
        if stamp_ns is None:
            self._static[child] = (parent, parent_from_child)
        else:
            self._samples[child].append((stamp_ns, parent_from_child))
            self._moving.pop(child, None)
            self._constant.pop(child, None)

    def is_static(self, target: str, source: str) -> bool:
        """Whether nothing moves between two connected frames."""
        links = self.links(target, source)
        return links is not None and all(self._is_constant(f) for part in links for f in part)

    def connected(self, target: str, source: str) -> bool:
        """Whether a chain leads from one frame to the other."""
        return self.links(target, source) is not None

    def trajectory(self, child: str) -> Trajectory | None:
        """``parent_from_child`` over time of a frame that moves against its parent."""
        child = plain(child)
        if child not in self._moving and child in self._samples:
            self._moving[child] = Trajectory.from_samples(self._samples[child])
        return self._moving.get(child)

    def lookup(
        self, target: str, source: str, stamp_ns: int, max_gap_ns: int = 500_000_000
    ) -> Pose | None:
        """``target_from_source`` at a time, or None where it is not known.

        Args:
            target: frame to express in.
            source: frame to express.
            stamp_ns: when.
            max_gap_ns: samples further apart than this are not bridged.
        """
        links = self.links(target, source)
        if links is None:
            return None
        up, down = (
            climbed(part, lambda frame: self._step(frame, stamp_ns, max_gap_ns)) for part in links
        )
        return None if up is None or down is None else down.inverse() @ up

    def _step(self, child: str, stamp_ns: int, max_gap_ns: int) -> Pose | None:
        if child in self._static:
            return self._static[child][1]
        moving = self.trajectory(child)
        if moving is None:
            return None
        found = moving.at(stamp_ns, max_gap_ns)
        return found if found is not None else self._held(child, moving, stamp_ns)

    def _held(self, child: str, moving: Trajectory, stamp_ns: int) -> Pose | None:
        """The last value before a time at which no two samples lie close together."""
        if self._is_constant(child):
            return moving.poses[0]
        before = int(np.searchsorted(moving.stamps_ns, stamp_ns, side="right")) - 1
        if before < 0:
            return None
        last = moving.poses[before]
        if is_world(self.parents[child]) and is_odometry(child):
            return last
        unchanged = before + 1 < len(moving) and _same(last, moving.poses[before + 1])
        return last if unchanged else None

    def _is_constant(self, child: str) -> bool:
        """Whether a link never changes, on whatever topic it is published."""
        if child not in self._constant:
            moving = self.trajectory(child)
            self._constant[child] = child in self._static or (
                moving is not None and all(_same(moving.poses[0], pose) for pose in moving.poses)
            )
        return self._constant[child]


def _same(a: Pose, b: Pose) -> bool:
    moved = np.abs(a.translation - b.translation).max()
    return bool(max(moved, np.abs(a.rotation - b.rotation).max()) <= _CONSTANT)


def is_world(frame: str) -> bool:
    """Whether a frame is fixed to the place, by the custom of names (REP-105)."""
    return frame.rpartition("/")[2] in _WORLD_NAMES


def is_odometry(frame: str) -> bool:
    """Whether a frame is one of odometry, which drifts, by the custom of names (REP-105)."""
    return "odom" in frame.rpartition("/")[2].lower()


def plain(frame: str) -> str:
    """A frame's name without the leading slash that tf once had."""
    return frame.lstrip("/")
