"""Which code evaluates the hash grids on which device; every choice shares one layout."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from crossfire_core.config import GridConfig
from crossfire_core.errors import BackendError
from crossfire_core.field import encoding_torch
from crossfire_core.field.layout import GridLayout
from crossfire_core.registry import BACKENDS

_log = logging.getLogger(__name__)
Encoder = Callable[[Tensor, Tensor, GridLayout], Tensor]
_TRIAL = GridConfig(levels=2, features=2, log2_entries=8, base_resolution=4, per_level_scale=2.0)
_TRIAL_ERROR = 1e-2  # of values up to 1, which half precision gives to a part in a thousand


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BackendError: the device is not known, or a GPU was asked for that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise BackendError(f"device {device!r} is not known: use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not count:
        raise BackendError("device cuda was asked for but torch sees no GPU: use --device cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise BackendError(f"there is no device {device}: the last one is cuda:{count - 1}")
    return chosen


def available(device: torch.device) -> dict[str, str]:
    """For every backend, an empty string if it runs on the device, else why not."""
    tried = {name: _tried(name, device) for name in BACKENDS.names()}
    return {name: found if isinstance(found, str) else "" for name, found in tried.items()}


def encoder(name: str, device: torch.device) -> Encoder:
    """The encoding function of a backend; ``auto`` takes the program's first that runs.

    Raises:
        BackendError: the backend is unknown or does not run on the device.
    """
    if name not in ("auto", *BACKENDS.names()):
        raise BackendError(
            f"backend {name!r} is not known: use auto or {', '.join(BACKENDS.names())}"
        )
    for candidate in BACKENDS.own if name == "auto" else (name,):
        found = _tried(candidate, device)
        if not isinstance(found, str):
            return found
        if name == "auto" and not _missing(candidate, device):
            _log.warning("backend %s is passed over: %s", candidate, found)
    if name == "auto":
        raise BackendError(f"no backend runs on {device} ({found}): use --device cpu")
    raise BackendError(f"backend {name} cannot run on {device}: {found}; use --backend auto")


def _missing(name: str, device: torch.device) -> str:
    """What a backend lacks on this machine, as far as can be told without loading it."""
    if name == "torch" or name not in BACKENDS.own:
        return ""
    if (name == "numba") == (device.type == "cuda"):
        return "runs on the CPU only" if name == "numba" else "needs a CUDA device"
    return "" if find_spec(name) else f"package {name} is not installed"


def _tried(name: str, device: torch.device) -> Encoder | str:
    """The encoding function of a backend once it has run on the device; else why it does not."""
    missing = _missing(name, device)
    if missing:
        return missing
    try:
        encode: Encoder = BACKENDS.load(name)
        if device.type == "cuda" or name not in BACKENDS.own:
            _launch(encode, device)
    except Exception as error:  # a compiler, a driver or a package: each fails in its own way
        lines = str(error).splitlines()
        return f"it is installed but fails: {lines[0] if lines else type(error).__name__}"
    return encode


@torch.no_grad()
def _launch(encode: Encoder, device: torch.device) -> None:
    """Encode a few points: kernels are compiled, or found to be for another GPU, only then."""
    layout = GridLayout.of(_TRIAL)
    parameters = torch.linspace(-1.0, 1.0, layout.parameters)
    points = torch.linspace(0.1, 0.9, 12).view(4, 3)
    found = encode(parameters.to(device), points.to(device), layout).cpu()
    off = (found - encoding_torch.encode(parameters, points, layout)).abs().max()
    if not float(off) < _TRIAL_ERROR:  # nor NaN
        raise ArithmeticError("its values are not those of the layout")
