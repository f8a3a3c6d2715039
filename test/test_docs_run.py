"""The commands of the README and of the tutorial, run in their order on a small room."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
from test_docs import ROOT, fenced
from toy_map import SMALL
from toy_room import CAMERA, ToyRoom

from crossfire_core import cli
from crossfire_core.config import dump_yaml
from crossfire_core.evaluation import speed
from crossfire_core.geometry import Trajectory
from crossfire_core.recordings.convert import convert

# A small field, and depth images so that few steps find the surfaces.
SHORT = ["--steps", "400", "--config", "small.yaml", "--set", "geometry_share=0.3", "--depth"]
# Commands that other tests run, or that need more than a small room.
ELSEWHERE = {
    "sample": "test_sample.py writes one",
    "doctor": "test_cli_doctor.py runs it",
    "play": "test_ros_play.py plays bags",
    "replay": "test_ros_process.py replays one",
}


class Driven(ToyRoom):
    """The room with odometry that is exact."""

    def odometry(self) -> Trajectory:
        """``odom_from_base`` over time."""
        return Trajectory.from_samples([(i.stamp_ns, i.world_from_camera) for i in self.infos])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the recordings that the pages speak of."""
    folder = tmp_path_factory.mktemp("pages")
    convert(Driven(28, camera=CAMERA, depth=True), folder / "my_bag", "bag")
    (folder / "small.yaml").write_text(dump_yaml(SMALL))
    (folder / "room").mkdir()
    for name in ("room/mapping_bag", "room/query_bag"):
        shutil.copytree(folder / "my_bag", folder / name)
    return folder


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 400 steps find differs with the number of threads, by which a step is split."""
    monkeypatch.setenv("CROSSFIRE_THREADS", "2")


def quick(line: str) -> list[str]:
    """A quoted command that trains for steps, not for minutes."""
    words = shlex.split(line.split(" #")[0])[1:]
    if "--minutes" in words:
        at = words.index("--minutes")
        words[at : at + 2] = SHORT
    return words


def runnable(page: str) -> list[list[str]]:
    """The page's commands about recordings that a small room can stand for."""
    lines = [line for line in fenced((ROOT / page).read_text("utf-8")) if "crossfire " in line[:10]]
    known = re.compile(r"\b(room|my_bag|place)\b")
    chosen = [quick(line) for line in lines if known.search(line)]
    return [words for words in chosen if words[0] not in ELSEWHERE and "--poses" not in words]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_commands_of_a_page_work_in_their_order(page, workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    commands = [words for words in runnable(page) if "--refine-poses" not in words]
    assert len(commands) >= 2
    for words in commands:
        if words[0] == "view" and importlib.util.find_spec("rerun") is None:
            continue
        if "--resume" in words:  # nothing was interrupted: there is nothing to go on from
            assert cli.run(words) == 2, words
            assert "checkpoint" in capfd.readouterr().err
            continue
        assert cli.run(words) == 0, (words, capfd.readouterr().err)
    assert (workplace / "report" / "report.html").stat().st_size > 10_000


def make_room_map() -> None:
    """The map that the tutorial makes, where no test made it before."""
    if not Path("room.map").exists():
        line = "crossfire train room/mapping_bag -o room.map --minutes 1"
        assert cli.run(quick(line)) == 0


def test_speed_is_measured_against_the_machine(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    make_room_map()
    one = {"_COLUMNS": (40,), "_SIDES": (160,), "_RAYS": (512,), "_TABLES": (15,), "_VIEWS": (24,)}
    for name, values in one.items():
        monkeypatch.setattr(speed, name, values)
    monkeypatch.setattr(speed, "Workload", partial(speed.Workload, steps=30))
    command = "speed room.map room/mapping_bag -o speed.png --json speed.json"
    assert cli.run(command.split()) == 0
    figures = json.loads(Path("speed.json").read_text())
    found = figures["localization"]
    assert 0 < found["iteration_ms"] < found["total_ms"]
    assert {"features", "render", "match", "solve"} <= found["stages_ms"].keys()
    assert figures["training"]["steps_per_s"] > 0
    assert figures["training"]["samples_per_s"] > figures["training"]["steps_per_s"]
    assert figures["peak_memory_mb"] > 100
    assert all(value > 0 for value in figures["ceilings"].values())
    assert Path("speed.png").read_bytes().startswith(b"\x89PNG")
