"""Sequences of the EuRoC MAV data set, as folders (ASL format)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.calibration_file import first_words, matrix, of_kalibr
from crossfire_core.recordings.folder import FolderRecording, ListedImage, no_pose, pose_at
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import (
    BAD_VALUES,
    natural_key,
    numbers,
    parse_rows,
    read_yaml,
    whole,
)

_CAMERAS = "cam*"
# Of EuRoC, and of data sets in its format whose truth is that of a motion capture.
_TRUTHS = ("state_groundtruth_estimate0", "mocap0", "vicon0")


def is_euroc(path: Path) -> bool:
    """Whether a folder is such a sequence, or its ``mav0``."""
    return bool(_cameras(_root(path)))


def read_euroc(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of one camera with the poses at their time.

    Args:
        path: the sequence's folder or its ``mav0``.
        options: how much of it; ``image_topic`` names another camera than the first.

    Raises:
        RecordingError: no frame is usable, or no camera has that name.
        CalibrationError: sensor.yaml holds no calibration.
    """
    root = _root(path)
    cameras = _cameras(root)
    if options.image_topic and options.image_topic not in cameras:
        raise RecordingError(
            f"no images of {options.image_topic} (--image-topic) in {path.name}: its cameras are "
            f"{', '.join(cameras)}"
        )
    folder = root / (options.image_topic or cameras[0])
    notes: list[str] = []
    camera, base_from_camera = _calibration(folder / "sensor.yaml", options, notes)
    source = next((name for name in _TRUTHS if (root / name / "data.csv").is_file()), "")
    if source:
        truth = _truth(root / source, base_from_camera, notes)
    else:
        notes.append(f"none of {', '.join(_TRUTHS)} is there with a data.csv")
    finder = ImageFinder(folder / "data")
    listed = [
        ListedImage(
            name,
            stamp,
            finder.find(name),
            camera,
            partial(pose_at, truth, stamp, options) if source else no_pose,
        )
        for stamp, name in sorted(parse_rows(folder / "data.csv", _stamped_name, notes))
    ]
    name = path.name if path.name != "mav0" else path.resolve().parent.name
    recording = FolderRecording(name, listed, options, notes=notes, pose_source=source)
    recording.base_from_camera = base_from_camera
    return recording


def _root(path: Path) -> Path:
    return path / "mav0" if (path / "mav0").is_dir() else path


def _cameras(root: Path) -> list[str]:
    """Names of the cameras that have images, the first one first."""
    lists = root.glob(f"{_CAMERAS}/data.csv") if root.is_dir() else ()
    return sorted((file.parent.name for file in lists), key=natural_key)


def _stamped_name(row: list[str]) -> tuple[int, str]:
    return whole(row[0]), row[1]


def _truth(folder: Path, body_from_camera: Pose, notes: list[str]) -> Trajectory:
    """``world_from_camera`` over time, of the body or of markers that sit on it."""
    file, marker_from_body = folder / "sensor.yaml", Pose.identity()
    if file.is_file():
        try:
            placed = read_yaml(file).get("T_BS")
            marker_from_body = marker_from_body if placed is None else _mounted(placed).inverse()
        except BAD_VALUES as error:
            raise RecordingError(f"{file}: {first_words(error)}") from error
    samples = parse_rows(folder / "data.csv", _sample, notes)
    return Trajectory.from_samples(
        [(stamp, posed @ marker_from_body @ body_from_camera) for stamp, posed in samples]
    )


def _mounted(placed: Any) -> Pose:
    """``body_from_sensor`` of a T_BS."""
    return Pose.from_matrix(np.reshape(matrix(placed, 16), (4, 4)))


def _sample(row: list[str]) -> tuple[int, Pose]:
    """Stamp and the pose of what was followed."""
    x, y, z, qw, qx, qy, qz = numbers(row[1:8])
    return whole(row[0]), Pose.from_quaternion((qx, qy, qz, qw), (x, y, z))


def _calibration(
    file: Path, options: RecordingOptions, notes: list[str]
) -> tuple[Callable[[Size], Camera], Pose]:
    """The camera, and ``body_from_camera``, which only the recording's own file knows."""
    if not file.is_file():
        missing = CalibrationError(
            f"{file.parent.name} has no {file.name}, which holds the calibration: give one with "
            "--calibration"
        )
        if not options.calibration:
            raise missing
        notes.append(f"no {file.name}: the poses are taken for those of the camera itself")
        return partial(_refuse, missing), Pose.identity()
    camera, mounted = _sensor(file)
    return lambda size: camera, mounted


def _refuse(error: CalibrationError, size: Size) -> Camera:
    raise error


def _sensor(file: Path) -> tuple[Camera, Pose]:
    """The camera and ``body_from_camera``."""
    try:
        data = read_yaml(file)
        return of_kalibr(data).view(False).camera, _mounted(data["T_BS"])
    except (*BAD_VALUES, CrossfireError) as error:
        raise CalibrationError(f"{file} holds no calibration: {first_words(error)}") from error


READER = Reader(is_euroc, read_euroc)
