"""Recordings of several cameras on one robot, read as one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from crossfire_core.config import replace_from
from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Trajectory
from crossfire_core.recordings.frame import Frame, Mount
from crossfire_core.recordings.lazy import FrameInfo, Recording
from crossfire_core.recordings.options import RecordingOptions

_LISTED = ("image_topic", "camera_info_topic", "depth_topic", "calibration", "mask")
_MOST_CAMERAS = 8


def of_each_camera(options: RecordingOptions) -> list[RecordingOptions]:
    """The options of each camera that ``image_topic`` lists, separated by commas.

    Other options may list one value for each camera, or give one that holds for all.

    Raises:
        RecordingError: an option lists another number of values, or there are too many cameras.
    """
    topics = _names(options.image_topic)
    if len(topics) < 2:
        return [replace(options, image_topic="".join(topics))]
    if len(topics) > _MOST_CAMERAS or len(set(topics)) < len(topics):
        raise RecordingError(
            f"--image-topic lists {len(topics)} cameras: name each once, {_MOST_CAMERAS} at most"
        )
    found = [replace(options, max_frames=-(-options.max_frames // len(topics))) for _ in topics]
    for name in _LISTED:
        values = _names(getattr(options, name))
        if len(values) not in (0, 1, len(topics)):
            raise RecordingError(
                f"--{name.replace('_', '-')} lists {len(values)} values for {len(topics)} cameras: "
                "give one for each, or one for all"
            )
        if len(values) == len(topics):
            found = [replace_from(o, {name: v}) for o, v in zip(found, values, strict=True)]
    return found


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def camera_names(topics: Sequence[str]) -> list[str]:
    """What cameras are called after their topics: ``front`` for ``/front/image_raw/compressed``."""
    bare = [topic.strip("/").removesuffix("/compressed") for topic in topics]
    short = [topic.rpartition("/")[0] or topic for topic in bare]
    return short if len(set(short)) == len(short) else bare


class RigRecording(Recording):
    """Frames of several cameras in order of time."""

    def __init__(self, parts: Sequence[Recording], cameras: Sequence[str]) -> None:
        """Put recordings of one drive together.

        Args:
            parts: one a camera, with the same world and base.
            cameras: their names.

        Raises:
            RecordingError: they are in different worlds.
        """
        first = parts[0]
        worlds = {part.world_frame for part in parts}
        if len(worlds) > 1:
            raise RecordingError(f"poses of the cameras are in {', '.join(sorted(worlds))}")
        self._parts = list(parts)
        self._mounts = [
            Mount(name, part.base_from_camera) for name, part in zip(cameras, parts, strict=True)
        ]
        self.describe_as(first)
        self.masks = ",".join(part.masks for part in parts)
        shared = set.intersection(*(set(part.notes) for part in parts))
        own = [
            f"{name}: {note}"
            for name, part in zip(cameras, parts, strict=True)
            for note in part.notes
            if note not in shared
        ]
        self.notes = (*(note for note in first.notes if note in shared), *own)
        order = sorted(
            (info.stamp_ns, number, index)
            for number, part in enumerate(parts)
            for index, info in enumerate(part.infos)
        )
        self._order = [(number, index) for _, number, index in order]
        self._infos = [self._info(number, index) for number, index in self._order]

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        return self._infos

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        wanted = sorted(set(indices))
        streams = []
        for number, part in enumerate(self._parts):
            mine = [i for i in wanted if self._order[i][0] == number]
            frames = part.frames([self._order[i][1] for i in mine])
            streams.append(zip(mine, frames, strict=True))
        for index, frame in heapq.merge(*streams, key=lambda item: item[0]):
            info = self._infos[index]
            yield replace(frame, name=info.name, mount=info.mount)

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None."""
        return self._parts[0].odometry()

    def _info(self, number: int, index: int) -> FrameInfo:
        info, mount = self._parts[number].infos[index], self._mounts[number]
        return replace(info, name=f"{mount.camera}/{info.name}", mount=mount)


def read_rig(options: RecordingOptions, read: Callable[[RecordingOptions], Recording]) -> Recording:
    """A recording of the camera, or of the cameras, that the options name.

    Args:
        options: with one image topic, none, or several separated by commas.
        read: reads one camera's.
    """
    each = of_each_camera(options)
    parts = [read(own) for own in each]
    if len(parts) == 1:
        return parts[0]
    return RigRecording(parts, camera_names([own.image_topic for own in each]))
