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
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from crossfire_core.errors import CrossfireError
from crossfire_core.geometry import Pose
from crossfire_core.localization.rig import RigImage
from crossfire_core.localization.tracker import Tracker, TrackingState, TrackResult
from crossfire_core.recordings.camera_info import CameraView
from crossfire_ros import parameters, runtime
from crossfire_ros.bonds import start_bond
from crossfire_ros.cameras import Shot
from crossfire_ros.conversions import (
    MessageError,
    image_from_message,
    stamp_from_ns,
    transform_from_pose,
)
from crossfire_ros.frame_watch import WatchedBuffer
from crossfire_ros.image_gate import RateLimit, stands
from crossfire_ros.initial_pose import InitialPose
from crossfire_ros.inputs import Incoming, Inputs, Moment
from crossfire_ros.map_loading import LoadedMap, MapLoader, load_map
from crossfire_ros.map_slot import MapSlot
from crossfire_ros.outputs import Outputs
from crossfire_ros.reporting import (
    Report,
    Tally,
)
from crossfire_ros.services import Services
from crossfire_ros.settings import NODE_NAME
from crossfire_ros.status import StatusBoard
from crossfire_ros.transform_health import TransformHealth
from crossfire_ros.transforms import latest, lookup, tf
from crossfire_ros.worker import Worker

NAME = NODE_NAME

_WARNING_PERIOD_S = 5.0  # between two of a kind in the log
_STATUS_PERIOD_S = 1.0  # as others publish diagnostics
# How long an image waits for the transform of a camera on a moving joint.
_TF_PATIENCE_S, _TF_POLL_S = 0.1, 0.005
# A computation that takes longer when the process is told to end is left to die with it.
_LAST_PATIENCE_S = 0.3

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
        maps: the map that serves, and one on its way.
        start: where the robot begins, and its last pose from run to run.
        inputs: what is heard while the node is active.
        tracker: follows the robot; None unless active with a map.
        tally: counts since activation.
        report: what the status is made of.
        health: what is known of the transforms.
        status: says how the node is.
        worker: the thread that localizes.
        active: whether the lifecycle has it so; beside it, whether images are left out for a while
            (``paused``), whether the node was shut down (``finalized``), and why it could not be
            configured (``failure``).
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
        self.failure = ""
        self.maps = MapSlot(self, load)
        self.tracker: Tracker | None = None
        self.active = self.finalized = self._autostarting = False
        self._orders: Services | None = None
        self._outputs: Outputs | None = None
        self._hints: Any = None
        self._active_entities: list[tuple[Callable[[Any], object], Any]] = []
        self._broadcaster: tf.TransformBroadcaster | None = None
        self._listener: tf.TransformListener | None = None
        self._bond: Any = None
        self.start = InitialPose(self)
        self._warned: dict[str, float] = {}
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        # Now, as the thread looks at what is set above, and a bad parameter takes the node down.
        self.worker: Worker[Moment] = Worker(self._process, self._tick, self.complain)
        parameters.declare(self)
        self.settings = parameters.read(self)
        for strange in parameters.unknown(self):
            self.get_logger().warning(f"there is no parameter {strange}; it is ignored")
        parameters.guard(self, self._judge_parameters, self._take_parameters)
        self._forget_session()
        self.status = StatusBoard(self)
        self.create_timer(_STATUS_PERIOD_S, self._look_around, clock=self.steady)
        self.status.publish()

    def autostart(self) -> None:
        """Configure, and activate once the map is loaded."""
        self._autostarting = True
        self.trigger_configure()

    # Lifecycle

    @_outspoken
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Advertise, and begin to load the map; managers wait for no more than a few seconds."""
        try:
            read = self.maps.load(self.settings)
        except (CrossfireError, MemoryError, OSError) as error:
            self._fail(str(error) or type(error).__name__)
            return TransitionCallbackReturn.FAILURE
        self.failure = ""
        self._advertise()
        self.maps.begin(read, self.worker)
        self.status.publish()
        return super().on_configure(state)

    @_outspoken
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin, or begin as soon as the map is loaded."""
        self._forget_session()
        self.active = True
        self._subscribe()
        if self.maps.loaded is not None:
            self._begin_tracking(self.maps.loaded)
        if self.settings.node.bond:
            self._bond = start_bond(self)
        return super().on_activate(state)

    @_outspoken
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and computing; the map stays loaded."""
        self._stop()
        self.status.publish()
        return super().on_deactivate(state)

    @_outspoken
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the map."""
        self._stop()
        self._withdraw()
        self.status.publish()
        return super().on_cleanup(state)

    @_outspoken
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs and keep the last pose."""
        self._stop()
        self._withdraw()
        self.finalized = True
        self.status.publish()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after an unforeseen error in a transition."""
        self._stop()
        self._withdraw()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Keep the last pose and take the node down, without waiting for a long computation."""
        # A map that is still being loaded is of no use to anybody now.
        first_load = self.maps.loading is not None and self.maps.loaded is None
        self.worker.stop(0.0 if first_load else _LAST_PATIENCE_S)
        if self.maps.loader is not None:
            self.maps.loader.stop(0.0)
        self._stop()
        super().destroy_node()
        # rclpy leaves this to when nothing refers to the node, which a computation may still do,
        # and does not give shared memory back before.
        with contextlib.suppress(RuntimeError):  # destroyed before
            self._state_machine.destroy_when_not_in_use()

    # The map

    def serve(self, found: LoadedMap, file: str) -> None:
        """Localize in a map that has been read; where the robot was in another says nothing."""
        if self.maps.loaded is None:
            self._take_map(found, file)
            if self.active:
                self._begin_tracking(found)
            elif self._autostarting:
                self.trigger_activate()
            self._autostarting = False
            return
        with self.worker.held():  # what it does next is of the new map, all of it
            self._end_tracking()
            self._forget_poses()
            self._take_map(found, file)
            if self.active:
                self.tracker = self._new_tracker(found)

    def _take_map(self, found: LoadedMap, file: str) -> None:
        self.maps.take(found, file)
        assert self._outputs is not None
        now = self.get_clock().now().nanoseconds
        self._outputs.publish_map(found, self.maps.frame, now)

    def give_up(self, failure: str) -> None:
        """Back to unconfigured, so that nobody takes this for a node that works."""
        if self.active:
            self.trigger_deactivate()
        self.trigger_cleanup()
        self._fail(failure)

    def _fail(self, failure: str) -> None:
        self.failure, self._autostarting = failure, False
        self.get_logger().error(f"not configured: {failure}")
        self.status.publish()

    # Setting up and taking down

    def _forget_session(self) -> None:
        """Begin to count and to watch anew."""
        self.tally, self.inputs = Tally(), Inputs(self)
        self.paused = False
        self._rate_limit = RateLimit()
        self._last_tf_ns = self._tf_odometry_ns = 0
        self.health = TransformHealth(self.settings.node)
        self._forget_poses()

    def _forget_poses(self) -> None:
        self._last_state: TrackingState | None = None
        self.report = Report(TrackingState.UNINITIALIZED, self.tally)
        if self._outputs is not None:
            self._outputs.clear_path()

    def _advertise(self) -> None:
        self._outputs = Outputs(self)
        self._orders = Services(self, self._order, self._pause)
        self._hints = self.create_subscription(
            PoseWithCovarianceStamped, "initialpose", self.start.hear, 1
        )

    def _withdraw(self) -> None:
        self.maps.clear()
        if self._outputs is not None and self._orders is not None:
            self._outputs.withdraw()
            self._orders.withdraw()
            self.destroy_subscription(self._hints)
        self._outputs = self._orders = self._hints = self.start.pending = None

    def _subscribe(self) -> None:
        self.buffer = WatchedBuffer(self._on_transform)
        self._listener = tf.TransformListener(self.buffer, self)
        if self._broadcaster is None:  # tf2 offers no way to take one down
            self._broadcaster = tf.TransformBroadcaster(self)
        self.inputs.listen()
        timer = self.create_timer(
            1.0 / self.settings.node.tf_rate, self._broadcast, clock=self.steady
        )
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_time_jump,
        )
        self._active_entities = [
            (Inputs.close, self.inputs),
            (self.destroy_timer, timer),
            (lambda handle: bool(handle.unregister()), jumps),
        ]

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
        if not self.worker.stopping:
            self.worker.clear()
        self._end_tracking()
        self.active = False

    def _end_tracking(self) -> None:
        self.start.keep(self.tracker)
        self.start.stop_keeping()
        self.tracker = None

    def _begin_tracking(self, loaded: LoadedMap) -> None:
        """Localize from where the robot is said to be, or was when the node ran last."""
        tracker = self._new_tracker(loaded)
        self.start.choose(tracker)
        self.tracker = tracker

    def _new_tracker(self, loaded: LoadedMap) -> Tracker:
        tracker = Tracker(loaded.localizer, self.settings.tracking, loaded.base_from_camera)
        self.health.name_map(self.maps.frame, loaded.base_frame)
        self.start.keep_in(loaded)
        return tracker

    def _judge_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        asked, reason = parameters.judge(changed, self.settings, self.maps.configured)
        return parameters.result(reason or self.maps.judge(asked))

    def _take_parameters(self, changed: list[Parameter]) -> None:
        self.settings, _ = parameters.judge(changed, self.settings, False)
        if self.maps.configured and "map" in (parameter.name for parameter in changed):
            self.maps.change()
        tracker, tracking = self.tracker, self.settings.tracking
        if tracker is not None:
            self.worker.call(lambda: tracker.configure(tracking))

    # Callbacks: convert and hand over

    def take_moment(self, moment: Moment) -> None:
        """Have images that belong together localized, unless they are left out."""
        stamp = max(shot.stamp_ns for shot in moment)
        if self.paused or not self._rate_limit.passes(stamp, self.settings.node.max_rate):
            self.tally.skipped += len(moment)
        else:
            self.worker.submit(moment)

    def take_odometry(self, stamp: int, pose: Pose, covariance: np.ndarray | None = None) -> None:
        """Hand over what the odometry says, from whichever source."""
        self.tally.hear("odometry")
        self.tally.note("odometry", self._off_clock("odometry", stamp))
        tracker = self.tracker
        if tracker is None:
            return
        epoch = tracker.odometry.epoch
        tracker.add_odometry(stamp, pose, covariance)
        reason = tracker.odometry.reset_reason
        if tracker.odometry.epoch != epoch and reason:
            self.tally.note("reset", f"odometry began anew: {reason}")

    def _on_transform(self, message: TransformStamped, static: bool) -> None:
        self.health.heard(message, static)
        node, child = self.settings.node, message.child_frame_id.lstrip("/")
        follows = node.use_odometry and node.odometry_source == "tf" and not static
        if follows and self.tracker is not None and self.health.moves_base(child, node.base_frame):
            self._take_odometry_from_tf()

    def _take_odometry_from_tf(self) -> None:
        node = self.settings.node
        try:
            stamp, pose = latest(self.buffer, node.odom_frame, node.base_frame)
        except tf.TransformException:
            return  # a part of the chain has not come yet
        if stamp == self._tf_odometry_ns:
            return
        self._tf_odometry_ns = stamp
        self.take_odometry(stamp, pose)

    def _on_time_jump(self, jump: TimeJump) -> None:
        """A bag or a simulation has begun anew: what is known of the past is of another one.

        A clock that only trembles, as one with two publishers does, goes on.
        """
        if -jump.delta.nanoseconds < self.settings.tracking.clock_jump_s * 1e9:
            return
        self.buffer.clear()
        self._last_tf_ns = self._tf_odometry_ns = 0
        self.tally.note("clock", "the clock went back: a bag or a simulation began anew")
        tracker = self.tracker
        if tracker is not None:
            self._give_command(tracker, tracker.reset)

    def _order(self, act: Callable[[Tracker], None]) -> str:
        """What services ask for; why it cannot be done, or an empty string."""
        tracker = self.tracker
        if tracker is None:
            return "the map is being loaded" if self.active else "the node is not active"
        self._give_command(tracker, lambda: act(tracker))
        return ""

    def _pause(self, paused: bool) -> str:
        if not self.active:
            return "the node is not active"
        self.paused = paused
        self.status.publish()
        return ""

    def _give_command(self, tracker: Tracker, act: Callable[[], None]) -> None:
        """Have the tracker begin something new, between two images."""

        def run() -> None:
            if tracker is not self.tracker:
                return  # it was of another map
            act()
            self.report.result = None
            if self._outputs is not None:
                self._outputs.clear_path()
            self.note_state(tracker.state)

        self.worker.call(run)

    # On the worker's thread

    def _process(self, moment: Moment) -> None:
        try:
            self._localize(moment)
        except CrossfireError as error:
            self.refuse("image", f"image cannot be localized: {error}")

    def complain(self, error: Exception) -> None:
        """Say what a thread ran into; it goes on."""
        if self.worker.stopping or not self.context.ok():
            return  # the node was taken down while an image was being processed
        self.tally.refuse("internal", f"unexpected {error!r}")
        self.warn("internal", "".join(traceback.format_exception(error)))

    def _localize(self, moment: Moment) -> None:
        tracker = self.tracker
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
        self.report.timings_ms = {
            **timings,
            "decode": 1e3 * (decoded - started),
            "total": 1e3 * (done - started),
        }
        self._publish(result, images[0].image, moment[0].message.header.frame_id)

    def _decoded(self, shot: Shot[Incoming]) -> RigImage | None:
        """An image with what is known of its camera; None where it is of no use, which is said."""
        camera, header = self.inputs.cameras[shot.camera], shot.message.header
        try:
            image = image_from_message(shot.message, camera.pixel_depth)
            view = camera.view(image.shape[1], image.shape[0])
            if self.settings.node.calibration:
                self.tally.hear(camera.kind("camera_info"))
            mount = self._base_from_camera(camera.name, header.frame_id, shot.stamp_ns, view)
        except (MessageError, tf.TransformException) as error:
            self.refuse(camera.kind("image"), str(error))
        except CrossfireError as error:
            self.refuse(camera.kind("image"), f"image cannot be localized: {error}")
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
        self.warn("stale", f"{problem}, and dropped")
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
        assert self.maps.loaded is not None
        if self.settings.node.extrinsics == "map":
            return self.maps.loaded.mount(name)
        frame = frame.lstrip("/")
        if not frame:
            raise MessageError("image names no frame_id")
        deadline = time.monotonic() + _TF_PATIENCE_S
        while True:
            try:
                mounted = lookup(self.buffer, self.settings.node.base_frame, frame, stamp)
                return mounted @ view.frame_from_camera
            except tf.ExtrapolationException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_TF_POLL_S)

    def _publish(self, result: TrackResult, image: np.ndarray, frame: str) -> None:
        outputs = self._outputs
        if outputs is None or self.worker.stopping:
            return
        self.report.result = result
        if outputs.publish_fix(result, self.maps.frame, self.settings.node.path_length):
            self.tally.fixes += 1
            self.tally.jumps += result.jumped
            age = self.get_clock().now().nanoseconds - result.stamp_ns
            self.report.pose_age_ms = age * 1e-6
            if self.settings.node.extrinsics == "tf" and result.map_from_base is not None:
                upward = self.maps.loaded.upward if self.maps.loaded is not None else None
                self.health.look_at_posture(result.map_from_base, upward, frame)
        outputs.publish_debug(image, frame, result)
        self.note_state(result.state)

    def _tick(self) -> None:
        """Between images: see whether the last fix is still worth something, and keep it."""
        tracker = self.tracker
        if tracker is None:
            return
        stamps_follow_clock = self.settings.node.max_image_age > 0.0
        now = self.get_clock().now().nanoseconds if stamps_follow_clock else None
        state = tracker.expire(now)
        if state is not self._last_state:
            self.note_state(state)
        self.start.keep(tracker, self.settings.node.pose_file_period)

    def note_state(self, state: TrackingState) -> None:
        """Say it at once when the state changes, on top of the periodic status."""
        self.report.state = state
        if state is not self._last_state:
            result = self.report.result
            reason = f": {result.reason}" if result is not None and result.reason else ""
            if state in (TrackingState.COASTING, TrackingState.LOST):
                self.get_logger().warning(f"{state.value}{reason}")
            else:
                self.get_logger().info(f"{state.value}{reason}")
            self._last_state = state
            self.status.publish()
        else:
            self.status.publish_latest()

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
        self.health.sent(stamp)
        self._broadcaster.sendTransform(
            transform_from_pose(pose, *self.health.link, stamp_from_ns(stamp))
        )

    def _transform_at(self, stamp_ns: int) -> Pose | None:
        """The last correction of odometry; without any, the robot's pose carried on to a stamp."""
        tracker = self.tracker
        if tracker is None:
            return None
        if self.settings.node.use_odometry:
            return tracker.map_from_odom
        if not tracker.state.localized:
            return None
        prediction = tracker.predict(stamp_ns)
        return prediction.map_from_base if prediction is not None else None

    def _look_around(self) -> None:
        self.inputs.listen_to_latched_calibration()
        self.status.publish()

    # Complaints

    def refuse(self, kind: str, reason: str) -> None:
        """Count and log what is of no use, by the kind of input."""
        self.tally.refuse(kind, reason)
        self.warn(kind, reason)

    def warn(self, kind: str, text: str) -> None:
        """Log, but not more than once in five seconds for one kind."""
        now = time.monotonic()
        if now - self._warned.get(kind, -math.inf) >= _WARNING_PERIOD_S:
            self._warned[kind] = now
            self.get_logger().warning(text)


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
