"""Data sets in the kapture format: sensors, records_camera, trajectories, rigs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.colmap import camera_of
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.frame import Mount
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import natural_key, numbers, parse_rows, whole

_RECORDS = "records_camera.txt"
CameraOf = Callable[[Size], Camera]


def is_kapture(path: Path) -> bool:
    """Whether a folder is such a data set."""
    return (path / "sensors" / _RECORDS).is_file()


def read_kapture(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of all cameras, or of the one named by ``image_topic``.

    Args:
        path: the folder that holds ``sensors``.
        options: how much of it.

    Raises:
        RecordingError: no frame is usable, or no camera has that name.
        CalibrationError: no camera has a calibration.
    """
    sensors = path / "sensors"
    notes: list[str] = []
    cameras = dict(parse_rows(sensors / "sensors.txt", _sensor, notes, ","))
    records = parse_rows(sensors / _RECORDS, _record, notes, ",")
    records.sort(key=lambda record: (record[0], record[1], natural_key(record[2])))
    rigs = _rigs(sensors, notes)
    poses = _poses(sensors, rigs, notes)
    finder = ImageFinder(sensors / "records_data")
    devices = sorted({device for _, device, _ in records})
    mounts = _mounts(rigs, devices)
    if options.image_topic and options.image_topic not in devices:
        raise RecordingError(
            f"no images of {options.image_topic} (--image-topic) in {path.name}: its cameras are "
            f"{', '.join(devices) or 'none'}"
        )
    listed = [
        ListedImage(
            name,
            stamp,
            finder.find(name),
            cameras.get(device) or partial(_no_camera, device),
            partial(poses.get, (stamp, device)),
            mount=mounts.get(device),
        )
        for stamp, device, name in records
        if options.image_topic in ("", device)
    ]
    source = "trajectories.txt" if (sensors / "trajectories.txt").is_file() else ""
    return FolderRecording(
        path.name, listed, options, notes=notes, pose_source=source, metric=False
    )


def _sensor(row: list[str]) -> tuple[str, CameraOf | None]:
    """Name and camera; other sensors have none."""
    if row[2] != "camera":
        return row[0], None
    return row[0], partial(_camera, row)


def _camera(row: list[str], size: Size) -> Camera:
    return camera_of(row[3], whole(row[4]), whole(row[5]), numbers(row[6:]))


def _no_camera(device: str, size: Size) -> Camera:
    raise CalibrationError(f"sensors.txt has no calibration of {device}")


def _record(row: list[str]) -> tuple[int, str, str]:
    return whole(row[0]), row[1], row[2]


Rigs = dict[str, list[tuple[str, Pose]]]


def _rigs(sensors: Path, notes: list[str]) -> Rigs:
    """Sensors and their ``sensor_from_rig`` by rig; they may be rigs themselves."""
    rigs: Rigs = {}
    if (sensors / "rigs.txt").is_file():
        for rig, sensor, mounted in parse_rows(sensors / "rigs.txt", _mounting, notes, ","):
            rigs.setdefault(rig, []).append((sensor, mounted))
    return rigs


def _carried(rigs: Rigs, device: str, *above: str) -> list[tuple[str, Pose]]:
    """What a device is or carries, with ``sensor_from_device``."""
    if device not in rigs or device in above:
        return [(device, Pose.identity())]
    return [
        (sensor, sensor_from_part @ part_from_device)
        for part, part_from_device in rigs[device]
        for sensor, sensor_from_part in _carried(rigs, part, device, *above)
    ]


def _mounts(rigs: Rigs, cameras: Collection[str]) -> dict[str, Mount]:
    """Where cameras sit on their robot, of rigs that have several; the rig is its base."""
    inside = {sensor for parts in rigs.values() for sensor, _ in parts}
    found: dict[str, Mount] = {}
    for rig in rigs.keys() - inside:
        carried = [(name, place) for name, place in _carried(rigs, rig) if name in cameras]
        if len(carried) > 1:
            found |= {name: Mount(name, place.inverse()) for name, place in carried}
    return found


def _poses(sensors: Path, rigs: Rigs, notes: list[str]) -> dict[tuple[int, str], Pose]:
    """``world_from_camera`` by time and device; rigs are resolved into their cameras."""
    file = sensors / "trajectories.txt"
    if not file.is_file():
        return {}
    poses: dict[tuple[int, str], Pose] = {}
    for stamp, device, device_from_world in parse_rows(file, _placement, notes, ","):
        for sensor, sensor_from_device in _carried(rigs, device):
            poses[stamp, sensor] = (sensor_from_device @ device_from_world).inverse()
    return poses


def _mounting(row: list[str]) -> tuple[str, str, Pose]:
    """Rig, sensor and ``sensor_from_rig``."""
    return row[0], row[1], _pose(row[2:9])


def _placement(row: list[str]) -> tuple[int, str, Pose]:
    """Time, device and ``device_from_world``."""
    return whole(row[0]), row[1], _pose(row[2:9])


def _pose(words: list[str]) -> Pose:
    w, x, y, z, *t = numbers(words)
    return Pose.from_quaternion((x, y, z, w), t)


READER = Reader(is_kapture, read_kapture)
