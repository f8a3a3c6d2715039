"""What a recording is: a list of its frames without their pixels, and frames read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from crossfire_core.errors import ConfigError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.frame import Frame, Mount
from crossfire_core.recordings.options import RecordingOptions

T = TypeVar("T")

# Nothing on Earth is further from the origin of its map, in whatever unit.
FARTHEST = 1e9
# Numbers that stand for times are below both, as nanoseconds.
_EARLIEST_TIME_NS, _LEAST_STEP_NS = 1_000_000_000_000, 1_000_000
# Images of a rig's cameras are of one moment if their stamps are no further apart.
TOGETHER_NS = 5_000_000


@dataclass(frozen=True)
class FrameInfo:
    """What is known of a frame before its image is decoded; see Frame for the fields."""

    name: str
    stamp_ns: int
    camera: Camera
    world_from_camera: Pose | None
    mount: Mount | None = None


class Recording(ABC):
    """Frames in order of time: a cheap list of them, images only of those that are asked for.

    Every reader gives one, and so does everything that changes one.

    Attributes:
        name: for people: the folder's or file's name.
        world_frame: the frame of ``world_from_camera``.
        base_from_camera: where the camera sits on the robot; of a rig, the first one.
        base_frame: what the robot's frame is called; empty where nothing says.
        pose_source: for people: where the poses come from; empty without poses.
        poses_drift: whether they are odometry, whose errors grow along the path.
        metric: whether the unit of the poses is known to be a metre.
        notes: one line for everything that was left out or assumed.
        held_out: how many frames were kept out of training already.
        masks: tells masks apart; empty without.
    """

    name: str
    world_frame: str = "map"
    base_from_camera: Pose = Pose.identity()
    base_frame: str = ""
    pose_source: str = ""
    poses_drift: bool = False
    metric: bool = True
    notes: tuple[str, ...] = ()
    held_out: int = 0
    masks: str = ""

    def describe_as(self, other: Recording) -> None:
        """Take all attributes of another recording, for one that changes its frames."""
        for name in Recording.__annotations__:
            setattr(self, name, getattr(other, name))

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

    def mounted(self, frame: Frame | FrameInfo) -> Pose:
        """Where the camera of a frame sits on the robot: ``base_from_camera``."""
        return frame.mount.base_from_camera if frame.mount else self.base_from_camera

    def world_from_base(self, frame: Frame | FrameInfo) -> Pose | None:
        """Where the robot was when a frame was taken; None where the frame has no pose."""
        seen = frame.world_from_camera
        return None if seen is None else seen @ self.mounted(frame).inverse()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The cameras of a rig in the order of their first frames; empty where there is one."""
        found: dict[str, Mount] = {}
        for info in self.infos:
            if info.mount is not None:
                found.setdefault(info.mount.camera, info.mount)
        return tuple(found.values())


def moments(infos: Sequence[FrameInfo]) -> list[list[int]]:
    """Positions of the frames that several cameras took at one time, in order of time.

    A frame of a single camera is a moment of its own.
    """
    bound = TOGETHER_NS if is_timed(infos) else 0
    found: list[list[int]] = []
    cameras: set[str] = set()
    for index, info in enumerate(infos):
        name = info.mount.camera if info.mount else ""
        first = infos[found[-1][0]].stamp_ns if found else 0
        if name and name not in cameras and found and info.stamp_ns - first <= bound:
            found[-1].append(index)
            cameras.add(name)
        else:
            found.append([index])
            cameras = {name, ""}
    return found


def is_timed(infos: Sequence[FrameInfo]) -> bool:
    """Whether stamps are times; photographs are only numbered, a nanosecond apart."""
    if not infos:
        return False
    first, last = infos[0].stamp_ns, infos[-1].stamp_ns
    return last >= _EARLIEST_TIME_NS or last - first >= max(1, len(infos) - 1) * _LEAST_STEP_NS


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


def hold_out(infos: Sequence[FrameInfo], every: int) -> tuple[list[int], list[int]]:
    """Keep every n-th moment out of training, with the images of all its cameras.

    Args:
        infos: of a recording.
        every: as for :func:`split_holdout`.

    Returns:
        (for training, held out): positions of frames.

    Raises:
        ConfigError: ``every`` would leave nothing to train on.
    """
    training, held = split_holdout(moments(infos), every)
    return [i for moment in training for i in moment], [i for moment in held for i in moment]
