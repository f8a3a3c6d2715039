"""Start localization: ``ros2 launch crossfire_ros localize.launch.py map:=room.map``."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("crossfire_ros"))

# An empty argument leaves the parameters file, or the node's default, as it is.
ARGUMENTS = {
    "map": ("", "file of the neural map, made with `crossfire train`"),
    "params_file": (str(SHARE / "config" / "localize.yaml"), "parameters of the node"),
    "namespace": ("", "of the node and of its relative topics"),
    "image": ("image", "topic of the images, without /compressed"),
    "camera_info": ("camera_info", "topic of the calibration"),
    "odom": ("odom", "topic of the odometry"),
    "image_transport": ("", "raw or compressed"),
    "use_sim_time": ("", "follow /clock"),
    "autostart": ("true", "configure and activate without a lifecycle manager"),
    "log_level": ("info", "debug, info, warn or error"),
}
PARAMETERS = {"map": str, "image_transport": str, "use_sim_time": bool, "autostart": bool}


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, with those parameters that were given on the command line."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETERS.items()
        if given[name]
    }
    node = LifecycleNode(
        package="crossfire_ros",
        executable="localization_node",
        name="crossfire_localization",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        remappings=[
            ("image", given["image"]),
            ("image/compressed", f"{given['image']}/compressed"),
            ("camera_info", given["camera_info"]),
            ("odom", given["odom"]),
        ],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    """The arguments and the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
