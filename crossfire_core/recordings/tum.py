"""Sequences of the TUM RGB-D benchmark: rgb.txt, depth.txt, groundtruth.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.intrinsics import INTRINSICS, read_intrinsics
from crossfire_core.recordings.lazy import FolderRecording, FrameInfo, ImageFile, image_size
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.text import numbers, read_rows

_DEPTH_UNIT = 1.0 / 5000.0
_DEPTH_TOLERANCE_NS = 20_000_000
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
        RecordingError: damaged lists, or no frame is usable.
    """
    colours = _stamped_files(path / "rgb.txt")
    if not colours:
        raise RecordingError(f"{path / 'rgb.txt'} lists no image")
    depths = _stamped_files(path / "depth.txt") if (path / "depth.txt").is_file() else []
    camera, notes = _camera(path, colours[0][1])
    truth = _trajectory(path / "groundtruth.txt") if options.pose_topic != NO_POSES else None
    gap_ns = int(options.max_pose_gap_s * 1e9)
    files = []
    for stamp, image in colours:
        pose = truth.at(stamp, gap_ns) if truth else None
        info = FrameInfo(image.name, stamp, camera, pose)
        depth = _taken_with(stamp, depths)
        files.append(ImageFile(info, image, depth, _DEPTH_UNIT, depth_unknown=0))
    unposed = sum(file.info.world_from_camera is None for file in files)
    if truth and unposed:
        notes.append(f"{unposed} of {len(files)} images have no pose near their time")
    source = "groundtruth.txt" if truth else ""
    return FolderRecording(path.name, files, options, notes=notes, pose_source=source)


def seconds_to_ns(text: str, file: Path) -> int:
    """A decimal number of seconds, to the nanosecond: a float holds microseconds only.

    Args:
        text: such as ``1305031102.175304``.
        file: for the message.

    Raises:
        RecordingError: no number.
    """
    whole, _, part = text.partition(".")
    if not whole.isdigit() or not (part.isdigit() or not part):
        raise RecordingError(f"{file}: {text!r} is no time in seconds")
    return int(whole) * 1_000_000_000 + int(part[:9].ljust(9, "0"))


def _stamped_files(file: Path) -> list[tuple[int, Path]]:
    rows = read_rows(file)
    if any(len(row) < 2 for row in rows):
        raise RecordingError(f"{file} is no list of times and files")
    return sorted((seconds_to_ns(row[0], file), file.parent / row[1]) for row in rows)


def _trajectory(file: Path) -> Trajectory | None:
    """``world_from_camera`` over time, or None where there is no such file."""
    if not file.is_file():
        return None
    samples = []
    for row in read_rows(file):
        values = numbers(row[1:8], file)
        try:
            pose = Pose.from_quaternion(values[3:], values[:3])
        except (ValueError, IndexError) as error:
            raise RecordingError(f"{file}: at {row[0]}: {error}") from error
        samples.append((seconds_to_ns(row[0], file), pose))
    return Trajectory.from_samples(samples)


def _taken_with(stamp: int, files: list[tuple[int, Path]]) -> Path | None:
    """The file nearest in time, if it is near enough."""
    if not files:
        return None
    stamps = np.array([time for time, _ in files])
    nearest = int(np.abs(stamps - stamp).argmin())
    return files[nearest][1] if abs(files[nearest][0] - stamp) <= _DEPTH_TOLERANCE_NS else None


def _camera(path: Path, image: Path) -> tuple[Camera, list[str]]:
    size = image_size(image)
    if (path / INTRINSICS).is_file():
        return read_intrinsics(path / INTRINSICS, size), []
    name = next((key for key in _PUBLISHED if key in path.name), "")
    (fx, fy, cx, cy), lens = _PUBLISHED.get(name, _USUAL)
    model = "plumb_bob" if lens else ""
    camera = Camera.from_ros(640, 480, [fx, 0, cx, 0, fy, cy, 0, 0, 1], model, lens)
    if name:
        return camera, []
    return camera, [f"no {INTRINSICS} and no freiburg in the name: focal length 525 px assumed"]
