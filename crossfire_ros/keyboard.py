"""Single keys from a terminal."""

from __future__ import annotations

import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call back for each key that is pressed; does nothing where input is no terminal.

    Args:
        on_key: called from another thread with the character.
    """
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    ending = threading.Event()

    def listen() -> None:
        while not ending.is_set():
            if select.select([sys.stdin], [], [], 0.1)[0]:
                on_key(sys.stdin.read(1))

    thread = threading.Thread(target=listen, name="keyboard", daemon=True)
    tty.setcbreak(sys.stdin)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
