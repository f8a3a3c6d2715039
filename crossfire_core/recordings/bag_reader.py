"""The messages of a rosbag2 (mcap or sqlite3) or a ROS 1 bag, through the rosbags library."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from crossfire_core.errors import CrossfireError, RecordingError
from crossfire_core.geometry import Camera, Pose

STORAGE_SUFFIXES = (".mcap", ".db3", ".bag")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
TF_TYPE = "tf2_msgs/msg/TFMessage"
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
    ODOMETRY_TYPE,
)


@dataclass(frozen=True)
class Topic:
    """What a bag says about one topic."""

    name: str
    msgtype: str
    count: int


@dataclass(frozen=True)
class BagMessage:
    """One message.

    Attributes:
        topic: where it was published.
        key: (log time in ns, how many of this topic have that time before it): unique and
            the same on every pass.
        content: the message, fields as attributes.
    """

    topic: str
    key: tuple[int, int]
    content: Any

    @property
    def stamp_ns(self) -> int:
        """The header's stamp, or the time of recording where the driver left it empty."""
        return stamp_ns(self.content.header) or self.key[0]


class BagReader:
    """An open bag; make one with :func:`open_bag`."""

    def __init__(self, path: Path, reader: AnyReader) -> None:
        """Wrap an open reader.

        Args:
            path: for messages to people.
            reader: of the rosbags library.
        """
        self._path = path
        self._reader = reader

    @property
    def topics(self) -> dict[str, Topic]:
        """Topics with at least one message, by name."""
        found: dict[str, Topic] = {}
        for c in self._reader.connections:
            count = c.msgcount + (found[c.topic].count if c.topic in found else 0)
            if count:
                found[c.topic] = Topic(c.topic, c.msgtype, count)
        return found

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages of some topics by time of recording.

        Args:
            topics: names; none of them gives no messages.
            start_ns: log time of the first message, or None.
            stop_ns: log time after the last message, or None.

        Raises:
            RecordingError: the file is damaged.
        """
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        stream = self._reader.messages(connections, start_ns, stop_ns)
        latest: dict[str, tuple[int, int]] = {}
        while True:
            with _damage_reported(self._path):
                item = next(stream, None)
                if item is None:
                    return
                connection, time, raw = item
                content = self._reader.deserialize(raw, connection.msgtype)
            before = latest.get(connection.topic, (-1, 0))
            key = (time, before[1] + 1 if before[0] == time else 0)
            latest[connection.topic] = key
            yield BagMessage(connection.topic, key, content)


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder with metadata or storage files, or such a file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(_storage_files(path))
    return path.suffix in STORAGE_SUFFIXES


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag for reading.

    Args:
        path: the folder or its storage file.

    Raises:
        RecordingError: no bag, or a damaged one.
    """
    target = path
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = _storage_files(path)
        if len(files) != 1:
            raise RecordingError(
                f"{path} has no metadata.yaml and {len(files)} storage files: "
                "run `ros2 bag reindex` on it"
            )
        target = files[0]
    with _damage_reported(path):
        reader = AnyReader([target], default_typestore=get_typestore(Stores.ROS2_KILTED))
        reader.open()
    try:
        yield BagReader(path, reader)
    finally:
        reader.close()


def stamp_ns(header: Any) -> int:
    """A ``std_msgs/Header``'s stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def transform_pose(transform: Any) -> Pose:
    """A ``geometry_msgs/Transform`` as a pose.

    Raises:
        ValueError: NaN, infinite or a zero quaternion.
    """
    return _pose(transform.translation, transform.rotation)


def message_pose(message: Any, msgtype: str) -> tuple[str, str, Pose]:
    """(frame, frame that is posed or empty, pose) of a message of one of POSE_TYPES.

    Raises:
        ValueError: NaN, infinite or a zero quaternion.
    """
    frame = str(message.header.frame_id)
    child = str(getattr(message, "child_frame_id", ""))
    if msgtype.endswith("TransformStamped"):
        return frame, child, transform_pose(message.transform)
    pose = message.pose if msgtype.endswith("PoseStamped") else message.pose.pose
    return frame, child, _pose(pose.position, pose.orientation)


def info_camera(info: Any) -> Camera:
    """The camera of a ``sensor_msgs/CameraInfo``, region of interest and binning applied.

    Raises:
        CalibrationError: zero or NaN K, unknown or impossible distortion.
    """
    roi = info.roi
    width, height = (roi.width, roi.height) if roi.width and roi.height else (0, 0)
    camera = Camera.from_ros(
        width or info.width,
        height or info.height,
        info.k if hasattr(info, "k") else info.K,  # ROS 1 wrote them in capitals
        info.distortion_model,
        info.d if hasattr(info, "d") else info.D,
        (roi.x_offset, roi.y_offset) if width else (0, 0),
    )
    bin_x, bin_y = max(1, info.binning_x), max(1, info.binning_y)
    return camera.resized(camera.width // bin_x, camera.height // bin_y)


def _pose(position: Any, orientation: Any) -> Pose:
    return Pose.from_quaternion(
        (orientation.x, orientation.y, orientation.z, orientation.w),
        (position.x, position.y, position.z),
    )


def _storage_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in STORAGE_SUFFIXES)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Name the bag and the way out, whatever a reader trips over in broken bytes."""
    try:
        yield
    except CrossfireError:
        raise
    except Exception as error:  # each storage and each compression has its own exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordingError(
            f"cannot read bag {path}: {reason}; if its recording was cut short, try "
            "`mcap recover` (mcap) or `ros2 bag reindex` (sqlite3)"
        ) from error
