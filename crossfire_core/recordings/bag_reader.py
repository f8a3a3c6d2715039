"""The messages of a rosbag2 (mcap or sqlite3) or a ROS 1 bag, decoded without ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from crossfire_core.errors import CrossfireError, RecordingError
from crossfire_core.recordings.bag_storage import (
    STORAGE_SUFFIXES,
    RawMessage,
    Storage,
    StoredTopic,
    open_storage,
    storage_files,
)
from crossfire_core.recordings.messages import stamp_ns

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
TF_TYPE = "tf2_msgs/msg/TFMessage"
# One layout under two names: the older one is that of ROS 1's first years.
_RENAMED = {"tf/msg/tfMessage": TF_TYPE}
PATH_TYPE = "nav_msgs/msg/Path"
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
    ODOMETRY_TYPE,
)
_LATEST_NS = 2**63 - 1


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
    """An open bag; make one with :func:`open_bag`.

    Attributes:
        unreadable: of topics whose messages are passed over: how many so far, and why.
    """

    def __init__(self, path: Path, storage: Storage) -> None:
        """Wrap an open storage.

        Args:
            path: for messages to people.
            storage: of the bag.
        """
        self._path = path
        self._storage = storage
        self._decoders = _Decoders(storage.is_ros1)
        self.unreadable: dict[str, tuple[int, str]] = {}
        self._topics: dict[str, Topic] = {}
        for stored in storage.topics:
            self._add(stored)

    def _add(self, stored: StoredTopic) -> None:
        known = self._topics.get(stored.name)
        count = stored.count + (known.count if known else 0)
        if not count:
            return
        msgtype = _RENAMED.get(stored.msgtype, stored.msgtype)
        self._topics[stored.name] = Topic(stored.name, msgtype, count)
        if why := self._decoders.learn(stored):
            self.unreadable[stored.name] = (count, why)

    @property
    def topics(self) -> dict[str, Topic]:
        """Topics with at least one message, by name."""
        return dict(self._topics)

    @property
    def notes(self) -> list[str]:
        """One line for each topic of which something is passed over."""
        return [self._note(name, count, why) for name, (count, why) in self.unreadable.items()]

    def _note(self, name: str, count: int, why: str) -> str:
        if self._is_foreign(name):
            return f"topic {name} is passed over: {why}"
        total = self._topics[name].count
        return f"{count} of {total} messages on {name} cannot be read ({why}): left out"

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages of some topics by time of recording; those that cannot be decoded are counted.

        Args:
            topics: names; none of them gives no messages.
            start_ns: log time of the first message, or None.
            stop_ns: log time after the last message, or None.

        Raises:
            RecordingError: the file is damaged.
        """
        wanted = [t for t in topics if t in self._topics and not self._is_foreign(t)]
        if not wanted:
            return
        latest: dict[str, tuple[int, int]] = {}
        bad: Counter[str] = Counter()
        for topic, time, raw in raw_messages(self._path, self._storage, wanted, start_ns, stop_ns):
            if time > _LATEST_NS:
                bad[topic] += 1
                self.unreadable[topic] = (bad[topic], f"recorded at {time} ns, which is no time")
                continue
            before = latest.get(topic, (-1, 0))
            key = (time, before[1] + 1 if before[0] == time else 0)
            latest[topic] = key
            try:
                content = self._decoders.decode(self._topics[topic].msgtype, raw)
            except Exception as error:  # decoders raise whatever broken bytes lead them to
                bad[topic] += 1
                self.unreadable[topic] = (bad[topic], _first_line(error))
                continue
            yield BagMessage(topic, key, content)

    def _is_foreign(self, topic: str) -> bool:
        return self.unreadable.get(topic, (0, ""))[0] == self._topics[topic].count


class _Decoders:
    """Bytes to messages; each type by its own definition, so that none can spoil another."""

    def __init__(self, is_ros1: bool) -> None:
        self._is_ros1 = is_ros1
        self._standard = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_KILTED)
        self._stores: dict[str, tuple[Typestore, str]] = {}

    def learn(self, topic: StoredTopic) -> str:
        """Take a topic's definition; returns why its messages cannot be read, or nothing."""
        name = _RENAMED.get(topic.msgtype, topic.msgtype)
        if name in self._stores or not topic.language:
            return ""
        if topic.language not in ("msg", "idl"):
            return f"it is written in {topic.language}, not in the format of ROS 2"
        try:
            store = _store(topic.language, topic.definition, topic.msgtype)
        except Exception as error:  # a parser of what anybody may have written
            if name in self._standard.fielddefs:
                return ""
            return f"its definition is broken ({_first_line(error)})"
        self._stores[name] = (store, topic.msgtype)
        return ""

    def decode(self, msgtype: str, raw: bytes) -> Any:
        """A message of its bytes."""
        store, name = self._stores.get(msgtype, (self._standard, msgtype))
        return (
            store.deserialize_ros1(raw, name)
            if self._is_ros1
            else (store.deserialize_cdr(raw, name))
        )


@lru_cache(maxsize=64)  # a bag is opened several times, and its types take a tenth of a second
def _store(language: str, definition: str, msgtype: str) -> Typestore:
    """What one type's own definition says, and the types in it."""
    store = get_typestore(Stores.EMPTY)
    store.register(_types(language, definition, msgtype))
    store.get_msgdef(msgtype)
    return store


def _types(language: str, definition: str, msgtype: str) -> Typesdict:
    if language == "msg":
        return get_types_from_msg(definition, msgtype)
    line = "=" * 80 + "\n"
    if not definition.startswith(f"{line}IDL: "):
        return get_types_from_idl(definition)
    types: Typesdict = {}
    for part in definition.split(line)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder with metadata or storage files, or such a file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(storage_files(path))
    return path.suffix in STORAGE_SUFFIXES


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag for reading.

    Args:
        path: the folder or its storage file.

    Raises:
        RecordingError: no bag, or a damaged one.
    """
    with open_raw(path) as storage:
        yield BagReader(path, storage)


@contextmanager
def open_raw(path: Path) -> Iterator[Storage]:
    """Open a bag for reading bytes; see :func:`open_bag`."""
    with _damage_reported(path):
        storage = open_storage(path)
    try:
        yield storage
    finally:
        storage.close()


def raw_messages(
    path: Path,
    storage: Storage,
    topics: Collection[str],
    start_ns: int | None,
    stop_ns: int | None,
) -> Iterator[RawMessage]:
    """Messages of an open bag as bytes.

    Args:
        path: of the bag, for messages to people.
        storage: of :func:`open_raw`.
        topics: names.
        start_ns: log time of the first message, or None.
        stop_ns: log time after the last message, or None.

    Raises:
        RecordingError: the file is damaged.
    """
    stream = storage.messages(topics, start_ns, stop_ns)
    while True:
        with _damage_reported(path):
            item = next(stream, None)
        if item is None:
            return
        yield item


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Name the bag and the way out, whatever a reader trips over in broken bytes."""
    try:
        yield
    except CrossfireError:
        raise
    except Exception as error:  # each storage and each compression has its own exceptions
        raise RecordingError(
            f"cannot read bag {path}: {_first_line(error)}; if its recording was cut short, try "
            "`mcap recover` (mcap) or `ros2 bag reindex` (sqlite3)"
        ) from error
