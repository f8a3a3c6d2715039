"""The hash encoding on a GPU without tiny-cuda-nn: Triton kernels over the same layout.

One program takes a block of points on one level, so that a level's table is read by neighbours
in time and stays in the L2 cache.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossfire_core.config import GridConfig
from crossfire_core.field.layout import PRIME_Y, PRIME_Z, GridLayout

_P2, _P3 = tl.constexpr(PRIME_Y), tl.constexpr(PRIME_Z)
_BLOCK = 256  # points a program


@triton.jit
def _cell(points, scale, level, n, valid):  # type: ignore[no-untyped-def]
    """Of a block of points on one level: lowest corners and fractions, axis by axis."""
    s = tl.load(scale + level)
    px = tl.load(points + 3 * n, mask=valid, other=0.0) * s + 0.5
    py = tl.load(points + 3 * n + 1, mask=valid, other=0.0) * s + 0.5
    pz = tl.load(points + 3 * n + 2, mask=valid, other=0.0) * s + 0.5
    bx, by, bz = tl.floor(px), tl.floor(py), tl.floor(pz)
    x, y, z = bx.to(tl.uint32), by.to(tl.uint32), bz.to(tl.uint32)
    return x, y, z, px - bx, py - by, pz - bz


@triton.jit
def _row(x, y, z, side, entries, dense):  # type: ignore[no-untyped-def]
    """Row within the level of integer corners; the modulo also wraps x = 1 when dense."""
    hashed = x ^ (y * _P2) ^ (z * _P3)
    plain = x + y * side + z * side * side
    return tl.where(dense, plain, hashed) % entries


@triton.jit
def _level(side, entries, offset, dense, level):  # type: ignore[no-untyped-def]
    w = tl.load(side + level).to(tl.uint32)
    m = tl.load(entries + level).to(tl.uint32)
    return w, m, tl.load(offset + level), tl.load(dense + level) != 0


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    table, points, out, scale, side, entries, offset, dense, count,
    levels: tl.constexpr, features: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    n = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = n < count
    feature = tl.arange(0, features)[None, :]
    w, m, first, is_dense = _level(side, entries, offset, dense, level)
    x, y, z, fx, fy, fz = _cell(points, scale, level, n, valid)
    total = tl.zeros((block, features), tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
        row = _row(x + i, y + j, z + k, w, m, is_dense).to(tl.int64) + first
        wx = fx if i else 1.0 - fx
        wy = fy if j else 1.0 - fy
        wz = fz if k else 1.0 - fz
        value = tl.load(table + row[:, None] * features + feature, mask=valid[:, None], other=0.0)
        total += (wx * wy * wz)[:, None] * value
    place = out + n[:, None] * (levels * features) + level * features + feature
    tl.store(place, total, mask=valid[:, None])


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    table, points, grad_out, grad_table, grad_points, scale, side, entries, offset, dense, count,
    levels: tl.constexpr, features: tl.constexpr, block: tl.constexpr,
    of_table: tl.constexpr, of_points: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    n = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = n < count
    feature = tl.arange(0, features)[None, :]
    w, m, first, is_dense = _level(side, entries, offset, dense, level)
    x, y, z, fx, fy, fz = _cell(points, scale, level, n, valid)
    place = grad_out + n[:, None] * (levels * features) + level * features + feature
    grad = tl.load(place, mask=valid[:, None], other=0.0)
    gx = tl.zeros((block,), tl.float32)
    gy = tl.zeros((block,), tl.float32)
    gz = tl.zeros((block,), tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
        row = _row(x + i, y + j, z + k, w, m, is_dense).to(tl.int64) + first
        wx = fx if i else 1.0 - fx
        wy = fy if j else 1.0 - fy
        wz = fz if k else 1.0 - fz
        entry = row[:, None] * features + feature
        if of_table:
            share = (wx * wy * wz)[:, None] * grad
            tl.atomic_add(grad_table + entry, share, mask=valid[:, None], sem="relaxed")
        if of_points:
            value = tl.load(table + entry, mask=valid[:, None], other=0.0)
            dot = tl.sum(value * grad, axis=1)
            gx += (wy * wz * dot) * (1.0 if i else -1.0)
            gy += (wx * wz * dot) * (1.0 if j else -1.0)
            gz += (wx * wy * dot) * (1.0 if k else -1.0)
    if of_points:
        s = tl.load(scale + level)
        tl.atomic_add(grad_points + 3 * n, gx * s, mask=valid, sem="relaxed")
        tl.atomic_add(grad_points + 3 * n + 1, gy * s, mask=valid, sem="relaxed")
        tl.atomic_add(grad_points + 3 * n + 2, gz * s, mask=valid, sem="relaxed")


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
        count = len(positions)
        out = positions.new_empty(count, layout.width)
        if count:
            with torch.cuda.device_of(positions):  # Triton launches on the current device
                _forward[_programs(count, layout)](
                    parameters, positions, out, *_tables(layout.config, positions.device), count,
                    layout.levels, layout.features, _BLOCK,
                )  # fmt: skip
        ctx.save_for_backward(parameters, positions)
        ctx.layout = layout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        parameters, positions = ctx.saved_tensors
        layout: GridLayout = ctx.layout
        of_table, of_points = ctx.needs_input_grad[:2]
        grad_table = torch.zeros_like(parameters) if of_table else None
        grad_points = torch.zeros_like(positions) if of_points else None
        count = len(positions)
        if count and (of_table or of_points):
            with torch.cuda.device_of(positions):
                _backward[_programs(count, layout)](
                    parameters, positions, grads[0].contiguous(),
                    parameters if grad_table is None else grad_table,
                    positions if grad_points is None else grad_points,
                    *_tables(layout.config, positions.device), count,
                    layout.levels, layout.features, _BLOCK, of_table, of_points,
                )  # fmt: skip
        return grad_table, grad_points, None


def encode(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    """As :func:`.encoding_torch.encode`, differentiable once in both tensors."""
    return _Encode.apply(parameters.contiguous(), positions.contiguous(), layout)  # type: ignore[no-any-return]


def _programs(count: int, layout: GridLayout) -> tuple[int, int]:
    return triton.cdiv(count, _BLOCK), layout.levels


@cache  # without a limit, as in constants.py
def _tables(config: GridConfig, device: torch.device) -> tuple[Tensor, ...]:
    """A layout's arrays on the device, copied there once."""
    a = GridLayout.of(config)
    arrays = (a.scale, a.resolution, a.entries, a.offset, a.dense.astype("int32"))
    return tuple(torch.from_numpy(array).to(device) for array in arrays)
