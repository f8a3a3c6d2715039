"""Starting and ending a process that talks ROS."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from types import FrameType
from typing import Any, NoReturn, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_default_context

_LISTEN_S = 0.1  # between two looks at Ctrl-C
_PATIENCE = 3  # times that somebody presses Ctrl-C before it ends at once

N = TypeVar("N", bound=Node)

_PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
_OLD_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # what the releases up to Jazzy read
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
_OLD_RELEASES = ("humble", "iron", "jazzy")


def use_large_messages() -> None:
    """Let Fast DDS pass whole images through shared memory, unless the user has chosen.

    With its defaults (a segment of 0.5 MB) two processes lose almost every uncompressed image.
    Takes effect only before ``rclpy.init``. A profile replaces the built-in transports, so that
    a user's choice among those (``LARGE_DATA``, ``UDPv4``) is a choice against it.
    """
    if any(os.environ.get(name) for name in (_PROFILE, _OLD_PROFILE, _TRANSPORTS)):
        return
    variable = _OLD_PROFILE if os.environ.get("ROS_DISTRO") in _OLD_RELEASES else _PROFILE
    os.environ[variable] = str(resources.files("crossfire_ros") / "fastdds.xml")


def lean_executor(context: Context | None = None) -> Any:
    """An executor of one thread, the one of those there are that takes least from a computation.

    The classic one builds a set of all that a node listens to anew for every callback, in Python;
    with 200 messages a second that is a tenth of a core and, worse, of the interpreter's lock. The
    one of events (from Kilted on) does it in C++.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


class Stopper:
    """SIGINT and SIGTERM as a wish that is obeyed between two callbacks.

    ROS's own handlers take the graph away at once, under whatever the node is doing, which then
    fails half-way and leaves shared memory behind.

    Attributes:
        asked: how many signals have come.
    """

    def __init__(self) -> None:
        """Take over both signals; only in the main thread."""
        self.asked = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked += 1
        if self.asked >= _PATIENCE:  # it hangs, and somebody insists
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def run_node(
    make: Callable[[], N],
    start: Callable[[N], None] = lambda node: None,
    args: Sequence[str] | None = None,
) -> None:
    """Spin a node until SIGINT, SIGTERM or the end of its context, then take it down.

    Args:
        make: constructs the node once ROS is up.
        start: called with the node before it spins; must not take long.
        args: command line; the process's own if None.
    """
    use_large_messages()
    rclpy.init(
        args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO
    )
    stopper = Stopper()  # not before there is something to give back: until now signals end it all
    context = get_default_context()
    node: N | None = None
    executor = lean_executor(context)
    try:
        node = make()
        if not stopper.asked:
            start(node)
        executor.add_node(node)
        while not stopper.asked and context.ok():
            executor.spin_once(timeout_sec=_LISTEN_S)
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        context.try_shutdown()
        # Not left to when nothing refers to it: a thread that computes holds on to the node.
        context.destroy()


def leave(code: int) -> NoReturn:
    """End the process without waiting for its threads.

    A computation or an import that is under way can take many seconds, and taking an interpreter
    apart underneath it crashes. All that outlives the process (shared memory, files) has to be
    given back before.

    Args:
        code: exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
