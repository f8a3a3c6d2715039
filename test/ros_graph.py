"""A live ROS graph for tests: the node, and a peer that talks to it. No sleeps, only conditions."""

from __future__ import annotations

import gc
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import WIDE, Matches, PoseEstimate
from crossfire_core.localization.uncertainty import diagonal
from crossfire_ros.conversions import (
    image_to_message,
    pose_to_message,
    stamp_from_ns,
    stamp_to_ns,
    transform_from_pose,
)
from crossfire_ros.localization_node import LocalizationNode
from crossfire_ros.map_loading import LoadedMap
from crossfire_ros.runtime import lean_executor
from crossfire_ros.transforms import tf

DEADLINE_S = 120.0  # only what never comes takes so long: a busy machine is not to turn tests red
ANSWER_S = 6.0  # what has not come by then was lost
CAMERA = Camera(64, 48, 50.0, 51.0, 32.5, 24.5)
BASE_FROM_CAMERA = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.2, 0.0, 0.5]))
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class ServiceNotFoundError(AssertionError):
    """Fast DDS did not find a service of another node of this process."""


@dataclass
class FakeLocalizer:
    """Sees the camera wherever the test puts it."""

    map_from_base: Pose = field(default_factory=Pose.identity)
    blind: bool = False
    evidence: float = 40.0
    priors: list = field(default_factory=list)
    error: Exception | None = None
    hold: Any = None  # an Event that a localization waits for

    def localize(self, image, camera, prior=None, *, search=WIDE):
        self.priors.append(prior)
        if self.hold is not None:
            self.hold.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        if self.blind:
            return PoseEstimate(False, "nothing matches")
        pixels = np.array([[10.0, 10.0], [40.0, 30.0]])
        return PoseEstimate(
            True,
            "",
            self.map_from_base @ BASE_FROM_CAMERA,
            diagonal(0.01, 0.002),
            inliers=150,
            matches=200,
            spread=0.8,
            residual_px=0.1,
            iterations=1,
            evidence=self.evidence,
            timings_ms={"render": 1.0},
            details=Matches(pixels, np.zeros((2, 3)), np.ones(2), np.array([True, False])),
        )


class Graph:
    """The node under test and a peer in one process and one executor."""

    def __init__(
        self,
        context: Context,
        parameters: dict[str, Any],
        load: Any = None,
        cli_args: list[str] | None = None,
        namespace: str = "",
    ) -> None:
        """``cli_args`` are the node's; in a namespace, which they name, they are the peer's too."""
        self.localizer, self.namespace = FakeLocalizer(), namespace
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = LocalizationNode(
            load or self.load, context=context, parameter_overrides=overrides, cli_args=cli_args
        )
        self.peer = Node("peer", context=context, cli_args=cli_args if namespace else None)
        self.executor = lean_executor(context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.rng = np.random.default_rng(0)
        self.odom_from_base: Pose | None = None  # None: as if odometry knew the map
        self.image_stamps: set[int] = set()
        self.stamp = time.time_ns()
        self.received: dict[str, list[Any]] = defaultdict(list)
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        for topic, kind, qos in (
            ("~/pose", PoseWithCovarianceStamped, 10),
            ("~/status", DiagnosticStatus, LATCHED),
            ("/diagnostics", DiagnosticArray, 10),
            ("/tf", TFMessage, 100),
        ):
            self.listen(topic, kind, qos)
        self.statics = tf.StaticTransformBroadcaster(self.peer)

    def load(self, settings: Any) -> Any:
        return lambda: LoadedMap(
            self.localizer, "map", BASE_FROM_CAMERA, "fake.map", [BASE_FROM_CAMERA]
        )

    # Talking

    def listen(self, topic: str, kind: Any, qos: Any = 10) -> None:
        self.peer.create_subscription(kind, self._named(topic), self.received[topic].append, qos)

    def _named(self, topic: str) -> str:
        return topic.replace("~", f"{self.namespace}/crossfire_localization")

    def listen_late(self, topic: str, kind: Any) -> list[Any]:
        """What a listener gets that came after the message was published."""
        heard: list[Any] = []
        self.peer.create_subscription(kind, self._named(topic), heard.append, LATCHED)
        return heard

    def publisher(self, topic: str, kind: Any, qos: Any = qos_profile_sensor_data) -> Any:
        """A publisher that somebody listens to."""
        if topic not in self._publishers:
            self._publishers[topic] = self.peer.create_publisher(kind, topic, qos)
        publisher = self._publishers[topic]
        self.wait(lambda: publisher.get_subscription_count() > 0, f"nobody listens to {topic}")
        return publisher

    def wait(self, condition: Callable[[], Any], what: str = "") -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, what or "condition was not met in time"
            self.executor.spin_once(timeout_sec=0.01)

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        """The answer of a service; asked again where the answer has got lost.

        Between two nodes of one process an answer is lost now and then while the server has not
        yet found the client. All that is called here may be called twice.
        """
        for _ in range(round(DEADLINE_S / ANSWER_S)):
            future = self._client(kind, name).call_async(request or kind.Request())
            patience = time.monotonic() + ANSWER_S
            while not future.done() and time.monotonic() < patience:
                self.executor.spin_once(timeout_sec=0.01)
            if future.done():
                return future.result()
            del self._clients[name]
        raise AssertionError(f"{name} does not answer")

    def _client(self, kind: Any, name: str) -> Any:
        """A client that has found its service.

        Between two nodes of one process Fast DDS misses a service once in some hundred times,
        for ever; another client finds it.
        """
        deadline = time.monotonic() + DEADLINE_S / 6
        while name not in self._clients or not self._clients[name].service_is_ready():
            if time.monotonic() > deadline:
                raise ServiceNotFoundError(f"no service {name}")
            self._clients[name] = self.peer.create_client(kind, name)
            patience = time.monotonic() + 2.0
            while time.monotonic() < patience and not self._clients[name].service_is_ready():
                self.executor.spin_once(timeout_sec=0.01)
        return self._clients[name]

    # Lifecycle

    def change(self, transition: int) -> bool:
        """Ask for a transition that is possible; whether it was made, answered or not.

        The service and what it does are rclpy's. Where middleware does not find it in this
        process, the node is asked directly: the transition is what a test is about.
        """
        before = self.state()
        request = ChangeState.Request(transition=Transition(id=transition))
        try:
            answer = self.call(ChangeState, "/crossfire_localization/change_state", request)
        except ServiceNotFoundError:
            return bool(self._trigger(transition) is TransitionCallbackReturn.SUCCESS)
        return bool(answer.success) or self.state() != before

    def _trigger(self, transition: int) -> TransitionCallbackReturn:
        steps = {
            Transition.TRANSITION_CONFIGURE: self.node.trigger_configure,
            Transition.TRANSITION_ACTIVATE: self.node.trigger_activate,
            Transition.TRANSITION_DEACTIVATE: self.node.trigger_deactivate,
            Transition.TRANSITION_CLEANUP: self.node.trigger_cleanup,
        }
        return steps.get(transition, self.node.trigger_shutdown)()

    def state(self) -> str:
        try:
            answer = self.call(GetState, "/crossfire_localization/get_state")
        except ServiceNotFoundError:
            return str(self.node._state_machine.current_state[1])
        return str(answer.current_state.label)

    def configure(self) -> Graph:
        """Configured, with the map loaded."""
        assert self.node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        self.wait(lambda: self.node.maps.loaded is not None)
        return self

    def activate(self) -> Graph:
        self.configure()
        assert self.node.trigger_activate() is TransitionCallbackReturn.SUCCESS
        return self

    def ready(self) -> Graph:
        """Active, with calibration and the camera's place known."""
        self.activate()
        self.send_extrinsics()
        self.send_camera_info()
        return self

    def tracking(self) -> Graph:
        self.ready()
        self.wait_for_fix()
        return self

    # Sensors

    def tick(self, seconds: float = 0.1) -> int:
        """Later, but never ahead of the clock."""
        self.stamp = max(self.stamp + 1_000_000, time.time_ns())
        return self.stamp

    def set_clock(self, stamp_ns: int) -> None:
        """Simulated time, told until it is heard: it comes best effort, and may get lost."""
        clocks = self.publisher("/clock", Clock, 10)
        message, here = clock(stamp_ns), self.node.get_clock()
        self.wait(lambda: clocks.publish(message) or here.now().nanoseconds == stamp_ns)

    def send_extrinsics(self) -> None:
        pose = transform_from_pose(BASE_FROM_CAMERA, "base_link", "camera", stamp_from_ns(0))
        self.statics.sendTransform(pose)
        buffer = self.node.buffer
        self.wait(lambda: _knows(buffer, "base_link", "camera"))

    def send_camera_info(self, camera: Camera = CAMERA, **changes: Any) -> None:
        message = camera_info(camera)
        for name, value in changes.items():
            setattr(message, name, value)
        known = self.node.inputs.cameras[""]
        before = known.camera, self.node.tally.refused["camera_info"]
        self.publisher("camera_info", CameraInfo).publish(message)
        if before[0] is None or changes or camera != CAMERA:
            self.wait(lambda: (known.camera, self.node.tally.refused["camera_info"]) != before)

    def hold_an_image(self) -> int:
        """Have one be localized until ``localizer.hold`` is set; how many there were before it."""
        self.localizer.hold = threading.Event()
        asked = len(self.localizer.priors)
        self.send_image()
        self.wait(lambda: len(self.localizer.priors) > asked)
        return asked

    def send_odometry(self, **frames: str) -> None:
        pose = self.odom_from_base or self.localizer.map_from_base
        message = odometry(pose, self.tick(), **frames)
        self.publisher("odom", Odometry).publish(message)

    def send_image(self, image: np.ndarray | None = None, frame: str = "camera") -> None:
        if image is None:
            image = self.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        message = image_to_message(image, frame, self.tick())
        self.image_stamps.add(self.stamp)
        self.publisher("image", Image).publish(message)

    def process_image(self, **kwargs: Any) -> None:
        """Send one image and wait until the node is through with it."""
        tally = self.node.tally

        def finished() -> int:
            looked_at = tally.processed + tally.stale + tally.skipped
            return looked_at + sum(dict(tally.refused).values())

        before = finished()
        self.send_image(**kwargs)
        self.wait(lambda: finished() > before)

    def wait_for_fix(self, odometry: bool = True) -> PoseWithCovarianceStamped:
        """Images and odometry until a new pose comes out."""
        before = len(self.received["~/pose"])
        self.drive_until(lambda: len(self.received["~/pose"]) > before, odometry)
        return self.received["~/pose"][-1]

    def drive_until(self, condition: Callable[[], Any], odometry: bool = True) -> None:
        """Images and odometry until something is true: discovery may take its time."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"condition was not met in time: {self.status()}"
            if odometry:
                self.send_odometry()
            self.process_image()
            for _ in range(5):
                self.executor.spin_once(timeout_sec=0.005)

    # What it says

    def status(self) -> dict[str, str]:
        """The latest status, with its message."""
        if not self.received["~/status"]:
            return {}
        status = self.received["~/status"][-1]
        return {"message": status.message, **{v.key: v.value for v in status.values}}

    def wait_for_state(self, state: str) -> None:
        self.wait(lambda: self.status().get("state") == state, f"state never became {state}")

    def wait_for_message(self, words: str) -> None:
        self.wait(lambda: words in self.status().get("message", ""), f"status never said: {words}")

    def transforms(self, child: str) -> list[Any]:
        return [t for m in self.received["/tf"] for t in m.transforms if t.child_frame_id == child]

    def transforms_sent_after(
        self, wall_ns: int, tolerance_s: float = 0.1, child: str = "odom"
    ) -> list[Any]:
        """Those that the node published after a time; others may still have been under way."""
        limit = wall_ns + int(tolerance_s * 1e9)
        return [t for t in self.transforms(child) if stamp_to_ns(t.header.stamp) > limit]


def _knows(buffer: Any, target: str, source: str) -> bool:
    return bool(buffer.can_transform(target, source, rclpy.time.Time()))


def camera_info(camera: Camera) -> CameraInfo:
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model="plumb_bob")
    message.k = camera.opencv_matrix.ravel()
    message.d = [0.0] * 5
    message.header.frame_id = "camera"
    return message


def odometry(pose: Pose, stamp_ns: int, parent: str = "odom", child: str = "base_link") -> Odometry:
    message = Odometry(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp_from_ns(stamp_ns)
    message.pose.pose = pose_to_message(pose)
    return message


def clock(stamp_ns: int) -> Clock:
    return Clock(clock=stamp_from_ns(stamp_ns))


@contextmanager
def graph(
    load: Any = None, cli_args: list[str] | None = None, namespace: str = "", **parameters: Any
):
    """A graph of its own, taken down afterwards; dots in names are written as two underscores."""
    context = Context()
    rclpy.init(context=context)
    named = {name.replace("__", "."): value for name, value in parameters.items()}
    made = None
    try:
        made = Graph(context, named, load, cli_args, namespace)
        yield made
    finally:
        if made is not None:
            if made.localizer.hold is not None:
                made.localizer.hold.set()
            made.executor.shutdown()
            made.node.destroy_node()
            made.peer.destroy_node()
        rclpy.try_shutdown(context=context)
        # ROS gives back a participant only when nothing refers to it, and nodes are in cycles.
        del made, context
        gc.collect()
