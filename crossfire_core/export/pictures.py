"""Pictures of grids, as PNG bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from crossfire_core.export.cloud import Cloud
from crossfire_core.export.floor import Floor
from crossfire_core.export.occupancy import FREE, OCCUPIED, OccupancyGrid
from crossfire_core.export.onto import Laid, moved
from crossfire_core.reports.plots import BLUE, INK, ORANGE, figure, png, style

FloatArray = NDArray[np.float64]


def laid_picture(ours: OccupancyGrid, theirs: OccupancyGrid, laid: Laid) -> bytes:
    """Our walls over the existing grid, in its frame."""
    fig = figure(7.6, 6.4)
    axes = fig.subplots()
    walls = moved(ours.centres(OCCUPIED), np.array(laid.transform))
    corners = _draw(axes, theirs)
    _frame(axes, np.concatenate([corners, walls]))
    axes.plot(*walls.T, "s", color=ORANGE, markersize=2, label="the map's walls", zorder=3)
    axes.set_title(
        f"median distance {100 * laid.residual_m:.1f} cm, {100 * laid.agree:.0f} % agree",
        fontsize=10, color=INK,
    )  # fmt: skip
    axes.legend(loc="best", fontsize=9, framealpha=0.9)
    style(axes, "metres", "metres")
    return png(fig)


def overview(grid: OccupancyGrid, made: Cloud, floor: Floor, path: FloatArray) -> bytes:
    """Grid, cloud and mapping path beside each other, from above.

    Args:
        grid: of the map.
        made: its cloud.
        floor: over which both lie.
        path: ``[n, 3]`` camera centres in the map.
    """
    fig = figure(11.0, 4.8)
    left, right = fig.subplots(1, 2, sharex=True, sharey=True)
    corners = _draw(left, grid)
    over = floor.over(made.points)
    way = floor.over(path)
    shown = over[:, 2] < way[:, 2].max() + 0.2
    order = np.argsort(over[shown, 2], kind="stable")  # the highest is drawn last
    at, colours = over[shown][order], made.colours[shown][order] / 255.0
    right.scatter(at[:, 0], at[:, 1], c=colours, s=2.5, linewidths=0, zorder=2)
    for axes in (left, right):
        axes.plot(way[:, 0], way[:, 1], color=BLUE, linewidth=1.2, zorder=3)
        _frame(axes, corners)
        style(axes, "metres", "metres")
    return png(fig)


def _frame(axes: Any, points: FloatArray) -> None:
    """Show what is between points ``[n, 2]``, as wide as high."""
    low, high = points.min(axis=0), points.max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")


def _draw(axes: Any, grid: OccupancyGrid) -> FloatArray:
    """A grid as people know them: black walls, white floor, grey where nothing is known.

    Returns:
        Its corners ``[4, 2]``, metres.
    """
    grey = np.full(grid.cells.shape, 205, np.uint8)
    grey[grid.cells == FREE], grey[grid.cells >= 65] = 254, 0
    rows, columns = (n * grid.resolution for n in grid.cells.shape)
    x, y, yaw = grid.origin
    placed = Affine2D().rotate(yaw).translate(x, y) + axes.transData
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=255, origin="lower", extent=(0, columns, 0, rows),
        interpolation="nearest", transform=placed, zorder=1,
    )  # fmt: skip
    corners = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]])
    return moved(corners, np.array(grid.origin))
