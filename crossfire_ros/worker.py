"""One thread that computes, fed by callbacks that do not wait for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Processes the newest item; an item that it has not begun gives way to a newer one.

    Commands are never dropped and run before the next item, all on the same thread, so that
    what they touch needs no locks. The thread lives as long as its owner: numerical libraries
    keep memory for every thread that ever called them.
    """

    def __init__(
        self,
        process: Callable[[T], None],
        tick: Callable[[], None],
        complain: Callable[[Exception], None],
        tick_s: float = 0.2,
    ) -> None:
        """Start the thread.

        Args:
            process: called with each item.
            tick: called again and again, however many items arrive.
            complain: called with what one of the others, or a command, raised; the thread goes on.
            tick_s: time between two ticks, seconds; longer while something is being processed.
        """
        self._process, self._tick, self._tick_s = process, tick, tick_s
        self._complain = complain
        self._condition = threading.Condition()
        self._pending: list[T] = []
        self._commands: deque[Callable[[], None]] = deque()
        self._stopping = self._processing = self._busy = self._held = False
        self._next_tick_s = time.monotonic() + tick_s
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="localization", daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether the thread was told to end; what it still produces is for nobody."""
        return self._stopping

    def submit(self, item: T) -> None:
        """Hand over an item; counts in :attr:`dropped` if another one was waiting."""
        with self._condition:
            self.dropped += len(self._pending)
            self._pending = [item]
            self._condition.notify_all()

    def call(self, command: Callable[[], None]) -> None:
        """Have a command run on the thread."""
        with self._condition:
            self._commands.append(command)
            self._condition.notify_all()

    def clear(self) -> None:
        """Drop the item that waits, and wait for the one in hand; commands are kept."""
        with self._condition:
            self._pending, self.dropped = [], 0
            self._condition.wait_for(lambda: not self._processing)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing runs on the thread meanwhile; begins by waiting for what is in hand."""
        with self._condition:
            self._held = True
            self._condition.wait_for(lambda: not self._busy)
        try:
            yield
        finally:
            with self._condition:
                self._held = False
                self._condition.notify_all()

    def stop(self, patience_s: float) -> bool:
        """End the thread after what it is doing; may be called twice.

        Args:
            patience_s: how long to wait for that, seconds.

        Returns:
            Whether it has ended. A thread that has not ends with the process.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            try:
                work()
            except Exception as error:  # a bug in one image must not end all localization
                self._complain(error)
            with self._condition:
                self._processing = self._busy = False
                self._condition.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            self._condition.wait_for(
                lambda: self._stopping or self._commands or self._pending,
                max(0.0, self._next_tick_s - time.monotonic()),
            )
            self._condition.wait_for(lambda: self._stopping or not self._held)
            if self._stopping:
                return None
            self._busy = True
            if self._commands:
                return self._commands.popleft()
            if time.monotonic() >= self._next_tick_s:
                self._next_tick_s = time.monotonic() + self._tick_s
                return self._tick
            if not self._pending:
                return _nothing
            item = self._pending.pop()
            self._processing = True
            return lambda: self._process(item)


def _nothing() -> None:
    """Woken for nothing."""
