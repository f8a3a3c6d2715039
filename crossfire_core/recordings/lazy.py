"""The list of a recording's frames without their pixels, and frames read from it on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CalibrationError, ConfigError, RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.image_message import decode_compressed, metres
from crossfire_core.recordings.options import NO_POSES, RecordingOptions

T = TypeVar("T")


@dataclass(frozen=True)
class FrameInfo:
    """What is known of a frame before its image is decoded; see Frame for the fields."""

    name: str
    stamp_ns: int
    camera: Camera
    world_from_camera: Pose | None


class Recording(ABC):
    """Frames in order of time: a cheap list of them, images only of those that are asked for.

    Every reader gives one, and so does everything that changes one.

    Attributes:
        name: for people: the folder's or file's name.
        world_frame: the frame of ``world_from_camera``.
        base_from_camera: where the camera sits on the robot.
        pose_source: for people: where the poses come from; empty without poses.
        poses_drift: whether they are odometry, whose errors grow along the path.
        notes: one line for everything that was left out or assumed.
        held_out: how many frames were kept out of training already.
    """

    name: str
    world_frame: str = "map"
    base_from_camera: Pose = Pose.identity()
    pose_source: str = ""
    poses_drift: bool = False
    notes: tuple[str, ...] = ()
    held_out: int = 0

    @property
    @abstractmethod
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""

    @abstractmethod
    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames.

        Args:
            indices: positions in :attr:`infos`; repeated ones count once.

        Returns:
            These frames in order of time.

        Raises:
            RecordingError: an image cannot be read.
            CalibrationError: an image is of another size than its calibration.
        """

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.infos)

    def __iter__(self) -> Iterator[Frame]:
        """All frames in order of time."""
        return self.frames(range(len(self)))

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None where the format has none."""
        return None


@dataclass(frozen=True)
class ImageFile:
    """One image in a folder.

    Attributes:
        info: name, stamp, camera, pose.
        path: the image file.
        depth: a 16-bit depth image of the same view, or None.
        depth_unit: metres in one of its units.
        depth_unknown: the number that stands for "unknown" besides 0.
    """

    info: FrameInfo
    path: Path
    depth: Path | None = None
    depth_unit: float = 1e-3
    depth_unknown: int = 65535


class FolderRecording(Recording):
    """Frames whose images are single files."""

    def __init__(
        self,
        name: str,
        files: Sequence[ImageFile],
        options: RecordingOptions,
        *,
        notes: Sequence[str] = (),
        pose_source: str = "",
    ) -> None:
        """Keep the files that the options select, without poses where none are wanted.

        Args:
            name: for people.
            files: in order of time.
            options: stride, number of frames, depth, poses.
            notes: what the reader left out.
            pose_source: for people.

        Raises:
            RecordingError: nothing is left.
        """
        self.name = name
        self.notes = tuple(notes)
        wanted = options.pose_topic != NO_POSES
        self.pose_source = pose_source if wanted else ""
        chosen = [files[i] for i in kept(len(files), options)]
        self._files = chosen if wanted else [_without_pose(file) for file in chosen]
        self._use_depth = options.use_depth
        if not self._files:
            raise RecordingError(f"{name} has no usable frame{_because(notes)}")
        has_pose = any(f.info.world_from_camera is not None for f in self._files)
        if options.require_poses and not has_pose:
            raise RecordingError(f"{name} has no poses{_because(notes)}")
        if options.use_depth and not any(f.depth for f in self._files):
            raise RecordingError(f"{name} has no depth images: leave out the depth option")

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        return [file.info for file in self._files]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        for index in sorted(set(indices)):
            yield self._read(self._files[index])

    def _read(self, file: ImageFile) -> Frame:
        info = file.info
        image = read_image(file.path)
        check_size(image, info.camera, file.path.name)
        depth = None
        if self._use_depth and file.depth is not None:
            depth = read_depth(file.depth, file.depth_unit, file.depth_unknown)
            if depth.shape != image.shape[:2]:
                raise RecordingError(
                    f"{file.depth.name} is {depth.shape[1]}x{depth.shape[0]}, "
                    f"{file.path.name} is {image.shape[1]}x{image.shape[0]}"
                )
        return Frame(info.name, image, info.camera, info.stamp_ns, info.world_from_camera, depth)


def _without_pose(file: ImageFile) -> ImageFile:
    return replace(file, info=replace(file.info, world_from_camera=None))


def kept(count: int, options: RecordingOptions) -> list[int]:
    """Which of ``count`` frames the options keep: every n-th, then at most so many, evenly."""
    indices = list(range(0, count, options.stride))
    if options.max_frames and len(indices) > options.max_frames:
        chosen = np.linspace(0, len(indices) - 1, options.max_frames).round().astype(int)
        indices = [indices[i] for i in chosen]
    return indices


def split_holdout(frames: Sequence[T], every: int) -> tuple[list[T], list[T]]:
    """Keep every n-th frame out of training.

    Args:
        frames: frames, infos or indices in order of time.
        every: 0 keeps none out, otherwise at least 2.

    Returns:
        (for training, held out): the first frame and every n-th after it are held out.

    Raises:
        ConfigError: ``every`` would leave nothing to train on.
    """
    if every < 0 or every == 1:
        raise ConfigError(f"holding out every {every} frames leaves none: use 0, or 2 and more")
    held = set(range(0, len(frames), every)) if every else set()
    return (
        [frame for i, frame in enumerate(frames) if i not in held],
        [frame for i, frame in enumerate(frames) if i in held],
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as ``[height, width, 3]`` uint8 RGB.

    Raises:
        RecordingError: the file is missing or no complete image.
    """
    try:
        return decode_compressed(path.read_bytes())
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error


def read_depth(path: Path, unit: float, unknown: int) -> NDArray[np.float32]:
    """A 16-bit depth file as ``[height, width]`` float32 metres, 0 where unknown.

    Args:
        path: a PNG of one 16-bit channel.
        unit: metres in one of its units.
        unknown: the number that stands for "unknown" besides 0.

    Raises:
        RecordingError: no such image.
    """
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise RecordingError(f"{path} is not a 16-bit depth image")
    return metres(np.where(raw == unknown, 0, raw), unit)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file; it is decoded for that, so ask for one file only."""
    image = read_image(path)
    return image.shape[1], image.shape[0]


def check_size(image: NDArray[Any], camera: Camera, what: str) -> None:
    """Refuse an image whose size is not the calibration's.

    Raises:
        CalibrationError: sizes differ.
    """
    if (image.shape[1], image.shape[0]) != camera.size:
        raise CalibrationError(
            f"image {what} is {image.shape[1]}x{image.shape[0]}, its calibration is for "
            f"{camera.width}x{camera.height}: record both at one size"
        )


def _because(notes: Sequence[str]) -> str:
    return f": {'; '.join(notes)}" if notes else ""
