"""Folders of the 7-Scenes data set: frame-NNNNNN.color, .depth.png, .pose.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.intrinsics import INTRINSICS, read_intrinsics
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile, image_size
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.text import read_matrix

_SUFFIXES = (".png", ".jpg")
# The data set's page gives 585 for its depth camera; its colour camera is said to be near this.
_USUAL_FOCAL_LENGTH = 525.0


def is_seven_scenes(path: Path) -> bool:
    """Whether a folder holds such frames, itself or in sequences ``seq-NN``."""
    return path.is_dir() and bool(_colour_files(path))


def read_seven_scenes(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the frames of a folder; those without a valid pose have none.

    Args:
        path: a sequence, or a scene with sequences ``seq-NN``.
        options: how much of it; ``pose_file`` is the ending of the pose files.

    Raises:
        RecordingError: a pose file is no 4x4 matrix, or no frame is usable.
        CalibrationError: the intrinsics are none.
    """
    colours = _colour_files(path)
    camera, notes = _camera(path, colours[0])
    posed = options.pose_topic != NO_POSES
    files, lost = [], 0
    for number, colour in enumerate(colours):
        stem = colour.with_name(colour.name.split(".")[0])
        pose = _pose(stem.with_name(f"{stem.name}.{options.pose_file}")) if posed else None
        lost += posed and pose is None
        depth = stem.with_name(f"{stem.name}.depth.png")
        name = str(colour.relative_to(path))
        info = FrameInfo(name, number, camera, pose)
        files.append(ImageFile(info, colour, depth if depth.is_file() else None))
    if lost:
        notes.append(f"{lost} of {len(colours)} frames have no valid pose")
    source = f"frame-*.{options.pose_file}" if posed else ""
    return FolderRecording(path.name, files, options, notes=notes, pose_source=source)


def _colour_files(path: Path) -> list[Path]:
    """All colour images, sequence by sequence."""
    folders = [path, *sorted(p for p in path.glob("seq-*") if p.is_dir())]
    return [
        file
        for folder in folders
        for file in sorted(folder.glob("frame-*.color.*"))
        if file.suffix in _SUFFIXES
    ]


def _camera(path: Path, image: Path) -> tuple[Camera, list[str]]:
    width, height = image_size(image)
    file = next((p for p in (path / INTRINSICS, path.parent / INTRINSICS) if p.is_file()), None)
    if file is None:
        f = _USUAL_FOCAL_LENGTH * width / 640
        note = f"no {INTRINSICS}: a focal length of {f:g} px is assumed"
        return Camera(width, height, f, f, width / 2, height / 2), [note]
    return read_intrinsics(file, (width, height)), []


def _pose(file: Path) -> Pose | None:
    """``world_from_camera``, or None where tracking was lost or the file is absent."""
    if not file.is_file():
        return None
    matrix = read_matrix(file)
    if matrix.shape != (4, 4):
        raise RecordingError(f"{file} is no 4x4 matrix")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3]) - 1.0) > 0.1:
        return None
    return Pose.from_matrix(matrix)
