"""Peers with the poses that a neural map was trained with.

A training makes the mapping images agree with each other and moves its answers back to the
recording's frame. Where only one of two methods may do that, poses are compared and not methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.localization.recorded_frame import RecordedFrame
from crossfire_core.maps.header import MapHeader
from crossfire_core.recordings.frame import Frame


def with_trained_poses(frames: Iterable[Frame], header: MapHeader) -> Iterator[Frame]:
    """Mapping frames with the poses that a map was trained with, of those that it has.

    Args:
        frames: of the recording that the map was trained on.
        header: of the map.
    """
    poses = {view.name: view.map_from_camera for view in header.views}
    for frame in frames:
        if frame.name in poses:
            yield replace(frame, world_from_camera=poses[frame.name])


class RecordedLocalizer:
    """A localizer whose answers are moved to the recording's frame, as a neural map's are."""

    def __init__(self, localizer: ImageLocalizer, header: MapHeader) -> None:
        """Wrap a localizer of a map of :func:`with_trained_poses`."""
        views = header.views
        self._localizer = localizer
        self._frame = RecordedFrame(
            [view.map_from_camera for view in views],
            [view.recorded or view.map_from_camera for view in views],
            header.spacing.knee,
        )

    def localize(
        self, image: NDArray[np.uint8], camera: Camera, prior: Pose | None = None, **unused: object
    ) -> PoseEstimate:
        """Find the pose of one image; see :class:`.estimate.ImageLocalizer`."""
        found = self._localizer.localize(image, camera, prior)
        pose = found.map_from_camera
        return replace(found, map_from_camera=None if pose is None else self._frame.recorded(pose))
