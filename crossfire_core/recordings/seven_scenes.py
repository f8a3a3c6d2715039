"""Folders of the 7-Scenes data set: frame-NNNNNN.color, .depth.png, .pose.txt, and its splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.image_file import Size
from crossfire_core.recordings.intrinsics import INTRINSICS, read_intrinsics
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import natural_key, read_lines, read_matrix

SPLITS = ("TrainSplit.txt", "TestSplit.txt")
_SUFFIXES = (".png", ".jpg")
# The data set's page gives 585 for its depth camera; its colour camera is said to be near this.
_USUAL_FOCAL_LENGTH = 525.0


def is_seven_scenes(path: Path) -> bool:
    """Whether a path is one of the two splits, or a folder of frames or of ``seq-NN`` with them."""
    return path.name in SPLITS if path.is_file() else path.is_dir() and bool(_colour_files(path))


def read_seven_scenes(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the frames of a folder; those without a valid pose have none.

    Args:
        path: a sequence, a scene with sequences ``seq-NN``, or a scene's list of sequences,
            ``TrainSplit.txt`` or ``TestSplit.txt``.
        options: how much of it; ``pose_file`` is the ending of the pose files.

    Raises:
        RecordingError: no frame is usable.
        CalibrationError: the intrinsics are none.
    """
    root = path.parent if path.is_file() else path
    camera, notes = _camera(root)
    listed = []
    for number, colour in enumerate(_colour_files(path)):
        stem = colour.with_name(colour.name.split(".")[0])
        depth = stem.with_name(f"{stem.name}.depth.png")
        listed.append(
            ListedImage(
                str(colour.relative_to(root)),
                number,
                colour,
                camera,
                partial(read_pose_file, stem.with_name(f"{stem.name}.{options.pose_file}")),
                depth if depth.is_file() else None,
            )
        )
    source = f"frame-*.{options.pose_file}"
    name = f"{root.name}/{path.stem}" if path.is_file() else path.name
    return FolderRecording(name, listed, options, notes=notes, pose_source=source)


def read_pose_file(file: Path) -> Pose | None:
    """``world_from_camera`` of a 4x4 matrix, or None where tracking was lost or there is no file.

    Raises:
        RecordingError: no such matrix.
    """
    if not file.is_file():
        return None
    matrix = read_matrix(file)
    if matrix.shape != (4, 4):
        raise RecordingError(f"{file} is no 4x4 matrix")
    if not np.isfinite(matrix).all() or not matrix.any():
        return None
    return Pose.from_matrix(matrix)


def _colour_files(path: Path) -> list[Path]:
    """All colour images, sequence by sequence."""
    if path.is_file():
        folders = _listed_sequences(path)
    else:
        sequences = (p for p in path.glob("seq-*") if p.is_dir())
        folders = [path, *sorted(sequences, key=lambda p: natural_key(p.name))]
    return [
        file
        for folder in folders
        for file in sorted(folder.glob("frame-*.color.*"), key=lambda p: natural_key(p.name))
        if file.suffix.lower() in _SUFFIXES
    ]


def _listed_sequences(file: Path) -> list[Path]:
    """Folders of the sequences that a split names, one ``sequenceN`` a line.

    Raises:
        RecordingError: a line names no sequence, or one that is not there.
    """
    folders = []
    for place, line in read_lines(file):
        number = line.strip().removeprefix("sequence")
        folder = file.parent / f"seq-{int(number) if number.isdigit() else 0:02d}"
        if not number.isdigit() or not folder.is_dir():
            raise RecordingError(f"{file}, line {place}: there is no {line.strip()!r}")
        folders.append(folder)
    return folders


def _camera(path: Path) -> tuple[Callable[[Size], Camera], list[str]]:
    file = next((p for p in (path / INTRINSICS, path.parent / INTRINSICS) if p.is_file()), None)
    if file is not None:
        return read_intrinsics(file), []
    return _usual_camera, [
        f"no {INTRINSICS}: a focal length of {_USUAL_FOCAL_LENGTH:g} px at a width of 640 px "
        "is assumed"
    ]


def _usual_camera(size: Size) -> Camera:
    f = _USUAL_FOCAL_LENGTH * size[0] / 640
    return Camera(*size, f, f, size[0] / 2, size[1] / 2)


READER = Reader(is_seven_scenes, read_seven_scenes)
