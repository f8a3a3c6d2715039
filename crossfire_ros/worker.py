"""One thread that computes, fed by callbacks that do not wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Processes the newest item; an item that it has not begun gives way to a newer one.

    Commands are never dropped and run before the next item, all on the same thread, so that
    what they touch needs no locks.
    """

    def __init__(
        self,
        process: Callable[[T], None],
        idle: Callable[[], None],
        complain: Callable[[Exception], None],
        idle_s: float = 0.2,
    ) -> None:
        """Start the thread.

        Args:
            process: called with each item.
            idle: called when nothing has arrived for a while.
            complain: called with what one of the others, or a command, raised; the thread goes on.
            idle_s: how long a while is, seconds.
        """
        self._process, self._idle, self._idle_s = process, idle, idle_s
        self._complain = complain
        self._condition = threading.Condition()
        self._pending: list[T] = []
        self._commands: deque[Callable[[], None]] = deque()
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="localization", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over an item; counts in :attr:`dropped` if another one was waiting."""
        with self._condition:
            self.dropped += len(self._pending)
            self._pending = [item]
            self._condition.notify()

    def call(self, command: Callable[[], None]) -> None:
        """Have a command run on the thread."""
        with self._condition:
            self._commands.append(command)
            self._condition.notify()

    def stop(self) -> None:
        """End the thread after what it is doing; may be called twice."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            try:
                work()
            except Exception as error:  # a bug in one image must not end all localization
                self._complain(error)

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            self._condition.wait_for(
                lambda: self._stopping or self._commands or self._pending, self._idle_s
            )
            if self._stopping:
                return None
            if self._commands:
                return self._commands.popleft()
            if self._pending:
                item = self._pending.pop()
                return lambda: self._process(item)
            return self._idle
