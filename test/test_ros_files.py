"""The files that a robot's owner reads and starts: parameters, launch files, layouts."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import resources
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))


def has_ros_launch() -> bool:
    """PyPI has another program of that name."""
    return importlib.util.find_spec("launch_ros") is not None


def arguments_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"
    ]
    assert len(tables) == 1
    return {key.value for key in tables[0].keys}


def test_parameters_file_is_the_one_that_the_code_explains():
    pytest.importorskip("rclpy", reason="ROS is not installed: pip install '.[ros]'")
    from crossfire_ros.parameters import explained_yaml

    text = (ROOT / "config" / "localize.yaml").read_text()
    assert text == explained_yaml(), (
        "run: python -m crossfire_ros.parameters > config/localize.yaml"
    )


def test_parameters_file_starts_the_node_as_its_defaults_do(tmp_path):
    pytest.importorskip("rclpy", reason="ROS is not installed: pip install '.[ros]'")
    pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed: see tools/tf2_msgs")
    import rclpy
    from rclpy.context import Context

    from crossfire_ros.localization_node import LocalizationNode
    from crossfire_ros.settings import Settings

    context = Context()
    file = str(ROOT / "config" / "localize.yaml")
    rclpy.init(context=context, args=["--ros-args", "--params-file", file])
    node = LocalizationNode(context=context)
    try:
        assert node.settings == Settings()
        declared = set(node._parameters)
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    content = yaml.safe_load(Path(file).read_text())["/**"]["ros__parameters"]
    named = {k for k, v in content.items() if not isinstance(v, dict)}
    named |= {f"{r}.{k}" for r, v in content.items() if isinstance(v, dict) for k in v}
    assert named <= declared


def test_core_commands_and_offline_replay_need_no_ros():
    blocked = ("rclpy", "sensor_msgs", "geometry_msgs", "tf2_msgs", "rosgraph_msgs", "std_srvs")
    program = (
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import crossfire_core.cli, crossfire_core.localization.tracker\n"
        "import crossfire_ros.commands, crossfire_ros.offline, crossfire_ros.replay_report\n"
        "sys.exit(crossfire_core.cli.run(['play', 'bag']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "ROS 2 is not installed" in done.stderr, done.stderr


def test_launch_arguments_are_all_that_was_promised():
    assert arguments_of(ROOT / "launch" / "localize.launch.py") >= {
        "map",
        "params_file",
        "namespace",
        "image",
        "odom",
        "camera_info",
        "image_transport",
        "use_sim_time",
        "autostart",
        "log_level",
    }
    assert arguments_of(ROOT / "launch" / "replay.launch.py") >= {"map", "bag", "output"}


@pytest.mark.skipif(not has_ros_launch(), reason="launch is not installed: it comes with ROS only")
@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_launch_description_can_be_made(path):
    spec = importlib.util.spec_from_file_location("description", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.generate_launch_description().entities) > len(module.ARGUMENTS)


@pytest.mark.skipif(not has_ros_launch(), reason="launch is not installed: it comes with ROS only")
def test_launch_refuses_a_params_file_that_is_not_there():
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    path = ROOT / "launch" / "localize.launch.py"
    spec = importlib.util.spec_from_file_location("localize", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context.launch_configurations["params_file"] = "nowhere.yaml"
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    with pytest.raises(FileNotFoundError, match="no params_file nowhere"):
        module.start(context)


def test_layouts_show_what_the_node_publishes():
    rviz = yaml.safe_load((ROOT / "config" / "crossfire.rviz").read_text())
    shown = str(rviz)
    foxglove = json.loads((ROOT / "config" / "foxglove.json").read_text())
    for topic in ("pose", "path", "debug_image", "mapping_views", "map", "map_cloud"):
        assert f"/crossfire_localization/{topic}" in shown
    for topic in ("pose", "path", "debug_image", "status", "map", "map_cloud"):
        assert f"/crossfire_localization/{topic}" in json.dumps(foxglove)
    assert "/initialpose" in shown


def test_fast_dds_profile_has_room_for_whole_images():
    profile = resources.files("crossfire_ros") / "fastdds.xml"
    root = ET.fromstring(profile.read_text())
    space = {"d": "http://www.eprosima.com"}
    segment = root.find(".//d:segment_size", space)
    assert segment is not None and int(segment.text) >= 4 * 1920 * 1080
