"""The neural field: density, colour and descriptors of every point of the map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossfire_core.config import FieldConfig, GridConfig
from crossfire_core.field import networks
from crossfire_core.field.backends import Encoder
from crossfire_core.field.layout import GridLayout, NetworkLayout
from crossfire_core.field.scene_box import SceneBox


class GridNetwork(nn.Module):
    """A hash grid followed by a small network, as two flat parameter vectors."""

    def __init__(
        self, grid: GridConfig, outputs: int, hidden: int, encode: Encoder, rng: torch.Generator
    ) -> None:
        """Allocate and initialise: grid U(-1e-4, 1e-4), network Xavier-uniform."""
        super().__init__()
        self.grid_layout = GridLayout.of(grid)
        self.network_layout = NetworkLayout(grid.width, outputs, hidden, 1)
        self.encode = encode
        table = (torch.rand(self.grid_layout.parameters, generator=rng) * 2 - 1) * 1e-4
        self.grid = nn.Parameter(table)
        self.network = nn.Parameter(networks.initial_parameters(self.network_layout, rng))

    def forward(self, unit_positions: Tensor) -> Tensor:
        """``[n, 3]`` in [0, 1] -> ``[n, outputs]``."""
        encoded = self.encode(self.grid, unit_positions, self.grid_layout)
        return networks.evaluate(self.network, encoded, self.network_layout)


class SceneField(nn.Module):
    """Everything that the map knows about a point.

    Descriptors have their own grid: with a shared one the metric loss drowns the photometric
    one, and they depend on neither the view direction nor the image's appearance.
    """

    def __init__(
        self, config: FieldConfig, box: SceneBox, images: int, encode: Encoder, seed: int = 0
    ) -> None:
        """Build an untrained field.

        Args:
            config: sizes.
            box: the scene's place in the unit cube.
            images: number of mapping images, one appearance vector each.
            encode: the backend's encoding function.
            seed: of the initial parameters.
        """
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.config, self.box = config, box
        hidden, size = config.hidden_width, config.geometry_features
        self.proposal = GridNetwork(config.proposal, 1, config.proposal_width, encode, rng)
        self.geometry = GridNetwork(config.geometry, size, hidden, encode, rng)
        self.descriptor = GridNetwork(
            config.descriptor, config.descriptor_size, hidden, encode, rng
        )
        self.colour_layout = NetworkLayout(size + 16 + config.appearance_size, 3, hidden, 2)
        self.colour = nn.Parameter(networks.initial_parameters(self.colour_layout, rng))
        self.appearance = nn.Parameter(torch.zeros(images, config.appearance_size))

    def set_encoder(self, encode: Encoder) -> None:
        """Switch the backend; the parameters stay as they are."""
        for part in (self.proposal, self.geometry, self.descriptor):
            part.encode = encode

    def proposal_density(self, points: Tensor) -> Tensor:
        """Coarse density ``[n]`` in 1/m of points ``[n, 3]`` in metres."""
        return self._density(self.proposal(self.box.normalize(points))[:, 0])

    def density_and_features(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``[n]`` in 1/m and the features ``[n, f]`` that colour is made from."""
        features = self.geometry(self.box.normalize(points))
        return self._density(features[:, 0]), features

    def colours(self, features: Tensor, directions: Tensor, appearance: Tensor) -> Tensor:
        """RGB in [0, 1], ``[n, 3]``, from features, unit directions and appearance vectors."""
        inputs = torch.cat([features, spherical_harmonics(directions), appearance], dim=1)
        return torch.sigmoid(networks.evaluate(self.colour, inputs, self.colour_layout))

    def descriptors(self, points: Tensor) -> Tensor:
        """Unit descriptors ``[n, d]`` of points ``[n, 3]`` in metres."""
        raw = self.descriptor(self.box.normalize(points))
        return nn.functional.normalize(raw, dim=1, eps=1e-6)

    def mean_appearance(self) -> Tensor:
        """The appearance ``[a]`` to render with when no image's light is asked for."""
        return self.appearance.mean(dim=0)

    def _density(self, raw: Tensor) -> Tensor:
        # density is kept in units of the box, so that initial values suit any scene's size
        return TruncatedExp.apply(raw - 1.0) / self.box.half_size  # type: ignore[no-any-return]


class TruncatedExp(torch.autograd.Function):
    """``exp`` whose gradient stays finite, as in Instant-NGP."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        """Exponential of ``x`` below 15."""
        ctx.save_for_backward(x)
        return x.clamp(max=15.0).exp()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        """Gradient as if the exponent were limited to 15."""
        x: Tensor = ctx.saved_tensors[0]  # type: ignore[attr-defined]
        return grads[0] * x.clamp(-15.0, 15.0).exp()


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics to degree 3 of unit vectors ``[n, 3]``: ``[n, 16]``.

    The polynomial forms of Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013.
    """
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    c1, c2 = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    c3, c4 = math.sqrt(35 / (32 * math.pi)), math.sqrt(21 / (32 * math.pi))
    c5, c6 = math.sqrt(105 / (4 * math.pi)), math.sqrt(7 / (16 * math.pi))
    parts = [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        c1 * y, c1 * z, c1 * x,
        c2 * x * y, c2 * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * zz - 1), c2 * x * z,
        c2 / 2 * (xx - yy),
        c3 * y * (3 * xx - yy), c5 * x * y * z, c4 * y * (5 * zz - 1),
        c6 * z * (5 * zz - 3), c4 * x * (5 * zz - 1), c5 / 2 * z * (xx - yy),
        c3 * x * (xx - 3 * yy),
    ]  # fmt: skip
    return torch.stack(parts, dim=1)
