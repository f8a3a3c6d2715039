"""The files of a COLMAP model, text or binary: cameras, images, and since 3.12 rigs and frames."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.recordings.text import (
    BAD_VALUES,
    numbers,
    parse_each,
    parse_rows,
    read_text,
    whole,
)

# In the order of the numbers that binary files use, with the length of their parameters.
PARAMETERS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4,
    "DIVISION": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EUCM": 6,
    "EQUIRECTANGULAR": 2,
}
_LISTS = ("cameras", "images")
_POINT_BYTES = 24
_CAMERA = "CAMERA"
_SENSORS = (_CAMERA, "IMU")

Values = Sequence[float]  # qw qx qy qz tx ty tz
Sensor = tuple[str, int]  # type and number


@dataclass(frozen=True)
class ModelCamera:
    """One camera as it is written, supported here or not."""

    model: str
    width: int
    height: int
    parameters: Values


@dataclass(frozen=True)
class ModelImage:
    """One line of the list of images; ``values`` is ``camera_from_world`` as it is written."""

    number: int
    name: str
    camera: int
    values: Values


@dataclass(frozen=True)
class RigFrame:
    """What a rig took at one time; ``values`` is ``rig_from_world``, images are by sensor."""

    rig: int
    values: Values
    images: dict[Sensor, int]


@dataclass(frozen=True)
class Model:
    """A model as it is written.

    Attributes:
        cameras: by number.
        images: in the order of the file.
        rigs: by number: where each sensor sits, ``sensor_from_rig``, None where that is unknown.
        frames: of the rigs.
        notes: rows that cannot be read.
    """

    cameras: dict[int, ModelCamera]
    images: list[ModelImage]
    rigs: dict[int, dict[Sensor, Values | None]] = field(default_factory=dict)
    frames: list[RigFrame] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def places(self) -> dict[int, tuple[Values, Values]]:
        """``sensor_from_rig`` and ``rig_from_world`` by image, for images of rigs.

        Where a model has frames, it is they that hold the poses.
        """
        return {
            image: (mounted, frame.values)
            for frame in self.frames
            for sensor, image in frame.images.items()
            if sensor[0] == _CAMERA
            and (mounted := self.rigs.get(frame.rig, {}).get(sensor)) is not None
        }

    def moments(self) -> dict[int, list[int]]:
        """By image: those that its rig took at the same time, of rigs that have several cameras."""
        found: dict[int, list[int]] = {}
        for frame in self.frames:
            cameras = [s for s in self.rigs.get(frame.rig, {}) if s[0] == _CAMERA]
            images = [image for s, image in frame.images.items() if s[0] == _CAMERA]
            if len(cameras) > 1:
                found.update(dict.fromkeys(images, images))
        return found


def pose_of(values: Values) -> Pose:
    """A pose from COLMAP's seven numbers.

    Raises:
        ValueError: not finite, or a zero quaternion.
    """
    w, x, y, z, *t = values
    return Pose.from_quaternion((x, y, z, w), t)


def ending_of(folder: Path) -> str:
    """``.bin`` or ``.txt`` for the folder of a model, empty for any other."""
    for ending in (".bin", ".txt"):
        if all((folder / f"{name}{ending}").is_file() for name in _LISTS):
            return ending
    return ""


def read_model(folder: Path) -> Model:
    """Read a model without its points.

    Raises:
        RecordingError: a damaged model.
        CalibrationError: a binary model with a camera of an unknown number.
    """
    try:
        return _read_binary(folder) if ending_of(folder) == ".bin" else _read_text(folder)
    except BAD_VALUES as error:
        raise RecordingError(f"COLMAP model {folder} is damaged: {error}") from error


def _read_text(folder: Path) -> Model:
    notes: list[str] = []
    cameras = dict(parse_rows(folder / "cameras.txt", _camera_row, notes))
    lines = enumerate(read_text(folder / "images.txt").split("\n"), 1)
    rows = [(f"line {place}", line) for place, line in lines if _is_image(line)]
    images = parse_each(rows, _image_row, notes, "rows of images.txt")
    rigs, frames = folder / "rigs.txt", folder / "frames.txt"
    if not (rigs.is_file() and frames.is_file()):
        return Model(cameras, images, notes=notes)
    return Model(
        cameras,
        images,
        dict(parse_rows(rigs, _rig_row, notes)),
        parse_rows(frames, _frame_row, notes),
        notes,
    )


def _camera_row(row: list[str]) -> tuple[int, ModelCamera]:
    return whole(row[0]), ModelCamera(row[1], whole(row[2]), whole(row[3]), numbers(row[4:]))


def _is_image(line: str) -> bool:
    """Whether a line is about an image: not empty, no comment, and no list of points.

    After each image comes a line of points, three numbers each; it is empty where there are none,
    and some programs write none at all.
    """
    words = line.split()
    if not words or words[0].startswith("#"):
        return False
    is_points = len(words) % 3 == 0 and all(_is_number(word) for word in (*words[:9], words[-1]))
    return not is_points


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _image_row(line: str) -> ModelImage:
    words = line.split(maxsplit=9)
    values = [float(word) for word in words[1:8]]
    return ModelImage(whole(words[0]), words[9].strip(), whole(words[8]), values)


def _rig_row(row: list[str]) -> tuple[int, dict[Sensor, Values | None]]:
    words = iter(row)
    rig, count = whole(next(words, "")), whole(next(words, ""))
    sensors: dict[Sensor, Values | None] = {}
    for place in range(min(count, len(row))):
        sensor = next(words, ""), whole(next(words, ""))
        if place == 0:
            sensors[sensor] = (1, 0, 0, 0, 0, 0, 0)  # the sensor that the others are relative to
        elif next(words, "") == "1":
            sensors[sensor] = numbers(next(words, "") for _ in range(7))
        else:
            sensors[sensor] = None
    return rig, sensors


def _frame_row(row: list[str]) -> RigFrame:
    images = {}
    for start in range(10, 10 + 3 * min(whole(row[9]), len(row)), 3):
        kind, sensor, image = row[start : start + 3]
        images[kind, whole(sensor)] = whole(image)
    return RigFrame(whole(row[1]), numbers(row[2:9]), images)


class _Binary:
    """Reads little-endian values one after the other."""

    def __init__(self, path: Path) -> None:
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error
        self._at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._data, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text

    def skip(self, size: int) -> None:
        self._at += size

    def sensor(self) -> Sensor:
        kind, number = self.take("iI")
        return _SENSORS[kind] if 0 <= kind < len(_SENSORS) else str(kind), number


def _read_binary(folder: Path) -> Model:
    cameras = _cameras_bin(_Binary(folder / "cameras.bin"))
    images = _images_bin(_Binary(folder / "images.bin"))
    rigs, frames = folder / "rigs.bin", folder / "frames.bin"
    if not (rigs.is_file() and frames.is_file()):
        return Model(cameras, images)
    return Model(cameras, images, _rigs_bin(_Binary(rigs)), _frames_bin(_Binary(frames)))


def _cameras_bin(source: _Binary) -> dict[int, ModelCamera]:
    cameras = {}
    for _ in range(source.take("Q")[0]):
        key, number, width, height = source.take("IiQQ")
        if not 0 <= number < len(PARAMETERS):
            raise CalibrationError(
                f"COLMAP camera model number {number} is not known: export the model as text"
            )
        name = list(PARAMETERS)[number]
        values = source.take(f"{PARAMETERS[name]}d")
        cameras[key] = ModelCamera(name, width, height, values)
    return cameras


def _images_bin(source: _Binary) -> list[ModelImage]:
    images = []
    for _ in range(source.take("Q")[0]):
        number, *values, camera = source.take("I7dI")
        name = source.text()
        source.skip(_POINT_BYTES * source.take("Q")[0])
        images.append(ModelImage(number, name, camera, values))
    return images


def _rigs_bin(source: _Binary) -> dict[int, dict[Sensor, Values | None]]:
    rigs = {}
    for _ in range(source.take("Q")[0]):
        rig, count = source.take("II")
        sensors: dict[Sensor, Values | None] = {}
        for place in range(count):
            sensor = source.sensor()
            if place == 0:
                sensors[sensor] = (1, 0, 0, 0, 0, 0, 0)
            else:
                sensors[sensor] = source.take("7d") if source.take("B")[0] else None
        rigs[rig] = sensors
    return rigs


def _frames_bin(source: _Binary) -> list[RigFrame]:
    frames = []
    for _ in range(source.take("Q")[0]):
        _, rig, *values = source.take("II7d")
        images = {source.sensor(): source.take("Q")[0] for _ in range(source.take("I")[0])}
        frames.append(RigFrame(rig, values, images))
    return frames
