"""Surface points along rays on the CPU, fast enough for a robot.

Three things make it quicker than :meth:`.renderer.Renderer.surface`, whose answers it gives: the
proposal is baked into a dense grid when the map is loaded, so that asking it costs eight loads
in place of forty and a network; the geometry network computes only the density; and what
happens to a ray before and after the network is one kernel each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import RenderConfig
from crossfire_core.field import networks
from crossfire_core.field.encoding_numba import encode_array
from crossfire_core.field.scene_field import SceneField
from crossfire_core.field.threads import for_ranges
from crossfire_core.rendering.sampling import Spacing

_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "boundscheck": False}
_BAKED = 128  # cells along an axis: as fine as the proposal's finest level
_CHUNK = 2048  # rays whose samples pass through the network together


class SurfaceFinder:
    """Finds where rays end, for one field that no longer changes."""

    def __init__(self, field: SceneField, spacing: Spacing, config: RenderConfig) -> None:
        """Bake the proposal and keep what the kernels need."""
        self.samples = config.samples
        self.layout = field.geometry.grid_layout
        self.table = field.geometry.grid.detach().numpy()
        hidden, last = networks.matrices(
            field.geometry.network.detach(), field.geometry.network_layout
        )
        width = self.layout.width  # columns beyond it meet the ones that pad the input: a bias
        self.hidden, self.bias = hidden[:, :width].T.contiguous(), hidden[:, width:].sum(dim=1)
        self.density_row, self.last = last[0].contiguous(), last.T.contiguous()
        self.box = np.array([*field.box.centre, field.box.half_size], np.float32)
        self.proposal = _bake(field)
        edges = spacing.distance(torch.linspace(0, 1, config.proposal_samples + 1))
        self.coarse = edges.numpy().astype(np.float32)
        low, high = spacing.log_distance(spacing.near), spacing.log_distance(spacing.far)
        self.curve = np.array([low, high - low, spacing.knee], np.float32)

    @torch.no_grad()
    def find(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Surface points ``[n, 3]``, opacity ``[n]`` and relative depth spread ``[n]``.

        Args:
            origins: ``[n, 3]`` metres, map frame.
            directions: ``[n, 3]`` unit vectors.
        """
        parts = [self._chunk(*part)[:3] for part in _chunks(origins, directions)]
        points, opacity, spread = (torch.cat(column) for column in zip(*parts, strict=True))
        return points, opacity, spread

    @torch.no_grad()
    def shade(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What colour is made from ``[n, f]``, surface points ``[n, 3]`` and opacity ``[n]``.

        Args:
            origins: ``[n, 3]`` metres, map frame.
            directions: ``[n, 3]`` unit vectors.
        """
        features, points, opacity = [], [], []
        for part in _chunks(origins, directions):
            point, light, _, weights, hidden = self._chunk(*part)
            # the last layer is linear: composited before it, it is evaluated once a ray
            seen = torch.bmm(weights[:, None], hidden.view(*weights.shape, len(self.last)))
            features.append(seen[:, 0] @ self.last)
            points.append(point)
            opacity.append(light)
        return torch.cat(features), torch.cat(points), torch.cat(opacity)

    def _chunk(
        self, start: NDArray[np.float32], along: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Points, opacity, spread, weights ``[n, samples]``, hidden ``[n * samples, width]``."""
        rays, samples = len(start), self.samples
        edges = np.empty((rays, samples + 1), np.float32)
        inside = np.empty((rays * samples, 3), np.float32)
        points, weights = np.empty((rays, 3), np.float32), np.empty((rays, samples), np.float32)
        opacity, spread = np.empty(rays, np.float32), np.empty(rays, np.float32)

        def place(a: int, b: int) -> None:
            _place_samples(
                start, along, self.box, self.proposal, self.coarse, self.curve,
                edges, inside, a, b,
            )  # fmt: skip

        for_ranges(place, rays, smallest=64)
        encoded = torch.from_numpy(encode_array(self.table, inside, self.layout))
        hidden = torch.relu_(torch.addmm(self.bias, encoded, self.hidden))
        raw = (hidden @ self.density_row).numpy().reshape(rays, samples)

        def settle(a: int, b: int) -> None:
            _settle(start, along, edges, raw, self.box[3], points, opacity, spread, weights, a, b)

        for_ranges(settle, rays, smallest=256)
        made = [torch.from_numpy(a) for a in (points, opacity, spread, weights)]
        return made[0], made[1], made[2], made[3], hidden


def _chunks(
    origins: Tensor, directions: Tensor
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Rays in parts whose samples fit in the cache; one empty part where there are none."""
    start, along = origins.contiguous().numpy(), directions.contiguous().numpy()
    for first in range(0, max(1, len(start)), _CHUNK):
        yield start[first : first + _CHUNK], along[first : first + _CHUNK]


@torch.no_grad()
def _bake(field: SceneField) -> NDArray[np.float32]:
    """The proposal's raw density at the vertices of a grid over the unit cube, ``[z, y, x]``."""
    axis = torch.linspace(0.0, 1.0, _BAKED)
    baked = torch.empty(_BAKED, _BAKED, _BAKED)
    for index, z in enumerate(axis):
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        plane = torch.stack([x, y, z.expand_as(x)], dim=-1).reshape(-1, 3)
        baked[index] = field.proposal(plane)[:, 0].view(_BAKED, _BAKED)
    return baked.numpy()


@numba.njit(inline="always", **_JIT)
def _unit(x, y, z, box):  # type: ignore[no-untyped-def]
    """SceneBox.normalize of one point."""
    x, y, z = (x - box[0]) / box[3], (y - box[1]) / box[3], (z - box[2]) / box[3]
    one = np.float32(1)
    norm = max(abs(x), abs(y), abs(z), one)
    factor = (np.float32(2) - one / norm) / norm
    quarter, half, zero = np.float32(0.25), np.float32(0.5), np.float32(0)
    x = min(max(x * factor * quarter + half, zero), one)
    y = min(max(y * factor * quarter + half, zero), one)
    z = min(max(z * factor * quarter + half, zero), one)
    return x, y, z


@numba.njit(inline="always", **_JIT)
def _look_up(grid, x, y, z):  # type: ignore[no-untyped-def]
    """Trilinear value of ``grid [z, y, x]`` at a point of the unit cube."""
    top = np.float32(grid.shape[0] - 1)
    x, y, z = x * top, y * top, z * top
    i = min(np.int32(x), np.int32(grid.shape[0] - 2))
    j = min(np.int32(y), np.int32(grid.shape[0] - 2))
    k = min(np.int32(z), np.int32(grid.shape[0] - 2))
    x, y, z = x - np.float32(i), y - np.float32(j), z - np.float32(k)
    a = grid[k, j, i] + x * (grid[k, j, i + 1] - grid[k, j, i])
    b = grid[k, j + 1, i] + x * (grid[k, j + 1, i + 1] - grid[k, j + 1, i])
    c = grid[k + 1, j, i] + x * (grid[k + 1, j, i + 1] - grid[k + 1, j, i])
    d = grid[k + 1, j + 1, i] + x * (grid[k + 1, j + 1, i + 1] - grid[k + 1, j + 1, i])
    low = a + y * (b - a)
    return low + z * (c + y * (d - c) - low)


@numba.njit(**_JIT)
def _place_samples(origins, directions, box, grid, coarse, curve, edges, inside, start, stop):  # type: ignore[no-untyped-def]
    """Weigh the coarse intervals, invert their distribution, write edges and unit positions."""
    bins, samples = coarse.shape[0] - 1, edges.shape[1] - 1
    cdf = np.empty(bins + 1, np.float32)
    one, half = np.float32(1), np.float32(0.5)
    for ray in range(start, stop):
        passed, total = one, np.float32(0)
        cdf[0] = np.float32(0)
        for k in range(bins):
            t = half * (coarse[k] + coarse[k + 1])
            x, y, z = _unit(
                origins[ray, 0] + t * directions[ray, 0],
                origins[ray, 1] + t * directions[ray, 1],
                origins[ray, 2] + t * directions[ray, 2],
                box,
            )
            raw = min(_look_up(grid, x, y, z) - one, np.float32(15))
            clear = np.exp(-np.exp(raw) / box[3] * (coarse[k + 1] - coarse[k]))
            total += passed * (one - clear) + np.float32(0.01) / np.float32(bins)
            passed *= clear
            cdf[k + 1] = total
        right, count = 1, samples + 1
        for k in range(count):
            goal = (np.float32(k) + half) / np.float32(count) * total
            while right < bins and cdf[right] <= goal:
                right += 1
            rise = max(cdf[right] - cdf[right - 1], np.float32(1e-12))
            fraction = min(max((goal - cdf[right - 1]) / rise, np.float32(0)), one)
            s = (np.float32(right - 1) + fraction) / np.float32(bins)
            edges[ray, k] = curve[2] * np.expm1(curve[0] + s * curve[1])
        for k in range(samples):
            t = half * (edges[ray, k] + edges[ray, k + 1])
            x, y, z = _unit(
                origins[ray, 0] + t * directions[ray, 0],
                origins[ray, 1] + t * directions[ray, 1],
                origins[ray, 2] + t * directions[ray, 2],
                box,
            )
            row = ray * samples + k
            inside[row, 0], inside[row, 1], inside[row, 2] = x, y, z


@numba.njit(**_JIT)
def _settle(  # type: ignore[no-untyped-def]
    origins, directions, edges, raw, half_size, points, opacity, spread, weights, start, stop
):
    """Write weights, the median's point, the opacity and the quartiles' distance."""
    samples = raw.shape[1]
    one = np.float32(1)
    cdf = np.empty(samples + 1, np.float32)
    for ray in range(start, stop):
        passed = one
        cdf[0] = np.float32(0)
        for k in range(samples):
            density = np.exp(min(raw[ray, k] - one, np.float32(15))) / half_size
            clear = np.exp(-density * (edges[ray, k + 1] - edges[ray, k]))
            weights[ray, k] = passed * (one - clear)
            cdf[k + 1] = cdf[k] + weights[ray, k]
            passed *= clear
        total = cdf[samples]
        first = _invert(cdf, edges, ray, np.float32(0.25) * total)
        depth = _invert(cdf, edges, ray, np.float32(0.5) * total)
        third = _invert(cdf, edges, ray, np.float32(0.75) * total)
        opacity[ray] = total
        spread[ray] = (third - first) / depth
        for axis in range(3):
            points[ray, axis] = origins[ray, axis] + depth * directions[ray, axis]


@numba.njit(inline="always", **_JIT)
def _invert(cdf, edges, ray, goal):  # type: ignore[no-untyped-def]
    """Where the piecewise linear distribution reaches a level."""
    right = 1
    while right < cdf.shape[0] - 1 and cdf[right] <= goal:
        right += 1
    rise = max(cdf[right] - cdf[right - 1], np.float32(1e-12))
    fraction = min(max((goal - cdf[right - 1]) / rise, np.float32(0)), np.float32(1))
    return edges[ray, right - 1] + fraction * (edges[ray, right] - edges[ray, right - 1])
