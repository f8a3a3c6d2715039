"""The second stage: the field's descriptors and the image network learn to agree.

Geometry rests by now (the metric loss never reaches it), so the surfaces behind the pixels are
rendered once and every step spends its time on descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crossfire_core.config import TrainingConfig
from crossfire_core.features.augmentation import Warp, relight, shake
from crossfire_core.features.network import (
    STRIDE,
    DenseDescriptors,
    ImageNetwork,
    fitted,
    network_input,
)
from crossfire_core.field.scene_field import SceneField
from crossfire_core.field.threads import side_by_side
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training import losses
from crossfire_core.training.schedule import share_count, sum_of
from crossfire_core.training.views import View

_MIN_OPACITY, _MAX_SPREAD = 0.6, 0.06


@dataclass(frozen=True)
class Surfaces:
    """Rendered surfaces of all views, on a grid over each image.

    Attributes:
        nodes: ``[views, 5, rows, columns]``: x/z, y/z, z/z of the point in the map frame with z
            its depth in the view, 1/z, and 1 or 0 for clear or unclear. Divided by the depth,
            points of a plane are linear in the image, so what lies between nodes is exact there.
        sizes: ``[views, 2]`` (width, height) of the images, pixels.
    """

    nodes: Tensor
    sizes: Tensor

    def at(self, view: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Surface points anywhere in a view.

        Args:
            view: its number.
            pixels: ``[n, 2]`` of the view's image, centres at .5.

        Returns:
            Points ``[n, 3]`` in metres and which of them are clear ``[n]``.
        """
        unit = 2.0 * pixels / self.sizes[view] - 1.0
        found = functional.grid_sample(
            self.nodes[view][None], unit[None, None], align_corners=False
        )
        found = found[0, :, 0].T  # [n, 5]
        return found[:, :3] / found[:, 3:4].clamp_min(1e-6), found[:, 4] > 0.999

    def clear(self) -> tuple[Tensor, Tensor]:
        """Points ``[n, 3]`` of all clear nodes and the view ``[n]`` of each."""
        view, row, column = self.nodes[:, 4].nonzero(as_tuple=True)
        node = self.nodes[view, :, row, column]
        return node[:, :3] / node[:, 3:4], view


def measure_surfaces(renderer: Renderer, views: Sequence[View], nodes_along: int) -> Surfaces:
    """Render where the pixels of every view lie; foggy and torn ones are marked unclear.

    Args:
        renderer: of the trained geometry.
        views: the mapping views.
        nodes_along: nodes along the first view's longer side.
    """
    columns, rows = fitted(*views[0].camera.size, nodes_along)
    nodes = []
    for view in views:
        rays = renderer.rays(
            view.camera, view.map_from_camera, view.camera.pixel_grid(columns, rows)
        )
        points, opacity, spread = renderer.surface(rays)
        forward = points.new_tensor(view.map_from_camera.rotation[:, 2])
        inverse = 1.0 / ((points - rays.origins) @ forward).clamp_min(1e-3)
        clear = (opacity > _MIN_OPACITY) & (spread < _MAX_SPREAD)
        node = torch.cat([points * inverse[:, None], inverse[:, None]], dim=1)
        grid = node.T.reshape(4, rows, columns)
        smooth = _smooth(grid[3]) & clear.view(rows, columns)
        nodes.append(torch.cat([grid, smooth[None].float()]))
    sizes = torch.tensor([v.camera.size for v in views], device=renderer.device)
    return Surfaces(torch.stack(nodes), sizes.float())


def _smooth(inverse_depth: Tensor) -> Tensor:
    """Nodes that lie on the same surface as their neighbours, ``[rows, columns]``."""
    around = functional.pad(inverse_depth[None, None], (1, 1, 1, 1), mode="replicate")
    median = functional.unfold(around, 3)[0].median(dim=0).values.view_as(inverse_depth)
    return (inverse_depth - median).abs() < 0.05 * median


def _small(view: View, side: int) -> tuple[Tensor, tuple[float, float]]:
    """A view's image as the network takes it, but in bytes, and its descriptors' scale."""
    image, scale = network_input(view.image, side)
    return image.mul(255).to(torch.uint8), scale


class DescriptorStage:
    """One step takes one image and pulls its descriptors and the field's together."""

    def __init__(
        self,
        field: SceneField,
        network: ImageNetwork,
        views: Sequence[View],
        surfaces: Surfaces,
        median_distance: float,
        config: TrainingConfig,
    ) -> None:
        """Prepare the optimiser and the shrunken images.

        Args:
            field: its descriptors are trained.
            network: trained with them.
            views: the mapping views.
            surfaces: what they see.
            median_distance: of the surfaces from the cameras, metres.
            config: all settings.
        """
        self.field, self.network, self.surfaces, self.config = field, network, surfaces, config
        self.device = surfaces.nodes.device
        self.images = [_small(view, config.features.side) for view in views]
        rates = config.descriptor
        self.optimizer = torch.optim.Adam(
            [
                {"params": [field.descriptor.grid], "lr": rates.grid_rate},
                {"params": [field.descriptor.network, *network.parameters()],
                 "lr": rates.network_rate},
            ],
            betas=(0.9, 0.99), eps=1e-15, fused=True,
        )  # fmt: skip
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.shares = share_count(self.device)
        self.margin_m = config.descriptor.margin * median_distance
        self.bank, _ = surfaces.clear()
        self.usable = (surfaces.nodes[:, 4].sum(dim=(1, 2)) >= 64).nonzero()[:, 0].cpu()

    def step(self, rate_factor: float, rng: torch.Generator) -> dict[str, float]:
        """Improve once; returns ``loss`` and ``agreement`` (mean cosine of true pairs)."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor
        seeds = torch.randint(2**62, (self.shares,), generator=rng, device=rng.device).tolist()
        gradients, figures = zip(
            *side_by_side([partial(self._share, seed) for seed in seeds]), strict=True
        )
        for parameter, *parts in zip(self.parameters, *gradients, strict=True):
            parameter.grad = sum_of(parts)
        self.optimizer.step()
        loss, agreement = np.mean(figures, axis=0)
        return {"loss": float(loss), "agreement": float(agreement)}

    def _share(self, seed: int) -> tuple[list[Tensor | None], tuple[float, float]]:
        """Gradients of one window of one image, its loss and the agreement of true pairs."""
        c, rng = self.config.descriptor, torch.Generator(self.device).manual_seed(seed)
        pick = torch.randint(len(self.usable), (1,), generator=rng, device=self.device)
        view = int(self.usable[pick.cpu()])
        stored, scale = self.images[view]
        image = stored.to(self.device).float() / 255.0
        size = (image.shape[3], image.shape[2])
        warp = Warp.draw(size, c.window_share, c.zoom, c.turn_deg, rng)
        shrink = (scale[0] * STRIDE, scale[1] * STRIDE)
        groups = [self._draw(view, warp, shrink, rng) for _ in range(c.groups)]
        window = relight(shake(warp.cut(image), c.blur_px, rng), c.brightness, rng)
        dense = self.network(window.contiguous(memory_format=torch.channels_last))
        pixels, points = zip(*groups, strict=True)
        seen = DenseDescriptors(dense[0], (1.0 / STRIDE, 1.0 / STRIDE)).sample(torch.cat(pixels))
        loss, agreement = self._compare(seen, points, rng)
        gradients = torch.autograd.grad(loss / self.shares, self.parameters)
        return list(gradients), (float(loss.detach()), agreement)

    def _compare(
        self, seen: Tensor, groups: Sequence[Tensor], rng: torch.Generator
    ) -> tuple[Tensor, float]:
        """Loss of groups of pixels, each among itself, and how well they agree with the field.

        All groups share the window's descriptors, which cost most of a step; within a group all
        pairs are compared, so two groups cost half of one that is twice as large.

        Args:
            seen: ``[n, d]`` the image's descriptors, group after group.
            groups: the points ``[n_i, 3]`` behind them.
            rng: draws points from elsewhere.
        """
        c = self.config.descriptor
        draw = lambda: torch.randint(  # noqa: E731
            len(self.bank), (c.others,), generator=rng, device=self.device
        )
        others = [self.bank[draw()] for _ in groups]
        # in one call, so that the gradient of the whole table is made once
        described = self.field.descriptors(torch.cat([*groups, *others]))
        found = described.split([len(points) for points in (*groups, *others)])
        own = seen.split([len(points) for points in groups])
        terms = [
            losses.metric_loss(
                own[i], found[i], points, found[len(groups) + i], others[i], c.temperature,
                self.margin_m,
            )
            for i, points in enumerate(groups)
        ]  # fmt: skip
        agreement = (seen.detach() * described[: len(seen)].detach()).sum(dim=1).mean()
        return torch.stack(terms).mean(), float(agreement)

    def _draw(
        self, view: int, warp: Warp, shrink: tuple[float, float], rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Pixels of a window and their points: some anywhere, some side by side.

        The ones side by side teach sharp peaks, the ones anywhere teach what is where.
        """
        c = self.config.descriptor
        size = torch.tensor(warp.size, dtype=torch.float32, device=self.device)
        draw = lambda n: torch.rand((n, 2), generator=rng, device=self.device)  # noqa: E731
        clustered = round(c.pixels * c.clustered)
        each = -(-clustered // c.clusters)
        middle = (draw(c.clusters) * size).repeat_interleave(each, dim=0)[:clustered]
        close = middle + (draw(clustered) - 0.5) * c.cluster_size
        within = torch.cat([close, draw(c.pixels - clustered) * size])
        points, clear = self.surfaces.at(view, warp.undo(within) / within.new_tensor(shrink))
        keep = clear & warp.inside(within)
        if int(keep.sum()) < 16:  # hardly a surface in this window: half-clear points will do
            keep = torch.ones_like(keep)
        return within[keep], points[keep]
