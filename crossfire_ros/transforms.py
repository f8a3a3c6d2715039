"""Transforms of a robot: ``tf2_ros`` where it is installed, the same without it elsewhere."""

from __future__ import annotations

from rclpy.time import Time

from crossfire_core.geometry import Pose
from crossfire_ros.conversions import pose_from_transform, stamp_to_ns

try:
    import tf2_ros as tf

    HAS_TF2 = True
except ImportError:
    from crossfire_ros import tf_fallback as tf  # type: ignore[no-redef]

    HAS_TF2 = False


def lookup(buffer: tf.Buffer, target: str, source: str, stamp_ns: int | None = None) -> Pose:
    """``target_from_source``.

    Args:
        buffer: that a listener fills.
        target: frame to express in.
        source: frame to express.
        stamp_ns: when; None takes the latest that is known.

    Raises:
        TransformException: not known (yet).
    """
    if target == source:
        return Pose.identity()
    found = buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns or 0))
    return pose_from_transform(found.transform)


def latest(buffer: tf.Buffer, target: str, source: str) -> tuple[int, Pose]:
    """The newest ``target_from_source`` that is known, and its stamp in nanoseconds.

    Raises:
        TransformException: none is known (yet).
    """
    found = buffer.lookup_transform(target, source, Time())
    return stamp_to_ns(found.header.stamp), pose_from_transform(found.transform)
