"""What training minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def interlevel_loss(
    edges: Tensor, weights: Tensor, proposal_edges: Tensor, proposal_weights: Tensor
) -> Tensor:
    """How much weight the proposal fails to cover (mip-NeRF 360, eq. 13).

    Args:
        edges: ``[rays, n + 1]`` of the final samples, in the proposal's unit.
        weights: ``[rays, n]`` of the final samples; taken as given.
        proposal_edges: ``[rays, p + 1]``.
        proposal_weights: ``[rays, p]``, differentiable.
    """
    target = weights.detach()
    bound = _outer(edges.detach(), proposal_edges, proposal_weights)
    missing = (target - bound).clamp_min(0.0)
    return (missing.square() / (target + 1e-7)).sum(dim=1).mean()


def _outer(edges: Tensor, p_edges: Tensor, p_weights: Tensor) -> Tensor:
    """Upper bound of the proposal's weight in each final interval, ``[rays, n]``."""
    total = torch.cumsum(p_weights, dim=1)
    total = torch.cat([torch.zeros_like(total[:, :1]), total], dim=1)
    last = p_edges.shape[1] - 1
    low = (torch.searchsorted(p_edges, edges[:, :-1].contiguous(), right=True) - 1).clamp(0, last)
    high = torch.searchsorted(p_edges, edges[:, 1:].contiguous(), right=False).clamp(0, last)
    return total.gather(1, high) - total.gather(1, low)


def distortion_loss(unit_edges: Tensor, weights: Tensor) -> Tensor:
    """Pulls a ray's weight together (mip-NeRF 360, eq. 15, by prefix sums).

    Args:
        unit_edges: ``[rays, n + 1]`` in [0, 1].
        weights: ``[rays, n]``.
    """
    middle = 0.5 * (unit_edges[:, 1:] + unit_edges[:, :-1])
    width = unit_edges.diff(dim=1)
    before = torch.cumsum(weights, dim=1) - weights
    before_moment = torch.cumsum(weights * middle, dim=1) - weights * middle
    between = 2.0 * (weights * (middle * before - before_moment)).sum(dim=1)
    within = (weights.square() * width).sum(dim=1) / 3.0
    return (between + within).mean()


def ssim_loss(rendered: Tensor, real: Tensor) -> Tensor:
    """One minus the structural similarity of patches (Wang et al. 2004), one window a patch.

    Args:
        rendered: ``[patches, size, size, 3]`` in [0, 1].
        real: the same shape.
    """
    a, b = rendered.flatten(1, 2), real.flatten(1, 2)
    mean_a, mean_b = a.mean(dim=1), b.mean(dim=1)
    var_a, var_b = a.var(dim=1, unbiased=False), b.var(dim=1, unbiased=False)
    covariance = (a * b).mean(dim=1) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = numerator / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    return 1.0 - similarity.mean()


def depth_variation_loss(inverse_depth: Tensor, image: Tensor) -> Tensor:
    """Total variation of depth, weaker across edges of the image.

    Args:
        inverse_depth: ``[patches, size, size]``, 1 / (depth / scene size): a plane is linear
            in it, and far walls count no more than near tables.
        image: ``[patches, size, size, 3]`` real colours.
    """
    d, grey = inverse_depth, image.mean(dim=-1)
    along_x = (d[:, :, 1:] - d[:, :, :-1]).abs()
    along_y = (d[:, 1:] - d[:, :-1]).abs()
    edge_x = torch.exp(-10.0 * (grey[:, :, 1:] - grey[:, :, :-1]).abs())
    edge_y = torch.exp(-10.0 * (grey[:, 1:] - grey[:, :-1]).abs())
    return (along_x * edge_x).mean() + (along_y * edge_y).mean()


def depth_loss(edges: Tensor, weights: Tensor, depth: Tensor, sigma: Tensor) -> Tensor:
    """Wants weight where depth was measured; saturates for measurements far off.

    The idea of DS-NeRF (Deng et al. 2022, eq. 6) with a bounded penalty, because triangulated
    points have outliers.

    Args:
        edges: ``[rays, n + 1]`` metres along the ray.
        weights: ``[rays, n]``.
        depth: ``[rays]`` measured distance along the ray, metres.
        sigma: ``[rays]`` its standard deviation, metres.
    """
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    error = (middle - depth[:, None]) / sigma[:, None]
    near = (weights * torch.exp(-0.5 * error.square())).sum(dim=1)
    return -torch.log(near + 0.02).mean()


def metric_loss(
    image_descriptors: Tensor,
    field_descriptors: Tensor,
    points: Tensor,
    other_descriptors: Tensor,
    other_points: Tensor,
    temperature: float,
    margin_m: float,
) -> Tensor:
    """Self-supervised, symmetric InfoNCE between the image's and the field's descriptors.

    Pixel i of the image and point i of the field belong together. Every other point is pushed
    away unless it lies within the margin in space: what counts as different is decided by
    rendered 3D distance, no correspondences between images are needed.

    Args:
        image_descriptors: ``[n, d]`` unit, from the CNN.
        field_descriptors: ``[n, d]`` unit, from the field at the pixels' surface points.
        points: ``[n, 3]`` those points, metres.
        other_descriptors: ``[m, d]`` unit, from the field anywhere on the scene's surfaces.
        other_points: ``[m, 3]`` those points.
        temperature: scale of the similarities.
        margin_m: nearer points than this are not negatives.
    """
    everything = torch.cat([field_descriptors, other_descriptors])
    where = torch.cat([points, other_points])
    return _PairLoss.apply(  # type: ignore[no-any-return]
        image_descriptors, everything, points, where, temperature, margin_m
    )


class _PairLoss(torch.autograd.Function):
    """Symmetric InfoNCE without the many passes over an ``[n, n + m]`` matrix of autograd.

    Cosines are at most 1, so ``exp((cosine - 1) / temperature)`` needs no running maximum. Rows
    are handled in blocks that stay in the cache.
    """

    BLOCK = 256

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        field: Tensor,
        points: Tensor,
        where: Tensor,
        temperature: float,
        margin_m: float,
    ) -> Tensor:
        """Mean of both directions' cross-entropies; the arguments of :func:`metric_loss`."""
        n = len(image)
        centre = points.mean(dim=0)
        p, q = points - centre, where - centre
        q_norm = q.square().sum(dim=1)
        likeness = image.new_empty(n, len(field))
        for start in range(0, n, _PairLoss.BLOCK):
            rows = slice(start, min(start + _PairLoss.BLOCK, n))
            block = likeness[rows]
            torch.mm(image[rows], field.T, out=block)
            block.sub_(1.0).mul_(1.0 / temperature).exp_()
            squared = torch.addmm(q_norm, p[rows], q.T, alpha=-2.0)
            limit = margin_m**2 - p[rows].square().sum(dim=1, keepdim=True)
            block.mul_(squared > limit)
        diagonal = (((image * field[:n]).sum(dim=1) - 1.0) / temperature).exp()
        likeness.diagonal().copy_(diagonal)  # a pixel lies within its own margin
        by_row, by_column = likeness.sum(dim=1), likeness[:, :n].sum(dim=0)
        ctx.save_for_backward(image, field, likeness, by_row, by_column)
        ctx.temperature = temperature
        log_true = diagonal.clamp_min(1e-30).log()
        return 0.5 * (by_row.log() + by_column.log() - 2.0 * log_true).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of the image's and the field's descriptors."""
        image, field, likeness, by_row, by_column = ctx.saved_tensors
        n = len(image)
        scale = 0.5 / n / ctx.temperature * grads[0]
        of_image, of_field = torch.empty_like(image), torch.zeros_like(field)
        shares = torch.zeros_like(likeness[0])
        shares[:n] = 1.0 / by_column
        for start in range(0, n, _PairLoss.BLOCK):
            rows = slice(start, min(start + _PairLoss.BLOCK, n))
            block = likeness[rows]
            pull = torch.addcmul(block * (1.0 / by_row[rows, None]), block, shares)
            pull[:, rows].diagonal().sub_(2.0)
            torch.mm(pull, field, out=of_image[rows])
            of_field.addmm_(pull.T, image[rows])
        return of_image * scale, of_field * scale, None, None, None, None
