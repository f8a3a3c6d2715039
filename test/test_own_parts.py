"""Parts by name: the page's own ones are installed as a package, chosen and used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_neural_map import tiny_map
from toy_room import ToyRoom

from crossfire_core import cli, registry
from crossfire_core.config import FeatureConfig, LocalizationConfig
from crossfire_core.errors import ConfigError, MapFormatError
from crossfire_core.evaluation import benchmark
from crossfire_core.features.network import image_network
from crossfire_core.field.backends import available, encoder
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.convert import convert
from crossfire_ros.settings import settings_from

PAGE = Path(__file__).parent.parent / "docs" / "own_parts.md"
KINDS = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
CPU = torch.device("cpu")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)


@pytest.fixture
def my_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's package, as pip would leave it."""
    site = tmp_path / "site"
    about = site / "my_parts-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "my_parts.py").write_text("\n\n".join(blocks("python")), "utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (toml,) = blocks("toml")
    points = toml[toml.index("[project.entry-points") :]
    points = re.sub(r'\[project\.entry-points\."(.+)"\]', r"[\1]", points).replace('"', "")
    (about / "entry_points.txt").write_text(points, "utf-8")
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("my_parts", None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_own_part_is_there_and_an_unknown_one_lists_them(kind) -> None:
    for name in kind.own:
        if not (kind is registry.BACKENDS and name in ("tinycudann", "triton")):  # need a GPU
            assert kind.load(name) is not None
    with pytest.raises(ConfigError, match=f"{kind.kind} 'none such' is unknown.*{name}"):
        kind.load("none such")


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["evaluate", "x.map", "bag", "--set", "matcher=nix"], "nearest"),
        (["localize", "x.map", "a.png", "--set", "solver=nix"], "ransac, opencv"),
        (["train", "bag", "-o", "x.map", "--set", "features.network=nix"], "pyramid"),
        (["train", "bag", "-o", "x.map", "--set", "backend=nix"], "auto, tinycudann"),
        (["check", "bag", "--reader", "nix"], "auto, rosbag2, transforms"),
    ],
)
def test_an_unknown_name_is_one_line_that_lists_what_there_is(arguments, known, capfd) -> None:
    assert cli.run(arguments) == 2
    said = capfd.readouterr().err
    assert "nix" in said and known in said and said.count("\n") == 1


def test_names_of_installed_packages_are_choices(my_parts: Path) -> None:
    assert settings_from({"localization.matcher": "sure"}).localization.matcher == "sure"
    with pytest.raises(ConfigError, match="choose from nearest, sure"):
        settings_from({"localization.matcher": "surer"})
    assert [kind.names()[-1] for kind in KINDS] == [
        "sure", "patient", "shallow", "levels", "photos", "still",
    ]  # fmt: skip


def test_matcher_and_solver_of_the_page_find_an_image(my_parts: Path, toy_map: Path) -> None:
    chosen = LocalizationConfig(matcher="sure", solver="patient", min_evidence=0.0)
    mine = Localizer(NeuralMap.load(toy_map, "cpu"), chosen)
    own = Localizer(mine.neural_map, replace(chosen, matcher="nearest"))
    frame = next(ToyRoom(30).frames([7]))
    (half, full) = (each.localize(frame.image, frame.camera) for each in (mine, own))
    assert half.ok and half.map_from_camera.distance(frame.world_from_camera)[0] < 0.1
    assert half.matches < 0.7 * full.matches


def test_a_map_with_the_page_s_network_is_read_only_where_that_is_installed(
    my_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_map()
    features = replace(made.header.features, network="shallow")
    made.header, made.network = replace(made.header, features=features), image_network(features, 16)
    made.save(tmp_path / "x.map")
    loaded = NeuralMap.load(tmp_path / "x.map", "cpu")
    assert {name.split(".")[0] for name in loaded.network.state_dict()} == {"first", "last"}
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(my_parts)])
    with pytest.raises(MapFormatError, match="network is 'shallow', choose from pyramid"):
        NeuralMap.load(tmp_path / "x.map", "cpu")


def test_an_older_map_has_the_program_s_network() -> None:
    assert FeatureConfig().network == "pyramid"


def test_a_backend_must_give_the_values_of_the_layout(
    my_parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available(CPU)["levels"] == ""
    assert encoder("levels", CPU) is sys.modules["my_parts"].levels
    monkeypatch.setattr(sys.modules["my_parts"], "levels", lambda p, x, g: torch.zeros(4, g.width))
    assert "not those of the layout" in available(CPU)["levels"]


def test_a_folder_of_the_page_s_reader_is_a_recording(my_parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / name), np.full((48, 64, 3), 90, np.uint8))
    asked = open_recording(folder, RecordingOptions(reader="photos"))
    (folder / "tripod.txt").touch()
    found = open_recording(folder)
    assert [i.name for i in found.infos] == [i.name for i in asked.infos] == ["a.jpg", "b.jpg"]
    assert found.pose_source == "a tripod" and found.infos[0].camera.fx == 500.0


def test_the_page_s_peer_has_its_row(my_parts: Path, tmp_path: Path) -> None:
    for name, room in (("mapping_bag", ToyRoom(4)), ("query_bag", ToyRoom(4))):
        convert(room, tmp_path / name, "bag")
    plan = benchmark.Plan("sample", (), ("still",), tmp_path, tmp_path / "out")
    (row,) = benchmark.run(plan, lambda _: None)
    assert (row.method, row.to_json()["localized"], row.to_json()["map_bytes"]) == (
        "always there", 4, 96,
    )  # fmt: skip
    assert row.evaluation.errors[0].translation_m < 1e-6 < row.evaluation.errors[3].translation_m
    with pytest.raises(ConfigError, match="retrieval, still"):
        benchmark.Plan("sample", (), ("moving",), tmp_path, tmp_path)
