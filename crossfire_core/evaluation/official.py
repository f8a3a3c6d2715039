"""Public data sets with splits of their own, and what others publish about them.

Data are found in the layout that they are published in, or in the one that ACE's setup scripts
write, which is alike for all of them and has both ground truths of 7-Scenes and 12-Scenes.
Figures are medians in centimetres and degrees, as the named paper prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

Layout = tuple[str, str]

_SEVEN = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
_TWELVE = (
    "apt1_kitchen", "apt1_living", "apt2_bed", "apt2_kitchen", "apt2_living", "apt2_luke",
    "office1_gates362", "office1_gates381", "office1_lounge", "office1_manolis", "office2_5a",
    "office2_5b",
)  # fmt: skip
_CAMBRIDGE = ("GreatCourt", "KingsCollege", "OldHospital", "ShopFacade", "StMarysChurch")

_CROSSFIRE = "Moreau et al., ICCV 2023"
_ACE = "Brachmann et al., CVPR 2023"
_STDLOC = "as in Huang et al., CVPR 2025"


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


def _figures(
    method: str, source: str, scenes: tuple[str, ...], *figures: tuple[float, float]
) -> list[Published]:
    pairs = zip(scenes, figures, strict=True)
    return [Published(scene, method, cm, deg, source) for scene, (cm, deg) in pairs]


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "7scenes": tuple(
        chain(
            _figures(
                "CROSSFIRE", _CROSSFIRE, _SEVEN,
                (1, 0.4), (5, 1.9), (3, 2.3), (5, 1.6), (3, 0.8), (2, 0.8), (12, 1.9),
            ),
            _figures(
                "Active Search", _STDLOC, _SEVEN,
                (3, 0.87), (2, 1.01), (1, 0.82), (4, 1.15), (7, 1.69), (5, 1.72), (4, 1.01),
            ),
            _figures(
                "hloc, SuperPoint + SuperGlue", _STDLOC, _SEVEN,
                (2.39, 0.84), (2.29, 0.91), (1.13, 0.77), (3.14, 0.92), (4.92, 1.30),
                (4.22, 1.39), (5.05, 1.41),
            ),
        )
    ),
    "7scenes_sfm": tuple(
        chain(
            _figures(
                "DSAC*", _STDLOC, _SEVEN,
                (0.50, 0.17), (0.78, 0.29), (0.50, 0.34), (1.19, 0.35), (1.19, 0.29),
                (0.72, 0.21), (2.65, 0.78),
            ),
            _figures(
                "ACE", _STDLOC, _SEVEN,
                (0.55, 0.18), (0.83, 0.33), (0.53, 0.33), (1.05, 0.29), (1.06, 0.22),
                (0.77, 0.21), (2.89, 0.81),
            ),
        )
    ),
    "cambridge": tuple(
        chain(
            _figures(
                "CROSSFIRE", _CROSSFIRE, _CAMBRIDGE[1:],
                (47, 0.7), (43, 0.7), (20, 1.2), (39, 1.4),
            ),
            _figures(
                "Active Search", _ACE, _CAMBRIDGE,
                (24, 0.1), (13, 0.2), (20, 0.4), (4, 0.2), (8, 0.3),
            ),
            _figures(
                "hloc, SuperPoint + SuperGlue", _ACE, _CAMBRIDGE,
                (16, 0.1), (12, 0.2), (15, 0.3), (4, 0.2), (7, 0.2),
            ),
            _figures(
                "PixLoc", _ACE, _CAMBRIDGE,
                (30, 0.1), (14, 0.2), (16, 0.3), (5, 0.2), (10, 0.3),
            ),
            _figures(
                "DSAC*", _ACE, _CAMBRIDGE,
                (34, 0.2), (18, 0.3), (21, 0.4), (5, 0.3), (15, 0.6),
            ),
        )
    ),
}  # fmt: skip


def published(suite: str, scenes: tuple[str, ...]) -> list[Published]:
    """What is published about some scenes of a suite, scene by scene.

    Args:
        suite: name of the suite; one without published figures gives none.
        scenes: their names, in the order wanted.
    """
    known = PUBLISHED.get(suite, ())
    return [each for scene in scenes for each in known if each.scene == scene]
