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

    ``image = centre + turn @ (window - window_centre)`` with pixel centres at .5 and
    ``turn = [[cosine, -sine], [sine, cosine]]``. Plain numbers, so that none of them has to
    travel to a GPU.

    Attributes:
        centre: (x, y) in the image, pixels.
        cosine: zoom times the cosine of the rotation.
        sine: zoom times its sine.
        size: (width, height) of the window.
    """

    centre: tuple[float, float]
    cosine: float
    sine: float
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
            rng: source of all random choices, on the host.
            multiple: the window's sides are multiples of this.
        """
        width, height = (max(multiple, round(share * n / multiple) * multiple) for n in image_size)
        u = torch.rand(4, generator=rng).tolist()
        zoom = math.exp((2 * u[0] - 1) * math.log1p(scale))
        angle = (2 * u[1] - 1) * math.radians(degrees)
        slack = [max(0.0, n - zoom * w) for n, w in zip(image_size, (width, height), strict=True)]
        x, y = (n / 2 + (v - 0.5) * s for n, v, s in zip(image_size, u[2:], slack, strict=True))
        return Warp((x, y), zoom * math.cos(angle), zoom * math.sin(angle), (width, height))

    def cut(self, image: Tensor) -> Tensor:
        """The window ``[b, channels, height, width]`` of an image ``[b, channels, h, w]``."""
        width, height = self.size
        column = torch.arange(width, device=image.device) + 0.5
        row = torch.arange(height, device=image.device) + 0.5
        x, y = self._undo(column[None, :], row[:, None])
        rows, columns = image.shape[2:]
        unit = torch.stack([2.0 * x / columns - 1.0, 2.0 * y / rows - 1.0], dim=-1)
        unit = unit[None].expand(len(image), -1, -1, -1)
        return functional.grid_sample(image, unit, padding_mode="border", align_corners=False)

    def undo(self, window_pixels: Tensor) -> Tensor:
        """Pixels ``[n, 2]`` of the window, in the image."""
        return torch.stack(self._undo(window_pixels[:, 0], window_pixels[:, 1]), dim=1)

    def _undo(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = x - self.size[0] / 2, y - self.size[1] / 2
        c, s = self.cosine, self.sine
        return self.centre[0] + c * u - s * v, self.centre[1] + s * u + c * v

    def inside(self, window_pixels: Tensor, border: float = 3.0) -> Tensor:
        """Which pixels ``[n, 2]`` of the window lie well within it."""
        (x, y), (width, height) = window_pixels.unbind(1), self.size
        return (x > border) & (y > border) & (x < width - border) & (y < height - border)


def shake(image: Tensor, longest: float, rng: torch.Generator) -> Tensor:
    """Motion blur along a random line, for every second image on average.

    Args:
        image: ``[b, 3, h, w]``.
        longest: length of the line at most, pixels; below 2 nothing happens.
        rng: source of all random choices, on the host.
    """
    u = torch.rand(3, generator=rng).tolist()
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
