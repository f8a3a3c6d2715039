"""Start localization: ``ros2 launch crossfire_ros localize.launch.py map:=room.map``."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("crossfire_ros"))

ARGUMENTS = {
    "map": ("", "file of the neural map, made with `crossfire train`"),
    "params_file": (str(SHARE / "config" / "localize.yaml"), "parameters of the node"),
    "namespace": ("", "of the node and of its relative topics"),
    "image": ("image", "topic of the images, without /compressed"),
    "camera_info": ("camera_info", "topic of the calibration"),
    "odom": ("odom", "topic of the odometry"),
    "image_transport": ("raw", "raw or compressed"),
    "use_sim_time": ("false", "follow /clock"),
    "autostart": ("true", "configure and activate without a lifecycle manager"),
    "log_level": ("info", "debug, info, warn or error"),
}


def generate_launch_description() -> LaunchDescription:
    """The arguments and the node."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    overrides = {
        "map": ParameterValue(given["map"], value_type=str),
        "image_transport": ParameterValue(given["image_transport"], value_type=str),
        "use_sim_time": ParameterValue(given["use_sim_time"], value_type=bool),
        "autostart": ParameterValue(given["autostart"], value_type=bool),
    }
    node = LifecycleNode(
        package="crossfire_ros",
        executable="localization_node",
        name="crossfire_localization",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        remappings=[
            ("image", given["image"]),
            ("image/compressed", [given["image"], "/compressed"]),
            ("camera_info", given["camera_info"]),
            ("odom", given["odom"]),
        ],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, node])
