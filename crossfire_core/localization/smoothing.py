"""A correction of the odometry without steps: fixes weighed against where odometry carried them.

Each fix scatters by a centimetre about the truth, and ``map -> odom`` jumps with it. Odometry does
not scatter from image to image, it drifts slowly; so a fix moves the pose only as far as it is
surer than the odometry since the fixes before it (Kalman 1960; over a window of fixes, a fixed-lag
smoother has the same last pose).
"""

from __future__ import annotations

import numpy as np

from crossfire_core.geometry import Pose
from crossfire_core.localization.prediction import Prediction, Smoothed
from crossfire_core.localization.uncertainty import FloatArray, difference, symmetric

# Squared distance, of a chi-square with six degrees, that one fix in a thousand exceeds by chance.
# Further off, odometry has slipped, and the fix holds.
_SLIPPED = 22.5


def smoothed(found: Pose, covariance: FloatArray, carried: Prediction | None) -> Smoothed:
    """A fix weighed against a prediction.

    Args:
        found: ``map_from_base`` of the fix.
        covariance: ``[6, 6]`` of the fix.
        carried: the last smoothed pose, moved by odometry; None where there is none.
    """
    if carried is None:
        return Smoothed(found, covariance)
    off = difference(found, carried.map_from_base)
    joint = carried.covariance + covariance
    if float(off @ np.linalg.solve(joint, off)) > _SLIPPED:
        return Smoothed(found, covariance)
    gain = np.linalg.solve(joint, carried.covariance).T
    step = gain @ off
    turn = Pose.exp((0.0, 0.0, 0.0, *step[3:])).rotation
    pose = Pose(turn @ carried.map_from_base.rotation, carried.map_from_base.translation + step[:3])
    kept = np.eye(6) - gain
    return Smoothed(
        pose, symmetric(kept @ carried.covariance @ kept.T + gain @ covariance @ gain.T)
    )
