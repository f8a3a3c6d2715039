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
    TimerAction,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

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
    "delay": ("10.0", "seconds for the node to load the map before the bag begins"),
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
    """The node, the player, the recorder; all end with the bag."""
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
        cmd=["ros2", "bag", "record", "--use-sim-time", "-o", given["output"], *RESULTS],
        output="screen",
    )
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
    later = TimerAction(period=given["delay"], actions=[play])
    return LaunchDescription([*declared, localize, record, rviz, end, later])
