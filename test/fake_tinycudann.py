"""A ``tinycudann`` for the stand-in GPU: its module's types, padding and checks.

What it does beside encoding is what a first run on a GPU stumbles over: memory that belongs to the
stream and cannot be had while a graph is recorded, the current device, half precision where none
is asked for, and parameters that are read when the module is called.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from stand_in_gpu import GpuTensor, ProcessEnds, StandInGpu, Stream
from torch import Tensor, nn

from crossfire_core.config import GridConfig
from crossfire_core.field import encoding_torch
from crossfire_core.field.layout import GridLayout

GRANULARITY = 256
LOSS_SCALE = {torch.float16: 128.0, torch.float32: 1.0}


def check(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"bindings.cpp: check failed {what}")


class Encoding(nn.Module):
    """As tinycudann.Encoding."""

    extra_parameters = 0  # of a version with another layout
    known_streams: ClassVar[set[Stream]] = set()  # those that have memory

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        c = encoding_config
        check(n_input_dims == 3 and c["otype"] == "HashGrid", "a grid in space")
        self.precision = dtype or torch.float16
        self.layout = GridLayout.of(
            GridConfig(
                c["n_levels"], c["n_features_per_level"], c["log2_hashmap_size"],
                c["base_resolution"], c["per_level_scale"],
            )
        )  # fmt: skip
        count = self.layout.parameters + self.extra_parameters
        self.params = nn.Parameter(torch.zeros(count, device="cuda"))

    def forward(self, x: Tensor) -> Tensor:
        """Encode points; the batch is padded and the outcome cut again."""
        check(x.is_cuda, "the input is a CUDA tensor")
        padded = nn.functional.pad(x, [0, 0, 0, -len(x) % GRANULARITY])
        before_parameters_are_read()
        parameters = self.params.to(self.precision).contiguous()
        out: Tensor = _Evaluate.apply(padded.float().contiguous(), parameters, self)
        return out[: len(x), : self.layout.width]


def before_parameters_are_read() -> None:
    """For tests with several threads."""


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, parameters: Tensor, module: Encoding) -> Tensor:
        check(points.dtype == torch.float32 and points.shape[1] == 3, "input float32 [n, 3]")
        check(parameters.dtype == module.precision, "params.scalar_type() == param_precision")
        check(len(parameters) == module.layout.parameters, "params.size(0) == n_params()")
        check(module.layout.width <= 128, "at most 1024 threads a block")
        launch(points)
        out = encoding_torch.encode(parameters.float(), points, module.layout)
        ctx.save_for_backward(points, parameters)
        ctx.module, ctx.learns = module, points.requires_grad or parameters.requires_grad
        return out.to(module.precision)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        check(ctx.learns, "fwd likely (mistakenly) ran in inference mode")
        precision, layout = ctx.module.precision, ctx.module.layout
        check(grads[0].dtype == precision, "dL_doutput.scalar_type() == output_precision()")
        launch(grads[0])
        needed = ctx.needs_input_grad[:2]
        inputs = [t.detach().float().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needed,
                                                                      strict=True)]  # fmt: skip
        with torch.enable_grad():
            out = encoding_torch.encode(inputs[1], inputs[0], layout)
        scale = LOSS_SCALE[precision]
        asked = [t for t in inputs if t.requires_grad]
        found = iter(torch.autograd.grad(out, asked, (grads[0] * scale).float()))
        point_grad = next(found) / scale if needed[0] else None
        parameter_grad = next(found).to(precision) / scale if needed[1] else None
        return point_grad, parameter_grad, None


def launch(tensor: Tensor) -> None:
    """What a call does before its kernels: memory for the current stream, on its device."""
    gpu = StandInGpu.current
    assert isinstance(tensor, GpuTensor)
    check(tensor.place.index == gpu.index, "an illegal memory access was encountered")
    stream = gpu.streams[gpu.index]
    if gpu.graph is not None and stream not in Encoding.known_streams:
        raise ProcessEnds("terminate called after throwing an instance of 'std::runtime_error'")
    Encoding.known_streams.add(stream)


def install(patch: pytest.MonkeyPatch) -> None:
    """Let ``import tinycudann`` find this; what was imported over it is forgotten afterwards."""
    patch.setattr(Encoding, "known_streams", set())
    module = ModuleType("tinycudann")
    module.__spec__ = ModuleSpec("tinycudann", None)
    module.Encoding = Encoding  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "tinycudann", module)
    # registered first, so that undoing removes what is imported meanwhile
    patch.setitem(sys.modules, "crossfire_core.field.encoding_tinycudann", module)
    patch.delitem(sys.modules, "crossfire_core.field.encoding_tinycudann")
