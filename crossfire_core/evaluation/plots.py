"""Figures of an evaluation, as PNG bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.evaluation.metrics import FrameError
from crossfire_core.reports.plots import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    RED,
    TopView,
    colors,
    figure,
    plain_numbers,
    png,
    style,
)

FloatArray = NDArray[np.float64]


def trajectory(errors: Sequence[FrameError], view: TopView) -> bytes:
    """True and estimated camera centres over the map seen from above."""
    truth = np.stack([e.truth.translation for e in errors]) @ view.plane_from_map.T
    fig = figure(7.6, 6.4)
    axes = fig.subplots()
    if view.image.size:
        axes.imshow(
            view.image, extent=view.extent, origin="lower", interpolation="nearest", zorder=1
        )
    axes.plot(*truth.T, color=INK, linewidth=1.2, label="truth", zorder=3)
    _draw_estimates(axes, errors, truth, view.plane_from_map)
    lost = [i for i, e in enumerate(errors) if not e.localized]
    if lost:
        axes.plot(*truth[lost].T, "x", color=RED, markersize=7, label="not localized", zorder=5)
    _frame_around(axes, truth, view)
    axes.set_aspect("equal")
    style(axes, "metres", "metres")
    axes.legend(loc="best", fontsize=9, framealpha=0.9)
    return png(fig)


def _draw_estimates(
    axes: Any, errors: Sequence[FrameError], truth: FloatArray, plane: FloatArray
) -> None:
    found = [(i, e) for i, e in enumerate(errors) if e.localized and e.estimate is not None]
    if not found:
        return
    at = np.stack([plane @ e.estimate.translation for _, e in found if e.estimate])
    for (index, _), point in zip(found, at, strict=True):
        axes.plot(*np.stack([truth[index], point]).T, color=ORANGE, linewidth=0.7, zorder=3)
    axes.plot(*at.T, ".", color=BLUE, markersize=5, label="localized", zorder=4)


def _frame_around(axes: Any, truth: FloatArray, view: TopView) -> None:
    """The whole map where it has a picture, else the trajectory with a margin."""
    if view.image.size:
        left, right, bottom, top = view.extent
        low = np.minimum(truth.min(axis=0) - 0.3, (left, bottom))
        high = np.maximum(truth.max(axis=0) + 0.3, (right, top))
    else:
        margin = 0.1 * float(np.ptp(truth, axis=0).max()) + 0.1
        low, high = truth.min(axis=0) - margin, truth.max(axis=0) + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


def error_over_time(errors: Sequence[FrameError]) -> bytes:
    """Translation and rotation errors of every frame, failures marked on the time axis."""
    seconds = time_axis(errors)
    fig = figure(9.0, 4.6)
    for axes, values, label, color in zip(
        fig.subplots(2, 1, sharex=True),
        ([100 * e.translation_m for e in errors], [e.rotation_deg for e in errors]),
        ("position error, cm", "rotation error, °"),
        (BLUE, ORANGE),
        strict=True,
    ):
        good = np.array([v if e.localized else np.nan for v, e in zip(values, errors, strict=True)])
        axes.plot(seconds, np.maximum(good, 1e-4), ".-", color=color, linewidth=0.9, markersize=4)
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        for second, error in zip(seconds, errors, strict=True):
            if not error.localized:
                axes.axvline(second, color=RED, linewidth=1.0, alpha=0.5)
        style(axes, "", label)
    axes.set_xlabel("seconds (red: not localized)" if _has_time(errors) else "frame", color=MUTED)
    return png(fig)


def _has_time(errors: Sequence[FrameError]) -> bool:
    return errors[-1].stamp_ns - errors[0].stamp_ns > 1_000_000


def time_axis(errors: Sequence[FrameError]) -> FloatArray:
    """Seconds since the first frame, or frame numbers where stamps are mere numbers."""
    if not _has_time(errors):
        return np.arange(len(errors), dtype=np.float64)
    return np.array([(e.stamp_ns - errors[0].stamp_ns) * 1e-9 for e in errors])


def recall_curve(runs: Mapping[str, Sequence[FrameError]]) -> bytes:
    """Share of frames within an error, over the error, one line a run."""
    fig = figure(9.0, 3.6)
    panels: tuple[tuple[str, Callable[[FrameError], float], tuple[float, float]], ...] = (
        ("position error, cm", lambda e: 100 * e.translation_m, (0.1, 200.0)),
        ("rotation error, °", lambda e: e.rotation_deg, (0.02, 30.0)),
    )
    for axes, (label, value, limits) in zip(fig.subplots(1, 2, sharey=True), panels, strict=True):
        for (name, errors), color in zip(runs.items(), colors(len(runs)), strict=True):
            found = np.sort([value(e) for e in errors if e.localized])
            share = 100 * np.arange(1, len(found) + 1) / max(len(errors), 1)
            x, y = [limits[0], *found, limits[1]], [0.0, *share, share[-1] if len(share) else 0.0]
            axes.step(x, y, where="post", color=color, linewidth=1.6, label=name)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_xlim(*limits)
        axes.set_ylim(0, 102)
        style(axes, label, "")
    fig.axes[0].set_ylabel("frames within, %", color=MUTED)
    if len(runs) > 1:
        handles, labels = fig.axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(runs), fontsize=9)
    return png(fig)


def error_against_time(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Median error over milliseconds a query, one point a method.

    Args:
        rows: each with ``method``, ``median_translation_m`` and ``query_ms``; rows where
            either is None are left out.
    """
    fig = figure(6.4, 4.2)
    axes = fig.subplots()
    shown = [r for r in rows if r["median_translation_m"] and r["query_ms"]]
    for row, color in zip(shown, colors(len(shown)), strict=True):
        x, y = row["query_ms"], 100 * row["median_translation_m"]
        axes.plot([x], [y], "o", color=color, markersize=8)
        axes.annotate(
            row["method"], (x, y), xytext=(7, 5), textcoords="offset points", color=INK, fontsize=9
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.margins(0.25)
    style(axes, "milliseconds a query", "median position error, cm")
    return png(fig)
