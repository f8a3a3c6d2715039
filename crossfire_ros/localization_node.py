"""The lifecycle node: images and odometry in; a pose, a transform and an honest status out.

Callbacks convert and hand over, one worker thread localizes, the newest image wins.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Empty, Trigger

from crossfire_core.errors import CrossfireError
from crossfire_core.geometry import Pose
from crossfire_core.localization.rig import RigImage
from crossfire_core.localization.tracker import USUAL_HINT, Tracker, TrackingState, TrackResult
from crossfire_core.localization.uncertainty import diagonal, sigmas
from crossfire_core.recordings.camera_info import CameraView
from crossfire_ros import parameters, runtime
from crossfire_ros.bonds import start_bond
from crossfire_ros.cameras import CameraInput, Moments, Shot
from crossfire_ros.conversions import (
    MessageError,
    covariance_from_message,
    image_from_message,
    odometry_from_message,
    pose_from_message,
    stamp_from_ns,
    stamp_to_ns,
    transform_from_pose,
)
from crossfire_ros.frame_watch import WatchedBuffer
from crossfire_ros.image_gate import RateLimit, stands
from crossfire_ros.map_loading import LoadedMap, Loading, MapLoader, ReadMap, load_map
from crossfire_ros.odometry_checks import TwistOnly
from crossfire_ros.outputs import Outputs, latched
from crossfire_ros.pose_file import PoseKeeper
from crossfire_ros.reporting import (
    Report,
    Tally,
    idle_status,
    inputs_status,
    missing_inputs,
    status_message,
    transforms_status,
)
from crossfire_ros.settings import NODE_NAME, check_frames
from crossfire_ros.transform_health import TransformHealth
from crossfire_ros.transforms import latest, lookup, tf
from crossfire_ros.worker import Worker

NAME = NODE_NAME

_WARNING_PERIOD_S = 5.0
_STATUS_PERIOD_S, _LOADING_POLL_S = 1.0, 0.05
# How long an image waits for the transform of a camera on a moving joint.
_TF_PATIENCE_S, _TF_POLL_S = 0.1, 0.005
# A computation that takes longer when the process is told to end is left to die with it.
_LAST_PATIENCE_S = 0.3
# A kept pose that is older than this counts less than one that the parameters give.
_FRESH_POSE_S = 60.0

Incoming = Image | CompressedImage
Moment = list[Shot[Incoming]]
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _outspoken(transition: Transition) -> Transition:
    """Log what a transition raises; rclpy turns it into an error without a word."""

    @functools.wraps(transition)
    def run(node: Any, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(f"{transition.__name__} failed: {traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return run


class LocalizationNode(LifecycleNode):
    """Localizes a robot's camera in a neural map.

    Attributes:
        settings: the parameters in force.
        tally: counts since activation.
    """

    def __init__(self, load: MapLoader = load_map, name: str = NAME, **kwargs: Any) -> None:
        """Declare parameters and say how to begin; nothing else happens before configuration.

        Args:
            load: makes the localizer from the settings.
            name: of the node.
            **kwargs: of ``rclpy.node.Node``.

        Raises:
            ConfigError: a parameter is of the wrong type or out of its range.
        """
        super().__init__(name, **kwargs)
        self._load = load
        self._loading: Loading | None = None
        self._loading_timer: Any = None
        self._failure = ""
        self._map: LoadedMap | None = None
        self._map_file = self._change_failed = ""
        self._tracker: Tracker | None = None
        self._active = self._autostarting = self._finalized = False
        self._outputs: Outputs | None = None
        self._configured_entities: list[tuple[Callable[[Any], bool], Any]] = []
        self._active_entities: list[tuple[Callable[[Any], bool], Any]] = []
        self._broadcaster: tf.TransformBroadcaster | None = None
        self._listener: tf.TransformListener | None = None
        self._keeper: PoseKeeper | None = None
        self._bond: Any = None
        self._pending_hint: PoseWithCovarianceStamped | None = None
        self._warned: dict[str, float] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        # Now, as the thread looks at what is set above, and a bad parameter takes the node down.
        self._worker: Worker[Moment] = Worker(self._process, self._tick, self._complain)
        self._loader: Worker[None] | None = None
        parameters.declare(self)
        self.settings = parameters.read(self)
        for strange in parameters.unknown(self):
            self.get_logger().warning(f"there is no parameter {strange}; it is ignored")
        parameters.guard(self, self._judge_parameters, self._take_parameters)
        self._forget_session()
        self._status_publisher = self.create_publisher(DiagnosticStatus, "~/status", latched())
        self._diagnostics_publisher = self.create_publisher(
            DiagnosticArray, "/diagnostics", latched()
        )
        self.create_timer(_STATUS_PERIOD_S, self._look_around, clock=self._steady)
        self._publish_status()

    def autostart(self) -> None:
        """Configure, and activate once the map is loaded."""
        self._autostarting = True
        self.trigger_configure()

    # Lifecycle

    @_outspoken
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Advertise, and begin to load the map; managers wait for no more than a few seconds."""
        try:
            read = self._load(self.settings)
        except (CrossfireError, MemoryError, OSError) as error:
            self._fail(str(error) or type(error).__name__)
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        self._advertise()
        self._begin_loading(read, self._worker)
        self._publish_status()
        return super().on_configure(state)

    @_outspoken
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin, or begin as soon as the map is loaded."""
        self._forget_session()
        self._active = True
        self._subscribe()
        if self._map is not None:
            self._begin_tracking(self._map)
        if self.settings.node.bond:
            self._bond = start_bond(self)
        return super().on_activate(state)

    @_outspoken
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and computing; the map stays loaded."""
        self._stop()
        self._publish_status()
        return super().on_deactivate(state)

    @_outspoken
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the map."""
        self._stop()
        self._withdraw()
        self._publish_status()
        return super().on_cleanup(state)

    @_outspoken
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs and keep the last pose."""
        self._stop()
        self._withdraw()
        self._finalized = True
        self._publish_status()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after an unforeseen error in a transition."""
        self._stop()
        self._withdraw()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Keep the last pose and take the node down, without waiting for a long computation."""
        # A map that is still being loaded is of no use to anybody now.
        first_load = self._loading is not None and self._map is None
        self._worker.stop(0.0 if first_load else _LAST_PATIENCE_S)
        if self._loader is not None:
            self._loader.stop(0.0)
        self._stop()
        super().destroy_node()
        # rclpy leaves this to when nothing refers to the node, which a computation may still do,
        # and does not give shared memory back before.
        with contextlib.suppress(RuntimeError):  # destroyed before
            self._state_machine.destroy_when_not_in_use()

    # The map

    def _begin_loading(self, read: ReadMap, worker: Worker[Any]) -> None:
        self._end_loading()
        self._loading = Loading(read, self.settings.node.map)
        worker.call(self._loading.run)
        self._loading_timer = self.create_timer(
            _LOADING_POLL_S, self._look_at_loading, clock=self._steady
        )

    def _look_at_loading(self) -> None:
        loading = self._loading
        if loading is None or not loading.done:
            return
        self._end_loading()
        found, failure = loading.result, loading.failure
        if found is not None:
            try:
                check_frames(self.settings.node, self.settings.node.map_frame or found.frame_id)
            except CrossfireError as error:
                failure = str(error)
        if found is None or failure:
            if self._map is None:
                self._give_up(failure)
            else:
                self._keep_map(loading.file, failure)
        elif self._map is not None:
            self._replace_map(found, loading.file)
        else:
            self._take_map(found, loading.file)
            if self._active:
                self._begin_tracking(found)
            elif self._autostarting:
                self.trigger_activate()
            self._autostarting = False
        self._publish_status()

    def _change_map(self) -> None:
        """Load another map while the one there is serves, on a thread kept for all that follow."""
        self._change_failed = ""
        settings = self.settings
        if settings.node.map == self._map_file:
            self._end_loading()  # the one that serves after all
        elif self._map is None:  # not even the first one is there
            self._begin_loading(lambda: self._load(settings)(), self._worker)
        else:
            self._loader = self._loader or Worker(lambda _: None, lambda: None, self._complain)
            self._begin_loading(lambda: self._load(settings)(), self._loader)
            self.get_logger().info(f"loading {settings.node.map}, {self._map.name} serves on")

    def _keep_map(self, file: str, failure: str) -> None:
        """The map that serves goes on, and the parameter says so."""
        self.get_logger().error(f"{file} does not take the map's place: {failure}")
        self.set_parameters([Parameter("map", value=self._map_file)])
        self._change_failed = f"{file} does not take the map's place: {failure}"

    def _replace_map(self, found: LoadedMap, file: str) -> None:
        """Localize in another map; where the robot was in the one before says nothing here."""
        with self._worker.held():  # what it does next is of the new map, all of it
            if self._tracker is not None and self._keeper is not None:
                self._keeper.write(self._tracker)
            self._tracker = self._keeper = None
            self._forget_poses()
            self._take_map(found, file)
            if self._active:
                self._tracker = self._new_tracker(found)

    def _take_map(self, found: LoadedMap, file: str) -> None:
        self._map, self._map_file = found, file
        assert self._outputs is not None
        now = self.get_clock().now().nanoseconds
        self._outputs.publish_map(found, self._map_frame, now)
        self.get_logger().info(
            f"map {found.name or 'loaded'} is ready, poses are in frame {self._map_frame!r}"
        )

    def _give_up(self, failure: str) -> None:
        """Back to unconfigured, so that nobody takes this for a node that works."""
        if self._active:
            self.trigger_deactivate()
        self.trigger_cleanup()
        self._fail(failure)

    def _fail(self, failure: str) -> None:
        self._failure, self._autostarting = failure, False
        self.get_logger().error(f"not configured: {failure}")
        self._publish_status()

    def _end_loading(self) -> None:
        self._loading = None
        if self._loading_timer is not None:
            self.destroy_timer(self._loading_timer)
            self._loading_timer = None

    # Setting up and taking down

    @property
    def _map_frame(self) -> str:
        loaded = self._map.frame_id if self._map is not None else ""
        return self.settings.node.map_frame or loaded

    def _now_message(self) -> Any:
        return self.get_clock().now().to_msg()

    def _forget_session(self) -> None:
        """Begin to count and to watch anew."""
        node = self.settings.node
        self.tally = Tally()
        self._cameras = {name: CameraInput(name, node) for name in node.cameras or ("",)}
        self._moments: Moments[Incoming] = Moments(list(self._cameras), node.camera_sync)
        self._hears_latched: set[str] = set()
        self._paused = False
        self._rate_limit = RateLimit()
        self._last_tf_ns = self._tf_odometry_ns = 0
        self._topics: dict[str, str] = {}
        self._health = TransformHealth(node)
        self._twist_only = TwistOnly()
        self._forget_poses()

    def _forget_poses(self) -> None:
        self._last_state: TrackingState | None = None
        self._report = Report(TrackingState.UNINITIALIZED, self.tally)
        if self._outputs is not None:
            self._outputs.clear_path()

    def _advertise(self) -> None:
        self._outputs = Outputs(self)
        hints = self.create_subscription(
            PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, 1
        )
        self._configured_entities = [(self.destroy_subscription, hints)]
        for kind, name, callback in (
            (Trigger, "~/relocalize", self._on_relocalize),
            (Trigger, "~/reset", self._on_reset),
            (Trigger, "~/pause", self._on_pause),
            (Trigger, "~/resume", self._on_resume),
            (Empty, "reinitialize_global_localization", self._on_reinitialize),
        ):
            service = self.create_service(kind, name, callback)
            self._configured_entities.append((self.destroy_service, service))

    def _withdraw(self) -> None:
        self._end_loading()
        if self._outputs is not None:
            self._outputs.withdraw()
            self._outputs = None
        for destroy, entity in self._configured_entities:
            destroy(entity)
        self._configured_entities = []
        self._map = self._pending_hint = None
        self._map_file = self._change_failed = ""

    def _subscribe(self) -> None:
        node = self.settings.node
        self._buffer = WatchedBuffer(self._on_transform)
        self._listener = tf.TransformListener(self._buffer, self)
        if self._broadcaster is None:  # tf2 offers no way to take one down
            self._broadcaster = tf.TransformBroadcaster(self)
        inputs = self._subscribe_inputs()
        self._topics = {kind: subscription.topic_name for kind, subscription in inputs.items()}
        if node.use_odometry and node.odometry_source == "tf":
            self._topics["odometry"] = f"/tf from {node.odom_frame} to {node.base_frame}"
        timer = self.create_timer(1.0 / node.tf_rate, self._broadcast, clock=self._steady)
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_time_jump,
        )
        self._active_entities = [
            *((self.destroy_subscription, s) for s in inputs.values()),
            (self.destroy_timer, timer),
            (lambda handle: bool(handle.unregister()), jumps),
        ]

    def _listen_to_latched_calibration(self) -> None:
        """Also hear a calibration that was published once and for all, before this node listened.

        Only where somebody latches it: asked of others, it makes their drivers warn.
        """
        for camera in self._cameras.values() if self._active else ():
            topic = camera.info_topic
            if camera.camera is not None or topic in self._hears_latched:
                continue
            offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
            if any(offer.durability is DurabilityPolicy.TRANSIENT_LOCAL for offer in offers):
                take = functools.partial(self._on_camera_info, camera)
                kept = self.create_subscription(CameraInfo, topic, take, latched())
                self._active_entities.append((self.destroy_subscription, kept))
                self._hears_latched.add(topic)

    def _subscribe_inputs(self) -> dict[str, Any]:
        node = self.settings.node
        compressed = node.image_transport == "compressed"
        kind = CompressedImage if compressed else Image
        wanted: dict[str, tuple[Any, str, Callable[[Any], None], int]] = {}
        for camera in self._cameras.values():
            # image_transport's rule: the name of the raw images, remapped, and what transports them
            topic = self.resolve_topic_name(camera.topic("image"))
            camera.image_topic = f"{topic}/compressed" if compressed else topic
            camera.info_topic = self.resolve_topic_name(camera.topic("camera_info"))
            see = functools.partial(self._on_image, camera)
            learn = functools.partial(self._on_camera_info, camera)
            wanted[camera.kind("image")] = (kind, camera.image_topic, see, 1)
            wanted[camera.kind("camera_info")] = (CameraInfo, camera.info_topic, learn, 1)
        if node.use_odometry and node.odometry_source == "topic":
            wanted["odometry"] = (Odometry, "odom", self._on_odometry, 100)
        inputs = {
            name: self.create_subscription(
                kind,
                topic,
                callback,
                _sensor_qos(depth),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for name, (kind, topic, callback, depth) in wanted.items()
        }
        for camera in self._cameras.values():
            # The whole name may have been remapped, too; it says whether images are rectified.
            camera.image_topic = inputs[camera.kind("image")].topic_name
        return inputs

    def _stop(self) -> None:
        for destroy, entity in self._active_entities:
            destroy(entity)
        self._active_entities = []
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
        if self._bond is not None:
            self._bond.shutdown()
            self._bond = None
        if not self._worker.stopping:
            self._worker.clear()
        if self._tracker is not None and self._keeper is not None:
            self._keeper.write(self._tracker)
        self._tracker = self._keeper = None
        self._active = False

    def _begin_tracking(self, loaded: LoadedMap) -> None:
        """Localize from where the robot is said to be, or was when the node ran last."""
        tracker = self._new_tracker(loaded)
        self._choose_start(tracker)
        self._tracker = tracker

    def _new_tracker(self, loaded: LoadedMap) -> Tracker:
        tracker = Tracker(loaded.localizer, self.settings.tracking, loaded.base_from_camera)
        self._health.name_map(self._map_frame, loaded.base_frame)
        file = self.settings.node.pose_file
        self._keeper = None
        if file:
            path = Path(file).expanduser()
            self._keeper = PoseKeeper(
                path, self._map_frame, loaded.identity, lambda text: self._warn("pose_file", text)
            )
        return tracker

    def _choose_start(self, tracker: Tracker) -> None:
        """By what was said while inactive, a fresh kept pose, the parameters, or an old one."""
        hint, self._pending_hint = self._pending_hint, None
        kept = self._keeper.read() if self._keeper is not None else None
        if hint is not None:
            try:
                pose, covariance = self._hint_from(hint)
            except (MessageError, tf.TransformException) as error:
                self._refuse("initialpose", f"initialpose is refused: {error}")
            else:
                tracker.set_prior(stamp_to_ns(hint.header.stamp), pose, covariance)
        elif self.settings.node.set_initial_pose and not (kept and kept.age_s() < _FRESH_POSE_S):
            start = self.settings.initial_pose
            turned = Pose.exp([0.0, 0.0, 0.0, 0.0, 0.0, start.yaw]).rotation
            pose = Pose(turned, np.array([start.x, start.y, start.z]))
            tracker.set_prior(0, pose, diagonal(start.sigma_m, math.radians(start.sigma_deg)))
        elif kept is not None:
            kept.start(tracker, self.get_clock().now().nanoseconds)
            age = kept.age_s()
            old = f"{age:.0f} s old" if math.isfinite(age) else "whose age is not known"
            self.get_logger().info(f"starting from the kept pose, {old}")

    def _judge_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        asked, reason = parameters.judge(changed, self.settings, self._configured)
        known = self._map_file, self.settings.node.map
        if not reason and self._configured and asked.node.map not in known:
            try:
                self._load(asked)  # looks whether it is there, no more
            except (CrossfireError, OSError) as error:
                reason = str(error)
        return parameters.result(reason)

    @property
    def _configured(self) -> bool:
        return self._loading is not None or self._map is not None

    def _take_parameters(self, changed: list[Parameter]) -> None:
        self.settings, _ = parameters.judge(changed, self.settings, False)
        if self._configured and "map" in (parameter.name for parameter in changed):
            self._change_map()
        tracker, tracking = self._tracker, self.settings.tracking
        if tracker is not None:
            self._worker.call(lambda: tracker.configure(tracking))

    # Callbacks: convert and hand over

    def _on_image(self, camera: CameraInput, message: Incoming) -> None:
        self.tally.received += 1
        self.tally.hear(camera.kind("image"))
        stamp = stamp_to_ns(message.header.stamp)
        if stamp == 0:
            self._refuse(
                camera.kind("image"), "image has no stamp: its publisher must fill header.stamp"
            )
            return
        for moment in self._moments.add(Shot(camera.name, stamp, message)):
            stamp = max(shot.stamp_ns for shot in moment)
            if self._paused or not self._rate_limit.passes(stamp, self.settings.node.max_rate):
                self.tally.skipped += len(moment)
            else:
                self._worker.submit(moment)

    def _on_camera_info(self, camera: CameraInput, message: CameraInfo) -> None:
        if self.settings.node.calibration:
            return  # the file holds instead
        try:
            advice = camera.take_info(message)
        except MessageError as error:
            self._refuse(camera.kind("camera_info"), str(error))
            return
        self.tally.hear(camera.kind("camera_info"))
        if advice:
            self._warn("rectified", advice)

    def _on_odometry(self, message: Odometry) -> None:
        node = self.settings.node
        try:
            stamp, pose, covariance = odometry_from_message(
                message, node.odom_frame, node.base_frame
            )
        except MessageError as error:
            self._refuse("odometry", str(error))
            return
        self.tally.note("twist", self._twist_only.note(stamp, pose, message))
        self._take_odometry(stamp, pose, covariance)

    def _take_odometry(self, stamp: int, pose: Pose, covariance: np.ndarray | None = None) -> None:
        self.tally.hear("odometry")
        self.tally.note("odometry", self._off_clock("odometry", stamp))
        tracker = self._tracker
        if tracker is None:
            return
        epoch = tracker.odometry.epoch
        tracker.add_odometry(stamp, pose, covariance)
        reason = tracker.odometry.reset_reason
        if tracker.odometry.epoch != epoch and reason:
            self.tally.note("reset", f"odometry began anew: {reason}")

    def _on_transform(self, message: TransformStamped, static: bool) -> None:
        self._health.heard(message, static)
        node, child = self.settings.node, message.child_frame_id.lstrip("/")
        follows = node.use_odometry and node.odometry_source == "tf" and not static
        if (
            follows
            and self._tracker is not None
            and self._health.moves_base(child, node.base_frame)
        ):
            self._take_odometry_from_tf()

    def _take_odometry_from_tf(self) -> None:
        node = self.settings.node
        try:
            stamp, pose = latest(self._buffer, node.odom_frame, node.base_frame)
        except tf.TransformException:
            return  # a part of the chain has not come yet
        if stamp == self._tf_odometry_ns:
            return
        self._tf_odometry_ns = stamp
        self._take_odometry(stamp, pose)

    def _on_time_jump(self, jump: TimeJump) -> None:
        """A bag or a simulation has begun anew: what is known of the past is of another one.

        A clock that only trembles, as one with two publishers does, goes on.
        """
        if -jump.delta.nanoseconds < self.settings.tracking.clock_jump_s * 1e9:
            return
        self._buffer.clear()
        self._last_tf_ns = self._tf_odometry_ns = 0
        self.tally.note("clock", "the clock went back: a bag or a simulation began anew")
        tracker = self._tracker
        if tracker is not None:
            self._give_command(tracker, tracker.reset)

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        tracker = self._tracker
        if tracker is None:
            self._pending_hint = message
            self.get_logger().info("initial pose noted for when localization begins")
            return
        try:
            pose, covariance = self._hint_from(message)
        except (MessageError, tf.TransformException) as error:
            self._refuse("initialpose", f"initialpose is refused: {error}")
            return
        stamp = stamp_to_ns(message.header.stamp)
        self._worker.call(lambda: self._take_hint(tracker, stamp, pose, covariance))

    def _hint_from(self, message: PoseWithCovarianceStamped) -> tuple[Pose, np.ndarray]:
        frame = message.header.frame_id.lstrip("/")
        if not frame:
            raise MessageError("it names no frame")
        pose = pose_from_message(message.pose.pose)
        covariance = covariance_from_message(message.pose.covariance, USUAL_HINT)
        if frame == self._map_frame:
            return pose, covariance
        map_from_frame = lookup(self._buffer, self._map_frame, frame)
        turn = np.kron(np.eye(2), map_from_frame.rotation)
        return map_from_frame @ pose, turn @ covariance @ turn.T

    def _take_hint(self, tracker: Tracker, stamp: int, pose: Pose, covariance: np.ndarray) -> None:
        if tracker is not self._tracker:
            return  # it was of another map
        tracker.set_prior(stamp, pose, covariance)
        self.get_logger().info("initial pose taken, images will confirm it")
        self._note_state(tracker.state)

    def _on_relocalize(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._command(answer, lambda tracker: tracker.relocalize(), "searching the map")

    def _on_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._command(answer, lambda tracker: tracker.reset(), "back to uninitialized")

    def _on_reinitialize(self, _: Empty.Request, answer: Empty.Response) -> Empty.Response:
        self._command(Trigger.Response(), lambda tracker: tracker.relocalize(), "")
        return answer

    def _on_pause(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._set_paused(True, answer)

    def _on_resume(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._set_paused(False, answer)

    def _set_paused(self, paused: bool, answer: Trigger.Response) -> Trigger.Response:
        answer.success = self._active
        answer.message = "" if self._active else "the node is not active"
        if self._active:
            self._paused = paused
            self._publish_status()
        return answer

    def _command(
        self, answer: Trigger.Response, act: Callable[[Tracker], None], text: str
    ) -> Trigger.Response:
        tracker = self._tracker
        answer.success = tracker is not None
        idle = "the map is being loaded" if self._active else "the node is not active"
        answer.message = idle if tracker is None else text
        if tracker is not None:
            self._give_command(tracker, lambda: act(tracker))
        return answer

    def _give_command(self, tracker: Tracker, act: Callable[[], None]) -> None:
        """Have the tracker begin something new, between two images."""

        def run() -> None:
            if tracker is not self._tracker:
                return  # it was of another map
            act()
            self._report.result = None
            if self._outputs is not None:
                self._outputs.clear_path()
            self._note_state(tracker.state)

        self._worker.call(run)

    # On the worker's thread

    def _process(self, moment: Moment) -> None:
        try:
            self._localize(moment)
        except CrossfireError as error:
            self._refuse("image", f"image cannot be localized: {error}")

    def _complain(self, error: Exception) -> None:
        if self._worker.stopping or not self.context.ok():
            return  # the node was taken down while an image was being processed
        self.tally.refuse("internal", f"unexpected {error!r}")
        self._warn("internal", "".join(traceback.format_exception(error)))

    def _localize(self, moment: Moment) -> None:
        tracker = self._tracker
        started = time.perf_counter()
        stamp = max(shot.stamp_ns for shot in moment)
        if tracker is None:  # the map is still being loaded
            self.tally.skipped += len(moment)
            return
        if self._is_stale(stamp):
            return
        if stands(tracker, stamp, self.settings.node):
            self.tally.skipped += len(moment)
            return
        images = [image for shot in moment if (image := self._decoded(shot)) is not None]
        if not images:
            return
        decoded = time.perf_counter()
        result = tracker.update_rig(images, stamp)
        done = time.perf_counter()
        timings = result.estimate.timings_ms if result.estimate is not None else {}
        self.tally.processed += len(images)
        self._report.timings_ms = {
            **timings,
            "decode": 1e3 * (decoded - started),
            "total": 1e3 * (done - started),
        }
        self._publish(result, images[0].image, moment[0].message.header.frame_id)

    def _decoded(self, shot: Shot[Incoming]) -> RigImage | None:
        """An image with what is known of its camera; None where it is of no use, which is said."""
        camera, header = self._cameras[shot.camera], shot.message.header
        try:
            image = image_from_message(shot.message, camera.pixel_depth)
            view = camera.view(image.shape[1], image.shape[0])
            if self.settings.node.calibration:
                self.tally.hear(camera.kind("camera_info"))
            mount = self._base_from_camera(camera.name, header.frame_id, shot.stamp_ns, view)
        except (MessageError, tf.TransformException) as error:
            self._refuse(camera.kind("image"), str(error))
        except CrossfireError as error:
            self._refuse(camera.kind("image"), f"image cannot be localized: {error}")
        else:
            return RigImage(image, view.camera, mount, camera.name)
        return None

    def _is_stale(self, stamp: int) -> bool:
        """Whether a stamp is far from the clock, which makes it useless for the robot's present.

        One stamp from the future would also make all images after it look old.
        """
        problem = self._off_clock("images", stamp)
        if not problem:
            return False
        self.tally.stale += 1
        self.tally.note("stale", f"{problem}, and dropped")
        self._warn("stale", f"{problem}, and dropped")
        return True

    def _off_clock(self, what: str, stamp: int) -> str:
        """What is wrong with a stamp beside the clock, or an empty string."""
        limit = self.settings.node.max_image_age
        age = (self.get_clock().now().nanoseconds - stamp) * 1e-9
        if limit == 0.0 or abs(age) <= limit:
            return ""
        off = f"{age:.1f} s behind" if age > 0 else f"{-age:.1f} s ahead of"
        return f"stamps of {what} are {off} the clock: synchronise the clocks, check use_sim_time"

    def _base_from_camera(self, name: str, frame: str, stamp: int, view: CameraView) -> Pose:
        assert self._map is not None
        if self.settings.node.extrinsics == "map":
            return self._map.mount(name)
        frame = frame.lstrip("/")
        if not frame:
            raise MessageError("image names no frame_id")
        deadline = time.monotonic() + _TF_PATIENCE_S
        while True:
            try:
                mounted = lookup(self._buffer, self.settings.node.base_frame, frame, stamp)
                return mounted @ view.frame_from_camera
            except tf.ExtrapolationException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_TF_POLL_S)

    def _publish(self, result: TrackResult, image: np.ndarray, frame: str) -> None:
        outputs = self._outputs
        if outputs is None or self._worker.stopping:
            return
        self._report.result = result
        if outputs.publish_fix(result, self._map_frame, self.settings.node.path_length):
            self.tally.fixes += 1
            self.tally.jumps += result.jumped
            age = self.get_clock().now().nanoseconds - result.stamp_ns
            self._report.pose_age_ms = age * 1e-6
            if self.settings.node.extrinsics == "tf" and result.map_from_base is not None:
                upward = self._map.upward if self._map is not None else None
                self._health.look_at_posture(result.map_from_base, upward, frame)
        outputs.publish_debug(image, frame, result)
        self._note_state(result.state)

    def _tick(self) -> None:
        """Between images: see whether the last fix is still worth something, and keep it."""
        tracker = self._tracker
        if tracker is None:
            return
        stamps_follow_clock = self.settings.node.max_image_age > 0.0
        now = self.get_clock().now().nanoseconds if stamps_follow_clock else None
        state = tracker.expire(now)
        if state is not self._last_state:
            self._note_state(state)
        keeper = self._keeper
        if keeper is not None:
            keeper.write(tracker, self.settings.node.pose_file_period)

    def _note_state(self, state: TrackingState) -> None:
        """Say it at once when the state changes, on top of the periodic status."""
        self._report.state = state
        if state is not self._last_state:
            result = self._report.result
            reason = f": {result.reason}" if result is not None and result.reason else ""
            if state in (TrackingState.COASTING, TrackingState.LOST):
                self.get_logger().warning(f"{state.value}{reason}")
            else:
                self.get_logger().info(f"{state.value}{reason}")
            self._last_state = state
            self._publish_status()
        else:
            self._publish_latest()

    # Periodic

    def _broadcast(self) -> None:
        """Publish the robot's place in the map once more; nothing while it is not known."""
        node = self.settings.node
        stamp = self.get_clock().now().nanoseconds + int(node.transform_tolerance * 1e9)
        early_s = (self._last_tf_ns - stamp) * 1e-9
        if not node.tf_broadcast or 0.0 <= early_s <= self.settings.tracking.clock_jump_s:
            return  # simulated time stands still or trembles, and tf warns about old stamps
        pose = self._transform_at(stamp)
        if pose is None or not pose.is_finite():
            return
        self._last_tf_ns = stamp
        assert self._broadcaster is not None
        self._health.sent(stamp)
        self._broadcaster.sendTransform(
            transform_from_pose(pose, *self._health.link, stamp_from_ns(stamp))
        )

    def _transform_at(self, stamp_ns: int) -> Pose | None:
        """The last correction of odometry; without any, the robot's pose carried on to a stamp."""
        tracker = self._tracker
        if tracker is None:
            return None
        if self.settings.node.use_odometry:
            return tracker.map_from_odom
        if not tracker.state.localized:
            return None
        prediction = tracker.predict(stamp_ns)
        return prediction.map_from_base if prediction is not None else None

    def _look_around(self) -> None:
        self._listen_to_latched_calibration()
        self._publish_status()

    def _publish_status(self) -> None:
        status = self._publish_latest()
        more = []
        if self._tracker is not None or self._active:
            more.append(inputs_status(*self._names, self._report, time.monotonic()))
        if self._tracker is not None:
            node = self.settings.node
            complaints = self._health.complaints(self._tracker, node, self._buffer)
            more.append(transforms_status(*self._names, complaints))
        array = DiagnosticArray(status=[status, *more])
        array.header.stamp = self._now_message()
        self._diagnostics_publisher.publish(array)

    def _publish_latest(self) -> DiagnosticStatus:
        tracker = self._tracker
        if tracker is None:
            status = idle_status(*self._names, *self._idle())
        else:
            self._refresh_report(tracker)
            status = status_message(*self._names, self._report)
        self._status_publisher.publish(status)
        return status

    def _idle(self) -> tuple[str, str, bytes]:
        """State, advice and level of a node that does not localize."""
        warn = DiagnosticStatus.WARN
        if self._finalized:
            return "finalized", "the node was shut down: start it again", warn
        if self._loading is not None and self._map is None:
            return "loading", f"reads {self.settings.node.map} and compiles kernels", warn
        if self._map is not None:
            return "inactive", "activate the node to localize", warn
        if self._failure:
            return "unconfigured", self._failure, DiagnosticStatus.ERROR
        begin = f"ros2 lifecycle set {self.get_fully_qualified_name()} configure, then activate"
        missing = "" if self.settings.node.map else "set the parameter `map`, then "
        return "unconfigured", f"{missing}{begin}", warn

    @property
    def _names(self) -> tuple[str, str]:
        """Of the node with its namespace, and of the map."""
        name = self.get_fully_qualified_name().lstrip("/")
        return name, self._map.name if self._map is not None else ""

    def _refresh_report(self, tracker: Tracker) -> None:
        report = self._report
        report.tally, report.paused = self.tally, self._paused
        report.map_change = self._change_failed
        if self._loading is not None:
            report.map_change = (
                f"{self._loading.file} is being loaded and will take the map's place"
            )
        report.missing = missing_inputs(self.tally, self._topics, time.monotonic())
        self.tally.dropped = self._worker.dropped
        report.odometry = "off"
        if self.settings.node.use_odometry:
            report.odometry = "none yet" if tracker.odometry.empty else "arrives"
        topic = self._topics.get("odometry", "")
        _, refusal = self.tally.notes.get("refused odometry", (0.0, ""))
        report.withheld = self._health.withheld(tracker, self.settings.node, topic, refusal)
        report.fix_age_s = report.position_sigma_m = math.nan
        fix = tracker.last_fix
        if fix is not None:
            now = self.get_clock().now().nanoseconds
            report.fix_age_s = (now - fix.stamp_ns) * 1e-9
            prediction = tracker.predict(now)
            if prediction is not None:
                report.position_sigma_m = sigmas(prediction.covariance)[0]

    # Complaints

    def _refuse(self, kind: str, reason: str) -> None:
        self.tally.refuse(kind, reason)
        self._warn(kind, reason)

    def _warn(self, kind: str, text: str) -> None:
        """Log, but not more than once in five seconds for one kind."""
        now = time.monotonic()
        if now - self._warned.get(kind, -math.inf) >= _WARNING_PERIOD_S:
            self._warned[kind] = now
            self.get_logger().warning(text)


def _sensor_qos(depth: int) -> QoSProfile:
    """Heard from publishers of either reliability; a new one each time, as overrides change it."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def start(node: LocalizationNode) -> None:
    """Configure and activate if the parameters say so."""
    if node.settings.node.autostart:
        node.get_logger().info("starting by itself, as the parameter autostart says")
        node.autostart()


def main(args: list[str] | None = None, load: MapLoader = load_map) -> None:
    """Run the node until it is told to stop, then end the process.

    Bad parameters end it with one line and code 2.

    Args:
        args: command line; the process's own if None.
        load: makes the localizer from the settings.
    """
    code = 0
    try:
        runtime.run_node(lambda: LocalizationNode(load), start, args)
    except CrossfireError as error:
        print(f"localization_node: {error}", file=sys.stderr)
        code = 2
    runtime.leave(code)


if __name__ == "__main__":
    main()
