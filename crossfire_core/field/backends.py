"""Which code evaluates the hash grids on which device; every choice shares one layout."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from crossfire_core.errors import BackendError
from crossfire_core.field.layout import GridLayout

Encoder = Callable[[Tensor, Tensor, GridLayout], Tensor]
BACKENDS = ("tinycudann", "triton", "numba", "torch")


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BackendError: a GPU was asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"device {device!r} is not known: use auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("device cuda was asked for but torch sees no GPU: use --device cpu")
    return chosen


def available(device: torch.device) -> dict[str, str]:
    """For every backend, an empty string if it can run on the device, else why not."""
    cuda = device.type == "cuda"
    return {
        "tinycudann": _reason(cuda, "tinycudann"),
        "triton": _reason(cuda, "triton"),
        "numba": "runs on the CPU only" if cuda else _reason(True, "numba"),
        "torch": "",
    }


def _reason(device_fits: bool, package: str) -> str:
    if not device_fits:
        return "needs a CUDA device"
    return "" if find_spec(package) else f"package {package} is not installed"


def encoder(name: str, device: torch.device) -> Encoder:
    """The encoding function of a backend; ``auto`` takes the first of BACKENDS that can run.

    Raises:
        BackendError: the backend is unknown or cannot run on the device.
    """
    reasons = available(device)
    if name == "auto":
        for candidate in (b for b in BACKENDS if not reasons[b]):
            try:
                return _load(candidate)
            except (ImportError, OSError):  # installed, but not for this GPU or driver
                continue
    if name not in reasons:
        raise BackendError(f"backend {name!r} is not known: use auto or {', '.join(BACKENDS)}")
    if reasons[name]:
        raise BackendError(f"backend {name} cannot run on {device}: {reasons[name]}")
    try:
        return _load(name)
    except (ImportError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(
            f"backend {name} is installed but does not load: {cause}; use --set backend=auto"
        ) from error


def _load(name: str) -> Encoder:
    if name == "tinycudann":
        from crossfire_core.field import encoding_tinycudann

        return encoding_tinycudann.encode
    if name == "triton":
        from crossfire_core.field import encoding_triton

        return encoding_triton.encode
    if name == "numba":
        from crossfire_core.field import encoding_numba

        return encoding_numba.encode
    from crossfire_core.field import encoding_torch

    return encoding_torch.encode
