"""The lifecycle node: images and odometry in; a pose, a transform and an honest status out.

Callbacks convert and hand over, one worker thread localizes, the newest image wins.
"""

from __future__ import annotations

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
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import Empty, Trigger

from crossfire_core.errors import CrossfireError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.tracker import USUAL_HINT, Tracker, TrackingState, TrackResult
from crossfire_core.localization.uncertainty import sigmas
from crossfire_core.recordings.calibration_file import read_calibration
from crossfire_core.recordings.camera_info import CameraView, same_camera
from crossfire_core.recordings.image_file import scaled_to
from crossfire_core.recordings.image_message import PixelDepth
from crossfire_ros import parameters, runtime
from crossfire_ros.conversions import (
    MessageError,
    covariance_from_message,
    image_from_message,
    image_to_message,
    odometry_from_message,
    pose_from_message,
    pose_to_message,
    pose_with_covariance,
    stamp_from_ns,
    stamp_to_ns,
    transform_from_pose,
    view_from_message,
)
from crossfire_ros.drawing import draw_matches
from crossfire_ros.map_loading import LoadedMap, MapLoader, load_map
from crossfire_ros.map_messages import cloud_to_message, grid_to_message
from crossfire_ros.pose_file import PoseFileError, load_pose, save_pose
from crossfire_ros.reporting import (
    Report,
    Tally,
    inactive_status,
    inputs_status,
    missing_inputs,
    status_message,
)
from crossfire_ros.settings import NODE_NAME, Settings
from crossfire_ros.transforms import (
    Buffer,
    ExtrapolationException,
    TransformBroadcaster,
    TransformException,
    TransformListener,
    lookup,
)
from crossfire_ros.worker import Worker

NAME = NODE_NAME

_NEWEST_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
_LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_ODOM_QOS = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
_WARNING_PERIOD_S = 5.0
_PATH_PERIOD_S = 1.0
# How long an image waits for the transform of a camera on a moving joint.
_TF_PATIENCE_S, _TF_POLL_S = 0.1, 0.005

Incoming = Image | CompressedImage
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
    """Localizes a robot's camera in a neural map."""

    def __init__(self, load: MapLoader = load_map, name: str = NAME, **kwargs: Any) -> None:
        """Declare parameters; nothing else happens before configuration.

        Args:
            load: makes the localizer from the settings.
            name: of the node.
            **kwargs: of ``rclpy.node.Node``.

        Raises:
            ConfigError: a parameter is of the wrong type or out of its range.
        """
        super().__init__(name, **kwargs)
        self._load = load
        self._map: LoadedMap | None = None
        self._tracker: Tracker | None = None
        self._worker: Worker[Incoming] | None = None
        self._camera: Camera | None = None
        self._frame_from_camera = Pose.identity()
        self._pixel_depth = PixelDepth()
        self._tally = Tally()
        self._report = Report(TrackingState.UNINITIALIZED, self._tally)
        self._last_state: TrackingState | None = None
        self._last_tf_ns = 0
        self._path_sent_s = -math.inf
        self._topics: dict[str, str] = {}
        self._own_publishers: list[Any] = []
        self._own_services: list[Any] = []
        self._broadcaster: TransformBroadcaster | None = None
        self._path = PathMsg()
        self._warned: dict[str, float] = {}
        self._active_entities: list[tuple[Callable[[Any], bool], Any]] = []
        self._listener: TransformListener | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        parameters.declare(self)
        self._settings = parameters.read(self)
        for strange in parameters.unknown(self):
            self.get_logger().warning(f"there is no parameter {strange}; it is ignored")
        self.add_on_set_parameters_callback(self._on_parameters)

    @property
    def settings(self) -> Settings:
        """The parameters in force."""
        return self._settings

    @property
    def tally(self) -> Tally:
        """Counts since activation."""
        return self._tally

    # Lifecycle

    @_outspoken
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the map, warm up, advertise."""
        try:
            self._map = self._load(self._settings)
        except (CrossfireError, MemoryError, OSError) as error:
            self.get_logger().error(f"not configured: {error or type(error).__name__}")
            return TransitionCallbackReturn.FAILURE
        self._advertise()
        self._publish_mapping_views()
        self._publish_geometry()
        self._say_inactive()
        self.get_logger().info(
            f"map {self._map.name or 'loaded'} is ready, poses are in frame {self._map_frame!r}"
        )
        return super().on_configure(state)

    @_outspoken
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin."""
        assert self._map is not None
        self._tally, self._camera, self._last_state = Tally(), None, None
        self._pixel_depth = PixelDepth()
        self._report = Report(TrackingState.UNINITIALIZED, self._tally)
        self._path, self._path_sent_s = PathMsg(), -math.inf
        self._tracker = Tracker(
            self._map.localizer, self._settings.tracking, self._map.base_from_camera
        )
        self._start_from_file(self._tracker)
        self._worker = Worker(self._process, self._idle, self._complain)
        self._subscribe()
        return super().on_activate(state)

    @_outspoken
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and computing; the map stays loaded."""
        self._stop()
        self._say_inactive()
        return super().on_deactivate(state)

    @_outspoken
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the map."""
        self._stop()
        self._withdraw()
        self._map = None
        return super().on_cleanup(state)

    @_outspoken
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs and keep the last pose."""
        self._stop()
        self._withdraw()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after an unforeseen error in a transition."""
        self._stop()
        self._withdraw()
        self._map = None
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the worker, keep the last pose, and take the node down."""
        self._stop()
        super().destroy_node()

    # Setting up and taking down

    @property
    def _map_frame(self) -> str:
        assert self._map is not None
        return self._settings.node.map_frame or self._map.frame_id

    def _advertise(self) -> None:
        self._pose_publisher = self.create_publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self._status_publisher = self.create_publisher(DiagnosticStatus, "~/status", _LATCHED_QOS)
        self._diagnostics_publisher = self.create_publisher(
            DiagnosticArray, "/diagnostics", _LATCHED_QOS
        )
        self._path_publisher = self.create_publisher(PathMsg, "~/path", _LATCHED_QOS)
        self._debug_publisher = self.create_publisher(Image, "~/debug_image", 1)
        self._views_publisher = self.create_publisher(PoseArray, "~/mapping_views", _LATCHED_QOS)
        self._own_publishers = [
            self._pose_publisher,
            self._status_publisher,
            self._diagnostics_publisher,
            self._path_publisher,
            self._debug_publisher,
            self._views_publisher,
        ]
        self._own_services = [
            self.create_service(Trigger, "~/relocalize", self._on_relocalize),
            self.create_service(Trigger, "~/reset", self._on_reset),
            self.create_service(Empty, "reinitialize_global_localization", self._on_reinitialize),
        ]

    def _withdraw(self) -> None:
        for publisher in self._own_publishers:
            self.destroy_publisher(publisher)
        for service in self._own_services:
            self.destroy_service(service)
        self._own_publishers, self._own_services = [], []

    def _subscribe(self) -> None:
        node = self._settings.node
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, self)
        if self._broadcaster is None:  # tf2 offers no way to take one down
            self._broadcaster = TransformBroadcaster(self)
        compressed = node.image_transport == "compressed"
        topic = "image/compressed" if compressed else "image"
        kind = CompressedImage if compressed else Image
        inputs = {
            "image": self.create_subscription(kind, topic, self._on_image, _NEWEST_QOS),
            "camera_info": self.create_subscription(
                CameraInfo, "camera_info", self._on_camera_info, _NEWEST_QOS
            ),
        }
        if node.use_odometry:
            inputs["odometry"] = self.create_subscription(
                Odometry, "odom", self._on_odometry, _ODOM_QOS
            )
        self._topics = {kind: subscription.topic_name for kind, subscription in inputs.items()}
        hints = self.create_subscription(
            PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, 1
        )
        subscriptions = [*inputs.values(), hints]
        timers = [
            self.create_timer(1.0 / node.tf_rate, self._broadcast, clock=self._steady),
            self.create_timer(1.0, self._publish_status, clock=self._steady),
        ]
        self._active_entities = [(self.destroy_subscription, s) for s in subscriptions]
        self._active_entities += [(self.destroy_timer, t) for t in timers]

    def _stop(self) -> None:
        for destroy, entity in self._active_entities:
            destroy(entity)
        self._active_entities = []
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._tracker is not None:
            self._keep_pose(self._tracker)
            self._tracker = None

    def _start_from_file(self, tracker: Tracker) -> None:
        if not self._settings.node.pose_file:
            return
        path = Path(self._settings.node.pose_file).expanduser()
        try:
            kept = load_pose(path, self._map_frame)
        except PoseFileError as error:
            self.get_logger().warning(str(error))
            return
        if kept is not None:
            tracker.set_prior(0, *kept, coast=False)  # the robot may have been moved since
            self.get_logger().info(f"starting from the pose kept in {path}")

    def _keep_pose(self, tracker: Tracker) -> None:
        fix = tracker.last_fix
        if not self._settings.node.pose_file or fix is None or self._map is None:
            return
        if not tracker.state.localized:
            return
        latest = tracker.odometry.latest
        there = tracker.predict(max(fix.stamp_ns, latest.stamp_ns if latest else 0)) or fix
        try:
            path = Path(self._settings.node.pose_file).expanduser()
            save_pose(path, self._map_frame, there.map_from_base, there.covariance)
        except OSError as error:
            self.get_logger().error(f"the last pose cannot be kept: {error}")

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        locked = self._map is not None
        settings, reason = parameters.judge(changed, self._settings, locked)
        if reason:
            return parameters.result(reason)
        self._settings = settings
        if self._worker is not None and self._tracker is not None:
            tracker = self._tracker
            self._worker.call(lambda: tracker.configure(settings.tracking))
        return parameters.result("")

    # Callbacks: convert and hand over

    def _on_image(self, message: Incoming) -> None:
        self._tally.received += 1
        self._tally.hear("image")
        if self._worker is not None:
            self._worker.submit(message)

    def _on_camera_info(self, message: CameraInfo) -> None:
        node = self._settings.node
        if node.calibration:
            return  # the file holds instead
        try:
            view, other = view_from_message(message, self._topics["image"], node.is_rectified)
        except MessageError as error:
            self._refuse("camera_info", str(error))
            return
        self._tally.hear("camera_info")
        if self._camera is None:
            self._camera, self._frame_from_camera = view.camera, view.frame_from_camera
            if other is not None:
                self._warn(
                    "rectified",
                    f"nothing says whether the images on {self._topics['image']} are rectified; "
                    "they are taken for raw: set the parameter rectified to true or false",
                )
        elif not same_camera(view.camera, self._camera):
            self._refuse(
                "camera_info",
                "camera_info has changed and the new one is refused: "
                "deactivate and activate the node to take it",
            )

    def _view(self, width: int, height: int) -> CameraView:
        """The camera of images of a size.

        Raises:
            MessageError: none is known yet, or it is for images of another shape.
            CalibrationError: the calibration file is of no use.
        """
        node, size = self._settings.node, (width, height)
        if node.calibration and (self._camera is None or self._camera.size != size):
            view = read_calibration(
                Path(node.calibration).expanduser(), size, self._topics["image"], node.is_rectified
            )
            self._camera, self._frame_from_camera = view.camera, view.frame_from_camera
            self._tally.hear("camera_info")
        if self._camera is None:
            raise MessageError("image came before any usable camera_info")
        camera = scaled_to(self._camera, size)
        if camera is None:
            raise MessageError(
                f"image is {width}x{height}, camera_info is for "
                f"{self._camera.width}x{self._camera.height}"
            )
        return CameraView(camera, self._frame_from_camera)

    def _on_odometry(self, message: Odometry) -> None:
        node = self._settings.node
        try:
            stamp, pose, covariance = odometry_from_message(
                message, node.odom_frame, node.base_frame
            )
        except MessageError as error:
            self._refuse("odometry", str(error))
            return
        self._tally.hear("odometry")
        if self._tracker is not None:
            self._tracker.add_odometry(stamp, pose, covariance)

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        try:
            pose, covariance = self._hint_from(message)
        except (MessageError, TransformException) as error:
            self._refuse("initialpose", f"initialpose is refused: {error}")
            return
        stamp = stamp_to_ns(message.header.stamp)
        if self._tracker is not None and self._worker is not None:
            tracker = self._tracker
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

    def _command(
        self, answer: Trigger.Response, act: Callable[[Tracker], None], text: str
    ) -> Trigger.Response:
        worker, tracker = self._worker, self._tracker
        answer.success = worker is not None and tracker is not None
        answer.message = text if answer.success else "the node is not active"
        if worker is not None and tracker is not None:
            self._path = PathMsg()

            def run() -> None:
                act(tracker)
                self._note_state(tracker.state)

            worker.call(run)
        return answer

    # On the worker's thread

    def _process(self, message: Incoming) -> None:
        try:
            self._localize(message)
        except (MessageError, TransformException) as error:
            self._refuse("image", str(error))
        except CrossfireError as error:
            self._refuse("image", f"image cannot be localized: {error}")

    def _complain(self, error: Exception) -> None:
        if not self.context.ok():
            return  # ROS was shut down while an image was being processed
        self._tally.refuse("internal", f"unexpected {error!r}")
        self._warn("internal", "".join(traceback.format_exception(error)))

    def _localize(self, message: Incoming) -> None:
        tracker = self._tracker
        started = time.perf_counter()
        stamp = stamp_to_ns(message.header.stamp)
        if tracker is None or self._is_stale(stamp):
            return
        image = image_from_message(message, self._pixel_depth)
        view = self._view(image.shape[1], image.shape[0])
        tracker.mount(self._base_from_camera(message.header.frame_id, stamp, view))
        decoded = time.perf_counter()
        result = tracker.update(image, view.camera, stamp)
        done = time.perf_counter()
        timings = result.estimate.timings_ms if result.estimate is not None else {}
        self._tally.processed += 1
        self._report.timings_ms = {
            **timings,
            "decode": 1e3 * (decoded - started),
            "total": 1e3 * (done - started),
        }
        self._publish(result, image, message.header.frame_id)

    def _is_stale(self, stamp: int) -> bool:
        """Whether a stamp is far from the clock, which makes it useless for the robot's present.

        One stamp from the future would also make all images after it look old.
        """
        limit = self._settings.node.max_image_age
        age = (self.get_clock().now().nanoseconds - stamp) * 1e-9
        if limit == 0.0 or abs(age) <= limit:
            return False
        self._tally.stale += 1
        off = f"{age:.1f} s old" if age > 0 else f"{-age:.1f} s ahead of the clock"
        self._warn("stale", f"images are {off} and dropped: is use_sim_time right?")
        return True

    def _base_from_camera(self, frame: str, stamp: int, view: CameraView) -> Pose:
        assert self._map is not None
        if self._settings.node.extrinsics == "map":
            return self._map.base_from_camera
        frame = frame.lstrip("/")
        if not frame:
            raise MessageError("image names no frame_id")
        deadline = time.monotonic() + _TF_PATIENCE_S
        while True:
            try:
                mounted = lookup(self._buffer, self._settings.node.base_frame, frame, stamp)
                return mounted @ view.frame_from_camera
            except ExtrapolationException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_TF_POLL_S)

    def _publish(self, result: TrackResult, image: np.ndarray, frame: str) -> None:
        self._report.result = result
        if result.map_from_base is not None and result.covariance is not None:
            message = pose_with_covariance(
                result.map_from_base, result.covariance, self._map_frame, result.stamp_ns
            )
            if np.isfinite(message.pose.covariance).all() and result.map_from_base.is_finite():
                self._tally.fixes += 1
                self._tally.jumps += result.jumped
                self._pose_publisher.publish(message)
                age = self.get_clock().now().nanoseconds - result.stamp_ns
                self._report.pose_age_ms = age * 1e-6
                self._warn_without_odometry(result)
                self._publish_path(result)
        if self._debug_publisher.get_subscription_count():
            drawn = draw_matches(image, result)
            self._debug_publisher.publish(image_to_message(drawn, frame, result.stamp_ns))
        self._note_state(result.state)

    def _warn_without_odometry(self, result: TrackResult) -> None:
        if self._settings.node.use_odometry and result.map_from_odom is None:
            self._warn(
                "no_odometry",
                "no odometry at the images' stamps, so /tf is not published: remap `odom`, or set "
                "use_odometry to false on a robot that has none",
            )

    def _publish_path(self, result: TrackResult) -> None:
        assert result.map_from_base is not None
        stamped = PoseStamped()
        stamped.header.frame_id = self._map_frame
        stamped.header.stamp = stamp_from_ns(result.stamp_ns)
        stamped.pose = pose_to_message(result.map_from_base)
        self._path.poses.append(stamped)
        del self._path.poses[: -self._settings.node.path_length]
        now = time.monotonic()
        # Thousands of poses take Python a tenth of a second to publish.
        due = now - self._path_sent_s >= _PATH_PERIOD_S
        if due and self._path_publisher.get_subscription_count():
            self._path_sent_s = now
            self._path.header = stamped.header
            self._path_publisher.publish(self._path)

    def _idle(self) -> None:
        """No images: notice when the last fix is worth nothing any more."""
        stamps_follow_clock = self._settings.node.max_image_age > 0.0
        if self._tracker is not None:
            now = self.get_clock().now().nanoseconds if stamps_follow_clock else None
            state = self._tracker.expire(now)
            if state is not self._last_state:
                self._note_state(state)

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
        node = self._settings.node
        stamp = self.get_clock().now().nanoseconds + int(node.transform_tolerance * 1e9)
        if not node.tf_broadcast or stamp == self._last_tf_ns:
            return  # simulated time stands still, and tf warns about repeated stamps
        pose = self._transform_at(stamp)
        if pose is None or not pose.is_finite():
            return
        self._last_tf_ns = stamp
        assert self._broadcaster is not None
        child = node.odom_frame if node.use_odometry else node.base_frame
        self._broadcaster.sendTransform(
            transform_from_pose(pose, self._map_frame, child, stamp_from_ns(stamp))
        )

    def _transform_at(self, stamp_ns: int) -> Pose | None:
        """The last correction of odometry; without any, the robot's pose carried on to a stamp."""
        tracker = self._tracker
        if tracker is None:
            return None
        if self._settings.node.use_odometry:
            return tracker.map_from_odom
        if not tracker.state.localized:
            return None
        prediction = tracker.predict(stamp_ns)
        return prediction.map_from_base if prediction is not None else None

    def _publish_status(self) -> None:
        status = self._publish_latest()
        inputs = inputs_status(*self._names, self._report, time.monotonic())
        self._publish_diagnostics([status, inputs])

    def _publish_latest(self) -> DiagnosticStatus:
        self._refresh_report()
        status = status_message(*self._names, self._report)
        self._status_publisher.publish(status)
        return status

    def _say_inactive(self) -> None:
        status = inactive_status(*self._names)
        self._status_publisher.publish(status)
        self._publish_diagnostics([status])

    def _publish_diagnostics(self, statuses: list[DiagnosticStatus]) -> None:
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(array)

    @property
    def _names(self) -> tuple[str, str]:
        """Of the node with its namespace, and of the map."""
        name = self.get_fully_qualified_name().lstrip("/")
        return name, self._map.name if self._map is not None else ""

    def _refresh_report(self) -> None:
        tracker, worker, report = self._tracker, self._worker, self._report
        report.tally = self._tally
        report.missing = missing_inputs(self._tally, self._topics, time.monotonic())
        if tracker is None or worker is None:
            return
        self._tally.dropped = worker.dropped
        report.odometry = "off"
        if self._settings.node.use_odometry:
            report.odometry = "none yet" if tracker.odometry.empty else "arrives"
        report.fix_age_s = report.position_sigma_m = math.nan
        fix = tracker.last_fix
        if fix is not None:
            now = self.get_clock().now().nanoseconds
            report.fix_age_s = (now - fix.stamp_ns) * 1e-9
            prediction = tracker.predict(now)
            if prediction is not None:
                report.position_sigma_m = sigmas(prediction.covariance)[0]

    def _publish_mapping_views(self) -> None:
        """The cameras the map was made from, so that RViz shows where it holds."""
        assert self._map is not None
        message = PoseArray(poses=[pose_to_message(p) for p in self._map.mapping_views])
        message.header.frame_id = self._map_frame
        message.header.stamp = self.get_clock().now().to_msg()
        self._views_publisher.publish(message)

    def _publish_geometry(self) -> None:
        """The map's grid and cloud, where they are asked for, for whoever comes later too."""
        assert self._map is not None
        made, now = self._map.geometry, self.get_clock().now().nanoseconds
        if made.grid is not None:
            grid = grid_to_message(made.grid, made.map_from_grid, self._map_frame, now)
            self._publish_latched(OccupancyGrid, "~/map", grid)
        if made.cloud is not None:
            cloud = cloud_to_message(made.cloud, self._map_frame, now)
            self._publish_latched(PointCloud2, "~/map_cloud", cloud)

    def _publish_latched(self, kind: Any, topic: str, message: Any) -> None:
        publisher = self.create_publisher(kind, topic, _LATCHED_QOS)
        self._own_publishers.append(publisher)
        publisher.publish(message)

    # Complaints

    def _refuse(self, kind: str, reason: str) -> None:
        self._tally.refuse(kind, reason)
        self._warn(kind, reason)

    def _warn(self, kind: str, text: str) -> None:
        """Log, but not more than once in five seconds for one kind."""
        now = time.monotonic()
        if now - self._warned.get(kind, -math.inf) >= _WARNING_PERIOD_S:
            self._warned[kind] = now
            self.get_logger().warning(text)


def start(node: LocalizationNode) -> None:
    """Configure and activate if the parameters say so."""
    if node.settings.node.autostart:
        node.get_logger().info("starting by itself, as the parameter autostart says")
        if node.trigger_configure() is TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()


def main(args: list[str] | None = None, load: MapLoader = load_map) -> None:
    """Run the node until it is told to stop; bad parameters end it with one line and code 2.

    Args:
        args: command line; the process's own if None.
        load: makes the localizer from the settings.
    """
    try:
        runtime.run_node(lambda stopper: LocalizationNode(stopper.interrupting(load)), start, args)
    except CrossfireError as error:
        print(f"localization_node: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
