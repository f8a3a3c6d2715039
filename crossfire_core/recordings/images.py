"""Folders of photographs with a transforms.json, as instant-ngp and nerfstudio write them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.camera import DistortionModel
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.lazy import Recording
from crossfire_core.recordings.masks import MaskedRecording, Masks
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import (
    BAD_VALUES,
    natural_key,
    number,
    parse_each,
    read_json,
    whole,
)

FILE_NAME = "transforms.json"
_FILE_NAMES = (FILE_NAME, "transforms_train.json")
# The file's cameras look along -z with y up, ours along +z with y down.
OPENGL_FROM_OPENCV = Pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
# nerfstudio's names, and COLMAP's, which other programs write.
_FISHEYE_MODELS = ("OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_PINHOLE_MODELS = (
    *("", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL"),
    "FULL_OPENCV",
)
_FOCAL_KEYS = {"fl_x", "fl_y", "camera_angle_x", "camera_angle_y"}
_GUESSED_SUFFIXES = (".png", ".jpg", ".jpeg")
_DEFAULT_DEPTH_UNIT = 1e-3


def is_transforms(path: Path) -> bool:
    """Whether a path is such a file or a folder with one."""
    return _json_path(path).is_file()


def read_transforms(path: Path, options: RecordingOptions) -> Recording:
    """Read a transforms.json and list its images.

    Args:
        path: the folder or the file; of a folder with several files the one for training.
        options: how much of it.

    Raises:
        RecordingError: no JSON of that form, or no frame is usable.
        CalibrationError: no usable intrinsics.
    """
    file = _json_path(path)
    data = read_json(file)
    entries = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(entries, list) or (entries and not any(isinstance(e, dict) for e in entries)):
        raise RecordingError(f"{file} has no list of frames")
    shared = {key: value for key, value in data.items() if key != "frames"}
    notes: list[str] = []
    named = parse_each(
        [(f"frame {place}", entry) for place, entry in enumerate(entries)],
        lambda entry: (_file_path(entry), entry),
        notes,
        f"frames of {file.name}",
    )
    named.sort(key=lambda item: natural_key(item[0]))
    finder = ImageFinder(file.parent, endings=_GUESSED_SUFFIXES)
    unit = number(data.get("depth_unit_scale_factor", _DEFAULT_DEPTH_UNIT))
    listed = [
        ListedImage(
            name,
            place,
            finder.find(name),
            partial(read_camera, _fields(entry, shared)),
            partial(_pose, entry.get("transform_matrix")),
            _file(finder, entry, "depth_file_path"),
            unit,
        )
        for place, (name, entry) in enumerate(named)
    ]
    name = file.parent.name if file.name == FILE_NAME else file.stem
    recording = FolderRecording(
        name, listed, options, notes=notes, pose_source=file.name, metric=False
    )
    masks = {name: mask for name, entry in named if (mask := _file(finder, entry, "mask_path"))}
    return MaskedRecording(recording, Masks.listed(file, masks)) if masks else recording


def _json_path(path: Path) -> Path:
    if path.suffix == ".json":
        return path
    return next((path / name for name in _FILE_NAMES if (path / name).is_file()), path / FILE_NAME)


def _file_path(entry: Any) -> str:
    listed = entry.get("file_path") if isinstance(entry, dict) else None
    if not isinstance(listed, str) or not listed:
        raise RecordingError("it has no file_path")
    return listed


def _fields(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """A frame's fields over those of the file; a null stands for nothing."""
    own = {key: value for key, value in entry.items() if value is not None}
    # An angle of view of the frame's own goes before a focal length of the file's.
    passed = _FOCAL_KEYS if _FOCAL_KEYS & own.keys() else set()
    rest = {k: v for k, v in shared.items() if v is not None and k not in passed}
    return ChainMap(own, rest)


def _file(finder: ImageFinder, entry: Mapping[str, Any], key: str) -> Path | None:
    listed = entry.get(key)
    return finder.find(listed) if isinstance(listed, str) and listed else None


def read_camera(data: Mapping[str, Any], image_size: Size) -> Camera:
    """The camera of one frame.

    Args:
        data: the file's fields with the frame's own over them.
        image_size: (width, height) of the image, for a file that does not say it.

    Raises:
        CalibrationError: no focal length, or an unknown camera model.
    """
    try:
        own = data.get("w") is not None and data.get("h") is not None
        size = (whole(number(data["w"])), whole(number(data["h"]))) if own else image_size
        fx, fy = _focal_lengths(data, size)
        cx, cy = number(data.get("cx", size[0] / 2)), number(data.get("cy", size[1] / 2))
        plain = Camera(*size, fx, fy, cx, cy)
        model, coefficients = _distortion(data)
    except CalibrationError:
        raise
    except (*BAD_VALUES, RecordingError) as error:
        raise CalibrationError(f"its calibration is damaged: {error}") from error
    return replace(plain, distortion=model, coefficients=coefficients)


def _focal_lengths(data: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    """Focal lengths in pixels, given as such or as angles of view in radians."""
    found = []
    for axis, extent in zip("xy", size, strict=True):
        if f"fl_{axis}" in data:
            found.append(number(data[f"fl_{axis}"]))
        elif f"camera_angle_{axis}" in data:
            angle = number(data[f"camera_angle_{axis}"])
            if not 0 < angle < np.pi:
                raise CalibrationError(f"camera_angle_{axis} {angle:g} is no angle of view")
            found.append(0.5 * extent / float(np.tan(0.5 * angle)))
    if not found:
        raise CalibrationError("it has neither fl_x nor camera_angle_x")
    return found[0], found[-1]


def _distortion(data: Mapping[str, Any]) -> tuple[DistortionModel, tuple[float, ...]]:
    model = str(data.get("camera_model", "")).upper()
    k = [number(data.get(f"k{i}", 0.0)) for i in range(1, 7)]
    if model in _FISHEYE_MODELS or data.get("is_fisheye"):
        return "equidistant", tuple(k[:4])
    if model not in _PINHOLE_MODELS:
        raise CalibrationError(
            f"camera_model {model!r} is not known: supported are OPENCV and OPENCV_FISHEYE"
        )
    p = [number(data.get(f"p{i}", 0.0)) for i in (1, 2)]
    if model == "FULL_OPENCV":
        return "rational", (k[0], k[1], p[0], p[1], *k[2:])
    if any(k[3:]):
        raise CalibrationError(f"it has k4 with camera_model {model or 'OPENCV'}")
    if not any((*k, *p)):
        return "none", ()
    return "radtan", (k[0], k[1], p[0], p[1], *((k[2],) if k[2] else ()))


def _pose(matrix: Any) -> Pose:
    """``world_from_camera`` from the file's OpenGL matrix."""
    try:
        return Pose.from_matrix(matrix) @ OPENGL_FROM_OPENCV
    except BAD_VALUES as error:
        raise RecordingError(f"its transform_matrix: {error}") from error


READER = Reader(is_transforms, read_transforms)
