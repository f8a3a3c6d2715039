"""Sequences of the EuRoC MAV data set, as folders (ASL format)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.text import numbers, read_rows, read_text

_FIRST_CAMERA = "cam0"
_TRUTH = "state_groundtruth_estimate0"
_MODELS = {"radial-tangential": "plumb_bob", "equidistant": "equidistant", "none": ""}


def is_euroc(path: Path) -> bool:
    """Whether a folder is such a sequence, or its ``mav0``."""
    return (_root(path) / _FIRST_CAMERA / "data.csv").is_file()


def read_euroc(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of one camera with the poses at their time.

    Args:
        path: the sequence's folder or its ``mav0``.
        options: how much of it; ``image_topic`` names another camera than cam0.

    Raises:
        RecordingError: damaged lists, or no frame is usable.
        CalibrationError: sensor.yaml holds no calibration.
    """
    root = _root(path)
    folder = root / (options.image_topic or _FIRST_CAMERA)
    camera, base_from_camera = _sensor(folder / "sensor.yaml")
    truth = None if options.pose_topic == NO_POSES else _trajectory(root / _TRUTH / "data.csv")
    gap_ns = int(options.max_pose_gap_s * 1e9)
    files = []
    for stamp, name in _stamped_names(folder / "data.csv"):
        body = truth.at(stamp, gap_ns) if truth else None
        pose = body @ base_from_camera if body else None
        files.append(ImageFile(FrameInfo(name, stamp, camera, pose), folder / "data" / name))
    unposed = sum(file.info.world_from_camera is None for file in files)
    notes = []
    if truth and unposed:
        notes.append(f"{unposed} of {len(files)} images have no pose near their time")
    source = _TRUTH if truth else ""
    name = path.name if path.name != "mav0" else path.resolve().parent.name
    recording = FolderRecording(name, files, options, notes=notes, pose_source=source)
    recording.base_from_camera = base_from_camera
    return recording


def _root(path: Path) -> Path:
    return path / "mav0" if (path / "mav0").is_dir() else path


def _stamped_names(file: Path) -> list[tuple[int, str]]:
    try:
        return sorted((int(row[0]), row[1]) for row in read_rows(file, ","))
    except (ValueError, IndexError) as error:
        raise RecordingError(f"{file} is no list of times and images") from error


def _trajectory(file: Path) -> Trajectory | None:
    """``world_from_body`` over time, or None where there is no such file."""
    if not file.is_file():
        return None
    samples = []
    for row in read_rows(file, ","):
        x, y, z, qw, qx, qy, qz = numbers(row[1:8] + ["nan"] * (8 - len(row)), file)
        try:
            samples.append((int(row[0]), Pose.from_quaternion((qx, qy, qz, qw), (x, y, z))))
        except ValueError as error:
            raise RecordingError(f"{file}: at {row[0]}: {error}") from error
    return Trajectory.from_samples(samples)


def _sensor(file: Path) -> tuple[Camera, Pose]:
    """The camera and ``body_from_camera``."""
    text = "\n".join(x for x in read_text(file).splitlines() if not x.startswith("%"))
    try:
        data: dict[str, Any] = yaml.safe_load(text)
        fx, fy, cx, cy = (float(x) for x in data["intrinsics"])
        width, height = (int(x) for x in data["resolution"])
        model = _MODELS[data.get("distortion_model", "none")]
        lens = [float(x) for x in data.get("distortion_coefficients", [])]
        mounted = Pose.from_matrix(
            [[float(x) for x in data["T_BS"]["data"][i : i + 4]] for i in (0, 4, 8, 12)]
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise CalibrationError(f"{file} holds no calibration: {reason}") from error
    return Camera.from_ros(width, height, [fx, 0, cx, 0, fy, cy, 0, 0, 1], model, lens), mounted
