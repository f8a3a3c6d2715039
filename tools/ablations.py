"""One measured change at a time: what each choice of the defaults is worth.

``python tools/ablations.py localization MAP QUERY`` changes how images are localized in a map
that is there; ``python tools/ablations.py training MAPPING QUERY --steps 2400`` trains one map a
row; ``python tools/ablations.py descriptors MAPPING QUERY --geometry MAP --steps 1200`` trains only
the second stage anew on the geometry of a map; ``python tools/ablations.py disturbances MAP QUERY``
localizes images in other light and with things in the way. All print a table for
``docs/notes/parts.md``. Time is that of all threads, which other programs on the machine change
little.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from crossfire_core.config import LocalizationConfig, TrainingConfig, replace_from
from crossfire_core.evaluation.disturbances import DISTURBANCES
from crossfire_core.localization.estimate import Search
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.recordings import Frame, open_recording
from crossfire_core.training.schedule import Budget, Course
from crossfire_core.training.survey import Survey
from crossfire_core.training.trainer import Trainer, train_map
from crossfire_core.vision.sparse_points import SparsePoints

LOCALIZATION: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one iteration": {"iterations": 1},
    "two iterations": {"iterations": 2},
    "three iterations always": {"converged_m": 0.0},
    "the paper's way: no patches": {"method": "crossfire"},
    "500 patches": {"patches": 500},
    "the paper's way, 64 points along": {"method": "crossfire", "points_along": 64},
    "32 points along in the first look": {"search_along": 32},
    "12 samples a ray": {"samples": 12},
    "24 samples a ray": {"samples": 24},
    "first look as fine as the rest": {"search_along": 96},
    "windows of 5 cells once known": {"track_radius": 5},
    "RANSAC at 2 px": {"ransac_error_px": 2.0},
    "RANSAC at 8 px": {"ransac_error_px": 8.0},
    "torn depths take part": {"max_depth_spread": 1.0},
}

TRAINING: dict[str, dict[str, Any]] = {
    "defaults": {},
    "another seed": {"seed": 1},
    "poses as they are given": {"correct_poses": False},
    "no measured depths": {"geometry": {"depth_rays": 0, "depth_weight": 0.0}},
    "no total variation": {"geometry": {"variation_weight": 0.0}},
    "no SSIM": {"geometry": {"ssim_weight": 0.0}},
    "SSIM weighs 0.05": {"geometry": {"ssim_weight": 0.05}},
    "no distortion loss": {"geometry": {"distortion_weight": 0.0}},
    "descriptors of 16 numbers": {"field": {"descriptor_size": 16}},
    "no zoom, turn, blur, light": {
        "descriptor": {"zoom": 0.0, "turn_deg": 0.0, "blur_px": 0.0, "brightness": 0.0}
    },
    "network input of 240": {"features": {"side": 240}},
    "network input of 480": {"features": {"side": 480}},
    "descriptor table of 2^16": {"field": {"descriptor": {"log2_entries": 16}}},
    "descriptor table of 2^17": {"field": {"descriptor": {"log2_entries": 17}}},
    "geometry table of 2^17": {"field": {"geometry": {"log2_entries": 17}}},
}
DESCRIPTORS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "another seed": {"seed": 1},
    "image network starts at random": {"descriptor": {"start": "random"}},
    "one group of 640 pixels": {"descriptor": {"groups": 1, "others": 1024}},
    "one group of 1280 pixels": {"descriptor": {"groups": 1, "pixels": 1280, "others": 1024}},
    "four groups": {"descriptor": {"groups": 4}},
    "margin of 2 % of the distance, not 0.35 %": {"descriptor": {"margin": 0.02}},
    "no pixels side by side": {"descriptor": {"clustered": 0.0}},
    "no points from elsewhere": {"descriptor": {"others": 0}},
    "temperature of 0.05": {"descriptor": {"temperature": 0.05}},
    "temperature of 0.1": {"descriptor": {"temperature": 0.1}},
    "network's rate doubled": {"descriptor": {"network_rate": 4e-3}},
    "grid's rate tripled": {"descriptor": {"grid_rate": 3e-2}},
    "zoom 20 %, turn 8 deg, blur 7 px, light 25 %": {
        "descriptor": {"zoom": 0.2, "turn_deg": 8.0, "blur_px": 7.0, "brightness": 0.25}
    },
    "no zoom, turn, blur, light": TRAINING["no zoom, turn, blur, light"],
    "network input of 240": TRAINING["network input of 240"],
    "network input of 480": {"features": {"side": 480}, "descriptor": {"window_share": 0.4}},
    "descriptors of 16 numbers": TRAINING["descriptors of 16 numbers"],
    "finest cells half as large": {"field": {"descriptor": {"per_level_scale": 2.0}}},
    "descriptor table of 2^16": TRAINING["descriptor table of 2^16"],
}
HEADER = ("change", "cm", "deg", "within 2 cm, 2 deg", "failed", "match px", "CPU ms", "MB")


@dataclass(frozen=True)
class Row:
    """What one change gave; lengths in centimetres, angles in degrees.

    ``match_px`` is the median distance of single matches from where the truth says, before any
    is sorted out, rendered at the true pose: it varies less than the poses from seed to seed.
    """

    name: str
    cm: float
    deg: float
    recall: float
    failed: int
    match_px: float
    cpu_ms: float
    megabytes: float

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.name, f"{self.cm:.2f}", f"{self.deg:.3f}", f"{100 * self.recall:.0f} %",
            str(self.failed), f"{self.match_px:.1f}", f"{self.cpu_ms:.0f}", f"{self.megabytes:.1f}",
        )  # fmt: skip


def measure(
    name: str,
    path: Path,
    neural_map: NeuralMap,
    config: LocalizationConfig,
    frames: Sequence[Frame],
    kind: Callable[..., Localizer] = Localizer,
) -> Row:
    """Localize frames without a prior; a ``kind`` that has a ``truth`` is told it."""
    localizer: Any = kind(neural_map, config)
    localizer.localize(frames[0].image, frames[0].camera)  # compile
    errors = []
    start = time.process_time()
    for frame in frames:
        localizer.truth = frame.world_from_camera
        found = localizer.localize(frame.image, frame.camera)
        if found.ok and found.map_from_camera and frame.world_from_camera:
            errors.append(found.map_from_camera.distance(frame.world_from_camera))
    spent = 1e3 * (time.process_time() - start) / len(frames)
    match_px = float(np.median(np.concatenate([match_errors(localizer, f) for f in frames])))
    cm, deg = (np.array(errors or [(np.inf, np.inf)]) * [100.0, 180.0 / np.pi]).T
    good = ((cm < 2) & (deg < 2)).sum() / len(frames)
    failed = len(frames) - len(errors)
    size = path.stat().st_size / 1e6
    middle = float(np.median(cm)), float(np.median(deg))
    return Row(name, *middle, good, failed, match_px, spent, size)


def match_errors(localizer: Localizer, frame: Frame) -> np.ndarray:
    """Errors of single matches, in pixels of a 640 px wide image, found within 32 pixels."""
    camera, truth = frame.camera, frame.world_from_camera
    assert truth is not None
    narrow = localizer.localize(frame.image, camera, truth, search=Search((0.0, 0.0), 1))
    if narrow.details is None:
        return np.zeros(0)
    expected = camera.project(truth.inverse().apply(narrow.details.points))
    off = np.linalg.norm(narrow.details.pixels - expected, axis=1)
    return np.asarray(off * 640.0 / max(camera.size))


def localization(arguments: argparse.Namespace, frames: Sequence[Frame]) -> Iterator[Row]:
    """Every change of the localization in one map."""
    path = Path(arguments.first)
    neural_map = NeuralMap.load(path, "cpu")
    for name in chosen(LOCALIZATION, arguments.only):
        config = replace_from(LocalizationConfig(), LOCALIZATION[name])
        yield measure(name, path, neural_map, config, frames)


def disturbances(arguments: argparse.Namespace, frames: Sequence[Frame]) -> Iterator[Row]:
    """The same frames clean and disturbed, in one map."""
    path, config = Path(arguments.first), LocalizationConfig()
    neural_map = NeuralMap.load(path, "cpu")
    yield measure("clean", path, neural_map, config, frames)
    for name in chosen(DISTURBANCES, arguments.only):
        changed = [
            replace(frame, image=DISTURBANCES[name](frame.image, number))
            for number, frame in enumerate(frames)
        ]
        yield measure(name, path, neural_map, config, changed)


def course_of(arguments: argparse.Namespace) -> Course:
    """How every map is trained."""
    return Course(arguments.steps, holdout_every=arguments.holdout_every, device="cpu")


def training(arguments: argparse.Namespace, frames: Sequence[Frame]) -> Iterator[Row]:
    """A map for every change of the training."""
    recording, course = open_recording(arguments.first), course_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.map"
        for name in chosen(TRAINING, arguments.only):
            config = replace_from(TrainingConfig(), TRAINING[name])
            made = train_map(
                recording, path, config, course
            )  # fmt: skip
            yield measure(name, path, made, LocalizationConfig(), frames)


class SecondStage(Trainer):
    """Descriptors anew, on the geometry of a map that exists."""

    old: NeuralMap

    def look_at_the_scene(self, saved: dict[str, Any] | None) -> None:
        """The old map's box; without points, which only geometry would use."""
        none, header = np.zeros((0, 2)), self.old.header
        known = {view.name: view.map_from_camera for view in header.views}
        self.views = [replace(v, map_from_camera=known[v.name]) for v in self.views]
        points = SparsePoints(none[:, 0].astype(np.int64), none, np.zeros((0, 3)), none[:, 0])
        self.survey = Survey(header.box, header.spacing, points)

    def build(self, saved: dict[str, Any] | None) -> None:
        """Take over all but the descriptors."""
        super().build(None)
        known = self.old.field.state_dict()
        for name, value in self.field.state_dict().items():
            if "descriptor" not in name:
                value.copy_(known[name])
        self.descriptor_budget = Budget(self.steps, None)

    def learn_geometry(self) -> None:
        """It is there."""


def descriptors(arguments: argparse.Namespace, frames: Sequence[Frame]) -> Iterator[Row]:
    """A second stage for every change of it."""
    recording, old = open_recording(arguments.first), NeuralMap.load(arguments.geometry, "cpu")
    course = course_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.map"
        for name in chosen(DESCRIPTORS, arguments.only):
            # patches would hide what descriptors do
            config = replace_from(TrainingConfig(), {**DESCRIPTORS[name], "patches": 0})
            stage = SecondStage(recording, path, config, course)
            stage.old = old
            made = stage.run()
            yield measure(name, path, made, LocalizationConfig(), frames)


def chosen(table: dict[str, Any], only: str) -> list[str]:
    """Names of the rows that are asked for."""
    return [name for name in table if not only or any(part in name for part in only.split(","))]


GROUPS = {
    "localization": localization,
    "training": training,
    "descriptors": descriptors,
    "disturbances": disturbances,
}


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=tuple(GROUPS))
    parser.add_argument("first", help="the map, or the recording to train on")
    parser.add_argument("query", help="the recording whose frames are localized")
    parser.add_argument("--every", type=int, default=6, help="take every n-th frame")
    parser.add_argument("--holdout-every", type=int, default=0, help="do not train on every n-th")
    parser.add_argument("--geometry", help="the map whose geometry the second stage builds upon")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--only", default="", help="rows whose name holds this; by commas")
    arguments = parser.parse_args()
    query = open_recording(arguments.query)
    frames = list(query.frames(range(0, len(query), arguments.every)))
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    for row in GROUPS[arguments.group](arguments, frames):
        print(f"| {' | '.join(row.cells())} |", flush=True)


if __name__ == "__main__":
    main()
