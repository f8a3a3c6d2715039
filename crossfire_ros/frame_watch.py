"""Who publishes which link of the frames' tree, learnt from the transforms that arrive."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from geometry_msgs.msg import TransformStamped

from crossfire_ros.conversions import stamp_to_ns
from crossfire_ros.transforms import tf

_REMEMBERED_S = 3.0  # a publisher at 1 Hz is still there
_OWN_STAMPS = 512  # transforms of our own that may still be under way to us

Link = tuple[str, str]


class FrameWatch:
    """Notices what no single transform shows: two parents of a frame, two owners of a link.

    Attributes:
        own: parent and child of the link that this node publishes.
    """

    def __init__(self, own: Link, watched: Collection[str]) -> None:
        """Start with nothing seen.

        Args:
            own: parent and child of the link that this node publishes.
            watched: children that must have one parent.
        """
        self.own, self._watched = own, frozenset(watched)
        self._parents: dict[str, str] = {}
        self._seen: dict[Link, float] = {}
        self._sent: deque[int] = deque(maxlen=_OWN_STAMPS)
        self._foreign_s = -math.inf

    def sent(self, stamp_ns: int) -> None:
        """Note that a transform of our own goes out; it will come back."""
        self._sent.append(stamp_ns)

    def note(self, transform: TransformStamped, static: bool) -> None:
        """Note a transform that has come in."""
        link = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
        parent, child = link
        self._parents[child] = parent
        if child not in self._watched:
            return
        now = time.monotonic()
        self._seen[link] = math.inf if static else now
        if link == self.own and stamp_to_ns(transform.header.stamp) not in self._sent:
            self._foreign_s = now

    def moves(self, child: str, frame: str) -> bool:
        """Whether a link with this child takes a frame along."""
        return child in self._ancestry(frame)

    def complaints(self, publishing: bool) -> list[str]:
        """What is wrong with the tree, each with its remedy.

        Args:
            publishing: whether this node publishes its link, so that nobody else should.
        """
        now = time.monotonic()
        found = []
        if publishing and now - self._foreign_s < _REMEMBERED_S:
            found.append(
                f"another node publishes {self.own[0]} -> {self.own[1]} as well: switch it "
                "off, or set tf_broadcast to false"
            )
        for child in sorted(self._watched):
            parents = sorted(
                parent
                for (parent, c), seen_s in self._seen.items()
                if c == child and now - seen_s < _REMEMBERED_S
            )
            if len(parents) > 1:
                found.append(
                    f"{child} has {len(parents)} parents, {' and '.join(parents)}: only one node "
                    "may publish where it is"
                )
        return found

    def _ancestry(self, frame: str) -> list[str]:
        chain = [frame]
        while (parent := self._parents.get(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        return chain


class WatchedBuffer(tf.Buffer):
    """A buffer that also tells somebody of each transform."""

    def __init__(self, tell: Callable[[TransformStamped, bool], None]) -> None:
        """Start empty.

        Args:
            tell: called with each transform, after it was remembered, and whether it is static.
        """
        super().__init__()
        self._tell = tell

    def set_transform(self, transform: TransformStamped, authority: str) -> Any:
        """Remember a transform at its stamp."""
        done = super().set_transform(transform, authority)
        self._tell(transform, False)
        return done

    def set_transform_static(self, transform: TransformStamped, authority: str) -> Any:
        """Remember a transform that never changes."""
        done = super().set_transform_static(transform, authority)
        self._tell(transform, True)
        return done
