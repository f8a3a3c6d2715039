"""Render colour, depth and descriptors of the field along rays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import RenderConfig
from crossfire_core.field.constants import constant
from crossfire_core.field.scene_field import SceneField
from crossfire_core.geometry import Camera, Pose
from crossfire_core.rendering.sampling import (
    Spacing,
    even_edges,
    interpolate,
    median_depth,
    ray_weights,
    resample_edges,
)

if TYPE_CHECKING:
    from crossfire_core.rendering.surface_cpu import SurfaceFinder


@dataclass(frozen=True)
class Rays:
    """Half-lines in the map frame.

    Attributes:
        origins: ``[n, 3]`` metres.
        directions: ``[n, 3]`` unit vectors.
    """

    origins: Tensor
    directions: Tensor

    def parts(self, most: int) -> Iterator[Rays]:
        """These rays, ``most`` at a time; one empty part where there are none."""
        both = zip(self.origins.split(most), self.directions.split(most), strict=True)
        return (Rays(origins, directions) for origins, directions in both)


@dataclass(frozen=True)
class RaySamples:
    """What sampling a bundle of rays gave.

    Attributes:
        edges: ``[rays, samples + 1]`` metres along the ray.
        weights: ``[rays, samples]``.
        features: ``[rays * samples, f]`` for the colour network.
        proposal_edges: ``[rays, p + 1]`` in [0, 1].
        proposal_weights: ``[rays, p]``.
        unit_edges: ``edges`` before they were stretched to metres, in [0, 1].
    """

    edges: Tensor
    weights: Tensor
    features: Tensor
    proposal_edges: Tensor
    proposal_weights: Tensor
    unit_edges: Tensor

    def depth(self) -> Tensor:
        """Median distance along the ray, ``[rays]``, metres."""
        return median_depth(self.edges, self.weights)

    def opacity(self) -> Tensor:
        """Share of the light that the scene stops, ``[rays]``."""
        return self.weights.sum(dim=1)


@dataclass(frozen=True)
class Rendering:
    """A rendered view.

    Attributes:
        colour: ``[height, width, 3]`` float32 in [0, 1].
        z_depth: ``[height, width]`` float32, metres along the camera's z axis.
        descriptors: ``[height, width, d]`` float32, unit length.
        opacity: ``[height, width]`` float32 in [0, 1].
    """

    colour: NDArray[np.float32]
    z_depth: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    opacity: NDArray[np.float32]


def sample_rays(
    field: SceneField,
    rays: Rays,
    spacing: Spacing,
    config: RenderConfig,
    jitter: torch.Generator | None = None,
) -> RaySamples:
    """Propose, resample and evaluate the density along rays.

    Args:
        field: the field to ask.
        rays: ``n`` rays.
        spacing: how samples spread over the distance.
        config: numbers of samples.
        jitter: random source for training; None renders deterministically.
    """
    count = len(rays.origins)
    coarse = even_edges(count, config.proposal_samples, jitter, rays.origins.device)
    coarse_m = spacing.distance(coarse)
    density = field.proposal_density(_midpoints(rays, coarse_m).detach())
    proposal = ray_weights(density.view(count, config.proposal_samples), coarse_m.diff(dim=1))
    fine = resample_edges(coarse, proposal, config.samples, jitter)
    fine_m = spacing.distance(fine)
    density, features = field.density_and_features(_midpoints(rays, fine_m))
    weights = ray_weights(density.view(count, config.samples), fine_m.diff(dim=1))
    return RaySamples(fine_m, weights, features, coarse, proposal, fine)


def ray_colours(field: SceneField, rays: Rays, samples: RaySamples, appearance: Tensor) -> Tensor:
    """RGB ``[rays, 3]`` before a black background.

    The samples' features are composited and the colour network is asked once a ray, not once a
    sample (deferred shading, as in SNeRG, Hedman et al. 2021), which makes a step of the
    first stage nearly twice as fast on a CPU.

    Args:
        field: the field.
        rays: the rays.
        samples: what :func:`sample_rays` gave for them.
        appearance: ``[rays, a]``, the light to render with.
    """
    each = samples.features.view(*samples.weights.shape, samples.features.shape[1])
    features = torch.bmm(samples.weights[:, None], each)
    seen = field.colours(features[:, 0], rays.directions, appearance)
    return samples.opacity()[:, None] * seen


def _midpoints(rays: Rays, edges: Tensor) -> Tensor:
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    points = rays.origins[:, None] + rays.directions[:, None] * middle[..., None]
    return points.reshape(-1, 3)


class Renderer:
    """Renders views of a trained field."""

    def __init__(
        self,
        field: SceneField,
        spacing: Spacing,
        config: RenderConfig,
        chunk: int = 16384,
        origin: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Wrap a field.

        Args:
            field: what is rendered.
            spacing: how samples spread along rays.
            config: numbers of samples.
            chunk: so many rays are in memory at a time.
            origin: of the field in the frame of the poses; rays and points are about it.
        """
        self.field, self.spacing, self.config, self.chunk = field, spacing, config, chunk
        self._origin = np.array(origin, dtype=np.float64)
        self.surface_config = config
        self.finder: SurfaceFinder | None = None

    def freeze(self, samples: int | None = None) -> Renderer:
        """Prepare for a field that no longer changes: surfaces are then found faster on a CPU.

        Args:
            samples: a ray when surfaces are looked for; None takes as many as in training.
        """
        if samples is not None:
            self.surface_config = replace(self.config, samples=samples)
        if self.device.type == "cpu" and find_spec("numba") is not None:
            from crossfire_core.rendering.surface_cpu import SurfaceFinder

            self.finder = SurfaceFinder(self.field, self.spacing, self.surface_config)
        return self

    @property
    def device(self) -> torch.device:
        """Where the field lives."""
        return self.field.colour.device

    def rays(self, camera: Camera, map_from_camera: Pose, pixels: NDArray[np.float64]) -> Rays:
        """Rays through pixels ``[n, 2]`` of a camera at a pose.

        Pixels that the lens does not show get its axis: leave them out, see :meth:`.Camera.shows`.
        """
        bearings = camera.bearings(pixels)
        bearings[np.isnan(bearings[:, 0])] = (0.0, 0.0, 1.0)
        directions = bearings @ map_from_camera.rotation.T
        origins = np.broadcast_to(map_from_camera.translation - self._origin, directions.shape)
        as_tensor = lambda a: torch.tensor(a, dtype=torch.float32, device=self.device)  # noqa: E731
        return Rays(as_tensor(origins), as_tensor(directions))

    @torch.no_grad()
    def surface(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
        """Surface points ``[n, 3]`` in metres, opacity ``[n]`` and depth spread ``[n]``.

        The spread is the distance between the first and the third quartile of a ray's weight,
        relative to its depth: small on one clear surface, large across edges and in fog.
        """
        if self.finder is not None:
            return self.finder.find(rays.origins, rays.directions)
        points, opacity, spread = [], [], []
        for part in rays.parts(self.chunk):
            samples = sample_rays(self.field, part, self.spacing, self.surface_config)
            depth = samples.depth()
            points.append(part.origins + part.directions * depth[:, None])
            opacity.append(samples.opacity())
            spread.append(depth_spread(samples) / depth)
        return torch.cat(points), torch.cat(opacity), torch.cat(spread)

    @torch.no_grad()
    def colours(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor]:
        """RGB ``[n, 3]``, surface points ``[n, 3]`` in metres and opacity ``[n]``, at once."""
        light = self.field.mean_appearance()[None].expand(len(rays.origins), -1)
        if self.finder is not None:
            features, points, opacity = self.finder.shade(rays.origins, rays.directions)
            seen = opacity[:, None] * self.field.colours(features, rays.directions, light)
            return seen, points, opacity
        samples = sample_rays(self.field, rays, self.spacing, self.config)
        seen = ray_colours(self.field, rays, samples, light)
        points = rays.origins + rays.directions * samples.depth()[:, None]
        return seen, points, samples.opacity()

    @torch.no_grad()
    def render(self, camera: Camera, map_from_camera: Pose) -> Rendering:
        """Render every pixel of a camera (resize the camera first for a smaller image).

        What is not usable is black and empty.
        """
        rays = self.rays(camera, map_from_camera, camera.pixel_grid())
        forward = rays.origins.new_tensor(map_from_camera.rotation[:, 2])
        colours, depths, opacities, descriptors = [], [], [], []
        for part in rays.parts(self.chunk):
            colour, surface, opacity = self.colours(part)
            descriptors.append(self.field.descriptors(surface))
            colours.append(colour)
            depths.append((surface - part.origins) @ forward)
            opacities.append(opacity)
        seen, z_depth, opacity = torch.cat(colours), torch.cat(depths), torch.cat(opacities)
        if camera.usable is not None:
            empty = torch.from_numpy(~camera.usable.ravel()).to(self.device)
            seen[empty], z_depth[empty], opacity[empty] = 0.0, 0.0, 0.0
        shape = (camera.height, camera.width)
        return Rendering(
            seen.reshape(*shape, 3).clamp(0, 1).cpu().numpy(),
            z_depth.reshape(shape).cpu().numpy(),
            torch.cat(descriptors).reshape(*shape, -1).cpu().numpy(),
            opacity.reshape(shape).cpu().numpy(),
        )


def depth_spread(samples: RaySamples) -> Tensor:
    """Distance between the quartiles of the weight along each ray, ``[rays]``, metres."""
    total = torch.cumsum(samples.weights, dim=1)
    total = torch.cat([torch.zeros_like(total[:, :1]), total], dim=1)
    levels = total[:, -1:] * constant((0.25, 0.75), total)
    quartiles = interpolate(total, samples.edges, levels)
    return quartiles[:, 1] - quartiles[:, 0]
