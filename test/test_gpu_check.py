"""tools/gpu_check.sh without a GPU names what did not run; where a step crashes it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "tools" / "gpu_check.sh"
FAKE = """#!/bin/sh
case "$*" in
    *gpu_figures.py*) exec {python} "$@" ;;
    *compare*) echo '{{"torch": 1}}' > "$4" ;;
    *test_a_graph_gives*) kill -ABRT $$ ;;
    *"train "*) exit 2 ;;
    *test_windows*) trap '' TERM; exec timeout 0.1 sleep 5 ;;
esac
"""


def check(folder: Path, python: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(python), "CROSSFIRE_DATA": str(folder)}
    return subprocess.run(
        ["sh", str(SCRIPT), str(folder / "out")],
        capture_output=True, text=True, env=environment, timeout=250,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_what_did_not_run_is_named(tmp_path: Path) -> None:
    done = check(tmp_path, sys.executable)
    assert done.returncode == 77 and "no GPU" in done.stderr
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    results = {name: step["result"] for name, step in found["steps"].items()}
    assert results.pop("golden") == "passed"
    assert "test_a_graph_gives_what_the_function_gives" in results and "train-room" in results
    assert set(results.values()) == {"did not run: no GPU"}
    assert set(found["figures"]) == {"golden"}


def test_a_step_that_crashes_hides_no_other(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    done = check(tmp_path, fake)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    results = {name: step["result"] for name, step in found["steps"].items()}
    assert results.pop("test_a_graph_gives_what_the_function_gives") == "killed by signal 6"
    assert results.pop("test_windows_are_matched_as_on_the_cpu") == "out of time"
    assert results.pop("train-room") == "failed with 2"
    assert "speed-room-triton" in results and set(results.values()) == {"passed"}
    assert found["figures"] == {"golden": {"torch": 1}}
    assert found["versions"]["torch"] and "device" in found
    assert "train-room: failed with 2" in done.stdout
