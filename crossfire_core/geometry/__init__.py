"""Poses, cameras and trajectories: small value types that state their convention."""

from crossfire_core.geometry.camera import Camera
from crossfire_core.geometry.pose import Pose
from crossfire_core.geometry.trajectory import Trajectory

__all__ = ["Camera", "Pose", "Trajectory"]
