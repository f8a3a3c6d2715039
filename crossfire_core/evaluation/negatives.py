"""Which images a map answers that it should not: other places, and places that look like it.

Every map is asked about its own query images, where an answer is right if it lies within half a
metre (or unit) of the truth, and about images of all other recordings, where every answer is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import MissingDependencyError
from crossfire_core.evaluation import benchmark as bench
from crossfire_core.evaluation.intruder import Intrusion, intrude
from crossfire_core.evaluation.metrics import pose_error, position_sigma
from crossfire_core.files import write_bytes, write_text
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.recordings import open_recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.reports import html
from crossfire_core.reports.plots import colors, figure, plain_numbers, png, style

METHODS = ("crossfire", "sift", "xfeat")
WRONG_M, SURE_M = 0.5, 0.1  # as the published figures count; see the table's legend
_GENERATED = "corridor"


def certainty(estimate: PoseEstimate) -> float:
    """How sure a localizer is of a place; comparable within one method only.

    Its evidence, and where that is the same, as with peers that have none, the share of inliers.
    """
    return estimate.evidence + 1e-3 * estimate.inliers / max(estimate.matches, 1)


@dataclass(frozen=True)
class Answer:
    """What one image was answered.

    Attributes:
        recording: of the image.
        image: its name.
        answered: whether the localizer vouched for a pose.
        certainty: how sure it was of its best pose, also where it did not vouch for it.
        error_m: distance from the truth; infinite where the image shows another place, NaN
            without a pose.
        sigma_m: claimed standard deviation of the position, NaN where none is claimed.
    """

    recording: str
    image: str
    answered: bool
    certainty: float
    error_m: float
    sigma_m: float

    @property
    def elsewhere(self) -> bool:
        """Whether a pose was found for an image of another place."""
        return math.isinf(self.error_m)

    @property
    def right(self) -> bool:
        """Whether its best pose, vouched for or not, is where the image was taken."""
        return self.error_m <= WRONG_M

    @property
    def surely_wrong(self) -> bool:
        """Whether the answer is wrong and claims to be exact."""
        return self.answered and not self.right and self.sigma_m < SURE_M


@dataclass(frozen=True)
class Row:
    """One method in one map.

    Attributes:
        scene: name of the map.
        method: title of the method.
        own: answers to the map's own query images.
        others: answers to images of other places.
        skipped: why there are none, else empty.
    """

    scene: str
    method: str
    own: tuple[Answer, ...] = ()
    others: tuple[Answer, ...] = ()
    skipped: str = ""

    @cached_property
    def curve(self) -> NDArray[np.float64]:
        """``[n, 3]`` the gate from high to low, share of queries found, share of others answered.

        At a gate everything counts that has a pose of at least this certainty, whatever the
        method itself thinks of it.
        """
        gates = np.unique([a.certainty for a in (*self.own, *self.others)])[::-1]
        found = np.array([a.certainty for a in self.own if a.right])
        false = np.array([a.certainty for a in self.others if a.elsewhere])
        counts = [[(each >= gate).sum() for gate in gates] for each in (found, false)]
        sizes = (max(len(self.own), 1), max(len(self.others), 1))
        shares = [np.array(c, dtype=np.float64) / n for c, n in zip(counts, sizes, strict=True)]
        return np.stack([gates, *shares], axis=1)

    @property
    def found_without_false(self) -> float:
        """Share of the queries found by the lowest gate that lets no image of another place in."""
        clean = self.curve[self.curve[:, 2] == 0.0]
        return float(clean[-1, 1]) if len(clean) else 0.0

    def by_recording(self) -> dict[str, tuple[int, int]]:
        """Of each other recording: how many images were answered, and how many there were."""
        names = dict.fromkeys(a.recording for a in self.others)
        return {
            name: (
                sum(a.answered for a in self.others if a.recording == name),
                sum(a.recording == name for a in self.others),
            )
            for name in names
        }

    def to_json(self) -> dict[str, Any]:
        """The row's figures."""
        return {
            "scene": self.scene,
            "method": self.method,
            "skipped": self.skipped,
            "queries": len(self.own),
            "found": sum(a.answered and a.right for a in self.own),
            "wrong_queries": sum(a.answered and not a.right for a in self.own),
            "others": len(self.others),
            "others_answered": sum(a.answered for a in self.others),
            "by_recording": {k: list(v) for k, v in self.by_recording().items()},
            "surely_wrong": sum(a.surely_wrong for a in (*self.own, *self.others)),
            "found_without_false": self.found_without_false if self.own else None,
            "curve": self.curve.tolist() if self.own else [],
        }


@dataclass(frozen=True)
class Outcome:
    """All that was measured so far."""

    rows: tuple[Row, ...] = ()
    live: tuple[Intrusion, ...] = ()

    def to_json(self, plan: bench.Plan, every: int) -> dict[str, Any]:
        """As plain types."""
        return {
            "suite": plan.suite,
            "every": every,
            "stride": plan.stride,
            "machine": bench.machine(),
            "rows": [row.to_json() for row in self.rows],
            "live": [vars(intrusion) for intrusion in self.live],
        }


def run(plan: bench.Plan, every: int, tell: bench.Tell) -> Iterator[Outcome]:
    """Ask every map about its own images and about all others; yield after each method.

    Maps that are in ``plan.maps`` are used, others trained into ``plan.work``. The corridor of
    the suite is made where it is not among the data.

    Args:
        plan: which maps and methods.
        every: take every n-th image of other places.
        tell: told what is being done.

    Raises:
        RecordingError: a recording that was asked for is not there.
    """
    done = Outcome()
    make_corridor(plan, tell)
    for scene in plan.chosen_scenes():
        frames = bench.split(scene, plan)
        for method in plan.methods:
            row, live = _measured(scene, method, frames, plan, every, tell)
            done = Outcome((*done.rows, row), (*done.live, *live))
            yield done


def _measured(
    scene: bench.Scene,
    method: str,
    frames: bench.Split,
    plan: bench.Plan,
    every: int,
    tell: bench.Tell,
) -> tuple[Row, tuple[Intrusion, ...]]:
    """One method in one map; only this method is driven through it live."""
    title = bench.title_of(method)

    def say(text: str) -> None:
        tell(f"{scene.name}, {title}: {text}")

    try:
        localizer, _ = bench.prepare(scene, method, frames, plan, say)
    except MissingDependencyError as error:
        return Row(scene.name, title, skipped=str(error)), ()
    row = _asked(scene, title, localizer, frames, plan, every, say)
    if method != "crossfire":
        return row, ()
    return row, tuple(_live(scene, localizer, frames, plan, every, say))


def make_corridor(plan: bench.Plan, tell: bench.Tell) -> None:
    """Generate the suite's corridor into the work folder where the data have none."""
    scene = next((s for s in plan.chosen_scenes() if s.name == _GENERATED), None)
    if scene is None or plan.path(scene.mapping).exists():
        return
    from crossfire_core.sample.places import Request, write_place

    request = Request("corridor", alike=True)
    write_place(
        plan.work / _GENERATED, request, lambda i, n, w: tell(f"ray casting {w}: {i} of {n}")
    )


def other_recordings(scene: bench.Scene, plan: bench.Plan) -> list[str]:
    """Paths, below the data, of recordings that show other places than a scene, if they are there.

    Its own lookalikes come first.
    """
    paths = list(scene.lookalikes)
    for other in bench.SUITES[plan.suite]:
        if other.name != scene.name:
            paths += [p for p in (other.mapping, other.query, *other.lookalikes) if p]
    return [path for path in paths if plan.path(path).exists()]


def _asked(
    scene: bench.Scene,
    title: str,
    localizer: ImageLocalizer,
    frames: bench.Split,
    plan: bench.Plan,
    every: int,
    tell: bench.Tell,
) -> Row:
    from crossfire_core.evaluation.evaluate import chosen

    indices = chosen(frames.query, frames.options.holdout_every)
    tell("its own images")
    own = answers(localizer, scene.query or scene.mapping, frames.query.frames(indices), own=True)
    others: list[Answer] = []
    for path in other_recordings(scene, plan):
        tell(path)
        recording = open_recording(plan.path(path), plan.reading(require_poses=False))
        strange = recording.frames(range(0, len(recording), every))
        others += answers(localizer, path, strange, own=False)
    return Row(scene.name, title, tuple(own), tuple(others))


def answers(
    localizer: ImageLocalizer, recording: str, frames: Iterable[Frame], *, own: bool
) -> list[Answer]:
    """What a localizer says to images, nothing known of where they were taken.

    Args:
        localizer: of a map.
        recording: its name.
        frames: its images; own ones without a pose are passed over.
        own: whether the map shows the place of these images.
    """
    found = []
    for frame in frames:
        truth = frame.world_from_camera if own else None
        if own and truth is None:
            continue
        estimate = localizer.localize(frame.image, frame.camera)
        found.append(
            Answer(
                recording,
                frame.name,
                estimate.ok and estimate.map_from_camera is not None,
                certainty(estimate),
                _distance(estimate.map_from_camera, truth),
                position_sigma(estimate.covariance),
            )
        )
    return found


def _distance(found: Pose | None, truth: Pose | None) -> float:
    if found is None:
        return math.nan
    return math.inf if truth is None else pose_error(found, truth)[0]


def _live(
    scene: bench.Scene,
    localizer: ImageLocalizer,
    frames: bench.Split,
    plan: bench.Plan,
    every: int,
    tell: bench.Tell,
) -> Iterator[Intrusion]:
    for path in scene.lookalikes:
        if not plan.path(path).exists():
            continue
        tell(f"a robot that comes into {path}")
        strange = open_recording(plan.path(path), plan.reading())
        yield intrude(localizer, scene.name, path, frames.mapping, strange, every)


HEADER = (
    "scene", "method", "found", "wrong", "others answered", "look-alikes", "surely wrong",
    "found at no false",
)  # fmt: skip
EXPLANATION = (
    f"found, wrong: the map's own queries, answered within {WRONG_M} m (units) or not; others "
    "answered: images of other places; look-alikes: those of the recordings that look like the "
    f"map; surely wrong: wrong answers that claim less than {SURE_M} m; found at no false: share "
    "of the queries found by a gate on the certainty that lets no other image in."
)
LIVE_HEADER = ("scene", "then in", "fixes before", "images", "wrong fixes", "lost after")


def table(outcome: Outcome) -> list[tuple[str, ...]]:
    """The rows as text, in the order of :data:`HEADER`."""
    return [_cells(row) for row in outcome.rows]


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return (row.scene, row.method, "skipped", *[""] * (len(HEADER) - 3))
    values = row.to_json()
    alike = [row.by_recording().get(path, (0, 0)) for path in _lookalikes(row.scene)]
    answered, images = (sum(pair[i] for pair in alike) for i in (0, 1))
    return (
        row.scene,
        row.method,
        f"{values['found']}/{values['queries']}",
        str(values["wrong_queries"]),
        f"{values['others_answered']}/{values['others']}",
        f"{answered}/{images}" if images else "",
        str(values["surely_wrong"]),
        f"{100 * row.found_without_false:.0f} %",
    )


def _lookalikes(name: str) -> tuple[str, ...]:
    return next((s.lookalikes for s in bench.SUITES["negatives"] if s.name == name), ())


def live_table(outcome: Outcome) -> list[tuple[str, ...]]:
    """What robots published in places that look like the map, by :data:`LIVE_HEADER`."""
    return [
        (
            i.scene, i.recording, str(i.fixes_before), str(i.images), str(i.wrong_fixes),
            "not lost" if i.lost_after is None else f"{i.lost_after} images",
        )
        for i in outcome.live
    ]  # fmt: skip


def curve_plot(rows: Sequence[Row]) -> bytes:
    """Queries found against images of other places answered, one line a method.

    The dot is where the method's own gate lies.
    """
    fig = figure(6.4, 4.2)
    axes = fig.subplots()
    for row, color in zip(rows, colors(len(rows)), strict=True):
        x, y = 100 * row.curve[:, 2], 100 * row.curve[:, 1]
        axes.step([0.0, *x], [0.0, *y], where="post", color=color, linewidth=1.6, label=row.method)
        figures = row.to_json()
        at = 100 * figures["others_answered"] / max(figures["others"], 1)
        axes.plot([at], [100 * figures["found"] / max(figures["queries"], 1)], "o", color=color)
    axes.set_xscale("symlog", linthresh=0.1)
    plain_numbers(axes.xaxis)
    axes.set_xlim(-0.01, 100)
    axes.set_ylim(0, 102)
    style(axes, "images of other places answered, %", "queries found, %")
    axes.legend(fontsize=9)
    return png(fig)


def write_results(outcome: Outcome, plan: bench.Plan, every: int) -> Path:
    """Write ``negatives.json``, ``negatives.md``, a plot a scene and a page; returns the page."""
    text = json.dumps(outcome.to_json(plan, every), indent=1) + "\n"
    write_text(plan.work / "negatives.json", text)
    write_text(plan.work / "negatives.md", markdown(outcome))
    body = [html.note(", ".join(f"{k}: {v}" for k, v in bench.machine().items() if v))]
    body += [html.table(HEADER, table(outcome)), html.note(EXPLANATION)]
    if outcome.live:
        body += [html.heading("Live"), html.table(LIVE_HEADER, live_table(outcome))]
    for scene in dict.fromkeys(row.scene for row in outcome.rows):
        rows = [row for row in outcome.rows if row.scene == scene and row.own]
        if rows:
            item = html.Picture(f"{scene}_negatives", scene, curve_plot(rows))
            write_bytes(plan.work / f"{item.name}.png", item.data)
            body.append(html.picture(item))
    path = plan.work / "negatives.html"
    write_text(path, html.page("Images of other places", body))
    return path


def markdown(outcome: Outcome) -> str:
    """Both tables for a document."""
    parts = [bench.markdown_table(HEADER, table(outcome)), EXPLANATION]
    if outcome.live:
        parts.append(bench.markdown_table(LIVE_HEADER, live_table(outcome)))
    parts += sorted({f"{r.method} was skipped: {r.skipped}" for r in outcome.rows if r.skipped})
    return "\n\n".join(parts) + "\n"
