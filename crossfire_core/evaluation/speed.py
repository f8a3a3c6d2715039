"""How long training and localization take here, against what this machine allows.

Times of single operations differ from machine to machine; ratios to the ceilings, which are
measured in the same run, say how well the machine is used.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crossfire_core.config import LocalizationConfig, TrainingConfig
from crossfire_core.errors import RecordingError
from crossfire_core.field.backends import resolve_device
from crossfire_core.field.layout import GridLayout
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import Search
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import Recording
from crossfire_core.reports.plots import BLUE, ORANGE, figure, png, style
from crossfire_core.training.schedule import Budget, Course
from crossfire_core.training.trainer import Trainer

Tell = Callable[[str], None]

# How far the priors of the timed localizations are from the truth.
_PRIOR = (0.03, -0.03, 0.02, 0.015, -0.015, 0.01)
_COLUMNS = (40, 60, 80, 120, 160)
_SIDES = (240, 320, 480)
_RAYS = (512, 1024, 2048)
_TABLES = (15, 17, 19)
_VIEWS = (24, 96)
_FRAMES = 8
_WARM_STEPS = 10
_WARM_RUNS = 2  # the second one is recorded where there are CUDA graphs
_THREE = LocalizationConfig(iterations=3, converged_m=0.0, converged_deg=0.0)


@dataclass(frozen=True)
class Workload:
    """What the figures are measured on.

    Attributes:
        map_file: a trained map; its localization is timed.
        recording: a recording of the same place; its frames are localized and trained on.
        steps: training steps of the first stage that are timed.
    """

    map_file: Path
    recording: Recording
    steps: int = 80


def measure(work: Workload, device: str, backend: str, tell: Tell) -> dict[str, Any]:
    """All figures as plain types.

    Returns:
        ``ceilings``, ``localization`` (``iteration_ms``, ``total_ms``, ``stages_ms``,
        ``by_columns_ms``, ``three_iterations_ms``; on a GPU also ``floor_ms``, what these three
        take at the ceilings), ``training`` (``steps_per_s``, ``samples_per_s``, ``by_rays``) and
        ``peak_memory_mb``.

    Raises:
        RecordingError: no frame has a pose.
        BackendError: the device or backend does not run here.
    """
    tell("ceilings")
    place = resolve_device(device)
    ceilings = measure_ceilings(place)
    neural_map = NeuralMap.load(work.map_file, device, backend)
    localization = measure_localization(neural_map, work, tell)
    if place.type == "cuda":
        localization["floor_ms"] = floor_ms(neural_map, work, ceilings)
    training = measure_training(work, device, backend, tell)
    samples = training["samples_per_s"] * training["lookups_a_sample"]
    training["share_of_gather_ceiling"] = samples / ceilings["gathers_per_s"]
    return {
        "ceilings": ceilings,
        "localization": localization,
        "training": training,
        "peak_memory_mb": peak_memory_mb(),
    }


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Matrix product, copy and random look-up of the CPU or a GPU, best of several."""
    if device.type == "cuda":
        return _gpu_ceilings(device)
    a = torch.rand(1024, 1024)
    source = np.ones(16 << 20, np.float32)
    target = np.empty_like(source)
    table = np.ones((1 << 17, 4), np.float32)
    index = np.random.default_rng(0).integers(0, len(table), 1 << 20)
    return {
        "matrix_gflops": 2 * 1024**3 / best(lambda: a @ a) / 1e9,
        "copy_gb_per_s": 2 * source.nbytes / best(lambda: np.copyto(target, source)) / 1e9,
        "gathers_per_s": len(index) / best(lambda: table.take(index, axis=0)),
    }


def _gpu_ceilings(device: torch.device) -> dict[str, float]:
    a = torch.rand(4096, 4096, device=device)
    source = torch.ones(1 << 28, device=device)
    target = torch.empty_like(source)
    table = torch.ones(1 << 17, 4, device=device)
    index = torch.randint(0, len(table), (1 << 24,), device=device)

    def seconds(work: Callable[[], Any]) -> float:
        def done() -> None:
            work()
            torch.cuda.synchronize(device)

        return best(done)

    return {
        "matrix_gflops": 2 * len(a) ** 3 / seconds(lambda: a @ a) / 1e9,
        "copy_gb_per_s": 8 * len(source) / seconds(lambda: target.copy_(source)) / 1e9,
        "gathers_per_s": len(index) / seconds(lambda: table[index]),
    }


def floor_ms(neural_map: NeuralMap, work: Workload, ceilings: dict[str, float]) -> float:
    """What a localization of three iterations takes if nothing but the ceilings held it up.

    Counted are the products of all networks and the entries that hash grids are asked for.
    """
    field, read = neural_map.field, 0
    encode = field.geometry.encode

    def counting(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
        nonlocal read
        read += 8 * len(positions) * layout.width * parameters.element_size()
        return encode(parameters, positions, layout)

    field.set_encoder(counting)
    try:
        localizer = Localizer(neural_map, _THREE)
        for recorded in (localizer.finder._network, localizer.finder._surface):
            recorded.problem = "work is counted, which a replay would hide"
        read = 0
        with FlopCounterMode(display=False) as products:
            _localized(localizer, posed_frames(work.recording, 1), warm=False)
    finally:
        field.set_encoder(encode)
    arithmetic: float = products.get_total_flops() / (1e9 * ceilings["matrix_gflops"])
    return 1e3 * (arithmetic + read / (1e9 * ceilings["copy_gb_per_s"]))


def best(work: Callable[[], Any], rounds: int = 5) -> float:
    """Shortest of several durations, in seconds."""
    durations = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return max(min(durations), 1e-9)


def posed_frames(recording: Recording, count: int = _FRAMES) -> list[Frame]:
    """A few frames with poses, spread over a recording.

    Raises:
        RecordingError: there is none.
    """
    posed = [i for i, info in enumerate(recording.infos) if info.world_from_camera is not None]
    if not posed:
        raise RecordingError(f"{recording.name} has no frame with a pose to start from")
    spread = np.unique(np.linspace(0, len(posed) - 1, count).astype(int))
    return list(recording.frames([posed[i] for i in spread]))


def measure_localization(neural_map: NeuralMap, work: Workload, tell: Tell) -> dict[str, Any]:
    """Milliseconds of a localization from a prior nearby, by stage and by grid size."""
    frames = posed_frames(work.recording)
    tell("localization")
    runs = [r for r in _localized(Localizer(neural_map), frames) if r["iterations"]]
    by_columns = {}
    for columns in _COLUMNS:
        tell(f"localization, {columns} columns")
        config = replace(
            LocalizationConfig(), points_along=columns, search_along=columns, iterations=1
        )
        times = [r["total_ms"] for r in _localized(Localizer(neural_map, config), frames[:4])]
        by_columns[str(columns)] = float(np.median(times))
    by_side = {}
    for side in _SIDES:
        tell(f"localization, network input of {side}")
        header = replace(neural_map.header, features=replace(neural_map.header.features, side=side))
        parts = (neural_map.field, neural_map.network, neural_map.places, neural_map.patches)
        other = NeuralMap(header, *parts)
        some = _localized(Localizer(other), frames[:4])
        by_side[str(side)] = float(np.median([r["stages_ms"]["features"] for r in some]))
    thrice = [r for r in _localized(Localizer(neural_map, _THREE), frames) if r["iterations"] == 3]
    stages = list(dict.fromkeys(stage for r in runs for stage in r["stages_ms"]))
    return {
        "iteration_ms": _middle([r["iteration_ms"] for r in runs]),
        "total_ms": _middle([r["total_ms"] for r in runs]),
        "iterations": _middle([r["iterations"] for r in runs]),
        "stages_ms": {s: _middle([r["stages_ms"].get(s, 0.0) for r in runs]) for s in stages},
        "three_iterations_ms": _middle([r["total_ms"] for r in thrice]),
        "by_columns_ms": by_columns,
        "features_by_side_ms": by_side,
    }


def _middle(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _localized(
    localizer: Localizer, frames: Sequence[Frame], warm: bool = True
) -> list[dict[str, Any]]:
    """Times of each frame's localization; before that the first one is done to warm up."""
    runs = []
    before = _WARM_RUNS if warm else 0
    for frame in [*before * [frames[0]], *frames]:
        assert frame.world_from_camera is not None
        prior = frame.world_from_camera @ Pose.exp(_PRIOR)
        start = time.perf_counter()
        found = localizer.localize(frame.image, frame.camera, prior, search=Search((0.05, 0.02)))
        total = 1e3 * (time.perf_counter() - start)
        repeated = sum(ms for stage, ms in found.timings_ms.items() if stage != "features")
        runs.append(
            {
                "total_ms": total,
                "iterations": found.iterations,
                "iteration_ms": repeated / max(found.iterations, 1),
                "stages_ms": found.timings_ms,
            }
        )
    return runs[before:]


def measure_training(work: Workload, device: str, backend: str, tell: Tell) -> dict[str, Any]:
    """Steps and samples a second of the first stage, and how they change with the rays."""
    config = TrainingConfig(backend=backend)
    tell("training")
    steps_per_s = _steps_per_second(work, config, device)
    by_rays = {}
    for rays in _RAYS:
        tell(f"training, {rays} rays")
        changed = replace(config, geometry=replace(config.geometry, rays=rays))
        by_rays[str(rays)] = _steps_per_second(work, changed, device)
    by_table = {}
    for size in _TABLES:
        tell(f"training, tables of 2^{size}")
        grid = replace(config.field.geometry, log2_entries=size)
        changed = replace(config, field=replace(config.field, geometry=grid))
        by_table[str(size)] = _steps_per_second(work, changed, device)
    by_views = {}
    for views in _VIEWS:
        tell(f"training, {views} mapping images")
        by_views[str(views)] = _steps_per_second(work, config, device, views)
    per_step = _rays_a_step(config) * (config.render.proposal_samples + config.render.samples)
    levels = config.field.proposal.levels * config.render.proposal_samples
    levels += config.field.geometry.levels * config.render.samples
    samples_a_ray = config.render.proposal_samples + config.render.samples
    return {
        "steps_per_s": steps_per_s,
        "samples_per_s": steps_per_s * per_step,
        "lookups_a_sample": 8 * levels / samples_a_ray,
        "by_rays": by_rays,
        "by_log2_entries": by_table,
        "by_mapping_images": by_views,
    }


def _rays_a_step(config: TrainingConfig) -> int:
    geometry = config.geometry
    return geometry.rays + geometry.patches * geometry.patch_size**2 + geometry.depth_rays


def _steps_per_second(
    work: Workload, config: TrainingConfig, device: str, views: int = 24
) -> float:
    """Speed of the first stage, once its kernels are compiled."""
    with tempfile.TemporaryDirectory() as folder:
        few = replace(config, max_views=views)
        course = Course(steps=1, device=device)
        trainer = Trainer(work.recording, Path(folder) / "speed.map", few, course)
        trainer.prepare()
        for steps in (_WARM_STEPS, work.steps):
            trainer.geometry_budget = Budget(steps, None)
            trainer.learn_geometry()
    return trainer.geometry_budget.done / trainer.geometry_budget.spent


def peak_memory_mb() -> float:
    """The most memory that this process has held so far."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as (name, value) for a table."""
    ceilings, found, training = (figures[k] for k in ("ceilings", "localization", "training"))
    table = [
        ("ceiling: matrix product", f"{ceilings['matrix_gflops']:.0f} GFLOP/s"),
        ("ceiling: copy", f"{ceilings['copy_gb_per_s']:.1f} GB/s"),
        ("ceiling: random look-ups", f"{ceilings['gathers_per_s'] / 1e6:.0f} M/s"),
        ("localization, one iteration", _ms(found["iteration_ms"])),
        ("localization, whole", _ms(found["total_ms"])),
        ("localization, three iterations", _ms(found["three_iterations_ms"])),
    ]
    table += [(f"  {stage}", _ms(ms)) for stage, ms in found["stages_ms"].items()]
    table += [
        (f"one iteration at {columns} columns", _ms(ms))
        for columns, ms in found["by_columns_ms"].items()
    ]
    table += [
        ("training", f"{training['steps_per_s']:.1f} steps/s"),
        ("training", f"{training['samples_per_s'] / 1e6:.2f} M samples/s"),
        ("  of the look-up ceiling", f"{100 * training['share_of_gather_ceiling']:.0f} %"),
    ]
    table += [
        (f"features at a network input of {side}", _ms(ms))
        for side, ms in found["features_by_side_ms"].items()
    ]
    for name, unit in (
        ("by_rays", "{} rays"),
        ("by_log2_entries", "geometry tables of 2^{}"),
        ("by_mapping_images", "{} mapping images"),
    ):
        table += [
            (f"training at {unit.format(n)}", f"{v:.1f} steps/s") for n, v in training[name].items()
        ]
    return [*table, ("peak memory", f"{figures['peak_memory_mb']:.0f} MB")]


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms"


def plot(figures: dict[str, Any]) -> bytes:
    """How the times grow, as a PNG file."""
    fig: Figure = figure(8.0, 3.4)
    left, right = fig.subplots(1, 2)
    columns = figures["localization"]["by_columns_ms"]
    left.plot([int(c) for c in columns], list(columns.values()), "o-", color=BLUE)
    style(left, "rendered columns", "ms, one iteration")
    left.set_ylim(bottom=0)
    rays = figures["training"]["by_rays"]
    right.plot([int(r) for r in rays], list(rays.values()), "o-", color=ORANGE)
    style(right, "random rays a step", "training steps/s")
    right.set_ylim(bottom=0)
    return png(fig)
