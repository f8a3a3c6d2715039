"""Playing bags to a graph, and the whole replay with the node in its own process."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from recording_samples import CAMERA, IMAGE, INFO, ODOM, RobotBag, base_pose, picture, stamp
from ros_graph import DEADLINE_S
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from test_recordings_rig import TOPICS, rig_bag
from tf2_msgs.msg import TFMessage

from crossfire_core.cli import run
from crossfire_core.errors import ConfigError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import TrackingState
from crossfire_core.recordings import open_recording
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.rig import camera_names
from crossfire_core.reports.plots import TopView
from crossfire_ros import commands
from crossfire_ros.bag_clock import BagClock
from crossfire_ros.conversions import image_from_message, stamp_to_ns, view_from_message
from crossfire_ros.offline import settings_for, track_offline
from crossfire_ros.options import PlayOptions, ReplayOptions
from crossfire_ros.play import Player
from crossfire_ros.replay import (
    CameraTopics,
    ReplayError,
    Topics,
    find_topics,
    node_arguments,
    replay,
    spinning_node,
)
from crossfire_ros.replay_report import (
    ReplayOutcome,
    frame_error,
    in_plane,
    truth_of,
    write_report,
)

STATIC = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
PROMISED = {
    "fixes_per_s",
    "tf_hz",
    "median_translation_m",
    "median_rotation_deg",
    "offline_median_translation_m",
    "pose_age_ms",
    "dropped",
    "confidently_wrong",
    "first_fix_s",
    "recovery_s",
}
FAKE_NODE = (sys.executable, str(Path(__file__).with_name("fake_node.py")))


class Listener:
    """Two nodes of one graph: one plays, the other remembers."""

    def __init__(self) -> None:
        self.heard: dict[str, list] = {}
        self.context = Context()

    def __enter__(self) -> Listener:
        rclpy.init(context=self.context)
        self._players = spinning_node("player", self.context)
        self._listeners = spinning_node("listener", self.context)
        self.player_node, self.node = self._players.__enter__(), self._listeners.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listeners.__exit__(None, None, None)
        self._players.__exit__(None, None, None)
        rclpy.try_shutdown(context=self.context)

    def listen(self, topic: str, kind, qos=50) -> list:
        self.heard[topic] = []
        self.node.create_subscription(kind, topic, self.heard[topic].append, qos)
        return self.heard[topic]

    def play(self, bag: Path, topics: list[str], **options) -> Player:
        player = Player(self.player_node, bag, PlayOptions(**options))
        assert player.wait_for_listeners(topics)
        player.run()
        return player

    @contextmanager
    def playing(self, bag: Path, **options):
        """A player on a thread of its own, waited for at the end."""
        player = Player(self.player_node, bag, PlayOptions(**options))
        player.wait_for_listeners([IMAGE])
        thread = threading.Thread(target=player.run)
        thread.start()
        yield player
        thread.join()


def wait_for(condition) -> None:
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "condition was not met in time"
        pause.wait(0.01)


@pytest.fixture
def bag(tmp_path) -> Path:
    return RobotBag(count=8).write(tmp_path / "bag")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_arrive_whole_and_in_order_with_their_clock(tmp_path, storage):
    bag = RobotBag(count=8, storage=storage).write(tmp_path / "bag")
    with Listener() as graph:
        images, infos = graph.listen(IMAGE, Image), graph.listen(INFO, CameraInfo)
        clocks = graph.listen("/clock", Clock)
        player = Player(graph.player_node, bag, PlayOptions(rate=4.0))
        assert player.wait_for_listeners([IMAGE, INFO, "/clock"])
        wait_for(lambda: player._tick() or clocks)  # the listener has found the player as well
        player.run()
        wait_for(lambda: len(images) == 8 and len(infos) == 8)
    assert [stamp_to_ns(m.header.stamp) for m in images] == [stamp(i) for i in range(8)]
    assert all((image_from_message(m) == picture(i)).all() for i, m in enumerate(images))
    assert view_from_message(infos[0], INFO, None)[0].camera.fx == pytest.approx(CAMERA.fx)
    times = [stamp_to_ns(c.clock) for c in clocks]
    assert times == sorted(times) and times[-1] - times[0] > 5e8


def test_static_transforms_reach_a_late_listener(bag):
    with Listener() as graph:
        images = graph.listen(IMAGE, Image)
        player = graph.play(bag, [IMAGE], rate=8.0)
        wait_for(lambda: len(images) == 8)
        late = graph.listen("/tf_static", TFMessage, STATIC)
        wait_for(lambda: late)
        assert late[0].transforms and player.published > 8


def test_start_duration_topics_and_new_names(bag):
    with Listener() as graph:
        images = graph.listen("/front", Image)
        infos = graph.listen(INFO, CameraInfo)
        player = Player(
            graph.player_node,
            bag,
            PlayOptions(
                rate=8.0, start_s=0.25, duration_s=0.3, topics=(IMAGE,), remap={IMAGE: "/front"}
            ),
        )
        assert player.topics == ["/front"]
        assert player.wait_for_listeners([IMAGE])
        player.run()
        wait_for(lambda: len(images) == 3)
    assert [stamp_to_ns(m.header.stamp) for m in images] == [stamp(i) for i in (3, 4, 5)]
    assert not infos


def test_loop_and_stop(bag):
    with Listener() as graph:
        images = graph.listen(IMAGE, Image)
        with graph.playing(bag, rate=20.0, loop=True) as player:
            wait_for(lambda: len(images) > 12)
            player.stop()
    stamps = [stamp_to_ns(m.header.stamp) for m in images]
    assert stamps.count(stamp(0)) >= 2


def test_jump_leaves_out_a_stretch(bag):
    with Listener() as graph:
        images = graph.listen(IMAGE, Image)
        graph.play(bag, [IMAGE], rate=8.0, jumps=((0.15, 0.55),))
        wait_for(lambda: len(images) == 4)
    assert [stamp_to_ns(m.header.stamp) for m in images] == [stamp(i) for i in (0, 1, 6, 7)]


def test_paused_waits_for_resume(bag):
    with Listener() as graph:
        images = graph.listen(IMAGE, Image)
        with graph.playing(bag, rate=8.0, paused=True) as player:
            client = graph.node.create_client(Trigger, "/player/resume")
            assert client.wait_for_service(DEADLINE_S)
            standing = player.clock.now()
            assert player.clock.paused and player.clock.now() == standing
            answer = client.call_async(Trigger.Request())
            wait_for(answer.done)
            assert answer.result().success
            wait_for(lambda: len(images) > 6)


def test_clock_keeps_rate_pauses_and_jumps():
    clock = BagClock(1_000, rate=1000.0, paused=True)
    assert clock.now() == 1_000
    clock.resume()
    wait_for(lambda: clock.now() > 1_000_000)
    clock.pause()
    now = clock.now()
    assert clock.now() == now and clock.seconds_until(now + 10**12) == pytest.approx(1.0)
    clock.jump(5)
    assert clock.now() == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rate": 0.0}, "rate"), ({"start_s": -1.0}, "start"), ({"duration_s": 0.0}, "duration")],
)
def test_senseless_options_are_refused(options, words):
    with pytest.raises(RecordingError, match=words):
        PlayOptions(**options)


def test_what_cannot_be_played_is_named(bag, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = RobotBag(count=8).write(tmp_path / "cut")
    (storage,) = cut.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:500])
    with Listener() as graph:
        for path in (empty, cut, tmp_path / "nowhere"):
            with pytest.raises(RecordingError, match=path.name):
                Player(graph.player_node, path, PlayOptions())
        with pytest.raises(RecordingError, match="no topic to play"):
            Player(graph.player_node, bag, PlayOptions(topics=("/nothing",)))
        for jump in ((0.2, 99.0), (99.0, 0.1), (0.2, -1.0)):
            with pytest.raises(RecordingError, match="jump"):
                Player(graph.player_node, bag, PlayOptions(jumps=(jump,)))
        with pytest.raises(RecordingError, match="start lies behind"):
            Player(graph.player_node, bag, PlayOptions(start_s=99.0))


def test_topics_are_found_and_renamed_for_the_node(bag, tmp_path):
    topics = find_topics(bag, RecordingOptions())
    assert (topics.names, topics.odometry) == ([IMAGE, INFO], ODOM)
    assert ("odom", ODOM) in topics.remappings()
    squeezed = RobotBag(count=2, compressed=True).write(tmp_path / "squeezed")
    topics = find_topics(squeezed, RecordingOptions())
    assert topics.remappings()[0] == ("image/compressed", f"{IMAGE}/compressed")


def test_cameras_of_a_rig_are_named_for_the_node(tmp_path):
    bag = rig_bag(tmp_path / "bag")
    options = ReplayOptions(recording=RecordingOptions(image_topic=TOPICS))
    topics = find_topics(bag, options.recording)
    line = node_arguments(Path("rig.map"), topics, options)
    front = camera_names(TOPICS.split(","))[0]
    assert f"cameras:=[{front}, left]" in line
    assert {
        f"{front}/image:={IMAGE}",
        f"{front}/camera_info:={INFO}",
        "left/image:=/left/image_raw",
        "left/camera_info:=/left/camera_info",
        f"odom:={ODOM}",
    } == {word for before, word in pairwise(line) if before == "-r"}
    listed = ReplayOptions(recording=replace(options.recording, calibration="a.yaml,b.yaml"))
    with pytest.raises(RecordingError, match=r"FOLDER/\{camera\}.yaml"):
        node_arguments(Path("rig.map"), topics, listed)


@pytest.mark.timeout(300)
def test_replay_from_the_bag_to_the_report(tmp_path):
    """The real node in its own process: found, tracked, jumped, found again, reported."""
    bag = RobotBag(count=20).write(tmp_path / "bag")
    recording = open_recording(bag)
    kept = tmp_path / "pose.json"
    for rate in (0.5, 0.1, 0.02):  # a node that got no time to look is asked to look longer
        play = PlayOptions(rate=rate, jumps=((0.95, 1.45),))
        options = ReplayOptions(play, parameters=(f"pose_file:={kept}",), node_command=FAKE_NODE)
        recorded = replay(tmp_path / "fake.map", bag, options)
        outcome = ReplayOutcome(
            recorded,
            None,
            truth_of(recording),
            len(recording),
            play.jumps,
            odometry=recording.odometry(),
        )
        figures = outcome.to_json()
        if figures["received"] >= 10 and figures["dropped"] <= 3:
            break
    assert kept.exists(), "the last pose is kept when the process is told to stop"
    assert figures["fixes"] >= 5 and figures["confidently_wrong"] == 0
    assert figures["median_translation_m"] < 1e-3 and figures["median_rotation_deg"] < 0.1
    assert figures["tf_hz"] > 5 and figures["received"] >= 10
    assert figures["first_fix_s"] < 3.0
    assert figures["recovery_s"][0] is not None
    assert figures["tf_wrong"] == 0 and figures["tf_median_translation_m"] < 0.05
    assert figures["node_memory_mb"] > 10 and figures["node_cores"] > 0
    assert figures.keys() >= PROMISED
    view = TopView(np.zeros((0, 0, 4)), (0, 1, 0, 1), np.eye(2, 3))
    page = write_report(tmp_path / "report", outcome, view)
    assert "median position error" in page.read_text()
    saved = json.loads((page.parent / "replay.json").read_text())
    assert saved["fixes"] == figures["fixes"]
    assert (page.parent / "trajectory.png").stat().st_size > 5000


@pytest.mark.timeout(120)
def test_replay_of_a_node_that_does_not_start_says_so(tmp_path):
    bag = RobotBag(count=4).write(tmp_path / "bag")
    broken = ReplayOptions(parameters=("tf_rate:=-1.0",), node_command=FAKE_NODE)
    with pytest.raises(ReplayError, match="code 2"):
        replay(tmp_path / "fake.map", bag, broken)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["play", "nowhere"], "nowhere"),
        (["play", "nowhere", "--rate", "0"], "rate is 0"),
        (["play", "nowhere", "--jump", "3"], "AT:TO"),
        (["play", "nowhere", "--remap", "a=b"], "FROM:=TO"),
        (["replay", "some.map", "nowhere"], "no rosbag2"),
        (["replay", "some.map", "nowhere", "--start", "-1"], "start"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words, capsys):
    assert run(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


def test_a_replay_that_finds_nothing_exits_with_1(bag, monkeypatch, capsys):
    nowhere = ReplayOutcome(None, (), truth_of(open_recording(bag)), 8)
    monkeypatch.setattr(commands, "_replay", lambda *_: (nowhere, None))
    assert run(["replay", "some.map", str(bag), "--no-live"]) == 1
    assert "8 images" in capsys.readouterr().out


class TestOffline:
    def localizer(self):
        from fake_node import PictureLocalizer

        return PictureLocalizer()

    def test_tracks_every_frame_the_same_way_twice(self, bag):
        recording = open_recording(bag)
        runs = [
            track_offline(recording, self.localizer(), settings_for((), None).tracking)
            for _ in range(2)
        ]
        states = [s.result.state for s in runs[0]]
        assert states[0] is TrackingState.UNINITIALIZED
        assert set(states[1:]) == {TrackingState.TRACKING}
        assert runs[0][-1].truth.distance(base_pose(7))[0] < 1e-3
        for a, b in zip(*runs, strict=True):
            assert a.result.reason == b.result.reason
            if a.result.map_from_base is not None:
                assert (a.result.covariance == b.result.covariance).all()

    def test_reads_the_nodes_parameters(self, tmp_path):
        file = tmp_path / "p.yaml"
        file.write_text("/**:\n  ros__parameters:\n    tf_rate: 20.0\n    tracking: {gate: 40.0}\n")
        settings = settings_for(("tracking.min_inliers:=33", "use_sim_time:=true"), file)
        assert (settings.tracking.gate, settings.tracking.min_inliers) == (40.0, 33)
        assert settings.node.tf_rate == 20.0
        mine = "/robot/crossfire_localization:\n  ros__parameters: {odom_frame: odom2}\n"
        file.write_text("controller_server:\n  ros__parameters: {speed: 1.0}\n" + mine)
        settings = settings_for(("start_type_description_service:=true",), file)
        assert settings.node.odom_frame == "odom2"

    @pytest.mark.parametrize("typed", ["trackin.gate:=30.0", "tracking.gat:=3", "gate:=3"])
    def test_a_parameter_that_does_not_exist_is_not_swallowed(self, typed):
        with pytest.raises(ConfigError, match="unknown setting"):
            settings_for((typed,), None)

    def test_a_parameter_that_was_replaced_names_the_new_one(self):
        with pytest.raises(ConfigError, match=r"tracking.lost_after_failures.*coast_after_s"):
            settings_for(("tracking.lost_after_failures:=2",), None)


def test_the_node_is_told_what_was_said_about_the_camera():
    said = RecordingOptions(calibration="cam.yaml:cam1", mask="hood.png", rectified=True)
    line = node_arguments(
        Path("room.map"),
        Topics((CameraTopics("/cam/image", ""),)),
        ReplayOptions(recording=said),
    )
    given = {line[i + 1] for i, word in enumerate(line) if word == "-p"}
    assert {"calibration:=cam.yaml:cam1", "mask:=hood.png", "rectified:=true"} <= given


def test_recovery_is_counted_from_images_behind_the_jump():
    """A pose that was under way when the jump came does not count."""
    from crossfire_core.geometry import Trajectory
    from crossfire_ros.recorder import Recorded, RecordedPose

    def pose(stamp_s: float, played_s: float) -> RecordedPose:
        return RecordedPose(int(stamp_s * 1e9), 0, played_s, Pose.identity(), np.eye(6) * 1e-4)

    truth = Trajectory.from_samples([(i * 10**8, Pose.identity()) for i in range(300)])
    recorded = Recorded([pose(6.8, 2.0), pose(6.9, 2.2), pose(18.3, 2.9)])
    outcome = ReplayOutcome(recorded, None, truth, 300, ((7.0, 18.0),), 5.0)
    assert outcome.tracking_again() == [pytest.approx(0.9)]
    recorded.states += [(1.5, "tracking"), (2.3, "lost"), (2.9, "tracking"), (4.0, "lost")]
    figures = outcome.to_json()
    assert figures["fixes_per_s"] == pytest.approx(1.0)
    assert figures["time_lost_s"] == pytest.approx(0.6)
    recorded.poses.pop()
    assert outcome.tracking_again() == [None]


def test_errors_along_the_floor_and_off_it():
    """By hand: 3 and 4 cm along it, 2 cm above it, half a degree of yaw and 0.2 degrees of tilt."""
    truth = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.7))
    turn = Pose.exp((0, 0, 0, 0, 0, np.radians(0.5))) @ Pose.exp((0, 0, 0, np.radians(0.2), 0, 0))
    shift = np.array([0.03, -0.04, 0.02])
    found = Pose(turn.rotation @ truth.rotation, truth.translation + shift)
    said = in_plane([frame_error(0, found, truth, np.eye(6))])
    assert said == {
        "median_m": pytest.approx(0.05),
        "median_yaw_deg": pytest.approx(0.5, rel=1e-3),
        "largest_height_m": pytest.approx(0.02),
        "largest_tilt_deg": pytest.approx(0.2, rel=1e-3),
    }
    assert in_plane([])["largest_tilt_deg"] is None
