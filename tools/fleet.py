"""What many tiles cost to train on many machines whose processes die: a simulation.

    python tools/fleet.py --tiles 1000 --workers 100

Each worker takes the next tile and trains it for a time that varies from tile to tile. Workers die
at random; a tile then waits again and goes on from its last checkpoint. Everything that is not
training counts: starting a process, reading the recording, what a death throws away, and workers
that have nothing left to do.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

import numpy as np

from crossfire_core.training.tiles import FIRST_MINUTES, MORE_MINUTES

START_S = 40.0  # a process, its libraries, the recording's list of frames
CHECKPOINT_S = 60.0
SPREAD = 0.3  # of the times of tiles, relative
TILE_MB, INDEX_MB, TRAINING_GB = 9.0, 1.3, 1.5


@dataclass(frozen=True)
class Outcome:
    """How a training went.

    Attributes:
        hours: from begin to end.
        worker_hours: that had to be paid for.
        useful: share of them that was training which counts.
        deaths: of workers.
    """

    hours: float
    worker_hours: float
    useful: float
    deaths: int


def simulate(tiles: int, workers: int, deaths_a_day: float, seed: int = 0) -> Outcome:
    """Train so many tiles.

    Args:
        tiles: how many; the first is trained before all others.
        workers: how many at a time.
        deaths_a_day: of each worker, on average.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    left = list(60.0 * MORE_MINUTES * rng.lognormal(-0.5 * SPREAD**2, SPREAD, tiles - 1))
    work = sum(left) + 60.0 * FIRST_MINUTES
    begin = START_S + 60.0 * FIRST_MINUTES
    free = [begin] * workers  # when each worker has nothing to do, the earliest first
    again: list[tuple[float, float]] = []  # (since when it waits, what is left of it)
    deaths, end = 0, begin
    while left or again:
        now = heapq.heappop(free)
        if again and (again[0][0] <= now or not left):
            since, need = heapq.heappop(again)
            now = max(now, since)
        else:
            need = left.pop()
        died = rng.exponential(86400.0 / deaths_a_day)
        if died < START_S + need:
            deaths += 1
            kept = CHECKPOINT_S * max(0.0, (died - START_S) // CHECKPOINT_S)
            now += died
            heapq.heappush(again, (now, need - kept))
        else:
            now += START_S + need
            end = max(end, now)
        heapq.heappush(free, now)
    paid = workers * (end - begin) + begin
    return Outcome(end / 3600.0, paid / 3600.0, work / paid, deaths)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--deaths-a-day", type=float, default=1.0, help="of each worker")
    given = parser.parse_args()
    found = simulate(given.tiles, given.workers, given.deaths_a_day)
    print(
        f"{given.tiles} tiles, {given.workers} workers: {found.hours:.1f} h, "
        f"{found.worker_hours:.0f} worker hours of which {100 * found.useful:.0f} % count, "
        f"{found.deaths} deaths; {TILE_MB * given.tiles / 1000:.0f} GB of tiles, "
        f"{INDEX_MB * given.tiles / 1000:.1f} GB of index, "
        f"{TRAINING_GB * given.workers:.0f} GB of memory"
    )


if __name__ == "__main__":
    main()
