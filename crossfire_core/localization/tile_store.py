"""Which tiles of a place are in memory."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
_FEWEST = 2  # the tile in use and the next one are kept, whatever they take


class TileStore(Generic[T]):
    """Tiles by their numbers; those used longest ago make room for others."""

    def __init__(
        self, load: Callable[[int], T], size_of: Callable[[T], int], most_bytes: int
    ) -> None:
        """Begin with none.

        Args:
            load: reads a tile; called from the thread that waits for it, or from one in the
                background.
            size_of: what a tile takes in memory, bytes.
            most_bytes: how much all of them may take.
        """
        self._load, self._size_of, self._most = load, size_of, most_bytes
        self._lock = threading.Lock()
        self._tiles: OrderedDict[int, Future[T]] = OrderedDict()  # the last one used is last
        self._sizes: dict[int, int] = {}
        self._background: ThreadPoolExecutor | None = None

    def get(self, number: int) -> T:
        """A tile; waited for where it is not in memory yet.

        Raises:
            Exception: what reading it raises; the next call tries again.
        """
        future, mine = self._entry(number)
        with self._lock:
            self._tiles[number] = future
            self._tiles.move_to_end(number)
        if mine:
            self._fill(number, future)
        return future.result()

    def prefetch(self, number: int) -> None:
        """Have a tile read in the background, unless it is in memory or on its way."""
        future, mine = self._entry(number)
        if not mine:
            return
        if self._background is None:
            self._background = ThreadPoolExecutor(1, "tile")
        self._background.submit(self._fill, number, future)

    def loaded(self) -> list[int]:
        """Numbers of the tiles that are in memory, that used last being last."""
        with self._lock:
            return [number for number in self._tiles if number in self._sizes]

    def _entry(self, number: int) -> tuple[Future[T], bool]:
        """A tile's future, and whether the caller has to fill it."""
        with self._lock:
            future = self._tiles.get(number)
            if future is not None:
                return future, False
            future = Future()
            self._tiles[number] = future
            if len(self._tiles) > 1:  # one that is only expected does not come before that in use
                self._tiles.move_to_end(next(reversed([n for n in self._tiles if n != number])))
            return future, True

    def _fill(self, number: int, future: Future[T]) -> None:
        try:
            tile = self._load(number)
        except BaseException as error:
            with self._lock:
                self._tiles.pop(number, None)
            future.set_exception(error)
            return
        with self._lock:
            self._sizes[number] = self._size_of(tile)
            gone = self._make_room(number)
        future.set_result(tile)
        if gone:
            give_back()

    def _make_room(self, new: int) -> bool:
        """Let go of those used longest ago, but neither of that in use nor of the new one."""
        gone = False
        for number in list(self._tiles)[:-1]:
            if sum(self._sizes.values()) <= self._most or len(self._sizes) <= _FEWEST:
                break
            if number != new and number in self._sizes:
                del self._tiles[number], self._sizes[number]
                gone = True
        return gone


def give_back() -> None:
    """Free what nobody needs any more, and hand it back to the system where that can be asked for.

    A localizer refers to itself, so it stays until Python looks for such; and glibc keeps what
    was freed for later, in every thread's heap by itself.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library
        return
