"""A recording with other poses than it came with, and several recordings as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import ConfigError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo, Recording, hold_out

FloatArray = NDArray[np.float64]


class SelectedRecording(Recording):
    """Some frames of another recording."""

    def __init__(self, base: Recording, kept: Sequence[int]) -> None:
        """Keep some frames.

        Args:
            base: where the images come from.
            kept: positions of the frames, rising.
        """
        self._base, self._kept = base, list(kept)
        infos = base.infos
        self._infos = [infos[i] for i in self._kept]
        self.describe_as(base)

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        return self._infos

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        wanted = sorted(set(indices))
        frames = self._base.frames([self._kept[i] for i in wanted])
        for index, frame in zip(wanted, frames, strict=True):
            info = self._infos[index]
            camera = info.camera
            if frame.camera.mask is not None:  # which the list of frames does not know
                camera = replace(camera, mask=frame.camera.mask)
            yield replace(frame, camera=camera, world_from_camera=info.world_from_camera)

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None."""
        return self._base.odometry()


def without_holdout(recording: Recording, every: int) -> Recording:
    """A recording less every n-th frame.

    Poses are found for a choice of keyframes: what shall not be trained on must not be chosen.

    Args:
        recording: one session.
        every: 0 keeps none out.

    Raises:
        ConfigError: nothing would be left.
    """
    training, held = hold_out(recording.infos, every)
    if not held:
        return recording
    if not training:
        raise ConfigError(f"{recording.name} has one image, and that is held out: train on it")
    chosen = SelectedRecording(recording, training)
    chosen.held_out = len(held)
    chosen.notes = (*recording.notes, f"{len(held)} of {len(recording)} images are held out")
    return chosen


class PosedRecording(SelectedRecording):
    """Some frames of another recording, with poses found by ourselves."""

    def __init__(
        self,
        base: Recording,
        poses: Sequence[Pose | None],
        pose_source: str,
        *,
        notes: Sequence[str] = (),
        cameras: dict[Camera, Camera] | None = None,
        drift: bool = False,
    ) -> None:
        """Replace the poses; frames without one are left out.

        Args:
            base: where the images come from.
            poses: ``map_from_camera`` of each of the base's frames, or None.
            pose_source: for people.
            notes: what was left out or assumed, after the base's own notes.
            cameras: refined calibration by recorded one.
            drift: whether the poses are odometry.
        """
        super().__init__(base, [i for i, pose in enumerate(poses) if pose is not None])
        cameras = cameras or {}
        self._infos = [
            replace(info, world_from_camera=poses[i], camera=cameras.get(info.camera, info.camera))
            for i, info in zip(self._kept, self._infos, strict=True)
        ]
        self.world_frame = "map"
        self.pose_source, self.poses_drift = pose_source, drift
        self.notes = (*base.notes, *notes)


class JoinedRecording(Recording):
    """Several recordings of one place, one after the other."""

    def __init__(self, parts: Sequence[Recording]) -> None:
        """Put recordings behind each other.

        Where two have frames of the same name, all names get their recording's in front.

        Args:
            parts: at least one; the robot's mounting is that of the first.
        """
        self.parts = tuple(parts)
        first = self.parts[0]
        self.name = " + ".join(part.name for part in self.parts)
        self.world_frame, self.base_from_camera = first.world_frame, first.base_from_camera
        self.base_frame = first.base_frame
        sources = dict.fromkeys(part.pose_source for part in self.parts if part.pose_source)
        self.pose_source = ", ".join(sources)
        self.poses_drift = any(part.poses_drift for part in self.parts)
        self.metric = all(part.metric for part in self.parts)
        self.held_out = sum(part.held_out for part in self.parts)
        self.masks = ",".join(part.masks for part in self.parts)
        self.notes = tuple(f"{part.name}: {note}" for part in self.parts for note in part.notes)
        self._first = np.concatenate([[0], np.cumsum([len(part) for part in self.parts])])
        self._infos = self._named()

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames, those of the first recording first."""
        return self._infos

    def session(self, index: int) -> int:
        """Number of the recording that a frame belongs to."""
        return int(np.searchsorted(self._first, index, side="right")) - 1

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames, in the order of :attr:`infos`."""
        wanted = sorted(set(indices))
        for number, part in enumerate(self.parts):
            low, high = int(self._first[number]), int(self._first[number + 1])
            inside = [i for i in wanted if low <= i < high]
            frames = part.frames([i - low for i in inside])
            for index, frame in zip(inside, frames, strict=True):
                yield replace(frame, name=self._infos[index].name)

    def _named(self) -> list[FrameInfo]:
        parts = self.parts
        names = [info.name for part in parts for info in part.infos]
        unique = len(set(names)) == len(names)
        # who evaluates one of them alone finds its frames again by these names, unless the
        # recordings, too, have one name
        labels = [part.name for part in parts]
        if len(set(labels)) < len(labels):
            labels = [f"{number}" for number in range(len(parts))]
        return [
            info if unique else replace(info, name=qualified(label, info.name))
            for label, part in zip(labels, parts, strict=True)
            for info in part.infos
        ]


def qualified(recording: str, frame: str) -> str:
    """A frame's name where several recordings have frames of that name."""
    return f"{recording}/{frame}"


def sessions(recording: Recording) -> list[Recording]:
    """The recordings that one was joined from, or itself alone."""
    return list(recording.parts) if isinstance(recording, JoinedRecording) else [recording]
