"""The node as a process: started, told to stop, and gone without a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from recording_samples import base_pose, picture
from ros_graph import CAMERA, camera_info
from ros_graph import odometry as odometry_message
from sensor_msgs.msg import CameraInfo, Image

from crossfire_core.geometry import Pose
from crossfire_ros.conversions import image_to_message, pose_from_message
from crossfire_ros.domains import own_domain
from crossfire_ros.settings import NODE_NAME

SCRIPT = Path(__file__).with_name("fake_node.py")
PATIENCE_S = 140  # only what never comes takes so long


@contextmanager
def process(
    *parameters: str, module: str = "", domain: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    arguments = [part for p in parameters for part in ("-p", p)]
    program = ["-m", module] if module else [str(SCRIPT)]
    command = [sys.executable, *program, "--ros-args", *arguments]
    # Not the domain of others, whose shared memory it would use as well.
    with own_domain() if domain is None else nullcontext(domain) as domain:
        environment = {
            **os.environ,
            "PYTHONPATH": str(SCRIPT.parent.parent),
            "ROS_DOMAIN_ID": str(domain),
        }
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()


def wait_for_line(child: subprocess.Popen[str], words: str) -> str:
    lines = []
    assert child.stderr is not None
    for line in child.stderr:
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} was never said, but: {''.join(lines)}")


def shared_memory(pid: int, others: set[str]) -> set[str]:
    """Segments that a process made; those of its peers, which it maps too, were there before."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {p for p in re.findall(r"/dev/shm/\S+", maps) if "fast" in p} - others


def segments_now() -> set[str]:
    return {str(path) for path in Path("/dev/shm").glob("fast*")}


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGINT, signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT],
    ],
    ids=["int", "term", "int-term", "int-int"],
)
def test_stops_cleanly_and_leaves_nothing_in_shared_memory(signals):
    others = segments_now()
    with process("autostart:=true") as child:
        wait_for_line(child, "is ready")
        segments = {p for p in shared_memory(child.pid, others) if "port" not in p}
        for number in signals:
            child.send_signal(number)
        _, said = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0
        assert "Traceback" not in said and "Failed" not in said
        assert segments and not [p for p in segments if Path(p).exists()]


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize(
    ("number", "map_file"), [(signal.SIGINT, "endless.map"), (signal.SIGTERM, "busy.map")]
)
def test_stops_at_once_while_something_without_end_is_computed(number, map_file):
    others = segments_now()
    with process("autostart:=true", f"map:={map_file}") as child:
        wait_for_line(child, "loading without end")
        segments = {p for p in shared_memory(child.pid, others) if "port" not in p}
        child.send_signal(number)
        _, said = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0 and "Traceback" not in said
        assert segments and not [p for p in segments if Path(p).exists()]


@pytest.mark.timeout(PATIENCE_S)
def test_stops_without_a_word_while_libraries_are_imported():
    command = [sys.executable, "-m", "crossfire_ros.start"]
    root = str(SCRIPT.parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=root)
    try:
        maps = Path(f"/proc/{child.pid}/maps")
        while "numpy" not in maps.read_text() and child.poll() is None:
            os.sched_yield()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
    assert child.returncode in (0, -signal.SIGINT) and "Traceback" not in said


@pytest.mark.timeout(PATIENCE_S)
def test_libraries_are_there_before_there_is_a_node_that_would_not_hear_a_signal():
    """While a library is loaded no signal is heard; until there is a node, it need not be."""
    with process("autostart:=true", "map:=missing.map", module="crossfire_ros.start") as child:
        wait_for_line(child, "not configured")
        maps = Path(f"/proc/{child.pid}/maps").read_text()
        assert "libtorch_cpu" in maps and "llvmlite" in maps and "cv2" in maps


class Robot:
    """Publishes what a camera and an odometry see, to a node in another process, and listens."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.poses: list[PoseWithCovarianceStamped] = []
        self.node.create_subscription(
            PoseWithCovarianceStamped, f"/{NODE_NAME}/pose", self.poses.append, 10
        )
        self.images = self.node.create_publisher(Image, "image", 1)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", 1)
        self.odometry = self.node.create_publisher(Odometry, "odom", 10)
        self.index = 0

    def drive_until(self, condition: Callable[[], object]) -> None:
        """A step further along the path of the samples, then stand, until something is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "condition was not met in time"
            self.index = min(self.index + 1, 20)
            now = time.time_ns()
            self.odometry.publish(odometry_message(base_pose(self.index), now))
            self.infos.publish(camera_info(CAMERA))
            self.images.publish(image_to_message(picture(self.index), "camera", now))
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.mark.timeout(2 * PATIENCE_S)
def test_killed_and_started_again_it_begins_at_the_kept_pose(tmp_path):
    """Nothing but the kept pose leads to a first fix: the whole map is not searched."""
    kept = tmp_path / "pose.json"
    arguments = ("autostart:=true", "extrinsics:=map", f"pose_file:={kept}")
    with own_domain() as domain:
        robot = Robot(domain)
        try:
            with process(*arguments, "pose_file_period:=0.1", domain=domain) as child:
                wait_for_line(child, "is ready")
                robot.drive_until(kept.exists)
                child.send_signal(signal.SIGKILL)
                child.wait()
            where = Pose.from_json(json.loads(kept.read_text())["pose"])
            assert min(where.distance(base_pose(i))[0] for i in range(21)) < 0.02
            robot.poses.clear()
            with process(*arguments, "tracking.auto_global:=false", domain=domain) as child:
                assert " s old" in wait_for_line(child, "starting from the kept pose")
                robot.drive_until(lambda: robot.poses)
            found = pose_from_message(robot.poses[0].pose.pose)
            assert min(found.distance(base_pose(i))[0] for i in range(21)) < 1e-6
        finally:
            robot.close()


@pytest.mark.timeout(PATIENCE_S)
def test_bad_parameter_ends_it_with_one_line_and_code_2():
    with process("tf_rate:=-5.0") as child:
        _, said = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 2
        assert "tf_rate" in said and "Traceback" not in said


@pytest.mark.timeout(PATIENCE_S)
def test_missing_map_leaves_it_alive_and_unconfigured():
    with process("autostart:=true", "map:=missing.map") as child:
        assert "there is no map missing.map" in wait_for_line(child, "not configured")
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0
