"""Training, localization, save and load on a GPU, shown on a stand-in that is strict.

Once with the encoding in plain torch, once with tiny-cuda-nn's module as it behaves on a GPU.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tinycudann
import pytest
import torch
from fake_tinycudann import Encoding
from stand_in_gpu import ProcessEnds, StandInGpu, stand_in_gpu
from test_encoding import GRIDS, outcome, positions, table
from toy_map import TINY
from toy_room import ToyRoom

from crossfire_core.config import (
    FeatureConfig,
    FieldConfig,
    GridConfig,
    LocalizationConfig,
    RenderConfig,
)
from crossfire_core.errors import BackendError
from crossfire_core.field import backends, encoding_torch
from crossfire_core.field.graphs import Graphed
from crossfire_core.field.layout import GridLayout
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.rendering.renderer import Rays
from crossfire_core.training import checkpoint
from crossfire_core.training.descriptor_stage import (
    DescriptorStage,
    Surfaces,
    measure_surfaces,
)
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import Trainer

if torch.cuda.is_available():
    pytest.skip("there is a GPU: test_gpu.py shows it on that", allow_module_level=True)

BACKENDS = ("torch", "tinycudann")
CUDA = torch.device("cuda")
GRID = GridConfig(3, 2, 10, 4, 2.0)
SMALLEST = replace(
    TINY,
    field=FieldConfig(GRID, GRID, GRID, 16, 16, 16, 2, 16),
    render=RenderConfig(12, 6),
    geometry=replace(TINY.geometry, rays=24, patches=1, patch_size=4, depth_rays=32),
    descriptor=replace(TINY.descriptor, pixels=32, others=16),
    features=FeatureConfig(80, 16, 16),
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInGpu]:
    monkeypatch.setenv("CROSSFIRE_THREADS", "1")
    fake_tinycudann.install(monkeypatch)
    with stand_in_gpu(monkeypatch) as made:
        yield made


def trainer(path: Path, backend: str, device: str = "cuda", resume: bool = False) -> Trainer:
    config = replace(SMALLEST, backend=backend)
    made = Trainer(
        ToyRoom(4, depth=True),
        path / "x.map",
        config,
        Course(4, use_depth=True, resume=resume, device=device),
    )
    made.prepare()
    return made


def clear_surfaces(made: Trainer, device: str = "cuda") -> Surfaces:
    """As if all that the views see were clear: so few steps make none."""
    nodes = torch.rand(len(made.views), 5, 24, 32, generator=torch.Generator().manual_seed(0))
    nodes[:, 3:] = 1.0
    sizes = torch.tensor([[160.0, 120.0]] * len(made.views))
    return Surfaces(nodes.to(device), sizes.to(device))


# -- the stand-in itself -----------------------------------------------------------------------


def test_the_stand_in_refuses_what_a_gpu_refuses(gpu: StandInGpu) -> None:
    x = torch.arange(3.0, device="cuda")
    other = torch.ones(3, device="cuda:1")
    mixtures: list[Callable[[], object]] = [
        lambda: x + torch.ones(3), lambda: x + other, lambda: torch.ones(3)[x.long()],
        lambda: torch.stack([x[0], torch.tensor(1.0)]),
    ]  # fmt: skip
    for mixes in mixtures:
        with pytest.raises(RuntimeError, match="same device"):
            mixes()
    with pytest.raises(TypeError):
        x.numpy()
    with pytest.raises(RuntimeError, match="cuda generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    waits: list[Callable[[], object]] = [
        lambda: float(x[0]), lambda: x[x > 0.5], x.cpu, x.tolist, lambda: torch.ones(3).to("cuda"),
        lambda: torch.tensor([1.0], device="cuda"), x.nonzero, lambda: x[torch.tensor([1])],
        lambda: x.repeat_interleave(x.long()),
    ]  # fmt: skip
    for wait in waits:
        wait()
        with gpu.no_waits(), pytest.raises(RuntimeError, match="the host waits"):
            wait()
    assert (2 * x + x[0] * torch.tensor(1.0)).tolist() == [0.0, 2.0, 4.0]
    assert x[[2, 0]].tolist() == [2.0, 0.0]  # numbers of a list arrive there too
    other[[0]] = 5.0
    assert other.tolist() == [5.0, 1.0, 1.0]


# -- choosing a backend ------------------------------------------------------------------------


def test_auto_takes_tinycudann_once_it_has_run(gpu: StandInGpu) -> None:
    assert backends.encoder("auto", CUDA).__module__.endswith("tinycudann")
    assert backends.available(CUDA)["tinycudann"] == ""


def test_a_tinycudann_of_another_layout_is_passed_over(
    gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Encoding, "extra_parameters", 8)
    assert backends.encoder("auto", CUDA) is encoding_torch.encode
    assert "this tinycudann has" in caplog.text


# -- the encoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_are_those_of_the_cpu_on_every_gpu(
    backend: str, device: str, gpu: StandInGpu
) -> None:
    layout = GridLayout.of(GRIDS["both"])
    encode = backends.encoder(backend, torch.device(device))
    expected = outcome(encoding_torch.encode, layout, positions())
    # autograd runs on the device of its tensors
    with torch.cuda.device(torch.device(device).index):
        found = outcome(encode, layout, positions().to(device))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # while the first one is the current device
        values = encode(table(layout).to(device), positions().to(device), layout)
    torch.testing.assert_close(values.cpu(), expected[0], rtol=2e-2, atol=2e-2)
    assert values.dtype == torch.float32 and encode(
        table(layout).to(device), torch.zeros(0, 3, device=device), layout
    ).shape == (0, 12)


def test_too_wide_grids_are_refused_before_they_are_launched(gpu: StandInGpu) -> None:
    encode = backends.encoder("tinycudann", CUDA)
    fits, wide = (GridLayout.of(GridConfig(n, 8, 6, 4, 1.1)) for n in (16, 17))
    here = torch.zeros(1, 3, device="cuda")
    assert encode(torch.zeros(fits.parameters, device="cuda"), here, fits).shape == (1, 128)
    with pytest.raises(BackendError, match="17 levels of 8: use --backend triton or torch"):
        encode(torch.zeros(wide.parameters, device="cuda"), here, wide)


def test_two_maps_in_two_threads_keep_their_own_parameters(
    gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = GridLayout.of(GRIDS["dense"])
    encode = backends.encoder("tinycudann", CUDA)
    both_inside = threading.Barrier(2)

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):  # the other one waits outside, as it must
            both_inside.wait(timeout=0.2)

    where = torch.full((4, 3), 0.3, device="cuda")
    maps = [torch.full((layout.parameters,), value, device="cuda") for value in (1.0, 2.0)]
    encode(maps[0], where, layout)  # the module is made
    monkeypatch.setattr(fake_tinycudann, "before_parameters_are_read", meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda parameters: encode(parameters, where, layout), maps))
    assert [round(float(values.mean()), 3) for values in found] == [1.0, 2.0]


class Kernel:
    """As a kernel of Triton, which runs on the current device whatever its tensors lie on."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.launched: list[int] = []

    def __getitem__(self, programs: tuple[int, ...]) -> Callable[..., None]:
        return lambda points, *rest: self.launched.append(points.get_device() - gpu_index())


def gpu_index() -> int:
    return StandInGpu.current.index


def test_triton_launches_where_the_points_lie(
    gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    triton.jit, triton.cdiv = Kernel, lambda a, b: -(-a // b)  # type: ignore[attr-defined]
    triton.language, language.constexpr = language, int  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.language", language)
    name = "crossfire_core.field.encoding_triton"
    monkeypatch.setitem(sys.modules, name, triton)
    monkeypatch.delitem(sys.modules, name)
    module: Any = import_module(name)
    layout = GridLayout.of(GRIDS["both"])
    parameters = torch.zeros(layout.parameters, device="cuda:1", requires_grad=True)
    module.encode(parameters, torch.rand(5, 3).to("cuda:1"), layout).sum().backward()
    assert module._forward.launched == module._backward.launched == [0]
    assert gpu_index() == 0


# -- recording ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_an_encoding_is_recorded_and_follows_its_arguments(
    backend: str, device: str, gpu: StandInGpu
) -> None:
    layout = GridLayout.of(GRIDS["both"])
    parameters, encode = table(layout).to(device), backends.encoder(backend, torch.device(device))
    graphed = Graphed(lambda x: (encode(parameters, x, layout),))
    for _ in range(4):
        where = torch.rand(20, 3)
        (found,) = graphed(where.to(device))
        expected = encoding_torch.encode(table(layout), where, layout)
        torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-2)
    assert graphed.problem is None and any(graphed.recordings.values())


@torch.no_grad()
def test_the_stand_in_ends_where_a_stream_without_memory_is_recorded(gpu: StandInGpu) -> None:
    layout = GridLayout.of(GRIDS["both"])
    parameters, encode = table(layout).to("cuda"), backends.encoder("tinycudann", CUDA)
    with pytest.raises(ProcessEnds), torch.cuda.graph(torch.cuda.CUDAGraph()):
        encode(parameters, torch.rand(20, 3, device="cuda"), layout)


def test_a_refused_recording_gives_the_stream_back(gpu: StandInGpu) -> None:
    before = torch.cuda.current_stream()
    graphed = Graphed(lambda x: (x[x > 0],))
    for _ in range(3):
        assert graphed(torch.tensor([1.0, -1.0, 2.0]).to("cuda"))[0].tolist() == [1.0, 2.0]
    assert graphed.problem is not None
    assert torch.cuda.current_stream() is before


# -- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_wait_for_nothing_and_learn_what_the_cpu_learns(
    backend: str, gpu: StandInGpu, tmp_path: Path
) -> None:
    learned = []
    for device in ("cuda", "cpu"):
        made = trainer(tmp_path, backend if device == "cuda" else "torch", device)
        surfaces = clear_surfaces(made, device)
        second = DescriptorStage(made.field, made.network, made.views, surfaces, 1.0, made.config)
        for stage in (made.geometry, second):
            rng = torch.Generator().manual_seed(0)
            stage.step(1.0, rng)  # constants are copied once
            with gpu.no_waits() if device == "cuda" else nullcontext():
                stage.step(1.0, rng)
        learned.append({k: v.detach().cpu() for k, v in made.field.state_dict().items()})
    for name in ("geometry.grid", "proposal.network", "colour"):
        torch.testing.assert_close(learned[0][name], learned[1][name], rtol=1e-3, atol=1e-4)


def finished(made: Trainer, device: str) -> NeuralMap:
    """All of a training after its preparation."""
    made.learn_geometry()
    measured = measure_surfaces(made.renderer, made.views[:1], 16)
    assert bool(measured.nodes.isfinite().all())
    made.surfaces = clear_surfaces(made, device)
    made.find_surfaces()
    made.learn_descriptors()
    return made.finish()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_ends_with_the_map_that_the_cpu_makes(
    backend: str, gpu: StandInGpu, tmp_path: Path
) -> None:
    made = finished(trainer(tmp_path, backend), "cuda")
    expected = finished(trainer(tmp_path, "torch", "cpu"), "cpu")
    for name in ("words", "signatures", "points", "point_view"):
        found, right = getattr(made.places, name), getattr(expected.places, name)
        torch.testing.assert_close(found, right, rtol=0.1, atol=0.02)
    made.save(tmp_path / "x.map")
    for device in ("cuda:1", "cpu"):
        read = NeuralMap.load(tmp_path / "x.map", device, "torch")
        for name, values in made.field.state_dict().items():
            found = read.field.state_dict()[name]
            assert found.device == torch.device(device)
            torch.testing.assert_close(found.cpu(), values.cpu(), rtol=1e-2, atol=1e-5)


def test_a_training_is_taken_up_where_it_was_stopped(gpu: StandInGpu, tmp_path: Path) -> None:
    stopped = trainer(tmp_path, "tinycudann")
    stopped.learn_geometry()
    stopped.surfaces = clear_surfaces(stopped)
    checkpoint.save_training(stopped)
    went_on = trainer(tmp_path, "tinycudann", resume=True)
    went_on.find_surfaces()
    assert went_on.geometry_budget.over
    for made in (stopped, went_on):
        made.learn_descriptors()
    for name, values in stopped.network.state_dict().items():
        assert torch.equal(values.cpu(), went_on.network.state_dict()[name].cpu()), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rays_in_nothing_out(backend: str, gpu: StandInGpu, tmp_path: Path) -> None:
    made = trainer(tmp_path, backend)
    none = Rays(torch.zeros(0, 3, device="cuda"), torch.zeros(0, 3, device="cuda"))
    outcomes = (*made.renderer.surface(none), *made.renderer.colours(none))
    assert [len(t) for t in outcomes] == 6 * [0]


# -- localization ------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "device"), [("torch", "cuda:0"), ("tinycudann", "cuda:1")])
def test_a_map_localizes_and_is_saved_as_on_the_cpu(
    backend: str, device: str, gpu: StandInGpu, toy_map: Path, tmp_path: Path
) -> None:
    frame = next(iter(ToyRoom(30).frames([0])))
    assert frame.world_from_camera is not None
    neural_map = NeuralMap.load(toy_map, device, backend)
    localizer = Localizer(neural_map, LocalizationConfig(points_along=20, min_inliers=12))
    for prior in (frame.world_from_camera, frame.world_from_camera, None):
        found = localizer.localize(frame.image, frame.camera, prior)
        assert found.ok and found.map_from_camera is not None
        metres, radians = found.map_from_camera.distance(frame.world_from_camera)
        assert metres < 0.02 and radians < 0.01
    for graphed in (localizer.finder._network, localizer.finder._surface):
        assert graphed.problem is None and any(graphed.recordings.values())
    neural_map.save(tmp_path / "gpu.map")
    NeuralMap.load(toy_map, "cpu").save(tmp_path / "cpu.map")
    assert (tmp_path / "gpu.map").read_bytes() == (tmp_path / "cpu.map").read_bytes()
