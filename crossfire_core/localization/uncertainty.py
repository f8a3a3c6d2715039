"""Covariances of poses: moved along the robot, measured, compared.

Covariances are ``[6, 6]`` over (x, y, z, rx, ry, rz): position of a frame's origin and small
rotation about the axes of the reference frame, as ROS has them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import skew

FloatArray = NDArray[np.float64]

# Standard deviations of 100 m and half a turn: whoever reports more says that it is not known.
_LARGEST_VARIANCES = np.array([100.0**2] * 3 + [np.pi**2] * 3)


def at_lever(covariance: FloatArray, lever: FloatArray) -> FloatArray:
    """The covariance of another point on the same rigid body.

    Args:
        covariance: ``[6, 6]`` of the known frame.
        lever: ``[3]`` from the known origin to the other one, in the axes of the reference frame.
    """
    jacobian = np.eye(6)
    jacobian[:3, 3:] = -skew(lever)
    return symmetric(jacobian @ covariance @ jacobian.T)


def symmetric(covariance: FloatArray) -> FloatArray:
    """The covariance without the asymmetry that rounding leaves."""
    return np.asarray(0.5 * (covariance + covariance.T))


def diagonal(sigma_m: float, sigma_rad: float) -> FloatArray:
    """``[6, 6]`` with the same standard deviation along every axis."""
    return np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)


def sigmas(covariance: FloatArray) -> tuple[float, float]:
    """Standard deviations along the worst directions: (metres, radians)."""
    return (
        float(np.sqrt(max(0.0, np.linalg.eigvalsh(covariance[:3, :3])[-1]))),
        float(np.sqrt(max(0.0, np.linalg.eigvalsh(covariance[3:, 3:])[-1]))),
    )


def is_covariance(matrix: FloatArray) -> bool:
    """Whether a matrix is finite, symmetric and positive semidefinite."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (6, 6) or not np.isfinite(m).all():
        return False
    slack = 1e-6 * max(1e-12, float(np.abs(m).max()))
    return bool(np.abs(m - m.T).max() <= slack and np.linalg.eigvalsh(m)[0] >= -slack)


def known_variances(reported: FloatArray) -> FloatArray:
    """What a reported covariance says along each axis.

    Drivers write 0, -1, 1e6, 1e15, the largest number or NaN along the axes they know nothing of.

    Args:
        reported: ``[6, 6]``, possibly no covariance at all.

    Returns:
        ``[6]`` variances, NaN where nothing is known.
    """
    variances = np.diag(np.asarray(reported, dtype=np.float64))
    known = (variances > 0.0) & (variances <= _LARGEST_VARIANCES)
    return np.where(known, variances, np.nan)


def completed(reported: FloatArray, usual: FloatArray) -> FloatArray:
    """A reported covariance, with a usual one along the axes it says nothing about.

    Args:
        reported: ``[6, 6]``, possibly no covariance at all.
        usual: ``[6, 6]`` diagonal.

    Returns:
        A covariance; all of ``usual`` where the known axes make none.
    """
    known = np.isfinite(known_variances(reported))
    full = np.where(np.outer(known, known), reported, usual)
    return np.asarray(full if is_covariance(full) else usual)


def difference(pose: Pose, reference: Pose) -> FloatArray:
    """``[6]``: how a pose differs from another, in the terms of the covariances here."""
    turn = Rotation.from_matrix(pose.rotation @ reference.rotation.T).as_rotvec()
    return np.concatenate([pose.translation - reference.translation, turn])


def mahalanobis_squared(pose: Pose, reference: Pose, covariance: FloatArray) -> float:
    """Squared distance between two poses in units of their joint covariance."""
    error = difference(pose, reference)
    return float(error @ np.linalg.solve(covariance + 1e-12 * np.eye(6), error))
