"""What the node publishes and says in the situations that docs/ros_interface.md lists."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_graph import (
    BASE_FROM_CAMERA,
    CAMERA,
    DEADLINE_S,
    LATCHED,
    FakeLocalizer,
    Graph,
    camera_info,
    graph,
    odometry,
)
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_srvs.srv import Trigger

from crossfire_core.errors import ConfigError, MapFormatError
from crossfire_core.geometry import Pose
from crossfire_ros.conversions import (
    pose_from_message,
    pose_from_transform,
    pose_with_covariance,
    stamp_from_ns,
    stamp_to_ns,
    transform_from_pose,
)
from crossfire_ros.map_loading import LoadedMap
from crossfire_ros.pose_file import KeptPose, save_pose
from crossfire_ros.settings import settings_from
from crossfire_ros.transforms import tf

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
HERE = Pose(Pose.exp([0, 0, 0, 0, 0, 0.5]).rotation, np.array([3.0, 4.0, 0.0]))
SMALL = np.diag([0.01] * 6)


def diagnostic(g: Graph, part: str) -> DiagnosticStatus:
    """The newest diagnostic of one part of the node."""
    name = f"{g.node.get_fully_qualified_name()[1:]}: {part}"
    found = [s for m in g.received["/diagnostics"] for s in m.status if s.name == name]
    return found[-1] if found else DiagnosticStatus()


def says(g: Graph, part: str, words: str, level: bytes) -> bool:
    status = diagnostic(g, part)
    return words in status.message and status.level == level


class Transforms:
    """Another node that publishes transforms."""

    def __init__(self, g: Graph) -> None:
        self._g, self._broadcaster = g, tf.TransformBroadcaster(g.peer)

    def send(self, parent: str, child: str, x: float = 0.0) -> None:
        pose = Pose(np.eye(3), np.array([x, 0.0, 0.0]))
        stamp = stamp_from_ns(self._g.tick())
        self._broadcaster.sendTransform(transform_from_pose(pose, parent, child, stamp))

    def saying(self, words: str, level: bytes):
        """What publishes one more transform and tells whether the node says so by now."""

        def said(parent: str, child: str, x: float = 0.0) -> bool:
            self.send(parent, child, x)
            return says(self._g, "transforms", words, level)

        return said


class TestBeginning:
    def test_unconfigured_node_says_how_to_begin(self):
        with graph() as g:
            g.wait(lambda: says(g, "localization", "ros2 lifecycle set", WARN))
            assert "set the parameter `map`" in g.status()["message"]

    def test_map_that_is_not_there_is_named_in_the_status(self):
        def load(settings):
            raise MapFormatError("there is no map at room.map")

        with graph(load=load) as g:
            assert g.node.trigger_configure() is TransitionCallbackReturn.FAILURE
            g.wait(lambda: says(g, "localization", "no map at room.map", ERROR))

    def test_configure_answers_at_once_and_the_map_is_loaded_in_the_background(self):
        ready = threading.Event()
        with graph(
            load=lambda settings: lambda: ready.wait(DEADLINE_S) and g.load(settings)()
        ) as g:
            try:
                assert g.change(Transition.TRANSITION_CONFIGURE) and g.state() == "inactive"
                assert g.change(Transition.TRANSITION_ACTIVATE) and g.state() == "active"
                g.wait(lambda: says(g, "localization", "loading", WARN))
            finally:
                ready.set()
            g.wait(lambda: g.node.tracker is not None)
            g.send_extrinsics()
            g.send_camera_info()
            g.wait_for_fix()

    def test_map_that_turns_out_broken_takes_the_node_back_to_unconfigured(self):
        def load(settings):
            def read() -> LoadedMap:
                raise MapFormatError("room.map is cut short")

            return read

        with graph(load=load) as g:
            assert g.node.trigger_configure() is TransitionCallbackReturn.SUCCESS
            assert g.node.trigger_activate() is TransitionCallbackReturn.SUCCESS
            g.wait(lambda: says(g, "localization", "room.map is cut short", ERROR))
            assert g.state() == "unconfigured"

    def test_cleanup_while_loading_forgets_what_is_loaded(self):
        ready = threading.Event()
        with graph(
            load=lambda settings: lambda: ready.wait(DEADLINE_S) and g.load(settings)()
        ) as g:
            g.node.trigger_configure()
            assert g.node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
            ready.set()
            done: list = []
            g.node.worker.call(lambda: done.append(True))
            g.wait(lambda: done)
            assert g.node.maps.loaded is None and g.state() == "unconfigured"

    def test_maps_and_threads_are_not_piled_up_by_loading_again_and_again(self):
        """Numerical libraries keep memory for every thread that ever called them: there is one."""
        maps: list = []

        def load(settings):
            def read() -> LoadedMap:
                localizer = FakeLocalizer()
                maps.append(weakref.ref(localizer))
                return LoadedMap(localizer, "map", BASE_FROM_CAMERA, "fake.map")

            return read

        with graph(load=load) as g:
            g.activate()
            threads = {t.ident for t in threading.enumerate()}
            for _ in range(3):
                g.node.trigger_deactivate()
                g.node.trigger_cleanup()
                g.activate()
            assert {t.ident for t in threading.enumerate()} == threads
            g.wait(lambda: gc.collect() >= 0 and [m() is not None for m in maps].count(True) == 1)

    @pytest.mark.parametrize("names", [{"map_frame": "odom"}, {"base_frame": "odom"}])
    def test_two_frames_of_one_name_are_refused(self, names):
        with pytest.raises(ConfigError, match="both 'odom'"):
            settings_from(names)
        assert settings_from({**names, "use_odometry": False}).node.odom_frame == "odom"

    @pytest.mark.parametrize("role", ["map_frame", "odom_frame", "base_frame"])
    def test_frame_with_a_slash_before_it_is_refused(self, role):
        """As ROS 1 had them: nothing that arrives would ever be of that frame."""
        with pytest.raises(ConfigError, match=f"{role} is '/here': tf2 knows it as 'here'"):
            settings_from({role: "/here"})

    def test_map_whose_frame_is_the_odometrys_is_refused(self):
        with graph(odom_frame="map") as g:
            g.node.trigger_configure()
            g.wait(lambda: says(g, "localization", "both 'map'", ERROR))
            assert g.state() == "unconfigured"


class TestInputs:
    def test_calibration_that_was_latched_before_the_node_came(self):
        with graph() as g:
            latched = g.peer.create_publisher(CameraInfo, "camera_info", LATCHED)
            latched.publish(camera_info(CAMERA))
            g.activate()
            g.wait(lambda: g.node.inputs.cameras[""].camera == CAMERA)

    def test_drivers_that_latch_nothing_are_not_asked_to(self):
        """A driver warns of a listener that it cannot serve."""
        with graph() as g:
            g.ready()
            asked = g.node.get_subscriptions_info_by_topic("/camera_info")
            assert [i.qos_profile.durability.name for i in asked] == ["VOLATILE"]

    def test_compressed_images_follow_the_name_of_the_raw_ones(self):
        import cv2

        arguments = ["--ros-args", "-r", "image:=/front/image_raw"]
        with graph(image_transport="compressed", cli_args=arguments) as g:
            g.ready()
            good = cv2.imencode(".jpg", g.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))[1]
            message = CompressedImage(format="jpeg", data=good.tobytes())
            message.header.frame_id = "camera"
            message.header.stamp = stamp_from_ns(g.tick())
            g.publisher("/front/image_raw/compressed", CompressedImage).publish(message)
            g.wait(lambda: g.node.tally.processed == 1)

    @pytest.mark.parametrize("name", ["image", "image/compressed"])
    def test_a_remapped_name_says_whether_images_are_rectified(self, name):
        """Which of both names is remapped does not matter to what the images are taken for."""
        there = name.replace("image", "/front/image_rect")
        with graph(
            image_transport="compressed", cli_args=["--ros-args", "-r", f"{name}:={there}"]
        ) as g:
            g.activate()
            camera = g.node.inputs.cameras[""]
            assert camera.image_topic == "/front/image_rect/compressed"
            turned = camera_info(CAMERA)
            turned.p = [55.0, 0, 32, 0, 0, 56, 24, 0, 0, 0, 1, 0]
            assert camera.take_info(turned) == ""  # P holds, and there is no doubt about it
            assert camera.camera.fx == 55.0

    def test_reliability_is_overridden_as_for_other_nodes(self):
        name = "qos_overrides./image.subscription.reliability"
        with graph(**{name: "reliable"}) as g:
            g.activate()
            (info,) = g.node.get_subscriptions_info_by_topic("/image")
            assert info.qos_profile.reliability.name == "RELIABLE"

    def test_images_of_another_clock(self):
        with graph() as g:
            g.ready()
            g.tick = lambda: time.time_ns() - 5_000_000_000
            g.process_image()
            g.wait(lambda: says(g, "inputs", "stamps of images are 5", WARN))
            assert not g.received["~/pose"] and not g.transforms("odom")

    def test_odometry_of_another_clock(self):
        with graph() as g:
            g.ready()
            late = time.time_ns() - 5_000_000_000
            g.publisher("odom", Odometry).publish(odometry(Pose.identity(), late))
            g.wait(lambda: says(g, "inputs", "stamps of odometry are 5", WARN))

    @pytest.mark.parametrize(
        ("frames", "stamped", "words"),
        [
            ({}, False, "odometry has no stamp"),
            ({"parent": "mars"}, True, "set odom_frame to 'mars'"),
            ({"child": "wheel"}, True, "set base_frame to 'wheel'"),
        ],
    )
    def test_odometry_that_cannot_be_used(self, frames, stamped, words):
        with graph() as g:
            g.ready()
            message = odometry(Pose.identity(), g.tick() if stamped else 0, **frames)
            g.publisher("odom", Odometry).publish(message)
            g.wait(lambda: says(g, "inputs", words, WARN))
            assert "nothing usable yet on /odom" in diagnostic(g, "inputs").message
            assert g.node.tracker.odometry.empty
            g.wait_for_fix(odometry=False)
            g.drive_until(lambda: words in g.status()["message"], odometry=False)
            assert not g.transforms("odom")

    def test_odometry_without_frames_is_that_of_the_robot(self):
        with graph() as g:
            g.ready()
            g.drive_until(lambda: g.send_odometry(parent="", child="") or g.transforms("odom"))

    def test_odometry_that_jumps(self):
        """A driver in millimetres, or one that was switched on again elsewhere."""
        with graph() as g:
            g.odom_from_base = Pose.identity()
            g.tracking()
            g.drive_until(lambda: g.transforms("odom"))
            g.odom_from_base = Pose(np.eye(3), np.array([500.0, 0.0, 0.0]))
            g.send_odometry()
            words = "odometry began anew: it jumped by 500.00 m and 0 deg"
            g.wait(lambda: says(g, "inputs", words, WARN))
            g.localizer.map_from_base = HERE

            def right() -> bool:
                sent = pose_from_transform(g.transforms("odom")[-1].transform)
                return (sent @ g.odom_from_base).distance(HERE)[0] < 1e-6

            g.drive_until(right)

    def test_images_without_stamps(self):
        with graph() as g:
            g.ready()
            g.tick = lambda: 0
            g.process_image()
            g.wait(lambda: says(g, "inputs", "image has no stamp", WARN))

    @pytest.mark.parametrize("kind", ["image", "odom"])
    def test_input_that_falls_silent(self, kind):
        """Odometry carries the transform on; without it the last correction stays for a while."""
        with graph() as g:
            g.odom_from_base = Pose.identity()
            g.tracking()
            g.drive_until(lambda: g.transforms("odom"))

            def noticed() -> bool:
                if kind == "image":
                    g.send_odometry()
                else:
                    g.process_image()
                g.executor.spin_once(timeout_sec=0.02)
                return says(g, "inputs", f"nothing on /{kind} for", WARN)

            silent_since = time.time_ns()
            g.wait(noticed)
            assert len(g.transforms_sent_after(silent_since)) >= 3

    def test_odometry_that_is_a_twist_only(self):
        with graph() as g:
            g.ready()

            def drive() -> bool:
                message = odometry(Pose.identity(), g.tick())
                message.twist.twist.linear.x = 40.0
                g.publisher("odom", Odometry).publish(message)
                g.executor.spin_once(timeout_sec=0.01)
                return says(g, "inputs", "twist says 40.00 m/s", WARN)

            g.wait(drive)

    def test_pause_leaves_images_alone_until_resume(self):
        with graph() as g:
            g.tracking()
            assert g.call(Trigger, "/crossfire_localization/pause").success
            asked = len(g.localizer.priors)
            skipped = g.node.tally.skipped
            g.send_image()
            g.wait(lambda: g.node.tally.skipped > skipped)
            g.wait(lambda: "call ~/resume" in g.status()["message"])
            assert len(g.localizer.priors) == asked
            assert g.received["~/status"][-1].level == WARN
            paused_at = time.time_ns()
            g.wait(lambda: g.send_odometry() or len(g.transforms_sent_after(paused_at)) >= 3)
            assert g.call(Trigger, "/crossfire_localization/resume").success
            g.wait_for_fix()

    def test_robot_that_stands_looks_as_often_as_it_must(self):
        """Twice within the second after which it would be coasting."""
        with graph(min_motion_m=0.05, tracking__odometry_max_gap_s=10.0) as g:
            g.tracking()
            first = stamp_to_ns(g.received["~/pose"][-1].header.stamp)
            second = stamp_to_ns(g.wait_for_fix().header.stamp)
            assert second - first >= 500_000_000
            assert g.node.tally.skipped > 0 and g.status()["state"] == "tracking"


class Floors:
    """Loads maps of two floors; the robot is somewhere else in each, and so is each frame."""

    PLACES: ClassVar = {"one.map": HERE, "two.map": Pose(np.eye(3), np.array([-7.0, 1.0, 3.0]))}

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.maps: list = []

    def load(self, settings):
        file = settings.node.map
        if file == "none.map":
            raise MapFormatError("there is no map at none.map")

        def read() -> LoadedMap:
            if file != "one.map":
                self.ready.wait(DEADLINE_S)
            if file == "broken.map":
                raise MapFormatError("broken.map is cut short")
            localizer = FakeLocalizer(self.PLACES[file])
            self.maps.append(weakref.ref(localizer))
            return LoadedMap(localizer, f"floor_{file[:3]}", BASE_FROM_CAMERA, file)

        return read


@contextmanager
def robot_on_floor_one(floors: Floors, **parameters):
    with graph(load=floors.load, map="one.map", **parameters) as g:
        g.odom_from_base = Pose.identity()
        try:
            yield g.tracking()
        finally:
            floors.ready.set()


def set_map(g: Graph, file: str):
    parameter = Parameter("map", value=file).to_parameter_msg()
    request = SetParameters.Request(parameters=[parameter])
    return g.call(SetParameters, "/crossfire_localization/set_parameters", request).results[0]


class TestChangeOfMap:
    def test_one_map_serves_until_the_other_is_ready_and_nothing_is_wrong_in_between(self):
        floors = Floors()
        with robot_on_floor_one(floors) as g:
            assert set_map(g, "two.map").successful
            g.wait_for_message("two.map is being loaded")
            for _ in range(3):
                assert g.wait_for_fix().header.frame_id == "floor_one"
            assert g.received["~/status"][-1].level == WARN
            floors.ready.set()
            g.drive_until(lambda: g.received["~/pose"][-1].header.frame_id == "floor_two")
            g.wait_for_state("tracking")
            g.drive_until(lambda: g.transforms("odom")[-1].header.frame_id == "floor_two")
            assert "two.map" in (diagnostic(g, "localization").hardware_id, g.node.maps.loaded.name)
            for pose in g.received["~/pose"]:
                place = floors.PLACES[f"{pose.header.frame_id[6:]}.map"]
                assert pose_from_message(pose.pose.pose).distance(place)[0] < 1e-6
            for sent in g.transforms("odom"):
                place = floors.PLACES[f"{sent.header.frame_id[6:]}.map"]
                assert pose_from_transform(sent.transform).distance(place)[0] < 1e-6
            g.wait(lambda: gc.collect() >= 0 and floors.maps[0]() is None)

    def test_one_that_is_broken_leaves_the_other_and_says_so(self):
        floors = Floors()
        floors.ready.set()
        with robot_on_floor_one(floors) as g:
            assert set_map(g, "broken.map").successful, "it is there, at least"
            g.drive_until(lambda: says(g, "localization", "broken.map is cut short", WARN))
            assert g.wait_for_fix().header.frame_id == "floor_one"
            assert g.node.get_parameter("map").value == "one.map"
            assert set_map(g, "two.map").successful
            g.drive_until(lambda: g.received["~/pose"][-1].header.frame_id == "floor_two")
            g.drive_until(lambda: says(g, "localization", "tracking", OK))

    def test_one_that_is_not_there_is_refused(self):
        with robot_on_floor_one(Floors()) as g:
            answer = set_map(g, "none.map")
            assert not answer.successful and "no map at none.map" in answer.reason
            assert g.node.get_parameter("map").value == "one.map"
            assert g.wait_for_fix().header.frame_id == "floor_one"

    def test_back_to_the_one_that_serves_while_another_is_loaded(self):
        floors = Floors()
        with robot_on_floor_one(floors) as g:
            set_map(g, "two.map")
            set_map(g, "one.map")
            floors.ready.set()
            done: list = []
            g.node.maps.loader.call(lambda: done.append(True))
            g.drive_until(lambda: done and says(g, "localization", "tracking", OK))
            assert g.wait_for_fix().header.frame_id == "floor_one"

    def test_kept_pose_of_one_map_is_not_taken_for_one_of_the_other(self, tmp_path):
        floors, kept = Floors(), tmp_path / "pose.json"
        floors.ready.set()
        start = {"initial_pose__x": 3.0, "set_initial_pose": True}
        with robot_on_floor_one(floors, pose_file=str(kept), **start) as g:
            set_map(g, "two.map")
            g.wait(lambda: g.node.maps.loaded.name == "two.map")
            assert '"floor_one"' in kept.read_text()
            assert g.node.tracker._hint is None, "the start was on the other floor"

    def test_while_inactive(self):
        floors = Floors()
        floors.ready.set()
        with graph(load=floors.load, map="one.map") as g:
            g.configure()
            assert set_map(g, "two.map").successful
            g.wait(lambda: g.node.maps.loaded.name == "two.map")
            assert g.state() == "inactive"
            g.node.trigger_activate()
            g.send_extrinsics()
            g.send_camera_info()
            assert g.wait_for_fix().header.frame_id == "floor_two"


class TestNamespace:
    def test_a_robot_of_many_keeps_to_its_namespace_transforms_too(self):
        """As Nav2 remaps them; diagnostics are gathered over all robots, by name."""
        rules = ("__ns:=/robot1", "/tf:=tf", "/tf_static:=tf_static")
        remaps = [part for rule in rules for part in ("-r", rule)]
        with graph(cli_args=["--ros-args", *remaps], namespace="/robot1") as g:
            g.localizer.map_from_base = HERE
            g.tracking()
            g.wait(
                lambda: any(
                    t.header.frame_id == "map" for m in g.received["/tf"] for t in m.transforms
                )
            )
            g.wait(lambda: diagnostic(g, "inputs").message)
            name = (g.node.get_name(), g.node.get_namespace())
            topics = [
                topic
                for found in (
                    g.peer.get_publisher_names_and_types_by_node(*name),
                    g.peer.get_subscriber_names_and_types_by_node(*name),
                    g.peer.get_service_names_and_types_by_node(*name),
                )
                for topic, _ in found
            ]
            outside = {topic for topic in topics if not topic.startswith("/robot1/")}
            assert outside <= {"/diagnostics", "/rosout", "/parameter_events", "/clock"}
            assert {"/robot1/tf", "/robot1/image", "/robot1/odom"} <= set(topics)


class TestTransforms:
    def test_another_publisher_of_the_same_link(self):
        with graph() as g:
            g.tracking()
            said = Transforms(g).saying("another node publishes map -> odom", ERROR)
            g.drive_until(lambda: said("map", "odom", 5.0))

    def test_the_nodes_own_transforms_are_not_taken_for_anothers(self):
        with graph(tracking__odometry_max_gap_s=10.0) as g:
            g.tracking()
            said = Transforms(g).saying("consistent", OK)
            g.drive_until(lambda: said("odom", "base_link"))
            sent = len(g.transforms("odom"))
            g.drive_until(
                lambda: said("odom", "base_link") and len(g.transforms("odom")) > sent + 5
            )
            assert says(g, "transforms", "consistent", OK)

    @pytest.mark.parametrize(
        ("child", "sent", "words"),
        [
            ("base_link", ["odom", "world"], "base_link has 2 parents, odom and world"),
            ("odom", ["world"], "odom has 2 parents, map and world"),
        ],
    )
    def test_second_parent_of_the_robot(self, child, sent, words):
        with graph() as g:
            g.tracking()
            said = Transforms(g).saying(words, ERROR)
            g.drive_until(lambda: any([said(parent, child) for parent in sent]))

    def test_nobody_publishes_the_odometry_as_a_transform(self):
        with graph() as g:
            g.tracking()
            g.drive_until(lambda: says(g, "transforms", "nobody publishes odom -> base", WARN))

    def test_filter_that_corrects_the_odometry_only_on_tf(self):
        with graph() as g:
            g.tracking()
            said = Transforms(g).saying("odometry puts base_link 0.50 m", WARN)
            g.drive_until(lambda: said("odom", "base_link", 0.5))
            assert "odometry_source to tf" in diagnostic(g, "transforms").message

    def test_odometry_from_transforms(self):
        """The tree leads to the fix although `odom` would say something else."""
        with graph(odometry_source="tf") as g:
            g.localizer.map_from_base = HERE
            g.ready()
            others = Transforms(g)

            def known() -> bool:
                others.send("odom", "base_link", 0.5)
                return bool(g.transforms("odom"))

            g.drive_until(known, odometry=False)
            assert g.peer.count_subscribers("/odom") == 0
            map_from_odom = pose_from_transform(g.transforms("odom")[-1].transform)
            base = map_from_odom @ Pose(np.eye(3), np.array([0.5, 0.0, 0.0]))
            assert base.distance(HERE)[0] < 1e-6

    def test_frame_of_the_camera_that_is_not_the_optical_one(self):
        """The driver names the body frame (x forward, z up): the robot seems to lie on its side."""
        body = Pose(np.eye(3), BASE_FROM_CAMERA.translation)
        with graph() as g:
            g.activate()
            g.statics.sendTransform(
                transform_from_pose(body, "base_link", "camera", stamp_from_ns(0))
            )
            g.send_camera_info()
            words = "lean over by 90 deg: 'camera' is not the camera's optical frame"
            g.drive_until(lambda: says(g, "transforms", words, ERROR))

    @pytest.mark.parametrize(("mapped", "level"), [("base_footprint", WARN), ("base_link", OK)])
    def test_mounting_from_a_map_of_another_frame_of_the_robot(self, mapped, level):
        def load(settings):
            return lambda: LoadedMap(
                g.localizer, "map", BASE_FROM_CAMERA, "fake.map", base_frame=mapped
            )

        with graph(load=load, extrinsics="map") as g:
            g.activate()
            g.send_camera_info()
            others = Transforms(g)

            def judged() -> bool:
                others.send("odom", "base_link")
                words = "set base_frame to 'base_footprint'" if level == WARN else "consistent"
                return says(g, "transforms", words, level)

            g.drive_until(judged)


class TestImages:
    def test_place_that_only_looks_like_the_maps(self):
        with graph() as g:
            g.localizer.evidence = 8.0
            g.ready()
            g.drive_until(lambda: says(g, "localization", "unsure, a place that looks alike", WARN))
            assert not g.received["~/pose"] and not g.transforms("odom")

    def test_images_that_contradict_for_too_long(self):
        with graph(tracking__contradicted_s=0.2) as g:
            g.odom_from_base = Pose.identity()
            g.tracking()

            def contradicted() -> bool:
                x = g.localizer.map_from_base.translation[0]
                g.localizer.map_from_base = Pose(np.eye(3), np.array([x + 5.0, 0.0, 0.0]))
                return says(g, "localization", "lost: pose disagrees with odometry", ERROR)

            g.drive_until(contradicted)
            lost_at = time.time_ns()
            statuses = len(g.received["~/status"])
            g.wait(lambda: g.send_odometry() or len(g.received["~/status"]) > statuses + 1)
            assert not g.transforms_sent_after(lost_at)


def simulate(g: Graph, stamps: Iterable[int]) -> None:
    """Simulated time, with odometry and an image whenever it moves on."""
    for stamp in stamps:
        g.set_clock(stamp)
        g.tick = lambda n=stamp: n
        g.send_odometry()
        g.process_image()


def tenths(start_s: float, count: int = 8) -> list[int]:
    return [round((start_s + 0.1 * i) * 1e9) for i in range(count)]


class TestTime:
    def test_bag_that_begins_again_is_not_lost_and_needs_no_new_static_transforms(self):
        with graph(use_sim_time=True) as g:
            g.ready()
            simulate(g, tenths(50.0))
            g.wait_for_state("tracking")
            before = len(g.received["~/status"])
            simulate(g, tenths(5.0))
            g.wait(lambda: says(g, "inputs", "the clock went back", WARN))
            g.wait_for_state("tracking")
            states = [s.message for s in g.received["~/status"][before:]]
            assert not [m for m in states if m.startswith("lost")], states

    def test_clock_that_trembles_begins_nothing_anew(self):
        """It has two publishers, say: a bag and a simulator."""
        with graph(use_sim_time=True) as g:
            g.ready()
            simulate(g, tenths(50.0))
            g.wait(lambda: g.transforms("odom"))
            before = len(g.received["~/status"])
            simulate(g, [*tenths(50.65, 1), *tenths(50.8)])
            g.wait(lambda: stamp_to_ns(g.transforms("odom")[-1].header.stamp) > 51_500_000_000)
            states = [s.message for s in g.received["~/status"][before:]]
            assert not [m for m in states if not m.startswith("tracking")], states
            stamps = [stamp_to_ns(t.header.stamp) for t in g.transforms("odom")]
            assert stamps == sorted(set(stamps))

    def test_clock_that_jumps_ahead_costs_nothing_where_odometry_goes_on(self):
        """A bag that is skipped through: the robot has driven meanwhile."""
        with graph(use_sim_time=True) as g:
            g.odom_from_base = Pose.identity()
            g.localizer.map_from_base = HERE
            g.ready()
            simulate(g, tenths(50.0))
            g.wait(lambda: g.transforms("odom"))
            before = len(g.received["~/status"])
            driven = Pose(np.eye(3), np.array([2.0, 0.0, 0.0]))
            g.odom_from_base, g.localizer.map_from_base = driven, HERE @ driven
            simulate(g, tenths(80.0))
            g.wait(lambda: stamp_to_ns(g.transforms("odom")[-1].header.stamp) > 80_000_000_000)
            states = [s.message for s in g.received["~/status"][before:]]
            assert not [m for m in states if m.startswith(("lost", "uninitialized"))], states
            sent = pose_from_transform(g.transforms("odom")[-1].transform)
            assert sent.distance(HERE)[0] < 1e-6


class TestStart:
    def test_begins_where_the_parameters_say(self):
        start = {"initial_pose__x": 3.0, "initial_pose__y": 4.0, "initial_pose__yaw": 0.5}
        with graph(set_initial_pose=True, tracking__auto_global=False, **start) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.wait_for_fix()
            assert g.localizer.priors[0].distance(HERE @ BASE_FROM_CAMERA)[0] < 1e-6

    def test_initial_pose_while_inactive_is_kept_for_the_start(self):
        with graph(tracking__auto_global=False) as g:
            g.localizer.map_from_base = HERE
            g.configure()
            message = pose_with_covariance(HERE, SMALL, "map", g.tick())
            g.publisher("initialpose", PoseWithCovarianceStamped, 1).publish(message)
            g.wait(lambda: g.node.start.pending is not None)
            g.node.trigger_activate()
            g.send_extrinsics()
            g.send_camera_info()
            g.wait_for_fix()
            assert g.localizer.priors[0].distance(HERE @ BASE_FROM_CAMERA)[0] < 1e-6

    def test_pose_file_is_written_while_localized_and_outlives_a_kill(self, tmp_path):
        kept = tmp_path / "pose.json"
        with graph(pose_file=str(kept), pose_file_period=0.1) as g:
            g.localizer.map_from_base = HERE
            g.tracking()
            g.drive_until(kept.exists)
            after_a_kill = kept.read_text()
        kept.write_text(after_a_kill)
        with graph(pose_file=str(kept), tracking__auto_global=False) as g:
            g.localizer.map_from_base = HERE
            g.ready()
            g.wait_for_fix()
            first = g.localizer.priors[0] @ BASE_FROM_CAMERA.inverse()
            assert first.distance(HERE)[0] < 0.02

    def test_what_the_robot_drove_while_the_node_was_down_is_added(self, tmp_path):
        """Kept at 2 m of odometry; a metre further on (along x of HERE) when it comes back."""
        path = tmp_path / "pose.json"
        there = Pose(np.eye(3), np.array([2.0, 0.0, 0.0]))
        kept = KeptPose(time.time_ns() - 2_000_000_000, time.time() - 2.0, HERE, SMALL, there)
        save_pose(path, "map", "", kept)
        with graph(pose_file=str(path), tracking__auto_global=False) as g:
            now = HERE @ Pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
            g.localizer.map_from_base = now
            g.ready()
            g.odom_from_base = Pose(np.eye(3), np.array([3.0, 0.0, 0.0]))
            samples = g.node.tracker.odometry._samples
            g.wait(lambda: g.send_odometry() or len(samples) > 5)
            g.wait_for_fix()
            first = g.localizer.priors[0] @ BASE_FROM_CAMERA.inverse()
            assert first.distance(now)[0] < 0.01
            expected = HERE.translation + np.array([np.cos(0.5), np.sin(0.5), 0.0])
            assert np.allclose(first.translation, expected, atol=0.01)

    def test_pose_of_another_map_with_the_same_frame_is_ignored(self, tmp_path, capfd):
        path = tmp_path / "pose.json"
        save_pose(path, "map", "another", KeptPose(1, time.time(), HERE, SMALL))
        with graph(pose_file=str(path)) as g:
            g.activate()
            assert g.node.tracker._hint is None
        assert "another map" in capfd.readouterr().err
