"""Scenes of Cambridge Landmarks: lists of poses, calibration in a VisualSFM file."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import (
    natural_key,
    number,
    numbers,
    parse_each,
    read_lines,
    whole,
)

MODEL = "reconstruction.nvm"
_LISTS = ("dataset_train.txt", "dataset_test.txt")
_HEADER = ("Visual Landmark Dataset", "ImageFile")
_POSE_NUMBERS = 7
_LENS_WORDS = 10


def is_cambridge(path: Path) -> bool:
    """Whether a path is a scene's folder or one of its two lists."""
    return path.name in _LISTS if path.is_file() else (path / _LISTS[0]).is_file()


def read_cambridge(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of ``dataset_train.txt``, or of the list that is given.

    Args:
        path: the scene's folder, or a list in it.
        options: how much of it.

    Raises:
        RecordingError: none of the listed images is usable.
        CalibrationError: there is no ``reconstruction.nvm``, or none of the images is in it.
    """
    file = path if path.is_file() else path / _LISTS[0]
    folder = file.parent
    notes: list[str] = []
    rows = [
        (f"line {place}", line) for place, line in read_lines(file) if not line.startswith(_HEADER)
    ]
    entries = parse_each(rows, _entry, notes, f"rows of {file.name}")
    entries.sort(key=lambda entry: natural_key(entry[0]))
    lenses = {} if options.calibration else _lenses(folder / MODEL, notes)
    finder = ImageFinder(folder)
    listed = [
        ListedImage(
            name,
            place,
            finder.find(name),
            partial(_camera, lenses, name),
            partial(_pose, values),
        )
        for place, (name, values) in enumerate(entries)
    ]
    name = f"{folder.name}/{file.stem}"
    return FolderRecording(name, listed, options, notes=notes, pose_source=file.name)


def _entry(line: str) -> tuple[str, list[str]]:
    """The name and the seven words after it."""
    name, *values = line.rsplit(maxsplit=_POSE_NUMBERS)
    if len(values) != _POSE_NUMBERS:
        raise RecordingError(f"{len(values)} numbers after the name, {_POSE_NUMBERS} expected")
    return name, values


def _pose(values: list[str]) -> Pose:
    """``world_from_camera``; the file gives the centre and the world-to-camera rotation."""
    x, y, z, qw, qx, qy, qz = numbers(values)
    return Pose.from_quaternion((-qx, -qy, -qz, qw), (x, y, z))


def _lenses(file: Path, notes: list[str]) -> dict[str, tuple[float, float]]:
    """Focal length and radial distortion by image, names without their ending."""
    if not file.is_file():
        raise CalibrationError(
            f"{file.parent.name} has no {MODEL}, which holds the calibration: give one with "
            "--calibration"
        )
    lines = read_lines(file)
    counts = (i for i, (_, line) in enumerate(lines) if line.isascii() and line.isdigit())
    first = next(counts, len(lines))
    count = whole(lines[first][1]) if first < len(lines) else 0
    rows = [(f"line {place}", line) for place, line in lines[first + 1 : first + 1 + count]]
    return dict(parse_each(rows, _lens, notes, f"cameras of {file.name}"))


def _lens(line: str) -> tuple[str, tuple[float, float]]:
    name, focal, *_, radial, _ = line.rsplit(maxsplit=_LENS_WORDS)
    return _stem(name), (number(focal), number(radial))


def _camera(lenses: dict[str, tuple[float, float]], name: str, size: Size) -> Camera:
    if _stem(name) not in lenses:
        raise CalibrationError(f"{MODEL} has no calibration of {name}")
    focal, k = lenses[_stem(name)]
    centre = (0.5 * size[0], 0.5 * size[1])
    if k == 0.0:
        return Camera(*size, focal, focal, *centre)
    # VisualSFM undistorts by 1 + k r^2; this is the series of the inverse, which we need.
    coefficients = (-k, 3 * k**2, 0.0, 0.0, -12 * k**3)
    return Camera(*size, focal, focal, *centre, "radtan", coefficients)


def _stem(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")).with_suffix(""))


READER = Reader(is_cambridge, read_cambridge)
