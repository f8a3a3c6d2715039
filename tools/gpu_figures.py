"""Put together what the steps of tools/gpu_check.sh left in a folder: ``gpu_check.json``.

Usage: python tools/gpu_figures.py FOLDER

Exit status: 1 where a step failed, was killed, or ran out of time; else 77 where one did not run.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("crossfire_ros", "torch", "triton", "tinycudann", "numpy")
NO_GPU = 77
TIMED_OUT = (124, 137)  # of timeout, the second where the process had to be killed


def figures(folder: Path) -> dict[str, Any]:
    """All that is known: the device, versions, how each step ended, and what the steps wrote."""
    steps = {}
    for line in (folder / "steps.txt").read_text(encoding="utf-8").splitlines():
        name, status, seconds = line.split()
        steps[name] = {"result": _result(int(status)), "seconds": int(seconds)}
    written = sorted(p for p in folder.glob("*.json") if p.stem in steps)
    return {
        "device": _device(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "steps": steps,
        "figures": {path.stem: _read(path) for path in written},
    }


def _result(status: int) -> str:
    if status in TIMED_OUT:
        return "out of time"
    if status == NO_GPU:
        return "did not run: no GPU"
    if status > 128:
        return f"killed by signal {status - 128}"
    return f"failed with {status}" if status else "passed"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # its step was ended while it wrote
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    """As the driver calls it; torch is not asked, which a broken driver could end."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def main(folder: Path) -> int:
    """Write the file and say what failed."""
    found = figures(folder)
    path = folder / "gpu_check.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    results = {name: step["result"] for name, step in found["steps"].items()}
    others = {name: result for name, result in results.items() if result != "passed"}
    for name, result in others.items():
        print(f"{name}: {result}")
    print(f"{len(results) - len(others)} of {len(results)} steps passed: {path}")
    missing = _result(NO_GPU)
    if all(result == missing for result in others.values()):
        return NO_GPU if others else 0
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/gpu_figures.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
