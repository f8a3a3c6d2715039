"""The hash encoding through tiny-cuda-nn, over parameters that it does not own.

Its module only knows how to evaluate; the flat vector is handed over with every call, so a map
looks the same whatever evaluates it.
"""

from __future__ import annotations

from functools import lru_cache

import tinycudann
import torch
from torch import Tensor, nn

from crossfire_core.config import GridConfig
from crossfire_core.errors import BackendError
from crossfire_core.field.layout import GridLayout


def encode(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    """As :func:`.encoding_torch.encode`, differentiable once in both tensors.

    Gradients are computed in single precision: in half they would vanish for losses that are
    means over many rays. Without gradients the library's own choice is taken, half on most GPUs.

    Raises:
        BackendError: the library lays its parameters out differently.
    """
    if len(positions) == 0:
        return positions.new_zeros(0, layout.width)
    learning = torch.is_grad_enabled() and (parameters.requires_grad or positions.requires_grad)
    module = _module(layout.config, positions.device, torch.float32 if learning else None)
    out: Tensor = torch.func.functional_call(module, {"params": parameters}, (positions,))
    return out.float()


@lru_cache(maxsize=16)
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
    with torch.cuda.device(device):
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
