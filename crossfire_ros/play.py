"""Playing a rosbag2 to a graph where `ros2 bag` is not installed.

Messages go out as the bytes that were recorded. ``/clock`` follows the time of recording.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from crossfire_core.errors import RecordingError
from crossfire_core.recordings.bag_reader import open_raw, raw_messages
from crossfire_core.recordings.bag_storage import StoredTopic
from crossfire_ros.bag_clock import BagClock
from crossfire_ros.conversions import stamp_from_ns
from crossfire_ros.options import PlayOptions

_TICK_S = 0.02  # 50 Hz of /clock
_DISCOVERY_S = 10.0  # for middleware to find listeners
_LATCHED = ("/tf_static",)


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
        with open_raw(path) as storage:
            if storage.is_ros1:
                raise RecordingError(f"{path} is a ROS 1 bag: convert it with rosbags-convert")
            self._start_ns, self._end_ns = storage.span_ns
            topics = list(storage.topics)
        self.skipped: list[str] = []
        self._publishers = self._advertise(topics)
        if not self._publishers:
            raise RecordingError(f"{path} has no topic to play: {_names(topics)}")
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
        with open_raw(self._path) as storage:
            latched = [name for name in self._publishers if name in _LATCHED]
            if latched and start > self._start_ns:
                messages = raw_messages(self._path, storage, latched, self._start_ns, start)
                for topic, _, raw in messages:
                    self._publishers[topic].publish(bytes(raw))
            messages = raw_messages(self._path, storage, list(self._publishers), start, stop)
            for topic, stamp, raw in messages:
                if not self._wait_until(stamp):
                    return
                self._publishers[topic].publish(bytes(raw))
                self.published += 1
                if on_progress is not None:
                    on_progress((stamp - self._start_ns) * 1e-9, self.duration_s)

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

    def _advertise(self, stored: Sequence[StoredTopic]) -> dict[str, Any]:
        publishers: dict[str, Any] = {}
        for topic in stored:
            name, wanted = topic.name, self._options.topics
            if name == "/clock" or name in publishers or (wanted and name not in wanted):
                continue
            kind = message_class(topic.msgtype)
            if kind is None:
                self.skipped.append(f"{name} ({topic.msgtype} is not installed)")
                continue
            renamed = self._options.remap.get(name, name)
            publishers[name] = self._node.create_publisher(kind, renamed, offered_qos(topic))
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
    package, _, name = msgtype.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except (ImportError, ValueError):  # not installed, or no name of ROS 2
        return None


def offered_qos(topic: StoredTopic) -> QoSProfile:
    """The quality of service to publish a recorded topic with.

    As it was offered when recorded. Static transforms are latched whatever the bag says, because
    converters often leave that out and late listeners would get nothing.
    """
    latched = topic.name in _LATCHED or topic.latched
    reliable = latched or not topic.best_effort
    return QoSProfile(
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _names(topics: Sequence[StoredTopic]) -> str:
    return ", ".join(sorted({topic.name for topic in topics})) or "it is empty"
