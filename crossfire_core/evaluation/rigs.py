"""Robots with several cameras: one pose from all images of a moment, and what each finds alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from crossfire_core.errors import RecordingError
from crossfire_core.evaluation.metrics import FrameError, pose_error
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.localization.rig import RigEstimate, RigImage, RigLocalizer, RigWitness
from crossfire_core.localization.uncertainty import at_lever
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import Recording, moments


class RigEvaluation:
    """Localizes the moments of a rig's recording, and counts what its cameras find alone."""

    def __init__(self, localizer: ImageLocalizer, recording: Recording) -> None:
        """Prepare.

        Args:
            localizer: of single images.
            recording: of several cameras.

        Raises:
            RecordingError: the localizer takes one camera only.
        """
        if not isinstance(localizer, RigWitness):
            raise RecordingError(
                f"{recording.name} has several cameras, of which this method takes one: "
                "name it with --image-topic"
            )
        self._localizer = RigLocalizer(localizer)
        self._recording = recording
        self._seen = {mount.camera: 0 for mount in recording.mounts}
        self._found = dict(self._seen)

    @property
    def alone(self) -> dict[str, str]:
        """Of each camera, how many of its images it finds by itself."""
        return {name: f"{self._found[name]} of {count}" for name, count in self._seen.items()}

    def localize(
        self, frames: Sequence[Frame], map_from_base: Pose | None
    ) -> tuple[FrameError, PoseEstimate]:
        """One moment, whose error is that of the first of its images that has a pose.

        Args:
            frames: one a camera, one at least with a pose.
            map_from_base: prior, or None for a global search.

        Returns:
            The error, and the estimate as of a camera in the robot's base.
        """
        images = [rig_image(self._recording, frame) for frame in frames]
        start = time.perf_counter()
        found = self._localizer.localize(images, map_from_base)
        total_ms = 1e3 * (time.perf_counter() - start)
        self._count(images, found)
        frame = next(f for f in frames if f.world_from_camera is not None)
        estimate = found.of_base()
        error = self._error(frame, estimate, map_from_base, total_ms)
        return error, estimate

    def _count(self, images: Sequence[RigImage], found: RigEstimate) -> None:
        for each, own in zip(images, found.alone, strict=True):
            self._seen[each.name] += 1
            self._found[each.name] += own.ok

    def _error(
        self, frame: Frame, estimate: PoseEstimate, prior: Pose | None, total_ms: float
    ) -> FrameError:
        truth, mount = frame.world_from_camera, self._recording.mounted(frame)
        assert truth is not None
        base, covariance = estimate.map_from_camera, estimate.covariance
        pose = None if base is None else base @ mount
        if base is not None and covariance is not None:
            covariance = at_lever(covariance, base.rotation @ mount.translation)
        metres, degrees = pose_error(pose, truth)
        return FrameError(
            frame.name, frame.stamp_ns, estimate.ok and pose is not None, estimate.reason, truth,
            pose, metres, degrees, estimate.inliers, estimate.matches, estimate.residual_px,
            covariance, None if prior is None else prior @ mount,
            {**estimate.timings_ms, "total": total_ms}, estimate.evidence, estimate.way.value,
        )  # fmt: skip


def rig_image(recording: Recording, frame: Frame) -> RigImage:
    """A frame of a recording as what one camera of the robot saw."""
    name = frame.mount.camera if frame.mount else ""
    return RigImage(frame.image, frame.camera, recording.mounted(frame), name)


def by_moment(recording: Recording, indices: Sequence[int]) -> Iterator[list[Frame]]:
    """Frames that were taken at one time, moment after moment.

    Args:
        recording: of one camera or several.
        indices: which frames, rising.
    """
    wanted = set(indices)
    sizes = [n for m in moments(recording.infos) if (n := sum(i in wanted for i in m))]
    frames = recording.frames(indices)
    for size in sizes:
        yield [next(frames) for _ in range(size)]
