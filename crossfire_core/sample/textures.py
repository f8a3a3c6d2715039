"""Procedural surfaces: colours ``[h, w, 3]`` in 0..1 for a patch of given size in metres.

All of them are rich from centimetres to metres, as real rooms are, and made from a seeded
generator: the same seed gives the same room.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]
Painter = Callable[[int, int, float, np.random.Generator], Texture]

OAK, WALNUT, PINE = (0.62, 0.44, 0.27), (0.36, 0.23, 0.15), (0.78, 0.62, 0.42)


def noise(
    height: int, width: int, rng: np.random.Generator, cells: float, stretch: float = 1.0
) -> Texture:
    """Smooth noise ``[h, w]`` around 0 with about ``cells`` bumps along the longer side."""
    longer = max(height, width)
    rows = max(int(np.ceil(cells * height / longer)), 1) + 3
    columns = max(int(np.ceil(cells * stretch * width / longer)), 1) + 3
    coarse = rng.normal(size=(rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def fractal(
    height: int, width: int, metres: float, rng: np.random.Generator, stretch: float = 1.0
) -> Texture:
    """Noise summed over octaves from a metre down to a centimetre, about unit strength."""
    total = np.zeros((height, width), np.float32)
    size, strength = 0.8, 1.0
    while size > 0.008:
        total += strength * noise(height, width, rng, max(metres / size, 1.0), stretch)
        size, strength = size / 2, strength * 0.78
    return np.asarray(total / 1.6, dtype=np.float32)


def tinted(colour: tuple[float, float, float], shade: Texture) -> Texture:
    """A colour made lighter and darker by a shade around 0."""
    base = np.array(colour, np.float32)
    return np.clip(base * (1.0 + shade[..., None]), 0.0, 1.0)


def plain(colour: tuple[float, float, float], roughness: float = 0.1) -> Painter:
    """Painted or plastered: faint noise and a few scratches."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        image = tinted(colour, roughness * fractal(height, width, metres, rng))
        for _ in range(int(4 * metres) + 1):
            start = rng.integers((0, 0), (width, height))
            end = start + rng.normal(size=2) * 0.06 * width / max(metres, 0.3)
            tone = np.array(colour) * rng.uniform(0.6, 1.15)
            cv2.line(image, _point(start), _point(end), tone.tolist(), 1, cv2.LINE_AA)
        return image

    return paint


def wallpaper(colour: tuple[float, float, float], second: tuple[float, float, float]) -> Painter:
    """Stripes and stains, each patch of it different."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        image = tinted(colour, 0.12 * fractal(height, width, metres, rng))
        per_metre = width / metres
        x = 0.0
        while x < width:
            band = rng.uniform(0.06, 0.3) * per_metre
            if rng.random() < 0.45:
                part = image[:, int(x) : int(x + band)]
                part[:] = 0.55 * part + 0.45 * np.array(second, np.float32)
            x += band
        for _ in range(int(10 * metres)):
            centre = rng.integers((0, 0), (width, height))
            tone = np.array(second) * rng.uniform(0.5, 1.3)
            radius = int(rng.uniform(0.008, 0.035) * per_metre) + 1
            cv2.circle(image, _point(centre), radius, tone.tolist(), -1, cv2.LINE_AA)
        return image

    return paint


def wood(colour: tuple[float, float, float], plank: float = 0.12) -> Painter:
    """Planks with grain along the width."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        image = np.zeros((height, width, 3), np.float32)
        per_metre = width / metres
        step = max(int(plank * per_metre), 4)
        for top in range(0, height, step):
            rows = min(step, height - top)
            grain = 0.28 * fractal(rows, width, metres, rng, stretch=0.18)
            tone = np.array(colour) * rng.uniform(0.75, 1.2)
            image[top : top + rows] = tinted((tone[0], tone[1], tone[2]), grain)
            image[top : top + 1] *= 0.45
            for _ in range(int(metres / 0.7) + 1):
                x = int(rng.integers(0, width))
                image[top : top + rows, x : x + 1] *= 0.5
                knot = _point((rng.integers(0, width), top + rows // 2))
                radius = max(int(rng.uniform(0.006, 0.02) * per_metre), 1)
                cv2.circle(image, knot, radius, (tone * 0.45).tolist(), -1, cv2.LINE_AA)
        return image

    return paint


def bricks(colour: tuple[float, float, float]) -> Painter:
    """Running bond with mortar, each brick of its own tone."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        per_metre = width / metres
        image = tinted((0.72, 0.7, 0.66), 0.1 * fractal(height, width, metres, rng))
        rough = 0.16 * fractal(height, width, metres, rng)
        tall, long, gap = 0.085 * per_metre, 0.24 * per_metre, max(0.01 * per_metre, 1)
        for row in range(int(height / tall) + 1):
            for column in range(-1, int(width / long) + 1):
                x = int((column + 0.5 * (row % 2)) * long)
                area = np.s_[
                    int(row * tall) : int((row + 1) * tall - gap),
                    max(x, 0) : max(int(x + long - gap), 0),
                ]
                tone = np.array(colour) * rng.uniform(0.65, 1.25)
                image[area] = tinted((tone[0], tone[1], tone[2]), rough[area])
        return image

    return paint


def carpet(colours: tuple[tuple[float, float, float], ...]) -> Painter:
    """Borders around a field of diamonds."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        rows, columns = np.indices((height, width)).astype(np.float32)
        edge = np.minimum.reduce([rows, columns, height - rows, width - columns])
        band = (edge / (0.09 * width / metres)).astype(int)
        diamonds = (np.abs(rows - height / 2) + np.abs(columns - width / 2)) / (
            0.17 * width / metres
        )
        index = np.where(band < 4, band, 4 + diamonds.astype(int)) % len(colours)
        image = np.array(colours, np.float32)[index]
        figures = rng.integers(0, len(colours), size=(height // 24 + 1, width // 24 + 1))
        dots = cv2.resize(
            figures.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        inner = (band >= 4) & (np.hypot(rows % 24 - 12, columns % 24 - 12) < 5)
        image[inner] = np.array(colours, np.float32)[dots[inner]]
        shade = 1 + 0.12 * fractal(height, width, metres, rng)[..., None]
        return np.asarray(np.clip(image * shade, 0, 1), dtype=np.float32)

    return paint


def fabric(colour: tuple[float, float, float], second: tuple[float, float, float]) -> Painter:
    """Checked cloth."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        per_metre = width / metres
        lines = [np.zeros(n, np.float32) for n in (height, width)]
        for line in lines:
            at = 0.0
            while at < len(line):
                step = rng.uniform(0.015, 0.08) * per_metre
                line[int(at) : int(at + step)] = rng.choice([0.0, 0.0, 0.5])
                at += step
        mix = (lines[0][:, None] + lines[1][None])[..., None]
        image = (1 - mix) * np.array(colour, np.float32) + mix * np.array(second, np.float32)
        shade = 1 + 0.15 * fractal(height, width, metres, rng)[..., None]
        return np.asarray(np.clip(image * shade, 0, 1), dtype=np.float32)

    return paint


def books() -> Painter:
    """Spines of all widths and colours with titles, on one shelf's height."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        image = np.full((height, width, 3), 0.07, np.float32)
        per_metre, x = width / metres, 0.0
        while x < width:
            thick = rng.uniform(0.015, 0.055) * per_metre
            tall = int(height * rng.uniform(0.65, 0.97))
            tone = rng.uniform(0.08, 0.9, size=3)
            spine = image[height - tall :, int(x) + 1 : int(x + thick)]
            spine[:] = tone
            title = slice(int(0.15 * tall), int(rng.uniform(0.3, 0.55) * tall))
            spine[title] = np.clip(tone + rng.choice([-0.5, 0.45]), 0, 1)
            spine[int(0.85 * tall) : int(0.9 * tall)] = rng.uniform(0, 1, size=3)
            x += thick
        return image

    return paint


def picture() -> Painter:
    """A framed abstract painting with large letters."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        image = tinted(_colour(rng), 0.25 * fractal(height, width, metres, rng))
        image = np.ascontiguousarray(image)
        for _ in range(14):
            corners = rng.integers((0, 0), (width, height), size=(int(rng.integers(3, 6)), 2))
            cv2.fillPoly(image, [corners.astype(np.int32)], _colour(rng), cv2.LINE_AA)
        for _ in range(10):
            centre = rng.integers((0, 0), (width, height))
            radius = int(rng.uniform(0.02, 0.12) * width)
            cv2.circle(image, _point(centre), radius, _colour(rng), -1, cv2.LINE_AA)
        image = _lettered(image, rng)
        frame = max(int(0.03 * width / metres), 2)
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), (0.12, 0.08, 0.05), frame)
        return image

    return paint


def _lettered(image: Texture, rng: np.random.Generator) -> Texture:
    """The image with four large letters on it."""
    height, width = image.shape[:2]
    letters = "".join(rng.choice(list("AEGHKMNRSTXZ257"), size=4))
    where = (int(0.08 * width), int(rng.uniform(0.4, 0.85) * height))
    mask = np.zeros((height, width), np.uint8)  # OpenCV 5 writes text on 8-bit images only
    cv2.putText(mask, letters, where, cv2.FONT_HERSHEY_DUPLEX, width / 130, 255, 3, cv2.LINE_AA)
    share = mask[..., None].astype(np.float32) / 255
    return np.ascontiguousarray(image * (1 - share) + share * np.array(_colour(rng), np.float32))


def window() -> Painter:
    """Sky, hills and a cross of bars."""

    def paint(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
        rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        image = np.asarray((1 - rows) * (0.55, 0.75, 1.0) + rows * (0.95, 0.97, 1.0), np.float32)
        image = np.repeat(image, width, axis=1)
        image += 0.12 * np.maximum(fractal(height, width, metres, rng), 0)[..., None]
        for layer in range(3):
            level = height * (0.6 + 0.12 * layer)
            line = level + 0.07 * height * noise(1, width, rng, 6 + 4 * layer)[0]
            below = np.arange(height)[:, None] > line
            image[below] = np.array((0.3, 0.45, 0.25)) * (0.6 + 0.25 * layer)
        bar = max(int(0.05 * width / metres), 2)
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), (0.92, 0.92, 0.9), 2 * bar)
        image[:, width // 2 - bar // 2 : width // 2 + bar // 2] = 0.92
        image[height // 2 - bar // 2 : height // 2 + bar // 2] = 0.92
        return np.clip(image, 0, 1)

    return paint


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = rng.uniform(0.05, 0.95, size=3)
    return float(r), float(g), float(b)


def _point(xy: NDArray[np.generic] | tuple[object, object]) -> tuple[int, int]:
    x, y = np.asarray(xy, dtype=np.float64)
    return int(x), int(y)
