"""What every recording format is read into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose, Trajectory


@dataclass(frozen=True)
class Frame:
    """One image with what is known about it.

    Attributes:
        name: unique in its recording and stable from run to run (file name or stamp).
        image: ``[height, width, 3]`` uint8, RGB; grey images have three equal channels.
        camera: intrinsics of exactly this image size.
        stamp_ns: nanoseconds; for recordings without time, the frame's number.
        world_from_camera: where the recording says the camera was, or None.
        depth: ``[height, width]`` float32 along z in metres, 0 where unknown, or None.
    """

    name: str
    image: NDArray[np.uint8]
    camera: Camera
    stamp_ns: int
    world_from_camera: Pose | None = None
    depth: NDArray[np.float32] | None = None


class Recording(Protocol):
    """A source of frames, read lazily and in order of time; may be iterated many times."""

    @property
    def name(self) -> str:
        """For people: the folder's or file's name."""
        ...

    @property
    def world_frame(self) -> str:
        """The frame of ``world_from_camera``, "map" where the format names none."""
        ...

    @property
    def base_from_camera(self) -> Pose:
        """Where the camera sits on the robot; identity where the format has no robot."""
        ...

    def __len__(self) -> int:
        """Number of frames, before any hold-out."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order of time."""
        ...

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None."""
        ...
