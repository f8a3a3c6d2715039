"""One measured change at a time: what each choice of the defaults is worth.

``python tools/ablations.py localization MAP QUERY`` changes how images are localized in a map
that is there; ``python tools/ablations.py training MAPPING QUERY --steps 2400`` trains one map a
row; ``python tools/ablations.py disturbances MAP QUERY`` localizes images in other light and with
things in the way. All print a table for ``docs/ablations.md``. Time is that of all threads, which
other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from crossfire_core.config import LocalizationConfig, TrainingConfig, replace_from
from crossfire_core.evaluation.disturbances import DISTURBANCES
from crossfire_core.localization.localizer import Localizer
from crossfire_core.neural_map import NeuralMap
from crossfire_core.recordings import Frame, open_recording
from crossfire_core.training.trainer import train_map

LOCALIZATION: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one iteration": {"iterations": 1},
    "two iterations": {"iterations": 2},
    "three iterations always": {"converged_m": 0.0},
    "no descriptor alignment": {"align": False},
    "colours": {"colour_rays": 1000},
    "40 points along": {"points_along": 40, "search_along": 40},
    "80 points along": {"points_along": 80},
    "120 points along": {"points_along": 120},
    "12 samples a ray": {"samples": 12},
    "24 samples a ray": {"samples": 24},
    "first look as fine as the rest": {"search_along": 64},
    "windows of 5 cells once known": {"track_radius": 5},
    "RANSAC at 2 px": {"ransac_error_px": 2.0},
    "RANSAC at 8 px": {"ransac_error_px": 8.0},
    "torn depths take part": {"max_depth_spread": 1.0},
}

TRAINING: dict[str, dict[str, Any]] = {
    "defaults": {},
    "another seed": {"seed": 1},
    "no measured depths": {"geometry": {"depth_rays": 0, "depth_weight": 0.0}},
    "no total variation": {"geometry": {"variation_weight": 0.0}},
    "no SSIM": {"geometry": {"ssim_weight": 0.0}},
    "no distortion loss": {"geometry": {"distortion_weight": 0.0}},
    "margin of 2 % of the distance, not 0.35 %": {"descriptor": {"margin": 0.02}},
    "no pixels side by side": {"descriptor": {"clustered": 0.0}},
    "no points from elsewhere": {"descriptor": {"others": 0}},
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
HEADER = ("change", "cm", "deg", "within 2 cm, 2 deg", "failed", "CPU ms", "MB")


@dataclass(frozen=True)
class Row:
    """What one change gave; lengths in centimetres, angles in degrees."""

    name: str
    cm: float
    deg: float
    recall: float
    failed: int
    cpu_ms: float
    megabytes: float

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.name, f"{self.cm:.2f}", f"{self.deg:.3f}", f"{100 * self.recall:.0f} %",
            str(self.failed), f"{self.cpu_ms:.0f}", f"{self.megabytes:.1f}",
        )  # fmt: skip


def measure(
    name: str,
    path: Path,
    neural_map: NeuralMap,
    config: LocalizationConfig,
    frames: Sequence[Frame],
) -> Row:
    """Localize frames without a prior."""
    localizer = Localizer(neural_map, config)
    localizer.localize(frames[0].image, frames[0].camera)  # compile
    errors = []
    start = time.process_time()
    for frame in frames:
        found = localizer.localize(frame.image, frame.camera)
        if found.ok and found.map_from_camera and frame.world_from_camera:
            errors.append(found.map_from_camera.distance(frame.world_from_camera))
    spent = 1e3 * (time.process_time() - start) / len(frames)
    cm, deg = (np.array(errors) * [100.0, 180.0 / np.pi]).T
    good = ((cm < 2) & (deg < 2)).sum() / len(frames)
    failed = len(frames) - len(errors)
    size = path.stat().st_size / 1e6
    return Row(name, float(np.median(cm)), float(np.median(deg)), good, failed, spent, size)


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


def training(arguments: argparse.Namespace, frames: Sequence[Frame]) -> Iterator[Row]:
    """A map for every change of the training."""
    recording = open_recording(arguments.first)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.map"
        for name in chosen(TRAINING, arguments.only):
            config = replace_from(TrainingConfig(), TRAINING[name])
            made = train_map(recording, path, config, steps=arguments.steps, device="cpu")
            yield measure(name, path, made, LocalizationConfig(), frames)


def chosen(table: dict[str, Any], only: str) -> list[str]:
    """Names of the rows that are asked for."""
    return [name for name in table if not only or any(part in name for part in only.split(","))]


GROUPS = {"localization": localization, "training": training, "disturbances": disturbances}


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=tuple(GROUPS))
    parser.add_argument("first", help="the map, or the recording to train on")
    parser.add_argument("query", help="the recording whose frames are localized")
    parser.add_argument("--every", type=int, default=6, help="take every n-th frame")
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
