"""Playing a rosbag2 to a graph where `ros2 bag` is not installed.

Messages go out as the bytes that were recorded. ``/clock`` follows the time of recording.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader
from rosbags.highlevel.anyreader import AnyReaderError
from rosbags.interfaces import Connection, QosDurability, QosReliability
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from crossfire_core.errors import RecordingError
from crossfire_ros.bag_clock import BagClock
from crossfire_ros.conversions import stamp_from_ns
from crossfire_ros.options import PlayOptions

_TICK_S = 0.02
_DISCOVERY_S = 10.0
_LATCHED = ("/tf_static",)


@contextmanager
def open_raw(path: Path) -> Iterator[AnyReader]:
    """Open a rosbag2 for reading bytes.

    Raises:
        RecordingError: no rosbag2, or a damaged one.
    """
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED))
        reader.open()
    except (AnyReaderError, ReaderError, OSError, ValueError) as error:
        raise RecordingError(f"cannot play {path}: {str(error).splitlines()[0]}") from error
    try:
        if reader.is2 is False:
            raise RecordingError(f"{path} is a ROS 1 bag: convert it with rosbags-convert")
        yield reader
    finally:
        reader.close()


class Player:
    """Publishes one bag through a node that somebody else spins."""

    def __init__(self, node: Node, path: Path, options: PlayOptions) -> None:
        """Advertise the topics of the bag.

        Args:
            node: to publish through.
            path: the bag.
            options: how to play it.

        Raises:
            RecordingError: the bag cannot be read, or has none of the topics.
        """
        self._node, self._path, self._options = node, path, options
        with open_raw(path) as reader:
            self._start_ns, self._end_ns = reader.start_time, reader.end_time
            connections = list(reader.connections)
        self.skipped: list[str] = []
        self._publishers = self._advertise(connections)
        if not self._publishers:
            raise RecordingError(f"{path} has no topic to play: {_names(connections)}")
        begin = self._start_ns + int(options.start_s * 1e9)
        if begin >= self._end_ns:
            raise RecordingError(f"{path} is {self.duration_s:.1f} s long, start lies behind that")
        for at_s, to_s in options.jumps:
            if not (0.0 <= at_s <= self.duration_s and 0.0 <= to_s < self.duration_s):
                raise RecordingError(
                    f"{path} is {self.duration_s:.1f} s long, jump {at_s:g}:{to_s:g} leaves it"
                )
        self.clock = BagClock(begin, options.rate, paused=True)  # until run()
        self._began = 0.0
        self._clock_publisher = node.create_publisher(Clock, "/clock", 10)
        self._stopping = threading.Event()
        self.published = 0
        node.create_service(Trigger, "~/pause", self._on_pause)
        node.create_service(Trigger, "~/resume", self._on_resume)

    @property
    def duration_s(self) -> float:
        """Length of the bag."""
        return (self._end_ns - self._start_ns) * 1e-9

    @property
    def topics(self) -> Sequence[str]:
        """Names under which it publishes."""
        return sorted(self._options.remap.get(name, name) for name in self._publishers)

    @property
    def played_s(self) -> float:
        """Seconds of playing since :meth:`run` began, jumps and pauses included."""
        if not self._began:
            return 0.0
        return (time.monotonic() - self._began) * self._options.rate

    def stop(self) -> None:
        """End :meth:`run` soon; may be called from another thread."""
        self._stopping.set()

    def wait_for_listeners(self, topics: Sequence[str], timeout_s: float = _DISCOVERY_S) -> bool:
        """Wait until somebody listens to each of some topics.

        Args:
            topics: as the bag names them, or /clock; those it does not have are left out.
            timeout_s: how long to wait.

        Returns:
            Whether all of them are heard.
        """
        known = {**self._publishers, "/clock": self._clock_publisher}
        waiting = [known[name] for name in topics if name in known]
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._stopping.is_set():
            if all(p.get_subscription_count() > 0 for p in waiting):
                return True
            self._tick()
            self._stopping.wait(_TICK_S)
        return False

    def wait_for_anybody(self, timeout_s: float = _DISCOVERY_S) -> bool:
        """Wait until somebody listens to any topic."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._stopping.is_set():
            if any(p.get_subscription_count() > 0 for p in self._publishers.values()):
                return True
            self._stopping.wait(_TICK_S)
        return False

    def run(self, on_progress: Callable[[float, float], None] | None = None) -> None:
        """Play until the end, or for ever with ``loop``; blocks.

        Args:
            on_progress: told (seconds played, seconds in all) now and then.

        Raises:
            RecordingError: the bag is damaged.
        """
        begin = self._start_ns + int(self._options.start_s * 1e9)
        end = self._end_ns + 1
        if self._options.duration_s is not None:
            end = min(end, begin + int(self._options.duration_s * 1e9))
        if not self._options.paused:
            self.clock.resume()
        self._began = time.monotonic()
        while not self._stopping.is_set():
            for start, stop in self._segments(begin, end):
                self.clock.jump(start)
                self._play(start, stop, on_progress)
            if not self._options.loop:
                return

    def _segments(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The stretches of the bag between jumps."""
        segments = []
        for at_s, to_s in self._options.jumps:
            at = self._start_ns + int(at_s * 1e9)
            segments.append((begin, at))
            begin = self._start_ns + int(to_s * 1e9)
        return [*segments, (begin, end)]

    def _play(self, start: int, stop: int, on_progress: Callable[..., None] | None) -> None:
        with open_raw(self._path) as reader:
            wanted = [c for c in reader.connections if c.topic in self._publishers]
            latched = [c for c in wanted if c.topic in _LATCHED]
            if latched and start > self._start_ns:
                self._publish_all(reader, latched, self._start_ns, start)
            for connection, stamp, raw in _messages(reader, wanted, start, stop, self._path):
                if not self._wait_until(stamp):
                    return
                self._publishers[connection.topic].publish(bytes(raw))
                self.published += 1
                if on_progress is not None:
                    on_progress((stamp - self._start_ns) * 1e-9, self.duration_s)

    def _publish_all(
        self, reader: AnyReader, connections: list[Connection], start: int, stop: int
    ) -> None:
        for connection, _, raw in _messages(reader, connections, start, stop, self._path):
            self._publishers[connection.topic].publish(bytes(raw))

    def _wait_until(self, stamp: int) -> bool:
        """Tick the clock until a time of the bag has come; False if told to stop."""
        while not self._stopping.is_set():
            self._tick()
            left = self.clock.seconds_until(stamp)
            if left <= 0.0:
                return True
            self._stopping.wait(_TICK_S if self.clock.paused else min(left, _TICK_S))
        return False

    def _tick(self) -> None:
        """Publish the time, fifty times a second at most."""
        wall = time.monotonic()
        if wall - getattr(self, "_ticked", 0.0) >= _TICK_S * 0.9:
            self._ticked = wall
            self._clock_publisher.publish(Clock(clock=stamp_from_ns(self.clock.now())))

    def _advertise(self, connections: Sequence[Connection]) -> dict[str, Any]:
        publishers: dict[str, Any] = {}
        for connection in connections:
            topic, wanted = connection.topic, self._options.topics
            if topic == "/clock" or topic in publishers or (wanted and topic not in wanted):
                continue
            kind = message_class(connection.msgtype)
            if kind is None:
                self.skipped.append(f"{topic} ({connection.msgtype} is not installed)")
                continue
            name = self._options.remap.get(topic, topic)
            publishers[topic] = self._node.create_publisher(kind, name, offered_qos(connection))
        return publishers

    def _on_pause(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self.clock.pause()
        answer.success, answer.message = True, "paused"
        return answer

    def _on_resume(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self.clock.resume()
        answer.success, answer.message = True, "playing"
        return answer


def message_class(msgtype: str) -> Any | None:
    """The Python class of a type named ``package/msg/Name``, or None where it is not installed."""
    package, _, name = msgtype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


def offered_qos(connection: Connection) -> QoSProfile:
    """The quality of service to publish a recorded topic with.

    As it was offered when recorded. Static transforms are latched whatever the bag says, because
    converters often leave that out and late listeners would get nothing.
    """
    recorded = getattr(connection.ext, "offered_qos_profiles", None) or []
    latched = connection.topic in _LATCHED or any(
        q.durability == QosDurability.TRANSIENT_LOCAL for q in recorded
    )
    reliable = latched or all(q.reliability != QosReliability.BEST_EFFORT for q in recorded)
    return QoSProfile(
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _messages(
    reader: AnyReader, connections: Sequence[Connection], start: int, stop: int, path: Path
) -> Iterator[tuple[Connection, int, bytes]]:
    stream = reader.messages(connections, start, stop)
    while True:
        try:
            item = next(stream, None)
        except Exception as error:  # storage libraries raise many kinds on damaged files
            text = str(error).splitlines() or [type(error).__name__]
            raise RecordingError(f"{path} is damaged: {text[0]}") from error
        if item is None:
            return
        yield item


def _names(connections: Sequence[Connection]) -> str:
    return ", ".join(sorted({c.topic for c in connections})) or "it is empty"
