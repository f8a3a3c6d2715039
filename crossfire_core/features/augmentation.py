"""Changes of light and viewpoint, so that descriptors do not depend on the mapping pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Warp:
    """A similarity from an image to a smaller window cut out of it.

    ``image = centre + turn @ (window - window_centre)`` with pixel centres at .5.

    Attributes:
        centre: ``[2]`` in the image, pixels.
        turn: ``[2, 2]`` rotation times scale.
        size: (width, height) of the window.
    """

    centre: Tensor
    turn: Tensor
    size: tuple[int, int]

    @staticmethod
    def draw(
        image_size: tuple[int, int],
        share: float,
        scale: float,
        degrees: float,
        rng: torch.Generator,
        multiple: int = 8,
    ) -> Warp:
        """A random window.

        Args:
            image_size: (width, height) in pixels.
            share: of the image's width and height that the window takes.
            scale: largest relative zoom in or out.
            degrees: largest rotation.
            rng: source of all random choices.
            multiple: the window's sides are multiples of this.
        """
        width, height = (max(multiple, round(share * n / multiple) * multiple) for n in image_size)
        u = torch.rand(4, generator=rng, device=rng.device).tolist()
        zoom = math.exp((2 * u[0] - 1) * math.log1p(scale))
        angle = (2 * u[1] - 1) * math.radians(degrees)
        slack = [max(0.0, n - zoom * w) for n, w in zip(image_size, (width, height), strict=True)]
        centre = [n / 2 + (v - 0.5) * s for n, v, s in zip(image_size, u[2:], slack, strict=True)]
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        return Warp(
            torch.tensor(centre, device=rng.device),
            torch.tensor([[c, -s], [s, c]], device=rng.device),
            (width, height),
        )

    def cut(self, image: Tensor) -> Tensor:
        """The window ``[b, channels, height, width]`` of an image ``[b, channels, h, w]``."""
        width, height = self.size
        x = torch.arange(width, device=image.device) + 0.5 - width / 2
        y = torch.arange(height, device=image.device) + 0.5 - height / 2
        offset = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        source = self.centre + offset @ self.turn.T
        size = source.new_tensor([image.shape[3], image.shape[2]])
        unit = (2.0 * source / size - 1.0)[None].expand(len(image), -1, -1, -1)
        return functional.grid_sample(image, unit, padding_mode="border", align_corners=False)

    def undo(self, window_pixels: Tensor) -> Tensor:
        """Pixels ``[n, 2]`` of the window, in the image."""
        middle = window_pixels.new_tensor(self.size) / 2
        return self.centre + (window_pixels - middle) @ self.turn.T

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels ``[n, 2]`` of the image, in the window."""
        inverse: Tensor = torch.linalg.inv(self.turn)
        return (pixels - self.centre) @ inverse.T + pixels.new_tensor(self.size) / 2

    def inside(self, window_pixels: Tensor, border: float = 3.0) -> Tensor:
        """Which pixels ``[n, 2]`` of the window lie well within it."""
        size = window_pixels.new_tensor(self.size)
        return ((window_pixels > border) & (window_pixels < size - border)).all(dim=1)


def shake(image: Tensor, longest: float, rng: torch.Generator) -> Tensor:
    """Motion blur along a random line, for every second image on average.

    Args:
        image: ``[b, 3, h, w]``.
        longest: length of the line at most, pixels; below 2 nothing happens.
        rng: source of all random choices.
    """
    u = torch.rand(3, generator=rng, device=image.device).tolist()
    length = u[0] * longest
    if u[1] < 0.5 or length < 2.0:
        return image
    half = math.ceil(length / 2)
    step = torch.arange(-half, half + 1, device=image.device, dtype=image.dtype)
    y, x = torch.meshgrid(step, step, indexing="ij")
    c, s = math.cos(math.pi * u[2]), math.sin(math.pi * u[2])
    along, across = x * c + y * s, y * c - x * s
    kernel = (1.0 - across.abs()).clamp_min(0.0) * (along.abs() <= length / 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1, -1)
    padded = functional.pad(image, (half, half, half, half), mode="replicate")
    return functional.conv2d(padded, kernel, groups=image.shape[1])


def relight(image: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Random exposure, contrast, gamma, colour cast and noise.

    Args:
        image: ``[b, 3, h, w]`` in [0, 1].
        strength: largest relative change of each; 0 returns the image itself.
        rng: source of all random choices.
    """
    if strength <= 0:
        return image
    draw = lambda *shape: torch.rand(shape, generator=rng, device=image.device) * 2 - 1  # noqa: E731
    gamma = torch.exp(strength * draw(1))
    gain = torch.exp(strength * draw(1)) * torch.exp(0.4 * strength * draw(1, 3, 1, 1))
    lit = gain * image.clamp_min(1e-4) ** gamma
    contrast = torch.exp(strength * draw(1))
    middle = lit.mean()
    noise = torch.randn(image.shape, generator=rng, device=image.device)
    noise = noise * (0.05 * strength * torch.rand(1, generator=rng, device=image.device))
    return ((lit - middle) * contrast + middle + noise).clamp(0.0, 1.0)
