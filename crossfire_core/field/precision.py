"""Where numbers are short.

The matrix products and convolutions of networks are done in bfloat16, where the processor has
instructions for it. Its range is that of float32, so gradients need no scaling. Poses, distances
and everything that is summed up along rays stay in float32: depth to a part in a thousand cannot
be told from eight bits. So do hash grids, except where tiny-cuda-nn reads them without gradients:
it then takes what it prefers on the GPU, half precision on most.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch


def short_convolutions(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions in bfloat16, where they take half the time or less."""
    if has_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def short_products(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products of the small networks in bfloat16, on a GPU while they are trained.

    A trained map is rendered in float32: samples are few by then, and surfaces sharp. On a CPU
    these products are bound by memory, and turning numbers over costs as much as it saves.
    """
    if device.type == "cuda" and torch.is_grad_enabled() and has_bfloat16(device):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes in bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older releases
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
