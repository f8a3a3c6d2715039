"""A camera with its lens; pixel centres lie at .5."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry.lens_names import known_names, lens_named
from crossfire_core.geometry.lenses import Lens
from crossfire_core.geometry.mask import BoolImage, Mask, clearance_of, whole_cells
from crossfire_core.geometry.sights import flat_sights, tangent_sights

FloatArray = NDArray[np.float64]
DistortionModel = Literal["none", "radtan", "rational", "equidistant", "fov", "omni", "eucm", "ds"]

_COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "radtan": (4, 5),
    "rational": (8, 12, 14),
    "equidistant": (4,),
    "fov": (1,),
    "omni": (1, 5),
    "eucm": (2,),
    "ds": (2,),
}
# What the numbers of a lens's shape may be, by model, in their order; see lenses.py.
_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "fov": ((1e-6, 3.14),),
    "omni": ((0.0, 100.0),),
    "eucm": ((0.0, 1.0), (1e-6, 1e6)),
    "ds": ((-1.0, 100.0), (0.0, 1.0)),
}
_LARGEST_SIDE = 1_000_000
_FLAT = ("none", "radtan", "rational")


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one image size.

    Axes follow OpenCV: x right, y down, z forward. Coordinates in the image are continuous:
    the centre of the top-left pixel is (0.5, 0.5), so halving an image halves every number.

    Directions are unit bearings, not places on the plane z = 1, since a wide lens sees sideways
    and behind itself. What lies beyond the lens's widest angle, or where its calibration folds
    the image over, is not seen: it has NaN for a pixel, and pixels there have NaN for a bearing.

    Attributes:
        width: pixels.
        height: pixels.
        fx: focal length along x in pixels, as ``fy`` is along y.
        fy: see ``fx``.
        cx: principal point in pixels, centres at .5, as is ``cy``.
        cy: see ``cx``.
        distortion: ``none``, ``radtan`` (k1 k2 p1 p2 [k3]), ``rational``
            (k1 k2 p1 p2 k3 k4 k5 k6 [s1 s2 s3 s4 [tx ty]]), ``equidistant`` (k1 k2 k3 k4), ``fov``
            (omega), ``omni`` (xi, or xi k1 k2 p1 p2), ``eucm`` (alpha beta) or ``ds`` (xi alpha);
            the last three under kalibr's names.
        coefficients: as many as the model takes.
        mask: pixels that show the scene, not the robot itself; None where all do. It travels with
            the camera, and may differ from image to image; files of maps do not keep it.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: DistortionModel = "none"
    coefficients: tuple[float, ...] = ()
    mask: Mask | None = None

    def __post_init__(self) -> None:
        """Refuse calibrations that no real camera has."""
        if self.mask is not None and self.mask.usable.shape != (self.height, self.width):
            rows, columns = self.mask.usable.shape
            raise CalibrationError(
                f"the mask is {columns}x{rows}, its images are {self.width}x{self.height}: "
                "make it of their size"
            )
        if max(self.width, self.height) > _LARGEST_SIDE:
            raise CalibrationError(f"camera has more than {_LARGEST_SIDE} pixels along a side")
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
        for number, (low, high) in zip(
            self.coefficients, _RANGES.get(self.distortion, ()), strict=False
        ):
            if not low <= number <= high:
                raise CalibrationError(
                    f"distortion model {self.distortion} has {number:g} where {low:g} to {high:g} "
                    "is possible: check the order of its coefficients"
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
        """The camera of the same image scaled to another size, one and the same when asked again.

        So what is worked out once about it, as which pixels are usable, is not lost.
        """
        if (width, height) not in self._resized:
            sx, sy = width / self.width, height / self.height
            self._resized[width, height] = replace(
                self,
                width=width,
                height=height,
                fx=self.fx * sx,
                fy=self.fy * sy,
                cx=self.cx * sx,
                cy=self.cy * sy,
                mask=self.mask and self.mask.resized(width, height),
            )
        return self._resized[width, height]

    def mirrored(self) -> Camera:
        """The camera of the same image with left and right exchanged, but for a lens's tilt."""
        mask = self.mask and Mask(np.ascontiguousarray(self.mask.usable[:, ::-1]))
        return replace(self, cx=self.width - self.cx, mask=mask)

    @cached_property
    def _resized(self) -> dict[tuple[int, int], Camera]:
        return {}

    def undistorted(self) -> Camera:
        """The ideal pinhole with the same matrix."""
        return replace(self, distortion="none", coefficients=())

    @cached_property
    def _lens(self) -> Lens:
        matrix = (self.fx, self.fy, self.cx, self.cy)
        return Lens.of(self.distortion, self.coefficients, matrix)

    @property
    def is_flat(self) -> bool:
        """Whether all that the lens sees lies on the plane z = 1, where errors are then stated."""
        return self.distortion in _FLAT

    @property
    def widest_angle(self) -> float:
        """Largest angle to the axis that the lens sees, radians, whatever the image's size."""
        return self._lens.widest

    def project(self, points: ArrayLike) -> FloatArray:
        """Pixels of points in the camera frame.

        Args:
            points: ``[n, 3]``, metres.

        Returns:
            ``[n, 2]``, also outside of the image; NaN where the lens does not see a point.
        """
        return self.project_with_slopes(points)[0]

    def project_with_slopes(self, points: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Pixels of points in the camera frame, and how they move with the points.

        Args:
            points: ``[n, 3]``, metres.

        Returns:
            Pixels ``[n, 2]``, NaN where the lens does not see a point, and their derivative
            ``[n, 2, 3]`` by the point, pixels a metre, 0 there.
        """
        return self._lens.project(_rows(points, 3))

    def bearings(self, pixels: ArrayLike) -> FloatArray:
        """Unit directions in the camera frame.

        Args:
            pixels: ``[n, 2]``.

        Returns:
            ``[n, 3]``; NaN where the lens shows nothing.
        """
        return self._lens.bearings(_rows(pixels, 2))

    def sights(self, pixels: ArrayLike) -> FloatArray:
        """What tells how far beside a pixel a point is seen; see :mod:`.sights`.

        Args:
            pixels: ``[n, 2]``.

        Returns:
            ``[n, 3, 3]``, in focal lengths: of the undistorted image for a flat lens, of the image
            itself for all others. NaN where the lens shows nothing.
        """
        bearings = self.bearings(pixels)
        if self.is_flat:
            return flat_sights(bearings)
        _, matrices = self.tangents(bearings)
        matrices[:, :2] /= 0.5 * (self.fx + self.fy)
        return matrices

    def tangents(self, points: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Pixels of points, and the sights that hold around them in pixels of the image.

        Args:
            points: ``[n, 3]``, metres.

        Returns:
            ``[n, 2]`` and ``[n, 3, 3]``; NaN where the lens does not see a point.
        """
        p = _rows(points, 3)
        pixels, slopes = self.project_with_slopes(p)
        return pixels, tangent_sights(p, slopes, self.is_flat)

    @cached_property
    def usable(self) -> BoolImage | None:
        """``[height, width]`` pixels that the lens shows and the mask lets through; None for all.

        Only these take part in training, matching and patches.
        """
        shown = None
        # what a lens shows has no holes: where the border is seen, everything is
        if not np.isfinite(self.bearings(self._border())).all():
            seen = np.isfinite(self.bearings(self.pixel_grid())[:, 0])
            shown = seen.reshape(self.height, self.width)
        if self.mask is not None and not self.mask.usable.all():
            shown = self.mask.usable if shown is None else shown & self.mask.usable
        return shown

    def _border(self) -> FloatArray:
        """Centres of the outermost pixels ``[n, 2]``."""
        x, y = np.arange(self.width) + 0.5, np.arange(self.height) + 0.5
        sides = [
            *(np.stack([x, np.full_like(x, at)], axis=1) for at in (y[0], y[-1])),
            *(np.stack([np.full_like(y, at), y], axis=1) for at in (x[0], x[-1])),
        ]
        return np.concatenate(sides)

    def usable_cells(self, columns: int, rows: int) -> BoolImage | None:
        """``[rows, columns]`` cells of a grid that are usable throughout; None for all."""
        return None if self.usable is None else whole_cells(self.usable, columns, rows)

    @cached_property
    def _clearance(self) -> NDArray[np.float32] | None:
        return None if self.usable is None else clearance_of(self.usable)

    def clearance(self, pixels: FloatArray) -> FloatArray:
        """Distance ``[n]`` of pixels ``[n, 2]`` to the nearest that is not usable, at least.

        Infinite where all are; 0 for pixels that are not usable, outside of the image or NaN.
        """
        if self._clearance is None:
            return np.where(self._inside(pixels), np.inf, 0.0)
        inside = self._inside(pixels)
        found = np.zeros(len(pixels))
        column, row = pixels[inside].astype(np.int64).T
        found[inside] = self._clearance[row, column]
        return found

    def shows(self, pixels: FloatArray) -> NDArray[np.bool_]:
        """Which pixels ``[n, 2]`` lie in the image and are usable, ``[n]``."""
        return np.asarray(self.clearance(pixels) > 0.0)

    def _inside(self, pixels: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(((pixels >= 0.0) & (pixels < np.array(self.size))).all(axis=1))

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
        """For headers: the calibration as plain types, without the mask."""
        plain = asdict(replace(self, mask=None))
        del plain["mask"]
        return {**plain, "coefficients": list(self.coefficients)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Camera:
        """The inverse of :meth:`to_json`."""
        return Camera(**{**data, "coefficients": tuple(data["coefficients"])})


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
    used = int(np.flatnonzero(values)[-1]) + 1
    if model in ("radtan", "rational"):  # one formula, which OpenCV takes by the length alone
        model = "rational" if used > 5 or (model == "rational" and len(values) > 5) else "radtan"
    lengths = _COEFFICIENTS[model]
    if used > lengths[-1]:
        raise CalibrationError(
            f"camera_info has {len(values)} coefficients, {model} takes {lengths[-1]}"
        )
    if model == "rational":
        values = np.pad(values, (0, max(0, lengths[-1] - len(values))))
        values = values[: next(length for length in lengths if length >= used)]
    return model, tuple(float(v) for v in values[: lengths[-1]])


def _rows(values: ArrayLike, columns: int) -> FloatArray:
    """Points or pixels as the lenses' loops take them."""
    return np.ascontiguousarray(np.asarray(values, dtype=np.float64).reshape(-1, columns))
