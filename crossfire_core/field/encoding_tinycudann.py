"""The hash encoding through tiny-cuda-nn, over parameters that it does not own.

Its module only knows how to evaluate; the flat vector is handed over with every call, so a map
looks the same whatever evaluates it.
"""

from __future__ import annotations

import threading
from functools import cache

import tinycudann
import torch
from torch import Tensor, nn

from crossfire_core.config import GridConfig
from crossfire_core.errors import BackendError
from crossfire_core.field.layout import GridLayout

_MOST_WIDTH = 128  # tiny-cuda-nn writes encodings in blocks of 8 x width threads, 1024 at most
_lock = threading.Lock()


def encode(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    """As :func:`.encoding_torch.encode`, differentiable once in both tensors.

    Gradients are computed in single precision: in half they would vanish for losses that are
    means over many rays. Without gradients the library's own choice is taken, half on most GPUs.

    Raises:
        BackendError: the library cannot do this layout, or lays its parameters out differently.
    """
    if layout.width > _MOST_WIDTH:
        raise BackendError(
            f"tinycudann encodes {_MOST_WIDTH} numbers a point at most, the map's grid has "
            f"{layout.levels} levels of {layout.features}: use --backend triton or torch"
        )
    if len(positions) == 0:
        return positions.new_zeros(0, layout.width)
    learning = torch.is_grad_enabled() and (parameters.requires_grad or positions.requires_grad)
    precision = torch.float32 if learning else None
    # the module is shared, and holds the parameters of one map while it is called
    with _lock, torch.cuda.device_of(positions):
        module = _module(layout.config, positions.device, precision)
        out: Tensor = torch.func.functional_call(module, {"params": parameters}, (positions,))
    return out.float()


@cache
def _module(config: GridConfig, device: torch.device, precision: torch.dtype | None) -> nn.Module:
    settings = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_entries,
        "base_resolution": config.base_resolution,
        "per_level_scale": config.per_level_scale,
        "interpolation": "Linear",
    }
    module: nn.Module = tinycudann.Encoding(3, settings, dtype=precision)
    own, ours = module.get_parameter("params").numel(), GridLayout.of(config).parameters
    if own != ours:
        raise BackendError(
            f"this tinycudann has {own} parameters where the map's layout has {ours}: "
            "use --backend triton or torch"
        )
    # its own parameters are never used: let go of their memory
    module.register_parameter("params", nn.Parameter(torch.empty(0), requires_grad=False))
    return module
