"""The one parameter layout that every backend reads and writes: tiny-cuda-nn's.

A hash grid is one flat vector, level after level, the features of an entry side by side. A
network is one flat vector of row-major ``[out, in]`` matrices without biases, widths padded to
multiples of 16. Source of the formulas: tiny-cuda-nn, ``encodings/grid.h`` and
``fully_fused_mlp.cu`` (BSD-3-Clause).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import GridConfig
from crossfire_core.errors import ConfigError

PRIME_Y, PRIME_Z = 2654435761, 805459861
_MAX_RESOLUTION = 1 << 20  # single precision tells no more vertices apart


@dataclass(frozen=True)
class GridLayout:
    """Where the levels of one hash grid lie in its vector.

    Attributes:
        features: features an entry.
        scale: ``[levels]`` float32, cells along an axis minus one, not an integer in general.
        resolution: ``[levels]`` int64, vertices along an axis.
        entries: ``[levels]`` int64, entries of a level.
        offset: ``[levels]`` int64, first entry of a level.
        dense: ``[levels]`` bool, whether a level stores every vertex (no hashing).
        config: the settings that all of this follows from.
    """

    features: int
    scale: NDArray[np.float32]
    resolution: NDArray[np.int64]
    entries: NDArray[np.int64]
    offset: NDArray[np.int64]
    dense: NDArray[np.bool_]
    config: GridConfig

    @staticmethod
    def of(config: GridConfig) -> GridLayout:
        """The layout of a grid, every step of the scales rounded to float32 as on the GPU.

        Raises:
            ConfigError: the finest level is finer than single precision.
        """
        finest = config.base_resolution * config.per_level_scale ** (config.levels - 1)
        if not finest <= _MAX_RESOLUTION:
            raise ConfigError(
                f"a grid's finest level has {finest:.3g} cells along an axis, "
                f"{_MAX_RESOLUTION} at most: lower per_level_scale, levels or base_resolution"
            )
        level = np.arange(config.levels, dtype=np.float32)
        # numpy's float32 exp2 and log2 differ in the last bit from processor to processor
        growth = np.float32(np.log2(np.float64(np.float32(config.per_level_scale))))
        power = np.exp2((level * growth).astype(np.float64)).astype(np.float32)
        scale = power * np.float32(config.base_resolution) - np.float32(1)
        resolution = np.ceil(scale).astype(np.int64) + 1
        vertices = resolution**3
        rounded = (vertices + 7) // 8 * 8
        entries = np.minimum(rounded, 1 << config.log2_entries)
        offset = np.concatenate([[0], np.cumsum(entries)[:-1]])
        dense = entries >= vertices
        return GridLayout(config.features, scale, resolution, entries, offset, dense, config)

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.scale)

    @property
    def width(self) -> int:
        """Length of the encoded vector."""
        return self.levels * self.features

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return int(self.entries.sum()) * self.features


def pad16(width: int) -> int:
    """The next multiple of 16."""
    return (width + 15) // 16 * 16


@dataclass(frozen=True)
class NetworkLayout:
    """The matrices of one bias-free network.

    Attributes:
        inputs: width of the input; the first matrix has ``pad16(inputs)`` columns.
        outputs: width of the output; the vector holds ``pad16(outputs)`` rows.
        hidden: width of every hidden layer.
        hidden_layers: number of hidden layers, at least one.
    """

    inputs: int
    outputs: int
    hidden: int
    hidden_layers: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes ``[out, in]`` of the matrices in order."""
        inner = [(self.hidden, self.hidden)] * (self.hidden_layers - 1)
        first = (self.hidden, pad16(self.inputs))
        return [first, *inner, (pad16(self.outputs), self.hidden)]

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(rows * columns for rows, columns in self.shapes)
