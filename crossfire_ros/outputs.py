"""What the node publishes while it has a map."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Path
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import TrackResult
from crossfire_ros.conversions import (
    image_to_message,
    pose_to_message,
    pose_with_covariance,
    stamp_from_ns,
)
from crossfire_ros.drawing import draw_matches
from crossfire_ros.map_loading import LoadedMap

_PATH_PERIOD_S = 1.0  # a path is long and only looked at


def latched() -> QoSProfile:
    """Reliable, and the last message is kept for who comes later; listeners may ask for less."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class Outputs:
    """Poses and pictures; status and transforms have owners of their own."""

    def __init__(self, node: Node) -> None:
        """Advertise."""
        self._node = node
        self._poses = node.create_publisher(PoseWithCovarianceStamped, "~/pose", latched())
        self._path = node.create_publisher(Path, "~/path", latched())
        self._debug = node.create_publisher(Image, "~/debug_image", 1)
        self._views = node.create_publisher(PoseArray, "~/mapping_views", latched())
        self._publishers = [self._poses, self._path, self._debug, self._views]
        self._path_sent_s = -math.inf
        self.path = Path()

    def withdraw(self) -> None:
        """Take everything down; what was latched is gone."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def clear_path(self) -> None:
        """Begin a new path."""
        self.path, self._path_sent_s = Path(), -math.inf

    def publish_fix(self, result: TrackResult, frame: str, path_length: int) -> bool:
        """Publish the pose of a result that has one, and make the path longer.

        Args:
            result: of an image.
            frame: of the pose.
            path_length: most poses on the path.

        Returns:
            Whether there was a pose to publish.
        """
        pose, covariance = result.map_from_base, result.covariance
        if pose is None or covariance is None:
            return False
        if not pose.is_finite() or not np.isfinite(covariance).all():
            return False
        self._poses.publish(pose_with_covariance(pose, covariance, frame, result.stamp_ns))
        self._lengthen_path(pose, frame, result.stamp_ns, path_length)
        return True

    def publish_debug(self, image: NDArray[np.uint8], frame: str, result: TrackResult) -> None:
        """Publish an image with its matches, if anybody wants to see it."""
        if self._debug.get_subscription_count():
            drawn = draw_matches(image, result)
            self._debug.publish(image_to_message(drawn, frame, result.stamp_ns))

    def publish_map(self, loaded: LoadedMap, frame: str, stamp_ns: int) -> None:
        """Publish where a map holds: its views, and its grid and cloud where it has them."""
        views = PoseArray(poses=[pose_to_message(view) for view in loaded.mapping_views])
        views.header.frame_id, views.header.stamp = frame, stamp_from_ns(stamp_ns)
        self._views.publish(views)
        made = loaded.geometry
        if made is None:
            return
        # Not before there is a map: these load torch, and the node shall answer meanwhile.
        from crossfire_ros.map_messages import cloud_to_message, grid_to_message

        if made.grid is not None:
            grid = grid_to_message(made.grid, made.map_from_grid, frame, stamp_ns)
            self._publish_latched(OccupancyGrid, "~/map", grid)
        if made.cloud is not None:
            cloud = cloud_to_message(made.cloud, frame, stamp_ns)
            self._publish_latched(PointCloud2, "~/map_cloud", cloud)

    def _publish_latched(self, kind: Any, topic: str, message: Any) -> None:
        publisher = self._node.create_publisher(kind, topic, latched())
        self._publishers.append(publisher)
        publisher.publish(message)

    def _lengthen_path(self, pose: Pose, frame: str, stamp_ns: int, length: int) -> None:
        stamped = PoseStamped()
        stamped.header.frame_id, stamped.header.stamp = frame, stamp_from_ns(stamp_ns)
        stamped.pose = pose_to_message(pose)
        self.path.poses.append(stamped)
        del self.path.poses[:-length]
        now = time.monotonic()
        # Thousands of poses take Python a tenth of a second to publish.
        if now - self._path_sent_s >= _PATH_PERIOD_S and self._path.get_subscription_count():
            self._path_sent_s = now
            self.path.header = stamped.header
            self._path.publish(self.path)
