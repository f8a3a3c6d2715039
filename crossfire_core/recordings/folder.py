"""Recordings whose images are single files; the one place that judges what a reader lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.frame import Frame, Mount
from crossfire_core.recordings.image_file import (
    Size,
    fitted,
    read_depth,
    read_header,
    read_image,
    turned,
)
from crossfire_core.recordings.image_message import PixelDepth
from crossfire_core.recordings.lazy import FARTHEST, FrameInfo, Recording, kept
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.text import BAD_VALUES, left_out

_LOOKS_FOR_DEPTH = 20  # images that tell how many bits all of them use


def no_pose() -> None:
    """The pose of an image that has none."""


@dataclass(frozen=True)
class ListedImage:
    """What a data set's files say of one image, which need be neither complete nor right.

    Attributes:
        name: unique in its recording.
        stamp_ns: nanoseconds, or the image's number where there is no time.
        path: the image file, or None where there is none.
        camera: gives the calibration, of any size; takes the (width, height) of the file.
        pose: gives ``world_from_camera`` or None.
        depth: a 16-bit depth image of the same view, or None.
        depth_unit: metres in one of its units.
        depth_unknown: the number that stands for "unknown" besides 0.
        mount: which camera of a rig took it, or None.

    Both callables may raise anything of ``BAD_VALUES`` or an error with a reason.
    """

    name: str
    stamp_ns: int
    path: Path | None
    camera: Callable[[Size], Camera]
    pose: Callable[[], Pose | None] = no_pose
    depth: Path | None = None
    depth_unit: float = 1e-3
    depth_unknown: int = 65535
    mount: Mount | None = None


@dataclass(frozen=True)
class _ImageFile:
    """A usable image: how it appears, and what it is read from."""

    info: FrameInfo
    listed: ListedImage
    path: Path
    turn: int | None
    deep: bool


@dataclass
class _Losses:
    """Reasons why images cannot be used, by kind."""

    repeated: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    uncalibrated: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    unposed: list[str] = field(default_factory=list)

    def notes(self, listed: int) -> list[str]:
        """A line for each kind."""
        lost = (self.repeated, self.absent, self.unreadable, self.uncalibrated)
        usable = listed - sum(len(reasons) for reasons in lost)
        return [
            *left_out(self.repeated, listed, "listed images repeat the name of another: left out"),
            *left_out(self.absent, listed, "listed images are absent: left out"),
            *left_out(self.unreadable, listed, "listed images cannot be read: left out"),
            *left_out(
                self.uncalibrated, listed, "listed images have no usable calibration: left out"
            ),
            *left_out(self.flat, usable, "depth images cannot be used: left out"),
            *left_out(self.unposed, usable, "frames have no valid pose"),
        ]


class FolderRecording(Recording):
    """Frames whose images are single files."""

    def __init__(
        self,
        name: str,
        listed: Sequence[ListedImage],
        options: RecordingOptions,
        *,
        notes: Sequence[str] = (),
        pose_source: str = "",
        metric: bool = True,
    ) -> None:
        """Leave out what cannot be used, then keep what the options select.

        Args:
            name: for people.
            listed: in order of time.
            options: stride, number of frames, depth, poses.
            notes: what the reader left out or assumed.
            pose_source: for people; empty where the data set has no poses.
            metric: whether the unit of the poses is a metre.

        Raises:
            RecordingError: nothing is left, or no pose where one is required.
            CalibrationError: nothing is left for want of a calibration.
        """
        self.name, self.metric = name, metric
        self.pose_source = pose_source if options.pose_topic != NO_POSES else ""
        listed = _calibrated(listed, options)
        files, losses = _usable(listed, posed=bool(self.pose_source), deep=options.use_depth)
        self.notes = (*notes, *losses.notes(len(listed)))
        self._files = [files[i] for i in kept(len(files), options)]
        first = next((f.info.mount for f in self._files if f.info.mount), None)
        if first is not None:
            self.base_from_camera = first.base_from_camera
        self._use_depth = options.use_depth
        self._pixel_depth = _pixel_depth(self._files)
        because = f": {'; '.join(self.notes)}" if self.notes else ""
        if not files:
            kind = CalibrationError if losses.uncalibrated else RecordingError
            raise kind(f"{name} has no usable frame{because}")
        if options.require_poses and all(f.info.world_from_camera is None for f in self._files):
            raise RecordingError(f"{name} has no poses{because}")
        if options.use_depth and not any(f.listed.depth for f in self._files):
            raise RecordingError(f"{name} has no depth images: leave out the depth option{because}")

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        return [file.info for file in self._files]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        for index in sorted(set(indices)):
            yield self._read(self._files[index])

    def _read(self, file: _ImageFile) -> Frame:
        info, listed = file.info, file.listed
        # A copy, so that an image looks the same whatever was decoded before it.
        image = turned(read_image(file.path, replace(self._pixel_depth)), file.turn)
        if (image.shape[1], image.shape[0]) != info.camera.size:
            raise RecordingError(f"{file.path} has changed since it was listed: open it again")
        depth = _depth(listed, file.turn, info.camera) if self._use_depth else None
        return Frame(
            info.name, image, info.camera, info.stamp_ns, info.world_from_camera, depth, info.mount
        )


def pose_at(trajectory: Trajectory, stamp_ns: int, options: RecordingOptions) -> Pose:
    """The pose of a trajectory at a time.

    Raises:
        RecordingError: it does not reach there, or has a gap.
    """
    pose = trajectory.at(stamp_ns, int(options.max_pose_gap_s * 1e9))
    if pose is None:
        raise RecordingError(
            f"no poses within {options.max_pose_gap_s:g} s around its time (--max-pose-gap-s)"
        )
    return pose


def _calibrated(listed: Sequence[ListedImage], options: RecordingOptions) -> Sequence[ListedImage]:
    """The same images with the calibration of a file, where one is given."""
    if not options.calibration:
        return listed
    # Which reads COLMAP's cameras, whose reader makes recordings of this kind.
    from crossfire_core.recordings.calibration_file import read_calibration

    @cache
    def camera(size: Size) -> Camera:
        return read_calibration(options.calibration, size, rectified=options.rectified).camera

    return [replace(image, camera=camera) for image in listed]


def _usable(
    listed: Sequence[ListedImage], *, posed: bool, deep: bool
) -> tuple[list[_ImageFile], _Losses]:
    """The images that can be read, with the pose of those that have one, and their depth."""
    files: list[_ImageFile] = []
    losses = _Losses()
    names: set[str] = set()
    for image in listed:
        if image.name in names:
            losses.repeated.append(image.name)
            continue
        names.add(image.name)
        path = image.path
        if path is None or not path.is_file():
            losses.absent.append(image.name)
            continue
        try:
            header = read_header(path)
        except RecordingError as error:
            losses.unreadable.append(str(error))
            continue
        try:
            camera, turn = fitted(image.camera(header.size), header)
        except (*BAD_VALUES, CrossfireError) as error:
            losses.uncalibrated.append(f"{image.name}: {error}")
            continue
        if deep:
            try:
                _depth(image, turn, camera)
            except RecordingError as error:
                losses.flat.append(str(error))
                image = replace(image, depth=None)
        pose = _pose(image, losses) if posed else None
        info = FrameInfo(image.name, image.stamp_ns, camera, pose, image.mount)
        files.append(_ImageFile(info, image, path, turn, header.deep))
    return files, losses


def _pixel_depth(files: Sequence[_ImageFile]) -> PixelDepth:
    """How many bits images of 16 use, by some of them; one that cannot be read tells nothing."""
    depth = PixelDepth()
    deep = [file.path for file in files if file.deep]
    for path in deep[:: max(1, len(deep) // _LOOKS_FOR_DEPTH)]:
        with suppress(RecordingError):
            read_image(path, depth)
    return depth


def _depth(listed: ListedImage, turn: int | None, camera: Camera) -> NDArray[np.float32] | None:
    """The depth image of an image, None where it has none."""
    if listed.depth is None:
        return None
    depth = read_depth(listed.depth, listed.depth_unit, listed.depth_unknown)
    if depth.shape != (camera.height, camera.width):
        depth = turned(depth, turn)
    height, width = depth.shape
    if (width, height) != camera.size:
        raise RecordingError(
            f"{listed.depth.name} is {width}x{height}, its image is {camera.width}x{camera.height}"
        )
    return depth


def _pose(image: ListedImage, losses: _Losses) -> Pose | None:
    try:
        pose = image.pose()
        if pose is not None and not np.abs(pose.matrix()).max() < FARTHEST:
            raise RecordingError("its pose is not finite")
    except (*BAD_VALUES, CrossfireError) as error:
        losses.unposed.append(f"{image.name}: {error}")
        return None
    if pose is None:
        losses.unposed.append("")
    return pose
