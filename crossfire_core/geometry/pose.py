"""Rigid transforms, named ``target_from_source``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

FloatArray = NDArray[np.float64]
_ROUNDING = 1e-2  # of a rotation's numbers, as files are printed


def skew(vectors: ArrayLike) -> FloatArray:
    """Cross-product matrices of vectors.

    Args:
        vectors: ``[..., 3]``.

    Returns:
        ``[..., 3, 3]`` with ``skew(a) @ b == cross(a, b)``.
    """
    v = np.asarray(vectors, dtype=np.float64)
    zero = np.zeros(v.shape[:-1])
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


@dataclass(frozen=True)
class Pose:
    """A rigid transform ``target_from_source``: ``p_target = R @ p_source + t``.

    Chains read from left to right: ``map_from_base @ base_from_camera``.

    Attributes:
        rotation: ``[3, 3]`` orthonormal, determinant +1.
        translation: ``[3]``, metres.
    """

    rotation: FloatArray
    translation: FloatArray

    def __post_init__(self) -> None:
        """Copy into read-only float64 arrays of the right shape."""
        for name, shape in (("rotation", (3, 3)), ("translation", (3,))):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"Pose.{name} has shape {value.shape}, expected {shape}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @staticmethod
    def identity() -> Pose:
        """The transform that changes nothing."""
        return Pose(np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: ArrayLike) -> Pose:
        """From a ``[4, 4]`` or ``[3, 4]`` matrix; the rotation is projected onto SO(3).

        Raises:
            ValueError: another shape, not finite, or no rotation up to rounding.
        """
        m = np.asarray(matrix, dtype=np.float64)
        if m.shape not in ((4, 4), (3, 4)) or not np.isfinite(m).all():
            raise ValueError(f"not a finite 4x4 pose matrix: shape {m.shape}")
        given = m[:3, :3]
        # what is far larger than a rotation would overflow
        rotation = nearest_rotation(given) if np.abs(given).max() < 2.0 else np.zeros((3, 3))
        if not np.allclose(rotation, given, atol=_ROUNDING):
            raise ValueError("the matrix of a pose is no rotation: is it scaled or mirrored?")
        return Pose(rotation, m[:3, 3])

    @staticmethod
    def from_quaternion(quaternion_xyzw: ArrayLike, translation: ArrayLike) -> Pose:
        """From a quaternion in ROS order (x, y, z, w), normalised here.

        Raises:
            ValueError: a component is not finite, or the quaternion is zero.
        """
        q = np.asarray(quaternion_xyzw, dtype=np.float64)
        t = np.asarray(translation, dtype=np.float64)
        if not (np.isfinite(q).all() and np.isfinite(t).all()):
            raise ValueError("pose has NaN or infinite components")
        if np.abs(q).max() > 1e6:  # its square overflows before long
            raise ValueError("pose has a quaternion whose length is far from 1")
        if np.linalg.norm(q) < 1e-6:
            raise ValueError("pose has a zero quaternion")
        return Pose(Rotation.from_quat(q).as_matrix(), t)

    @staticmethod
    def exp(twist: ArrayLike) -> Pose:
        """The exponential map of SE(3).

        Args:
            twist: ``[6]``, translation part first (metres), then rotation vector (radians).

        Returns:
            The pose; formula (2.70) and on in Solà, Deray, Atchuthan, "A micro Lie theory"
            (arXiv 1812.01537), with the left Jacobian of SO(3) acting on the translation.
        """
        xi = np.array(twist, dtype=np.float64)
        return Pose(Rotation.from_rotvec(xi[3:]).as_matrix(), left_jacobian(xi[3:]) @ xi[:3])

    def log(self) -> FloatArray:
        """The inverse of :meth:`exp`: ``[6]``, translation part first."""
        phi = self._turn().as_rotvec()
        return np.concatenate([np.linalg.solve(left_jacobian(phi), self.translation), phi])

    def matrix(self) -> FloatArray:
        """As a homogeneous ``[4, 4]`` matrix."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.rotation, self.translation
        return m

    def quaternion(self) -> FloatArray:
        """The rotation as ``[4]`` in ROS order (x, y, z, w), with w >= 0."""
        return np.asarray(self._turn().as_quat(canonical=True))

    def _turn(self) -> Rotation:
        # SciPy up to 1.12, which Ubuntu 24.04 has, takes no arrays that are read-only.
        return Rotation.from_matrix(self.rotation.copy())

    def shifted(self, offset: ArrayLike) -> Pose:
        """The pose with its translation moved by ``[3]`` along the axes of the target frame."""
        return Pose(self.rotation, self.translation + np.asarray(offset, dtype=np.float64))

    def inverse(self) -> Pose:
        """``source_from_target``."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Pose) -> Pose:
        """Chain: ``a_from_b @ b_from_c == a_from_c``."""
        return Pose(
            self.rotation @ other.rotation, self.rotation @ other.translation + self.translation
        )

    def apply(self, points: ArrayLike) -> FloatArray:
        """Transform points ``[..., 3]`` from the source frame to the target frame."""
        return np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    def distance(self, other: Pose) -> tuple[float, float]:
        """How far apart two poses are: (metres, radians), both non-negative."""
        return (
            float(np.linalg.norm(self.translation - other.translation)),
            rotation_angle(self.rotation.T @ other.rotation),
        )

    def interpolate(self, other: Pose, fraction: float) -> Pose:
        """Between self (0) and other (1): straight line and constant angular velocity."""
        turns = Rotation.from_matrix(np.stack([self.rotation, other.rotation]))
        rotation = Slerp([0.0, 1.0], turns)(fraction).as_matrix()
        t = (1.0 - fraction) * self.translation + fraction * other.translation
        return Pose(rotation, t)

    def is_finite(self) -> bool:
        """Whether every component is a finite number."""
        return bool(np.isfinite(self.rotation).all() and np.isfinite(self.translation).all())

    def to_json(self) -> dict[str, Any]:
        """For headers and reports: ``{"translation": [3], "quaternion_xyzw": [4]}``."""
        return {
            "translation": self.translation.tolist(),
            "quaternion_xyzw": self.quaternion().tolist(),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Pose:
        """The inverse of :meth:`to_json`."""
        return Pose.from_quaternion(data["quaternion_xyzw"], data["translation"])


def nearest_rotation(matrix: ArrayLike) -> FloatArray:
    """The rotation closest to a ``[3, 3]`` matrix in the Frobenius norm (Kabsch)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    sign = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    return np.asarray(u * sign @ vt)


def rotation_angle(rotation: ArrayLike) -> float:
    """Angle of a ``[3, 3]`` rotation in radians, accurate near 0 and near pi."""
    r = np.asarray(rotation, dtype=np.float64)
    sine = 0.5 * np.linalg.norm([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    return float(np.arctan2(sine, 0.5 * (np.trace(r) - 1.0)))


def left_jacobian(rotation_vector: ArrayLike) -> FloatArray:
    """Left Jacobian of SO(3), ``[3, 3]`` (eq. 145 in arXiv 1812.01537)."""
    phi = np.asarray(rotation_vector, dtype=np.float64)
    angle = float(np.linalg.norm(phi))
    k = skew(phi)
    if angle < 1e-5:  # the closed form divides 0 by 0; the series is exact to 1e-15 here
        return np.eye(3) + 0.5 * k + k @ k / 6.0
    a = (1.0 - np.cos(angle)) / angle**2
    b = (angle - np.sin(angle)) / angle**3
    return np.asarray(np.eye(3) + a * k + b * k @ k)
