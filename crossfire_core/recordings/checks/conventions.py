"""Which convention poses are in, where they do not fit the images as they are taken to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.recordings.checks.pairs import Pair, median_error

_KNOWN = {
    ("right", "down", "forward"): "OpenCV's axes",
    ("right", "up", "backward"): "OpenGL's axes",
    ("forward", "left", "up"): "a ROS body's axes, not an optical frame's",
}
_DIRECTIONS = (("right", "left"), ("down", "up"), ("forward", "backward"))


def best_convention(pairs: Sequence[Pair], poses: Mapping[int, Pose | None]) -> tuple[float, str]:
    """The other reading of the poses that fits the images best.

    Tried are the 24 ways to turn a camera's axes onto each other, for poses as they are taken to
    be (camera to world) and for their inverse.

    Args:
        pairs: matches.
        poses: ``world_from_camera`` of their frames.

    Returns:
        Its epipolar error as ``median_error`` gives it, and the reading in words.
    """
    readings = []
    for inverted in (False, True):
        for turn in axis_turns():
            if not inverted and np.array_equal(turn, np.eye(3)):
                continue
            read = {
                index: (pose.inverse() if inverted else pose) @ Pose(turn, np.zeros(3))
                for index, pose in poses.items()
                if pose is not None
            }
            readings.append((median_error(pairs, read), describe(turn, inverted=inverted)))
    return min(readings)


def axis_turns() -> Iterator[NDArray[np.float64]]:
    """The 24 rotations ``[3, 3]`` that map axes onto axes."""
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        if np.linalg.det(matrix) > 0:
            yield matrix


def describe(turn: NDArray[np.float64], *, inverted: bool) -> str:
    """A reading of poses in words.

    Args:
        turn: ``poses_camera_from_camera``: what is right, down and forward in the poses' axes.
        inverted: whether they lead from the world to the camera.
    """
    names = []
    for row in turn:
        axis = int(np.abs(row).argmax())
        names.append(_DIRECTIONS[axis][0 if row[axis] > 0 else 1])
    known = _KNOWN.get((names[0], names[1], names[2]))
    axes = f"x {names[0]}, y {names[1]}, z {names[2]}" + (f" ({known})" if known else "")
    lead = "from the world to the camera" if inverted else "from the camera to the world"
    return f"poses {lead} with a camera whose axes are {axes}"
