"""Recordings in rosbag2 (mcap, sqlite3) and ROS 1 bags, read without ROS."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError, RecordingError
from crossfire_core.geometry import Pose, Trajectory
from crossfire_core.recordings.bag_reader import BagMessage, is_bag, open_bag
from crossfire_core.recordings.bag_scan import BagScan, ImageEntry, scan_bag
from crossfire_core.recordings.camera_info import CameraView
from crossfire_core.recordings.depth import register_depth
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo, Recording, kept
from crossfire_core.recordings.messages import colour_of, depth_of
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.pose_source import (
    PoseSource,
    find_base_frame,
    find_odometry,
    find_pose_source,
)
from crossfire_core.recordings.reader import Reader

# Colour and depth of one shot have stamps this close; at 30 Hz the next shot is 33 ms away.
_DEPTH_TOLERANCE_NS = 20_000_000
_COLOUR, _DEPTH = "colour", "depth"


@dataclass(frozen=True)
class _Slot:
    """One frame and the messages that it is made of."""

    info: FrameInfo
    image: tuple[int, int]
    depth: tuple[int, int] | None


class BagRecording(Recording):
    """Frames of one camera in a bag; opening it reads everything but pixels."""

    def __init__(self, path: Path, options: RecordingOptions) -> None:
        """Find images, calibration, poses and odometry.

        Args:
            path: the bag's folder or its storage file.
            options: which topics and frames to use.

        Raises:
            RecordingError: damaged, without images or poses, or several candidates.
            CalibrationError: no usable camera_info.
        """
        self.name = path.name
        self._path = path
        self._options = options
        with open_bag(path) as bag:
            self._scan = scan_bag(bag, options)
        self.base_frame = find_base_frame(self._scan, options)
        self._source = find_pose_source(self._scan, self.base_frame, options)
        self.world_frame = self._source.world_frame if self._source else "map"
        self.pose_source = self._source.label if self._source else ""
        self.poses_drift = self._source is not None and self._source.drifts
        self.base_from_camera = self._mounting()
        self._slots, notes = _slots(self._scan, self._source, options)
        if self._scan.other_view is not None:
            notes += self._let_images_decide(self._scan.other_view)
        self.notes = (*self._scan.notes, *notes, *_pose_notes(self._scan, self._source))

    def _let_images_decide(self, rectified: CameraView) -> list[str]:
        """Take the rectified camera if the images look rectified; says what they look like."""
        # Brings matching with it, which only such recordings need.
        from crossfire_core.recordings.checks.straightness import looks_straight

        topic, view = self._scan.image_topic, self._scan.view
        try:
            straight = looks_straight(self, view.camera)
        except CrossfireError:  # said of the image when it is asked for
            straight = None
        if straight is None:
            return [
                f"nothing says whether the images on {topic} are rectified, and they do not tell: "
                "taken for raw, say --rectified or --no-rectified"
            ]
        if straight:
            self._scan = replace(self._scan, view=rectified)
            self.base_from_camera = self._mounting()
            self._slots, _ = _slots(self._scan, self._source, self._options)
        found = "rectified" if straight else "raw"
        return [f"images on {topic} are taken for {found}, since as such they fit together"]

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        return [slot.info for slot in self._slots]

    @property
    def camera_frame(self) -> str:
        """The name of the camera's frame."""
        return self._scan.camera_frame

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None."""
        return find_odometry(self._scan, self.base_frame, self._options)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        slots = [self._slots[i] for i in sorted(set(indices))]
        for quick in (True, False):  # an index that is damaged has wrong times
            parts: dict[int, dict[str, BagMessage]] = defaultdict(dict)
            next_slot = 0
            for position, kind, message in self._messages(slots, quick):
                parts[position][kind] = message
                while next_slot < len(slots) and _complete(slots[next_slot], parts[next_slot]):
                    yield self._frame(slots[next_slot].info, parts.pop(next_slot))
                    next_slot += 1
            slots = slots[next_slot:]
        if slots:
            raise RecordingError(f"bag {self.name} has changed since it was opened")

    def _messages(self, slots: list[_Slot], quick: bool) -> Iterator[tuple[int, str, BagMessage]]:
        """The messages that some frames need: (position of the frame, which part, message).

        Quick is to look only at the times of these messages, as the bag's index has them.
        """
        owners: dict[tuple[str, tuple[int, int]], list[tuple[int, str]]] = defaultdict(list)
        for position, slot in enumerate(slots):
            owners[self._scan.image_topic, slot.image].append((position, _COLOUR))
            if slot.depth is not None:
                owners[self._scan.depth_topic, slot.depth].append((position, _DEPTH))
        if not owners:
            return
        times = [key[0] for _, key in owners]
        topics = {topic for topic, _ in owners}
        with open_bag(self._path) as bag:
            span = (min(times), max(times) + 1) if quick else (None, None)
            for message in bag.messages(topics, *span):
                for position, kind in owners.get((message.topic, message.key), ()):
                    yield position, kind, message

    def _frame(self, info: FrameInfo, parts: dict[str, BagMessage]) -> Frame:
        # A copy, so that an image looks the same whatever was decoded before it.
        image = colour_of(parts[_COLOUR].content, replace(self._scan.pixel_depth))
        depth = None
        if _DEPTH in parts:
            depth = self._registered(depth_of(parts[_DEPTH].content), info)
        return Frame(info.name, image, info.camera, info.stamp_ns, info.world_from_camera, depth)

    def _registered(self, depth: NDArray[np.float32], info: FrameInfo) -> NDArray[np.float32]:
        """The depth image as the colour camera sees it."""
        scan = self._scan
        view = scan.depth_view or scan.view
        frame = scan.depth_frame or scan.camera_frame
        if frame == scan.camera_frame and view.camera == info.camera:
            return depth
        mounted = scan.tree.lookup(scan.camera_frame, frame, info.stamp_ns)
        if mounted is None:
            raise RecordingError(
                f"no tf from {scan.camera_frame} to {frame} of the depth images: record /tf_static"
            )
        camera_from_frame = scan.view.frame_from_camera.inverse()
        return register_depth(
            depth, view.camera, info.camera, camera_from_frame @ mounted @ view.frame_from_camera
        )

    def _mounting(self) -> Pose:
        scan = self._scan
        for entry in scan.images:
            pose = scan.tree.lookup(self.base_frame, scan.camera_frame, entry.stamp_ns)
            if pose is not None:
                return pose @ scan.view.frame_from_camera
        raise RecordingError(
            f"tf from {self.base_frame} to {scan.camera_frame} covers no image: record /tf_static"
        )


def _complete(slot: _Slot, parts: dict[str, BagMessage]) -> bool:
    return _COLOUR in parts and (slot.depth is None or _DEPTH in parts)


def _slots(
    scan: BagScan, source: PoseSource | None, options: RecordingOptions
) -> tuple[list[_Slot], list[str]]:
    """The frames that the options keep, in order of time, and what was left out."""
    by_stamp = {entry.stamp_ns: entry for entry in sorted(scan.images, key=lambda e: e.key)}
    notes = []
    if len(by_stamp) < len(scan.images):
        notes.append(
            f"{len(scan.images) - len(by_stamp)} images repeat the stamp of another: left out"
        )
    entries = [by_stamp[stamp] for stamp in sorted(by_stamp)]
    entries = [entries[i] for i in kept(len(entries), options)]
    depths = sorted(scan.depths, key=lambda entry: entry.stamp_ns)
    slots = [
        _Slot(_info(entry, scan, source, options), entry.key, _nearest(entry.stamp_ns, depths))
        for entry in entries
    ]
    unposed = sum(slot.info.world_from_camera is None for slot in slots)
    if source is not None and unposed == len(slots):
        raise RecordingError(
            f"no image has a pose: those of {source.label} and the images of "
            f"{scan.image_topic} do not overlap in time, or lie more than "
            f"{options.max_pose_gap_s:g} s apart (--max-pose-gap-s)"
        )
    if source is not None and unposed:
        notes.append(f"{unposed} of {len(slots)} images have no pose near their time")
    return slots, notes


def _info(
    entry: ImageEntry, scan: BagScan, source: PoseSource | None, options: RecordingOptions
) -> FrameInfo:
    gap_ns = int(options.max_pose_gap_s * 1e9)
    pose = source.at(scan.tree, scan.camera_frame, entry.stamp_ns, gap_ns) if source else None
    if pose is not None:
        pose = pose @ scan.view.frame_from_camera
    return FrameInfo(str(entry.stamp_ns), entry.stamp_ns, scan.view.camera, pose)


def _nearest(stamp: int, entries: list[ImageEntry]) -> tuple[int, int] | None:
    """The depth image taken with a colour image, of those sorted by stamp."""
    right = bisect_left(entries, stamp, key=lambda entry: entry.stamp_ns)
    near = entries[max(0, right - 1) : right + 1]
    best = min(near, key=lambda entry: abs(entry.stamp_ns - stamp), default=None)
    if best is None or abs(best.stamp_ns - stamp) > _DEPTH_TOLERANCE_NS:
        return None
    return best.key


def _pose_notes(scan: BagScan, source: PoseSource | None) -> list[str]:
    notes = []
    if source is not None and (series := scan.poses.get(source.label)) and series.bad:
        total = series.bad + len(series.samples)
        notes.append(
            f"{series.bad} of {total} poses on {source.label} are NaN or have a zero "
            "quaternion: left out"
        )
    if scan.tree.conflicts:
        notes.append(f"tf gives two parents to {', '.join(sorted(scan.tree.conflicts))}")
    return notes


READER = Reader(is_bag, BagRecording)
