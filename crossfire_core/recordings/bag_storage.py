"""The files of a bag as topics and raw messages: mcap through its own library, the rest by rosbags.

A topic whose definition is broken, or is none of ROS 2, is a topic like the others here; what can
be decoded is the business of :mod:`.bag_reader`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import yaml
from mcap.reader import SeekingReader
from mcap.records import Channel, Schema, Statistics
from mcap.summary import Summary
from rosbags.interfaces import Qos, QosDurability, QosReliability
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys.msg import normalize_msgtype

from crossfire_core.errors import RecordingError

STORAGE_SUFFIXES = (".mcap", ".db3", ".bag")
_METADATA = "metadata.yaml"
_NEWEST_METADATA = 9
# What mcap and sqlite call the two languages of ROS 2's definitions.
_LANGUAGES = {"ros2msg": "msg", "ros2idl": "idl", "omgidl": "idl", "ros1msg": "ros1", "": ""}


@dataclass(frozen=True)
class StoredTopic:
    """One topic as it is stored.

    Attributes:
        name: of the topic.
        msgtype: as ROS 2 writes it, such as ``sensor_msgs/msg/Image``.
        count: of messages.
        language: of the definition: ``msg``, ``idl``, empty for none, or another system's name.
        definition: the text, empty where there is none.
        latched: whether its publisher kept the last messages for late listeners.
        best_effort: whether its publisher let messages be lost.
    """

    name: str
    msgtype: str
    count: int
    language: str = ""
    definition: str = ""
    latched: bool = False
    best_effort: bool = False


RawMessage = tuple[str, int, bytes]
"""Topic, time of recording in nanoseconds, bytes."""


class Storage(Protocol):
    """An open bag.

    Attributes:
        is_ros1: whether messages are in ROS 1's format.
        topics: in the order of the file; one name may come several times.
        span_ns: times of recording of the first message, and after the last.
    """

    is_ros1: bool
    topics: list[StoredTopic]
    span_ns: tuple[int, int]

    def messages(
        self, topics: Collection[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[RawMessage]:
        """Messages of some topics by time of recording, from a start to before a stop."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def open_storage(path: Path) -> Storage:
    """Open a bag's files.

    Args:
        path: the folder or a storage file.

    Raises:
        RecordingError: no storage file, or several without a list of them.
        Exception: whatever the libraries raise on broken bytes.
    """
    if (path / _METADATA).is_file():
        bag = _metadata(path / _METADATA)
        files = [path / Path(str(name)).name for name in bag["relative_file_paths"]]
        if absent := [file.name for file in files if not file.is_file()]:
            raise RecordingError(
                f"{path} has no {', '.join(absent)}, which its metadata.yaml lists: copy it there, "
                "or run `ros2 bag reindex` if it was renamed"
            )
        compressed = str(bag.get("compression_mode") or "none").lower() != "none"
        is_mcap = not compressed and all(file.suffix == ".mcap" for file in files)
        return _McapStorage(files) if is_mcap else _RosbagsStorage(path)
    file = _only_file(path) if path.is_dir() else path
    return _McapStorage([file]) if file.suffix == ".mcap" else _RosbagsStorage(file)


def storage_files(folder: Path) -> list[Path]:
    """The storage files in a folder."""
    return sorted(p for p in folder.iterdir() if p.suffix in STORAGE_SUFFIXES)


def _only_file(folder: Path) -> Path:
    files = storage_files(folder)
    if len(files) > 1 and all(file.suffix == ".bag" for file in files):
        raise RecordingError(
            f"{folder} holds {len(files)} ROS 1 bags: name one of them, or make one of all with "
            "`rosbags-convert`"
        )
    if len(files) != 1:
        raise RecordingError(
            f"{folder} has no metadata.yaml and {len(files)} storage files: "
            "run `ros2 bag reindex` on it"
        )
    return files[0]


def _metadata(file: Path) -> dict[str, Any]:
    """What a rosbag2 says about itself."""
    data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        bag: dict[str, Any] = data["rosbag2_bagfile_information"]
        listed, version = bag["relative_file_paths"], int(bag["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"metadata.yaml is none of a rosbag2 ({error!r})") from error
    if version > _NEWEST_METADATA:
        raise ValueError(f"metadata.yaml has version {version}, newer than {_NEWEST_METADATA}")
    if not isinstance(listed, list) or not listed:
        raise ValueError("metadata.yaml lists no files")
    return bag


class _Part(NamedTuple):
    """One mcap file."""

    reader: SeekingReader
    summary: Summary
    statistics: Statistics


class _McapStorage:
    """One mcap file or several in a row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self.is_ros1 = False
        try:
            self._parts = [self._opened(file) for file in files]
            self.topics = [
                _stored(
                    channel,
                    part.summary.schemas.get(channel.schema_id),
                    part.statistics.channel_message_counts.get(channel.id, 0),
                )
                for part in self._parts
                for channel in part.summary.channels.values()
            ]
        except BaseException:
            self._stack.close()
            raise
        filled = [part.statistics for part in self._parts if part.statistics.message_count]
        self.span_ns = (
            min((s.message_start_time for s in filled), default=0),
            max((s.message_end_time + 1 for s in filled), default=0),
        )

    def _opened(self, file: Path) -> _Part:
        stream: IO[bytes] = self._stack.enter_context(file.open("rb"))
        reader = SeekingReader(stream, validate_crcs=True)
        if reader.get_header().profile == "ros1":
            raise RecordingError(
                f"{file} is a ROS 1 recording in an mcap: make a ROS 2 bag of the original .bag "
                "with `rosbags-convert`, or record it anew"
            )
        summary = reader.get_summary()
        if summary is None or summary.statistics is None or not summary.channels:
            return _looked_through(reader)
        return _Part(reader, summary, summary.statistics)

    def messages(
        self, topics: Collection[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[RawMessage]:
        streams = [_part_messages(part.reader, topics, start_ns, stop_ns) for part in self._parts]
        return merge(*streams, key=lambda item: item[1])

    def close(self) -> None:
        self._stack.close()


def _part_messages(
    reader: SeekingReader, topics: Collection[str], start_ns: int | None, stop_ns: int | None
) -> Iterator[RawMessage]:
    found = reader.iter_messages(list(topics), starting_at=start_ns, ending_before=stop_ns)
    for _, channel, message in found:
        yield channel.topic, message.log_time, message.data


def _looked_through(reader: SeekingReader) -> _Part:
    """A file that was written without a summary."""
    summary, counts = Summary(), Counter[int]()
    times = []
    for schema, channel, message in reader.iter_messages():
        summary.channels[channel.id] = channel
        counts[channel.id] += 1
        times.append(message.log_time)
        if schema is not None:
            summary.schemas[schema.id] = schema
    statistics = Statistics(
        attachment_count=0,
        channel_count=len(summary.channels),
        channel_message_counts=dict(counts),
        chunk_count=0,
        message_count=len(times),
        message_end_time=max(times, default=0),
        message_start_time=min(times, default=0),
        metadata_count=0,
        schema_count=len(summary.schemas),
    )
    return _Part(reader, summary, statistics)


def _stored(channel: Channel, schema: Schema | None, count: int) -> StoredTopic:
    latched, best_effort = _offered(channel.metadata.get("offered_qos_profiles", ""))
    name, language, text = "", "", ""
    if schema is not None:
        name = _ros2_name(schema.name)
        is_cdr = channel.message_encoding == "cdr"
        encoding = schema.encoding if is_cdr else channel.message_encoding
        language = _LANGUAGES.get(encoding, encoding)
        text = schema.data.decode(errors="replace") if language in ("msg", "idl") else ""
    return StoredTopic(channel.topic, name, count, language, text, latched, best_effort)


@lru_cache(maxsize=64)  # its parser takes longer than reading many messages
def _offered(profiles: str) -> tuple[bool, bool]:
    try:
        return _qos(parse_qos(profiles))
    except Exception:  # a parser of what anybody may have written; messages do not need it
        return False, False


def _qos(offered: Sequence[Qos]) -> tuple[bool, bool]:
    """Whether a topic was latched, and whether messages might be lost."""
    latched = any(q.durability == QosDurability.TRANSIENT_LOCAL for q in offered)
    return latched, any(q.reliability == QosReliability.BEST_EFFORT for q in offered)


class _RosbagsStorage:
    """A rosbag2 in sqlite, a compressed one, or a ROS 1 bag."""

    def __init__(self, path: Path) -> None:
        self.is_ros1 = path.suffix == ".bag"
        self._reader: Reader1 | Reader2 = Reader1(path) if self.is_ros1 else Reader2(path)
        self._reader.open()
        self.span_ns = self._reader.start_time, self._reader.end_time
        self.topics = [
            StoredTopic(
                c.topic,
                _ros2_name(c.msgtype),
                int(c.msgcount),  # metadata.yaml may say anything
                c.msgdef.format.name.lower().replace("none", ""),
                c.msgdef.data,
                *_qos(getattr(c.ext, "offered_qos_profiles", ())),
            )
            for c in self._reader.connections
        ]

    def messages(
        self, topics: Collection[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[RawMessage]:
        wanted: Any = [c for c in self._reader.connections if c.topic in topics]
        if wanted:  # none of them would give all
            for connection, time, raw in self._reader.messages(wanted, start_ns, stop_ns):
                if connection.topic in topics:  # damaged chunks hold others under their numbers
                    yield connection.topic, time, raw

    def close(self) -> None:
        self._reader.close()


def _ros2_name(msgtype: str) -> str:
    """``sensor_msgs/Image``, as the first releases of ROS 2 wrote it, in today's form."""
    return normalize_msgtype(msgtype) if msgtype.count("/") == 1 else msgtype
