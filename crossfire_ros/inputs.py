"""What the node hears while it is active: images, calibrations and odometry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crossfire_ros.cameras import CameraInput, Moments, Shot
from crossfire_ros.conversions import MessageError, odometry_from_message, stamp_to_ns
from crossfire_ros.odometry_checks import TwistOnly
from crossfire_ros.outputs import latched

if TYPE_CHECKING:
    from crossfire_ros.localization_node import LocalizationNode

Incoming = Image | CompressedImage
Moment = list[Shot[Incoming]]


class Inputs:
    """Subscriptions of one activation; what they bring is converted and handed to the node.

    Attributes:
        cameras: what is known of each camera, by name; the only one of a robot has none.
        topics: where each input comes from, by kind.
    """

    def __init__(self, node: LocalizationNode) -> None:
        """Know nothing, and hear nothing before :meth:`listen`."""
        self._node, self._config = node, node.settings.node
        self.cameras = {
            name: CameraInput(name, self._config) for name in self._config.cameras or ("",)
        }
        self.topics: dict[str, str] = {}
        self._moments: Moments[Incoming] = Moments(list(self.cameras), self._config.camera_sync)
        self._latched: set[str] = set()
        self._subscriptions: list[Any] = []
        self._twist_only = TwistOnly()

    def listen(self) -> None:
        """Subscribe."""
        config, wanted = self._config, dict[str, tuple[Any, str, Callable[[Any], None], int]]()
        compressed = config.image_transport == "compressed"
        kind = CompressedImage if compressed else Image
        for camera in self.cameras.values():
            # image_transport's rule: the name of the raw images, remapped, and what transports them
            topic = self._node.resolve_topic_name(camera.topic("image"))
            camera.image_topic = f"{topic}/compressed" if compressed else topic
            camera.info_topic = self._node.resolve_topic_name(camera.topic("camera_info"))
            see, learn = partial(self._on_image, camera), partial(self._on_camera_info, camera)
            wanted[camera.kind("image")] = (kind, camera.image_topic, see, 1)
            wanted[camera.kind("camera_info")] = (CameraInfo, camera.info_topic, learn, 1)
        if config.use_odometry and config.odometry_source == "topic":
            wanted["odometry"] = (Odometry, "odom", self._on_odometry, 100)
        for name, (kind, topic, callback, depth) in wanted.items():
            subscription = self._node.create_subscription(
                kind, topic, callback, _sensor_qos(depth),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )  # fmt: skip
            self._subscriptions.append(subscription)
            self.topics[name] = subscription.topic_name
        for camera in self.cameras.values():
            # The whole name may have been remapped, too; it says whether images are rectified.
            camera.image_topic = self.topics[camera.kind("image")]
        if config.use_odometry and config.odometry_source == "tf":
            self.topics["odometry"] = f"/tf from {config.odom_frame} to {config.base_frame}"

    def listen_to_latched_calibration(self) -> None:
        """Also hear a calibration that was published once and for all, before this node listened.

        Only where somebody latches it: asked of others, it makes their drivers warn.
        """
        for camera in self.cameras.values() if self._subscriptions else ():
            topic = camera.info_topic
            if camera.camera is not None or topic in self._latched:
                continue
            offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
            if any(offer.durability is DurabilityPolicy.TRANSIENT_LOCAL for offer in offers):
                take = partial(self._on_camera_info, camera)
                kept = self._node.create_subscription(CameraInfo, topic, take, latched())
                self._subscriptions.append(kept)
                self._latched.add(topic)

    def close(self) -> None:
        """Hear nothing more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_image(self, camera: CameraInput, message: Incoming) -> None:
        tally, kind = self._node.tally, camera.kind("image")
        tally.received += 1
        tally.hear(kind)
        stamp = stamp_to_ns(message.header.stamp)
        if stamp == 0:
            self._node.refuse(kind, "image has no stamp: its publisher must fill header.stamp")
            return
        for moment in self._moments.add(Shot(camera.name, stamp, message)):
            self._node.take_moment(moment)

    def _on_camera_info(self, camera: CameraInput, message: CameraInfo) -> None:
        if self._config.calibration:
            return  # the file holds instead
        try:
            advice = camera.take_info(message)
        except MessageError as error:
            self._node.refuse(camera.kind("camera_info"), str(error))
            return
        self._node.tally.hear(camera.kind("camera_info"))
        if advice:
            self._node.warn("rectified", advice)

    def _on_odometry(self, message: Odometry) -> None:
        try:
            stamp, pose, covariance = odometry_from_message(
                message, self._config.odom_frame, self._config.base_frame
            )
        except MessageError as error:
            self._node.refuse("odometry", str(error))
            return
        self._node.tally.note("twist", self._twist_only.note(stamp, pose, message))
        self._node.take_odometry(stamp, pose, covariance)


def _sensor_qos(depth: int) -> QoSProfile:
    """Heard from publishers of either reliability; a new one each time, as overrides change it."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
