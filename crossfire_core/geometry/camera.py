"""A pinhole camera with lens distortion; pixel centres lie at .5."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry.lens_names import known_names, lens_named

FloatArray = NDArray[np.float64]
DistortionModel = Literal["none", "radtan", "rational", "equidistant"]

_COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "radtan": (4, 5),
    "rational": (8,),
    "equidistant": (4,),
}
_PIXEL_ACCURACY = 1e-6
_NEWTON_STEPS = 8
_UNDISTORT_STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-9)


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one image size.

    Axes follow OpenCV: x right, y down, z forward. Coordinates in the image are continuous:
    the centre of the top-left pixel is (0.5, 0.5), so halving an image halves every number.

    Attributes:
        width: pixels.
        height: pixels.
        fx: focal length along x in pixels; likewise ``fy``.
        fy: see ``fx``.
        cx: principal point in pixels, centres at .5; likewise ``cy``.
        cy: see ``cx``.
        distortion: ``none``, ``radtan`` (k1 k2 p1 p2 [k3]), ``rational``
            (k1 k2 p1 p2 k3 k4 k5 k6) or ``equidistant`` (k1 k2 k3 k4).
        coefficients: as many as the model takes.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: DistortionModel = "none"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse calibrations that no real camera has."""
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.coefficients)
        if not all(np.isfinite(numbers)):
            raise CalibrationError("camera calibration has NaN or infinite numbers")
        if self.width <= 0 or self.height <= 0 or self.fx <= 0 or self.fy <= 0:
            raise CalibrationError(
                f"camera is uncalibrated (size {self.width}x{self.height}, "
                f"fx {self.fx:g}, fy {self.fy:g}): calibrate it and record camera_info"
            )
        if self.distortion not in get_args(DistortionModel):
            raise CalibrationError(
                f"distortion model {self.distortion!r} is not supported: "
                f"use one of {', '.join(get_args(DistortionModel))}"
            )
        if len(self.coefficients) not in _COEFFICIENTS[self.distortion]:
            raise CalibrationError(
                f"distortion model {self.distortion} has {len(self.coefficients)} coefficients"
            )

    @staticmethod
    def from_ros(
        width: int, height: int, k: ArrayLike, model: str, d: ArrayLike, roi_offset: Any = (0, 0)
    ) -> Camera:
        """From the fields of a ``sensor_msgs/CameraInfo`` (pixel centres at integers there).

        Args:
            width: pixels.
            height: pixels.
            k: ``[9]`` or ``[3, 3]``, row-major.
            model: name of the distortion model, see :mod:`.lens_names`; any if all ``d`` are zero.
            d: coefficients; trailing ones beyond the model's are dropped if they are zero.
            roi_offset: (x, y) of the region of interest.

        Raises:
            CalibrationError: zero or non-finite K, an unknown model, too few coefficients.
        """
        matrix = np.asarray(k, dtype=np.float64).reshape(3, 3)
        coefficients = np.asarray(d, dtype=np.float64).ravel()
        return Camera(
            int(width),
            int(height),
            float(matrix[0, 0]),
            float(matrix[1, 1]),
            float(matrix[0, 2]) + 0.5 - float(roi_offset[0]),
            float(matrix[1, 2]) + 0.5 - float(roi_offset[1]),
            *_fit_coefficients(model, coefficients),
        )

    @property
    def matrix(self) -> FloatArray:
        """``[3, 3]`` for pixel centres at .5."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    @property
    def opencv_matrix(self) -> FloatArray:
        """``[3, 3]`` for pixel centres at integers, as OpenCV and ROS want it."""
        return np.array([[self.fx, 0, self.cx - 0.5], [0, self.fy, self.cy - 0.5], [0, 0, 1.0]])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def relative_size(self) -> float:
        """Longer side over 640: limits in pixels are stated for images of that size."""
        return max(self.size) / 640.0

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same image scaled to another size."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )

    def undistorted(self) -> Camera:
        """The ideal pinhole with the same matrix."""
        return replace(self, distortion="none", coefficients=())

    def project(self, points: ArrayLike) -> FloatArray:
        """Pixels of points in the camera frame.

        Args:
            points: ``[n, 3]``, metres.

        Returns:
            ``[n, 2]``; NaN where a point lies behind the camera.
        """
        p = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        ahead = p[:, 2] > 1e-9
        pixels = np.full((len(p), 2), np.nan)
        if ahead.any():
            pixels[ahead], _ = self.bend(p[ahead, :2] / p[ahead, 2:])
        return pixels

    def bearings(self, pixels: ArrayLike) -> FloatArray:
        """Unit directions in the camera frame of pixels ``[n, 2]``, as ``[n, 3]``."""
        plane = self.normalized(pixels)
        rays = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
        return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))

    def normalized(self, pixels: ArrayLike) -> FloatArray:
        """Undistorted coordinates ``[n, 2]`` on the plane z = 1 of pixels ``[n, 2]``."""
        uv = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        k, d = self.matrix, np.array(self.coefficients)
        if self.distortion == "none" or len(uv) == 0:
            return np.asarray((uv - k[:2, 2]) / np.array([self.fx, self.fy]))
        if self.distortion == "equidistant":
            out = cv2.fisheye.undistortPoints(uv[:, None], k, d)
        else:
            out = _undistort(uv[:, None], k, d)
        return self._polished(np.asarray(out, dtype=np.float64).reshape(-1, 2), uv)

    def _polished(self, plane: FloatArray, pixels: FloatArray) -> FloatArray:
        """Newton steps where OpenCV's iteration stopped early, far out in strong distortion."""
        for _ in range(_NEWTON_STEPS):
            bent, slopes = self.bend(plane)
            error = bent - pixels
            far = np.abs(error).max(axis=1) > _PIXEL_ACCURACY
            if not far.any():
                break
            plane[far] -= (np.linalg.pinv(slopes[far]) @ error[far][..., None])[..., 0]
        return plane

    def bend(self, plane: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the lens makes of undistorted coordinates.

        Args:
            plane: ``[n, 2]`` on the plane z = 1.

        Returns:
            Pixels ``[n, 2]`` and their derivative ``[n, 2, 2]`` by the coordinates.
        """
        if self.distortion == "none" or len(plane) == 0:
            focal = np.array([self.fx, self.fy])
            slope = np.broadcast_to(np.diag(focal), (len(plane), 2, 2))
            return plane * focal + np.array([self.cx, self.cy]), slope
        points = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)[:, None]
        still, k, d = np.zeros(3), self.matrix, np.array(self.coefficients)
        if self.distortion == "equidistant":
            pixels, slopes = cv2.fisheye.projectPoints(points, still, still, k, d)
            by_shift = slopes[:, 11:13]
        else:
            pixels, slopes = cv2.projectPoints(points, still, still, k, d)
            by_shift = slopes[:, 3:5]
        # a point at depth 1 that is shifted sideways moves on the plane by as much
        return (
            np.asarray(pixels, dtype=np.float64).reshape(-1, 2),
            np.asarray(by_shift, dtype=np.float64).reshape(-1, 2, 2),
        )

    def pixel_grid(self, columns: int | None = None, rows: int | None = None) -> FloatArray:
        """Centres of a regular grid over the image, ``[rows * columns, 2]``, row by row.

        Args:
            columns: cells along x; by default one a pixel.
            rows: cells along y; by default one a pixel.
        """
        columns, rows = columns or self.width, rows or self.height
        x = (np.arange(columns) + 0.5) * (self.width / columns)
        y = (np.arange(rows) + 0.5) * (self.height / rows)
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """For headers: the dataclass as plain types."""
        return {**asdict(self), "coefficients": list(self.coefficients)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Camera:
        """The inverse of :meth:`to_json`."""
        return Camera(**{**data, "coefficients": tuple(data["coefficients"])})


def _undistort(pixels: FloatArray, matrix: FloatArray, coefficients: FloatArray) -> Any:
    """OpenCV's iteration with our stop rule; version 5 gave the function version 4's other name."""
    iterate: Any = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
    return iterate(pixels, matrix, coefficients, R=None, P=None, criteria=_UNDISTORT_STOP)


def _fit_coefficients(name: str, values: FloatArray) -> tuple[DistortionModel, tuple[float, ...]]:
    """Our lens model, and a driver's coefficient list at a length that the model takes."""
    if not values.any():
        return "none", ()
    model = cast(DistortionModel | None, lens_named(name))
    if model is None:
        raise CalibrationError(
            f"camera_info has distortion_model {name!r}: supported are {known_names()}"
        )
    if model == "none":
        raise CalibrationError(
            "camera_info has distortion coefficients but no distortion_model "
            f"(it says {name!r}): set the model's name, plumb_bob for most lenses"
        )
    longest = _COEFFICIENTS[model][-1]
    if len(values) > longest and values[longest:].any():
        raise CalibrationError(
            f"camera_info has {len(values)} coefficients, {model} takes {longest}"
        )
    return model, tuple(float(v) for v in values[:longest])
