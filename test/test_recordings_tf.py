"""Transforms and poses of bags: what holds, what drifts, and through which frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_samples import (
    BASE_FROM_CAMERA,
    FRAME,
    RobotBag,
    assert_poses_close,
    base_pose,
    stamp,
    without,
)

from crossfire_core.geometry import Pose
from crossfire_core.recordings import open_recording
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.tf_tree import TfTree, is_odometry, is_world

S = 1_000_000_000
A = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.4))
B = Pose.exp((1.5, 2.0, 0.0, 0.0, 0.0, 0.5))


def tree(*links: tuple[str, str, float, Pose]) -> TfTree:
    made = TfTree()
    for parent, child, second, pose in links:
        made.add(parent, child, pose, round(second * S))
    return made


def found(made: TfTree, target: str, source: str, second: float) -> Pose | None:
    return made.lookup(target, source, round(second * S))


def test_a_correction_once_a_second_holds_until_the_next() -> None:
    made = tree(*[("map", "odom", t, A if t < 3 else B) for t in range(1, 6)])
    for second, expected in ((1.9, A), (2.5, A), (2.99, A), (3.0, B), (3.7, B), (99.0, B)):
        assert_poses_close([found(made, "map", "odom", second)], [expected])
    assert found(made, "map", "odom", 0.5) is None  # nobody knew it yet


def test_a_fast_correction_is_interpolated_as_ever() -> None:
    made = tree(("map", "odom", 1.0, A), ("map", "odom", 1.2, B))
    assert_poses_close([found(made, "map", "odom", 1.1)], [A.interpolate(B, 0.5)])


@pytest.mark.parametrize("count", [1, 4])
def test_a_link_that_never_changes_holds_always(count: int) -> None:
    made = tree(*[("base_link", "mast", 10.0 + 2 * i, A) for i in range(count)])
    for second in (0.0, 10.0, 11.0, 500.0):
        assert_poses_close([found(made, "base_link", "mast", second)], [A])
    assert made.is_static("base_link", "mast")


def test_what_moves_is_not_bridged_over_a_gap() -> None:
    made = tree(("odom", "base_link", 1.0, A), ("odom", "base_link", 3.0, B))
    assert found(made, "odom", "base_link", 2.0) is None
    assert found(made, "odom", "base_link", 3.5) is None
    stands = tree(*[("odom", "base_link", t, p) for t, p in ((0.0, B), (1.0, A), (3.0, A))])
    assert_poses_close([found(stands, "odom", "base_link", 2.0)], [A])


def test_names_of_frames() -> None:
    assert [is_world(f) for f in ("map", "robot1/map", "world", "maps", "odom")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert [is_odometry(f) for f in ("odom", "r/odom_combined", "vio_odom", "map")] == [
        True, True, True, False,
    ]  # fmt: skip


def test_map_to_odom_sent_once_gives_poses_in_the_map(tmp_path: Path) -> None:
    def once(writer: BagWriter, index: int) -> None:
        if index == 3:
            writer.transforms(stamp(index), [("map", "odom", A)])

    bag = RobotBag(parts=without("truth", "odom"), extra=once).write(tmp_path / "bag")
    recording = open_recording(bag)
    assert (recording.world_frame, recording.poses_drift) == ("map", False)
    expected = [A @ base_pose(i) @ BASE_FROM_CAMERA for i in range(6)]
    assert_poses_close([i.world_from_camera for i in recording.infos], expected, metres=2e-5)


@pytest.mark.parametrize("where", ["static", "tf"])
def test_odometry_through_base_footprint(tmp_path: Path, where: str) -> None:
    lifted = Pose(np.eye(3), np.array([0.0, 0.0, 0.1]))

    def footprint(writer: BagWriter, index: int) -> None:
        links = [("base_link", FRAME, BASE_FROM_CAMERA), ("base_footprint", "base_link", lifted)]
        if where == "tf":
            writer.transforms(stamp(index), links)
        elif index == 0:
            writer.transforms(stamp(0), links, static=True)
        for moment in (index - 0.25, index + 0.25):
            writer.transforms(stamp(moment), [("odom", "base_footprint", base_pose(moment))])

    parts = {"info", "truth"}
    recording = open_recording(RobotBag(parts=parts, extra=footprint).write(tmp_path / "bag"))
    odometry = recording.odometry()
    assert odometry is not None and len(odometry) == 12
    assert_poses_close([odometry.at(stamp(2.25))], [base_pose(2.25) @ lifted])
    assert_poses_close([recording.base_from_camera], [BASE_FROM_CAMERA])


def test_a_robot_that_stands_has_odometry_and_no_place_of_its_own(tmp_path: Path) -> None:
    def stands(writer: BagWriter, index: int) -> None:
        writer.transforms(stamp(index), [("map", "odom", A), ("odom", "chassis", B)])
        writer.transforms(stamp(index), [("chassis", FRAME, BASE_FROM_CAMERA)])

    bag = RobotBag(parts={"info", "truth"}, extra=stands).write(tmp_path / "bag")
    recording = open_recording(bag)
    assert recording.base_frame == "chassis"  # type: ignore[attr-defined]
    odometry = recording.odometry()
    assert odometry is not None
    assert_poses_close([odometry.at(stamp(2))], [B])


def test_poses_in_a_frame_of_odometry_drift_whatever_their_type(tmp_path: Path) -> None:
    def visual(writer: BagWriter, index: int) -> None:
        for moment in (index - 0.25, index + 0.25):
            writer.pose("/vio/pose", stamp(moment), "odom", base_pose(moment))

    parts = {"info", "static"}
    recording = open_recording(RobotBag(parts=parts, extra=visual).write(tmp_path / "a"))
    assert (recording.pose_source, recording.poses_drift) == ("/vio/pose", True)
    # Poses in the map are the better ones, and the only ones that count then.
    both = RobotBag(parts=parts | {"truth"}, extra=visual).write(tmp_path / "b")
    assert open_recording(both).pose_source == "/truth"


def path_message(writer: BagWriter, stamps: list[float], frame: str = "map") -> Any:
    """A nav_msgs/Path through the robot's poses at these images."""
    items = [
        writer.message(
            "geometry_msgs/msg/PoseStamped",
            header=writer.header(stamp(moment), frame),
            pose=writer.pose_message(base_pose(moment)),
        )
        for moment in stamps
    ]
    return writer.message("nav_msgs/msg/Path", header=writer.header(stamp(0), frame), poses=items)


def test_the_last_path_that_was_driven_gives_poses_where_nothing_else_does(tmp_path: Path) -> None:
    def growing(writer: BagWriter, index: int) -> None:
        moments = [i - 0.25 + 0.5 * half for i in range(index + 1) for half in (0, 1)]
        writer.write("/path", stamp(index), path_message(writer, moments))
        planned = path_message(writer, [9.0, 9.0, 9.0])  # as planners send it
        writer.write("/plan", stamp(index), planned)

    alone = RobotBag(parts={"info", "static", "odom"}, extra=growing).write(tmp_path / "a")
    recording = open_recording(alone)
    assert (recording.pose_source, recording.poses_drift) == ("/path", False)
    expected = [base_pose(i) @ BASE_FROM_CAMERA for i in range(6)]
    assert_poses_close([i.world_from_camera for i in recording.infos], expected, metres=2e-5)
    both = RobotBag(parts=without("odom"), extra=growing).write(tmp_path / "b")
    assert open_recording(both).pose_source == "/truth"
