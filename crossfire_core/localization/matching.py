"""Where in the image is each rendered descriptor seen, to a fraction of a cell.

Two searches: over the whole image (coarse grid, mutual nearest neighbours, then a fine window),
and in a window around where the prior expects each point. The window search runs in numba on
the CPU and in torch elsewhere; both give the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from crossfire_core.field.threads import for_ranges

_FAINT = -9.0  # log of the likeness, relative to the peak's, below which a cell does not count
_WIDE = 10  # windows of a larger radius are searched on a coarser grid first
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "boundscheck": False}


@dataclass(frozen=True)
class CellMatches:
    """Best cells of a dense descriptor grid.

    Attributes:
        index: ``[n]`` int64, which of the given descriptors were matched.
        cell: ``[n, 2]`` float32 (x, y) in cells; integers are cell centres.
        similarity: ``[n]`` float32 cosine at the best cell.
        confidence: ``[n]`` float32 in [0, 1]: share of the best peak among all that was searched.
    """

    index: NDArray[np.int64]
    cell: NDArray[np.float32]
    similarity: NDArray[np.float32]
    confidence: NDArray[np.float32]


class Matcher(Protocol):
    """A rule that finds points of the map in an image; :func:`match_points` is the program's."""

    def __call__(
        self, descriptors: Tensor, dense: Tensor, centre: Tensor | None, radius: int | None
    ) -> CellMatches:
        """Find each descriptor in an image, or leave it out.

        Args:
            descriptors: ``[n, d]`` unit, of points of the map.
            dense: ``[d, rows, columns]`` unit, of the image.
            centre: ``[n, 2]`` (x, y) cells where the prior expects the points; None without one.
            radius: half the side of the square to search around them in cells; None for the
                whole image.
        """
        ...


def match_points(
    descriptors: Tensor, dense: Tensor, centre: Tensor | None, radius: int | None
) -> CellMatches:
    """Around the expected cells, or mutual nearest neighbours anywhere; see :class:`Matcher`."""
    if centre is None or radius is None:
        return match_everywhere(descriptors, dense)
    return match_wide(descriptors, dense, centre, radius)


def match_everywhere(
    descriptors: Tensor, dense: Tensor, reduce: int = 2, temperature: float = 0.05
) -> CellMatches:
    """Mutual nearest neighbours over the whole image, then a fine search around each.

    Args:
        descriptors: ``[n, d]`` unit, from the map.
        dense: ``[d, rows, columns]`` unit, from the image.
        reduce: the coarse grid is this much smaller.
        temperature: of the confidence.
    """
    coarse = reduced(dense, reduce)
    columns = coarse.shape[2]
    best, mutual, share = _mutual(descriptors, coarse.flatten(1), temperature)
    index = mutual.nonzero()[:, 0]
    x, y = best[index] % columns, best[index] // columns
    centre = torch.stack([x, y], dim=1).float() * reduce + (reduce - 1) / 2
    fine = match_window(descriptors[index], dense, centre, radius=reduce + 1)
    kept = index.cpu().numpy()
    return CellMatches(
        kept[fine.index], fine.cell, fine.similarity, share[index].cpu().numpy()[fine.index]
    )


def reduced(dense: Tensor, factor: int) -> Tensor:
    """A coarser grid of unit descriptors: means of ``factor`` by ``factor`` cells."""
    coarse = functional.avg_pool2d(dense[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return functional.normalize(coarse, dim=0, eps=1e-6)


def match_wide(
    descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int, reduce: int = 2
) -> CellMatches:
    """:func:`match_window` for large windows: on a coarser grid first, then around its answer.

    The coarse grid is ``reduce`` times smaller; all else is as there.
    """
    if radius <= _WIDE:
        return match_window(descriptors, dense, centre, radius)
    half = (reduce - 1) / 2
    coarse = match_window(
        descriptors, reduced(dense, reduce), (centre - half) / reduce, -(-radius // reduce)
    )
    index = torch.from_numpy(coarse.index).to(descriptors.device)
    near = torch.from_numpy(coarse.cell).to(descriptors.device) * reduce + half
    fine = match_window(descriptors[index], dense, near, radius=reduce + 1)
    return CellMatches(
        coarse.index[fine.index], fine.cell, fine.similarity, coarse.confidence[fine.index]
    )


def _mutual(
    descriptors: Tensor, flat: Tensor, temperature: float, block: int = 1024
) -> tuple[Tensor, Tensor, Tensor]:
    """Best column of every row, whether the choice is mutual, its softmax share."""
    count = len(descriptors)
    best = torch.empty(count, dtype=torch.long, device=flat.device)
    value, share = torch.empty_like(descriptors[:, 0]), torch.empty_like(descriptors[:, 0])
    column_value = torch.full_like(flat[0], -2.0)
    column_row = torch.zeros(flat.shape[1], dtype=torch.long, device=flat.device)
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        similarity = descriptors[rows] @ flat
        value[rows], best[rows] = similarity.max(dim=1)
        top, row = similarity.max(dim=0)
        better = top > column_value
        column_value = torch.where(better, top, column_value)
        column_row = torch.where(better, row + start, column_row)
        similarity.sub_(value[rows, None]).div_(temperature).exp_()
        share[rows] = 1.0 / similarity.sum(dim=1)
    mutual = column_row[best] == torch.arange(count, device=flat.device)
    return best, mutual, share


def match_window(
    descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int, temperature: float = 0.05
) -> CellMatches:
    """Best cell within a square window around an expected cell, refined below a cell.

    Args:
        descriptors: ``[n, d]`` unit.
        dense: ``[d, rows, columns]`` unit.
        centre: ``[n, 2]`` (x, y) expected cells; integers are cell centres.
        radius: half the window's side in cells.
        temperature: of the confidence.

    Returns:
        Matches whose best cell is a peak: not on the window's or the image's edge.
    """
    if dense.device.type != "cpu":
        return _match_window_torch(descriptors, dense, centre, radius, temperature)
    grid = np.ascontiguousarray(dense.permute(1, 2, 0).numpy())
    count = len(descriptors)
    out = np.empty((count, 4), np.float32)
    rows, where = descriptors.contiguous().numpy(), centre.contiguous().numpy()
    side = 2 * radius + 1
    scale = np.float32(1.0 / temperature)

    def share(start: int, stop: int) -> None:
        scratch = np.empty((side, side), np.float32)
        _window_kernel(rows, grid, where, radius, scale, scratch, out, start, stop)

    for_ranges(share, count, smallest=64)
    index = np.flatnonzero(out[:, 3] >= 0)
    return CellMatches(index, out[index, :2], out[index, 2], out[index, 3])


@numba.njit(**_JIT)
def _window_kernel(rows, grid, where, radius, scale, scratch, out, start, stop):  # type: ignore[no-untyped-def]
    """Fill ``out [n, (x, y, similarity, confidence)]``; confidence -1 marks no peak."""
    height, width, size = grid.shape
    faint = np.float32(_FAINT)
    for i in range(start, stop):
        out[i, 3] = np.float32(-1)
        cx, cy = int(np.rint(where[i, 0])), int(np.rint(where[i, 1]))
        x0, x1 = max(cx - radius, 0), min(cx + radius, width - 1)
        y0, y1 = max(cy - radius, 0), min(cy + radius, height - 1)
        best, bx, by = np.float32(-2), -1, -1
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                dot = np.float32(0)
                for k in range(size):
                    dot += rows[i, k] * grid[y, x, k]
                scratch[y - y0, x - x0] = dot
                if dot > best:
                    best, bx, by = dot, x, y
        if bx <= x0 or by <= y0 or bx >= x1 or by >= y1:
            continue
        total = np.float32(0)
        for y in range(y1 - y0 + 1):
            for x in range(x1 - x0 + 1):
                power = (scratch[y, x] - best) * scale
                if power > faint:  # the rest adds nothing, and exp is most of the time
                    total += np.exp(power)
        u, v = bx - x0, by - y0
        out[i, 0] = bx + _peak(scratch[v, u - 1], best, scratch[v, u + 1])
        out[i, 1] = by + _peak(scratch[v - 1, u], best, scratch[v + 1, u])
        out[i, 2], out[i, 3] = best, np.float32(1) / total


@numba.njit(inline="always", **_JIT)
def _peak(left, middle, right):  # type: ignore[no-untyped-def]
    """Offset of a parabola's top through three neighbours, within half a cell."""
    bend = left - np.float32(2) * middle + right
    if bend > np.float32(-1e-6):
        return np.float32(0)
    shift = np.float32(0.5) * (left - right) / bend
    return min(max(shift, np.float32(-0.5)), np.float32(0.5))


def _match_window_torch(
    descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int, temperature: float
) -> CellMatches:
    """The readable twin of the kernel, and what runs on a GPU."""
    size, height, width = dense.shape
    step = torch.arange(-radius, radius + 1, device=dense.device)
    middle = centre.round().long()
    x = middle[:, :1] + step  # [n, side]
    y = middle[:, 1:] + step
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    flat = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    values = dense.reshape(size, -1).T[flat]  # [n, side, side, d]
    similarity = (values * descriptors[:, None, None]).sum(dim=-1)
    similarity = similarity.masked_fill(~inside, float("-inf"))
    side = 2 * radius + 1
    best, at = similarity.flatten(1).max(dim=1)
    v, u = at // side, at % side
    padded = functional.pad(similarity, (1, 1, 1, 1), value=float("-inf"))
    n = torch.arange(len(at), device=at.device)
    near = [padded[n, v + 1 + dy, u + 1 + dx] for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    peak = torch.stack(near).isfinite().all(dim=0)
    left, right, up, down = (torch.where(peak, value, best - 1.0) for value in near)
    cell = torch.stack(
        [x[n, u] + _peak_torch(left, best, right), y[n, v] + _peak_torch(up, best, down)], dim=1
    )
    power = (similarity - best[:, None, None]) / temperature
    total = torch.where(power > _FAINT, power.exp(), 0.0).sum(dim=(1, 2))
    index = peak.nonzero()[:, 0]
    found = (cell[index].float(), best[index], 1.0 / total[index])
    return CellMatches(index.cpu().numpy(), *(t.cpu().numpy() for t in found))


def _peak_torch(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    bend = left - 2.0 * middle + right
    shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    return torch.where(bend > -1e-6, torch.zeros_like(shift), shift)
