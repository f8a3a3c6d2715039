"""The reference hash encoding: plain torch, differentiable, slow, easy to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossfire_core.field.layout import PRIME_Y, PRIME_Z, GridLayout

_MASK32 = 0xFFFFFFFF


def encode(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    """Interpolate every level at every position.

    Args:
        parameters: ``[layout.parameters]`` float32.
        positions: ``[n, 3]`` in [0, 1].
        layout: the grid's layout.

    Returns:
        ``[n, levels * features]``, level-major; differentiable in both tensors.
    """
    table = parameters.view(-1, layout.features)
    levels = [_encode_level(table, positions, layout, i) for i in range(layout.levels)]
    return torch.cat(levels, dim=1)


def _encode_level(table: Tensor, positions: Tensor, layout: GridLayout, level: int) -> Tensor:
    # one rounding, as by the fused multiply-add of the other backends
    scaled = (positions.double() * float(layout.scale[level]) + 0.5).to(positions.dtype)
    cell = scaled.detach().floor()
    fraction = scaled - cell  # [n, 3], differentiable
    corner0 = cell.long()
    out = table.new_zeros(len(positions), layout.features)
    for bits in range(8):
        step = (bits & 1, bits >> 1 & 1, bits >> 2)
        weights = [fraction[:, i] if s else 1.0 - fraction[:, i] for i, s in enumerate(step)]
        entry = _entry([corner0[:, i] + s for i, s in enumerate(step)], layout, level)
        out = out + (weights[0] * weights[1] * weights[2])[:, None] * table[entry]
    return out


def _entry(corner: Sequence[Tensor], layout: GridLayout, level: int) -> Tensor:
    """Row of the table for integer corners x, y, z; the modulo also wraps x = 1 when dense."""
    x, y, z = corner
    if layout.dense[level]:
        side = int(layout.resolution[level])
        index = (x + y * side + z * side * side) & _MASK32  # unsigned, also outside the cube
    else:
        index = x ^ ((y * PRIME_Y) & _MASK32) ^ ((z * PRIME_Z) & _MASK32)
    return int(layout.offset[level]) + index % int(layout.entries[level])
