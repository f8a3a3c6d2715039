"""The parameter layout: a map trained by one backend loads in every other only if this holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from crossfire_core.config import GridConfig
from crossfire_core.field import networks
from crossfire_core.field.layout import GridLayout, NetworkLayout, pad16


def test_grid_of_instant_ngp_has_the_published_size() -> None:
    layout = GridLayout.of(GridConfig(16, 2, 19, 16, 1.38191))
    assert layout.parameters == 12_196_240
    assert layout.width == 32


def test_grid_of_tiny_cuda_nns_own_test_has_its_size_and_offsets() -> None:
    layout = GridLayout.of(GridConfig(20, 2, 16, 32, 1.5))
    assert layout.parameters == 2_555_904
    assert layout.offset[:3].tolist() == [0, 32_768, 98_304]
    assert layout.dense.tolist() == [True] + [False] * 19


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [
        (NetworkLayout(inputs=32, outputs=16, hidden=64, hidden_layers=1), 3_072),
        (NetworkLayout(inputs=32, outputs=3, hidden=64, hidden_layers=2), 7_168),
    ],
)
def test_networks_of_instant_ngp_have_the_published_sizes(
    layout: NetworkLayout, parameters: int
) -> None:
    assert layout.parameters == parameters


def test_levels_lie_one_after_the_other_and_start_at_multiples_of_eight() -> None:
    layout = GridLayout.of(GridConfig(8, 4, 14, 5, 1.7))
    assert layout.offset[0] == 0
    np.testing.assert_array_equal(np.diff(layout.offset), layout.entries[:-1])
    assert not (layout.offset % 8).any()
    hashed = layout.entries[~layout.dense]
    assert len(hashed) and (hashed == 1 << 14).all()  # the modulo of hashed levels is a mask
    assert (layout.entries >= layout.resolution**3)[layout.dense].all()


def test_scale_is_computed_in_single_precision() -> None:
    layout = GridLayout.of(GridConfig(16, 2, 19, 16, 1.3819129))
    assert layout.scale.dtype == np.float32
    exact = 16.0 * 1.3819129 ** np.arange(16) - 1.0
    np.testing.assert_allclose(layout.scale, exact, rtol=1e-5)
    np.testing.assert_array_equal(layout.resolution, np.ceil(layout.scale).astype(int) + 1)


def test_a_layout_does_not_depend_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's float32 functions may be off in the last bit, which adds a vertex here."""

    def off_by_a_bit(exact: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def rough(x: Any) -> Any:
            value = exact(x)
            single = value.dtype == np.float32
            return np.nextafter(value, np.float32(np.inf)) if single else value

        return rough

    monkeypatch.setattr(np, "exp2", off_by_a_bit(np.exp2))
    monkeypatch.setattr(np, "log2", off_by_a_bit(np.log2))
    layout = GridLayout.of(GridConfig(8, 4, 16, 16, 2.0))
    assert layout.scale.tolist() == [16 * 2**level - 1 for level in range(8)]
    assert layout.resolution.tolist() == [16 * 2**level for level in range(8)]


@pytest.mark.parametrize(("width", "padded"), [(1, 16), (16, 16), (17, 32), (48, 48)])
def test_widths_are_padded_to_multiples_of_sixteen(width: int, padded: int) -> None:
    assert pad16(width) == padded


def test_network_multiplies_its_matrices_in_order() -> None:
    layout = NetworkLayout(inputs=32, outputs=5, hidden=16, hidden_layers=2)
    parameters = torch.randn(layout.parameters)
    first = parameters[: 16 * 32].view(16, 32)
    second = parameters[16 * 32 : 16 * 48].view(16, 16)
    last = parameters[16 * 48 :].view(16, 16)[:5]
    inputs = torch.randn(7, 32)
    expected = (torch.relu(torch.relu(inputs @ first.T) @ second.T)) @ last.T
    torch.testing.assert_close(networks.evaluate(parameters, inputs, layout), expected)


def test_missing_inputs_are_ones() -> None:
    layout = NetworkLayout(inputs=20, outputs=16, hidden=16, hidden_layers=1)
    parameters = torch.randn(layout.parameters)
    inputs = torch.randn(3, 20)
    wide = torch.cat([inputs, torch.ones(3, 12)], dim=1)
    whole = NetworkLayout(32, 16, 16, 1)
    torch.testing.assert_close(
        networks.evaluate(parameters, inputs, layout), networks.evaluate(parameters, wide, whole)
    )


def test_networks_start_within_xaviers_bounds() -> None:
    layout = NetworkLayout(32, 16, 64, 1)
    parameters = networks.initial_parameters(layout, torch.Generator().manual_seed(0))
    first, last = networks.matrices(parameters, layout)
    for matrix in (first, last):
        bound = (6.0 / sum(matrix.shape)) ** 0.5
        assert 0.9 * bound < float(matrix.abs().max()) <= bound
