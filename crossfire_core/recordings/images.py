"""Folders of photographs with a transforms.json, as instant-ngp and nerfstudio write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.camera import DistortionModel
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile, image_size
from crossfire_core.recordings.options import NO_POSES, RecordingOptions

FILE_NAME = "transforms.json"
# The file's cameras look along -z with y up, ours along +z with y down.
OPENGL_FROM_OPENCV = Pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
_FISHEYE_MODELS = ("OPENCV_FISHEYE", "FISHEYE")
_PINHOLE_MODELS = ("", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_GUESSED_SUFFIXES = ("", ".png", ".jpg", ".jpeg")
_DEFAULT_DEPTH_UNIT = 1e-3


def is_transforms(path: Path) -> bool:
    """Whether a path is such a file or a folder with one."""
    return _json_path(path).is_file()


def read_transforms(path: Path, options: RecordingOptions) -> FolderRecording:
    """Read a transforms.json and list its images.

    Args:
        path: the folder or the file.
        options: how much of it.

    Raises:
        RecordingError: no JSON of that form, none of its images exist, or a pose is no pose.
        CalibrationError: no usable intrinsics.
    """
    file = _json_path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordingError(f"cannot read {file}: {error}") from error
    entries = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise RecordingError(f"{file} has no list of frames")
    entries = sorted(entries, key=lambda entry: str(entry.get("file_path", "")))
    posed = options.pose_topic != NO_POSES
    files = [_read_entry(file.parent, data, i, e, posed) for i, e in enumerate(entries)]
    present = [found for found in files if found is not None]
    missing = len(files) - len(present)
    notes = [f"{missing} of {len(files)} listed images are absent: left out"] if missing else []
    name = file.parent.name if file.name == FILE_NAME else file.stem
    return FolderRecording(name, present, options, notes=notes, pose_source=file.name)


def _json_path(path: Path) -> Path:
    return path / FILE_NAME if path.suffix != ".json" else path


def _read_entry(
    folder: Path,
    data: Mapping[str, Any],
    number: int,
    entry: Mapping[str, Any],
    posed: bool,
) -> ImageFile | None:
    """One frame, or None where its image is absent."""
    listed = entry.get("file_path")
    if not isinstance(listed, str) or not listed:
        raise RecordingError(f"frame {number} of {FILE_NAME} has no file_path")
    path = next((p for s in _GUESSED_SUFFIXES if (p := folder / (listed + s)).is_file()), None)
    if path is None:
        return None
    camera = read_camera({**data, **entry}, path)
    pose = _pose(entry.get("transform_matrix"), listed) if posed else None
    depth = entry.get("depth_file_path")
    unit = float(data.get("depth_unit_scale_factor", _DEFAULT_DEPTH_UNIT))
    return ImageFile(
        FrameInfo(listed, number, camera, pose), path, folder / depth if depth else None, unit
    )


def read_camera(data: Mapping[str, Any], image: Path) -> Camera:
    """The camera of one frame.

    Args:
        data: the file's fields with the frame's own over them.
        image: tells the size where the file does not.

    Raises:
        CalibrationError: no focal length, or an unknown camera model.
    """
    try:
        size = (
            (int(data["w"]), int(data["h"])) if "w" in data and "h" in data else image_size(image)
        )
        fx, fy = _focal_lengths(data, size)
        plain = Camera(
            *size, fx, fy, float(data.get("cx", size[0] / 2)), float(data.get("cy", size[1] / 2))
        )
        model, coefficients = _distortion(data)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{FILE_NAME}: calibration of {image.name}: {error}") from error
    return replace(plain, distortion=model, coefficients=coefficients)


def _focal_lengths(data: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    """Focal lengths in pixels, given as such or as angles of view in radians."""
    found = []
    for axis, extent in zip("xy", size, strict=True):
        if f"fl_{axis}" in data:
            found.append(float(data[f"fl_{axis}"]))
        elif f"camera_angle_{axis}" in data:
            found.append(0.5 * extent / float(np.tan(0.5 * float(data[f"camera_angle_{axis}"]))))
    if not found:
        raise CalibrationError(f"{FILE_NAME} has neither fl_x nor camera_angle_x")
    return found[0], found[-1]


def _distortion(data: Mapping[str, Any]) -> tuple[DistortionModel, tuple[float, ...]]:
    model = str(data.get("camera_model", ""))
    k = [float(data.get(f"k{i}", 0.0)) for i in range(1, 5)]
    if model in _FISHEYE_MODELS or data.get("is_fisheye"):
        return "equidistant", tuple(k)
    if model not in _PINHOLE_MODELS:
        raise CalibrationError(
            f"{FILE_NAME} has camera_model {model!r}: supported are OPENCV and OPENCV_FISHEYE"
        )
    p = [float(data.get(f"p{i}", 0.0)) for i in (1, 2)]
    if k[3]:
        raise CalibrationError(f"{FILE_NAME} has k4 with a pinhole camera_model")
    if not any((*k, *p)):
        return "none", ()
    return "radtan", (k[0], k[1], p[0], p[1], *((k[2],) if k[2] else ()))


def _pose(matrix: Any, name: str) -> Pose:
    """``world_from_camera`` from the file's OpenGL matrix."""
    try:
        values = np.asarray(matrix, dtype=np.float64)
        pose = Pose.from_matrix(values)
    except (TypeError, ValueError) as error:
        raise RecordingError(f"{FILE_NAME}: {name} has no valid transform_matrix") from error
    if not np.allclose(pose.rotation, values[:3, :3], atol=1e-2):
        raise RecordingError(f"{FILE_NAME}: transform_matrix of {name} is no rotation")
    return pose @ OPENGL_FROM_OPENCV
