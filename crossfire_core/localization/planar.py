"""Robots that drive on a level floor: z, roll and pitch are known, x, y and yaw are solved for."""

from __future__ import annotations

import numpy as np

from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import left_jacobian
from crossfire_core.localization.uncertainty import FloatArray, difference, symmetric

# What a floor and a robot's suspension do to z, roll and pitch without anybody calling it a ramp.
_SLACK = np.diag([0.0, 0.0, 0.02**2, np.radians(1.0) ** 2, np.radians(1.0) ** 2, 0.0])
_HELD = np.diag([0.0, 0.0, 1e-6, 1e-6, 1e-6, 0.0])  # some solvers take no zeros
_FREE = [0, 1, 5]  # x, y and heading
_STEPS, _CONVERGED = 10, 1e-10  # of six unknowns that are nearly linear


def flat(pose: Pose, height: float = 0.0) -> Pose:
    """A pose's x, y and yaw alone, at a height."""
    yaw = np.arctan2(pose.rotation[1, 0], pose.rotation[0, 0])
    return planar(pose.translation[0], pose.translation[1], yaw, height)


def planar(x: float, y: float, yaw: float, height: float) -> Pose:
    """A pose on a level floor: metres and radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return Pose(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), np.array([x, y, height]))


def on_floor(pose: Pose, covariance: FloatArray, height: float) -> tuple[Pose, FloatArray, float]:
    """The likeliest pose on the floor, given one that was found without knowing of it.

    It is not the found pose with z, roll and pitch cut off: what is wrong with those says what is
    wrong with x, y and yaw, as far as the covariance has them go together.

    Args:
        pose: as found, in a frame whose z axis is normal to the floor.
        covariance: ``[6, 6]`` of it.
        height: z of the pose on the floor, metres.

    Returns:
        The pose, its covariance ``[6, 6]`` (a millimetre and a milliradian along the axes that
        are held), and its squared Mahalanobis distance to the found one.
    """
    information = np.linalg.inv(covariance + _SLACK + 1e-12 * np.eye(6))
    slopes = np.zeros((6, 3))
    slopes[0, 0] = slopes[1, 1] = 1.0
    best = flat(pose, height)
    for _ in range(_STEPS):
        error = difference(best, pose)
        slopes[3:, 2] = np.linalg.solve(left_jacobian(error[3:]), [0.0, 0.0, 1.0])
        normal = slopes.T @ information @ slopes
        step = -np.linalg.solve(normal, slopes.T @ information @ error)
        yaw = np.arctan2(best.rotation[1, 0], best.rotation[0, 0]) + step[2]
        best = planar(best.translation[0] + step[0], best.translation[1] + step[1], yaw, height)
        if np.abs(step).max() < _CONVERGED:
            break
    error = difference(best, pose)
    held = _HELD.copy()
    held[np.ix_(_FREE, _FREE)] = np.linalg.inv(normal)
    return best, symmetric(held), float(error @ information @ error)
