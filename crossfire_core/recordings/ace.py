"""Scenes in the layout of ACE and DSAC*: folders rgb, poses and calibration, a file an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.image_file import Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.seven_scenes import read_pose_file
from crossfire_core.recordings.text import natural_key, read_matrix

_PARTS = ("rgb", "poses", "calibration")
_TRAINING = "train"


def is_ace(path: Path) -> bool:
    """Whether a folder is such a scene, or its ``train`` or ``test``."""
    return _root(path) is not None


def read_ace(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of the part for training, or of the part that is given.

    Args:
        path: the scene's folder, or one of its parts.
        options: how much of it.

    Raises:
        RecordingError: no frame is usable.
        CalibrationError: no image has a calibration.
    """
    root = _root(path) or path
    images = _files(root / "rgb")
    poses, calibrations = (_partners(images, root / part) for part in _PARTS[1:])
    listed = [
        ListedImage(
            image.name,
            number,
            image,
            partial(_camera, calibrations.get(image)),
            partial(_pose, poses.get(image)),
        )
        for number, image in enumerate(images)
    ]
    name = root.name if root == path else f"{path.name}/{root.name}"
    return FolderRecording(name, listed, options, pose_source="poses")


def _root(path: Path) -> Path | None:
    for folder in (path, path / _TRAINING):
        if all((folder / part).is_dir() for part in _PARTS[:2]):
            return folder
    return None


def _files(folder: Path) -> list[Path]:
    there = folder.iterdir() if folder.is_dir() else ()
    files = (p for p in there if p.is_file() and not p.name.startswith("."))
    return sorted(files, key=lambda p: natural_key(p.name))


def _partners(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The file of each image: of its name, or of its number where no names agree."""
    others = _files(folder)
    named = {_stem(other): other for other in others}
    partners = {image: named[_stem(image)] for image in images if _stem(image) in named}
    if not partners and len(others) == len(images):
        return dict(zip(images, others, strict=True))
    return partners


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _pose(file: Path | None) -> Pose | None:
    return None if file is None else read_pose_file(file)


def _camera(file: Path | None, size: Size) -> Camera:
    """From one focal length, or a 3x3 matrix whose pixel centres are at .5."""
    if file is None:
        raise CalibrationError("no file in calibration belongs to it: give one with --calibration")
    matrix = read_matrix(file)
    if matrix.shape == (1, 1):
        focal = float(matrix[0, 0])
        return Camera(*size, focal, focal, size[0] / 2, size[1] / 2)
    if matrix.shape != (3, 3):
        raise CalibrationError(f"{file} is neither a focal length nor a 3x3 matrix")
    (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
    return Camera(*size, fx, fy, cx, cy)


READER = Reader(is_ace, read_ace)
