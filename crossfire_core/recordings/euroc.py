"""Sequences of the EuRoC MAV data set, as folders (ASL format)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.geometry.lens_names import lens_named
from crossfire_core.recordings.folder import FolderRecording, ListedImage, no_pose, pose_at
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import (
    BAD_VALUES,
    natural_key,
    number,
    numbers,
    parse_rows,
    read_yaml,
    whole,
)

_LENS_KEYS = ("distortion_coefficients", "distortion_coeffs")
_CAMERAS = "cam*"
# Of EuRoC, and of data sets in its format whose truth is that of a motion capture.
_TRUTHS = ("state_groundtruth_estimate0", "mocap0")


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
    samples = parse_rows(root / source / "data.csv", _sample, notes, ",") if source else []
    truth = Trajectory.from_samples(
        [(stamp, world_from_body @ base_from_camera) for stamp, world_from_body in samples]
    )
    finder = ImageFinder(folder / "data")
    listed = [
        ListedImage(
            name,
            stamp,
            finder.find(name),
            camera,
            partial(pose_at, truth, stamp, options) if source else no_pose,
        )
        for stamp, name in sorted(parse_rows(folder / "data.csv", _stamped_name, notes, ","))
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


def _sample(row: list[str]) -> tuple[int, Pose]:
    """Stamp and ``world_from_body``."""
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


def _lens(data: Mapping[str, Any]) -> Any:
    """Its coefficients, under the name of the data set or that of kalibr."""
    found = [data[name] for name in _LENS_KEYS if name in data]
    if not found:
        raise RecordingError("no distortion_coefficients")
    return found[0]


def _refuse(error: CalibrationError, size: Size) -> Camera:
    raise error


def _sensor(file: Path) -> tuple[Camera, Pose]:
    """The camera and ``body_from_camera``."""
    try:
        data = read_yaml(file)
        fx, fy, cx, cy = numbers(data["intrinsics"])
        width, height = (whole(number(x)) for x in data["resolution"])
        model = str(data.get("distortion_model", "none"))
        lens = numbers(() if lens_named(model) == "none" else _lens(data))
        mounting = numbers(data["T_BS"]["data"])
        mounted = Pose.from_matrix([mounting[i : i + 4] for i in (0, 4, 8, 12)])
    except (*BAD_VALUES, AttributeError, RecordingError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise CalibrationError(f"{file} holds no calibration: {reason}") from error
    return Camera.from_ros(width, height, [fx, 0, cx, 0, fy, cy, 0, 0, 1], model, lens), mounted


READER = Reader(is_euroc, read_euroc)
