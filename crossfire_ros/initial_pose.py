"""Where the robot begins: as somebody says, where it was last, or as the parameters have it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped

from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import USUAL_HINT, Tracker
from crossfire_core.localization.uncertainty import diagonal
from crossfire_ros.conversions import (
    MessageError,
    covariance_from_message,
    pose_from_message,
    stamp_to_ns,
)
from crossfire_ros.map_loading import LoadedMap
from crossfire_ros.pose_file import PoseKeeper
from crossfire_ros.transforms import lookup, tf

if TYPE_CHECKING:
    from crossfire_ros.localization_node import LocalizationNode

# A kept pose that is older than this counts less than one that the parameters give.
_FRESH_S = 60.0


class InitialPose:
    """Hears of poses, and keeps the last one from one run to the next.

    Attributes:
        pending: what was said while nothing was localized, or None.
    """

    def __init__(self, node: LocalizationNode) -> None:
        """Know of none."""
        self._node = node
        self._keeper: PoseKeeper | None = None
        self.pending: PoseWithCovarianceStamped | None = None

    def hear(self, message: PoseWithCovarianceStamped) -> None:
        """Have the tracker begin there, or note it for when there is one."""
        tracker = self._node.tracker
        if tracker is None:
            self.pending = message
            self._node.get_logger().info("initial pose noted for when localization begins")
            return
        said = self._read(message)
        if said is not None:
            stamp = stamp_to_ns(message.header.stamp)
            self._node.worker.call(lambda: self._take(tracker, stamp, *said))

    def choose(self, tracker: Tracker) -> None:
        """By what was said while inactive, a fresh kept pose, the parameters, or an old one."""
        hint, self.pending = self.pending, None
        node, kept = self._node, self._keeper.read() if self._keeper is not None else None
        if hint is not None:
            said = self._read(hint)
            if said is not None:
                tracker.set_prior(stamp_to_ns(hint.header.stamp), *said)
        elif node.settings.node.set_initial_pose and not (kept and kept.age_s() < _FRESH_S):
            start = node.settings.initial_pose
            turned = Pose.exp([0.0, 0.0, 0.0, 0.0, 0.0, start.yaw]).rotation
            pose = Pose(turned, np.array([start.x, start.y, start.z]))
            tracker.set_prior(0, pose, diagonal(start.sigma_m, math.radians(start.sigma_deg)))
        elif kept is not None:
            kept.start(tracker, node.get_clock().now().nanoseconds)
            age = kept.age_s()
            old = f"{age:.0f} s old" if math.isfinite(age) else "whose age is not known"
            node.get_logger().info(f"starting from the kept pose, {old}")

    def keep_in(self, loaded: LoadedMap) -> None:
        """Keep poses of a map from now on, where the parameters name a file for them."""
        file, self._keeper = self._node.settings.node.pose_file, None
        if file:
            self._keeper = PoseKeeper(
                Path(file).expanduser(), self._node.maps.frame, loaded.identity,
                lambda text: self._node.warn("pose_file", text),
            )  # fmt: skip

    def keep(self, tracker: Tracker | None, period_s: float = 0.0) -> None:
        """Write the last pose, but not more often than that."""
        keeper = self._keeper  # another thread may stop keeping meanwhile
        if tracker is not None and keeper is not None:
            keeper.write(tracker, period_s)

    def stop_keeping(self) -> None:
        """What is localized from now on is of another map, or of none."""
        self._keeper = None

    def _read(self, message: PoseWithCovarianceStamped) -> tuple[Pose, np.ndarray] | None:
        """``map_from_base`` with its covariance; None where it is of no use, which is said."""
        try:
            frame = message.header.frame_id.lstrip("/")
            if not frame:
                raise MessageError("it names no frame")
            pose = pose_from_message(message.pose.pose)
            covariance = covariance_from_message(message.pose.covariance, USUAL_HINT)
            if frame == self._node.maps.frame:
                return pose, covariance
            map_from_frame = lookup(self._node.buffer, self._node.maps.frame, frame)
        except (MessageError, tf.TransformException) as error:
            self._node.refuse("initialpose", f"initialpose is refused: {error}")
            return None
        turn = np.kron(np.eye(2), map_from_frame.rotation)
        return map_from_frame @ pose, turn @ covariance @ turn.T

    def _take(self, tracker: Tracker, stamp: int, pose: Pose, covariance: np.ndarray) -> None:
        if tracker is not self._node.tracker:
            return  # it was of another map
        tracker.set_prior(stamp, pose, covariance)
        self._node.get_logger().info("initial pose taken, images will confirm it")
        self._node.note_state(tracker.state)
