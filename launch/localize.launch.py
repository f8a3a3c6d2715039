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
    "cameras": ("", "names of several cameras, '[front, left]', with their topics under each"),
    "odom": ("odom", "topic of the odometry"),
    "tf": ("/tf", "topic of the transforms; `tf` is one of the namespace, as Nav2 has it"),
    "tf_static": ("/tf_static", "transforms that never change"),
    "image_transport": ("", "raw or compressed"),
    "base_frame": ("", "the frame that the odometry moves"),
    "odom_frame": ("", "the frame that it moves in"),
    "map_frame": ("", "frame of the published poses"),
    "use_odometry": ("", "false on a robot without"),
    "odometry_source": ("", "topic, or tf on a robot whose filter corrects the odometry there"),
    "extrinsics": ("", "where the camera's place on the robot comes from: tf or map"),
    "device": ("", "auto, cpu, cuda or cuda:N"),
    "backend": ("", "auto, tinycudann, triton, numba or torch"),
    "pose_file": ("", "where the last pose is kept from one run to the next"),
    "use_sim_time": ("", "follow /clock"),
    "autostart": ("true", "configure and activate without a lifecycle manager; beats the file"),
    "log_level": ("info", "debug, info, warn or error"),
}
PARAMETERS = {
    **dict.fromkeys(
        ("map", "image_transport", "base_frame", "odom_frame", "map_frame", "extrinsics", "device",
         "backend", "pose_file", "odometry_source"), str,
    ),
    **dict.fromkeys(("use_odometry", "use_sim_time", "autostart"), bool),
    "cameras": list[str],
}  # fmt: skip


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, with those parameters that were given on the command line.

    Raises:
        FileNotFoundError: of parameters; launch would start the node without them.
    """
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given["params_file"]).is_file():
        raise FileNotFoundError(f"there is no params_file {given['params_file']}")
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
            ("image", given["image"]),  # the compressed ones follow it
            ("camera_info", given["camera_info"]),
            ("odom", given["odom"]),
            ("/tf", given["tf"]),
            ("/tf_static", given["tf_static"]),
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
