"""Minutes of malformed messages mixed with good ones; says whether the node's memory stays flat.

``python tools/soak.py --minutes 10`` prints resident memory over time and ends with code 1 if it
grew by more than the allowance after it had warmed up. The localizer is that of the tests.
"""

from __future__ import annotations

import argparse
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

PAUSE_S = 0.005


def resident_mb() -> float:
    """Memory of this process that lies in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


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
    given = parser.parse_args()
    with own_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
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
            if time.monotonic() - report > 10.0:
                report = time.monotonic()
                print(f"{report - begin:6.0f} s {number:8d} messages {resident_mb():7.1f} MB")
        grown = resident_mb() - base
        tally = g.node.tally
        print(f"fixes {tally.fixes}, refused {dict(tally.refused)}, grown {grown:+.1f} MB")
    return int(grown > allowance_mb or tally.fixes == 0)


if __name__ == "__main__":
    sys.exit(main())
