"""The whole robot on one machine: the node in its own process, a bag played to it, a recorder."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from crossfire_core.errors import CrossfireError, RecordingError
from crossfire_core.recordings.bag_reader import open_bag
from crossfire_core.recordings.bag_scan import scan_bag
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.rig import camera_names, of_each_camera
from crossfire_ros import runtime
from crossfire_ros.domains import own_domain
from crossfire_ros.options import ReplayOptions
from crossfire_ros.play import Player
from crossfire_ros.recorder import Recorded, Recorder
from crossfire_ros.settings import NODE_NAME

NODE = f"/{NODE_NAME}"
_START_S = 120.0  # a first start compiles kernels
_SETTLE_S = 5.0  # for the last images to be answered
_END_S = 20.0  # then the node is killed
_ODOMETRY = "nav_msgs/msg/Odometry"

Say = Callable[[str], None]
Progress = Callable[[float, float], None]


class ReplayError(CrossfireError):
    """The node did not start, or did not live to the end of the bag."""


@dataclass(frozen=True)
class CameraTopics:
    """A camera's topics in a bag; one that the bag lacks is empty.

    Attributes:
        image: of its images.
        info: of its calibration.
        name: of the camera; empty where the robot has one.
    """

    image: str
    info: str
    name: str = ""

    @property
    def compressed(self) -> bool:
        """Whether the images are compressed."""
        return self.image.endswith("/compressed")

    def remappings(self) -> list[tuple[str, str]]:
        """From the node's names to the bag's."""
        before = f"{self.name}/" if self.name else ""
        image = "image/compressed" if self.compressed else "image"
        return [(before + image, self.image), (f"{before}camera_info", self.info)]


@dataclass(frozen=True)
class Topics:
    """The topics of a bag that the node listens to.

    Attributes:
        cameras: all with compressed images, or all without.
        odometry: empty where the bag has none.
    """

    cameras: tuple[CameraTopics, ...]
    odometry: str = ""

    @property
    def names(self) -> list[str]:
        """All of them but the odometry, as the bag has them."""
        return [name for camera in self.cameras for name in (camera.image, camera.info) if name]

    def remappings(self) -> list[tuple[str, str]]:
        """From the node's names to the bag's."""
        pairs = [pair for camera in self.cameras for pair in camera.remappings()]
        return [(ours, theirs) for ours, theirs in [*pairs, ("odom", self.odometry)] if theirs]


def find_topics(bag: Path, options: RecordingOptions) -> Topics:
    """Choose the topics as training and evaluation do.

    Raises:
        RecordingError: the bag has no images, or several candidates.
    """
    with open_bag(bag) as reader:
        scans = [scan_bag(reader, own) for own in of_each_camera(options)]
        odometry = [t.name for t in reader.topics.values() if t.msgtype == _ODOMETRY]
    names = camera_names([scan.image_topic for scan in scans]) if len(scans) > 1 else [""]
    cameras = tuple(
        CameraTopics(scan.image_topic, scan.info_topic, name)
        for scan, name in zip(scans, names, strict=True)
    )
    if len({camera.compressed for camera in cameras}) > 1:
        raise RecordingError(
            "some of --image-topic are compressed images and some are not: the node takes one kind"
        )
    chosen = options.odom_topic or ("/odom" if "/odom" in odometry else "")
    if not chosen and len(odometry) == 1:
        chosen = odometry[0]
    return Topics(cameras, chosen)


def replay(
    map_file: Path,
    bag: Path,
    options: ReplayOptions,
    say: Say = lambda _: None,
    on_progress: Progress | None = None,
) -> Recorded:
    """Play a bag to the node and record what it publishes.

    Args:
        map_file: of the map.
        bag: a rosbag2 with images, calibration and tf.
        options: how.
        say: told what is going on.
        on_progress: told (seconds played, seconds in all).

    Raises:
        RecordingError: the bag cannot be played.
        ReplayError: the node did not start or died.
    """
    topics = find_topics(bag, options.recording)
    private = options.domain_id is None
    with (
        own_domain() if private else nullcontext(options.domain_id) as domain,
        _graph(domain, private) as node,
        _node_process(map_file, topics, options, _environment()) as child,
    ):
        player = Player(node, bag, options.play)
        recorder = Recorder(node, NODE, options.map_frame, player)
        say(f"waiting for the node (ROS domain {domain})")
        _wait_for_node(player, recorder, topics, child, options.use_odometry)
        say("playing")
        recorded = recorder.recorded
        began, cpu_s = time.monotonic(), _processor_seconds(child.pid)
        _play(player, child, on_progress)
        _settle(recorder)
        recorded.lived_s = time.monotonic() - began
        recorded.cpu_s = _processor_seconds(child.pid) - cpu_s
        recorded.memory_mb = _peak_memory_mb(child.pid)
        return recorded


def _environment() -> dict[str, str]:
    """The node's environment: this process's, which is that of the graph."""
    # The ROS wheels mark the environment of a Python that they have prepared; the child's
    # prepares itself.
    inherited = dict(os.environ)
    inherited.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return inherited


@contextmanager
def spinning_node(name: str, context: Context) -> Iterator[Node]:
    """A node whose callbacks run in a thread of their own."""
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    ending = threading.Event()

    def spin() -> None:
        while not ending.is_set() and context.ok():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin, name=name, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        ending.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()


@contextmanager
def _graph(domain_id: int, private: bool) -> Iterator[Node]:
    """ROS in this process, and in those that it starts; private graphs stay on this machine."""
    runtime.use_large_messages()
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    if private:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    try:
        with spinning_node("crossfire_player", context) as node:
            yield node
    finally:
        rclpy.try_shutdown(context=context)


@contextmanager
def _node_process(
    map_file: Path, topics: Topics, options: ReplayOptions, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The node in its own process and session, told to stop at the end."""
    child = subprocess.Popen(
        node_arguments(map_file, topics, options), env=environment, start_new_session=True
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def node_arguments(map_file: Path, topics: Topics, options: ReplayOptions) -> list[str]:
    """The command line of the node."""
    parameters = [
        f"map:={map_file.resolve()}",
        "autostart:=true",
        "use_sim_time:=true",
        f"image_transport:={'compressed' if topics.cameras[0].compressed else 'raw'}",
        *_several(topics.cameras),
        f"use_odometry:={str(options.use_odometry and bool(topics.odometry)).lower()}",
        *_camera_parameters(options.recording),
        *options.parameters,
    ]
    arguments = [*options.node_command, "--ros-args"]
    if options.params_file is not None:
        arguments += ["--params-file", str(options.params_file)]
    for parameter in parameters:
        arguments += ["-p", parameter]
    for ours, theirs in topics.remappings():
        arguments += ["-r", f"{ours}:={theirs}"]
    return arguments


def _several(cameras: Sequence[CameraTopics]) -> list[str]:
    """What tells the node that a robot has several cameras."""
    names = ", ".join(camera.name for camera in cameras)
    return [f"cameras:=[{names}]"] if len(cameras) > 1 else []


def _camera_parameters(recording: RecordingOptions) -> list[str]:
    """What was said about the camera, for the node.

    Raises:
        RecordingError: it lists a file for each camera, which the node has other words for.
    """
    for name in ("calibration", "mask"):
        if "," in getattr(recording, name):
            raise RecordingError(
                f"--{name} lists a file for each camera: name them after the cameras for the node, "
                f"as --param '{name}:=FOLDER/{{camera}}.yaml' has it"
            )
    said = [
        f"{name}:={value}"
        for name, value in (("calibration", recording.calibration), ("mask", recording.mask))
        if value
    ]
    if recording.rectified is not None:
        said.append(f"rectified:={str(recording.rectified).lower()}")
    return said


def _wait_for_node(
    player: Player,
    recorder: Recorder,
    topics: Topics,
    child: subprocess.Popen[bytes],
    use_odometry: bool,
) -> None:
    wanted = [*topics.names, "/tf_static", "/clock"]
    wanted += [topics.odometry] if use_odometry and topics.odometry else []
    deadline = time.monotonic() + _START_S
    while not player.wait_for_listeners(wanted, timeout_s=0.5):
        if child.poll() is not None:
            raise ReplayError(f"the node ended with code {child.returncode} before the bag began")
        if time.monotonic() > deadline:
            raise ReplayError(f"the node was not ready after {_START_S:.0f} s: see its messages")
    if not recorder.wait_until_heard(max(10.0, deadline - time.monotonic())):
        raise ReplayError("the node listens but cannot be heard: is another ROS graph in the way?")


def _play(player: Player, child: subprocess.Popen[bytes], on_progress: Progress | None) -> None:
    def watch(done: float, total: float) -> None:
        if child.poll() is not None:
            player.stop()
        if on_progress is not None:
            on_progress(done, total)

    player.run(watch)
    if child.poll() is not None:
        raise ReplayError(f"the node ended with code {child.returncode} while the bag was played")


def _processor_seconds(pid: int) -> float:
    """Processor time of a process so far, 0 where it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory_mb(pid: int) -> float | None:
    """The most that a process had in memory at one time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) * 1024e-6 for s in lines if s.startswith("VmHWM:")), None)


def _settle(recorder: Recorder) -> None:
    """Wait until the node has worked off its last image."""
    deadline = time.monotonic() + _SETTLE_S
    seen = -1
    while time.monotonic() < deadline and seen != len(recorder.recorded.latencies_ms):
        seen = len(recorder.recorded.latencies_ms)
        time.sleep(0.7)
