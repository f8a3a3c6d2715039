"""COLMAP models, text or binary, with the photographs that they were made of."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.camera import DistortionModel
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.text import numbers, read_rows, read_text

_MODEL_PLACES = ("", "sparse/0", "sparse", "colmap/sparse/0")
_IMAGE_PLACES = ("images", "../images", "../../images", ".")
_POINT_BYTES = 24
# In the order of the numbers that binary files use, with the length of their parameters.
_MODELS = {
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
}
_ONE_FOCAL_LENGTH = (
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
# Our model and the number of its coefficients; missing ones are zero.
_DISTORTIONS: dict[str, tuple[DistortionModel, int]] = {
    "SIMPLE_PINHOLE": ("none", 0),
    "PINHOLE": ("none", 0),
    "SIMPLE_RADIAL": ("radtan", 4),
    "RADIAL": ("radtan", 4),
    "OPENCV": ("radtan", 4),
    "FULL_OPENCV": ("rational", 8),
    "OPENCV_FISHEYE": ("equidistant", 4),
    "SIMPLE_RADIAL_FISHEYE": ("equidistant", 4),
    "RADIAL_FISHEYE": ("equidistant", 4),
}


@dataclass(frozen=True)
class PosedImage:
    """One line of a model's list of images."""

    name: str
    camera_id: int
    camera_from_world: Pose


def is_colmap(path: Path) -> bool:
    """Whether a folder is a model, or holds one where COLMAP and its users put it."""
    return path.is_dir() and _model_folder(path) is not None


def read_colmap(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of a model that are present.

    Args:
        path: the model's folder, or the one with ``images`` and ``sparse/0``.
        options: how much of it.

    Raises:
        RecordingError: a damaged model, or none of its images is found.
        CalibrationError: a camera model that is not supported.
    """
    model = _model_folder(path)
    if model is None:
        raise RecordingError(f"{path} holds no COLMAP model")
    binary = (model / "cameras.bin").is_file()
    try:
        cameras = _cameras_bin(model) if binary else _cameras_txt(model)
        images = _images_bin(model) if binary else _images_txt(model)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise RecordingError(f"COLMAP model {model} is damaged: {error}") from error
    folder = _image_folder(model, images)
    files = [
        _file(folder, number, image, cameras)
        for number, image in enumerate(sorted(images, key=lambda image: image.name))
    ]
    present = [file for file in files if file.path.is_file()]
    lost = len(files) - len(present)
    notes = [f"{lost} of {len(files)} images of the model are absent: left out"] if lost else []
    source = f"COLMAP model {model.name}"
    return FolderRecording(path.name, present, options, notes=notes, pose_source=source)


def camera_of(model: str, width: int, height: int, parameters: Sequence[float]) -> Camera:
    """A camera in COLMAP's notation, which kapture shares.

    Args:
        model: name, such as ``SIMPLE_RADIAL``.
        width: pixels.
        height: pixels.
        parameters: of the model, principal point with pixel centres at .5.

    Raises:
        CalibrationError: an unsupported model, or a wrong number of parameters.
    """
    if _MODELS.get(model) != len(parameters):
        raise CalibrationError(
            f"camera model {model} with {len(parameters)} parameters is not supported"
        )
    if model not in _DISTORTIONS:
        raise CalibrationError(
            f"camera model {model} is not supported: use OPENCV or OPENCV_FISHEYE"
        )
    fx, *rest = parameters
    fy = fx if model in _ONE_FOCAL_LENGTH else rest.pop(0)
    cx, cy, *k = rest
    distortion, length = _DISTORTIONS[model]
    coefficients = (*k, *[0.0] * (length - len(k)))
    return Camera(width, height, fx, fy, cx, cy, distortion, coefficients)


def _model_folder(path: Path) -> Path | None:
    """Where the model lies; it is known by its two lists."""
    for place in _MODEL_PLACES:
        for ending in ("bin", "txt"):
            folder = path / place
            if all((folder / f"{name}.{ending}").is_file() for name in ("cameras", "images")):
                return folder
    return None


def _image_folder(model: Path, images: Sequence[PosedImage]) -> Path:
    for place in _IMAGE_PLACES:
        folder = (model / place).resolve()
        if any((folder / image.name).is_file() for image in images):
            return folder
    raise RecordingError(
        f"none of the {len(images)} images of the COLMAP model {model} is found: "
        "put them into a folder images beside it"
    )


def _file(
    folder: Path,
    number: int,
    image: PosedImage,
    cameras: dict[int, Camera],
) -> ImageFile:
    if image.camera_id not in cameras:
        raise RecordingError(f"COLMAP model: {image.name} has unknown camera {image.camera_id}")
    pose = image.camera_from_world.inverse()
    info = FrameInfo(image.name, number, cameras[image.camera_id], pose)
    return ImageFile(info, folder / image.name)


def _cameras_txt(model: Path) -> dict[int, Camera]:
    file = model / "cameras.txt"
    rows = read_rows(file)
    return {
        int(row[0]): camera_of(row[1], int(row[2]), int(row[3]), numbers(row[4:], file))
        for row in rows
    }


def _images_txt(model: Path) -> list[PosedImage]:
    """Every other line; the ones between list points, and are empty where there are none."""
    file = model / "images.txt"
    lines = [line for line in read_text(file).splitlines() if not line.startswith("#")]
    images = []
    for line in lines[::2]:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        w, x, y, z, *t = numbers(words[1:8], file)
        pose = Pose.from_quaternion((x, y, z, w), t)
        images.append(PosedImage(words[9].strip(), int(words[8]), pose))
    return images


class _Binary:
    """Reads little-endian values one after the other."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
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


def _cameras_bin(model: Path) -> dict[int, Camera]:
    source = _Binary(model / "cameras.bin")
    cameras = {}
    for _ in range(source.take("Q")[0]):
        key, number, width, height = source.take("iiQQ")
        if not 0 <= number < len(_MODELS):
            raise CalibrationError(f"COLMAP camera model number {number} is not supported")
        name = list(_MODELS)[number]
        cameras[key] = camera_of(name, width, height, source.take(f"{_MODELS[name]}d"))
    return cameras


def _images_bin(model: Path) -> list[PosedImage]:
    source = _Binary(model / "images.bin")
    images = []
    for _ in range(source.take("Q")[0]):
        _, w, x, y, z, *t, camera_id = source.take("i7di")
        name = source.text()
        source.skip(_POINT_BYTES * source.take("Q")[0])
        images.append(PosedImage(name, camera_id, Pose.from_quaternion((x, y, z, w), t)))
    return images
