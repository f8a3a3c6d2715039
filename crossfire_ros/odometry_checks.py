"""What is wrong with odometry although each message of it is well formed."""

from __future__ import annotations

import math

import numpy as np
from nav_msgs.msg import Odometry

from crossfire_core.geometry import Pose
from crossfire_core.localization.odometry import OdometrySample

_STUCK_M, _STUCK_RAD = 0.3, 0.3  # by which a pose that stands is off from its own twist
_APART_M, _APART_RAD = 0.1, 0.1  # by which odometry on /tf lies beside that of the topic
_LONGEST_STEP_S = 1.0  # over which a twist is carried on


class TwistOnly:
    """Notices odometry whose pose stands still while its twist says that the robot moves."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._pose: Pose | None = None
        self._stamp_ns = 0
        self._metres = self._radians = 0.0

    def note(self, stamp_ns: int, pose: Pose, message: Odometry) -> str:
        """Take a message in.

        Args:
            stamp_ns: of the message.
            pose: of the message.
            message: with the twist.

        Returns:
            What is wrong and what to do, or an empty string.
        """
        twist = message.twist.twist
        speed = math.hypot(twist.linear.x, twist.linear.y, twist.linear.z)
        turning = math.hypot(twist.angular.x, twist.angular.y, twist.angular.z)
        seconds = min(max(0.0, (stamp_ns - self._stamp_ns) * 1e-9), _LONGEST_STEP_S)
        if self._pose is None or not _same(self._pose, pose):
            self._metres = self._radians = 0.0
        else:
            self._metres += speed * seconds
            self._radians += turning * seconds
        self._pose, self._stamp_ns = pose, stamp_ns
        if self._metres < _STUCK_M and self._radians < _STUCK_RAD:
            return ""
        return (
            f"the odometry's pose stands still while its twist says {speed:.2f} m/s and "
            f"{turning:.2f} rad/s: integrate it (robot_localization), or set use_odometry to false"
        )


def _same(a: Pose, b: Pose) -> bool:
    """To the last digit: a pose that is measured never repeats itself."""
    return np.array_equal(a.translation, b.translation) and np.array_equal(a.rotation, b.rotation)


class TopicAgainstTf:
    """Notices odometry that puts the robot elsewhere than the transforms do."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._times = 0

    def look(self, by_topic: OdometrySample | None, by_tf: Pose, base_frame: str) -> str:
        """Compare both at one time.

        Args:
            by_topic: what the topic says, None where it says nothing.
            by_tf: what the transforms say.
            base_frame: of the robot.

        Returns:
            What is wrong and what to do, once it was seen twice in a row; or an empty string.
        """
        if by_topic is None:
            return ""
        metres, radians = by_tf.distance(by_topic.odom_from_base)
        self._times = self._times + 1 if metres > _APART_M or radians > _APART_RAD else 0
        if self._times < 2:
            return ""
        return (
            f"odometry puts {base_frame} {metres:.2f} m and {math.degrees(radians):.0f} deg away "
            "from where /tf has it (a filter corrects it?): set odometry_source to tf, else the "
            "robot is elsewhere in RViz than ~/pose says"
        )
