"""Sequences of the TUM RGB-D benchmark: rgb.txt, depth.txt, groundtruth.txt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.folder import FolderRecording, ListedImage, no_pose, pose_at
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.intrinsics import INTRINSICS, read_intrinsics
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import numbers, parse_rows, seconds_to_ns

_TRUTH = "groundtruth.txt"
_DEPTH_UNIT = 1.0 / 5000.0
_DEPTH_TOLERANCE_NS = 20_000_000  # as the data set's own tool pairs images
# As the benchmark publishes them: fx, fy, cx, cy (pixel centres at integers), k1 k2 p1 p2 k3.
_PUBLISHED = {
    "freiburg1": (
        (517.306408, 516.469215, 318.643040, 255.313989),
        (0.262383, -0.953104, -0.005358, 0.002628, 1.163314),
    ),
    "freiburg2": (
        (520.908620, 521.007327, 325.141442, 249.701764),
        (0.231222, -0.784899, -0.003257, -0.000105, 0.917205),
    ),
    "freiburg3": ((535.433105, 539.212524, 320.106653, 247.632132), ()),
}
_USUAL = ((525.0, 525.0, 319.5, 239.5), ())


def is_tum(path: Path) -> bool:
    """Whether a folder is such a sequence."""
    return (path / "rgb.txt").is_file()


def read_tum(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the colour images with the poses at their time and the depth taken with them.

    Args:
        path: the sequence's folder.
        options: how much of it.

    Raises:
        RecordingError: no frame is usable.
    """
    camera, notes = _camera(path)
    colours = sorted(parse_rows(path / "rgb.txt", _stamped_name, notes))
    if not colours and not notes:
        raise RecordingError(f"{path / 'rgb.txt'} lists no image")
    finder = ImageFinder(path)
    depths = _depths(path / "depth.txt", notes)
    truth = _trajectory(path / _TRUTH, notes)
    listed = [
        ListedImage(
            Path(name).name,
            stamp,
            finder.find(name),
            camera,
            partial(pose_at, truth, stamp, options) if truth else no_pose,
            finder.find(depth) if (depth := _taken_with(stamp, depths)) else None,
            _DEPTH_UNIT,
            depth_unknown=0,
        )
        for stamp, name in colours
    ]
    source = _TRUTH if truth else ""
    return FolderRecording(path.name, listed, options, notes=notes, pose_source=source)


def _stamped_name(row: list[str]) -> tuple[int, str]:
    return seconds_to_ns(row[0]), row[1]


def _depths(file: Path, notes: list[str]) -> list[tuple[int, str]]:
    return sorted(parse_rows(file, _stamped_name, notes)) if file.is_file() else []


def _trajectory(file: Path, notes: list[str]) -> Trajectory | None:
    """``world_from_camera`` over time, or None where there is no such file."""
    if not file.is_file():
        return None
    return Trajectory.from_samples(parse_rows(file, _sample, notes))


def _sample(row: list[str]) -> tuple[int, Pose]:
    x, y, z, qx, qy, qz, qw = numbers(row[1:8])
    return seconds_to_ns(row[0]), Pose.from_quaternion((qx, qy, qz, qw), (x, y, z))


def _taken_with(stamp: int, files: list[tuple[int, str]]) -> str | None:
    """The file nearest in time, if it is near enough."""
    if not files:
        return None
    stamps = np.array([time for time, _ in files])
    nearest = int(np.abs(stamps - stamp).argmin())
    return files[nearest][1] if abs(files[nearest][0] - stamp) <= _DEPTH_TOLERANCE_NS else None


def _camera(path: Path) -> tuple[Callable[[Size], Camera], list[str]]:
    if (path / INTRINSICS).is_file():
        return read_intrinsics(path / INTRINSICS), []
    name = next((key for key in _PUBLISHED if key in path.name), "")
    (fx, fy, cx, cy), lens = _PUBLISHED.get(name, _USUAL)
    model = "plumb_bob" if lens else ""
    camera = Camera.from_ros(640, 480, [fx, 0, cx, 0, fy, cy, 0, 0, 1], model, lens)
    assumed = f"no {INTRINSICS} and no freiburg in the name: focal length 525 px assumed"
    return lambda size: camera, [] if name else [assumed]


READER = Reader(is_tum, read_tum)
