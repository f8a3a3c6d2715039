"""Localize a recorded bag and record what comes out.

``ros2 launch crossfire_ros replay.launch.py map:=room.map bag:=query_bag
image:=/camera/image_raw camera_info:=/camera/camera_info image_transport:=compressed``
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition

SHARE = Path(get_package_share_directory("crossfire_ros"))

PASSED_ON = ("map", "params_file", "image", "camera_info", "odom", "image_transport")
ARGUMENTS = {
    "map": ("", "file of the neural map"),
    "bag": ("", "rosbag2 to play"),
    "output": ("crossfire_results", "new bag with the poses, transforms and status"),
    "params_file": (str(SHARE / "config" / "localize.yaml"), "parameters of the node"),
    "image": ("/camera/image_raw", "topic of the images in the bag, without /compressed"),
    "camera_info": ("/camera/camera_info", "topic of the calibration in the bag"),
    "odom": ("/odom", "topic of the odometry in the bag"),
    "image_transport": ("raw", "raw or compressed, as in the bag"),
    "rate": ("1.0", "seconds of the bag for one second of the clock"),
    "rviz": ("false", "also open RViz"),
}
RESULTS = (
    "/tf",
    "/tf_static",
    "/diagnostics",
    "/crossfire_localization/pose",
    "/crossfire_localization/status",
)


def generate_launch_description() -> LaunchDescription:
    """The node, the player, the recorder; the bag begins when the node is active, and ends all."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    localize = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "localize.launch.py")),
        launch_arguments={
            "use_sim_time": "true",
            **{name: given[name] for name in PASSED_ON},
        }.items(),
    )
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", given["bag"], "--clock", "100", "--rate", given["rate"]],
        output="screen",
    )
    record = ExecuteProcess(
        # Names of topics without an option, and the option --topics, exist in some releases only.
        cmd=["ros2", "bag", "record", "--use-sim-time", "-o", given["output"],
             "--regex", f"^({'|'.join(RESULTS)})$"],
        output="screen",
    )  # fmt: skip
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "crossfire.rviz")],
        parameters=[{"use_sim_time": True}],
        condition=IfCondition(given["rviz"]),
    )
    end = RegisterEventHandler(
        OnProcessExit(target_action=play, on_exit=[Shutdown(reason="the bag has been played")])
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    begin = RegisterEventHandler(OnStateTransition(goal_state="active", entities=[play]))
    return LaunchDescription([*declared, begin, end, record, rviz, localize])
