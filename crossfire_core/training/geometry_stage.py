"""The first stage: density and colour, so that depth can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from crossfire_core.config import TrainingConfig
from crossfire_core.field.scene_field import SceneField
from crossfire_core.geometry import Pose
from crossfire_core.rendering.renderer import RaySamples, ray_colours, sample_rays
from crossfire_core.training import losses
from crossfire_core.training.schedule import generator
from crossfire_core.training.stage import Stage
from crossfire_core.training.survey import Survey
from crossfire_core.training.views import RayTable


class GeometryStage(Stage):
    """One step draws rays, renders them and improves proposal, geometry, colour and light."""

    def __init__(
        self, field: SceneField, table: RayTable, survey: Survey, config: TrainingConfig
    ) -> None:
        """Prepare the optimiser and the measured depths."""
        self.field, self.table, self.survey, self.config = field, table, survey, config
        rates = config.geometry
        self.twists = torch.zeros(len(table), 6, device=table.device, requires_grad=True)
        super().__init__(
            [
                {"params": [field.proposal.grid, field.geometry.grid], "lr": rates.grid_rate},
                {
                    "params": [field.proposal.network, field.geometry.network, field.colour],
                    "lr": rates.network_rate,
                },
                {"params": [field.appearance], "lr": rates.network_rate},
                {"params": [self.twists], "lr": rates.pose_rate},
            ],
            table.device,
        )
        self._load_depths()

    def _load_depths(self) -> None:
        sparse, table = self.survey.sparse, self.table
        device = table.device
        self.depth_view = torch.from_numpy(sparse.view).to(device)
        column = torch.from_numpy(sparse.pixel[:, 0]).long().to(device)
        row = torch.from_numpy(sparse.pixel[:, 1]).long().to(device)
        self.depth_pixel = row * table.widths[self.depth_view] + column
        point = torch.from_numpy(sparse.point).float().to(device)
        offset = point - table.translations[self.depth_view]
        self.depth_distance = offset.norm(dim=1)
        self.depth_sigma = torch.from_numpy(sparse.sigma_m).float().to(device)

    def _named(self, figures: Tensor) -> dict[str, Tensor]:
        """``loss`` and ``psnr`` of the step's rays."""
        loss, mse = figures
        return {"loss": loss, "psnr": -10.0 * mse.clamp_min(1e-12).log10()}

    def _share(self, seed: int) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of one share of the step's rays, its loss and squared error ``[2]``."""
        rng = generator(self.table.device, seed)
        view, pixel, depths = self._draw(rng)
        rays = self.table.rays(view, pixel, self.twists if self.corrects_poses else None)
        samples = sample_rays(self.field, rays, self.survey.spacing, self.config.render, rng)
        seen = ray_colours(self.field, rays, samples, self.field.appearance[view])
        real = self.table.colours(view, pixel)
        error = (seen - real).square()
        loss = error.mean() + self._regularizers(samples, seen, real, depths)
        if self.corrects_poses:
            loss = loss + self.config.geometry.pose_weight * self.twists.square().sum(dim=1).mean()
        gradients = torch.autograd.grad(loss / self.shares, self.parameters, allow_unused=True)
        return list(gradients), torch.stack([loss.detach(), error.detach().mean()])

    @property
    def corrects_poses(self) -> bool:
        """Whether the views' poses are learned too."""
        return self.config.geometry.pose_rate > 0

    def corrected_poses(self) -> list[Pose]:
        """The views' poses as they are now; from here on they are the given ones."""
        if self.corrects_poses:
            self.table.correct(self.twists.detach())
            self.twists.data.zero_()
        return self.table.poses()

    def _draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random rays, then patches, then rays with known depth (returned as indices)."""
        c = self.config.geometry
        views, pixels = [], []
        for view, pixel in (
            self.table.draw(self._part(c.rays), rng),
            self.table.draw_patches(self._part(c.patches), c.patch_size, rng),
        ):
            views.append(view)
            pixels.append(pixel)
        known = len(self.depth_view)
        count = self._part(c.depth_rays) if known else 0
        picks = torch.randint(max(1, known), (count,), generator=rng, device=self.table.device)
        views.append(self.depth_view[picks])
        pixels.append(self.depth_pixel[picks])
        return torch.cat(views), torch.cat(pixels), picks

    def _part(self, count: int) -> int:
        """One share of a number."""
        return -(-count // self.shares)

    def _regularizers(
        self, samples: RaySamples, seen: Tensor, real: Tensor, depths: Tensor
    ) -> Tensor:
        c = self.config.geometry
        loss = c.interlevel_weight * losses.interlevel_loss(
            samples.unit_edges, samples.weights, samples.proposal_edges, samples.proposal_weights
        )
        loss = loss + c.distortion_weight * losses.distortion_loss(
            samples.unit_edges, samples.weights
        )
        patches, start = self._part(c.patches), self._part(c.rays)
        stop = start + patches * c.patch_size**2
        if patches:
            shape = (patches, c.patch_size, c.patch_size)
            patch, target = seen[start:stop].view(*shape, 3), real[start:stop].view(*shape, 3)
            loss = loss + c.ssim_weight * losses.ssim_loss(patch, target)
            middle = 0.5 * (samples.edges[start:stop, 1:] + samples.edges[start:stop, :-1])
            weights = samples.weights[start:stop]
            inverse = (weights / middle).sum(dim=1) * self.survey.spacing.knee
            loss = loss + c.variation_weight * losses.depth_variation_loss(
                inverse.view(shape), target
            )
        if len(depths):
            loss = loss + c.depth_weight * losses.depth_loss(
                samples.edges[stop:],
                samples.weights[stop:],
                self.depth_distance[depths],
                self.depth_sigma[depths].clamp_min(0.01 * self.survey.spacing.knee),
            )
        return loss
