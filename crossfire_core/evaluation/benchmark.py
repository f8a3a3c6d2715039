"""This method and its peers on exactly the same mapping and query frames."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfire_core.errors import ConfigError, MissingDependencyError
from crossfire_core.evaluation import plots
from crossfire_core.evaluation.evaluate import (
    Evaluation,
    EvaluationOptions,
    evaluate,
)
from crossfire_core.evaluation.metrics import FrameError
from crossfire_core.evaluation.official import OFFICIAL, Layout, Published, published
from crossfire_core.files import write_bytes, write_text
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.recordings import Recording, RecordingOptions, open_recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.registry import PEERS
from crossfire_core.reports import html

if TYPE_CHECKING:
    from crossfire_core.maps.header import MapHeader

Tell = Callable[[str], None]
_OWN = {"crossfire": "CROSSFIRE", "descriptors": "CROSSFIRE, descriptors alone"}
METHODS = (*_OWN, *PEERS.own)


def title_of(method: str) -> str:
    """A method's name for tables."""
    return _OWN[method] if method in _OWN else str(PEERS.load(method).title)


@dataclass(frozen=True)
class Scene:
    """Where the frames of one scene are.

    Attributes:
        name: for the table.
        mapping: path of the mapping recording below the data folder.
        query: path of the query recording; empty holds frames of the mapping one out.
        holdout_every: every n-th frame is query instead, where ``query`` is empty.
        layouts: other places of (mapping, query), for those who have the data set otherwise.
        lookalikes: paths of recordings of other places that look like this one.
    """

    name: str
    mapping: str
    query: str = ""
    holdout_every: int = 0
    layouts: tuple[Layout, ...] = ()
    lookalikes: tuple[str, ...] = ()

    def found_in(self, data: Path) -> Scene:
        """The scene in the first of its layouts that is there; the first of all if none is."""
        pairs = ((self.mapping, self.query), *self.layouts)
        found = next((pair for pair in pairs if (data / pair[0]).exists()), pairs[0])
        return replace(self, mapping=found[0], query=found[1])


_SHARED = (
    Scene("redkitchen", "redkitchen/mapping_bag", "redkitchen/query_bag"),
    Scene("euroc_mh05", "euroc_mh05/bag", holdout_every=5),
    Scene("fox", "fox", holdout_every=5),
)
SUITES: dict[str, tuple[Scene, ...]] = {
    "shared": _SHARED,
    "sample": (Scene("sample", "mapping_bag", "query_bag"),),
    "negatives": (
        *_SHARED,
        Scene(
            "corridor_phone", "corridor_phone/mapping", "corridor_phone/query",
            lookalikes=("corridor_phone/other_corridor",),
        ),
        Scene("pyramids_terrace", "pyramids_terrace/mapping", "pyramids_terrace/query"),
        Scene("tnt_truck", "tnt_truck/mapping_loop1", "tnt_truck/query_loop2"),
        Scene(
            "corridor", "corridor/mapping_bag", "corridor/query_bag",
            lookalikes=("corridor/lookalike_bag", "corridor/foreign_bag"),
        ),
    ),
}  # fmt: skip
SUITES |= {
    suite: tuple(Scene(s.name, *s.layouts[0], layouts=s.layouts[1:]) for s in scenes)
    for suite, scenes in OFFICIAL.items()
}


@dataclass(frozen=True)
class Plan:
    """What a benchmark runs.

    Attributes:
        suite: a name in :data:`SUITES`.
        scenes: which of its scenes; empty takes all.
        methods: which of :data:`METHODS`, or peers of other packages.
        data: folder of the recordings.
        work: where maps and results go.
        minutes: training time of this method.
        stride: take every n-th frame of each recording only.
        device: for this method.
        maps: folder with maps that are trained already, named after their scenes; None trains all.
        backend: what evaluates this method's hash grids.
    """

    suite: str
    scenes: tuple[str, ...]
    methods: tuple[str, ...]
    data: Path
    work: Path
    minutes: float = 15.0
    stride: int = 1
    device: str = "auto"
    maps: Path | None = None
    backend: str = "auto"

    def __post_init__(self) -> None:
        """Refuse names that do not exist.

        Raises:
            ConfigError: with the names that do.
        """
        if self.suite not in SUITES:
            raise ConfigError(f"suite {self.suite!r} is unknown: choose {', '.join(SUITES)}")
        known = [scene.name for scene in SUITES[self.suite]]
        for given, allowed in ((self.scenes, known), (self.methods, (*_OWN, *PEERS.names()))):
            for name in given:
                if name not in allowed:
                    raise ConfigError(f"{name!r} is unknown: choose {', '.join(allowed)}")
        if not self.data.is_dir():
            raise ConfigError(
                f"no data at {self.data}: set CROSSFIRE_DATA, or use --suite sample --data FOLDER"
            )

    def path(self, recording: str) -> Path:
        """Where a recording of the suite is: among the data, else in the work folder."""
        given, made = self.data / recording, self.work / recording
        return made if made.exists() and not given.exists() else given

    def reading(self, *, require_poses: bool = True) -> RecordingOptions:
        """How its recordings are read."""
        return RecordingOptions(stride=self.stride, require_poses=require_poses)

    def chosen_scenes(self) -> list[Scene]:
        """The scenes to run."""
        chosen = [s for s in SUITES[self.suite] if not self.scenes or s.name in self.scenes]
        return [scene.found_in(self.data) for scene in chosen]

    @property
    def rows(self) -> int:
        """How many there will be: every method on every scene."""
        return len(self.chosen_scenes()) * len(self.methods)


@dataclass(frozen=True)
class Split:
    """The frames of one scene.

    Attributes:
        mapping: the recording that maps are made from.
        indices: which of its frames.
        query: the recording whose frames are localized.
        options: which of its frames.
    """

    mapping: Recording
    indices: tuple[int, ...]
    query: Recording
    options: EvaluationOptions

    def mapping_frames(self) -> Iterator[Frame]:
        """The mapping frames in order of time."""
        return self.mapping.frames(self.indices)


@dataclass(frozen=True)
class Row:
    """One method on one scene.

    Attributes:
        scene: its name.
        method: its title.
        evaluation: None if it was skipped.
        mapping_minutes: time for making the map.
        skipped: why, else empty.
    """

    scene: str
    method: str
    evaluation: Evaluation | None
    mapping_minutes: float = 0.0
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Figures of the table; those of a skipped method are null."""
        summary = self.evaluation.summary() if self.evaluation else {}
        return {
            "scene": self.scene,
            "method": self.method,
            "skipped": self.skipped,
            "frames": summary.get("frames"),
            "localized": summary.get("localized"),
            "median_translation_m": summary.get("median_translation_m"),
            "median_rotation_deg": summary.get("median_rotation_deg"),
            "recall": summary.get("recall"),
            "map_bytes": summary.get("map_bytes"),
            "mapping_minutes": round(self.mapping_minutes, 3) if self.evaluation else None,
            "query_ms": summary["latency_ms"]["median"] if summary else None,
        }


def split(scene: Scene, plan: Plan) -> Split:
    """Open a scene and choose the frames that every method gets.

    Raises:
        RecordingError: the recordings are not there.
    """
    from crossfire_core.config import TrainingConfig
    from crossfire_core.training.selection import select_frames

    mapping = open_recording(plan.path(scene.mapping), plan.reading())
    query = open_recording(plan.path(scene.query), plan.reading()) if scene.query else mapping
    selection = select_frames(mapping.infos, TrainingConfig().max_views, scene.holdout_every)
    evaluation = EvaluationOptions(holdout_every=scene.holdout_every)
    return Split(mapping, selection.mapping, query, evaluation)


def run(plan: Plan, tell: Tell) -> Iterator[Row]:
    """Run every method on every scene, one row after the other.

    A method that cannot run on this machine is skipped, and says why.

    Args:
        plan: what to run.
        tell: told what is being done.

    Raises:
        RecordingError: a scene is not there.
    """
    for scene in plan.chosen_scenes():
        frames = split(scene, plan)
        for method in plan.methods:
            yield _row(scene, method, frames, plan, tell)


def _row(scene: Scene, method: str, frames: Split, plan: Plan, tell: Tell) -> Row:
    title = title_of(method)

    def say(text: str) -> None:
        tell(f"{scene.name}, {title}: {text}")

    say("preparing")
    try:
        start = time.monotonic()
        localizer, map_bytes = prepare(scene, method, frames, plan, say)
        minutes = (time.monotonic() - start) / 60
    except MissingDependencyError as error:
        return Row(scene.name, title, None, skipped=str(error))
    done = evaluate(
        localizer,
        frames.query,
        frames.options,
        map_bytes=map_bytes,
        context={"map": f"{scene.name}, {title}"},
        on_frame=lambda i, n, _: say(f"query {i} of {n}"),
    )
    return Row(scene.name, title, done, minutes)


def prepare(
    scene: Scene, method: str, frames: Split, plan: Plan, tell: Tell
) -> tuple[ImageLocalizer, int]:
    """Make the map of one method.

    Returns:
        What localizes in it, and its size in bytes.

    Raises:
        MissingDependencyError: the method needs a package that is not there.
    """
    if method == "crossfire":
        return _own(scene, frames, plan, tell, "finder+patches")
    if method == "descriptors":  # in the map of the row before it
        return _own(scene, frames, plan, tell, "crossfire", trained="crossfire" in plan.methods)
    return _peer(scene, method, frames, plan, tell)


def _own(
    scene: Scene, frames: Split, plan: Plan, tell: Tell, way: str, trained: bool = False
) -> tuple[ImageLocalizer, int]:
    from crossfire_core.config import LocalizationConfig, TrainingConfig
    from crossfire_core.localization.localizer import Localizer
    from crossfire_core.maps.neural_map import NeuralMap
    from crossfire_core.training.schedule import Course
    from crossfire_core.training.trainer import train_map

    path = (plan.maps or plan.work) / f"{scene.name}.map"
    if not path.exists() or (plan.maps is None and not trained):
        path = plan.work / path.name
        train_map(
            frames.mapping,
            path,
            TrainingConfig(backend=plan.backend),
            Course(
                minutes=plan.minutes, holdout_every=scene.holdout_every, device=plan.device, seed=0
            ),
            on_progress=lambda p: tell(f"{p.stage}, {p.seconds:.0f} s, PSNR {p.psnr:.1f} dB"),
        )
    neural_map = NeuralMap.load(path, plan.device, plan.backend)
    localizer = Localizer(neural_map, LocalizationConfig(method=way))
    localizer.warm_up()
    return localizer, path.stat().st_size


def _trained(scene: Scene, plan: Plan) -> MapHeader | None:
    """Of the neural map of a scene, so that peers get its poses; None before there is one."""
    from crossfire_core.maps.neural_map import NeuralMap

    path = (plan.maps or plan.work) / f"{scene.name}.map"
    if "crossfire" not in plan.methods or not path.exists():
        return None
    return NeuralMap.load(path, "cpu").header


def _peer(
    scene: Scene, method: str, frames: Split, plan: Plan, tell: Tell
) -> tuple[ImageLocalizer, int]:
    """A peer's map; with the poses that the neural map was trained with, where there is one."""
    from crossfire_core.evaluation.peers.like_for_like import (
        RecordedLocalizer,
        with_trained_poses,
    )

    header = _trained(scene, plan)
    mapping = frames.mapping_frames()
    make = PEERS.load(method).make
    if header is None:
        return make(mapping, tell)  # type: ignore[no-any-return]
    made, size = make(with_trained_poses(mapping, header), tell)
    return RecordedLocalizer(made, header), size


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def result(rows: Sequence[Row], plan: Plan) -> dict[str, Any]:
    """All of a benchmark as plain types."""
    return {
        "suite": plan.suite,
        "minutes": plan.minutes,
        "stride": plan.stride,
        "machine": machine(),
        "rows": [row.to_json() for row in rows],
        "published": [vars(each) for each in _of_others(rows, plan)],
    }


HEADER = (
    "scene", "method", "cm", "deg", "2/2", "5/5", "25/5", "100/10", "found", "MB", "min", "ms",
)  # fmt: skip
EXPLANATION = (
    "cm, deg: median errors of the localized frames; 2/2 to 100/10: share of all frames within "
    "so many centimetres and degrees; found: frames localized; MB: map; min: making the map; "
    "ms: median time of a query."
)


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table's cells as text, in the order of :data:`HEADER`."""
    return [_cells(row.to_json()) for row in rows]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    start = (row["scene"], row["method"])
    if row["skipped"]:
        return (*start, "skipped", *[""] * (len(HEADER) - 3))
    metres, degrees = row["median_translation_m"], row["median_rotation_deg"]
    return (
        *start,
        "none" if metres is None else f"{100 * metres:.2f}",
        "none" if degrees is None else f"{degrees:.2f}",
        *(f"{100 * share:.0f} %" for share in row["recall"].values()),
        f"{row['localized']}/{row['frames']}",
        f"{row['map_bytes'] / 1e6:.1f}",
        f"{row['mapping_minutes']:.1f}",
        f"{row['query_ms']:.0f}",
    )


PUBLISHED_HEADER = ("scene", "method", "cm", "deg", "as printed by")


def published_table(rows: Sequence[Row], plan: Plan) -> list[tuple[str, ...]]:
    """What papers say about the scenes of some rows, in the order of :data:`PUBLISHED_HEADER`."""
    return [
        (p.scene, p.method, f"{p.centimetres:g}", f"{p.degrees:g}", p.source)
        for p in _of_others(rows, plan)
    ]


def _of_others(rows: Sequence[Row], plan: Plan) -> list[Published]:
    return published(plan.suite, tuple(dict.fromkeys(row.scene for row in rows)))


def markdown(rows: Sequence[Row], others: Sequence[Sequence[str]] = ()) -> str:
    """The table for a document, with the reasons of what was skipped below it.

    Args:
        rows: what was measured.
        others: rows of :func:`published_table`.
    """
    skipped = {f"{row.method} was skipped: {row.skipped}" for row in rows if row.skipped}
    lines = [markdown_table(HEADER, table(rows)), "", EXPLANATION, *sorted(skipped)]
    if others:
        lines += ["", markdown_table(PUBLISHED_HEADER, others)]
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for cells in rows])


def write_results(rows: Sequence[Row], plan: Plan) -> Path:
    """Write ``benchmark.json``, ``benchmark.md``, plots and a page into the work folder.

    The errors of every single frame go to ``SCENE_METHOD.json`` there, as ``crossfire evaluate
    --json`` writes them.

    Returns:
        Path of the HTML page.
    """
    names = {title_of(method): method for method in plan.methods}
    for row in rows:
        if row.evaluation:
            row.evaluation.save_json(plan.work / f"{row.scene}_{names[row.method]}.json")
    write_text(plan.work / "benchmark.json", json.dumps(result(rows, plan), indent=1) + "\n")
    others = published_table(rows, plan)
    write_text(plan.work / "benchmark.md", markdown(rows, others))
    body = [html.note(", ".join(f"{k}: {v}" for k, v in machine().items() if v))]
    body += [html.table(HEADER, table(rows)), html.note(EXPLANATION)]
    if others:
        body += [html.heading("Published figures"), html.table(PUBLISHED_HEADER, others)]
    for scene in dict.fromkeys(row.scene for row in rows):
        body.append(html.heading(scene))
        for item in _pictures(scene, [r for r in rows if r.scene == scene and r.evaluation]):
            write_bytes(plan.work / f"{item.name}.png", item.data)
            body.append(html.picture(item))
    path = plan.work / "benchmark.html"
    write_text(path, html.page("CROSSFIRE and its peers", body))
    return path


def _pictures(scene: str, rows: Sequence[Row]) -> list[html.Picture]:
    runs: dict[str, Sequence[FrameError]] = {
        row.method: row.evaluation.errors for row in rows if row.evaluation
    }
    if not runs:
        return []
    return [
        html.Picture(
            f"{scene}_recall",
            "Share of all frames within an error.",
            plots.recall_curve(runs),
        ),
        html.Picture(
            f"{scene}_error_time",
            "Median position error against the time of one query.",
            plots.error_against_time([row.to_json() for row in rows]),
        ),
    ]


def default_data() -> Path:
    """The folder named by ``CROSSFIRE_DATA``, or ``../shared/data``."""
    return Path(os.environ.get("CROSSFIRE_DATA", "../shared/data"))
