"""Public data sets with splits of their own, and what others publish about them.

Data are found in the layout that they are published in, or in the one that ACE's setup scripts
write, which is alike for all of them and has both ground truths of 7-Scenes and 12-Scenes.
Figures are medians in centimetres and degrees, as the named paper prints them; `published.csv`
has them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

Layout = tuple[str, str]

_SEVEN = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
_TWELVE = (
    "apt1_kitchen", "apt1_living", "apt2_bed", "apt2_kitchen", "apt2_living", "apt2_luke",
    "office1_gates362", "office1_gates381", "office1_lounge", "office1_manolis", "office2_5a",
    "office2_5b",
)  # fmt: skip
_CAMBRIDGE = ("GreatCourt", "KingsCollege", "OldHospital", "ShopFacade", "StMarysChurch")


@dataclass(frozen=True)
class OfficialScene:
    """One scene of a data set.

    Attributes:
        name: for the table.
        layouts: paths of the (mapping, query) recordings below the data folder, those tried first
            first.
    """

    name: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class Published:
    """What a paper says of a method on one scene.

    Attributes:
        scene: name of the scene.
        method: name of the method.
        centimetres: median position error.
        degrees: median rotation error.
        source: the paper.
    """

    scene: str
    method: str
    centimetres: float
    degrees: float
    source: str


def _ace(folder: str) -> Layout:
    return f"{folder}/train", f"{folder}/test"


def _seven(name: str) -> OfficialScene:
    lists = (f"{name}/TrainSplit.txt", f"{name}/TestSplit.txt")
    return OfficialScene(name, (lists, _ace(f"7scenes_{name}")))


def _cambridge(name: str) -> OfficialScene:
    lists = (f"{name}/dataset_train.txt", f"{name}/dataset_test.txt")
    return OfficialScene(name, (lists, _ace(f"Cambridge_{name}")))


OFFICIAL: dict[str, tuple[OfficialScene, ...]] = {
    "7scenes": tuple(map(_seven, _SEVEN)),
    "7scenes_sfm": tuple(OfficialScene(n, (_ace(f"pgt_7scenes_{n}"),)) for n in _SEVEN),
    "12scenes": tuple(OfficialScene(n, (_ace(f"12scenes_{n}"),)) for n in _TWELVE),
    "12scenes_sfm": tuple(OfficialScene(n, (_ace(f"pgt_12scenes_{n}"),)) for n in _TWELVE),
    "cambridge": tuple(map(_cambridge, _CAMBRIDGE)),
}


def published(suite: str, scenes: tuple[str, ...]) -> list[Published]:
    """What is published about some scenes of a suite, scene by scene.

    Args:
        suite: name of the suite; one without published figures gives none.
        scenes: their names, in the order wanted.
    """
    with resources.files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        known = [
            Published(row["scene"], row["method"], float(row["centimetres"]),
                      float(row["degrees"]), row["source"])
            for row in csv.DictReader(file) if row["suite"] == suite
        ]  # fmt: skip
    return [each for scene in scenes for each in known if each.scene == scene]
