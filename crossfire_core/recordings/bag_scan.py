"""One pass over a bag that keeps everything but pixels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.recordings.bag_reader import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    PATH_TYPE,
    POSE_TYPES,
    TF_TYPE,
    BagMessage,
    BagReader,
    Topic,
)
from crossfire_core.recordings.calibration_file import read_calibration
from crossfire_core.recordings.camera_info import (
    CalibrationSeries,
    CameraView,
    chosen_view,
)
from crossfire_core.recordings.image_file import scaled_to
from crossfire_core.recordings.image_message import PixelDepth
from crossfire_core.recordings.messages import (
    depth_of,
    encoding_of,
    holds_depth,
    measure,
    message_pose,
    plain_pose,
    stamp_ns,
    transform_pose,
)
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.text import left_out
from crossfire_core.recordings.tf_tree import TfTree, plain

# Wishes, not measurements.
_NOT_POSES = ("initialpose", "goal_pose", "goal")
_VIDEO_TYPES = (
    "foxglove_msgs/msg/CompressedVideo",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
)
_IMAGE_TRANSPORTS = ("/compressedDepth", "/compressed")


@dataclass
class PoseSeries:
    """The poses of one topic.

    Attributes:
        msgtype: of its messages.
        frame: they are expressed in.
        child: frame that is posed; empty where the type does not say.
        samples: stamps and good poses.
        bad: number of poses with NaN or a zero quaternion.
    """

    msgtype: str
    frame: str = ""
    child: str = ""
    samples: list[tuple[int, Pose]] = field(default_factory=list)
    bad: int = 0


@dataclass(frozen=True)
class ImageEntry:
    """One image message: its stamp, its key for finding it again, its (width, height)."""

    stamp_ns: int
    key: tuple[int, int]
    size: tuple[int, int]


@dataclass
class BagScan:
    """What one pass found.

    Attributes:
        image_topic: chosen topic.
        info_topic: chosen topic of the calibration; may be empty where a file gives it.
        depth_topic: chosen topic, or empty.
        view: the camera of the images.
        other_view: the calibration's other camera, where nothing says which of them it is.
        camera_frame: frame that the images name.
        images: in order of recording.
        pixel_depth: of 16-bit images.
        depths: the depth images, in the same order.
        depth_view: camera of the depth images; None without.
        depth_frame: their frame, or empty.
        poses: by topic.
        tree: of tf.
        notes: what was left out or assumed.
    """

    image_topic: str
    info_topic: str
    depth_topic: str
    view: CameraView
    other_view: CameraView | None
    camera_frame: str
    images: list[ImageEntry]
    pixel_depth: PixelDepth
    depths: list[ImageEntry]
    depth_view: CameraView | None
    depth_frame: str
    poses: dict[str, PoseSeries]
    tree: TfTree
    notes: list[str]


def scan_bag(bag: BagReader, options: RecordingOptions) -> BagScan:
    """Choose the topics and read all messages but the pixels.

    Raises:
        RecordingError: no images, or a choice that only the user can make.
        CalibrationError: no usable camera_info, or one that changes.
    """
    topics = bag.topics
    kinds = image_kinds(bag)
    if not kinds:
        raise RecordingError(_why_no_images(bag))
    image_topic = choose_image_topic(kinds, options)
    info_topic = choose_info_topic(topics, image_topic, options)
    depth_topic = choose_depth_topic(kinds, options) if options.use_depth else ""
    depth_info = _sibling_info(depth_topic) if depth_topic else ""
    collector = _Collector(topics, depth_topic)
    wanted = [image_topic, info_topic, depth_topic, depth_info]
    wanted += [t.name for t in topics.values() if t.msgtype in (*POSE_TYPES, PATH_TYPE, TF_TYPE)]
    for message in bag.messages([name for name in wanted if name in topics]):
        collector.add(message)
    images = collector.of_one_size(image_topic, bag)
    depths = collector.of_one_size(depth_topic, bag) if depth_topic else []
    view, other = collector.view(image_topic, info_topic, options)
    depth_view = None
    if depth_topic:
        depth_view = collector.at_size(view, depth_topic)
        if depth_info in topics:
            depth_view, _ = collector.view(depth_topic, depth_info, RecordingOptions())
    return BagScan(
        image_topic,
        info_topic,
        depth_topic,
        view,
        other,
        collector.frames.get(image_topic) or collector.frames.get(info_topic) or "camera",
        images,
        collector.pixel_depth,
        depths,
        depth_view,
        collector.frames.get(depth_topic, ""),
        collector.poses,
        collector.tree,
        [*bag.notes, *collector.notes()],
    )


def _why_no_images(bag: BagReader) -> str:
    """What a bag without images has instead."""
    video = [t.name for t in bag.topics.values() if t.msgtype in _VIDEO_TYPES]
    if video:
        return (
            f"the bag has no images but video on {', '.join(video)}, which is not read here: "
            "record JPEG or raw images, or republish it with image_transport and record these"
        )
    alike = [f"{t.name} is a {t.msgtype}" for t in bag.topics.values() if _like_images(t.msgtype)]
    said = "; ".join([*bag.notes, *alike])
    return (
        f"the bag has no images{f' ({said})' if said else ''}: record sensor_msgs/Image or "
        "CompressedImage and try again"
    )


def _like_images(msgtype: str) -> bool:
    """Whether a type that is not read here is named after images or video."""
    return any(word in msgtype.lower() for word in ("image", "video", "theora"))


class _Collector:
    """Sorts messages into their drawers."""

    def __init__(self, topics: Mapping[str, Topic], depth_topic: str) -> None:
        self._topics = topics
        self._depth_topic = depth_topic
        self._calibrations: dict[str, CalibrationSeries] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._bad_images: dict[str, list[str]] = defaultdict(list)
        self._notes: list[str] = []
        self._bad_transforms = 0
        self.frames: dict[str, str] = {}
        self.images: dict[str, list[ImageEntry]] = defaultdict(list)
        self.pixel_depth = PixelDepth()
        self.poses: dict[str, PoseSeries] = {}
        self.tree = TfTree()

    def add(self, message: BagMessage) -> None:
        msgtype = self._topics[message.topic].msgtype
        if msgtype in IMAGE_TYPES:
            self._remember_frame(message)
            self._add_image(message)
        elif msgtype == CAMERA_INFO_TYPE:
            self._remember_frame(message)
            self._calibrations.setdefault(message.topic, CalibrationSeries()).add(message.content)
        elif msgtype == TF_TYPE:
            self._add_transforms(message)
        elif msgtype == PATH_TYPE:
            self._add_path(message)
        else:
            self._add_pose(message, msgtype)

    def view(
        self, topic: str, info_topic: str, options: RecordingOptions
    ) -> tuple[CameraView, CameraView | None]:
        """The camera of a topic's images at their size, and the other one it may be."""
        size = self._sizes[topic]
        if options.calibration:
            return read_calibration(options.calibration, size, topic, options.rectified), None
        if info_topic not in self._calibrations:
            raise CalibrationError(f"topic {info_topic} holds no camera_info")
        try:
            calibration, note = self._calibrations[info_topic].result()
            view, other = chosen_view(calibration.of_size(*size), topic, options.rectified)
        except CalibrationError as error:
            raise CalibrationError(f"topic {info_topic}: {error}") from error
        self._notes += [note] if note else []
        return self.at_size(view, topic), other and self.at_size(other, topic)

    def at_size(self, view: CameraView, topic: str) -> CameraView:
        """The view of images that were made smaller or larger after they were taken.

        Raises:
            CalibrationError: the images have another shape.
        """
        size, (width, height) = self._sizes[topic], view.camera.size
        scaled = scaled_to(view.camera, size)
        if scaled is None:
            raise CalibrationError(
                f"images on {topic} are {size[0]}x{size[1]}, their calibration is for "
                f"{width}x{height}, another shape: record both at one size"
            )
        if size == view.camera.size:
            return view
        self._notes.append(
            f"images on {topic} are {size[0]}x{size[1]}, their calibration is for "
            f"{width}x{height}: scaled"
        )
        return replace(view, camera=scaled)

    def notes(self) -> list[str]:
        """What was left out or assumed."""
        bad = self._bad_transforms
        text = f"{bad} transforms on /tf are NaN or have a zero quaternion: left out"
        return [*self._notes, text] if bad else self._notes

    def _remember_frame(self, message: BagMessage) -> None:
        frame = plain(str(message.content.header.frame_id))
        if frame:
            self.frames.setdefault(message.topic, frame)

    def _add_image(self, message: BagMessage) -> None:
        entries = self.images[message.topic]
        try:
            if message.topic == self._depth_topic:
                height, width = depth_of(message.content).shape
            else:
                width, height = measure(message.content, self.pixel_depth, number=len(entries))
        except RecordingError as error:
            self._bad_images[message.topic].append(str(error))
            return
        entries.append(ImageEntry(message.stamp_ns, message.key, (width, height)))

    def of_one_size(self, topic: str, bag: BagReader) -> list[ImageEntry]:
        """The images of a topic that are whole and as large as most of them; notes the others.

        Raises:
            RecordingError: there are none.
        """
        entries, bad = self.images[topic], self._bad_images[topic]
        if not entries:
            why = bag.unreadable[topic][1] if topic in bag.unreadable else ""
            reason = next(iter(bad), why)
            said = f": {reason}" if reason else ""
            raise RecordingError(f"no image could be read from topic {topic}{said}")
        size = Counter(entry.size for entry in entries).most_common(1)[0][0]
        other = [f"{e.size[0]}x{e.size[1]}" for e in entries if e.size != size]
        total = len(entries) + len(bad)
        self._notes += left_out(bad, total, f"images on {topic} cannot be read: left out")
        self._notes += left_out(
            other, total, f"images on {topic} are not {size[0]}x{size[1]} as the others: left out"
        )
        self._sizes[topic] = size
        return [entry for entry in entries if entry.size == size]

    def _add_transforms(self, message: BagMessage) -> None:
        static = message.topic.endswith("tf_static")
        for item in message.content.transforms:
            try:
                pose = transform_pose(item.transform)
            except ValueError:
                self._bad_transforms += 1
                continue
            stamp = None if static else stamp_ns(item.header) or message.key[0]
            self.tree.add(str(item.header.frame_id), str(item.child_frame_id), pose, stamp)

    def _add_pose(self, message: BagMessage, msgtype: str) -> None:
        if message.topic.rsplit("/", 1)[-1] in _NOT_POSES:
            return
        series = self.poses.setdefault(message.topic, PoseSeries(msgtype))
        try:
            frame, child, pose = message_pose(message.content, msgtype)
        except ValueError:
            series.bad += 1
            return
        series.frame, series.child = plain(frame) or series.frame, plain(child) or series.child
        series.samples.append((message.stamp_ns, pose))

    def _add_path(self, message: BagMessage) -> None:
        """Keep the last path that was driven; one that is planned has no times."""
        poses = message.content.poses
        stamps = [stamp_ns(item.header) for item in poses]
        if len(poses) < 2 or 0 in stamps or len(set(stamps)) < len(stamps):
            return
        series = PoseSeries(PATH_TYPE, plain(str(message.content.header.frame_id)))
        for stamp, item in zip(stamps, poses, strict=True):
            try:
                series.samples.append((stamp, plain_pose(item.pose)))
            except ValueError:
                series.bad += 1
        self.poses[message.topic] = series


def choose(wanted: str, candidates: list[str], what: str, option: str) -> str:
    """The topic that the user named, or the only candidate.

    Raises:
        RecordingError: none or several; the message lists them and names the option.
    """
    if wanted:
        if wanted not in candidates:
            raise RecordingError(
                f"topic {wanted} ({option}) holds no {what}; the bag has: "
                f"{', '.join(candidates) or 'none'}"
            )
        return wanted
    if len(candidates) != 1:
        found = f"{len(candidates)} topics of {what}: {', '.join(sorted(candidates))}"
        raise RecordingError(
            f"the bag has {found}: choose one with {option}"
            if candidates
            else f"the bag has no {what}: record them and try again"
        )
    return candidates[0]


@dataclass(frozen=True)
class ImageKind:
    """What the first message on a topic of images says.

    Attributes:
        topic: its name.
        encoding: of the pixels, empty where nothing says it.
        is_depth: whether they are distances.
    """

    topic: str
    encoding: str
    is_depth: bool


def image_kinds(bag: BagReader) -> list[ImageKind]:
    """All topics of images, colour or depth by their encoding, and by name where that is open."""
    return [
        _kind(topic.name, next(bag.messages([topic.name]), None))
        for topic in bag.topics.values()
        if topic.msgtype in IMAGE_TYPES
    ]


def _kind(topic: str, first: BagMessage | None) -> ImageKind:
    if first is None:  # none of its messages can be read
        return ImageKind(topic, "", _is_depth(topic))
    content: Any = first.content
    return ImageKind(topic, encoding_of(content), holds_depth(content, _is_depth(topic)))


def choose_image_topic(kinds: Sequence[ImageKind], options: RecordingOptions) -> str:
    """The topic of the colour or grey images; raw ones before their compressed copies.

    A topic that is named after depth counts only where there is no other.
    """
    if options.image_topic:
        return choose(options.image_topic, [k.topic for k in kinds], "images", "--image-topic")
    colour = [kind.topic for kind in kinds if not kind.is_depth]
    if kinds and not colour:
        raise RecordingError(
            f"the only images in the bag are depth: {', '.join(k.topic for k in kinds)}: record "
            "colour or grey images, or name one with --image-topic if it is none"
        )
    plainly = [topic for topic in colour if not _is_depth(topic)]
    return choose("", _originals(plainly or colour), "images", "--image-topic")


def _originals(topics: list[str]) -> list[str]:
    """Without compressed copies of topics that are there themselves."""
    return [n for n in topics if _without_transport(n) == n or _without_transport(n) not in topics]


def choose_info_topic(
    topics: Mapping[str, Topic], image_topic: str, options: RecordingOptions
) -> str:
    """The topic of the calibration: the one beside the images or below them, or the only one.

    Raises:
        CalibrationError: there is none.
    """
    infos = [t.name for t in topics.values() if t.msgtype == CAMERA_INFO_TYPE]
    own = (_sibling_info(image_topic), f"{_without_transport(image_topic)}/camera_info")
    beside = next((name for name in own if name in infos), "")
    if options.calibration and not options.camera_info_topic:
        return beside
    if not infos:
        raise CalibrationError(
            f"the bag has no camera_info for {image_topic}: record the camera_info topic as well, "
            "or give the calibration as a file with --calibration"
        )
    wanted = options.camera_info_topic or beside
    return choose(wanted, infos, "camera_info", "--camera-info-topic")


def choose_depth_topic(kinds: Sequence[ImageKind], options: RecordingOptions) -> str:
    """The topic of the depth images."""
    if options.depth_topic:
        topics = [kind.topic for kind in kinds]
        return choose(options.depth_topic, topics, "depth images", "--depth-topic")
    depths = [kind.topic for kind in kinds if kind.is_depth]
    return choose("", _originals(depths), "depth images", "--depth-topic")


def _is_depth(topic: str) -> bool:
    return "depth" in topic.lower()


def _without_transport(topic: str) -> str:
    suffix = next((s for s in _IMAGE_TRANSPORTS if topic.endswith(s)), "")
    return topic.removesuffix(suffix)


def _sibling_info(image_topic: str) -> str:
    return _without_transport(image_topic).rsplit("/", 1)[0] + "/camera_info"
