"""What can be said about playing and replaying; needs no ROS."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from crossfire_core.errors import RecordingError
from crossfire_core.recordings.options import RecordingOptions


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    Attributes:
        rate: seconds of the bag for one second of the wall clock.
        start_s: where to begin, seconds from the start of the bag.
        duration_s: how much to play, None to its end.
        loop: begin again at the end.
        paused: wait for ``~/resume`` before the first message.
        topics: only these; empty plays all.
        remap: new names of topics.
        jumps: at which second of playing to go where: (at, to), both from the bag's start.
    """

    rate: float = 1.0
    start_s: float = 0.0
    duration_s: float | None = None
    loop: bool = False
    paused: bool = False
    topics: tuple[str, ...] = ()
    remap: dict[str, str] = field(default_factory=dict)
    jumps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if not self.rate > 0.0:
            raise RecordingError(f"rate is {self.rate:g}, it must be positive")
        if self.start_s < 0.0 or (self.duration_s is not None and not self.duration_s > 0.0):
            raise RecordingError("start must not be negative and duration must be positive")


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay and how.

    Attributes:
        play: of the bag.
        recording: which topics of it.
        parameters: of the node, as for ``-p NAME:=VALUE``.
        params_file: of the node, or None.
        use_odometry: whether the bag's odometry is given to the node.
        map_frame: parent of the transforms that are recorded.
        domain_id: ROS domain to play in, None for one of its own.
        node_command: starts the node.
    """

    play: PlayOptions = field(default_factory=PlayOptions)
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    parameters: tuple[str, ...] = ()
    params_file: Path | None = None
    use_odometry: bool = True
    map_frame: str = "map"
    domain_id: int | None = None
    node_command: tuple[str, ...] = (sys.executable, "-m", "crossfire_ros.start")
