"""A robot with two cameras in a room with one bare white wall.

While mapping it looks all around. In the query drive its front camera faces the white wall, and
only the left one sees anything to go by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Camera, Pose
from crossfire_core.sample.drive import Way
from crossfire_core.sample.recording import (
    BASE_FROM_CAMERA,
    CAMERA,
    MAPPING,
    QUERY,
    Fitted,
    PassSettings,
)
from crossfire_core.sample.room import SIZE, Patch, facing, furnished_room
from crossfire_core.sample.textures import Texture

IMAGE_SIZE = (320, 240)
LEFT_CAMERA = Camera(
    480, 360, 262.0, 263.0, 238.0, 181.5, "equidistant", (0.02, -0.004, 0.001, 0.0)
)  # fmt: skip
BASE_FROM_LEFT = Pose(
    Rotation.from_euler("z", 90.0, degrees=True).as_matrix() @ BASE_FROM_CAMERA.rotation,
    np.array([0.02, 0.16, 1.05]),
)
CAMERAS = (
    Fitted("front", CAMERA, BASE_FROM_CAMERA),
    Fitted("left", LEFT_CAMERA, BASE_FROM_LEFT),
)
_KEPT_CLEAR = -0.85  # nothing stands between this y and the white wall


@dataclass(frozen=True)
class Sideways(Way):
    """There and back along the white wall, whose normal is +y, looking at it all the time.

    Attributes:
        seconds: how long it takes.
        reach: half of the way along x, metres.
        y: how far from the middle of the room, metres.
        sway: how far the robot turns to both sides, radians.
        seed: of the odometry's errors.
    """

    seconds: float
    reach: float
    y: float
    sway: float
    seed: int

    @property
    def legs(self) -> tuple[tuple[float, float], ...]:
        """One stretch; see the base class."""
        return ((0.0, self.seconds),)

    def map_from_base(self, seconds: float) -> Pose:
        """Where the robot's base is after a time; it stays on the floor."""
        phase = 2 * np.pi * seconds / self.seconds
        yaw = -np.pi / 2 + self.sway * np.sin(3 * phase)
        at = np.array([self.reach * np.sin(phase), self.y, 0.0])
        return Pose(Rotation.from_euler("z", yaw).as_matrix(), at)


def bare_room() -> list[Patch]:
    """The furnished room with one wall white, and nothing on it or before it."""
    kept = [patch for patch in furnished_room() if _highest_y(patch) > _KEPT_CLEAR]
    middle = (0.0, -SIZE[1] / 2 + 0.02, SIZE[2] / 2)
    return [*kept, facing(middle, SIZE[0], SIZE[2], 90, _white)]


def _white(height: int, width: int, metres: float, rng: np.random.Generator) -> Texture:
    return np.full((height, width, 3), 0.93, np.float32)


def _highest_y(patch: Patch) -> float:
    return float(patch.corner[1] + max(patch.along[1], 0.0) + max(patch.down[1], 0.0))


def rig_passes() -> tuple[PassSettings, ...]:
    """Mapping as in the furnished room, and a query that faces the white wall."""
    facing_it = Sideways(7.0, 0.8, -1.05, 0.08, 13)
    return (
        PassSettings(
            "mapping", MAPPING.drive, 3.0, MAPPING.light, False, bare_room, cameras=CAMERAS
        ),
        PassSettings("query", facing_it, 4.0, QUERY.light, False, bare_room, cameras=CAMERAS),
    )
