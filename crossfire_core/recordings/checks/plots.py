"""What an inspection shows, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.recordings.checks.calibration import FOCAL_SCALES, TIME_SHIFTS_S, Fit
from crossfire_core.recordings.checks.images import Look
from crossfire_core.recordings.checks.motion import Motion
from crossfire_core.recordings.checks.topics import TopicStats
from crossfire_core.reports.html import Picture
from crossfire_core.reports.pictures import encode_png
from crossfire_core.reports.plots import BLUE, MUTED, ORANGE, RED, figure, png, style

_SHEET_COLUMNS = 4


def path_plot(motion: Motion) -> Picture:
    """The path from above with the directions that the camera looked in."""
    fig = figure(6, 5)
    axes = fig.add_subplot()
    axes.plot(*motion.plan.T, color=BLUE, linewidth=1.2)
    every = max(1, len(motion.plan) // 40)
    at, angle = motion.plan[::every], motion.heading[::every]
    axes.quiver(*at.T, np.cos(angle), np.sin(angle), color=MUTED, width=0.003, scale=25)
    axes.plot(*motion.plan[0], "o", color=ORANGE, label="start")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False)
    unit = "metres" if motion.unit == "m" else "units of the poses"
    style(axes, unit, unit)
    return Picture("path", "the camera's path from above; arrows show where it looked", png(fig))


def images_plot(looks: Sequence[Look]) -> Picture:
    """Blur and brightness over the recording."""
    fig = figure(8, 3.6)
    upper, lower = fig.subplots(2, 1, sharex=True)
    index = [look.index for look in looks]
    upper.plot(index, [look.blur for look in looks], color=BLUE, marker=".")
    upper.axhline(0.65, color=RED, linewidth=0.8)
    upper.set_ylim(0, 1)
    style(upper, "", "blur")
    lower.plot(index, [look.brightness for look in looks], color=ORANGE, marker=".")
    lower.set_ylim(0, 255)
    style(lower, "image", "brightness")
    return Picture("images", "blur (above the red line is too much) and mean grey value", png(fig))


def sheet(looks: Sequence[Look]) -> Picture:
    """The sharpest and the most blurred images, side by side."""
    ordered = sorted(looks, key=lambda look: look.blur)
    shown = [*ordered[:_SHEET_COLUMNS], *ordered[-_SHEET_COLUMNS:]]
    height, width = shown[0].thumbnail.shape[:2]
    cells = [_captioned(look, width, height) for look in shown]
    rows = [np.hstack(cells[i : i + _SHEET_COLUMNS]) for i in range(0, len(cells), _SHEET_COLUMNS)]
    full = [np.pad(r, ((0, 0), (0, rows[0].shape[1] - r.shape[1]), (0, 0))) for r in rows]
    picture = np.vstack(full)
    return Picture("sheet", "the sharpest images, then the most blurred", encode_png(picture))


def fit_plot(fit: Fit) -> Picture:
    """The epipolar error against focal length and time."""
    fig = figure(8, 3.2)
    columns = 2 if len(fit.time_errors) else 1
    plots = np.atleast_1d(fig.subplots(1, columns))
    plots[0].plot(FOCAL_SCALES, fit.focal_errors, color=BLUE)
    plots[0].axvline(1.0, color=MUTED, linewidth=0.8)
    style(plots[0], "times the calibrated focal length", "epipolar error, px")
    if columns == 2:
        plots[1].plot(TIME_SHIFTS_S, fit.time_errors, color=ORANGE)
        plots[1].axvline(0.0, color=MUTED, linewidth=0.8)
        style(plots[1], "poses taken later by, seconds", "")
    for axes in plots:
        axes.set_ylim(bottom=0)
    caption = "disagreement of images, poses and calibration; it should be least at the grey lines"
    return Picture("calibration", caption, png(fig))


def topics_plot(topics: Sequence[TopicStats]) -> Picture:
    """When each topic has messages."""
    timed = [topic for topic in topics if topic.stamps_ns]
    start = min(min(topic.stamps_ns) for topic in timed)
    fig = figure(8, 0.6 + 0.35 * len(timed))
    axes = fig.add_subplot()
    seconds = [(np.array(topic.stamps_ns) - start) * 1e-9 for topic in timed]
    axes.eventplot(seconds, linelengths=0.7, linewidths=0.4, colors=BLUE)
    axes.set_yticks(range(len(timed)), [topic.name for topic in timed])
    style(axes, "seconds", "")
    return Picture("topics", "every stamp of every topic; gaps are white", png(fig))


def _captioned(look: Look, width: int, height: int) -> NDArray[np.uint8]:
    cell = cv2.resize(look.thumbnail, (width, height))
    text = f"{look.index}: blur {look.blur:.2f}"
    cv2.rectangle(cell, (0, 0), (8 * len(text) + 4, 20), (31, 41, 51), cv2.FILLED)
    cv2.putText(cell, text, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1)
    return np.asarray(cell, dtype=np.uint8)
