"""Listens to what the node publishes while a bag is played to it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from tf2_msgs.msg import TFMessage

from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import TrackingState
from crossfire_ros.conversions import pose_from_message, pose_from_transform, stamp_to_ns
from crossfire_ros.play import Player
from crossfire_ros.tf_fallback import TF_QOS

_LOCALIZES = {state.value for state in TrackingState}
_LATCHED = QoSProfile(
    depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


@dataclass(frozen=True)
class RecordedPose:
    """One message of ``~/pose``.

    Attributes:
        stamp_ns: of its image.
        arrived_ns: time of the bag when it came.
        played_s: seconds of playing until then.
        map_from_base: the pose.
        covariance: ``[6, 6]``.
    """

    stamp_ns: int
    arrived_ns: int
    played_s: float
    map_from_base: Pose
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class RecordedTransform:
    """One correction on ``/tf``.

    Attributes:
        arrived_ns: time of the bag when it came.
        played_s: seconds of playing until then.
        map_from_child: map to odom, or map to base without odometry.
        child: which of them.
    """

    arrived_ns: int
    played_s: float
    map_from_child: Pose
    child: str


@dataclass
class Recorded:
    """All that was heard.

    Attributes:
        poses: from ``~/pose``.
        transforms: from ``/tf``.
        states: changes of state: (seconds of playing, state).
        status: the last status, as a mapping.
        latencies_ms: milliseconds for each image, by stage.
        memory_mb: most that the node had in memory, None where that cannot be read.
        cpu_s: processor time of the node while playing, of all its threads.
        lived_s: wall-clock seconds of that.
    """

    poses: list[RecordedPose] = field(default_factory=list)
    transforms: list[RecordedTransform] = field(default_factory=list)
    states: list[tuple[float, str]] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)
    latencies_ms: list[dict[str, float]] = field(default_factory=list)
    memory_mb: float | None = None
    cpu_s: float = 0.0
    lived_s: float = 0.0


class Recorder:
    """Subscribes through a node that somebody else spins."""

    def __init__(self, node: Node, target: str, map_frame: str, player: Player) -> None:
        """Subscribe.

        Args:
            node: to listen through.
            target: full name of the localization node.
            map_frame: parent of the transforms to keep.
            player: whose time counts.
        """
        self.recorded = Recorded()
        self._map_frame, self._player = map_frame, player
        self._processed = ""
        self._heard = threading.Event()
        node.create_subscription(PoseWithCovarianceStamped, f"{target}/pose", self._on_pose, 50)
        node.create_subscription(DiagnosticStatus, f"{target}/status", self._on_status, _LATCHED)
        node.create_subscription(TFMessage, "/tf", self._on_tf, TF_QOS)

    def wait_until_heard(self, timeout_s: float) -> bool:
        """Wait, while another thread spins, until a status says that the node localizes."""
        return self._heard.wait(timeout_s)

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        self.recorded.poses.append(
            RecordedPose(
                stamp_to_ns(message.header.stamp),
                self._player.clock.now(),
                self._player.played_s,
                pose_from_message(message.pose.pose),
                np.asarray(message.pose.covariance, dtype=np.float64).reshape(6, 6),
            )
        )

    def _on_tf(self, message: TFMessage) -> None:
        for transform in message.transforms:
            if transform.header.frame_id == self._map_frame:
                pose = pose_from_transform(transform.transform)
                self.recorded.transforms.append(
                    RecordedTransform(
                        self._player.clock.now(),
                        self._player.played_s,
                        pose,
                        transform.child_frame_id,
                    )
                )

    def _on_status(self, message: DiagnosticStatus) -> None:
        recorded = self.recorded
        status = {value.key: value.value for value in message.values}
        if status.get("state") in _LOCALIZES:  # not while the map is still being loaded
            self._heard.set()
        recorded.status = {**status, "message": message.message}
        state = status.get("state", "")
        if not recorded.states or recorded.states[-1][1] != state:
            recorded.states.append((self._player.played_s, state))
        if status.get("images_processed") != self._processed:
            self._processed = status.get("images_processed", "")
            recorded.latencies_ms.append(
                {
                    key.removesuffix("_ms"): float(value)
                    for key, value in status.items()
                    if key.endswith("_ms") and key != "pose_age_ms"
                }
            )
