"""The style of all figures, as PNG bytes; drawn with Agg, no display and no global state."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
BLUE, ORANGE, RED, GREEN = "#2563a8", "#d97706", "#c0392b", "#2f855a"
PALETTE = (BLUE, ORANGE, GREEN, "#7b4fa3", "#8a6d3b", "#4a5568", RED)


def figure(width: float, height: float) -> Figure:
    """A blank figure in the report's style, size in inches."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")


def style(axes: Any, xlabel: str, ylabel: str) -> None:
    """Quiet axes: light grid, no box."""
    axes.set_xlabel(xlabel, color=MUTED)
    axes.set_ylabel(ylabel, color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


class PlainLogFormatter(LogFormatter):
    """Writes 0.5 and 200 where matplotlib writes powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick, empty where the axis is crowded."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_numbers(axis: Any) -> None:
    """Plain labels on a logarithmic axis, between the powers of ten too where it is short."""
    axis.set_major_formatter(PlainLogFormatter(labelOnlyBase=False))
    axis.set_minor_formatter(PlainLogFormatter(labelOnlyBase=False, minor_thresholds=(1.2, 0.6)))
    axis.set_tick_params(which="both", labelsize=9, labelcolor=MUTED)


def png(fig: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class TopView:
    """A picture of the map from above.

    Attributes:
        image: ``[h, w, 4]`` float, RGBA; transparent where the map shows nothing.
        extent: (left, right, bottom, top) in metres of the plane.
        plane_from_map: ``[2, 3]``, rows are the plane's axes in the map frame.
    """

    image: FloatArray
    extent: tuple[float, float, float, float]
    plane_from_map: FloatArray


def colors(count: int) -> list[str]:
    """One colour a line of a plot."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]
