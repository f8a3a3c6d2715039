"""What all tests share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import settings

from crossfire_core.field.threads import thread_count
from crossfire_ros.domains import own_domain

# The same examples on every run and no deadline: a busy machine must not turn a test red.
settings.register_profile("crossfire", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("crossfire")


# Workers of `pytest -n` share the cores, and so do the programs that they start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    share = str(max(1, thread_count() // workers))
    for name in ("CROSSFIRE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, share)

# These take minutes each: begun last, they would keep one worker busy when the others are done.
_FIRST = ("test_docs_run.py", "test_stand_in_gpu.py", "test_training.py", "test_extension.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first."""
    items.sort(key=lambda item: item.path.name not in _FIRST)


# What whole files of tests need beside the package itself, by the beginnings of their names.
_ROS = {
    "rclpy": "ROS is not installed: pip install '.[ros]'",
    "tf2_msgs": "tf2_msgs is not installed: pip install ./tools/tf2_msgs",
}
_RAY_CAST = {
    name: "generated rooms are ray cast with trimesh and embreex: extra [demo]"
    for name in ("trimesh", "embreex")
}
_NEEDED = {"test_ros_files": {}, "test_ros_": _ROS, "test_sample": _RAY_CAST,
           "test_pretraining": _RAY_CAST}  # fmt: skip


class Needy(pytest.Module):
    """A file of tests that is skipped, with the reason, where a package is absent."""

    def collect(self):
        name = self.path.name
        for package, reason in next(n for to, n in _NEEDED.items() if name.startswith(to)).items():
            pytest.importorskip(package, reason=reason)
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector):
    """Look for what a file needs before it is imported."""
    if module_path.name.startswith(tuple(_NEEDED)):
        return Needy.from_parent(parent, path=module_path)
    return None


# A graph of this process alone, until it ends. Read by ROS when it starts, which is after this
# file.
DOMAIN = own_domain()
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN.__enter__())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_STATIC_PEERS", None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real recordings; a test that asks for it is skipped where it is absent."""
    root = Path(__file__).resolve().parent.parent
    path = Path(os.environ.get("CROSSFIRE_DATA", root.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no real recordings: set CROSSFIRE_DATA to the folder that holds them")
    return path


@pytest.fixture(scope="session")
def toy_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the toy room that localizes, as a file: not to be changed."""
    from toy_map import train_toy_map  # torch is slow to import

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    path = root / "toy.map"
    with (root / "toy.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker trains, the others wait
        if not path.exists():
            patch.setenv("CROSSFIRE_THREADS", "2")  # a step is split by their number
            train_toy_map(path)
    return path
