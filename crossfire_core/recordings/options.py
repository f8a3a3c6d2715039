"""What a user can say about a recording; empty means: find it out."""

from __future__ import annotations

from dataclasses import dataclass

from crossfire_core.config import option
from crossfire_core.registry import READERS

NO_POSES = "none"


@dataclass(frozen=True)
class RecordingOptions:
    """How to read a recording.

    Most of it matters to bags only; but ``image_topic`` names the camera of an EuRoC or kapture
    folder, and ``pose_topic`` of ``none`` leaves the poses of any format out.
    """

    image_topic: str = option(
        "",
        "topic of the images; several, separated by commas, are cameras of one robot; empty takes "
        "the only one",
    )
    camera_info_topic: str = option("", "topic of the calibration; empty takes the image's own")
    calibration: str = option(
        "",
        "file with the calibration, instead of the recording's own: YAML of ROS, OpenCV or kalibr, "
        "or COLMAP's cameras.txt; FILE:NAME takes one of its cameras",
    )
    rectified: bool | None = option(
        None,
        "whether the images are rectified, so that P of the calibration holds instead of K and D; "
        "by default the topic's name says it, or the images where it does not",
    )
    mask: str = option(
        "",
        "image whose black pixels are left out of every frame (the robot's body, the border of the "
        "lens), or a folder of such images named like the frames",
    )
    pose_topic: str = option(
        "",
        "source of the poses: a topic (PoseStamped, PoseWithCovarianceStamped, TransformStamped, "
        "Odometry), tf:PARENT:CHILD, or 'none' to read none; empty takes the only one",
    )
    odom_topic: str = option("", "topic of the odometry; empty takes the only one")
    base_frame: str = option("", "the robot's frame; empty finds it, base_link by custom")
    require_poses: bool = option(
        True, "whether a recording without any pose is refused", internal=True
    )
    max_pose_gap_s: float = option(
        0.5, "poses further apart in time than this are not interpolated, seconds", min=0.0
    )
    use_depth: bool = option(False, "whether depth images are read as well", internal=True)
    depth_topic: str = option(
        "",
        "topic of the depth images; empty takes the only one",
        only=("train", "convert"),
    )
    pose_file: str = option("pose.txt", "ending of the pose files in a folder of 7-Scenes")
    stride: int = option(1, "keep every n-th frame", min=1)
    max_frames: int = option(0, "keep at most so many frames, spread evenly; 0 keeps all", min=0)
    reader: str = option("auto", "format of the recording; auto finds it out", registry=READERS)
