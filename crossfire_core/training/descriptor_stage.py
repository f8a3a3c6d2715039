"""The second stage: the field's descriptors and the image network learn to agree.

Geometry rests by now (the metric loss never reaches it), so the surfaces behind the pixels are
rendered once and every step spends its time on descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfire_core.config import LocalizationConfig, TrainingConfig
from crossfire_core.features.augmentation import Warp, relight, shake
from crossfire_core.features.network import (
    STRIDE,
    DenseDescriptors,
    fitted,
    network_input,
)
from crossfire_core.field.constants import constant
from crossfire_core.field.scene_field import SceneField
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training import losses
from crossfire_core.training.schedule import generator
from crossfire_core.training.stage import Stage
from crossfire_core.training.views import View


@dataclass(frozen=True)
class Surfaces:
    """Rendered surfaces of all views, on a grid over each image.

    Attributes:
        nodes: ``[views, 5, rows, columns]``: the point in the map frame divided by its depth in
            the view, one by the depth, and 1 or 0 for clear or unclear. Divided by the depth,
            points of a plane are linear in the image, so what lies between nodes is exact there.
            Of a wide lens the distance stands for the depth, since it sees behind itself.
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
        away = points - rays.origins
        # one by it changes evenly along a flat surface; a wide lens sees beside and behind itself
        forward = away.new_tensor(view.map_from_camera.rotation[:, 2])
        depth = away @ forward if view.camera.is_flat else away.norm(dim=1)
        inverse = 1.0 / depth.clamp_min(1e-3)
        # what a localizer with default settings takes for clear
        limits = LocalizationConfig()
        clear = (opacity > limits.min_opacity) & (spread < limits.max_depth_spread)
        usable = view.camera.usable_cells(columns, rows)
        if usable is not None:
            clear &= torch.from_numpy(usable.ravel()).to(clear.device)
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


def _small(view: View, side: int, device: torch.device) -> tuple[Tensor, tuple[float, float]]:
    """A view's image as the network takes it, but in bytes, and its descriptors' scale."""
    image, scale = network_input(view.image, side)
    return image.mul(255).to(torch.uint8).to(device), scale


class DescriptorStage(Stage):
    """One step takes one image and pulls its descriptors and the field's together."""

    def __init__(
        self,
        field: SceneField,
        network: nn.Module,
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
        self.images = [_small(view, config.features.side, self.device) for view in views]
        rates = config.descriptor
        super().__init__(
            [
                {"params": [field.descriptor.grid], "lr": rates.grid_rate},
                {"params": [field.descriptor.network, *network.parameters()],
                 "lr": rates.network_rate},
            ],
            self.device,
        )  # fmt: skip
        self.freedom = (config.descriptor.zoom, config.descriptor.turn_deg)  # of windows
        self.margin_m = config.descriptor.margin * median_distance
        self.bank, _ = surfaces.clear()
        clear = surfaces.nodes[:, 4].sum(dim=(1, 2)) >= 64
        self.usable = clear.nonzero()[:, 0].tolist()

    def _named(self, figures: Tensor) -> dict[str, Tensor]:
        """``loss`` and ``agreement``, the mean cosine of true pairs."""
        loss, agreement = figures
        return {"loss": loss, "agreement": agreement}

    def _share(self, seed: int) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of one window of one image; loss and agreement of true pairs ``[2]``."""
        c, host = self.config.descriptor, torch.Generator().manual_seed(seed)
        rng = host if self.device.type == "cpu" else generator(self.device, seed)
        view = self.usable[int(torch.randint(len(self.usable), (1,), generator=host))]
        stored, scale = self.images[view]
        size = (stored.shape[3], stored.shape[2])
        warp = Warp.draw(size, c.window_share, *self.freedom, host)
        shrink = (scale[0] * STRIDE, scale[1] * STRIDE)
        groups = [self._draw(view, warp, shrink, rng) for _ in range(c.groups)]
        pixels, points = zip(*groups, strict=True)
        seen = self._described(view, warp, torch.cat(pixels), host, rng)
        loss, agreement = self._compare(seen, points, rng)
        gradients = torch.autograd.grad(loss / self.shares, self.parameters)
        return list(gradients), torch.stack([loss.detach(), agreement])

    def _described(
        self, view: int, warp: Warp, pixels: Tensor, host: torch.Generator, rng: torch.Generator
    ) -> Tensor:
        """Descriptors ``[n, d]`` at pixels of a window of an image, in another light."""
        c, image = self.config.descriptor, self.images[view][0].float() / 255.0
        window = relight(shake(warp.cut(image), c.blur_px, host), c.brightness, rng)
        dense = self.network(window.contiguous(memory_format=torch.channels_last))
        return DenseDescriptors(dense[0], (1.0 / STRIDE, 1.0 / STRIDE)).sample(pixels)

    def _compare(
        self, seen: Tensor, groups: Sequence[Tensor], rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
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
        return torch.stack(terms).mean(), agreement

    def _draw(
        self, view: int, warp: Warp, shrink: tuple[float, float], rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Pixels of a window and their points: some side by side, some anywhere.

        The ones side by side teach sharp peaks, the ones anywhere teach what is where.
        """
        c = self.config.descriptor
        size = constant((float(warp.size[0]), float(warp.size[1])), self.bank)
        draw = lambda n: torch.rand((n, 2), generator=rng, device=self.device)  # noqa: E731
        near = round(c.pixels * c.clustered)
        each = -(-_with_spare(near) // c.clusters)
        middles = (draw(c.clusters) * size).repeat(each, 1)
        close = middles + (draw(len(middles)) - 0.5) * c.cluster_size
        anywhere = draw(_with_spare(c.pixels - near)) * size
        pixels, points = zip(
            self._clear(view, warp, shrink, close, near),
            self._clear(view, warp, shrink, anywhere, c.pixels - near),
            strict=True,
        )
        return torch.cat(pixels), torch.cat(points)

    def _clear(
        self, view: int, warp: Warp, shrink: tuple[float, float], within: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """The first ``count`` pixels on clear surfaces and their points.

        Always as many, so that nothing must be read back from a GPU: where there are fewer they
        are taken again, and where there is hardly a surface, half-clear points will do.
        """
        points, clear = self.surfaces.at(view, warp.undo(within) / constant(shrink, within))
        keep = clear & warp.inside(within)
        order = keep.int().argsort(descending=True, stable=True)
        found = keep.sum()
        found = torch.where(found < 16, len(keep), found)
        index = order[torch.arange(count, device=self.device) % found]
        return within[index], points[index]


def _with_spare(count: int) -> int:
    """How many pixels to draw so that about ``count`` of them are clear."""
    return round(1.5 * count)
