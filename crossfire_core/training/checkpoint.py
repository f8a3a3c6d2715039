"""The state of an unfinished training: arrays and a JSON header, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from crossfire_core.errors import TrainingError
from crossfire_core.maps.neural_map import write_atomically

_KEY = "crossfire_checkpoint"


def checkpoint_path(map_path: Path) -> Path:
    """Where the checkpoint of a map lies: beside it."""
    return map_path.with_name(map_path.name + ".checkpoint")


def save_checkpoint(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; the one before stays until this one is complete."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(path, to_bytes(plain, metadata={_KEY: json.dumps(header)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint.

    Raises:
        TrainingError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise TrainingError(f"there is no checkpoint at {path}: train without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"checkpoint {path} is damaged: train without --resume") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Adam's moments as named arrays."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{i}.{k}": v for i, moments in state.items() for k, v in moments.items()}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Put the moments back that :func:`optimizer_tensors` took out."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split(".")
            like = parameters[int(index)]
            if value.shape == like.shape:  # the fused step walks both in the order of memory
                value = torch.empty_like(like).copy_(value)
            state.setdefault(int(index), {})[key] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
