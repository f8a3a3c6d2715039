"""The hash encoding: fast backends against the readable one, values and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossfire_core.config import GridConfig
from crossfire_core.errors import BackendError
from crossfire_core.field import backends, encoding_numba, encoding_torch, threads
from crossfire_core.field.constants import constant
from crossfire_core.field.layout import GridLayout
from crossfire_core.registry import Registry

GRIDS = {
    "dense": GridConfig(3, 2, 16, 4, 1.5),
    "hashed": GridConfig(4, 2, 6, 8, 1.9),
    "both": GridConfig(6, 2, 10, 4, 1.6),
}
CPU = torch.device("cpu")


def positions(count: int = 300) -> Tensor:
    """Points inside the unit cube, and all its corners (no slope is defined on cell faces)."""
    inside = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)], dtype=torch.float32)
    return torch.cat([inside, corners])


def table(layout: GridLayout, seed: int = 0) -> Tensor:
    return torch.randn(layout.parameters, generator=torch.Generator().manual_seed(seed))


def outcome(encode: backends.Encoder, layout: GridLayout, where: Tensor) -> list[Tensor]:
    """Values, and the gradients in the table and in the positions."""
    parameters = table(layout).to(where.device).requires_grad_()
    points = where.clone().requires_grad_()
    out = encode(parameters, points, layout)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.device)
    grads = torch.autograd.grad(out, (parameters, points), upstream)
    return [t.detach().cpu() for t in (out, *grads)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_numba_gives_the_reference_values_and_gradients(grid: str, features: int) -> None:
    config = GRIDS[grid]
    layout = GridLayout.of(
        GridConfig(
            config.levels, features, config.log2_entries, config.base_resolution,
            config.per_level_scale,
        )
    )  # fmt: skip
    reference = outcome(encoding_torch.encode, layout, positions())
    fast = outcome(encoding_numba.encode, layout, positions())
    for found, expected in zip(fast, reference, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_gradient_that_is_not_asked_for_is_not_made() -> None:
    layout = GridLayout.of(GRIDS["both"])
    for encode in (encoding_torch.encode, encoding_numba.encode):
        where = positions().requires_grad_()
        encode(table(layout), where, layout).sum().backward()
        assert where.grad is not None
        parameters = table(layout).requires_grad_()
        encode(parameters, positions(), layout).sum().backward()
        assert parameters.grad is not None


def test_the_far_corner_wraps_and_reads_nothing_outside_its_level() -> None:
    """At x = 1 the last vertex of a dense level may lie one past it: it wraps, it is not cut."""
    layout = GridLayout.of(GridConfig(1, 1, 16, 4, 1.0))  # scale 3, 4 vertices, 64 entries
    parameters = torch.arange(64.0)
    far = torch.tensor([[1.0, 1.0, 1.0]])
    # p = 3.5 on every axis: cell 3, half way to vertex 4, whose index is taken modulo 64
    corners = [(3 + i) + (3 + j) * 4 + (3 + k) * 16 for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    expected = float(np.mean([c % 64 for c in corners]))
    for encode in (encoding_torch.encode, encoding_numba.encode):
        assert float(encode(parameters, far, layout)) == pytest.approx(expected)


def test_hash_is_the_published_one() -> None:
    layout = GridLayout.of(GridConfig(1, 1, 4, 16, 1.0))
    assert not layout.dense[0]
    where = torch.tensor([[0.43, 0.71, 0.2]])
    cell = np.floor(where.numpy()[0] * 15 + 0.5).astype(np.uint64)
    entry = int(cell[0] ^ (cell[1] * 2654435761) % 2**32 ^ (cell[2] * 805459861) % 2**32) % 16
    for encode in (encoding_torch.encode, encoding_numba.encode):
        parameters = torch.zeros(16, requires_grad=True)
        (grad,) = torch.autograd.grad(encode(parameters, where, layout).sum(), parameters)
        assert float(grad.sum()) == pytest.approx(1.0, abs=1e-5)  # the 8 weights share one point
        assert float(grad[entry]) > 0


def test_a_linear_function_is_interpolated_exactly() -> None:
    layout = GridLayout.of(GridConfig(1, 1, 16, 9, 1.0))  # one dense level with scale 8
    index = torch.arange(layout.resolution[0] ** 3)
    side = int(layout.resolution[0])
    x, y, z = index % side, index // side % side, index // side**2
    parameters = torch.zeros(layout.parameters)
    parameters[: len(index)] = (2.0 * x - 3.0 * y + z).float()
    where = torch.rand(100, 3) * 0.9
    p = where * 8 + 0.5
    expected = 2.0 * p[:, 0] - 3.0 * p[:, 1] + p[:, 2]
    for encode in (encoding_torch.encode, encoding_numba.encode):
        found = encode(parameters, where, layout)[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_reference_gradient_in_the_position_is_the_slope() -> None:
    layout = GridLayout.of(GridConfig(3, 2, 8, 4, 1.5))
    parameters = table(layout).double()
    where = (torch.rand(20, 3, dtype=torch.float64) * 0.98 + 0.01).requires_grad_()
    out = encoding_torch.encode(parameters, where, layout)
    (slope,) = torch.autograd.grad(out.sum(), where)
    step = 1e-6
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        ahead = encoding_torch.encode(parameters, where.detach() + shift, layout).sum(dim=1)
        behind = encoding_torch.encode(parameters, where.detach() - shift, layout).sum(dim=1)
        numeric = (ahead - behind) / (2 * step)
        torch.testing.assert_close(slope[:, axis], numeric, rtol=1e-5, atol=1e-4)


def test_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = GridLayout.of(GRIDS["both"])
    where = positions(3000)
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("CROSSFIRE_THREADS", count)
        assert threads.thread_count() == int(count)
        parameters = table(layout).requires_grad_()
        out = encoding_numba.encode(parameters, where, layout)
        (grad,) = torch.autograd.grad(out.square().sum(), parameters)
        found.append((out.detach(), grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_no_points_give_an_empty_encoding() -> None:
    layout = GridLayout.of(GRIDS["both"])
    for encode in (encoding_torch.encode, encoding_numba.encode):
        assert encode(table(layout), torch.zeros(0, 3), layout).shape == (0, 12)


def test_constants_are_never_let_go() -> None:
    """A CUDA graph goes on reading the memory that was there when it was recorded."""
    first = constant((0.1, -0.2), torch.zeros(1))
    for number in range(1000):
        constant((float(number),), torch.zeros(1))
    assert constant((0.1, -0.2), torch.zeros(1)) is first


# -- Triton, interpreted -----------------------------------------------------------------------


@pytest.mark.skipif(
    find_spec("triton") is None, reason="package triton is not installed: pip install .[gpu]"
)
def test_triton_kernels_give_the_reference_values_and_gradients() -> None:
    """Interpreted on the CPU, in a process of its own: the switch is read when it is imported."""
    script = Path(__file__).with_name("triton_interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout)
    assert len(errors) >= 6
    for name, error in errors.items():
        assert max(error.values()) < 1e-3, (name, error)


# -- golden vectors ----------------------------------------------------------------------------


def golden_tool() -> ModuleType:
    file = Path(__file__).parent.parent / "tools" / "golden_vectors.py"
    spec = spec_from_file_location("golden_vectors", file)
    assert spec is not None and spec.loader is not None
    sys.modules["golden_vectors"] = module = module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


GOLDEN = golden_tool()
OWN = Path(__file__).with_name("golden") / "encoding.npz"


def assert_golden(path: Path) -> set[str]:
    """Compare every grid of a file; their names."""
    names = set()
    for case in GOLDEN.read(path):
        names.add(case.name)
        ends = [*case.layout.offset.tolist(), int(case.layout.entries.sum())]
        assert case.offsets.tolist() == ends, case.name
        np.testing.assert_allclose(case.layout.scale, case.scale, rtol=1.2e-7)  # the last bit
        layout = replace(case.layout, scale=case.scale)
        for encode in (encoding_torch.encode, encoding_numba.encode):
            assert max(GOLDEN.differences(encode, case, layout, CPU)) < 1e-5, case.name
        if "default" in case.name:
            np.testing.assert_array_equal(case.layout.scale, case.scale)
    return names


def test_golden_vectors_of_this_program() -> None:
    assert assert_golden(OWN) == set(GOLDEN.GRIDS)


def test_golden_vectors_of_tiny_cuda_nn(data_dir: Path) -> None:
    path = data_dir / "tcnn_golden.npz"
    if not path.is_file():
        pytest.skip(f"no golden vectors of tiny-cuda-nn: {path}")
    names = assert_golden(path)
    assert {f"{name} (default)" for name in ("proposal", "geometry", "descriptor")} < names


def test_golden_vectors_are_written_as_they_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GOLDEN.write(tmp_path / "again.npz")
    assert_golden(tmp_path / "again.npz")
    GOLDEN.compare(OWN, tmp_path / "figures.json")
    assert "numba: values" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["torch"]) == set(GOLDEN.GRIDS)
    assert max(figures["torch"]["odd base"]) < 1e-5


# -- choosing a backend ------------------------------------------------------------------------


def test_auto_takes_numba_on_a_cpu_and_torch_where_numba_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert backends.encoder("auto", CPU) is encoding_numba.encode
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.encoder("auto", CPU) is encoding_torch.encode


def test_reasons_name_what_is_missing() -> None:
    reasons = backends.available(CPU)
    assert reasons["torch"] == "" and reasons["numba"] == ""
    assert reasons["tinycudann"] == reasons["triton"] == "needs a CUDA device"
    assert backends.available(torch.device("cuda"))["numba"] == "runs on the CPU only"


@pytest.mark.parametrize("name", ["tinycudann", "triton"])
def test_a_gpu_backend_is_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(
        BackendError, match=f"backend {name} cannot run on cpu: needs a CUDA.*; use --backend auto"
    ):
        backends.encoder(name, CPU)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(BackendError, match="not known"):
        backends.encoder("abacus", CPU)


def encoders(monkeypatch: pytest.MonkeyPatch, **found: backends.Encoder | Exception) -> None:
    """Every package is installed; what loading or launching each gives. Tensors stay here."""

    def load(_: Registry, name: str) -> backends.Encoder:
        chosen = found.get(name, encoding_torch.encode)
        if isinstance(chosen, Exception):
            raise chosen
        return chosen

    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    monkeypatch.setattr(Registry, "load", load)
    monkeypatch.setattr(Tensor, "to", lambda tensor, *where: tensor)


def without_compiler(*arguments: Any) -> Tensor:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def of_another_layout(parameters: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    return encoding_torch.encode(parameters.flip(0), positions, layout)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError("built for another GPU\nand more"), "built for another GPU"),
        (ImportError("no driver"), "no driver"),
        (NameError(), "NameError"),
        (without_compiler, "Failed to find C compiler"),
        (of_another_layout, "its values are not those of the layout"),
    ],
)
def test_what_does_not_run_is_passed_over_or_refused_and_says_why(
    fault: Any, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = torch.device("cuda")
    encoders(monkeypatch, tinycudann=OSError("no such GPU"), triton=fault)
    assert backends.encoder("auto", gpu) is encoding_torch.encode
    passed = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in passed] == ["tinycudann", "triton"]
    assert said in passed[1] and "more" not in passed[1]
    assert said in backends.available(gpu)["triton"]
    with pytest.raises(BackendError, match=f"backend triton .*{said}.*; use --backend auto"):
        backends.encoder("triton", gpu)


def test_a_gpu_on_which_nothing_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = RuntimeError("no kernel image is available")
    encoders(monkeypatch, tinycudann=fault, triton=fault, torch=fault)
    with pytest.raises(BackendError, match=r"no backend runs on cuda .*kernel image.*--device cpu"):
        backends.encoder("auto", torch.device("cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_is_refused_without_a_gpu() -> None:
    with pytest.raises(BackendError, match="--device cpu"):
        backends.resolve_device("cuda")
    assert backends.resolve_device("auto") == CPU


@pytest.mark.parametrize("name", ["abacus", "meta", "cuda:one"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(BackendError, match="use auto, cpu, cuda or cuda:N"):
        backends.resolve_device(name)


def test_a_second_gpu_is_taken_and_a_missing_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert backends.resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(BackendError, match="no device cuda:2: the last one is cuda:1"):
        backends.resolve_device("cuda:2")
