"""Where along a ray the field is asked, and what its answers add up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spacing:
    """The curve along which samples are even: linear near the camera, logarithmic far away.

    Attributes:
        near: metres along the ray.
        far: metres along the ray.
        knee: metres at which the spacing has doubled.
    """

    near: float
    far: float
    knee: float

    def distance(self, s: Tensor) -> Tensor:
        """Metres along the ray for s in [0, 1]."""
        low, high = self.log_distance(self.near), self.log_distance(self.far)
        return self.knee * torch.expm1(low + s * (high - low))

    def log_distance(self, t: float) -> float:
        """The curve itself: ``log(1 + t / knee)``."""
        return float(torch.log1p(torch.tensor(t / self.knee, dtype=torch.float64)))


def even_edges(
    rays: int, samples: int, jitter: torch.Generator | None, device: torch.device
) -> Tensor:
    """Edges in [0, 1] of equally long intervals, ``[rays, samples + 1]``, shifted if jittered."""
    edges = torch.linspace(0.0, 1.0, samples + 1, device=device)[None]
    if jitter is None:
        return edges.expand(rays, -1)
    shift = torch.rand((rays, 1), generator=jitter, device=device) / samples
    moved = edges + shift * (1.0 - edges)  # the last edge stays: nothing beyond far
    return moved.contiguous()


def ray_weights(density: Tensor, widths: Tensor) -> Tensor:
    """What each sample contributes, ``[rays, samples]`` (Max, "Optical models", eq. 3).

    Args:
        density: ``[rays, samples]`` in 1/m.
        widths: lengths of the intervals in metres, same shape.
    """
    optical = density * widths
    passed = torch.cumsum(optical, dim=1) - optical
    return torch.exp(-passed) * -torch.expm1(-optical)


def resample_edges(
    edges: Tensor, weights: Tensor, samples: int, jitter: torch.Generator | None
) -> Tensor:
    """Edges where the weights are, by inverting their distribution.

    Args:
        edges: ``[rays, n + 1]`` of the proposal's intervals.
        weights: ``[rays, n]`` of the proposal.
        samples: number of new intervals.
        jitter: random shifts of the quantiles, or None for their middles.

    Returns:
        ``[rays, samples + 1]``, increasing, without gradient.
    """
    padded = weights.detach() + 0.01 / weights.shape[1]  # nowhere is never looked at
    cdf = torch.cumsum(padded, dim=1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf / cdf[:, -1:]], dim=1)
    rays, count = len(edges), samples + 1
    u = torch.linspace(0.0, 1.0 - 1.0 / count, count, device=edges.device).expand(rays, -1)
    if jitter is None:
        u = u + 0.5 / count
    else:
        u = u + torch.rand((rays, count), generator=jitter, device=edges.device) / count
    return interpolate(cdf, edges.detach(), u.contiguous())


def interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear ``y(x)`` row by row; ``x`` does not decrease."""
    right = torch.searchsorted(x, at, right=True).clamp(1, x.shape[1] - 1)
    x0, x1 = x.gather(1, right - 1), x.gather(1, right)
    y0, y1 = y.gather(1, right - 1), y.gather(1, right)
    fraction = ((at - x0) / (x1 - x0).clamp_min(1e-8)).clamp(0.0, 1.0)
    return y0 + fraction * (y1 - y0)


def median_depth(edges: Tensor, weights: Tensor) -> Tensor:
    """Distance at which half of a ray's weight is reached, ``[rays]``.

    The weighted mean depth lies between surfaces; the median lies on one.

    Args:
        edges: ``[rays, samples + 1]`` in metres.
        weights: ``[rays, samples]``.
    """
    total = torch.cumsum(weights, dim=1)
    total = torch.cat([torch.zeros_like(total[:, :1]), total], dim=1)
    return interpolate(total, edges, 0.5 * total[:, -1:])[:, 0]
