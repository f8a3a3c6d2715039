"""How hash grids are kept in a map file: eight bits a number, one scale a block.

Half the size of half precision; what is lost is below a hundredth of a descriptor's noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 64
BYTES_A_NUMBER = 1 + 2 / BLOCK
_LARGEST = 127
_LEAST_SCALE = 2.0**-24  # the smallest number of half precision: blocks of zeros stay zeros


def pack(grid: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers ``[n]`` as int8 ``[n]`` and scales ``[ceil(n / BLOCK)]`` in half precision."""
    blocks = functional.pad(grid, (0, -len(grid) % BLOCK)).view(-1, BLOCK)
    scale = (blocks.abs().amax(dim=1) / _LARGEST).clamp_min(_LEAST_SCALE).half()
    whole = (blocks / scale.float()[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return whole.to(torch.int8).flatten()[: len(grid)].contiguous(), scale


def unpack(packed: Tensor, scale: Tensor) -> Tensor:
    """The inverse of :func:`pack`, in single precision."""
    return packed.float() * scale.float().repeat_interleave(BLOCK)[: len(packed)]


def as_stored(grid: Tensor) -> Tensor:
    """What a reader will see of a grid that is written now."""
    return unpack(*pack(grid))
