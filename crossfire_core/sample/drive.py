"""How the made-up robot drives through a place, and what its odometry says about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Pose, Trajectory

START_NS = 1_700_000_000_000_000_000
ODOMETRY_HZ = 50


class Way(ABC):
    """Where the robot is over time.

    Attributes:
        seed: of the odometry's errors.
    """

    seed: int

    @property
    @abstractmethod
    def legs(self) -> tuple[tuple[float, float], ...]:
        """(start, length) of each stretch of driving, seconds; the robot is carried between."""

    @abstractmethod
    def map_from_base(self, seconds: float) -> Pose:
        """Where the robot's base is after a time; it stays on the floor."""

    def stamps(self, rate_hz: float) -> list[int]:
        """Stamps of something that happens at a rate while the robot drives, nanoseconds."""
        return [
            START_NS + round((start + i / rate_hz) * 1e9)
            for start, seconds in self.legs
            for i in range(round(seconds * rate_hz))
        ]

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
        longest = 1.5e9 / ODOMETRY_HZ
        timed = zip(truth.stamps_ns.tolist(), truth.poses, strict=True)
        for (then, before), (now, after) in pairwise(timed):
            step = (before.inverse() @ after).log()
            if now - then > longest:
                step[:] = 0.0  # carried: the wheels did not turn
            metres = float(np.linalg.norm(step[:3]))
            step[:3] *= 1.015 + 0.02 * generator.normal()
            step[5] += np.radians(0.5) * metres + np.radians(0.3) * metres * generator.normal()
            poses.append(poses[-1] @ Pose.exp(step))
        return Trajectory(truth.stamps_ns, poses)


@dataclass(frozen=True)
class Drive(Way):
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

    @property
    def legs(self) -> tuple[tuple[float, float], ...]:
        """One stretch; see the base class."""
        return ((0.0, self.seconds),)


@dataclass(frozen=True)
class Route(Way):
    """From point to point on a smooth line, the camera glancing left and right of the way.

    Attributes:
        stretches: the points ``(x, y, z)`` of each stretch, metres; between two stretches the
            robot is carried, as up a stair.
        speed: metres a second.
        glance: how far the robot turns off its way, radians.
        phase: of the glancing, radians.
        seed: of the odometry's errors.
        carried_s: how long it takes to carry the robot.
    """

    stretches: tuple[tuple[tuple[float, float, float], ...], ...]
    speed: float
    glance: float
    phase: float
    seed: int
    carried_s: float = 20.0

    @cached_property
    def _lines(self) -> list[CubicSpline]:
        lines = []
        for points in self.stretches:
            at = np.array(points)
            metres = np.linalg.norm(np.diff(at, axis=0), axis=1).cumsum()
            lines.append(CubicSpline(np.concatenate([[0.0], metres]), at))
        return lines

    @cached_property
    def legs(self) -> tuple[tuple[float, float], ...]:
        """One a stretch; see the base class."""
        found, start = [], 0.0
        for line in self._lines:
            found.append((start, float(line.x[-1]) / self.speed))
            start += found[-1][1] + self.carried_s
        return tuple(found)

    def map_from_base(self, seconds: float) -> Pose:
        """Where the robot's base is after a time; it stays on the floor."""
        number = max(i for i, (start, _) in enumerate(self.legs) if start <= max(seconds, 0.0))
        line, (start, length) = self._lines[number], self.legs[number]
        metres = self.speed * np.clip(seconds - start, 0.0, length)
        along = line(metres, 1)
        yaw = np.arctan2(along[1], along[0]) + self.glance * np.sin(0.9 * metres + self.phase)
        return Pose(Rotation.from_euler("z", yaw).as_matrix(), line(metres))
