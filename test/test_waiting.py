"""What is done over and over on a GPU never waits for it, shown without one.

The meta device stands in for the GPU: its tensors have shapes and no values, so whatever reads a
value, or makes a shape depend on one, fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_training import TINY
from torch import Tensor
from torch.overrides import TorchFunctionMode
from toy_room import ToyRoom

from crossfire_core.config import LocalizationConfig
from crossfire_core.field import encoding_torch, graphs, networks, precision
from crossfire_core.field.graphs import Graphed
from crossfire_core.field.layout import NetworkLayout
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training import descriptor_stage, geometry_stage
from crossfire_core.training.descriptor_stage import DescriptorStage, Surfaces
from crossfire_core.training.geometry_stage import GeometryStage
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import Trainer
from crossfire_core.training.views import RayTable

META = torch.device("meta")


class NoCopies(TorchFunctionMode):
    """Refuses to make tensors on the device from numbers of the host: it copies and waits."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        copies = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        moves = func in (torch.Tensor.to, torch.Tensor.cuda) and args[0].device != META
        if (copies or moves) and isinstance(out, Tensor):
            assert out.device != META, "numbers of the host were copied to the device"
        return out


@pytest.fixture
def trainer(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A training before its second stage; its random numbers come from anywhere."""
    made = Trainer(
        ToyRoom(4, depth=True), tmp_path / "x.map", TINY, Course(4, use_depth=True, device="cpu")
    )
    made.prepare()
    made.field.set_encoder(encoding_torch.encode)
    nodes = torch.rand(len(made.views), 5, 24, 32)
    nodes[:, 3:] = 1.0  # all clear
    made.surfaces = Surfaces(nodes, torch.tensor([[160.0, 120.0]] * len(made.views)))
    for module in (geometry_stage, descriptor_stage):
        monkeypatch.setattr(module, "generator", lambda device, seed: None)
    return made


@pytest.fixture
def meta_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's fused kernel does not know the meta device."""
    plain = torch.optim.Adam

    def adam(*args: Any, fused: bool, **options: Any) -> torch.optim.Adam:
        return plain(*args, foreach=True, capturable=False, **options)

    monkeypatch.setattr(torch.optim, "Adam", adam)


@pytest.fixture
def stages(trainer: Trainer, meta_optimizer: None) -> dict[str, Any]:
    """Both stages, with everything that would be on the GPU on the meta device."""
    surfaces = trainer.surfaces
    assert surfaces is not None
    second = DescriptorStage(
        trainer.field, trainer.network, trainer.views, surfaces, 1.0, trainer.config
    )
    field, network = trainer.field.to(META), trainer.network.to(META)
    first = GeometryStage(field, RayTable(trainer.views, META), trainer.survey, trainer.config)
    moved = DescriptorStage.__new__(DescriptorStage)
    vars(moved).update(vars(second), device=META, field=field, network=network, shares=1)
    moved.surfaces = Surfaces(surfaces.nodes.to(META), surfaces.sizes.to(META))
    moved.bank = second.bank.to(META)
    moved.images = [(image.to(META), scale) for image, scale in second.images]
    moved.parameters = [field.descriptor.grid, field.descriptor.network, *network.parameters()]
    moved.optimizer = torch.optim.Adam(moved.parameters, lr=1e-3, fused=True)
    moved.rates = [1e-3]
    return {"geometry": first, "descriptors": moved}


@pytest.mark.parametrize("stage", ["geometry", "descriptors"])
def test_a_training_step_never_waits_for_the_device(stages: dict[str, Any], stage: str) -> None:
    rng = torch.Generator().manual_seed(0)
    stages[stage].step(1.0, rng)  # constants are copied once
    with NoCopies():
        figures = stages[stage].step(1.0, rng)
    assert all(value.device == META and value.shape == () for value in figures.values())


def test_the_meta_device_notices_what_waits() -> None:
    values = torch.rand(3, device=META)
    for waits in (lambda: float(values[0]), lambda: values[values > 0.5], values.tolist):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits()
    for copies in (
        lambda: values.new_tensor([1.0, 2.0]),
        lambda: torch.tensor([1.0], device=META),
        lambda: torch.ones(3).to(META),
    ):
        with pytest.raises(AssertionError), NoCopies():
            copies()


@torch.no_grad()
def test_rendering_a_view_and_describing_an_image_never_wait(
    trainer: Trainer, tmp_path: Any
) -> None:
    with torch.enable_grad():
        trainer.learn_descriptors()
    neural_map = trainer.finish()
    neural_map.save(tmp_path / "y.map")
    neural_map = NeuralMap.load(tmp_path / "y.map", device="cpu", backend="torch")
    localizer = Localizer(neural_map, LocalizationConfig(points_along=24))
    localizer.finder.renderer = Renderer(
        neural_map.field.to(META), neural_map.header.spacing, neural_map.header.render
    )
    seen = localizer.finder._seen
    seen._seen = seen._seen.to(META)
    camera = neural_map.header.camera
    bearings = torch.zeros(len(camera.pixel_grid(24, 18)), 3, device=META)
    look: tuple[Tensor, ...] = (bearings, torch.eye(3, device=META), torch.zeros(3, device=META))
    network = neural_map.network.to(META)
    image = torch.zeros(1, 3, 120, 160, device=META)
    for _ in warm_then_strict():
        points, clear = localizer.finder._clear_surface(*look)
        assert points.shape == bearings.shape and clear.shape == bearings.shape[:1]
        assert network(image).shape == (1, neural_map.header.field.descriptor_size, 60, 80)


def warm_then_strict() -> Iterator[None]:
    """Once as it comes, once more without copies from the host."""
    yield
    with NoCopies():
        yield


# -- recordings --------------------------------------------------------------------------------


class FakeGraph:
    """Stands in for a recorded graph: replaying runs the function on the kept tensors."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.function, self.count = function, 0
        self.inputs: list[Tensor] = []
        self.outputs: tuple[Tensor, ...] = ()

    def replay(self) -> None:
        self.count += 1
        for kept, new in zip(self.outputs, self.function(*self.inputs), strict=True):
            kept.copy_(new)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Recording works as on a GPU, on the CPU; all recordings made."""
    made: list[FakeGraph] = []

    def record(function: Any, inputs: Any) -> Any:
        graph = FakeGraph(function)
        graph.inputs = [t.clone() for t in inputs]
        graph.outputs = tuple(t.clone() for t in function(*graph.inputs))
        made.append(graph)
        return graphs._Recording(graph, graph.inputs, graph.outputs)  # type: ignore[arg-type]

    monkeypatch.setattr(graphs, "can_record", lambda device: True)
    monkeypatch.setattr(graphs, "record", record)
    return made


def test_a_recording_is_made_at_the_second_call_and_follows_its_arguments(
    recorded: list[FakeGraph],
) -> None:
    twice = Graphed(lambda x, y: (2 * x + y,))
    kept = []
    for i in range(4):
        (out,) = twice(torch.full((3,), float(i)), torch.ones(3))
        kept.append(out)
        assert len(recorded) == (i > 0)
    assert [float(out[0]) for out in kept] == [1.0, 3.0, 5.0, 7.0]  # none written over
    twice(torch.ones(5), torch.ones(5))
    assert len(recorded) == 1  # other shapes are another recording, at their second call
    twice(torch.ones(5), torch.ones(5))
    assert len(recorded) == 2


def test_recordings_do_not_pile_up(recorded: list[FakeGraph]) -> None:
    same = Graphed(lambda x: (x,))
    for size in range(1, 40):
        assert len(same(torch.ones(size))[0]) == len(same(torch.ones(size))[0]) == size
        assert len(same.recordings) <= 8


def test_what_cannot_be_recorded_is_called(
    recorded: list[FakeGraph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(function: Any, inputs: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "record", refuse)
    double = Graphed(lambda x: (2 * x,))
    assert [float(double(torch.tensor([float(i)]))[0]) for i in range(4)] == [0.0, 2.0, 4.0, 6.0]
    assert caplog.text.count("operation not permitted") == 1 and "more" not in caplog.text


def test_nothing_is_recorded_on_a_cpu() -> None:
    double = Graphed(lambda x: (2 * x,))
    for _ in range(3):
        double(torch.ones(2))
    assert not double.recordings


def test_short_products_give_nearly_the_same_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU while it trains; here the CPU's bfloat16 stands in for the GPU's."""
    layout = NetworkLayout(32, 16, 64, 1)
    rng = torch.Generator().manual_seed(0)
    weights = networks.initial_parameters(layout, rng).requires_grad_()
    inputs = torch.randn(500, 32, generator=rng, requires_grad=True)
    upstream = torch.randn(500, 16, generator=rng)
    found = []
    for short in (False, True):
        if short:
            monkeypatch.setattr(
                networks, "short_products", lambda device: torch.autocast("cpu", torch.bfloat16)
            )
        out = networks.evaluate(weights, inputs, layout)
        assert out.dtype == torch.float32
        found.append((out, *torch.autograd.grad(out, (weights, inputs), upstream)))
    for exact, rough in zip(*found, strict=True):
        assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
        assert float((exact - rough).detach().norm() / exact.detach().norm()) < 0.05


def test_products_are_short_only_on_a_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: (kind, dtype))
    is_short = lambda name: isinstance(  # noqa: E731
        precision.short_products(torch.device(name)), tuple
    )
    assert is_short("cuda") and not is_short("cpu")
    with torch.no_grad():
        assert not is_short("cuda")
