"""How the made-up robot drives through the room, and what its odometry says about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Pose, Trajectory

START_NS = 1_700_000_000_000_000_000
ODOMETRY_HZ = 50


@dataclass(frozen=True)
class Drive:
    """A lying eight, its camera glancing left and right of the way.

    Attributes:
        seconds: how long it takes.
        laps: how many times around.
        reach: half extent along x and y, metres.
        middle: centre of the eight, metres.
        phase: where it starts, radians.
        glance: how far the robot turns off its way, radians.
        seed: of the odometry's errors.
    """

    seconds: float
    laps: float
    reach: tuple[float, float]
    middle: tuple[float, float]
    phase: float
    glance: float
    seed: int

    def map_from_base(self, seconds: float) -> Pose:
        """Where the robot's base is after a time; it stays on the floor."""
        rate = 2 * np.pi * self.laps / self.seconds
        angle = self.phase + rate * seconds
        x = self.middle[0] + self.reach[0] * np.sin(angle)
        y = self.middle[1] + self.reach[1] * np.sin(2 * angle)
        along = self.reach[0] * np.cos(angle), 2 * self.reach[1] * np.cos(2 * angle)
        yaw = np.arctan2(along[1], along[0]) + self.glance * np.sin(0.73 * angle + 0.5)
        return Pose(Rotation.from_euler("z", yaw).as_matrix(), np.array([x, y, 0.0]))

    def stamps(self, rate_hz: float) -> list[int]:
        """Stamps of something that happens at a rate, nanoseconds."""
        count = round(self.seconds * rate_hz)
        return [START_NS + round(i * 1e9 / rate_hz) for i in range(count)]

    def truth(self, rate_hz: float) -> Trajectory:
        """``map_from_base`` at a rate."""
        stamps = self.stamps(rate_hz)
        poses = [self.map_from_base((s - START_NS) * 1e-9) for s in stamps]
        return Trajectory(np.array(stamps, dtype=np.int64), poses)

    def odometry(self) -> Trajectory:
        """``odom_from_base``: starts at identity and drifts.

        Distances come out 1.5 % long, yaw slips 0.5 degrees a metre, and both wander at random.
        """
        truth = self.truth(ODOMETRY_HZ)
        generator = np.random.default_rng(self.seed)
        poses = [Pose.identity()]
        for before, after in zip(truth.poses[:-1], truth.poses[1:], strict=True):
            step = (before.inverse() @ after).log()
            metres = float(np.linalg.norm(step[:3]))
            step[:3] *= 1.015 + 0.02 * generator.normal()
            step[5] += np.radians(0.5) * metres + np.radians(0.3) * metres * generator.normal()
            poses.append(poses[-1] @ Pose.exp(step))
        return Trajectory(truth.stamps_ns, poses)
