"""Says whether the node's memory stays flat; prints it over time, and ends with code 1 if not.

``python tools/soak.py --minutes 10`` mixes malformed messages with good ones; the localizer is that
of the tests. ``--map M --bag B`` plays a bag over and over to the node with a real map, in its own
process. ``--map M --activations 20`` loads that map and lets it go again, so many times.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import numpy as np
from nav_msgs.msg import Odometry
from ros_graph import Graph, graph, odometry
from sensor_msgs.msg import Image

from crossfire_core.geometry import Pose
from crossfire_ros.conversions import image_to_message
from crossfire_ros.domains import own_domain
from crossfire_ros.map_loading import load_map
from crossfire_ros.options import PlayOptions, ReplayOptions
from crossfire_ros.replay import replay

PAUSE_S = 0.005
REPORT_S = 10.0


class EnoughError(Exception):
    """The time is over."""


def resident_mb(pid: int | str = "self") -> float:
    """Memory of a process that lies in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """Reports the memory of this process's only child, and raises when the time is over."""

    def __init__(self, minutes: float) -> None:
        """Wait for the first call, which comes when the bag plays."""
        self._minutes, self._begin, self._report = minutes, 0.0, 0.0
        self.base = self.last = 0.0

    def __call__(self, *_: float) -> None:
        """Look, if it is time to."""
        self._begin = self._begin or time.monotonic()
        elapsed = time.monotonic() - self._begin
        if elapsed - self._report < REPORT_S:
            return
        self._report = elapsed
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        (pid,) = " ".join(path.read_text() for path in children).split()
        self.last = resident_mb(pid)
        self.base = self.base or (self.last if elapsed > min(120.0, 20 * self._minutes) else 0.0)
        print(f"{elapsed:6.0f} s {self.last:7.1f} MB", flush=True)
        if elapsed > 60 * self._minutes:
            raise EnoughError


def drive(map_file: Path, bag: Path, minutes: float) -> float:
    """Play a bag to the node over and over; MB by which it has grown after warming up."""
    watch = Watch(minutes)
    with contextlib.suppress(EnoughError):
        replay(map_file, bag, ReplayOptions(PlayOptions(loop=True)), print, watch)
    return watch.last - watch.base


def activate(map_file: Path, times: int) -> float:
    """Load a map and let it go again; MB a time by which that grows, the first half left out."""
    seen = []
    with graph(load=load_map, map=str(map_file)) as g:
        for number in range(times):
            g.ready()
            g.process_image()
            g.node.trigger_deactivate()
            g.node.trigger_cleanup()
            gc.collect()
            seen.append(resident_mb())
            print(f"{number + 1:3d} {seen[-1]:7.1f} MB", flush=True)
    first = len(seen) // 2
    return (seen[-1] - seen[first]) / max(1, len(seen) - 1 - first)


def send_something(g: Graph, number: int) -> None:
    """One message, in seven of ten cases a broken one."""
    kind = number % 10
    image = g.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    message = image_to_message(image, "camera", g.tick())
    if kind == 0:
        message.step = 7
    elif kind == 1:
        message.encoding = f"unknown_{number % 50}"
    elif kind == 2:
        message.data = message.data[:100]
    elif kind == 3:
        message.header.frame_id = f"frame_{number % 50}"
    elif kind == 4:
        message = image_to_message(image[:20], "camera", g.stamp)
    if kind < 7:
        g.publisher("image", Image).publish(message)
        return
    broken = odometry(Pose.identity(), g.tick(), child="base_link" if kind == 9 else "wheel")
    if kind == 8:
        broken.child_frame_id, broken.pose.pose.position.x = "base_link", float("nan")
    g.publisher("odom", Odometry).publish(broken)


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--allowance-mb", type=float, default=10.0)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--activations", type=int, default=20)
    given = parser.parse_args()
    if given.map and given.bag:
        grown = drive(given.map, given.bag, given.minutes)
        print(f"grown {grown:+.1f} MB")
        return int(grown > given.allowance_mb)
    with own_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        if given.map:
            grown = activate(given.map, given.activations)
            print(f"grown {grown:+.2f} MB a time")
            return int(grown > given.allowance_mb / given.activations)
        return soak(given.minutes, given.allowance_mb)


def soak(minutes: float, allowance_mb: float) -> int:
    """Send messages for some minutes.

    Args:
        minutes: how long.
        allowance_mb: growth of resident memory after warming up that is let pass.

    Returns:
        The exit code.
    """
    with graph(path_length=100) as g:
        g.tracking()
        begin = report = time.monotonic()
        base, number = 0.0, 0
        while time.monotonic() - begin < 60 * minutes:
            send_something(g, number)
            number += 1
            g.executor.spin_once(timeout_sec=PAUSE_S)
            while time.time_ns() < g.stamp:  # stamps ahead of the clock would be refused
                g.executor.spin_once(timeout_sec=PAUSE_S)
            for topic in g.received.values():
                del topic[:-10]
            g.localizer.priors.clear()
            # By then the history of the odometry is full.
            warm = time.monotonic() - begin > min(120.0, 20 * minutes)
            base = base or (resident_mb() if warm else 0.0)
            if time.monotonic() - report > REPORT_S:
                report = time.monotonic()
                said = f"{report - begin:6.0f} s {number:8d} messages {resident_mb():7.1f} MB"
                print(said, flush=True)
        grown = resident_mb() - base
        tally = g.node.tally
        print(f"fixes {tally.fixes}, refused {dict(tally.refused)}, grown {grown:+.1f} MB")
    return int(grown > allowance_mb or tally.fixes == 0)


if __name__ == "__main__":
    sys.exit(main())
