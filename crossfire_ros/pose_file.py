"""The last pose, kept from one run of the node to the next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError
from crossfire_core.files import write_text
from crossfire_core.geometry import Pose
from crossfire_core.localization.uncertainty import diagonal, is_covariance

# Between two runs the robot may have been moved a little.
_MOVED_M, _MOVED_RAD = 0.3, 0.2


class PoseFileError(CrossfireError):
    """The file of the last pose cannot be used."""


def save_pose(path: Path, frame: str, pose: Pose, covariance: NDArray[np.float64]) -> None:
    """Write the last pose.

    Raises:
        OSError: no permission or no space.
    """
    data = {"frame_id": frame, "pose": pose.to_json(), "covariance": covariance.tolist()}
    write_text(path, json.dumps(data, indent=1) + "\n")


def load_pose(path: Path, frame: str) -> tuple[Pose, NDArray[np.float64]] | None:
    """Read the last pose, its covariance grown by what may have happened since.

    Args:
        path: the file.
        frame: of the present map.

    Returns:
        None if there is no file.

    Raises:
        PoseFileError: the file is broken or belongs to another map frame.
    """
    try:
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        pose = Pose.from_json(data["pose"])
        covariance = np.asarray(data["covariance"], dtype=np.float64)
        found = data["frame_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoseFileError(f"{path} holds no pose and is ignored: {error}") from error
    if found != frame or not is_covariance(covariance):
        raise PoseFileError(f"{path} holds a pose in frame {found!r}, ignored in {frame!r}")
    return pose, covariance + diagonal(_MOVED_M, _MOVED_RAD)
