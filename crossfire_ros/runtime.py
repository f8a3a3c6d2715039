"""Starting and ending a process that talks ROS."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Sequence
from importlib import resources
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

_LISTEN_S = 0.1
_PATIENCE = 3

N = TypeVar("N", bound=Node)
P = ParamSpec("P")
R = TypeVar("R")

_PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"
_OLD_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # what the releases up to Jazzy read
_OLD_RELEASES = ("humble", "iron", "jazzy")


def use_large_messages() -> None:
    """Let Fast DDS pass whole images through shared memory, unless the user has chosen.

    With its defaults (a segment of 0.5 MB) two processes lose almost every uncompressed image.
    Takes effect only before ``rclpy.init``.
    """
    if os.environ.get(_PROFILE) or os.environ.get(_OLD_PROFILE):
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
        self._interrupting = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked += 1
        if self.asked >= _PATIENCE:  # it hangs, and somebody insists
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._interrupting:
            self._interrupting = False
            raise KeyboardInterrupt

    def interrupting(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function that a signal ends with KeyboardInterrupt.

        For what may take longer than the patience of `ros2 launch` and touches no part of ROS.

        Args:
            function: to be called in the main thread.
        """

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            self._interrupting = True
            if self.asked:
                raise KeyboardInterrupt
            try:
                return function(*args, **kwargs)
            finally:
                self._interrupting = False

        return run


def run_node(
    make: Callable[[Stopper], N],
    start: Callable[[N], None] = lambda node: None,
    args: Sequence[str] | None = None,
) -> None:
    """Spin a node until SIGINT, SIGTERM or the end of its context, then take it down.

    Args:
        make: constructs the node once ROS is up, with what tells it to stop.
        start: called with the node before it spins; may take long.
        args: command line; the process's own if None.
    """
    use_large_messages()
    rclpy.init(
        args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO
    )
    node: N | None = None
    try:
        stopper = Stopper()
        node = make(stopper)
        start(node)
        executor = lean_executor()
        executor.add_node(node)
        while not stopper.asked and rclpy.ok():
            executor.spin_once(timeout_sec=_LISTEN_S)
        executor.shutdown()
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
