"""The hash encoding on the CPU: numba kernels, one share of the points a thread.

Level by level, so that one level's table (1 MiB at 2^17 entries) stays in a core's cache. The
backward pass gives every level to one thread: no atomics, and the same sums in the same order
whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.field.layout import PRIME_Y, PRIME_Z, GridLayout
from crossfire_core.field.threads import for_ranges

_P2, _P3 = np.uint32(PRIME_Y), np.uint32(PRIME_Z)
_U = np.uint32
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "boundscheck": False}
_BLOCK = 2048  # points whose output rows and one level's table share a core's cache


@numba.njit(inline="always", **_JIT)
def _corners(x, y, z, s, side, entries, dense):  # type: ignore[no-untyped-def]
    """Of one point on one level: 8 rows within the level (x fastest) and the 3 fractions."""
    px, py, pz = x * s + np.float32(0.5), y * s + np.float32(0.5), z * s + np.float32(0.5)
    ix, iy, iz = _U(np.int32(px)), _U(np.int32(py)), _U(np.int32(pz))
    px, py, pz = px - np.float32(ix), py - np.float32(iy), pz - np.float32(iz)
    n, one = _U(entries), _U(1)
    if dense:
        w = _U(side)
        w2 = _U(w * w)
        r0 = _U(ix + iy * w + iz * w2)
        r1, r2, r4 = _U(r0 + one), _U(r0 + w), _U(r0 + w2)
        r3, r5, r6 = _U(r2 + one), _U(r4 + one), _U(r4 + w)
        r7 = _U(r6 + one)
        # at x = 1 the far corner lies one past the level: it wraps, as on the GPU
        r1, r2, r3 = _wrap(r1, n), _wrap(r2, n), _wrap(r3, n)
        r4, r5, r6, r7 = _wrap(r4, n), _wrap(r5, n), _wrap(r6, n), _wrap(r7, n)
    else:
        m = _U(n - one)  # hashed levels hold a power of two, so the modulo is a mask
        x1, y0, z0 = _U(ix + one), _U(iy * _P2), _U(iz * _P3)
        y1, z1 = _U(y0 + _P2), _U(z0 + _P3)
        a, b, c, d = _U(y0 ^ z0), _U(y1 ^ z0), _U(y0 ^ z1), _U(y1 ^ z1)
        r0, r1, r2, r3 = (ix ^ a) & m, (x1 ^ a) & m, (ix ^ b) & m, (x1 ^ b) & m
        r4, r5, r6, r7 = (ix ^ c) & m, (x1 ^ c) & m, (ix ^ d) & m, (x1 ^ d) & m
    return r0, r1, r2, r3, r4, r5, r6, r7, px, py, pz


@numba.njit(inline="always", **_JIT)
def _wrap(row, n):  # type: ignore[no-untyped-def]
    return row if row < n else _U(row % n)


@numba.njit(inline="always", **_JIT)
def _weights(px, py, pz):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    qx, qy, qz = one - px, one - py, one - pz
    a, b, c, d = qx * qy, px * qy, qx * py, px * py
    return a * qz, b * qz, c * qz, d * qz, a * pz, b * pz, c * pz, d * pz


@numba.njit(**_JIT)
def _forward(table, points, width, scale, side, entries, offset, dense, out, start, stop):  # type: ignore[no-untyped-def]
    """``table [rows, F]``, ``points [n, 3]`` -> ``out [n, levels * F]`` for points start..stop.

    ``width`` is a tuple of F zeros: its length is known when compiling, so the loops over the
    features are unrolled.
    """
    features = len(width)
    for block in range(start, stop, _BLOCK):
        end = min(block + _BLOCK, stop)
        for level in range(scale.shape[0]):
            first, column = np.uint64(offset[level]), np.uint64(level * features)
            s, w, n, d = scale[level], side[level], entries[level], dense[level]
            for i in range(block, end):
                r0, r1, r2, r3, r4, r5, r6, r7, px, py, pz = _corners(
                    points[i, 0], points[i, 1], points[i, 2], s, w, n, d
                )
                a, b, c, e, f, g, h, k = _weights(px, py, pz)
                for j in range(features):
                    out[i, column + np.uint64(j)] = (
                        a * table[first + r0, j] + b * table[first + r1, j]
                        + c * table[first + r2, j] + e * table[first + r3, j]
                        + f * table[first + r4, j] + g * table[first + r5, j]
                        + h * table[first + r6, j] + k * table[first + r7, j]
                    )  # fmt: skip


@numba.njit(**_JIT)
def _backward(points, grad_out, width, scale, side, entries, offset, dense, grad, level):  # type: ignore[no-untyped-def]
    """Add one level's share of ``d out / d table`` to ``grad [rows, F]``."""
    features = len(width)
    first, column = np.uint64(offset[level]), np.uint64(level * features)
    s, w, n, d = scale[level], side[level], entries[level], dense[level]
    for i in range(points.shape[0]):
        r0, r1, r2, r3, r4, r5, r6, r7, px, py, pz = _corners(
            points[i, 0], points[i, 1], points[i, 2], s, w, n, d
        )
        a, b, c, e, f, g, h, k = _weights(px, py, pz)
        for j in range(features):
            v = grad_out[i, column + np.uint64(j)]
            grad[first + r0, j] += a * v
            grad[first + r1, j] += b * v
            grad[first + r2, j] += c * v
            grad[first + r3, j] += e * v
            grad[first + r4, j] += f * v
            grad[first + r5, j] += g * v
            grad[first + r6, j] += h * v
            grad[first + r7, j] += k * v


@numba.njit(**_JIT)
def _backward_points(  # type: ignore[no-untyped-def]
    table, points, grad_out, width, scale, side, entries, offset, dense, grad, start, stop
):
    """Add ``d out / d position`` times ``grad_out`` to ``grad [n, 3]`` for points start..stop."""
    features = len(width)
    one = np.float32(1)
    for level in range(scale.shape[0]):
        first, column = np.uint64(offset[level]), np.uint64(level * features)
        s, w, n, d = scale[level], side[level], entries[level], dense[level]
        for i in range(start, stop):
            r0, r1, r2, r3, r4, r5, r6, r7, px, py, pz = _corners(
                points[i, 0], points[i, 1], points[i, 2], s, w, n, d
            )
            qx, qy, qz = one - px, one - py, one - pz
            for j in range(features):
                v = grad_out[i, column + np.uint64(j)] * s
                a, b = table[first + r0, j], table[first + r1, j]
                c, e = table[first + r2, j], table[first + r3, j]
                f, g = table[first + r4, j], table[first + r5, j]
                h, k = table[first + r6, j], table[first + r7, j]
                low, high = qy * (b - a) + py * (e - c), qy * (g - f) + py * (k - h)
                grad[i, 0] += v * (qz * low + pz * high)
                low, high = qx * (c - a) + px * (e - b), qx * (h - f) + px * (k - g)
                grad[i, 1] += v * (qz * low + pz * high)
                low = qx * (f - a) + px * (g - b)
                high = qx * (h - c) + px * (k - e)
                grad[i, 2] += v * (qy * low + py * high)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
        out = encode_array(parameters.detach().numpy(), positions.detach().numpy(), layout)
        ctx.save_for_backward(parameters, positions)
        ctx.layout = layout
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        parameters, positions = ctx.saved_tensors
        grad_out = grads[0].contiguous().numpy()
        points, layout = positions.detach().numpy(), ctx.layout
        of_parameters = of_positions = None
        if ctx.needs_input_grad[0]:
            of_parameters = torch.from_numpy(_parameter_gradient(points, grad_out, layout))
        if ctx.needs_input_grad[1]:
            table = parameters.detach().numpy().reshape(-1, layout.features)
            of_positions = torch.from_numpy(_position_gradient(table, points, grad_out, layout))
        return of_parameters, of_positions, None


def _parameter_gradient(
    points: NDArray[np.float32], grad_out: NDArray[np.float32], layout: GridLayout
) -> NDArray[np.float32]:
    grad = np.zeros((layout.parameters // layout.features, layout.features), np.float32)

    def share(start: int, stop: int) -> None:
        for level in range(start, stop):
            _backward(points, grad_out, *_tables(layout), grad, level)

    for_ranges(share, layout.levels, smallest=1)
    return grad.reshape(-1)


def _position_gradient(
    table: NDArray[np.float32],
    points: NDArray[np.float32],
    grad_out: NDArray[np.float32],
    layout: GridLayout,
) -> NDArray[np.float32]:
    grad = np.zeros_like(points)
    arrays = _tables(layout)
    for_ranges(
        lambda a, b: _backward_points(table, points, grad_out, *arrays, grad, a, b), len(points)
    )
    return grad


def encode(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    """As :func:`.encoding_torch.encode`: the same values and the same gradients."""
    return _Encode.apply(parameters, positions.contiguous(), layout)  # type: ignore[no-any-return]


def encode_array(
    parameters: NDArray[np.float32], positions: NDArray[np.float32], layout: GridLayout
) -> NDArray[np.float32]:
    """The encoding without autograd: ``[n, 3]`` -> ``[n, levels * features]``."""
    table = parameters.reshape(-1, layout.features)
    out = np.empty((len(positions), layout.width), np.float32)
    arrays = _tables(layout)
    for_ranges(lambda a, b: _forward(table, positions, *arrays, out, a, b), len(positions))
    return out


def _tables(layout: GridLayout) -> tuple[Any, ...]:
    zeros = (0,) * layout.features
    return zeros, layout.scale, layout.resolution, layout.entries, layout.offset, layout.dense
