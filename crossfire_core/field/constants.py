"""Small constants on a device, copied there once.

Each copy from the host makes the host wait for the device, in the middle of whatever it has
queued; within a CUDA graph it is forbidden.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values as ``[n]`` of the tensor's type on its device; not to be changed."""
    return _kept(values, like.dtype, like.device)


@cache  # without a limit: a CUDA graph goes on reading what was there when it was recorded
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
