"""The report of an evaluation: one HTML page with its pictures inside, and beside it as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.evaluation import plots
from crossfire_core.evaluation.evaluate import Evaluation
from crossfire_core.evaluation.metrics import FrameError
from crossfire_core.files import write_bytes, write_text
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import Recording
from crossfire_core.reports import html, pictures
from crossfire_core.reports.html import Picture
from crossfire_core.reports.pictures import MapRenderer

WORST_FRAMES = 4
COMPARED_FRAMES = 4


@dataclass(frozen=True)
class MapView:
    """What the report draws of the map itself.

    Attributes:
        renderer: renders the map.
        camera: a camera of the mapping images.
        poses: ``map_from_camera`` of the mapping images.
    """

    renderer: MapRenderer
    camera: Camera
    poses: Sequence[Pose]


def write_report(
    folder: Path,
    evaluation: Evaluation,
    recording: Recording,
    localizer: ImageLocalizer,
    map_view: MapView | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write ``report.html``, ``evaluation.json`` and the pictures into a folder.

    Args:
        folder: made where missing.
        evaluation: what was measured.
        recording: the same that was evaluated; the shown frames are read again.
        localizer: the same; the worst frames are localized again to draw their matches.
        map_view: the map to render, None for methods that cannot be rendered.
        on_step: told what is being drawn.

    Returns:
        Path of the HTML page.
    """
    tell = on_step or (lambda _: None)
    tell("figures")
    figures = _figures(evaluation, map_view)
    tell("worst frames")
    worst = _worst_pictures(evaluation.errors, recording, localizer)
    tell("rendered against real")
    compared = _compared_pictures(evaluation.errors_in_map(), recording, map_view)
    for item in (*figures, *worst, *compared):
        write_bytes(folder / f"{item.name}.png", item.data)
    evaluation.save_json(folder / "evaluation.json")
    path = folder / "report.html"
    write_text(path, _page(evaluation, figures, worst, compared))
    return path


def _figures(evaluation: Evaluation, map_view: MapView | None) -> list[Picture]:
    errors = evaluation.errors_in_map()
    if map_view:
        view = pictures.view_from_above(map_view.renderer, map_view.camera, map_view.poses)
        what = "Camera centres over the map seen from above; lines join each pose with its truth."
    else:
        view = pictures.empty_view([e.truth for e in errors])
        what = "Camera centres seen from above; lines join each pose with its truth."
    return [
        Picture("trajectory", what, plots.trajectory(errors, view)),
        Picture(
            "error_over_time",
            "Errors of the localized frames; red lines mark frames without a pose.",
            plots.error_over_time(errors),
        ),
        Picture(
            "error_curve",
            "Share of all frames within an error; frames without a pose never count.",
            plots.recall_curve({"this map": errors}),
        ),
    ]


def worst_first(errors: Sequence[FrameError]) -> list[FrameError]:
    """Frames without a pose first, then by falling position error."""
    return sorted(errors, key=lambda e: (e.localized, -np.nan_to_num(e.translation_m, nan=1e9)))


def _frames(recording: Recording, names: set[str]) -> dict[str, Frame]:
    indices = [i for i, info in enumerate(recording.infos) if info.name in names]
    return {frame.name: frame for frame in recording.frames(indices)}


def _worst_pictures(
    errors: Sequence[FrameError], recording: Recording, localizer: ImageLocalizer
) -> list[Picture]:
    worst = worst_first(errors)[:WORST_FRAMES]
    frames = _frames(recording, {e.name for e in worst})
    shown = []
    for rank, error in enumerate(worst, 1):
        frame = frames[error.name]
        estimate = localizer.localize(frame.image, frame.camera, error.prior)
        image = frame.image
        if estimate.details is not None:
            pose = estimate.map_from_camera
            image = pictures.draw_matches(image, frame.camera, pose, estimate.details)
        caption = f"{error.name}: {describe(error)}"
        shown.append(Picture(f"worst_{rank}", caption, pictures.encode_png(image)))
    return shown


def describe(error: FrameError) -> str:
    """One frame's outcome in words."""
    where = (
        f"{100 * error.translation_m:.1f} cm, {error.rotation_deg:.2f}°"
        if error.estimate is not None
        else "no pose"
    )
    verdict = "" if error.localized else f"not localized ({error.reason or 'no reason given'}), "
    return f"{verdict}{where}, {error.inliers} of {error.matches} matches agree"


def _compared_pictures(
    errors: Sequence[FrameError], recording: Recording, map_view: MapView | None
) -> list[Picture]:
    found = [e for e in errors if e.localized and e.estimate is not None]
    if map_view is None or not found:
        return []
    spread = np.unique(np.linspace(0, len(found) - 1, COMPARED_FRAMES).astype(int))
    chosen = [found[i] for i in spread]
    frames = _frames(recording, {e.name for e in chosen})
    shown = []
    for rank, error in enumerate(chosen, 1):
        frame = frames[error.name]
        assert error.estimate is not None
        row = pictures.compare(map_view.renderer, frame.image, frame.camera, error.estimate)
        caption = f"{error.name}: {describe(error)}"
        shown.append(Picture(f"rendered_{rank}", caption, pictures.encode_png(row)))
    return shown


def _page(
    evaluation: Evaluation,
    figures: Sequence[Picture],
    worst: Sequence[Picture],
    compared: Sequence[Picture],
) -> str:
    summary, context = evaluation.summary(), evaluation.context
    body = [
        html.note(", ".join(f"{k}: {v}" for k, v in context.items() if not isinstance(v, dict))),
        html.cards(headline(summary)),
        html.table(("within", "share of all frames"), recall_rows(summary)),
        html.note(f"A frame without a pose is a miss. Medians are over {summary['median_over']}."),
        *(html.picture(item) for item in figures),
    ]
    if worst:
        body.append(html.heading("Worst frames"))
        body.append(html.note("Green: matches that agree with the pose; red: those that do not."))
        body += [html.picture(item) for item in worst]
    if compared:
        body.append(html.heading("Image, rendering at the pose, both in turn, depth"))
        body += [html.picture(item) for item in compared]
    body += [html.heading("Time"), html.table(("stage", "median ms"), latency_rows(summary))]
    for name, values in context.items():
        if isinstance(values, dict):
            rows = [(key, str(value)) for key, value in values.items()]
            body.append(html.details(f"Settings: {name}", rows))
    return html.page(f"Localization in {context.get('map', 'the map')}", body)


def headline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures that matter most, as (value, label)."""
    return [
        (centimetres(summary["median_translation_m"]), "median position error"),
        (degrees(summary["median_rotation_deg"]), "median rotation error"),
        (f"{summary['localized']} of {summary['frames']}", "frames localized"),
        (milliseconds(summary["latency_ms"]["median"]), "median time a frame"),
        (f"{summary['map_bytes'] / 1e6:.1f} MB", "map"),
    ]


def recall_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(threshold, percentage) for tables."""
    return [
        (name.replace("cm", " cm").replace("1m", "1 m").replace("/", ", ").replace("deg", "°"),
         f"{100 * share:.1f} %")
        for name, share in summary["recall"].items()
    ]  # fmt: skip


def latency_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(stage, milliseconds) for tables, the total and its 95th percentile last."""
    times = summary["latency_ms"]
    rows = [(stage, f"{ms:.1f}") for stage, ms in times["by_stage"].items() if ms is not None]
    for label, key in (("total", "median"), ("total, 95th percentile", "p95")):
        if times[key] is not None:
            rows.append((label, f"{times[key]:.1f}"))
    return rows


def centimetres(value: float | None) -> str:
    """A length for people."""
    return "none" if value is None else f"{100 * value:.2f} cm"


def degrees(value: float | None) -> str:
    """An angle for people."""
    return "none" if value is None else f"{value:.2f}°"


def milliseconds(value: float | None) -> str:
    """A duration for people."""
    return "none" if value is None else f"{value:.0f} ms"
