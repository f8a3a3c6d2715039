"""Scenes of Cambridge Landmarks: lists of poses, calibration in a VisualSFM file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile, image_size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.text import numbers, read_text

MODEL = "reconstruction.nvm"
_LISTS = ("dataset_train.txt", "dataset_test.txt")


def is_cambridge(path: Path) -> bool:
    """Whether a path is a scene's folder or one of its two lists."""
    return path.name in _LISTS if path.is_file() else (path / _LISTS[0]).is_file()


def read_cambridge(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of ``dataset_train.txt``, or of the list that is given.

    Args:
        path: the scene's folder, or a list in it.
        options: how much of it.

    Raises:
        RecordingError: a damaged list, or none of its images exists.
        CalibrationError: an image is not in ``reconstruction.nvm``.
    """
    file = path if path.is_file() else path / _LISTS[0]
    folder = file.parent
    entries = _entries(file)
    present = [entry for entry in entries if (folder / entry[0]).is_file()]
    lenses = _lenses(folder / MODEL)
    size = image_size(folder / present[0][0]) if present else (0, 0)
    files = []
    for number, (name, pose) in enumerate(present):
        camera = _camera(lenses, name, size)
        files.append(ImageFile(FrameInfo(name, number, camera, pose), folder / name))
    lost = len(entries) - len(present)
    notes = [f"{lost} of {len(entries)} listed images are absent: left out"] if lost else []
    name = f"{folder.name}/{file.stem}"
    return FolderRecording(name, files, options, notes=notes, pose_source=file.name)


def _entries(file: Path) -> list[tuple[str, Pose]]:
    """Names and ``world_from_camera``; the file gives centres and world-to-camera rotations."""
    entries = []
    for line in read_text(file).splitlines():
        words = line.split()
        if len(words) != 8 or words[0].startswith("ImageFile"):
            continue  # the three lines of the header
        x, y, z, qw, qx, qy, qz = numbers(words[1:], file)
        try:
            pose = Pose.from_quaternion((-qx, -qy, -qz, qw), (x, y, z))
        except ValueError as error:
            raise RecordingError(f"{file}: {words[0]}: {error}") from error
        entries.append((words[0], pose))
    return sorted(entries, key=lambda entry: entry[0])


def _lenses(file: Path) -> dict[str, tuple[float, float]]:
    """Focal length and radial distortion by image, names without their ending."""
    if not file.is_file():
        raise CalibrationError(f"{file.parent.name} has no {MODEL}, which holds the calibration")
    lenses = {}
    for line in read_text(file).splitlines():
        words = line.split()
        if len(words) == 11:
            _, focal, *_, radial, _ = words
            lenses[_stem(words[0])] = (numbers([focal], file)[0], numbers([radial], file)[0])
    return lenses


def _camera(lenses: dict[str, tuple[float, float]], name: str, size: tuple[int, int]) -> Camera:
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
    return str(PurePosixPath(name).with_suffix(""))
