"""The first stage alone: how well colours and depth come out after a change of its settings.

``python tools/geometry_ablations.py MAPPING QUERY --steps 2000`` trains density and colour once a
row and judges them on images that were not trained on: grey values after a fit of gain and offset,
and depths against SIFT points triangulated between those images alone. A row takes minutes, a
whole map of the same quality a quarter of an hour. Prints a table for ``docs/notes/parts.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from crossfire_core.config import LocalizationConfig, TrainingConfig, replace_from
from crossfire_core.recordings import open_recording
from crossfire_core.rendering.renderer import Rays, Renderer, ray_colours, sample_rays
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.schedule import Course, generator
from crossfire_core.training.trainer import Trainer
from crossfire_core.training.views import RayTable, View, view_of

CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "another seed": {"seed": 1},
    "SSIM weighs 0.005": {"geometry": {"ssim_weight": 0.005}},
    "no SSIM": {"geometry": {"ssim_weight": 0.0}},
    "SSIM weighs 0.05": {"geometry": {"ssim_weight": 0.05}},
    "4 patches, 1280 rays": {"geometry": {"patches": 4, "rays": 1280}},
    "no patches, 1536 rays": {"geometry": {"patches": 0, "rays": 1536}},
    "no total variation": {"geometry": {"variation_weight": 0.0}},
    "no distortion loss": {"geometry": {"distortion_weight": 0.0}},
    "measured depths weigh 0.005": {"geometry": {"depth_weight": 0.005}},
    "no measured depths": {"geometry": {"depth_weight": 0.0}},
    "poses as they are given": {"correct_poses": False},
    "poses are learned": {"correct_poses": False, "geometry": {"pose_rate": 1e-3}},
    "geometry table of 2^17": {"field": {"geometry": {"log2_entries": 17}}},
    "geometry table of 2^18": {"field": {"geometry": {"log2_entries": 18}}},
}
HEADER = (
    "change", "seconds", "trained on, dB", "others, grey, dB", "correlation", "clear",
    "depth off, median", "90 %",
)  # fmt: skip
_PIXELS = 20000
_BATCH = 2000


@dataclass(frozen=True)
class Truth:
    """What the query images say.

    Attributes:
        views: the images.
        origins: ``[n, 3]`` camera centres of ``n`` triangulated observations, metres.
        offsets: ``[n, 3]`` from there to the points.
    """

    views: Sequence[View]
    origins: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(views: Sequence[View]) -> Truth:
        """Points that are known to 1 % of their distance."""
        front_end = FrontEnd(views)
        found = front_end.sparse(views, front_end.tracks(views))
        origins = np.stack([v.map_from_camera.translation for v in views])[found.view]
        offsets = found.point - origins
        sharp = found.sigma_m < 0.01 * np.linalg.norm(offsets, axis=1)
        return Truth(views, origins[sharp], offsets[sharp])


def pixels_of(stage: Trainer, table: RayTable, own_light: bool) -> tuple[np.ndarray, ...]:
    """View ``[n]``, rendered and real colours ``[n, 3]`` of random pixels of a table's views."""
    rng = generator(table.device, 1)
    view, pixel = table.draw(_PIXELS, rng)
    seen = []
    with torch.no_grad():
        for v, p in zip(view.split(_BATCH), pixel.split(_BATCH), strict=True):
            rays = table.rays(v, p, None)
            samples = sample_rays(stage.field, rays, stage.survey.spacing, stage.config.render, rng)
            light = stage.field.appearance[v] if own_light else stage.field.mean_appearance()
            light = light.expand(len(v), -1)
            seen.append(ray_colours(stage.field, rays, samples, light))
    return view.numpy(), torch.cat(seen).numpy(), table.colours(view, pixel).numpy()


def decibels(squared: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error of values in [0, 1]."""
    return float(-10.0 * np.log10(max(squared, 1e-12)))


def grey_figures(view: np.ndarray, seen: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Decibels after gain and offset of each view, and the median correlation of a view."""
    squares, likeness = [], []
    for number in np.unique(view):
        x, y = seen[view == number].mean(axis=1), real[view == number].mean(axis=1)
        squares.append(np.mean((np.polyval(np.polyfit(x, y, 1), x) - y) ** 2))
        likeness.append(np.corrcoef(x, y)[0, 1])
    return decibels(float(np.mean(squares))), float(np.median(likeness))


def depth_figures(stage: Trainer, truth: Truth) -> tuple[float, float, float]:
    """Share of clear points, median and 90 % of their relative depth error."""
    limits = LocalizationConfig()
    renderer = Renderer(stage.field, stage.survey.spacing, stage.config.render).freeze()
    distance = np.linalg.norm(truth.offsets, axis=1)
    tensor = lambda a: torch.tensor(a, dtype=torch.float32)  # noqa: E731
    rays = Rays(tensor(truth.origins), tensor(truth.offsets / distance[:, None]))
    points, opacity, spread = renderer.surface(rays)
    seen = np.linalg.norm(points.numpy() - truth.origins, axis=1)
    clear = (spread.numpy() < limits.max_depth_spread) & (opacity.numpy() > limits.min_opacity)
    off = np.abs(seen / distance - 1.0)[clear]
    if len(off) == 0:  # trained too briefly, or the query images share no points
        return 0.0, float("nan"), float("nan")
    return float(clear.mean()), float(np.median(off)), float(np.percentile(off, 90))


def row(stage: Trainer, truth: Truth, seconds: float) -> tuple[str, ...]:
    """What one training gave, as text."""
    _, seen, real = pixels_of(stage, stage.table, own_light=True)
    trained = decibels(float(np.mean((seen - real) ** 2)))
    others, likeness = grey_figures(
        *pixels_of(stage, RayTable(truth.views, stage.device), own_light=False)
    )
    clear, middle, most = depth_figures(stage, truth)
    return (
        f"{seconds:.0f}", f"{trained:.1f}", f"{others:.2f}", f"{likeness:.3f}",
        f"{100 * clear:.1f} %", f"{100 * middle:.2f} %", f"{100 * most:.1f} %",
    )  # fmt: skip


def main() -> None:
    """Train a first stage a row and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mapping", help="the recording to train on")
    parser.add_argument("query", help="the recording that judges")
    parser.add_argument("--every", type=int, default=6, help="take every n-th query frame")
    parser.add_argument("--holdout-every", type=int, default=0, help="do not train on every n-th")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", default="", help="rows whose name holds this; by commas")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    query = open_recording(arguments.query)
    frames = query.frames(range(0, len(query), arguments.every))
    truth = Truth.of([view_of(frame, TrainingConfig().image_side) for frame in frames])
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in (n for n in CHANGES if any(part in n for part in wanted)):
            config = replace_from(TrainingConfig(), CHANGES[name])
            whole = round(arguments.steps / config.geometry_share)
            stage = Trainer(
                open_recording(arguments.mapping), Path(folder) / "one.map", config,
                Course(whole, holdout_every=arguments.holdout_every, device="cpu"),
            )  # fmt: skip
            stage.prepare()
            start = time.monotonic()
            stage.learn_geometry()
            cells = row(stage, truth, time.monotonic() - start)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
