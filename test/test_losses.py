"""Losses against their definitions, written out slowly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crossfire_core.training import losses


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_edges(rays: int, intervals: int, seed: int) -> Tensor:
    widths = torch.rand(rays, intervals + 1, generator=generator(seed)) + 0.05
    edges = torch.cumsum(widths, dim=1)
    return (edges - edges[:, :1]) / (edges[:, -1:] - edges[:, :1])


def random_weights(rays: int, samples: int, seed: int) -> Tensor:
    return torch.softmax(2 * torch.randn(rays, samples, generator=generator(seed)), dim=1)


# -- metric loss -------------------------------------------------------------------------------


def plain_metric_loss(
    image: Tensor, field: Tensor, points: Tensor, others: Tensor, other_points: Tensor,
    temperature: float, margin: float,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE with the near pairs masked, as its docstring defines it."""
    everything, where = torch.cat([field, others]), torch.cat([points, other_points])
    logits = image @ everything.T / temperature
    near = (points[:, None] - where[None]).norm(dim=2) <= margin
    near &= ~torch.eye(len(image), len(where), dtype=torch.bool)
    logits = logits.masked_fill(near, float("-inf"))
    truth = torch.arange(len(image))
    by_row = functional.cross_entropy(logits, truth)
    by_column = functional.cross_entropy(logits[:, : len(image)].T, truth)
    return 0.5 * (by_row + by_column)


def metric_inputs(n: int, m: int) -> tuple[Tensor, ...]:
    draw = lambda rows: torch.randn(rows, 16, generator=generator(rows), dtype=torch.float64)  # noqa: E731
    points = torch.rand(n, 3, generator=generator(7), dtype=torch.float64)
    other_points = torch.rand(m, 3, generator=generator(8), dtype=torch.float64)
    return draw(n), draw(n + 1)[:n], points, draw(m + 2)[:m], other_points


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4])
@pytest.mark.parametrize(("n", "m"), [(40, 30), (300, 50), (20, 0)])
def test_metric_loss_is_masked_symmetric_info_nce(n: int, m: int, margin: float) -> None:
    inputs = metric_inputs(n, m)
    found = []
    for loss in (plain_metric_loss, losses.metric_loss):
        image, field, others = (inputs[i].clone().requires_grad_() for i in (0, 1, 3))
        unit = [functional.normalize(x, dim=1) for x in (image, field, others)]
        value = loss(unit[0], unit[1], inputs[2], unit[2], inputs[4], 0.07, margin)
        value.backward()
        found.append([value.detach(), image.grad, field.grad, others.grad])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-7, atol=1e-10)


def test_near_points_are_neither_pushed_nor_pulled() -> None:
    inputs = list(metric_inputs(10, 4))
    inputs[2] = torch.arange(30, dtype=torch.float64).view(10, 3)  # all far apart
    inputs[4] = inputs[2][:4] + 0.001  # but each other point lies beside one
    image, field, others = (functional.normalize(inputs[i], dim=1) for i in (0, 1, 3))
    alone = losses.metric_loss(
        image[:1], field[:1], inputs[2][:1], others[:1], inputs[4][:1], 0.07, 0.01
    )
    assert float(alone.detach()) == pytest.approx(0.0, abs=1e-12)
    near = losses.metric_loss(image, field, inputs[2], others, inputs[4], 0.07, 1e9)
    assert float(near.detach()) == pytest.approx(0.0, abs=1e-12)


def test_metric_loss_falls_to_nothing_for_a_perfect_match() -> None:
    basis = torch.eye(16)
    points = torch.arange(48.0).view(16, 3)
    none = torch.zeros(0, 16), torch.zeros(0, 3)
    perfect = losses.metric_loss(basis, basis, points, *none, 0.07, 0.01)
    swapped = losses.metric_loss(basis, basis.roll(1, 0), points, *none, 0.07, 0.01)
    assert float(perfect) < 1e-4
    assert float(swapped) > 10.0


def test_metric_loss_is_finite_for_opposite_descriptors() -> None:
    """Single precision and a low temperature: exp(-2 / 0.02) underflows."""
    image = functional.normalize(torch.randn(20, 16, generator=generator()), dim=1).requires_grad_()
    loss = losses.metric_loss(
        image, -image.detach(), torch.rand(20, 3), torch.zeros(0, 16), torch.zeros(0, 3), 0.02, 0.0
    )
    loss.backward()
    assert torch.isfinite(loss) and image.grad is not None and torch.isfinite(image.grad).all()


# -- the proposal ------------------------------------------------------------------------------


def test_interlevel_loss_against_its_definition() -> None:
    edges, weights = random_edges(5, 7, 0), random_weights(5, 7, 1)
    p_edges, p_weights = random_edges(5, 6, 2), 0.3 * random_weights(5, 6, 3)
    total = 0.0
    for ray in range(5):
        for i in range(7):
            a, b = edges[ray, i], edges[ray, i + 1]
            bound = sum(
                float(p_weights[ray, k])
                for k in range(6)
                if p_edges[ray, k] < b and p_edges[ray, k + 1] > a
            )
            missing = max(0.0, float(weights[ray, i]) - bound)
            total += missing**2 / (float(weights[ray, i]) + 1e-7)
    found = losses.interlevel_loss(edges, weights, p_edges, p_weights)
    assert total > 0
    assert float(found) == pytest.approx(total / 5, rel=1e-4)


def test_a_proposal_that_covers_everything_costs_nothing() -> None:
    edges, weights = random_edges(4, 8, 0), random_weights(4, 8, 1)
    loss = losses.interlevel_loss(edges, weights, edges, weights + 1e-4)
    assert float(loss) == 0.0


def test_interlevel_loss_teaches_the_proposal_only() -> None:
    weights = random_weights(4, 8, 1).requires_grad_()
    p_weights = (0.1 * random_weights(4, 8, 2)).requires_grad_()
    edges = random_edges(4, 8, 0)
    losses.interlevel_loss(edges, weights, edges, p_weights).backward()
    assert weights.grad is None
    assert p_weights.grad is not None and float(p_weights.grad.min()) < 0.0


def test_distortion_loss_against_its_definition() -> None:
    edges, weights = random_edges(6, 9, 0), random_weights(6, 9, 1)
    middle, width = 0.5 * (edges[:, 1:] + edges[:, :-1]), edges.diff(dim=1)
    distance = (middle[:, :, None] - middle[:, None]).abs()
    between = (weights[:, :, None] * weights[:, None] * distance).sum(dim=(1, 2))
    within = (weights**2 * width).sum(dim=1) / 3
    expected = (between + within).mean()
    torch.testing.assert_close(losses.distortion_loss(edges, weights), expected)


# -- images and depth --------------------------------------------------------------------------


def test_ssim_identities() -> None:
    patch = torch.rand(5, 8, 8, 3, generator=generator())
    other = torch.rand(5, 8, 8, 3, generator=generator(1))
    assert float(losses.ssim_loss(patch, patch)) == pytest.approx(0.0, abs=1e-5)
    ab, ba = losses.ssim_loss(patch, other), losses.ssim_loss(other, patch)
    assert float(ab) == pytest.approx(float(ba), abs=1e-6)
    assert 0.3 < float(ab) < 2.0
    inverted = losses.ssim_loss(patch, 1.0 - patch)
    assert float(inverted) > 1.5  # structure turned over is worse than none
    dimmer = losses.ssim_loss(0.9 * patch, patch)
    assert 0.0 < float(dimmer) < 0.1


def test_depth_variation_spares_edges_of_the_image() -> None:
    step = torch.zeros(1, 8, 8)
    step[:, :, 4:] = 1.0
    flat_image = torch.full((1, 8, 8, 3), 0.5)
    edged = flat_image.clone()
    edged[:, :, 4:] = 1.0
    on_flat = losses.depth_variation_loss(step, flat_image)
    on_edge = losses.depth_variation_loss(step, edged)
    assert float(losses.depth_variation_loss(torch.ones(1, 8, 8), flat_image)) == 0.0
    assert float(on_flat) == pytest.approx(1 / 7)
    assert float(on_edge) == pytest.approx(math.exp(-5.0) / 7)


def test_depth_loss_is_least_where_the_depth_was_measured_and_forgives_outliers() -> None:
    edges = torch.linspace(0.0, 2.0, 21)[None]
    depth, sigma = torch.tensor([1.05]), torch.tensor([0.05])
    costs = []
    for index in range(20):
        weights = torch.zeros(1, 20)
        weights[0, index] = 1.0
        costs.append(float(losses.depth_loss(edges, weights, depth, sigma)))
    assert costs.index(min(costs)) == 10
    assert max(costs) == pytest.approx(-math.log(0.02), abs=1e-3)  # bounded however far it is off
