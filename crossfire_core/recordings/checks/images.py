"""Sharpness and exposure of a sample of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError
from crossfire_core.geometry import Camera
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.lazy import Recording

# Measured at this width: sharp pictures lie at 0.3 to 0.6, a blur of 2 px brings them to 0.7.
_WIDTH = 640
_BLURRED = 0.65
_DARK, _BRIGHT = 40.0, 215.0  # means of grey values
_BLACK, _WHITE = 8, 247  # grey values without detail
_CLIPPED_SHARE = 0.35  # of an image without detail
_SOME, _MOST = 0.15, 0.6  # share of images: a warning, an error
# What is black in all of so many images, all four corners with it, is the border of a lens; a
# circle across an image of 16:9 leaves 56 percent.
_LEAST_LOOKS, _LEAST_BORDER, _MOST_BORDER = 5, 0.02, 0.65
_THUMBNAIL = 240  # width in the report, pixels


@dataclass(frozen=True)
class Look:
    """One looked-at image.

    Attributes:
        index: position in the recording.
        blur: 0 (crisp) to 1.
        brightness: mean of the grey values, 0 to 255.
        clipped: share of pixels that are black or white.
        thumbnail: ``[h, w, 3]`` small RGB copy.
        black: ``[h, w]`` pixels of it that are black or not usable.
        usable: ``[h, w]`` those that are usable.
    """

    index: int
    blur: float
    brightness: float
    clipped: float
    thumbnail: NDArray[np.uint8]
    black: NDArray[np.bool_]
    usable: NDArray[np.bool_]

    @property
    def is_blurred(self) -> bool:
        """Whether motion or focus cost the detail."""
        return self.blur > _BLURRED

    @property
    def is_badly_exposed(self) -> bool:
        """Whether it is too dark, too bright, or largely black and white."""
        return not _DARK <= self.brightness <= _BRIGHT or self.clipped > _CLIPPED_SHARE


def look_at_images(
    recording: Recording, count: int, on_progress: Callable[[int, int], None]
) -> tuple[list[Look], list[Finding]]:
    """Decode images spread over the recording; one that cannot be read ends the look.

    Args:
        recording: with at least one frame.
        count: of images at most.
        on_progress: called with the number looked at and in all.
    """
    indices = np.unique(np.linspace(0, len(recording) - 1, count).astype(int)).tolist()
    looks: list[Look] = []
    try:
        for index, frame in zip(indices, recording.frames(indices), strict=True):
            looks.append(_look(index, frame.image, frame.camera))
            on_progress(len(looks), len(indices))
    except CrossfireError as problem:
        return looks, [error("images", str(problem))]
    looks, border = without_border(looks)
    return looks, border + judge_looks(looks)


def without_border(looks: list[Look]) -> tuple[list[Look], list[Finding]]:
    """Exposure without what is black in all images: the border of a lens, not the scene.

    Args:
        looks: of the recording; those of several sizes are left as they are.

    Returns:
        The looks, and what to do about the border.
    """
    if len(looks) < _LEAST_LOOKS or len({look.thumbnail.shape for look in looks}) > 1:
        return looks, []
    always = np.logical_and.reduce([look.black for look in looks])
    share = float(always[looks[0].usable].mean())
    corners = always[[0, 0, -1, -1], [0, -1, 0, -1]]
    if not (corners.all() and _LEAST_BORDER < share < _MOST_BORDER):
        return looks, []
    found = [
        replace(
            look,
            brightness=min(255.0, look.brightness / (1.0 - share)),
            clipped=max(0.0, look.clipped - share) / (1.0 - share),
        )
        for look in looks
    ]
    text = f"{share:.0%} of each image is black throughout the recording: leave it out with --mask"
    return found, [warning("border", text)]


def judge_looks(looks: Sequence[Look]) -> list[Finding]:
    """What is wrong with the images as a whole."""
    blurred = float(np.mean([look.is_blurred for look in looks]))
    exposed = float(np.mean([look.is_badly_exposed for look in looks]))
    findings = []
    if blurred > _SOME:
        judge = error if blurred > _MOST else warning
        findings.append(
            judge(
                "blur",
                f"{blurred:.0%} of the images are blurred: drive slower, shorten the exposure, or "
                "focus the lens",
            )
        )
    if exposed > _SOME:
        brightness = float(np.median([look.brightness for look in looks]))
        judge = error if exposed > _MOST else warning
        findings.append(
            judge(
                "exposure",
                f"{exposed:.0%} of the images are too dark, too bright or clipped (median grey "
                f"value {brightness:.0f} of 255): set the exposure",
            )
        )
    return findings or [good("images", "the images are sharp and well exposed")]


def blur_of(grey: NDArray[np.uint8], usable: NDArray[np.bool_] | None = None) -> float:
    """How little a picture changes when it is blurred once more, 0 (crisp) to 1.

    After Crete et al., "The blur effect" (SPIE 2007): the share of the neighbouring differences
    that survives an averaging over nine pixels, in the worse of both directions.

    Args:
        grey: ``[height, width]``.
        usable: pixels that count, those whose averages reach over no others; None for all.
    """
    pixels = grey.astype(np.float32)
    shares = []
    for axis, kernel in ((1, (9, 1)), (0, (1, 9))):
        before = np.abs(np.diff(pixels, axis=axis))
        after = np.abs(np.diff(cv2.blur(pixels, kernel), axis=axis))
        if usable is not None:
            inner = cv2.erode(usable.astype(np.uint8), np.ones((11, 11))) > 0
            within = np.delete(inner, -1, axis=axis)
            before, after = before[within], after[within]
        lost = np.maximum(before - after, 0.0).sum()
        shares.append(1.0 - float(lost) / max(float(before.sum()), 1e-9))
    return max(shares)


def _look(index: int, image: NDArray[np.uint8], camera: Camera) -> Look:
    scale = min(1.0, _WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    usable = camera.usable_cells(grey.shape[1], grey.shape[0])
    counted = grey if usable is None or not usable.any() else grey[usable]
    clipped = float(((counted < _BLACK) | (counted > _WHITE)).mean())
    width = min(_THUMBNAIL, grey.shape[1])
    size = (width, max(1, round(grey.shape[0] * width / grey.shape[1])))
    thumbnail = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    shown = camera.usable_cells(*size)
    if shown is None or not shown.any():
        shown = np.ones(thumbnail.shape[:2], bool)
    black = (thumbnail.max(axis=2) < _BLACK) | ~shown
    blur = blur_of(grey, usable)
    return Look(index, blur, float(counted.mean()), clipped, thumbnail, black, shown)
