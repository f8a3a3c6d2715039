"""The package as pip and colcon build it, from a copy of the tree."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

import crossfire_core

ROOT = Path(__file__).resolve().parent.parent
_ANYWHERE = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "*.map")
_AT_THE_TOP = {"build", "install", "log", "dist", "demo", "reports"}


def left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the package does without: results of builds and of commands."""
    top = _AT_THE_TOP if Path(folder) == ROOT else set()
    return _ANYWHERE(folder, names) | (top & set(names))


LAUNCH_FILES = {path.name for path in (ROOT / "launch").glob("*.launch.py")}
CONFIG_FILES = {path.name for path in (ROOT / "config").iterdir()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a copy of the package, so that no build touches the original."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT, workspace / "src" / "crossfire_ros", ignore=left_out)
    return workspace


def run(*command: str, cwd: Path) -> str:
    """Output of a command that finds this Python's scripts first."""
    scripts = str(Path(sys.executable).parent)
    # Neither another tree nor a ROS installation shall help.
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    environment = {**kept, "PATH": f"{scripts}{os.pathsep}{kept.get('PATH', '')}"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def test_one_version_one_name_one_licence() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("version") == crossfire_core.__version__
    assert f'version="{crossfire_core.__version__}"' in (ROOT / "setup.py").read_text()
    assert package.findtext("name") == "crossfire_ros"
    assert package.findtext("license") == "Apache-2.0"
    assert package.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "crossfire_ros").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_wheel_holds_everything(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("wheel", reason="the package wheel builds it and is absent")
    source = str(tree / "src" / "crossfire_ros")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "crossfire_core").rglob("*.py")}
    assert modules <= set(names)
    assert "crossfire_core/py.typed" in names
    data = {"features/initial_network.safetensors", "evaluation/published.csv"}
    assert {f"crossfire_core/{name}" for name in data} <= set(names)
    share = {n.split("share/crossfire_ros/")[1] for n in names if "share/crossfire_ros/" in n}
    assert {f"launch/{n}" for n in LAUNCH_FILES} | {f"config/{n}" for n in CONFIG_FILES} <= share
    assert "package.xml" in share
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "crossfire = crossfire_core.cli:main" in text
    assert "localization_node = crossfire_ros.start:localization_node" in text
    assert not any(n.startswith(("test/", "tools/")) for n in names)


@pytest.mark.skipif(find_spec("colcon_ros") is None, reason="colcon is absent: pip install .[dev]")
def test_colcon_puts_things_where_ros2_looks(tree: Path) -> None:
    run("colcon", "build", cwd=tree)
    prefix = tree / "install" / "crossfire_ros"
    share = prefix / "share" / "crossfire_ros"
    assert (prefix / "share/ament_index/resource_index/packages/crossfire_ros").is_file()
    assert {p.name for p in (share / "launch").glob("*")} == LAUNCH_FILES
    assert {p.name for p in (share / "config").glob("*")} == CONFIG_FILES
    for script in ("localization_node", "crossfire"):
        assert os.access(prefix / "lib" / "crossfire_ros" / script, os.X_OK)
    (packages,) = prefix.glob("lib/python*/site-packages")
    assert {"crossfire_core", "crossfire_ros"} <= {p.name for p in packages.iterdir()}
    code = "import crossfire_core; print(crossfire_core.__file__)"
    output = run(
        "sh", "-c", f'. ./setup.sh && "$0" -c "{code}"', sys.executable, cwd=tree / "install"
    )
    assert output.strip().startswith(str(packages))


def test_every_requirement_is_a_range():
    """`make lowest` installs these; one without a bound would be as old as there is."""
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("REQUIRED", "DEMO")
    }
    for requirement in [*lists["REQUIRED"], *lists["DEMO"]]:
        assert re.match(r"[A-Za-z0-9-]+>=[0-9.]+,<[0-9]+(;|$)", requirement), requirement
