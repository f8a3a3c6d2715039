"""The same work again and again, as one CUDA graph.

Rendering a view is some hundred small kernels, which a GPU finishes faster than Python can launch
them. A graph is launched at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_MOST = 8  # recordings kept: two cameras with two networks' inputs and two grids each
_REHEARSALS = 3  # as torch's own example has it, before a graph is recorded
Function = Callable[..., tuple[Tensor, ...]]
_Key = tuple[tuple[torch.Size, torch.dtype, torch.device], ...]


class Graphed:
    """A function of tensors that is recorded on a GPU and replayed from then on.

    It must not wait for the GPU, shapes of what it returns must not depend on values, and what it
    uses besides its arguments must stay where it is in memory. It is recorded when arguments of
    the same shapes come a second time. Elsewhere, and where it cannot be recorded (a backend that
    manages memory in its own way), it is simply called.
    """

    def __init__(self, function: Function) -> None:
        """Wrap ``function``; nothing is recorded yet."""
        self.function = function
        self.problem: str | None = None
        self.recordings: dict[_Key, _Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns; the tensors are the caller's own."""
        if self.problem is not None or not can_record(inputs[0].device):
            return self.function(*inputs)
        key = tuple((t.shape, t.dtype, t.device) for t in inputs)
        if key not in self.recordings:
            if len(self.recordings) >= _MOST:
                self.recordings.clear()
            self.recordings[key] = None
            return self.function(*inputs)
        recording = self.recordings[key]
        if recording is None:
            try:
                recording = self.recordings[key] = record(self.function, inputs)
            except RuntimeError as error:
                self.problem = str(error).splitlines()[0] if str(error) else type(error).__name__
                _log.warning("no CUDA graph is used: %s", self.problem)
                return self.function(*inputs)
        return recording.replay(inputs)


@dataclass(frozen=True)
class _Recording:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)
        self.graph.replay()
        return tuple(out.clone() for out in self.outputs)  # the next replay writes over them


def can_record(device: torch.device) -> bool:
    """Whether the device knows graphs."""
    return device.type == "cuda"


def record(function: Function, inputs: Sequence[Tensor]) -> _Recording:
    """Record a function after some rehearsals, which compile kernels and fill caches.

    Raises:
        RuntimeError: it does something that cannot be recorded.
    """
    own = [t.clone() for t in inputs]
    aside = torch.cuda.Stream(inputs[0].device)
    aside.wait_stream(torch.cuda.current_stream(inputs[0].device))
    graph = torch.cuda.CUDAGraph()
    # The stream of the rehearsals also records: tiny-cuda-nn keeps memory for each stream, and
    # where it must allocate some while recording, it ends the process. This block gives the
    # thread its own stream back, which torch.cuda.graph does not where recording is refused.
    with torch.cuda.stream(aside):
        for _ in range(_REHEARSALS):
            function(*own)
        # other threads, a second localizer's say, may go on meanwhile
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            outputs = function(*own)
    torch.cuda.current_stream(inputs[0].device).wait_stream(aside)
    return _Recording(graph, own, outputs)
