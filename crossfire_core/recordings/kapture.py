"""Data sets in the kapture format: sensors, records_camera, trajectories, rigs."""

from __future__ import annotations

from pathlib import Path

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.colmap import camera_of
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.text import numbers, read_rows

_RECORDS = "records_camera.txt"


def is_kapture(path: Path) -> bool:
    """Whether a folder is such a data set."""
    return (path / "sensors" / _RECORDS).is_file()


def read_kapture(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of all cameras, or of the one named by ``image_topic``.

    Args:
        path: the folder that holds ``sensors``.
        options: how much of it.

    Raises:
        RecordingError: damaged lists, or no frame is usable.
        CalibrationError: a camera without calibration.
    """
    sensors = path / "sensors"
    cameras = _cameras(sensors / "sensors.txt")
    poses = {} if options.pose_topic == NO_POSES else _poses(sensors)
    files = []
    for stamp, device, name in _records(sensors / _RECORDS):
        if options.image_topic not in ("", device):
            continue
        if device not in cameras:
            raise CalibrationError(f"{sensors / 'sensors.txt'} has no calibration of {device}")
        info = FrameInfo(name, stamp, cameras[device], poses.get((stamp, device)))
        files.append(ImageFile(info, sensors / "records_data" / name))
    present = [file for file in files if file.path.is_file()]
    lost = len(files) - len(present)
    notes = [f"{lost} of {len(files)} listed images are absent: left out"] if lost else []
    unposed = sum(file.info.world_from_camera is None for file in present)
    if poses and unposed:
        notes.append(f"{unposed} of {len(present)} images have no pose")
    source = "trajectories.txt" if poses else ""
    return FolderRecording(path.name, present, options, notes=notes, pose_source=source)


def _rows(file: Path, least: int) -> list[list[str]]:
    rows = read_rows(file, ",")
    if any(len(row) < least for row in rows):
        raise RecordingError(f"{file} has a line of fewer than {least} values")
    return rows


def _whole(word: str, file: Path) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise RecordingError(f"{file}: {word!r} is no whole number") from error


def _cameras(file: Path) -> dict[str, Camera]:
    cameras = {}
    for row in _rows(file, 3):
        if row[2] == "camera" and len(row) > 6:
            size = (_whole(row[4], file), _whole(row[5], file))
            cameras[row[0]] = camera_of(row[3], *size, numbers(row[6:], file))
    return cameras


def _records(file: Path) -> list[tuple[int, str, str]]:
    return sorted((_whole(row[0], file), row[1], row[2]) for row in _rows(file, 3))


def _poses(sensors: Path) -> dict[tuple[int, str], Pose]:
    """``world_from_camera`` by time and device; rigs are resolved into their cameras."""
    file = sensors / "trajectories.txt"
    if not file.is_file():
        return {}
    mounts: dict[str, list[tuple[str, Pose]]] = {}
    if (sensors / "rigs.txt").is_file():
        for row in _rows(sensors / "rigs.txt", 9):
            mounts.setdefault(row[0], []).append((row[1], _pose(row[2:9], sensors / "rigs.txt")))
    poses: dict[tuple[int, str], Pose] = {}
    for row in _rows(file, 9):
        stamp, device_from_world = _whole(row[0], file), _pose(row[2:9], file)
        for camera, camera_from_device in mounts.get(row[1], [(row[1], Pose.identity())]):
            poses[stamp, camera] = (camera_from_device @ device_from_world).inverse()
    return poses


def _pose(words: list[str], file: Path) -> Pose:
    w, x, y, z, *t = numbers(words, file)
    try:
        return Pose.from_quaternion((x, y, z, w), t)
    except ValueError as error:
        raise RecordingError(f"{file}: {error}") from error
