"""What only a GPU can show; tools/gpu_check.sh runs these together with a benchmark."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoding import GRIDS, outcome, positions
from toy_map import TINY
from toy_room import ToyRoom

from crossfire_core.config import GridConfig, LocalizationConfig
from crossfire_core.field import backends, encoding_torch
from crossfire_core.field.graphs import Graphed
from crossfire_core.field.layout import GridLayout
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.matching import _match_window_torch, match_window
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.training.progress import Progress
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import train_map

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
GPU = torch.device("cuda")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.mark.parametrize(
    "backend",
    ["torch", pytest.param("triton", marks=needs("triton")),
     pytest.param("tinycudann", marks=needs("tinycudann"))],
)  # fmt: skip
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_backend_gives_the_reference_values_and_gradients(
    backend: str, grid: str, features: int
) -> None:
    c = GRIDS[grid]
    layout = GridLayout.of(
        GridConfig(c.levels, features, c.log2_entries, c.base_resolution, c.per_level_scale)
    )
    expected = outcome(encoding_torch.encode, layout, positions())
    found = outcome(backends.encoder(backend, GPU), layout, positions().to(GPU))
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3)
    # a point on the face of a cell may be counted to either side of it
    close = torch.isclose(found[2], expected[2], rtol=1e-2, atol=1e-2).all(dim=1)
    assert float(close.float().mean()) > 0.97


@needs("tinycudann")
def test_tinycudann_without_gradients_agrees_in_half_precision() -> None:
    layout = GridLayout.of(GRIDS["both"])
    table = torch.randn(layout.parameters).half().float()
    with torch.no_grad():
        found = backends.encoder("tinycudann", GPU)(table.to(GPU), positions().to(GPU), layout)
    assert found.dtype == torch.float32
    expected = encoding_torch.encode(table, positions(), layout)
    torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-2)


def test_windows_are_matched_as_on_the_cpu() -> None:
    rng = torch.Generator().manual_seed(0)
    dense = torch.nn.functional.normalize(torch.randn(16, 30, 40, generator=rng), dim=0)
    centre = torch.rand(200, 2, generator=rng) * torch.tensor([40.0, 30.0])
    descriptors = torch.nn.functional.normalize(torch.randn(200, 16, generator=rng), dim=1)
    expected = _match_window_torch(descriptors, dense, centre, 4, 0.05)
    found = match_window(descriptors.to(GPU), dense.to(GPU), centre.to(GPU), 4)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_allclose(found.cell, expected.cell, atol=1e-3)


def test_a_graph_gives_what_the_function_gives() -> None:
    weights = torch.randn(64, 64, device=GPU)
    graphed = Graphed(lambda x: (torch.relu(x @ weights), x.sum(dim=1)))
    inputs = [torch.randn(1000, 64, device=GPU) for _ in range(4)]
    found = [graphed(x) for x in inputs]
    assert graphed.problem is None and any(graphed.recordings.values())
    for x, (a, b) in zip(inputs, found, strict=True):
        torch.testing.assert_close(a, torch.relu(x @ weights), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(b, x.sum(dim=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=needs(name)) for name in ("torch", "triton", "tinycudann")]
)
@pytest.mark.parametrize("device", [f"cuda:{i}" for i in range(torch.cuda.device_count())])
@torch.no_grad()
def test_an_encoding_is_recorded_and_follows_its_arguments(backend: str, device: str) -> None:
    layout = GridLayout.of(GRIDS["both"])
    table = torch.randn(layout.parameters).half().float()
    here, encode = table.to(device), backends.encoder(backend, torch.device(device))
    graphed = Graphed(lambda x: (encode(here, x, layout),))
    for _ in range(4):
        where = torch.rand(1000, 3)
        (found,) = graphed(where.to(device))
        expected = encoding_torch.encode(table, where, layout)
        torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-2)
    assert graphed.problem is None and any(graphed.recordings.values())


def test_what_waits_is_not_recorded_but_still_done() -> None:
    graphed = Graphed(lambda x: (x[x > 0],))
    for _ in range(3):
        x = torch.randn(100, device=GPU)
        assert torch.equal(graphed(x)[0], x[x > 0])
    assert graphed.problem is not None
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert float(torch.ones(3, device=GPU).sum()) == 3.0  # the GPU is fine afterwards


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "gpu.map"
    train_map(
        ToyRoom(12, depth=True), path, TINY,
        Course(400, holdout_every=4, use_depth=True, device="cuda"),
    )  # fmt: skip
    return path


def test_a_map_trained_on_the_gpu_localizes_on_both(trained: Path) -> None:
    frame = next(iter(ToyRoom(12).frames([4])))
    poses = []
    for device in ("cuda", "cpu"):
        neural_map = NeuralMap.load(trained, device=device)
        localizer = Localizer(neural_map, LocalizationConfig(points_along=48, min_inliers=20))
        prior = neural_map.header.views[3].map_from_camera
        for start in (prior, None):
            found = localizer.localize(frame.image, frame.camera, start)
            assert found.map_from_camera is not None
            poses.append(found.map_from_camera)
    assert poses[0].distance(poses[2])[0] < 0.1


def test_localization_is_recorded_and_stays_the_same(trained: Path) -> None:
    frame = next(iter(ToyRoom(12).frames([4])))
    neural_map = NeuralMap.load(trained, device="cuda")
    localizer = Localizer(neural_map, LocalizationConfig(points_along=48, min_inliers=20))
    prior = neural_map.header.views[3].map_from_camera
    poses = [localizer.localize(frame.image, frame.camera, prior).map_from_camera for _ in range(4)]
    for graphed in (localizer.finder._network, localizer.finder._surface):
        assert graphed.problem is None, graphed.problem
        assert any(graphed.recordings.values())
    assert poses[0] is not None and poses[3] is not None
    assert poses[0].distance(poses[3])[0] < 1e-3


def test_a_training_on_the_gpu_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "surfaces":
            raise KeyboardInterrupt

    def train(resume: bool, **options: object) -> None:
        train_map(
            ToyRoom(6, depth=True), tmp_path / "x.map", TINY,
            Course(200, use_depth=True, resume=resume, device="cuda"), **options,
        )  # type: ignore[arg-type]  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(False, on_progress=stop)
    train(True)
    assert (tmp_path / "x.map").is_file()
