"""Images of a camera that is mounted upside-down or on its side, turned as the map's images are.

Descriptors are alike for small turns about the optical axis, not for quarters of a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.turning import (
    turned_camera,
    turned_from_camera,
    turned_image,
    turned_pixels,
)
from crossfire_core.localization.estimate import WIDE, ImageLocalizer, PoseEstimate, Search
from crossfire_core.localization.nearness import ViewDistances

FloatArray = NDArray[np.float64]

_NEAR_VIEWS = 8  # whose roll tells how the camera hangs
_SAME_SIGHT_COS = np.cos(np.radians(60.0))  # views that look elsewhere say nothing about the roll
_LEAST_TILT = 0.3  # of the upright axis out of the line of sight, to know where up is in an image
_CLEARLY = 0.2  # a turn must fit so much better than none


class Upright:
    """Tells how an image must be turned to look like the images a map was made from."""

    def __init__(self, views: Sequence[Pose], mounts: Sequence[Pose] = ()) -> None:
        """Take the map's word.

        Args:
            views: ``map_from_camera`` of the images it was made from, one at least.
            mounts: ``base_from_camera`` of each camera of the robot that mapped; identity or none
                where the cameras' own poses were given.
        """
        self._turns = np.stack([view.rotation for view in views])
        centres = np.stack([view.translation for view in views])
        spread = float(np.median(np.linalg.norm(centres - centres.mean(axis=0), axis=1)))
        self._distances = ViewDistances(views, max(spread, 1e-3))
        first = next(iter(mounts), Pose.identity())
        self._mounts = np.stack([mount.rotation for mount in mounts or [first]])
        mounted = first.distance(Pose.identity())[1] > 0.0
        self._up = _up_in(first) if mounted else self._mean_up()

    def quarters(self, base_from_camera: Pose, map_from_camera: Pose | None) -> int:
        """Quarters of a turn, anticlockwise, that an image needs: 0 to 3.

        Args:
            base_from_camera: where its camera sits on the robot.
            map_from_camera: roughly where it is, or None.
        """
        if map_from_camera is not None:
            near = np.argsort(self._distances.of(map_from_camera))[:_NEAR_VIEWS]
            return _best(_fits(map_from_camera.rotation, self._turns[near]))
        if _same_sight(base_from_camera.rotation, self._mounts).any():
            return _best(_fits(base_from_camera.rotation, self._mounts))
        up = _up_in(base_from_camera)
        return _best([float(self._up @ _in_plane(quarters) @ up) for quarters in range(4)])

    def _mean_up(self) -> FloatArray:
        """Where the map's z axis points in its images on average, ``[2]``, zeros if nowhere."""
        up = self._turns[:, 2, :2].mean(axis=0)
        length = np.linalg.norm(up)
        return np.asarray(up / length if length > _LEAST_TILT else np.zeros(2))


@runtime_checkable
class KnowsUpright(Protocol):
    """A localizer that can say how its map's images were held."""

    upright: Upright


def localize_turned(
    localizer: ImageLocalizer,
    image: NDArray[np.uint8],
    camera: Camera,
    quarters: int,
    prior: Pose | None = None,
    search: Search = WIDE,
) -> PoseEstimate:
    """Localize an image as if its camera had been turned; the answer is of the camera as it is.

    The covariance is that of the camera's place and of turns about the axes of the map, which
    the camera's own roll does not change.

    Args:
        localizer: that is asked.
        image: ``[height, width, 3]`` uint8 RGB.
        camera: its calibration.
        quarters: of a turn, anticlockwise.
        prior: ``map_from_camera`` to start from, or None.
        search: how to look from there.
    """
    turn = turned_from_camera(quarters)
    estimate = localizer.localize(
        turned_image(image, quarters) if quarters else image,
        turned_camera(camera, quarters),
        None if prior is None else prior @ turn.inverse(),
        search=search,
    )
    pose, matches = estimate.map_from_camera, estimate.details
    if not quarters or pose is None:
        return estimate
    if matches is not None:
        back = turned_pixels(matches.pixels, turned_camera(camera, quarters), -quarters)
        matches = replace(matches, pixels=back)
    return replace(estimate, map_from_camera=pose @ turn, details=matches)


def _up_in(base_from_camera: Pose) -> FloatArray:
    """Where the robot's z axis points in the image, ``[2]``, zeros if along the line of sight."""
    up = base_from_camera.rotation[2, :2]
    length = np.linalg.norm(up)
    return np.asarray(up / length if length > _LEAST_TILT else np.zeros(2))


def _in_plane(quarters: int) -> FloatArray:
    return turned_from_camera(quarters).rotation[:2, :2]


def _same_sight(turn: FloatArray, others: FloatArray) -> NDArray[np.bool_]:
    """Which of some cameras ``[n, 3, 3]`` look about where another does."""
    return np.asarray(others[:, :, 2] @ turn[:, 2] > _SAME_SIGHT_COS)


def _fits(turn: FloatArray, others: FloatArray) -> list[float]:
    """How well an image's axes, turned by 0 to 3 quarters, go with those of others, 1 at best."""
    others = others[_same_sight(turn, others)]
    if len(others) == 0:
        return [0.0] * 4
    together = others[:, :, :2].mean(axis=0).T @ turn[:, :2]  # of axes i there and j here
    return [float(np.trace(together @ _in_plane(q).T)) / 2.0 for q in range(4)]


def _best(fits: Sequence[float]) -> int:
    best = int(np.argmax(fits))
    return best if fits[best] > fits[0] + _CLEARLY else 0
