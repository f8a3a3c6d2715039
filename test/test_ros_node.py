"""The node in a live graph, with a localizer that sees what the test wants."""

from __future__ import annotations

import threading
import time
from array import array
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry, Path
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from rclpy.time import Time
from ros_graph import (
    BASE_FROM_CAMERA,
    CAMERA,
    LATCHED,
    Graph,
    camera_info,
    graph,
    odometry,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Empty, Trigger

from crossfire_core.errors import ConfigError, MapFormatError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.odometry import OdometryHistory
from crossfire_ros.conversions import (
    image_to_message,
    pose_from_message,
    pose_from_transform,
    pose_with_covariance,
    stamp_from_ns,
    stamp_to_ns,
    transform_from_pose,
)
from crossfire_ros.reporting import Tally, missing_inputs
from crossfire_ros.transforms import lookup, tf

STEP = Transition
HERE = Pose(Pose.exp([0, 0, 0, 0, 0, 0.5]).rotation, np.array([3.0, 4.0, 0.0]))
SMALL = np.diag([0.01] * 3 + [0.01] * 3)


@contextmanager
def failing_once(error):
    """A node that cannot load its map the first time."""
    errors = [error]

    def load(settings):
        if errors:
            raise errors.pop()
        return g.load(settings)

    with graph(load=load) as g:
        yield g


def hint(g, pose, frame="map", stamp=None, covariance=SMALL):
    stamp = g.tick() if stamp is None else stamp
    message = pose_with_covariance(pose, np.asarray(covariance), frame, stamp)
    g.publisher("initialpose", PoseWithCovarianceStamped, 1).publish(message)


class TestLifecycle:
    def test_walks_through_all_states_and_again(self):
        with graph() as g:
            assert g.state() == "unconfigured"
            for _ in range(2):
                assert g.change(STEP.TRANSITION_CONFIGURE) and g.state() == "inactive"
                assert g.change(STEP.TRANSITION_ACTIVATE) and g.state() == "active"
                g.send_extrinsics()
                g.send_camera_info()
                g.wait_for_fix()
                assert g.change(STEP.TRANSITION_DEACTIVATE) and g.state() == "inactive"
                assert g.change(STEP.TRANSITION_CLEANUP) and g.state() == "unconfigured"
            assert g.change(STEP.TRANSITION_UNCONFIGURED_SHUTDOWN)
            assert g.state() == "finalized"

    def test_shutdown_while_active(self):
        with graph() as g:
            g.tracking()
            assert g.change(STEP.TRANSITION_ACTIVE_SHUTDOWN)
            assert g.state() == "finalized"
            g.wait_for_state("finalized")

    @pytest.mark.parametrize(
        "error", [MapFormatError("room.map is cut short"), ConfigError("no map"), OSError("gone")]
    )
    def test_map_that_cannot_be_loaded_leaves_it_unconfigured(self, error):
        with failing_once(error) as g:
            assert g.node.trigger_configure() is TransitionCallbackReturn.FAILURE
            assert g.state() == "unconfigured"
            assert g.node.trigger_configure() is TransitionCallbackReturn.SUCCESS, "once mended"

    def test_unforeseen_error_while_loading_is_logged_and_survived(self, capfd):
        with failing_once(RuntimeError("CUDA error: out of memory")) as g:
            assert g.node.trigger_configure() is TransitionCallbackReturn.ERROR
            assert "CUDA error: out of memory" in capfd.readouterr().err
            assert g.state() == "unconfigured"
            assert g.node.trigger_configure() is TransitionCallbackReturn.SUCCESS, "once mended"

    def test_inactive_node_claims_nothing_to_late_listeners(self):
        with graph() as g:
            g.tracking()
            g.wait_for_state("tracking")
            g.change(STEP.TRANSITION_DEACTIVATE)
            g.wait_for_state("inactive")
            late = g.listen_late("~/status", DiagnosticStatus)
            g.wait(lambda: late)
            assert late[-1].level == DiagnosticStatus.WARN and "activate" in late[-1].message

    def test_activating_again_and_again_leaves_nothing_behind(self):
        with graph() as g:
            g.activate()
            for _ in range(3):
                assert g.node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
                assert g.node.trigger_activate() is TransitionCallbackReturn.SUCCESS
            assert len(g.node.get_publishers_info_by_topic("/tf")) == 1
            assert len(g.node.get_subscriptions_info_by_topic("/image")) == 1

    def test_inactive_node_does_not_listen(self):
        with graph() as g:
            g.change(STEP.TRANSITION_CONFIGURE)
            assert g.peer.count_subscribers("/image") == 0
            answer = g.call(Trigger, "/crossfire_localization/relocalize")
            assert not answer.success and "not active" in answer.message

    def test_deactivating_during_a_localization_waits_for_it(self):
        with graph() as g:
            g.tracking()
            g.hold_an_image()
            threading.Timer(0.05, g.localizer.hold.set).start()
            assert g.change(STEP.TRANSITION_DEACTIVATE)


class TestPoses:
    def test_pose_and_transform_agree_with_the_odometry(self):
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.odom_from_base = Pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
            pose = g.wait_for_fix()
            assert pose.header.frame_id == "map"
            assert stamp_to_ns(pose.header.stamp) in g.image_stamps
            assert pose_from_message(pose.pose.pose).distance(HERE)[0] < 1e-6
            assert np.linalg.eigvalsh(np.reshape(pose.pose.covariance, (6, 6)))[0] > 0
            g.drive_until(lambda: g.transforms("odom"))
            map_from_odom = pose_from_transform(g.transforms("odom")[-1].transform)
            assert (map_from_odom @ g.odom_from_base).distance(HERE)[0] < 1e-6

    def test_a_robot_on_a_floor_stands_exactly_on_it(self):
        """Fix and odometry lean by half a degree, and the fix is a centimetre too high."""
        with graph(tracking__two_d=True, tracking__floor_z=0.25) as g:
            g.localizer.map_from_base = Pose.exp((3.0, -2.0, 0.26, 0.008, -0.006, 0.5))
            g.ready()
            g.odom_from_base = Pose.exp((1.0, 0.5, 0.1, -0.01, 0.007, 0.0))
            pose = g.wait_for_fix().pose
            g.drive_until(lambda: g.transforms("odom"))
            correction = g.transforms("odom")[-1].transform
        assert pose.pose.position.z == correction.translation.z == 0.25
        for turn in (pose.pose.orientation, correction.rotation):
            assert (turn.x, turn.y) == (0.0, 0.0)
        held = np.diag(np.reshape(pose.covariance, (6, 6)))
        assert (held[[2, 3, 4]] < 1e-5).all() and (held[[0, 1, 5]] > held[2]).all()
        there = g.localizer.map_from_base.translation
        assert np.hypot(pose.pose.position.x - there[0], pose.pose.position.y - there[1]) < 0.02

    def test_tf_tree_is_that_of_rep_105(self):
        with graph() as g:
            g.tracking()
            g.drive_until(lambda: len(g.transforms("odom")) >= 3)
            published = {
                (t.header.frame_id, t.child_frame_id)
                for m in g.received["/tf"]
                for t in m.transforms
            }
            assert published == {("map", "odom")}

    def test_whole_tree_leads_from_the_map_to_the_camera(self):
        """Map, odom, base, camera, each with one parent: the odometry's owner adds its own link."""
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.odom_from_base = Pose(np.eye(3), np.array([1.0, -2.0, 0.0]))
            others = tf.TransformBroadcaster(g.peer)
            buffer = g.node.buffer

            def known() -> bool:
                stamp = stamp_from_ns(g.tick())
                others.sendTransform(
                    transform_from_pose(g.odom_from_base, "odom", "base_link", stamp)
                )
                return buffer.can_transform("map", "camera", Time())

            g.drive_until(known)
            assert lookup(buffer, "map", "camera").distance(HERE @ BASE_FROM_CAMERA)[0] < 1e-6
            links = {
                (t.child_frame_id, t.header.frame_id)
                for m in g.received["/tf"]
                for t in m.transforms
            }
            assert links == {("odom", "map"), ("base_link", "odom")}

    def test_without_odometry_the_tree_has_no_odom(self):
        with graph(use_odometry=False) as g:
            g.ready()
            g.drive_until(lambda: g.transforms("base_link"), odometry=False)
            assert not g.transforms("odom")

    def test_camera_on_a_moving_joint_whose_transform_comes_after_the_image(self):
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.activate()
            g.send_camera_info()
            joints = tf.TransformBroadcaster(g.peer)

            def finished(tally: Tally) -> int:
                return tally.processed + tally.stale + sum(dict(tally.refused).values())

            def send_joint() -> None:
                pose = transform_from_pose(
                    BASE_FROM_CAMERA, "base_link", "camera", stamp_from_ns(g.tick())
                )
                joints.sendTransform(pose)

            def localized() -> bool:
                tally = g.node.tally
                received, done = tally.received, finished(tally)
                send_joint()
                g.send_odometry()
                g.send_image()
                g.wait(lambda: tally.received > received)
                send_joint()
                g.wait(lambda: finished(tally) > done)
                return bool(g.received["~/pose"])

            g.wait(localized)
            assert pose_from_message(g.received["~/pose"][0].pose.pose).distance(HERE)[0] < 1e-6

    def test_robot_with_another_image_size_than_the_map(self):
        wide = Camera(128, 96, 100.0, 102.0, 64.5, 48.5)
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.activate()
            g.send_extrinsics()
            g.send_camera_info(wide)
            for _ in range(3):
                g.send_odometry()
                g.process_image(image=g.rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
            g.wait(lambda: g.received["~/pose"])
            assert not g.node.tally.refused["image"]

    def test_jump_is_counted_and_said(self):
        with graph() as g:
            g.odom_from_base = Pose.identity()
            g.tracking()
            g.localizer.map_from_base = HERE
            g.drive_until(lambda: g.node.tally.jumps == 1)
            g.wait(lambda: g.status().get("jumps") == "1")

    def test_transform_is_repeated_with_rising_stamps_in_the_future(self):
        with graph(transform_tolerance=0.5) as g:
            g.tracking()
            g.received["/tf"].clear()
            g.drive_until(lambda: len(g.transforms("odom")) >= 5)
            stamps = [stamp_to_ns(t.header.stamp) for t in g.transforms("odom")]
            assert stamps == sorted(set(stamps))
            fix = g.node.tracker.last_fix.stamp_ns
            assert stamps[-1] > fix + 400_000_000

    def test_tf_broadcast_can_be_switched_off_while_running(self):
        with graph() as g:
            g.tracking()
            g.drive_until(lambda: g.transforms("odom"))
            (result,) = set_parameters(g, tf_broadcast=False)
            assert result.successful
            switched_off_at = time.time_ns()
            g.wait_for_fix()
            g.wait_for_fix()
            assert not g.transforms_sent_after(switched_off_at)

    def test_without_odometry_map_to_base_is_repeated_between_fixes(self):
        with graph(use_odometry=False) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.drive_until(lambda: g.transforms("base_link"), odometry=False)
            g.wait_for_fix(odometry=False)
            last_image = time.time_ns()
            g.received["/tf"].clear()
            g.wait(lambda: len(g.transforms_sent_after(last_image, child="base_link")) >= 3)
            transforms = g.transforms("base_link")
            assert {t.header.frame_id for t in transforms} == {"map"}
            last = pose_from_transform(transforms[-1].transform)
            assert last.distance(HERE)[0] < 1e-6
            stamps = [stamp_to_ns(t.header.stamp) for t in transforms]
            assert stamps == sorted(set(stamps))
            assert g.peer.count_subscribers("/odom") == 0

    def test_without_odometry_a_fix_that_grew_old_is_not_repeated(self):
        with graph(use_odometry=False, **{"tracking.lost_sigma_m": 0.25}) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.drive_until(lambda: g.transforms("base_link"), odometry=False)
            g.wait_for_state("lost")
            lost_at = time.time_ns()
            statuses = len(g.received["~/status"])
            g.wait(lambda: len(g.received["~/status"]) >= statuses + 2)
            assert not g.transforms_sent_after(lost_at, child="base_link")

    def test_missing_odometry_is_named_and_poses_still_come(self):
        with graph() as g:
            g.ready()
            g.wait_for_fix(odometry=False)
            g.wait(lambda: g.status().get("odometry") == "none yet")
            g.drive_until(lambda: "no odometry on /odom" in g.status()["message"], odometry=False)
            assert g.received["~/status"][-1].level == DiagnosticStatus.WARN
            assert not g.transforms("odom")

    def test_nothing_is_published_while_not_localized(self):
        with graph() as g:
            g.localizer.blind = True
            g.ready()
            for _ in range(8):
                g.send_odometry()
                g.process_image()
            assert not g.received["~/pose"] and not g.transforms("odom")
            g.wait_for_message("nothing matches")

    def test_coasting_goes_on_with_the_transform_and_warns(self):
        with graph(tracking__coast_after_s=0.1) as g:
            g.odom_from_base = Pose.identity()
            g.tracking()
            g.localizer.blind = True
            g.drive_until(lambda: g.status().get("state") == "coasting")
            assert g.received["~/status"][-1].level == DiagnosticStatus.WARN
            g.drive_until(lambda: "coasting: nothing matches" in g.status()["message"])
            coasting_since = time.time_ns()
            g.received["~/pose"].clear()
            g.odom_from_base = Pose(np.eye(3), np.array([0.1, 0.0, 0.0]))
            g.drive_until(lambda: len(g.transforms_sent_after(coasting_since)) >= 3)
            assert not g.received["~/pose"]
            g.localizer.blind = False
            g.drive_until(lambda: g.received["~/pose"])
            g.wait_for_state("tracking")

    def test_losing_track_stops_poses_and_transform_and_says_so(self):
        """An odometry that is believed for a fifth of a second, so that the test is short."""
        with graph(tracking__odometry_m_per_s=5.0) as g:
            g.tracking()
            g.localizer.blind = True
            g.drive_until(lambda: g.status().get("state") == "lost")
            assert g.received["~/status"][-1].level == b"\x02"
            lost_at = time.time_ns()
            g.received["~/pose"].clear()
            for _ in range(4):
                g.send_odometry()
                g.process_image()
            assert not g.transforms_sent_after(lost_at) and not g.received["~/pose"]
            g.localizer.blind = False
            g.wait_for_fix()
            g.wait_for_state("tracking")

    def test_path_and_debug_image_are_made_for_who_asks(self):
        with graph() as g:
            g.tracking()
            g.listen("~/path", Path, LATCHED)
            g.listen("~/debug_image", Image)
            g.listen("~/mapping_views", PoseArray, LATCHED)
            g.wait(lambda: g.node._outputs._debug.get_subscription_count() == 1)
            g.wait(lambda: g.node._outputs._path.get_subscription_count() == 1)
            g.wait_for_fix()
            g.wait(lambda: g.received["~/path"] and g.received["~/debug_image"])
            assert len(g.received["~/path"][-1].poses) >= 2
            picture = g.received["~/debug_image"][-1]
            assert (picture.width, picture.height, picture.encoding) == (64, 48, "rgb8")
            g.wait(lambda: g.received["~/mapping_views"])
            assert len(g.received["~/mapping_views"][-1].poses) == 1

    def test_extrinsics_from_the_map_need_no_tf(self):
        with graph(extrinsics="map") as g:
            g.localizer.map_from_base = HERE
            g.activate()
            g.send_camera_info()
            pose = g.wait_for_fix()
            assert pose_from_message(pose.pose.pose).distance(HERE)[0] < 1e-6

    def test_newest_image_wins_and_the_others_are_counted(self):
        with graph() as g:
            g.tracking()
            asked = g.hold_an_image()
            for _ in range(5):
                received = g.node.tally.received
                g.send_image()
                g.wait(lambda n=received: g.node.tally.received > n)
            processed = g.node.tally.processed
            g.localizer.hold.set()
            g.wait(lambda: g.node.tally.processed == processed + 2)
            assert len(g.localizer.priors) == asked + 2
            g.wait(lambda: g.status().get("images_dropped") == "4")


def stands_at(odometry: OdometryHistory, g: Graph) -> bool:
    """Whether odometry has it that the graph's robot is where it is, and stands there."""
    last = odometry._samples[-2:]
    return len(last) == 2 and all(
        s.odom_from_base.distance(g.odom_from_base)[0] < 1e-6 for s in last
    )


class TestInitialPose:
    def test_good_one_is_taken_and_confirmed(self):
        with graph(tracking__auto_global=False) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.send_odometry()
            g.process_image()
            g.wait_for_message("initial pose")
            hint(g, HERE)
            g.wait(lambda: g.transforms("odom"))
            given = pose_from_transform(g.transforms("odom")[0].transform)
            assert given.distance(Pose.identity())[0] < 1e-6, "odometry knows the map here"
            g.wait_for_state("coasting")
            g.wait_for_fix()
            # The prior is the camera's: what was given is the base, as RViz and AMCL mean it.
            assert g.localizer.priors[0].distance(HERE @ BASE_FROM_CAMERA)[0] < 1e-6
            assert g.node.tally.refused["initialpose"] == 0

    def test_before_any_odometry(self):
        with graph(tracking__auto_global=False) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            hint(g, HERE)
            g.wait(lambda: g.node.tracker._hint is not None)
            g.wait_for_fix()

    def test_odometry_since_its_stamp_is_added(self):
        with graph(tracking__auto_global=False) as g:
            g.ready()
            g.odom_from_base = Pose.identity()
            odometry = g.node.tracker.odometry
            g.wait(lambda: g.send_odometry() or odometry.latest)
            then = odometry.latest.stamp_ns
            step = Pose(np.eye(3), np.array([0.04, 0.0, 0.0]))
            for _ in range(10):
                g.odom_from_base = g.odom_from_base @ step
                # Until it has arrived: odometry is best effort, and what is lost is not added.
                g.wait(lambda: g.send_odometry() or stands_at(odometry, g))
            hint(g, HERE, stamp=then)
            g.wait(lambda: g.node.tracker._hint is not None)
            # Fresh odometry for the image: on a busy machine the last one may be too old by now.
            g.wait(lambda: g.send_odometry() or stands_at(odometry, g))
            g.process_image()
            expected = HERE @ g.odom_from_base @ BASE_FROM_CAMERA
            assert g.localizer.priors[0].distance(expected)[0] < 0.02

    def test_all_zero_covariance_takes_a_usual_one(self):
        with graph(tracking__auto_global=False) as g:
            g.ready()
            hint(g, HERE, covariance=np.zeros((6, 6)))
            g.wait(lambda: g.node.tracker._hint is not None)
            assert g.node.tracker._hint.covariance[0, 0] == pytest.approx(0.25, rel=0.01)

    def test_in_odom_frame_is_transformed(self):
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.odom_from_base = Pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
            g.drive_until(lambda: g.transforms("odom"))
            hint(g, g.odom_from_base, frame="odom")
            g.wait(lambda: g.node.tracker._hint is not None)
            assert g.node.tracker._hint.map_from_base.distance(HERE)[0] < 1e-6

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda m: setattr(m.pose.pose.position, "x", float("nan")), "NaN"),
            (lambda m: setattr(m.pose.pose.orientation, "w", float("inf")), "NaN or infinite"),
            (
                lambda m: setattr(m.pose.pose, "orientation", type(m.pose.pose.orientation)(w=0.0)),
                "zero quaternion",
            ),
            (lambda m: setattr(m.header, "frame_id", "mars"), "mars"),
            (lambda m: setattr(m.header, "frame_id", ""), "no frame"),
        ],
    )
    def test_bad_one_is_refused_with_a_reason_and_tracking_goes_on(self, change, words):
        with graph() as g:
            g.tracking()
            message = pose_with_covariance(HERE, SMALL, "map", g.tick())
            change(message)
            g.publisher("initialpose", PoseWithCovarianceStamped, 1).publish(message)
            g.wait(lambda: g.node.tally.refused["initialpose"] == 1)
            assert words in g.node.tally.last_refusal
            g.wait_for_fix()
            assert g.node.tracker.state.value == "tracking"


class TestServices:
    def test_relocalize_searches_the_whole_map(self):
        with graph() as g:
            g.tracking()
            g.localizer.priors.clear()
            assert g.call(Trigger, "/crossfire_localization/relocalize").success
            g.wait_for_state("lost")
            g.wait_for_fix()
            assert g.localizer.priors[0] is None

    def test_reset_goes_back_to_the_beginning(self):
        with graph(tracking__auto_global=False) as g:
            g.ready()
            g.call(Trigger, "/crossfire_localization/relocalize")
            g.wait_for_fix()
            assert g.call(Trigger, "/crossfire_localization/reset").success
            g.wait_for_state("uninitialized")
            g.send_odometry()
            g.process_image()
            g.wait_for_message("initial pose")

    def test_amcls_name_works_too(self):
        with graph() as g:
            g.tracking()
            g.call(Empty, "/reinitialize_global_localization")
            g.wait_for_state("lost")


class TestQos:
    @pytest.mark.parametrize(
        "reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT]
    )
    def test_cameras_of_either_reliability_are_heard(self, reliability):
        qos = QoSProfile(depth=5, reliability=reliability)
        with graph() as g:
            g.activate()
            g.send_extrinsics()
            g.publisher("image", Image, qos)
            g.publisher("camera_info", CameraInfo, qos)
            g.publisher("odom", Odometry, qos)
            g.send_camera_info()
            g.wait_for_fix()

    def test_status_is_latched_for_late_listeners(self):
        with graph() as g:
            g.tracking()
            g.wait_for_state("tracking")
            late = g.listen_late("~/status", DiagnosticStatus)
            g.wait(lambda: late)

    def test_diagnostics_are_latched_as_well(self):
        with graph() as g:
            g.tracking()
            g.wait(lambda: g.received["/diagnostics"])
            late = g.listen_late("/diagnostics", DiagnosticArray)
            g.wait(lambda: late)
            assert {s.name for s in late[-1].status} >= {"crossfire_localization: localization"}

    def test_best_effort_listener_gets_poses(self):
        with graph() as g:
            g.listen("~/pose", PoseWithCovarianceStamped, qos_profile_sensor_data)
            g.tracking()

    def test_pose_is_latched_for_who_comes_later(self):
        with graph() as g:
            g.localizer.map_from_base = HERE
            g.tracking()
            late = g.listen_late("~/pose", PoseWithCovarianceStamped)
            g.wait(lambda: late)
            assert pose_from_message(late[-1].pose.pose).distance(HERE)[0] < 1e-6


def set_parameters(g, **values):
    named = {name.replace("__", "."): value for name, value in values.items()}
    request = SetParameters.Request(
        parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in named.items()]
    )
    return g.call(SetParameters, "/crossfire_localization/set_parameters", request).results


class TestParameters:
    def test_threshold_changes_while_running(self):
        with graph() as g:
            g.tracking()
            (result,) = set_parameters(g, tracking__min_inliers=500)
            assert result.successful
            g.process_image()
            g.wait_for_message("inliers")

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("tracking__gate", 0.1, "Min: 1.0"),
            ("tracking__min_spread", 1.5, "Max: 1.0"),
            ("tracking__floor_m", float("nan"), "nan"),
            ("tracking__confirmations", "many", "expected int"),
            ("transform_tolerance", -1.0, "Min: 0.0"),
            ("odom_frame", "odometry", "only while the node is unconfigured"),
        ],
    )
    def test_bad_change_is_refused_with_a_reason(self, name, value, words):
        with graph() as g:
            g.activate()
            before = g.node.settings
            (result,) = set_parameters(g, **{name: value})
            assert not result.successful and words in result.reason
            assert g.node.settings == before

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"tf_rate": 0.0}, "tf_rate"),
            ({"image_transport": "theora"}, "choose from raw, compressed"),
            ({"tracking__iterations": 99}, "tracking.iterations"),
            ({"localization__points_along": "wide"}, "localization.points_along"),
        ],
    )
    def test_node_with_a_bad_parameter_does_not_start_and_names_it(self, parameters, words):
        with pytest.raises(ConfigError, match=words), graph(**parameters):
            pass

    def test_parameter_that_does_not_exist_is_named_with_what_may_be_meant(self, capfd):
        with graph(tracking__min_inlier=50):
            said = capfd.readouterr().err
        assert "there is no parameter tracking.min_inlier" in said
        assert "tracking.min_inliers" in said

    def test_whole_number_passes_where_a_fraction_is_meant(self):
        with graph(tf_rate=20) as g:
            assert g.node.settings.node.tf_rate == 20.0

    def test_every_parameter_is_explained(self):
        with graph() as g:
            own = [n for n in g.node._parameters if n.startswith(("tracking.", "localization."))]
            assert len(own) > 20
            assert all(g.node.describe_parameter(name).description for name in own)


class TestSimulatedTime:
    def test_follows_the_clock_topic(self):
        with graph(use_sim_time=True) as g:
            g.ready()
            start = 5_000_000_000
            for i in range(60):
                now = start + i * 100_000_000
                g.set_clock(now)
                g.stamp = now - 1_000_000
                g.tick = lambda n=now: n
                g.send_odometry()
                g.process_image()
                if g.transforms("odom"):
                    break
            newest = stamp_to_ns(g.transforms("odom")[-1].header.stamp)
            assert newest <= now + 200_000_000
            # Time stands still: the transform is not repeated with the same stamp.
            stamps = [stamp_to_ns(t.header.stamp) for t in g.transforms("odom")]
            assert len(stamps) == len(set(stamps))

    def test_images_of_another_clock_are_dropped_and_counted(self):
        with graph() as g:
            g.ready()
            g.tick = lambda: 1_000_000_000
            g.process_image()
            assert g.node.tally.stale == 1 and not g.localizer.priors

    def test_one_image_from_the_future_is_dropped_and_tracking_goes_on(self):
        with graph() as g:
            g.tracking()
            good = g.tick
            g.tick = lambda: time.time_ns() + 3_600_000_000_000
            g.process_image()
            g.tick = good
            assert g.node.tally.stale == 1
            g.stamp = 0
            g.wait_for_fix()
            assert g.node.tracker.state.value == "tracking" and g.node.tally.jumps == 0

    def test_without_an_age_limit_they_are_used(self):
        with graph(max_image_age=0.0) as g:
            g.ready()
            stamps = iter(range(1_000_000_000, 10_000_000_000, 50_000_000))
            g.tick = lambda: next(stamps)
            g.wait_for_fix()
            g.wait_for_state("tracking")


class TestDiagnostics:
    def inputs(self, g):
        found = [
            s
            for m in g.received["/diagnostics"]
            for s in m.status
            if s.name == "crossfire_localization: inputs"
        ]
        return found[-1] if found else DiagnosticStatus()

    def test_what_does_not_arrive_is_named_with_its_topic(self):
        with graph() as g:
            g.activate()
            g.wait(lambda: "nothing yet on /image" in self.inputs(g).message)
            g.wait(lambda: "nothing yet on /camera_info" in self.inputs(g).message)
            g.wait_for_message("nothing yet on /odom")
            assert self.inputs(g).level == DiagnosticStatus.WARN
            g.send_extrinsics()
            g.send_camera_info()
            g.drive_until(lambda: self.inputs(g).level == DiagnosticStatus.OK)

    def test_what_is_refused_is_a_warning_for_a_while(self):
        with graph() as g:
            g.tracking()
            g.process_image(frame="periscope")
            g.drive_until(lambda: "periscope" in self.inputs(g).message)
            status = self.inputs(g)
            assert status.level == DiagnosticStatus.WARN
            assert {v.key: v.value for v in status.values}["refused_image"] == "1"

    def test_silence_is_told_from_a_start(self):
        tally = Tally(heard_at_s={"image": 10.0, "camera_info": 1.0})
        topics = {"image": "/front/image", "camera_info": "/front/info", "odometry": "/odom"}
        said = missing_inputs(tally, topics, 14.2)
        assert said == "nothing on /front/image for 4 s, nothing yet on /odom"

    def test_says_all_that_was_promised(self):
        with graph() as g:
            g.tracking()
            g.wait_for_state("tracking")
            promised = {
                "state",
                "inliers",
                "reprojection_error_px",
                "fix_age_s",
                "images_dropped",
                "total_ms",
                "render_ms",
                "position_sigma_m",
            }
            g.wait(lambda: promised <= set(g.status()))


class TestMalformedMessages:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"step": 10}, "step"),
            ({"encoding": "rgb99"}, "encoding"),
            ({"encoding": ""}, "encoding"),
            ({"data": array("B")}, "0 bytes"),
            ({"data": array("B", bytes(100))}, "100 bytes"),
            ({"height": 0, "width": 0}, "size"),
            ({"height": 2**31, "width": 2**31, "step": 2**32 - 1}, ""),
            ({"height": 24}, "camera_info is for 64x48"),
        ],
    )
    def test_broken_image_is_refused_and_the_node_goes_on(self, changes, words):
        with graph() as g:
            g.tracking()
            image = g.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            message = image_to_message(image, "camera", g.tick())
            for name, value in changes.items():
                setattr(message, name, value)
            g.publisher("image", Image).publish(message)
            g.wait(lambda: g.node.tally.refused["image"] == 1)
            assert words in g.node.tally.last_refusal
            g.wait_for_fix()
            g.wait(lambda: g.status().get("refused_image") == "1")

    def test_second_image_shape_is_refused_and_the_first_goes_on(self):
        with graph() as g:
            g.tracking()
            g.process_image(image=np.zeros((72, 128, 3), np.uint8))
            assert "128x72" in g.node.tally.last_refusal
            g.wait_for_fix()

    def test_image_in_an_unknown_frame(self):
        with graph() as g:
            g.tracking()
            g.process_image(frame="periscope")
            assert "periscope" in g.node.tally.last_refusal
            g.process_image(frame="")
            assert "frame_id" in g.node.tally.last_refusal
            g.wait_for_fix()

    def test_image_before_camera_info(self):
        with graph() as g:
            g.activate()
            g.send_extrinsics()
            g.process_image()
            assert "camera_info" in g.node.tally.last_refusal
            g.wait(lambda: "camera_info" in g.status().get("last_refusal", ""))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"k": np.zeros(9)}, "uncalibrated"),
            ({"k": np.full(9, np.nan)}, "NaN"),
            ({"width": 0, "height": 0}, "uncalibrated"),
            ({"distortion_model": "thin_plate", "d": [0.1] * 5}, "thin_plate"),
        ],
    )
    def test_bad_calibration_is_refused(self, changes, words):
        with graph() as g:
            g.activate()
            g.send_camera_info(**changes)
            assert words in g.node.tally.last_refusal and g.node.inputs.cameras[""].camera is None
            g.send_camera_info()
            assert g.node.inputs.cameras[""].camera == CAMERA

    @pytest.mark.parametrize("rectified", ["true", "false", "auto"])
    def test_rectified_images_have_the_camera_of_p_and_r(self, rectified):
        turn = Pose.exp((0.0, 0.0, 0.0, 0.02, -0.05, 0.03))  # rectified from raw
        p = [55.0, 0, 30.0, 0, 0, 56.0, 25.0, 0, 0, 0, 1, 0]
        with graph(rectified=rectified) as g:
            g.activate()
            g.send_extrinsics()
            g.send_camera_info(p=[float(v) for v in p], r=turn.rotation.ravel())
            found = pose_from_message(g.wait_for_fix().pose.pose)
            straight = rectified == "true"
            expected = Camera(64, 48, 55.0, 56.0, 30.5, 25.5) if straight else CAMERA
            assert g.node.inputs.cameras[""].camera == expected
            mounted = BASE_FROM_CAMERA @ turn.inverse() if straight else BASE_FROM_CAMERA
            assert found.distance(BASE_FROM_CAMERA @ mounted.inverse())[1] < 1e-6
            assert ("rectified" in g.node._warned) == (rectified == "auto")

    def test_a_calibration_file_takes_the_place_of_camera_info(self, tmp_path):
        (tmp_path / "cameras.txt").write_text("1 PINHOLE 128 96 120 122 65 49\n")
        with graph(calibration=str(tmp_path / "cameras.txt")) as g:
            g.activate()
            g.send_extrinsics()
            g.publisher("camera_info", CameraInfo).publish(camera_info(CAMERA))
            g.process_image()
            # The images are half as large as those of the file.
            assert g.node.inputs.cameras[""].camera == Camera(64, 48, 60.0, 61.0, 32.5, 24.5)
            assert "camera_info" not in g.node.tally.last_refusal

    def test_an_autofocus_is_no_change(self):
        with graph() as g:
            g.tracking()
            moved = replace(CAMERA, fx=CAMERA.fx * 1.004, fy=CAMERA.fy * 1.004)
            g.publisher("camera_info", CameraInfo).publish(camera_info(moved))
            g.process_image()
            assert g.node.tally.refused["camera_info"] == 0

    def test_calibration_that_changes_is_refused_until_the_next_activation(self):
        other = Camera(64, 48, 60.0, 60.0, 32.5, 24.5)
        with graph() as g:
            g.tracking()
            g.send_camera_info(other)
            assert (
                "has changed" in g.node.tally.last_refusal
                and g.node.inputs.cameras[""].camera == CAMERA
            )
            g.change(STEP.TRANSITION_DEACTIVATE)
            g.change(STEP.TRANSITION_ACTIVATE)
            g.publisher("camera_info", CameraInfo).publish(camera_info(other))
            g.wait(lambda: g.node.inputs.cameras[""].camera == other)

    def test_bytes_that_are_no_jpeg(self):
        import cv2

        with graph(image_transport="compressed") as g:
            g.ready()
            good = cv2.imencode(".jpg", g.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))[1]
            publisher = g.publisher("image/compressed", CompressedImage)
            cut = good.tobytes()[: len(good) // 2]
            for number, data in enumerate((b"", b"hello", cut), start=1):
                message = CompressedImage(format="jpeg", data=data)
                message.header.frame_id = "camera"
                message.header.stamp = stamp_from_ns(g.tick())
                publisher.publish(message)
                g.wait(lambda n=number: g.node.tally.refused["image"] == n)
            message.data, message.header.stamp = good.tobytes(), stamp_from_ns(g.tick())
            publisher.publish(message)
            g.wait(lambda: g.node.tally.processed == 1)

    @pytest.mark.parametrize(
        ("pose", "frames", "words"),
        [
            (None, {"parent": "mars"}, "odom_frame"),
            (None, {"child": "wheel"}, "base_frame"),
            ("nan", {}, "NaN"),
        ],
    )
    def test_broken_odometry_is_refused_and_the_node_goes_on(self, pose, frames, words):
        with graph() as g:
            g.tracking()
            message = odometry(Pose.identity(), g.tick(), **frames)
            if pose == "nan":
                message.pose.pose.position.y = float("nan")
            g.publisher("odom", Odometry).publish(message)
            g.wait(lambda: g.node.tally.refused["odometry"] == 1)
            assert words in g.node.tally.last_refusal
            g.wait_for_fix()

    def test_an_unforeseen_error_is_reported_and_survived(self):
        with graph() as g:
            g.tracking()
            g.localizer.error = RuntimeError("index out of range")
            g.send_image()
            g.wait(lambda: g.node.tally.refused["internal"] == 1)
            g.localizer.error = None
            g.wait_for_fix()

    def test_thousands_of_bad_messages_leave_nothing_behind(self):
        """Nothing in the node grows with the number of messages, good or bad."""
        with graph(path_length=10) as g:
            g.tracking()
            sizes = []
            for _ in range(3):
                for i in range(60):
                    broken = image_to_message(np.zeros((4, 4, 3), np.uint8), "camera", g.tick())
                    broken.step = i % 3
                    g.publisher("image", Image).publish(broken)
                    g.send_odometry(parent="mars" if i % 2 else "odom")
                    g.process_image()
                g.wait_for_fix()
                sizes.append(
                    (
                        len(g.node._outputs.path.poses),
                        len(g.node._warned),
                        len(g.node.tally.refused),
                    )
                )
            assert sizes[0] == sizes[-1] and sizes[0][0] == 10


class TestLastPose:
    def test_is_kept_and_found_again(self, tmp_path):
        kept = tmp_path / "deep" / "pose.json"
        with graph(pose_file=str(kept)) as g:
            g.localizer.map_from_base = HERE
            g.tracking()
            g.change(STEP.TRANSITION_DEACTIVATE)
        assert kept.exists()
        with graph(pose_file=str(kept), tracking__auto_global=False) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.wait_for_fix()
            first = g.localizer.priors[0] @ BASE_FROM_CAMERA.inverse()
            assert first.distance(HERE)[0] < 1e-6

    @pytest.mark.parametrize("text", ["", "{}", "not json", '{"frame_id": "moon"}'])
    def test_broken_file_is_ignored(self, tmp_path, text):
        kept = tmp_path / "pose.json"
        kept.write_text(text)
        with graph(pose_file=str(kept)) as g:
            g.tracking()

    def test_nothing_is_kept_while_lost(self, tmp_path):
        kept = tmp_path / "pose.json"
        with graph(pose_file=str(kept)) as g:
            g.localizer.blind = True
            g.ready()
            g.process_image()
            g.change(STEP.TRANSITION_DEACTIVATE)
        assert not kept.exists()
