"""The state of an unfinished training: arrays and a JSON header, no pickle."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from crossfire_core.config import to_dict
from crossfire_core.errors import TrainingError
from crossfire_core.maps.neural_map import write_atomically
from crossfire_core.training.descriptor_stage import Surfaces

if TYPE_CHECKING:
    from crossfire_core.training.trainer import Trainer

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


def save_training(t: Trainer) -> None:
    """Write everything that is needed to go on."""
    s = t.survey
    tensors = {f"field.{k}": v for k, v in t.field.state_dict().items()}
    tensors |= {f"network.{k}": v for k, v in t.network.state_dict().items()}
    tensors |= optimizer_tensors(t.geometry.optimizer, "geometry.")
    if t.descriptors is not None:
        tensors |= optimizer_tensors(t.descriptors.optimizer, "descriptors.")
    if t.surfaces is not None:
        tensors |= {f"surfaces.{k}": v for k, v in vars(t.surfaces).items()}
    columns = (s.sparse.view, s.sparse.pixel, s.sparse.point, s.sparse.sigma_m)
    for name, column in zip(("view", "pixel", "point", "sigma"), columns, strict=True):
        tensors[f"sparse.{name}"] = torch.from_numpy(np.ascontiguousarray(column))
    tensors["rng"] = t.rng.get_state()
    matrices = np.stack([view.map_from_camera.matrix()[:3] for view in t.views])
    tensors["views.poses"] = torch.from_numpy(matrices)
    tensors["poses.twists"] = t.geometry.twists
    tensors["poses.rotations"] = t.table.rotations
    tensors["poses.translations"] = t.table.translations
    header = {
        "fingerprint": fingerprint(t),
        "survey": {
            "centre": list(s.box.centre),
            "half_size": s.box.half_size,
            "spacing": vars(s.spacing),
        },
        "elapsed": t.elapsed(),
        "budgets": [[b.done, b.spent] for b in (t.geometry_budget, t.descriptor_budget)],
        "descriptor_seconds": t.descriptor_budget.seconds,
    }
    save_checkpoint(checkpoint_path(t.output), header, tensors)


def load_training(t: Trainer) -> dict[str, Any]:
    """Read the checkpoint and make sure that it belongs to this training."""
    path = checkpoint_path(t.output)
    header, tensors = load_checkpoint(path)
    if header.get("fingerprint") != fingerprint(t):
        raise TrainingError(
            f"checkpoint {path} was made with other settings or another recording: "
            "repeat the first command with --resume, or train without it"
        )
    return {"header": header, "tensors": tensors}


def restore(t: Trainer, saved: dict[str, Any]) -> None:
    """Give a training that was just built the state of a checkpoint."""
    header, tensors = saved["header"], saved["tensors"]
    part = lambda p: {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)}  # noqa: E731
    t.field.load_state_dict(part("field."))
    t.network.load_state_dict(part("network."))
    restore_optimizer(t.geometry.optimizer, tensors, "geometry.")
    t.moments = tensors
    t.geometry.twists.data = tensors["poses.twists"].to(t.device)
    t.table.rotations = tensors["poses.rotations"].to(t.device)
    t.table.translations = tensors["poses.translations"].to(t.device)
    surfaces = part("surfaces.")
    if surfaces:
        t.surfaces = Surfaces(**{k: v.to(t.device) for k, v in surfaces.items()})
    t.rng.set_state(tensors["rng"])
    budgets = (t.geometry_budget, t.descriptor_budget)
    for budget, (done, spent) in zip(budgets, header["budgets"], strict=True):
        budget.done, budget.spent = done, spent
    t.descriptor_budget.seconds = header["descriptor_seconds"]
    t.elapsed_before = header["elapsed"]
    t.started = time.monotonic()


def fingerprint(t: Trainer) -> str:
    """Tells trainings apart: only the same one can go on from a checkpoint."""
    names = [
        [v.name, v.stamp_ns, v.camera.to_json(), v.camera.mask and v.camera.mask.digest]
        for v in t.views
    ]
    kind = t.device.type  # random numbers of a GPU cannot be continued on a CPU
    what = [to_dict(t.config), names, t.steps, t.seconds, t.course.use_depth, kind]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
