"""A robot that is tracked in its map and then comes into a place that only looks like it."""

from __future__ import annotations

from dataclasses import dataclass

from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.localization.tracker import Tracker, TrackingState
from crossfire_core.recordings import Recording
from crossfire_core.recordings.frame import Frame

_STEP_NS = 200_000_000  # from image to image
_ODOMETRY_A_STEP = 10  # 50 Hz
_IMAGES_BEFORE = 40  # eight seconds, after which a robot is tracked


@dataclass(frozen=True)
class Intrusion:
    """What a tracker published.

    Attributes:
        scene: name of the map.
        recording: where the robot came.
        fixes_before: poses published while it drove through the map.
        images: seen in the other place.
        wrong_fixes: poses published there, all of them wrong.
        lost_after: images until the tracker said that it is lost; None if it never did.
    """

    scene: str
    recording: str
    fixes_before: int
    images: int
    wrong_fixes: int
    lost_after: int | None


def intrude(
    localizer: ImageLocalizer,
    scene: str,
    name: str,
    home: Recording,
    strange: Recording,
    every: int = 1,
) -> Intrusion:
    """Drive through a map, then on into another place, odometry without a break.

    Args:
        localizer: of the map.
        scene: its name.
        name: of the other place.
        home: with poses in the map; the last images of it are driven.
        strange: the other place; its poses say how the robot moves there.
        every: take every n-th image of the other place.
    """
    tracker = Tracker(localizer, None, home.base_from_camera)
    robot = _Robot(tracker)
    posed = _posed(home)[-_IMAGES_BEFORE:]
    before = [robot.see(frame, home) for frame in home.frames(posed)]
    robot.enter()
    fixes, lost_after, seen = 0, None, 0
    for frame in strange.frames(_posed(strange)[::every]):
        seen += 1
        fixes += robot.see(frame, strange)
        if lost_after is None and tracker.state is not TrackingState.TRACKING:
            lost_after = seen
    return Intrusion(scene, name, sum(before), seen, fixes, lost_after)


def _posed(recording: Recording) -> list[int]:
    return [i for i, info in enumerate(recording.infos) if info.world_from_camera is not None]


class _Robot:
    """Hands a tracker images at a steady rate, and exact odometry between them."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._now_ns = _STEP_NS
        self._odom_from_base = Pose.identity()
        self._world_from_base: Pose | None = None

    def enter(self) -> None:
        """The next image is in another place; the robot has not moved by its odometry."""
        self._world_from_base = None

    def see(self, frame: Frame, recording: Recording) -> bool:
        """Move to where a frame was taken and show it; whether a pose was published."""
        world_from_base = recording.world_from_base(frame)
        assert world_from_base is not None
        before = self._world_from_base or world_from_base
        step = before.inverse() @ world_from_base
        for share in (i / _ODOMETRY_A_STEP for i in range(1, _ODOMETRY_A_STEP + 1)):
            stamp = self._now_ns + round(share * _STEP_NS)
            moved = self._odom_from_base @ Pose.identity().interpolate(step, share)
            self._tracker.add_odometry(stamp, moved)
        self._now_ns += _STEP_NS
        self._odom_from_base = self._odom_from_base @ step
        self._world_from_base = world_from_base
        result = self._tracker.update(frame.image, frame.camera, self._now_ns)
        return result.map_from_base is not None
