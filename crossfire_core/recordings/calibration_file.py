"""Calibrations in files of their own: ROS's, OpenCV's and kalibr's YAML, COLMAP's cameras.txt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Camera
from crossfire_core.geometry.lens_names import lens_named
from crossfire_core.recordings.camera_info import Calibration, CameraView, chosen_view
from crossfire_core.recordings.colmap import camera_of
from crossfire_core.recordings.image_file import scaled_to
from crossfire_core.recordings.text import (
    BAD_VALUES,
    number,
    numbers,
    read_lines,
    read_yaml,
    whole,
)

_HELP = (
    "a calibration is a YAML file of ROS (camera_matrix) or OpenCV, kalibr's camchain, or "
    "COLMAP's cameras.txt"
)
# kalibr's projections with the distortions that they are used with.
_KALIBR_LENSES = {
    *(("pinhole", lens) for lens in ("none", "radtan", "equidistant", "fov")),
    ("omni", "radtan"), ("omni", "none"), ("eucm", "none"), ("ds", "none"),
}  # fmt: skip
# The names under which OpenCV's and kalibr's users keep the two fields, as _field compares them.
_MATRIX_KEYS = ("cameramatrix", "intrinsicmatrix", "cammtx", "mtx", "k")
_LENS_KEYS = (
    *("distortioncoefficients", "distortioncoeffs", "distortioncoefs", "distortion"),
    *("distcoefficients", "distcoeffs", "distcoefs", "distcoeff", "dist", "d"),
)
# Of the rectified image, by ROS's camera_calibration and by what ``topic echo`` prints.
_TURN_KEYS = ("rectificationmatrix", "r")
_PROJECTION_KEYS = ("projectionmatrix", "p")


@dataclass(frozen=True)
class NamedCamera:
    """One camera of a file.

    Attributes:
        name: in the file.
        topic: that it was calibrated on, or empty.
        calibration: its numbers, or None where :attr:`camera` holds them.
        camera: for files that know one image size and no rectified image.
        problem: why it is of no use, which matters only where it is the one that is meant.
    """

    name: str
    topic: str = ""
    calibration: Calibration | None = None
    camera: Camera | None = None
    problem: str = ""


def read_calibration(
    file: Path | str,
    size: tuple[int, int],
    topic: str = "",
    rectified: bool | None = None,
) -> CameraView:
    """The camera of images from a calibration file.

    Args:
        file: of one of the known kinds; ``FILE:NAME`` takes one of its cameras.
        size: (width, height) of the images; a calibration at another size is scaled to it.
        topic: of the images, which chooses among a file's cameras and says whether they are
            rectified.
        rectified: what the user says about that.

    Raises:
        CalibrationError: no such file, no calibration, several that could be meant, or of another
            shape than the images.
    """
    path, name = _split(str(file))
    chosen = _chosen(_read(path), name, topic, size, path)
    if chosen.problem:
        raise CalibrationError(f"{path} holds no calibration ({chosen.problem}): {_HELP}")
    if chosen.calibration is None:
        assert chosen.camera is not None
        return CameraView(_scaled(chosen.camera, size, path))
    whole = chosen.calibration.of_size(*size)
    try:
        view, _ = chosen_view(whole, topic, rectified)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error
    return CameraView(_scaled(view.camera, size, path), view.frame_from_camera)


def _split(text: str) -> tuple[Path, str]:
    path, mark, name = text.rpartition(":")
    return (Path(path), name) if mark and not Path(text).exists() else (Path(text), "")


def _read(path: Path) -> list[NamedCamera]:
    try:
        if path.suffix == ".txt":
            return _colmap_cameras(path)
        data = read_yaml(path)
        data = {"camera": data} if "intrinsics" in data else data  # one, without a name
        kalibr = {k: v for k, v in data.items() if isinstance(v, dict) and "intrinsics" in v}
        if kalibr:
            return [
                _camera_or_problem(str(name), str(values.get("rostopic", "")), of_kalibr, values)
                for name, values in kalibr.items()
            ]
        return [_camera_or_problem("camera", "", _matrix_calibration, data)]
    except RecordingError as error:
        raise CalibrationError(str(error)) from error
    except BAD_VALUES as error:
        raise CalibrationError(
            f"{path} holds no calibration ({first_words(error)}): {_HELP}"
        ) from error


def _camera_or_problem(
    name: str, topic: str, parse: Callable[[Any], Calibration | Camera], values: Any
) -> NamedCamera:
    try:
        found = parse(values)
    except (*BAD_VALUES, CrossfireError) as error:
        return NamedCamera(name, topic, problem=first_words(error))
    if isinstance(found, Camera):
        return NamedCamera(name, topic, camera=found)
    return NamedCamera(name, topic, calibration=found)


def first_words(error: Exception) -> str:
    """What is wrong, in one line."""
    said = (str(error).splitlines() or ["empty"])[0]
    return f"no {said.strip(chr(39))}" if isinstance(error, KeyError) else said


def _chosen(
    cameras: list[NamedCamera], name: str, topic: str, size: tuple[int, int], path: Path
) -> NamedCamera:
    if name:
        cameras = [c for c in cameras if c.name == name]
    elif len(cameras) > 1:
        fitting = [c for c in cameras if c.topic and _raw_topic(c.topic) == _raw_topic(topic)]
        cameras = fitting or [c for c in cameras if _size_of(c) == size] or cameras
    if not cameras:
        raise CalibrationError(f"{path} has no camera named {name!r}")
    if len(cameras) > 1:
        names = ", ".join(c.name for c in cameras)
        raise CalibrationError(f"{path} has the cameras {names}: name one, as {path}:NAME")
    return cameras[0]


def _raw_topic(topic: str) -> str:
    return topic.strip("/").removesuffix("/compressed")


def _size_of(camera: NamedCamera) -> tuple[int, int]:
    if camera.camera is not None:
        return camera.camera.size
    known = camera.calibration
    return (known.width, known.height) if known is not None else (0, 0)


def _scaled(camera: Camera, size: tuple[int, int], path: Path) -> Camera:
    scaled = scaled_to(camera, size)
    if scaled is None:
        raise CalibrationError(
            f"{path} is for images of {camera.width}x{camera.height}, these are "
            f"{size[0]}x{size[1]}: calibrate at their size, or at one of the same shape"
        )
    return scaled


def _colmap_cameras(path: Path) -> list[NamedCamera]:
    rows = [line.split() for _, line in read_lines(path)]
    if not rows or any(len(row) < 5 for row in rows):
        raise ValueError("no lines of CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
    return [_camera_or_problem(row[0], "", _colmap, row) for row in rows]


def _colmap(row: Sequence[str]) -> Camera:
    return camera_of(row[1], int(row[2]), int(row[3]), numbers(row[4:]))


def of_kalibr(values: Mapping[str, Any]) -> Calibration:
    """One camera of kalibr's camchain, or of EuRoC's sensor.yaml; pixel centres at integers.

    Raises:
        CalibrationError: a camera that is not supported.
        Exception: those of ``BAD_VALUES``, where fields are missing or none.
    """
    projection = str(values.get("camera_model", "pinhole")).lower()
    distortion = str(values.get("distortion_model", "none"))
    lens = lens_named(distortion)
    if (projection, lens) not in _KALIBR_LENSES:
        raise CalibrationError(
            f"it has kalibr's camera_model {projection!r} with distortion_model {distortion!r}: "
            "calibrate with pinhole-radtan, pinhole-equi, pinhole-fov, omni-radtan, omni-none, "
            "eucm-none or ds-none"
        )
    *shape, fx, fy, cx, cy = numbers(values["intrinsics"])
    own = projection != "pinhole"
    if shape and not own:
        raise ValueError(f"intrinsics has {len(shape) + 4} numbers, 4 were expected")
    if lens != "none":
        shape += numbers(_field(values, _LENS_KEYS, "distortion_coefficients"))
    width, height = (whole(number(v)) for v in values["resolution"])
    return Calibration(
        width,
        height,
        projection if own else distortion,
        (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0),
        tuple(shape),
    )


def _matrix_calibration(data: Mapping[str, Any]) -> Calibration:
    """Of ROS's camera_calibration, of a printed message, or of OpenCV."""
    k = matrix(_field(data, _MATRIX_KEYS, "camera_matrix"), 9)
    model = str(data.get("distortion_model") or "plumb_bob")
    bends = lens_named(model) != "none"
    lens = _field(data, _LENS_KEYS, "distortion_coefficients, zeros for none" if bends else "")
    if data.get("fisheye_model"):
        model = "fisheye"
    r = matrix(_field(data, _TURN_KEYS, default=(0.0,) * 9), 9)
    p = matrix(_field(data, _PROJECTION_KEYS, default=(0.0,) * 12), 12)
    width, height = (
        int(_field(data, (f"image{side}", side), default=0)) for side in ("width", "height")
    )
    return Calibration(width, height, model, k, matrix(lens or ()), r, p)


def _field(
    data: Mapping[str, Any], names: tuple[str, ...], needed: str = "", default: Any = None
) -> Any:
    """What is called so, whatever the case and however words are joined."""
    plainly = {re.sub(r"[_\- ]", "", str(key)).lower(): value for key, value in data.items()}
    found = next((plainly[name] for name in names if name in plainly), default)
    if found is None and needed:
        raise ValueError(f"no {needed}")
    return found


def matrix(value: Any, length: int | None = None) -> tuple[float, ...]:
    """The numbers of ``{rows, cols, data}``, of a list, or of a list of rows.

    Args:
        value: as YAML gives it.
        length: how many there must be; None takes any.

    Raises:
        Exception: those of ``BAD_VALUES``, where it is none.
    """
    flat = value["data"] if isinstance(value, dict) else value
    found = tuple(
        float(v) for row in flat for v in (row if isinstance(row, (list, tuple)) else (row,))
    )
    if length is not None and len(found) != length:
        raise ValueError(f"a matrix has {len(found)} numbers, {length} were expected")
    return found
