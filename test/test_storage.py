"""Grids in eight bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfire_core.maps.storage import BLOCK, as_stored, pack


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5 * BLOCK), st.floats(1e-4, 1e3))
def test_every_number_comes_back_within_a_half_step_of_its_block(seed, count, size):
    grid = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * size
    back = as_stored(grid)
    for start in range(0, count, BLOCK):
        block, stored = grid[start : start + BLOCK], back[start : start + BLOCK]
        step = float(block.abs().max()) / 127
        assert (block - stored).abs().max() <= 0.51 * step + 2.0**-24 * 127


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3 * BLOCK))
def test_storing_what_was_read_changes_nothing(seed, count):
    once = as_stored(torch.randn(count, generator=torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(as_stored(once), once, rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_blocks_of_almost_nothing_stay_finite(value):
    packed, scale = pack(torch.full((BLOCK + 3,), value))
    assert packed.shape == (BLOCK + 3,) and scale.shape == (2,)
    assert torch.isfinite(as_stored(torch.full((BLOCK + 3,), value))).all()
