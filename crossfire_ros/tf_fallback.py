"""What this package uses of ``tf2_ros``, for machines whose ROS comes without it.

The names, arguments and exceptions are those of ``tf2_ros``; see :mod:`crossfire_ros.transforms`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from crossfire_core.geometry import Pose
from crossfire_core.recordings.tf_tree import Frames, climbed
from crossfire_ros.conversions import pose_from_transform, stamp_from_ns, stamp_to_ns
from crossfire_ros.conversions import transform_from_pose as _transform

_Sample = tuple[int, Pose]

TF_QOS = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST)
TF_STATIC_QOS = QoSProfile(
    depth=100,
    history=HistoryPolicy.KEEP_LAST,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    reliability=ReliabilityPolicy.RELIABLE,
)
_LATCHED_QOS = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    reliability=ReliabilityPolicy.RELIABLE,
)


class TransformException(Exception):  # noqa: N818  (tf2's name)
    """Base of the errors of a lookup."""


class LookupException(TransformException):
    """A frame does not exist."""


class ConnectivityException(TransformException):
    """Two frames hang on different trees."""


class ExtrapolationException(TransformException):
    """A transform is not known at the requested time."""


class Buffer:
    """Ten seconds of transforms; filled by one thread and asked by another."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        """Start empty.

        Args:
            cache_time: how far back to remember, 10 s if None.
            node: not used; ``tf2_ros`` takes it.
        """
        self._lock = threading.Lock()
        self._cache_ns = (cache_time or Duration(seconds=10)).nanoseconds
        self._frames = Frames()
        self._parents = self._frames.parents
        self._static: dict[str, Pose] = {}
        self._moving: dict[str, list[_Sample]] = {}

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Remember a transform at its stamp."""
        with self._lock:
            self._set_moving(*self._register(transform), stamp_to_ns(transform.header.stamp))

    def _set_moving(self, child: str, pose: Pose, stamp: int) -> None:
        self._static.pop(child, None)
        samples = self._moving.setdefault(child, [])
        if samples and stamp < samples[-1][0] - self._cache_ns:
            samples.clear()  # the clock went back: a simulation or a bag began anew
        position = bisect_left(samples, stamp, key=_stamp)
        if position < len(samples) and samples[position][0] == stamp:
            samples[position] = (stamp, pose)
        else:
            insort(samples, (stamp, pose), key=_stamp)
        while samples[0][0] < samples[-1][0] - self._cache_ns:
            samples.pop(0)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Remember a transform that never changes."""
        with self._lock:
            child, pose = self._register(transform)
            self._moving.pop(child, None)
            self._static[child] = pose

    def clear(self) -> None:
        """Forget what moves; what never changes holds for every time."""
        with self._lock:
            for child in self._moving:
                self._parents.pop(child, None)
            self._moving.clear()

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> TransformStamped:
        """``target_from_source`` at a time; time zero is the latest at which all is known.

        Args:
            target_frame: to express in.
            source_frame: to express.
            time: when.
            timeout: not waited for; ask again.

        Raises:
            LookupException: a frame was never heard of.
            ConnectivityException: no chain leads from one to the other.
            ExtrapolationException: a part of the chain is not known at that time.
        """
        with self._lock:
            up, down = self._links(target_frame, source_frame)
            stamp = time.nanoseconds or self._latest_common([*up, *down])
            pose = self._climb(down, stamp).inverse() @ self._climb(up, stamp)
        return _transform(pose, target_frame, source_frame, stamp_from_ns(stamp))

    def can_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> bool:
        """Whether :meth:`lookup_transform` would succeed."""
        try:
            self.lookup_transform(target_frame, source_frame, time)
        except TransformException:
            return False
        return True

    def _register(self, transform: TransformStamped) -> tuple[str, Pose]:
        parent = transform.header.frame_id.lstrip("/")
        child = transform.child_frame_id.lstrip("/")
        if not parent or not child or parent == child:
            raise TransformException(f"transform from {child!r} to {parent!r} makes no sense")
        try:
            pose = pose_from_transform(transform.transform)
        except ValueError as error:
            raise TransformException(f"transform of {child!r} is ignored: {error}") from error
        self._parents[child] = parent
        return child, pose

    def _links(self, target: str, source: str) -> tuple[list[str], list[str]]:
        for frame in (source, target):
            if frame not in self._frames.frames:
                raise LookupException(f'frame "{frame}" does not exist')
        links = self._frames.links(target, source)
        if links is None:
            raise ConnectivityException(f'frames "{source}" and "{target}" are not connected')
        return links

    def _latest_common(self, frames: Sequence[str]) -> int:
        newest = [self._moving[f][-1][0] for f in frames if f in self._moving]
        return min(newest, default=0)

    def _climb(self, frames: Sequence[str], stamp: int) -> Pose:
        pose = climbed(frames, lambda child: self._step(child, stamp))
        assert pose is not None  # a step that is not known raises
        return pose

    def _step(self, child: str, stamp: int) -> Pose:
        if child in self._static:
            return self._static[child]
        samples = self._moving[child]
        right = bisect_left(samples, stamp, key=_stamp)
        if right < len(samples) and samples[right][0] == stamp:
            return samples[right][1]
        if right == 0 or right == len(samples):
            raise ExtrapolationException(
                f'transform of "{child}" is known from {samples[0][0] * 1e-9:.3f} to '
                f"{samples[-1][0] * 1e-9:.3f} s, not at {stamp * 1e-9:.3f} s"
            )
        (start, a), (end, b) = samples[right - 1], samples[right]
        return a.interpolate(b, (stamp - start) / (end - start))


class TransformListener:
    """Fills a buffer from ``/tf`` and ``/tf_static``."""

    def __init__(self, buffer: Buffer, node: Node, *, spin_thread: bool = False) -> None:
        """Subscribe.

        Args:
            buffer: to fill.
            node: whose executor calls back.
            spin_thread: not offered here.
        """
        self._buffer, self._node = buffer, node
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._moving, TF_QOS),
            node.create_subscription(TFMessage, "/tf_static", self._static, TF_STATIC_QOS),
        ]

    def unregister(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _moving(self, message: TFMessage) -> None:
        self._take(message, self._buffer.set_transform)

    def _static(self, message: TFMessage) -> None:
        self._take(message, self._buffer.set_transform_static)

    def _take(self, message: TFMessage, setter) -> None:  # type: ignore[no-untyped-def]
        for transform in message.transforms:
            try:
                setter(transform, "")
            except TransformException as error:
                self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)


class TransformBroadcaster:
    """Publishes on ``/tf``."""

    def __init__(self, node: Node) -> None:
        """Advertise."""
        self._publisher = node.create_publisher(TFMessage, "/tf", TF_QOS)

    def sendTransform(  # noqa: N802  (tf2's name)
        self, transform: TransformStamped | list[TransformStamped]
    ) -> None:
        """Publish one transform or several."""
        several = transform if isinstance(transform, list) else [transform]
        self._publisher.publish(TFMessage(transforms=several))


class StaticTransformBroadcaster:
    """Publishes on ``/tf_static``: each message holds all transforms given so far."""

    def __init__(self, node: Node) -> None:
        """Advertise."""
        self._publisher = node.create_publisher(TFMessage, "/tf_static", _LATCHED_QOS)
        self._transforms: dict[str, TransformStamped] = {}

    def sendTransform(  # noqa: N802  (tf2's name)
        self, transform: TransformStamped | list[TransformStamped]
    ) -> None:
        """Publish one transform or several, beside the earlier ones."""
        several = transform if isinstance(transform, list) else [transform]
        self._transforms.update({t.child_frame_id: t for t in several})
        self._publisher.publish(TFMessage(transforms=list(self._transforms.values())))


def _stamp(sample: _Sample) -> int:
    return sample[0]
