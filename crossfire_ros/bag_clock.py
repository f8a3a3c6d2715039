"""The time of a bag that is being played: a rate, pauses and jumps over wall-clock time."""

from __future__ import annotations

import threading
import time


class BagClock:
    """Maps the present to a time of the bag; safe to use from several threads."""

    def __init__(self, start_ns: int, rate: float = 1.0, paused: bool = False) -> None:
        """Start at a time of the bag.

        Args:
            start_ns: of the bag.
            rate: seconds of the bag for one second of the wall clock.
            paused: stand still until :meth:`resume`.
        """
        self._lock = threading.Lock()
        self._rate = rate
        self._bag_ns = start_ns
        self._wall_ns = time.monotonic_ns()
        self._paused = paused

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    def now(self) -> int:
        """The present time of the bag, nanoseconds."""
        with self._lock:
            return self._now()

    def jump(self, bag_ns: int) -> None:
        """Go on from another time of the bag."""
        with self._lock:
            self._bag_ns, self._wall_ns = bag_ns, time.monotonic_ns()

    def pause(self) -> None:
        """Stand still."""
        with self._lock:
            self._bag_ns, self._paused = self._now(), True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        with self._lock:
            if self._paused:
                self._wall_ns, self._paused = time.monotonic_ns(), False

    def seconds_until(self, bag_ns: int) -> float:
        """Wall-clock seconds until a time of the bag; not positive once it has come."""
        return (bag_ns - self.now()) * 1e-9 / self._rate

    def _now(self) -> int:
        if self._paused:
            return self._bag_ns
        return self._bag_ns + int((time.monotonic_ns() - self._wall_ns) * self._rate)
