"""What every recording format is read into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose


@dataclass(frozen=True)
class Mount:
    """One of several cameras of a robot.

    Attributes:
        camera: its name.
        base_from_camera: where it sits on the robot.
    """

    camera: str
    base_from_camera: Pose


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
        mount: which camera of a rig took it; None where there is one camera only.
    """

    name: str
    image: NDArray[np.uint8]
    camera: Camera
    stamp_ns: int
    world_from_camera: Pose | None = None
    depth: NDArray[np.float32] | None = None
    mount: Mount | None = None
