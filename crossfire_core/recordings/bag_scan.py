"""One pass over a bag that keeps everything but pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.bag_reader import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    POSE_TYPES,
    TF_TYPE,
    BagMessage,
    BagReader,
    Topic,
    info_camera,
    message_pose,
    stamp_ns,
    transform_pose,
)
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.tf_tree import TfTree, plain

# Wishes, not measurements.
_NOT_POSES = ("initialpose", "goal_pose", "goal")
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
    """One image message: its stamp, and its key for finding it again."""

    stamp_ns: int
    key: tuple[int, int]


@dataclass
class BagScan:
    """What one pass found.

    Attributes:
        image_topic: chosen topic.
        info_topic: chosen topic of the calibration.
        depth_topic: chosen topic, or empty.
        camera: of the images.
        camera_frame: frame of the images.
        images: in order of recording.
        depths: likewise of the depth images.
        depth_camera: calibration of the depth images, or None where the bag has none.
        depth_frame: their frame, or empty.
        poses: by topic.
        tree: of tf.
    """

    image_topic: str
    info_topic: str
    depth_topic: str
    camera: Camera
    camera_frame: str
    images: list[ImageEntry]
    depths: list[ImageEntry]
    depth_camera: Camera | None
    depth_frame: str
    poses: dict[str, PoseSeries]
    tree: TfTree


def scan_bag(bag: BagReader, options: RecordingOptions) -> BagScan:
    """Choose the topics and read all messages but the pixels.

    Raises:
        RecordingError: no images, or a choice that only the user can make.
        CalibrationError: no usable camera_info, or one that changes.
    """
    topics = bag.topics
    image_topic = choose_image_topic(topics, options)
    info_topic = choose_info_topic(topics, image_topic, options)
    depth_topic = choose_depth_topic(topics, options) if options.use_depth else ""
    depth_info = _sibling_info(depth_topic) if depth_topic else ""
    collector = _Collector(topics)
    wanted = [image_topic, info_topic, depth_topic, depth_info]
    wanted += [t.name for t in topics.values() if t.msgtype in (*POSE_TYPES, TF_TYPE)]
    for message in bag.messages([name for name in wanted if name in topics]):
        collector.add(message)
    if not collector.images[image_topic]:
        raise RecordingError(f"no image could be read from topic {image_topic}")
    return BagScan(
        image_topic,
        info_topic,
        depth_topic,
        collector.camera(info_topic),
        collector.frames.get(image_topic) or collector.frames.get(info_topic) or "camera",
        collector.images[image_topic],
        collector.images.get(depth_topic, []),
        collector.camera(depth_info) if depth_info in topics else None,
        collector.frames.get(depth_topic, ""),
        collector.poses,
        collector.tree,
    )


class _Collector:
    """Sorts messages into their drawers."""

    def __init__(self, topics: Mapping[str, Topic]) -> None:
        self._topics = topics
        self._infos: dict[str, object] = {}
        self._cameras: dict[str, Camera | CalibrationError] = {}
        self.frames: dict[str, str] = {}
        self.images: dict[str, list[ImageEntry]] = {}
        self.poses: dict[str, PoseSeries] = {}
        self.tree = TfTree()
        self.bad_transforms: Counter[str] = Counter()

    def add(self, message: BagMessage) -> None:
        msgtype = self._topics[message.topic].msgtype
        if msgtype in IMAGE_TYPES:
            self._remember_frame(message)
            entry = ImageEntry(message.stamp_ns, message.key)
            self.images.setdefault(message.topic, []).append(entry)
        elif msgtype == CAMERA_INFO_TYPE:
            self._remember_frame(message)
            self._add_info(message)
        elif msgtype == TF_TYPE:
            self._add_transforms(message)
        else:
            self._add_pose(message, msgtype)

    def camera(self, topic: str) -> Camera:
        camera = self._cameras.get(topic)
        if camera is None:
            raise CalibrationError(f"topic {topic} holds no camera_info")
        if isinstance(camera, CalibrationError):
            raise CalibrationError(f"topic {topic}: {camera}") from camera
        return camera

    def _remember_frame(self, message: BagMessage) -> None:
        frame = plain(str(message.content.header.frame_id))
        if frame:
            self.frames.setdefault(message.topic, frame)

    def _add_info(self, message: BagMessage) -> None:
        """Keep the first calibration; any other one after it makes the topic unusable."""
        try:
            camera: Camera | CalibrationError = info_camera(message.content)
        except CalibrationError as error:
            camera = error
        known = self._cameras.setdefault(message.topic, camera)
        if isinstance(known, Camera) and isinstance(camera, Camera) and camera != known:
            self._cameras[message.topic] = CalibrationError(
                f"camera_info changes during the recording (fx {known.fx:g} to {camera.fx:g}, "
                f"{known.width}x{known.height} to {camera.width}x{camera.height}): "
                "record with one calibration"
            )

    def _add_transforms(self, message: BagMessage) -> None:
        static = message.topic.endswith("tf_static")
        for item in message.content.transforms:
            try:
                pose = transform_pose(item.transform)
            except ValueError:
                self.bad_transforms[str(item.child_frame_id)] += 1
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


def choose_image_topic(topics: Mapping[str, Topic], options: RecordingOptions) -> str:
    """The topic of the colour or grey images; raw ones before their compressed copies."""
    images = [t.name for t in topics.values() if t.msgtype in IMAGE_TYPES]
    if options.image_topic:
        return choose(options.image_topic, images, "images", "--image-topic")
    colour = [name for name in images if not _is_depth(name)]
    originals = [
        n for n in colour if _without_transport(n) == n or _without_transport(n) not in colour
    ]
    return choose("", originals, "images", "--image-topic")


def choose_info_topic(
    topics: Mapping[str, Topic], image_topic: str, options: RecordingOptions
) -> str:
    """The topic of the calibration: the one beside the images, or the only one.

    Raises:
        CalibrationError: there is none.
    """
    infos = [t.name for t in topics.values() if t.msgtype == CAMERA_INFO_TYPE]
    if not infos:
        raise CalibrationError(
            f"the bag has no camera_info for {image_topic}: record the camera_info topic as well"
        )
    sibling = _sibling_info(image_topic)
    wanted = options.camera_info_topic or (sibling if sibling in infos else "")
    return choose(wanted, infos, "camera_info", "--camera-info-topic")


def choose_depth_topic(topics: Mapping[str, Topic], options: RecordingOptions) -> str:
    """The topic of the depth images."""
    images = [t.name for t in topics.values() if t.msgtype in IMAGE_TYPES]
    if options.depth_topic:
        return choose(options.depth_topic, images, "depth images", "--depth-topic")
    depths = [name for name in images if _is_depth(name)]
    originals = [
        n for n in depths if _without_transport(n) == n or _without_transport(n) not in depths
    ]
    return choose("", originals, "depth images", "--depth-topic")


def _is_depth(topic: str) -> bool:
    return "depth" in topic.lower()


def _without_transport(topic: str) -> str:
    suffix = next((s for s in _IMAGE_TRANSPORTS if topic.endswith(s)), "")
    return topic.removesuffix(suffix)


def _sibling_info(image_topic: str) -> str:
    return _without_transport(image_topic).rsplit("/", 1)[0] + "/camera_info"
