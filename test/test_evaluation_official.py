"""Public data sets: their own splits, on tiny stand-ins of the same layouts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_room import CAMERA, ToyRoom

from crossfire_core.cli import run
from crossfire_core.errors import RecordingError
from crossfire_core.evaluation import benchmark as bench
from crossfire_core.evaluation import official
from crossfire_core.geometry import Pose
from crossfire_core.recordings import open_recording

POSES = ToyRoom(8).poses


def seven_scenes(scene: Path, frames: list[tuple[np.ndarray, Pose]]) -> None:
    """Three sequences; the split mixes their order, as the real ones do."""
    for number in (1, 2, 3):
        folder = scene / f"seq-{number:02d}"
        folder.mkdir(parents=True)
        for index, (image, pose) in enumerate(frames[number - 1 :: 3]):
            cv2.imwrite(str(folder / f"frame-{index:06d}.color.png"), image[..., ::-1])
            np.savetxt(folder / f"frame-{index:06d}.pose.txt", pose.matrix())
    (scene / "TrainSplit.txt").write_text("sequence3\nsequence1\n")
    (scene / "TestSplit.txt").write_text("sequence2\n")


def ace(part: Path, frames: list[tuple[np.ndarray, Pose]]) -> None:
    for name in ("rgb", "poses", "calibration"):
        (part / name).mkdir(parents=True)
    for index, (image, pose) in enumerate(frames):
        cv2.imwrite(str(part / "rgb" / f"{index:04d}.color.png"), image[..., ::-1])
        np.savetxt(part / "poses" / f"{index:04d}.pose.txt", pose.matrix())
        (part / "calibration" / f"{index:04d}.calibration.txt").write_text(f"{CAMERA.fx}\n")


def blank(count: int) -> list[tuple[np.ndarray, Pose]]:
    image = np.full((24, 32, 3), 90, np.uint8)
    return [(image, pose) for pose in POSES[:count]]


def plan(suite: str, scene: str, data: Path) -> bench.Plan:
    return bench.Plan(suite, (scene,), ("retrieval",), data, data / "work")


def test_7_scenes_is_split_by_its_own_lists(tmp_path):
    seven_scenes(tmp_path / "chess", blank(8))
    chosen = plan("7scenes", "chess", tmp_path)
    frames = bench.split(chosen.chosen_scenes()[0], chosen)
    mapping = {info.name.split("/")[0] for info in frames.mapping.infos}
    query = {info.name.split("/")[0] for info in frames.query.infos}
    assert (mapping, query) == ({"seq-01", "seq-03"}, {"seq-02"})
    assert (len(frames.mapping), len(frames.query)) == (5, 3)


@pytest.mark.parametrize(
    ("suite", "scene", "folder"),
    [
        ("7scenes", "chess", "7scenes_chess"),
        ("7scenes_sfm", "stairs", "pgt_7scenes_stairs"),
        ("12scenes", "apt1_kitchen", "12scenes_apt1_kitchen"),
        ("12scenes_sfm", "office2_5b", "pgt_12scenes_office2_5b"),
        ("cambridge", "ShopFacade", "Cambridge_ShopFacade"),
    ],
)
def test_the_layout_of_aces_scripts_is_found(suite, scene, folder, tmp_path):
    ace(tmp_path / folder / "train", blank(3))
    ace(tmp_path / folder / "test", blank(2))
    chosen = plan(suite, scene, tmp_path)
    frames = bench.split(chosen.chosen_scenes()[0], chosen)
    assert (len(frames.mapping), len(frames.query)) == (3, 2)


def test_a_scene_that_is_not_there_is_named(tmp_path):
    chosen = plan("cambridge", "KingsCollege", tmp_path)
    with pytest.raises(RecordingError, match=r"KingsCollege/dataset_train\.txt"):
        bench.split(chosen.chosen_scenes()[0], chosen)


@pytest.mark.parametrize("line", ["sequence7", "seq-01", "sequence"])
def test_a_split_that_names_no_sequence_is_refused(line, tmp_path):
    seven_scenes(tmp_path / "fire", blank(6))
    (tmp_path / "fire" / "TestSplit.txt").write_text(f"sequence2\n{line}\n")
    with pytest.raises(RecordingError, match=f"line 2: there is no '{line}'"):
        open_recording(tmp_path / "fire" / "TestSplit.txt")


def test_published_figures_stand_beside_the_measured_ones(tmp_path, capsys):
    room = ToyRoom(9)
    frames = [(frame.image, frame.world_from_camera) for frame in room]
    seven_scenes(tmp_path / "heads", frames)
    line = [
        "benchmark", "--suite", "7scenes", "--scenes", "heads", "--methods", "retrieval",
        "--data", tmp_path, "-o", tmp_path / "out", "--json", tmp_path / "said.json",
    ]  # fmt: skip
    assert run([str(word) for word in line]) == 0, capsys.readouterr().err
    said = json.loads((tmp_path / "said.json").read_text())
    assert [row["frames"] for row in said["rows"]] == [3]
    assert said["published"][0] == {
        "scene": "heads", "method": "CROSSFIRE", "centimetres": 3, "degrees": 2.3,
        "source": "Moreau et al., ICCV 2023",
    }  # fmt: skip
    peers = [(each["method"], each["centimetres"]) for each in said["published"][1:]]
    assert peers == [("Active Search", 1), ("hloc, SuperPoint + SuperGlue", 1.13)]
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| heads | CROSSFIRE | 3 | 2.3 | Moreau et al., ICCV 2023 |" in table
    assert "Moreau" in (tmp_path / "out" / "benchmark.html").read_text()


def test_every_published_figure_belongs_to_a_scene():
    with Path(official.__file__).with_name("published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        assert row["scene"] in {scene.name for scene in official.OFFICIAL[row["suite"]]}
