"""Other light and things in the way, painted into images to see what they cost.

Deterministic: the same image and number give the same picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def darker(image: Image, number: int) -> Image:
    """Gamma 1.8: evening."""
    return _gamma(image, 1.8)


def brighter(image: Image, number: int) -> Image:
    """Gamma 0.55: an exposure too long."""
    return _gamma(image, 0.55)


def colour_cast(image: Image, number: int) -> Image:
    """The light of a lamp, red or blue by turns."""
    gain = np.array([1.2, 1.0, 0.75] if number % 2 else [0.75, 1.0, 1.2])
    return _bytes(image * gain)


def shadow(image: Image, number: int) -> Image:
    """A half-plane with a soft edge gets 45 % of the light."""
    rng = np.random.default_rng(number)
    angle = rng.uniform(0, 2 * np.pi)
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    side = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
    lit = 1.0 / (1.0 + np.exp(-np.clip(side / (0.02 * width), -30, 30)))
    return _bytes(image * (0.45 + 0.55 * lit)[..., None])


def moving_patch(image: Image, number: int) -> Image:
    """A checked shirt, 35 % of the width and 60 % of the height, walks through the image."""
    height, width = image.shape[:2]
    across, down = round(0.35 * width), round(0.6 * height)
    left = (37 * number) % max(1, width - across)
    top = (height - down) // 2
    y, x = np.mgrid[:down, :across]
    size = max(2, width // 40)
    checks = ((x // size + y // size) % 2)[..., None]
    colours = np.where(checks, np.array([190, 60, 50]), np.array([230, 225, 215]))
    out = image.copy()
    out[top : top + down, left : left + across] = colours.astype(np.uint8)
    return out


DISTURBANCES: dict[str, Callable[[Image, int], Image]] = {
    "darker": darker,
    "brighter": brighter,
    "colour cast": colour_cast,
    "shadow": shadow,
    "moving patch": moving_patch,
}


def _gamma(image: Image, power: float) -> Image:
    table = _bytes(255.0 * (np.arange(256) / 255.0) ** power)
    return np.asarray(table[image])


def _bytes(values: NDArray[np.float64]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
