"""Polish a pose by colours: the map is rendered where the image has edges, and slid over it.

Descriptors say what is where, but are learned and vary slowly over the image; colours are what
the geometry was trained on and as sharp as the render (the idea of iNeRF, Yen-Chen et al. 2021,
as Gauss-Newton with depths held still in place of gradient descent through the field). The
errors of both are of different kinds, so the localizer takes the mean of the two poses.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.features.network import fitted
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.alignment import LensTangent, cells_and_jacobian
from crossfire_core.rendering.renderer import Renderer

FloatArray = NDArray[np.float64]
_BORDER = 6  # pixels that take no part: slopes are wrong there, and a small step leaves the image
_LEAST_POINTS = 100
_LEAST_LIKENESS = 0.85  # of image and render; below, as in other light, poses get worse


@dataclass(frozen=True)
class GreyImage:
    """A smoothed image and its slopes.

    Attributes:
        value: ``[rows, columns]`` float32 in [0, 1].
        slope_x: its derivative along a row, per pixel of this image; likewise ``slope_y``.
        slope_y: along a column.
        scale: (x, y): pixels of this image per pixel of the camera's.
    """

    value: NDArray[np.float32]
    slope_x: NDArray[np.float32]
    slope_y: NDArray[np.float32]
    scale: tuple[float, float]

    @classmethod
    def of(cls, image: NDArray[np.uint8], side: int, blur: float = 0.8) -> GreyImage:
        """Shrink an RGB image to ``side`` pixels and smooth it a little."""
        height, width = image.shape[:2]
        if max(width, height) > side:
            image = cv2.resize(  # type: ignore[assignment]
                image, fitted(width, height, side), interpolation=cv2.INTER_AREA
            )
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
        grey = cv2.GaussianBlur(grey, (0, 0), blur).astype(np.float32)
        along_x = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=0.125).astype(np.float32)
        along_y = cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=0.125).astype(np.float32)
        return cls(grey, along_x, along_y, (grey.shape[1] / width, grey.shape[0] / height))

    def edges(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Pixels of the camera ``[n, 2]``, likelier the steeper the image is there."""
        steep = np.hypot(self.slope_x, self.slope_y).astype(np.float64)
        inner = np.zeros_like(steep)
        within = np.s_[_BORDER:-_BORDER, _BORDER:-_BORDER]
        # beyond the 95th percentile steeper is not better: highlights and borders of things
        inner[within] = np.minimum(steep[within], np.percentile(steep, 95))
        usable = int(np.count_nonzero(inner))
        if usable < _LEAST_POINTS:
            return np.zeros((0, 2))
        share = (inner / inner.sum()).ravel()
        index = rng.choice(inner.size, min(count, usable), replace=False, p=share)
        row, column = np.divmod(index, inner.shape[1])
        return np.asarray((np.column_stack([column, row]) + 0.5) / np.array(self.scale))

    def at(self, cells: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values ``[n]`` and slopes ``[n, 2]``, bilinear; NaN outside."""
        x, y = (cells[:, i].astype(np.float32)[:, None] for i in (0, 1))
        sample = lambda a: cv2.remap(  # noqa: E731
            a, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan,)
        )[:, 0].astype(np.float64)
        return sample(self.value), np.column_stack([sample(self.slope_x), sample(self.slope_y)])


def align_colours(
    renderer: Renderer,
    image: NDArray[np.uint8],
    camera: Camera,
    map_from_camera: Pose,
    rays: int,
    min_opacity: float,
    seed: int,
    side: int = 640,
) -> Pose | None:
    """The pose at which the rendered edges lie on the image's.

    Args:
        renderer: of the map.
        image: ``[height, width, 3]`` uint8 RGB, of the camera's size.
        camera: its calibration.
        map_from_camera: start, within a pixel or two of the truth.
        rays: points of the image that are rendered.
        min_opacity: fainter ones take no part.
        seed: of the choice of points.
        side: the image is shrunk to this longer side.

    Returns:
        ``map_from_camera``, or None where too little is rendered, nothing is to be seen, or the
        image does not look like the render, as in other light.
    """
    grey = GreyImage.of(image, side)
    pixels = grey.edges(rays, np.random.default_rng(seed))
    if len(pixels) < _LEAST_POINTS:
        return None
    points, rendered = _rendered(renderer, camera, map_from_camera, pixels, min_opacity)
    if len(points) < _LEAST_POINTS:
        return None
    if likeness(grey, points, rendered, camera, map_from_camera.inverse()) < _LEAST_LIKENESS:
        return None
    found = slide(grey, points, rendered, camera, map_from_camera.inverse())
    return found.inverse() if found is not None and found.is_finite() else None


def _rendered(
    renderer: Renderer,
    camera: Camera,
    map_from_camera: Pose,
    pixels: FloatArray,
    min_opacity: float,
) -> tuple[FloatArray, FloatArray]:
    """Surface points ``[n, 3]`` and grey values ``[n]`` of those pixels that show a surface."""
    rays = renderer.rays(camera, map_from_camera, pixels)
    colours, surface, opacity = renderer.colours(rays)
    solid = opacity > min_opacity
    points = surface[solid].double().cpu().numpy()
    image = colours[solid][None].cpu().numpy()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[0] if len(points) else np.zeros(0)
    return points, grey.astype(np.float64)


def likeness(
    grey: GreyImage,
    points: FloatArray,
    rendered: FloatArray,
    camera: Camera,
    camera_from_map: Pose,
) -> float:
    """Correlation of the image's grey values with the rendered ones, -1 to 1; 0 if all alike.

    Args:
        grey: the image.
        points: ``[n, 3]`` map frame, metres.
        rendered: ``[n]`` grey values of the points in the map.
        camera: the image's camera, distortion included.
        camera_from_map: the pose.
    """
    pixels = camera.project(camera_from_map.apply(points))
    value, _ = grey.at(pixels * np.array(grey.scale) - 0.5)
    seen = np.isfinite(value)
    if seen.sum() < 2 or np.ptp(value[seen]) == 0 or np.ptp(rendered[seen]) == 0:
        return 0.0
    return float(np.corrcoef(value[seen], rendered[seen])[0, 1])


def slide(
    grey: GreyImage,
    points: FloatArray,
    rendered: FloatArray,
    camera: Camera,
    camera_from_map: Pose,
    iterations: int = 5,
) -> Pose | None:
    """Gauss-Newton on ``image - (gain * rendered + offset)``, robust (Geman-McClure).

    Args:
        grey: the image.
        points: ``[n, 3]`` map frame, metres.
        rendered: ``[n]`` grey values of the points in the map.
        camera: the image's camera, distortion included.
        camera_from_map: start.
        iterations: at most this many steps.

    Returns:
        ``camera_from_map``; None once fewer than 100 points are in the image.
    """
    pose = camera_from_map
    lens = LensTangent.at(pose, points, camera, grey.scale)
    for _ in range(iterations):
        cells, by_twist = cells_and_jacobian(pose, points, lens)
        value, slope = grey.at(cells)
        seen = np.isfinite(value) & np.isfinite(slope).all(axis=1)
        if seen.sum() < _LEAST_POINTS:
            return None
        residual, weight = fit_light(value[seen], rendered[seen])
        jacobian = np.einsum("ni,nij->nj", slope[seen], by_twist[seen])
        weighted = jacobian * weight[:, None]
        normal = weighted.T @ jacobian
        damping = 1e-9 * np.trace(normal) + 1e-12
        twist = -np.linalg.solve(normal + damping * np.eye(6), weighted.T @ residual)
        pose = Pose.exp(twist) @ pose
        if np.linalg.norm(twist) < 2e-5:
            break
    return pose


def fit_light(
    value: FloatArray, rendered: FloatArray, rounds: int = 8
) -> tuple[FloatArray, FloatArray]:
    """One gain and offset for the whole image, because its light differs from the map's.

    Returns:
        Residuals ``[n]`` and robust weights ``[n]``, whose width follows their spread.
    """
    basis = np.column_stack([rendered, np.ones(len(rendered))])
    weight = np.ones(len(value))
    residual = value
    for _ in range(rounds):
        weighted = basis * weight[:, None]
        normal = weighted.T @ basis + 1e-9 * np.eye(2)
        residual = value - basis @ np.linalg.solve(normal, weighted.T @ value)
        width = 2.0 * (1.4826 * np.median(np.abs(residual)) + 1e-4) ** 2
        weight = (width / (width + residual**2)) ** 2
    return residual, weight
