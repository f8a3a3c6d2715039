"""Calibrations as ROS writes them, and which of a calibration's two cameras took an image.

A ``camera_info`` holds two cameras: the real one (K and D), and the one that the rectified image
would come from (P, turned by R). Which of them an image belongs to is said by its topic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera, Pose

# Autofocus and temperature move a focal length by this share; a zoom, another mode of the sensor
# or another camera by more.
_SAME_LENS = 0.02
# Rounding, by drivers that compute their numbers anew for each message.
_NOISE = 1e-6
_RECTIFIED_WORDS = {"rect", "rectified", "rectify", "undistorted", "undistort", "undist"}
# Both cameras of a calibration are one where they agree to this, in pixels.
_ALIKE_PX = 0.5


@dataclass(frozen=True)
class CameraView:
    """The camera of an image.

    Attributes:
        camera: intrinsics at the image's size.
        frame_from_camera: turns its axes into those of the frame that the image's header names:
            the identity but for rectified images.
    """

    camera: Camera
    frame_from_camera: Pose = field(default_factory=Pose.identity)


@dataclass(frozen=True)
class Calibration:
    """The fields of a ``sensor_msgs/CameraInfo``, or of a file of that content.

    Attributes:
        width: pixels of the full sensor, 0 where unknown.
        height: of it, too.
        model: name of the distortion model.
        k: ``[9]`` matrix of the raw image, row by row.
        d: distortion of the raw image.
        r: ``[9]`` ``rectified_from_raw`` rotation; zeros stand for none.
        p: ``[12]`` projection of the rectified image; zeros stand for unknown.
        roi: x, y, width, height of the part that is sent; no width means all.
        binning: sensor pixels that make one of the image, along x and y.
    """

    width: int
    height: int
    model: str
    k: tuple[float, ...]
    d: tuple[float, ...] = ()
    r: tuple[float, ...] = (0.0,) * 9
    p: tuple[float, ...] = (0.0,) * 12
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)
    binning: tuple[int, int] = (1, 1)

    @staticmethod
    def from_message(info: Any) -> Calibration:
        """From a message of ROS 1 or 2."""
        roi = info.roi
        return Calibration(
            width=int(info.width),
            height=int(info.height),
            model=str(info.distortion_model),
            k=_numbers(info, "k"),
            d=_numbers(info, "d"),
            r=_numbers(info, "r"),
            p=_numbers(info, "p"),
            roi=(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
            binning=(max(1, int(info.binning_x)), max(1, int(info.binning_y))),
        )

    @property
    def is_usable(self) -> bool:
        """Whether it holds numbers; drivers send zeros before they know their camera."""
        return any(self.k) and bool(np.isfinite((*self.k, *self.d, *self.r, *self.p)).all())

    def of_size(self, width: int, height: int) -> Calibration:
        """With the images' size where it has none of its own."""
        return self if self.width and self.height else replace(self, width=width, height=height)

    def view(self, rectified: bool) -> CameraView:
        """The camera of the raw or of the rectified image, region and binning applied.

        Raises:
            CalibrationError: zero or NaN numbers, or an unknown or impossible distortion.
        """
        x, y, width, height = self.roi if self.roi[2] and self.roi[3] else (0, 0, 0, 0)
        k, model, d, turn = self.k, self.model, self.d, Pose.identity()
        if rectified:
            k, model, d, turn = self._rectified_matrix(), "none", (), self._turn()
        camera = Camera.from_ros(
            width or self.width, height or self.height, k, model, d, (x, y) if width else (0, 0)
        )
        bin_x, bin_y = self.binning
        if (bin_x, bin_y) != (1, 1):
            camera = camera.resized(camera.width // bin_x, camera.height // bin_y)
        return CameraView(camera, turn)

    def _rectified_matrix(self) -> tuple[float, ...]:
        p = np.asarray(self.p).reshape(3, 4)
        if p[0, 0] or p[1, 1]:
            return tuple(float(v) for v in p[:, :3].ravel())
        if any(self.d):
            raise CalibrationError(
                "images are rectified, but the calibration has no P (projection_matrix): record "
                "the raw images, or the camera_info that the rectifying node publishes"
            )
        return self.k

    def _turn(self) -> Pose:
        """``raw_from_rectified``."""
        r = np.asarray(self.r).reshape(3, 3)
        if not r.any():
            return Pose.identity()
        try:
            return Pose.from_matrix(np.hstack([r.T, np.zeros((3, 1))]))
        except ValueError as error:
            raise CalibrationError(
                "R (rectification_matrix) of the calibration is no rotation"
            ) from error


def _numbers(info: Any, name: str) -> tuple[float, ...]:
    """A field's numbers; ROS 1 wrote the names in capitals."""
    values = getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())
    return tuple(float(v) for v in values)


def named_rectified(topic: str) -> bool | None:
    """Whether a topic's name says that its images are rectified, or raw; None if it says neither.

    ``image_rect``, ``imageRect``, ``image_rect_color`` and ``infra1/image_rect_raw`` are rectified.
    """
    words = set(re.split(r"[/_\-]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", topic).lower()))
    if words & _RECTIFIED_WORDS:
        return True
    return False if "raw" in words else None


def chosen_view(
    calibration: Calibration, topic: str, rectified: bool | None
) -> tuple[CameraView, CameraView | None]:
    """The camera of the images on a topic, for bags and for the node alike.

    Args:
        calibration: beside the images.
        topic: of the images.
        rectified: what the user says; None lets the topic's name decide.

    Returns:
        The camera, and the calibration's other one where nothing says which of the two it is and
        they differ.

    Raises:
        CalibrationError: no usable numbers.
    """
    said = named_rectified(topic) if rectified is None else rectified
    view = calibration.view(bool(said))
    if said is not None:
        return view, None
    try:
        other = calibration.view(True)
    except CalibrationError:
        return view, None
    limit = _ALIKE_PX * view.camera.relative_size / view.camera.fx
    return view, other if _apart(view, other) > limit else None


def same_lens(a: Calibration, b: Calibration, share: float = _SAME_LENS) -> bool:
    """Whether two calibrations are one camera's, up to noise or the moves of an autofocus."""
    if (a.width, a.height, a.roi, a.binning) != (b.width, b.height, b.roi, b.binning):
        return False
    try:
        first, second = a.view(False).camera, b.view(False).camera
    except CalibrationError:
        return False
    by_p = float(np.abs(np.subtract(a.p, b.p)).max()) / first.fx
    by_r = float(np.abs(np.subtract(a.r, b.r)).max())
    return max(by_p, by_r) <= share and same_camera(first, second, share)


def same_camera(a: Camera, b: Camera, share: float = _SAME_LENS) -> bool:
    """Whether two cameras are one, up to noise or the moves of an autofocus."""
    if a.size != b.size:
        return False
    by_focal = abs(b.fx / a.fx - 1.0)
    return max(by_focal, _apart(CameraView(a), CameraView(b))) <= share


def _apart(a: CameraView, b: CameraView) -> float:
    """The largest angle between the rays of one pixel in two cameras, radians."""
    pixels = a.camera.pixel_grid(9, 7)
    first, second = (v.camera.bearings(pixels) @ v.frame_from_camera.rotation.T for v in (a, b))
    # Beyond what a lens can see there is no ray.
    return float(np.nanmax(np.linalg.norm(first - second, axis=1), initial=0.0))


class CalibrationSeries:
    """The calibrations that one topic gives over time."""

    def __init__(self) -> None:
        """Nothing heard yet."""
        self._counts: Counter[Calibration] = Counter()

    def add(self, info: Any) -> None:
        """Take in a message."""
        self._counts[Calibration.from_message(info)] += 1

    def result(self) -> tuple[Calibration, str]:
        """The calibration of the whole recording, and a line about it or nothing.

        Messages that were sent before the driver knew its camera do not count; of numbers that an
        autofocus moves the median holds.

        Raises:
            CalibrationError: there is none, or it really changes.
        """
        if not self._counts:
            raise CalibrationError("no camera_info could be read")
        usable = [c for c in self._counts if c.is_usable] or list(self._counts)[:1]
        first = usable[0]
        for other in usable[1:]:
            if not same_lens(first, other):
                raise CalibrationError(_change(first, other))
        if len(usable) == 1:
            return first, ""
        middle = self._median(usable)
        if all(same_lens(middle, c, _NOISE) for c in usable):
            return middle, ""
        off = max(abs(c.k[0] / middle.k[0] - 1.0) for c in usable)
        return middle, (
            f"camera_info moves by {off:.1%} in focal length, as with an autofocus: the median, "
            f"fx {middle.k[0]:g}, is used: fix the focus for the best poses"
        )

    def _median(self, usable: Sequence[Calibration]) -> Calibration:
        counts = [self._counts[c] for c in usable]

        def median(name: str) -> tuple[float, ...]:
            rows = np.repeat([getattr(c, name) for c in usable], counts, axis=0)
            return tuple(float(v) for v in np.median(rows, axis=0))

        # Of rotations the first is a rotation, a median of numbers may be none.
        return replace(usable[0], k=median("k"), d=median("d"), p=median("p"))


def _change(a: Calibration, b: Calibration) -> str:
    return (
        f"camera_info changes during the recording (fx {a.k[0]:g} to {b.k[0]:g}, "
        f"{a.width}x{a.height} to {b.width}x{b.height}): record with one calibration"
    )
