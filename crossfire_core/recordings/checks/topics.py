"""Topics of a bag: rates, gaps, clocks, repeated images."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.recordings.bag_reader import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    POSE_TYPES,
    TF_TYPE,
    BagMessage,
    Topic,
    open_bag,
)
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.messages import stamp_ns

_KNOWN_TYPES = (*IMAGE_TYPES, CAMERA_INFO_TYPE, TF_TYPE, *POSE_TYPES)
_SMALLEST_GAP_S = 0.5  # shorter ones cost a robot nothing
_GAP_PERIODS = 5.0  # a gap is so many usual ones
_SLOW_HZ = 2.0  # of images: a robot moves half a metre between two
_JUMP_BACK_S = 1e-3  # less is rounding
_CLOCK_OFFSET_S = 0.1  # between stamps and arrival: 5 cm at half a metre a second
_FROZEN_SHARE = 0.2  # RGB-D drivers repeat a tenth of theirs


@dataclass
class TopicStats:
    """One topic over time.

    Attributes:
        name: of the topic.
        msgtype: of its messages.
        count: of messages.
        stamps_ns: of the headers, in order of recording; empty for types without interest here.
        logged_ns: times of recording, as many.
        repeated: images whose bytes are those of the image before.
    """

    name: str
    msgtype: str
    count: int
    stamps_ns: list[int] = field(default_factory=list)
    logged_ns: list[int] = field(default_factory=list)
    repeated: int = 0
    _last_image: int | None = None

    def add(self, message: BagMessage) -> None:
        """Take in one message."""
        self.stamps_ns.append(_stamp(message))
        self.logged_ns.append(message.key[0])
        if self.msgtype in IMAGE_TYPES:
            checksum = zlib.crc32(np.asarray(message.content.data, np.uint8).tobytes())
            self.repeated += checksum == self._last_image
            self._last_image = checksum

    @property
    def is_latched(self) -> bool:
        """Whether it is published once, so that rates and gaps mean nothing."""
        return self.name.endswith("tf_static")

    @property
    def steps_s(self) -> NDArray[np.float64]:
        """Seconds from stamp to stamp, in order of recording."""
        stamps = np.array(self.stamps_ns, dtype=np.int64)
        return np.asarray((stamps[1:] - stamps[:-1]) * 1e-9)

    @property
    def rate_hz(self) -> float:
        """Messages a second by the median step, 0 where that is unknown."""
        steps = self.steps_s[self.steps_s > 0]
        return float(1.0 / np.median(steps)) if len(steps) else 0.0

    @property
    def delay_s(self) -> float:
        """Median time from stamp to recording."""
        if not self.stamps_ns:
            return 0.0
        return float(np.median(np.subtract(self.logged_ns, self.stamps_ns))) * 1e-9

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        forward = self.steps_s[self.steps_s > 0]
        return {
            "name": self.name,
            "type": self.msgtype,
            "count": self.count,
            "rate_hz": self.rate_hz,
            "longest_gap_s": float(forward.max()) if len(forward) else None,
            "steps_back": int((self.steps_s < -_JUMP_BACK_S).sum()),
        }


def read_topics(path: Path) -> list[TopicStats]:
    """Statistics of all topics of a bag.

    Raises:
        RecordingError: the bag is damaged.
    """
    with open_bag(path) as bag:
        stats = {t.name: TopicStats(t.name, t.msgtype, t.count) for t in bag.topics.values()}
        for message in bag.messages([t.name for t in bag.topics.values() if _is_known(t)]):
            stats[message.topic].add(message)
    return sorted(stats.values(), key=lambda topic: topic.name)


def judge_topics(topics: Sequence[TopicStats]) -> list[Finding]:
    """What is wrong with rates and clocks."""
    timed = [t for t in topics if t.stamps_ns and not t.is_latched]
    findings = [found for topic in timed for found in _judge_time(topic)]
    images = [t for t in timed if t.msgtype in IMAGE_TYPES]
    findings += [found for topic in images for found in _judge_images(topic)]
    findings += _judge_clocks(timed)
    if not findings and images:
        rates = ", ".join(f"{t.name} {t.rate_hz:.1f} Hz" for t in images)
        findings.append(good("time", f"no gaps and no clock jumps; {rates}"))
    return findings


def _is_known(topic: Topic) -> bool:
    return topic.msgtype in _KNOWN_TYPES


def _stamp(message: BagMessage) -> int:
    if hasattr(message.content, "header"):
        return message.stamp_ns
    transforms = message.content.transforms
    return stamp_ns(transforms[0].header) if transforms else message.key[0]


def _judge_time(topic: TopicStats) -> list[Finding]:
    findings = []
    steps = topic.steps_s
    if topic.msgtype != TF_TYPE and (back := np.flatnonzero(steps < -_JUMP_BACK_S)).size:
        findings.append(
            error(
                "clock_jump",
                f"the stamps of {topic.name} jump back {len(back)} times, first by "
                f"{-steps[back[0]]:.2f} s: the recording was looped, or a clock was set",
            )
        )
    period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    longest = max(_SMALLEST_GAP_S, _GAP_PERIODS * period)
    if topic.msgtype != CAMERA_INFO_TYPE and (gaps := np.flatnonzero(steps > longest)).size:
        after = (topic.stamps_ns[gaps[0]] - topic.stamps_ns[0]) * 1e-9
        findings.append(
            warning(
                "gap",
                f"{topic.name} pauses {len(gaps)} times, up to {steps[gaps].max():.1f} s, first "
                f"after {after:.1f} s: the recorder or the driver lost messages",
            )
        )
    return findings


def _judge_images(topic: TopicStats) -> list[Finding]:
    findings = []
    if 0 < topic.rate_hz < _SLOW_HZ:
        findings.append(
            warning(
                "rate",
                f"{topic.name} has {topic.rate_hz:.1f} images a second: record at least "
                f"{_SLOW_HZ:g}, or drive slowly",
            )
        )
    if topic.repeated > _FROZEN_SHARE * topic.count:
        findings.append(
            warning(
                "frozen",
                f"{topic.repeated} of {topic.count} images on {topic.name} repeat the one before: "
                "the camera or its driver froze",
            )
        )
    return findings


def _judge_clocks(topics: Sequence[TopicStats]) -> list[Finding]:
    """Stamps of one clock are recorded after about one delay, whatever the topic."""
    if not topics:
        return []
    delays = {t.name: t.delay_s for t in topics}
    late, early = max(delays, key=lambda n: delays[n]), min(delays, key=lambda n: delays[n])
    apart = delays[late] - delays[early]
    if apart < _CLOCK_OFFSET_S:
        return []
    return [
        warning(
            "clocks",
            f"stamps of {early} and {late} differ by {apart:.2f} s for messages recorded at one "
            "time: synchronise the clocks, or stamp images when they are taken",
        )
    ]
