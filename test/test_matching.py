"""Matching: kernels against their twin, and shifts that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crossfire_core.localization.matching import (
    CellMatches,
    _match_window_torch,
    match_everywhere,
    match_wide,
    match_window,
)

ROWS, COLUMNS, SIZE = 40, 56, 32


def smooth(where: Tensor) -> Tensor:
    """Unit descriptors ``[n, SIZE]`` that vary smoothly over a plane and never repeat nearby."""
    rng = torch.Generator().manual_seed(3)
    waves = torch.randn(2, SIZE, generator=rng) * 0.5
    phases = torch.rand(SIZE, generator=rng) * 2 * torch.pi
    return functional.normalize(torch.cos(where @ waves + phases), dim=1)


def grid() -> tuple[Tensor, Tensor]:
    """Cells ``[n, 2]`` and the dense descriptors ``[SIZE, ROWS, COLUMNS]`` at them."""
    y, x = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    cells = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
    return cells, smooth(cells).T.reshape(SIZE, ROWS, COLUMNS).contiguous()


def random_cells(count: int, border: float = 4.0) -> Tensor:
    rng = torch.Generator().manual_seed(5)
    room = torch.tensor([COLUMNS - 1 - 2 * border, ROWS - 1 - 2 * border])
    return torch.rand(count, 2, generator=rng) * room + border


def assert_same(a: CellMatches, b: CellMatches) -> None:
    np.testing.assert_array_equal(a.index, b.index)
    np.testing.assert_allclose(a.cell, b.cell, atol=2e-3)
    np.testing.assert_allclose(a.similarity, b.similarity, atol=1e-5)
    np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)


@pytest.mark.parametrize("radius", [2, 5])
@pytest.mark.parametrize("structured", [True, False])
def test_kernel_and_twin_agree_everywhere_in_and_around_the_image(
    radius: int, structured: bool
) -> None:
    _, dense = grid()
    rng = torch.Generator().manual_seed(1)
    if not structured:
        dense = functional.normalize(torch.randn(dense.shape, generator=rng), dim=0)
    centre = torch.rand(400, 2, generator=rng) * torch.tensor([COLUMNS + 20.0, ROWS + 20.0]) - 10
    descriptors = smooth(centre + 0.7)
    found = match_window(descriptors, dense, centre, radius)
    twin = _match_window_torch(descriptors, dense, centre, radius, 0.05)
    assert 20 < len(found.index) < 400
    assert_same(found, twin)


def test_sub_cell_positions_are_recovered() -> None:
    _, dense = grid()
    truth = random_cells(300)
    expected = truth + torch.tensor([1.3, -0.8])  # a prior that is off
    found = match_window(smooth(truth), dense, expected, radius=4)
    assert len(found.index) == 300
    error = np.abs(found.cell - truth.numpy()[found.index])
    whole = np.abs(np.rint(truth.numpy()) - truth.numpy())
    assert np.median(error) < 0.1 < 0.5 * np.median(whole)
    assert error.max() < 0.5
    assert found.similarity.min() > 0.9
    assert (found.confidence > 0).all() and (found.confidence <= 1).all()


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.35])
def test_a_smooth_peak_between_cells_is_found_exactly(shift: float) -> None:
    """One bump in the similarity, whose top is known."""
    x = torch.arange(15.0)[None, :].expand(15, -1)
    y = torch.arange(15.0)[:, None].expand(-1, 15)
    cosine = 1.0 - 0.01 * ((x - 7 - shift) ** 2 + (y - 7 + 0.4 * shift) ** 2)
    dense = torch.stack([cosine, (1 - cosine**2).clamp_min(0).sqrt()])
    found = match_window(torch.tensor([[1.0, 0.0]]), dense, torch.tensor([[6.0, 8.0]]), radius=3)
    np.testing.assert_allclose(found.cell[0], [7 + shift, 7 - 0.4 * shift], atol=1e-3)


def test_a_wide_window_is_searched_as_exactly_as_a_narrow_one() -> None:
    _, dense = grid()
    truth = random_cells(300)
    expected = truth + torch.tensor([9.3, -7.8])
    found = match_wide(smooth(truth), dense, expected, radius=14)
    error = np.abs(found.cell - truth.numpy()[found.index])
    narrow = match_window(smooth(truth), dense, truth, radius=4)
    exact = np.abs(narrow.cell - truth.numpy()[narrow.index])
    assert len(found.index) > 250
    assert np.median(error) < 1.05 * np.median(exact)
    assert (error < 0.5).mean() > 0.98
    assert (found.confidence > 0).all() and (found.confidence <= 1).all()


def test_a_point_outside_the_window_is_not_matched_to_its_edge() -> None:
    _, dense = grid()
    truth = random_cells(200, border=12.0)
    found = match_window(smooth(truth), dense, truth + 9.0, radius=3)
    near = np.abs(found.cell - truth.numpy()[found.index]).max(axis=1) < 1.0
    assert not near.any()
    away = np.abs(found.cell - (truth.numpy()[found.index] + 9.0)).max(axis=1)
    assert (away < 3.5).all()


def test_nothing_is_matched_outside_the_image_or_for_a_nan() -> None:
    _, dense = grid()
    far = torch.tensor([[-500.0, 3.0], [3.0, 1e6], [1e6, 1e6], [float("nan"), 2.0]])
    assert len(match_window(smooth(torch.zeros(4, 2)), dense, far, radius=3).index) == 0


def test_matching_without_any_descriptors_finds_nothing() -> None:
    _, dense = grid()
    assert len(match_window(torch.zeros(0, SIZE), dense, torch.zeros(0, 2), 3).index) == 0


def test_points_are_found_anywhere_in_the_image() -> None:
    _, dense = grid()
    truth = random_cells(150)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(9))
    found = match_everywhere(smooth(truth[order]), dense)
    assert len(found.index) > 100
    assert len(set(found.index.tolist())) == len(found.index)
    error = np.abs(found.cell - truth[order].numpy()[found.index]).max(axis=1)
    assert np.median(error) < 0.2
    assert (error < 0.5).mean() > 0.95


def test_only_mutual_choices_count() -> None:
    """Points that the image does not show find a best cell too, but are no cell's best point."""
    _, dense = grid()
    shown = random_cells(150)
    rng = torch.Generator().manual_seed(11)
    strangers = functional.normalize(torch.randn(150, SIZE, generator=rng), dim=1)
    found = match_everywhere(torch.cat([shown.new_tensor([]).view(0, SIZE), strangers]), dense)
    together = match_everywhere(torch.cat([smooth(shown), strangers]), dense)
    right = together.index < 150
    assert right.mean() > 0.6
    assert together.similarity[right].mean() > together.similarity[~right].mean() + 0.2
    assert found.confidence.mean() < together.confidence[right].mean()
