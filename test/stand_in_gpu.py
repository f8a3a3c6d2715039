"""A GPU for tests where there is none: it computes on the CPU and refuses what a GPU refuses.

Its tensors say that they are on ``cuda:N``, may not be mixed with others, and have no ``numpy()``.
What makes the host wait for the device is refused where it may not happen. Graphs record single
operations and run them again. Streams and the current device are only told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.is_nonzero,
}  # fmt: skip
NUMBER = aten.scalar_tensor.default
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class ProcessEnds(BaseException):
    """What ends a process on a GPU (std::terminate): nothing may catch it."""


class GpuTensor(Tensor):
    """A tensor on the stand-in; to torch it is one without memory, as those of other devices."""

    held: Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> GpuTensor:
        made: GpuTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device="meta",
        )  # fmt: skip
        made.held, made.place = held, place
        return made

    device = property(lambda self: self.place)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return int(self.place.index)

    @property  # type: ignore[override]
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: GpuTensor) -> None:
        torch._C.TensorBase.data.__set__(self, new)  # type: ignore[attr-defined]
        self.held, self.place = new.held, new.place

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.place

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], place: torch.device, size: Any, stride: Any
    ) -> GpuTensor:
        return GpuTensor(inner["held"], place)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return StandInGpu.current.run(func, args, kwargs or {})


class Generator(torch.Generator):
    """A source of random numbers that knows for which device it was made."""

    kind: str

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.kind = torch.device(device).type
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass


class Stream:
    """A queue of work, only told from others."""

    def __init__(self, device: Any = None) -> None:
        gpu = StandInGpu.current
        self.device = gpu.index_of(torch.device(device or "cuda"))

    def wait_stream(self, other: Stream) -> None:
        pass


class Graph:
    """Operations that were recorded, with the memory that they read and write."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.broken = False

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            for kept, new in zip(tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0],
                                 strict=True):  # fmt: skip
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class StandInGpu(TorchDispatchMode):
    """The machine: its devices, the current stream of each, what is recorded."""

    current: StandInGpu

    def __init__(self, devices: int) -> None:
        super().__init__()
        self.devices, self.index = devices, 0
        self.strict = False
        self.graph: Graph | None = None
        StandInGpu.current = self
        self.streams = {i: Stream(f"cuda:{i}") for i in range(devices)}
        self.capture_stream: Stream | None = None  # torch.cuda.graph's own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def index_of(self, device: torch.device) -> torch.device:
        return torch.device("cuda", self.index if device.index is None else device.index)

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        """What makes the host wait is refused within."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def waits(self, func: Any) -> None:
        if self.graph is not None:
            self.graph.broken = True
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        if self.strict:
            raise RuntimeError(f"the host waits for the device: {func}")

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation of torch: judged, computed on the CPU, and recorded."""
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        own = [t for t in tensors if isinstance(t, GpuTensor)]
        # a number that torch makes a tensor of lies where it is needed
        place = None if func is NUMBER else self._place(own, kwargs.get("device"))
        if not own and place is None:
            return func(*args, **_on_cpu(kwargs))
        self._judge(func, args, kwargs, tensors, own, place)
        plain_args, plain = tree_map(_held, (args, _on_cpu(kwargs)))
        out = func(*plain_args, **plain)
        if self.graph is not None:
            self.graph.operations.append((func, plain_args, plain, out))
        if place is None:
            return out
        wrapped = tree_map(lambda t: GpuTensor(t, place) if isinstance(t, Tensor) else t, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if own else wrapped

    def _place(self, own: list[GpuTensor], asked: torch.device | None) -> torch.device | None:
        """Where an operation's outcome lies; None for the CPU."""
        if asked is None or (asked.type == "meta" and own):
            return own[0].place if own else None
        return None if asked.type == "cpu" else self.index_of(asked)

    def _judge(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], own: list[GpuTensor],
        place: torch.device | None,
    ) -> None:  # fmt: skip
        packet = func.overloadpacket
        foreign = [t for t in tensors if not isinstance(t, GpuTensor)]
        if packet in (aten._to_copy, aten.copy_):
            if foreign or place is None:
                self.waits(func)
            return
        if packet in WAITS or (packet is aten.repeat_interleave and not kwargs.get("output_size")):
            self.waits(func)
        if packet in INDEXING:
            indices = [i for i in args[1] if i is not None]
            from_host = any(i is t for i in indices for t in foreign)
            if from_host or any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.waits(func)
            foreign = [] if isinstance(args[0], GpuTensor) else foreign
        if torch.Tag.pointwise in func.tags or packet is aten.fill_:
            foreign = [t for t in foreign if t.dim()]
        if own and (foreign or len({t.place for t in own}) > 1):
            found = ", ".join(sorted({str(t.device) for t in tensors}))
            raise RuntimeError(f"Expected all tensors to be on the same device: {found} in {func}")


def _on_cpu(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "device": torch.device("cpu")} if options.get("device") else options


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def install(patch: pytest.MonkeyPatch, devices: int = 2) -> StandInGpu:
    """Make torch's calls for a GPU speak of a stand-in, which must then be entered."""
    gpu = StandInGpu(devices)
    cuda = torch.cuda

    class OnStream:
        """As torch.cuda.stream."""

        def __init__(self, chosen: Stream) -> None:
            self.chosen, self.place = chosen, chosen.device.index

        def __enter__(self) -> None:
            self.before = gpu.index, gpu.streams[self.place]
            gpu.index, gpu.streams[self.place] = self.place, self.chosen

        def __exit__(self, *error: Any) -> None:
            gpu.index, gpu.streams[self.place] = self.before

    class Recording:
        """As torch.cuda.graph: where recording fails, the stream is not given back."""

        def __init__(
            self, graph: Graph, stream: Stream | None = None, capture_error_mode: str = "global"
        ) -> None:
            gpu.capture_stream = gpu.capture_stream or Stream()
            self.graph, self.context = graph, cuda.stream(stream or gpu.capture_stream)

        def __enter__(self) -> None:
            self.context.__enter__()
            gpu.graph = self.graph

        def __exit__(self, *error: Any) -> None:
            gpu.graph = None
            if error[0] is ProcessEnds:
                return
            if self.graph.broken or error[0]:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.context.__exit__(*error)

    def exchange(index: int) -> int:
        before = gpu.index
        gpu.index = index if index >= 0 else before
        return before

    calls: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: gpu.index,
        "get_device_name": lambda device=None: "stand-in",
        "get_device_capability": lambda device=None: (7, 5),  # without bfloat16
        "synchronize": lambda device=None: gpu.waits("synchronize"),
        "current_stream": lambda device=None: gpu.streams[gpu.index_of(_device(device)).index],
        "stream": OnStream,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": Recording,
        "_lazy_init": lambda: None,
        "_exchange_device": exchange,
        "_maybe_exchange_device": exchange,
    }
    for name, call in calls.items():
        patch.setattr(cuda, name, call)
    patch.setattr(torch, "Generator", Generator)
    return gpu


def _device(device: Any) -> torch.device:
    return torch.device("cuda" if device is None else device)


class Calls(TorchFunctionMode):
    """What must be seen before torch itself looks for a driver, or forgets whose numbers it has."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        source = kwargs.get("generator")
        if isinstance(source, Generator) and "device" in kwargs:
            kind = torch.device(kwargs["device"] or "cpu").type
            if source.kind != kind:
                raise RuntimeError(f"Expected a {kind} generator but found {source.kind}")
        if func is Tensor.new_tensor and isinstance(args[0], GpuTensor):
            like, *data = args
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            return self.__torch_function__(torch.tensor, types, tuple(data), kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            where = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(_indexed(where))
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], GpuTensor):
            place = args[0].place
            with torch.cuda.device(place.index):
                return func(args[0], _moved(args[1], place), *args[2:])
        if func is Tensor.to:
            args = tuple(map(_indexed, args))
            kwargs = {name: _indexed(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _indexed(value: Any) -> Any:
    if isinstance(value, (str, torch.device)) and torch.device(value).type == "cuda":
        return StandInGpu.current.index_of(torch.device(value))
    return value


def _moved(index: Any, place: torch.device) -> Any:
    """An index whose numbers, where they are in a list or an array, are copied to the device."""
    if isinstance(index, tuple):
        return tuple(_moved(part, place) for part in index)
    return torch.tensor(index).to(place) if isinstance(index, (list, np.ndarray)) else index


@contextmanager
def stand_in_gpu(patch: pytest.MonkeyPatch, devices: int = 2) -> Iterator[StandInGpu]:
    """A stand-in that is there for this thread."""
    with install(patch, devices) as gpu, Calls():
        yield gpu
