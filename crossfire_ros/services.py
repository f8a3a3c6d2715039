"""What other nodes may order this one to do: a row each in :class:`Services`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Empty, Trigger

from crossfire_core.localization.tracker import Tracker

Order = Callable[[Callable[[Tracker], None]], str]


class Services:
    """The services of a configured node."""

    def __init__(self, node: Node, order: Order, pause: Callable[[bool], str]) -> None:
        """Advertise them.

        Args:
            node: that has them.
            order: has the tracker do something between two images; says why it cannot.
            pause: leaves out images or goes on with them; says why it cannot.
        """
        self._node = node
        rows: tuple[tuple[Any, str, Callable[[], str], str], ...] = (
            (Trigger, "~/relocalize", lambda: order(Tracker.relocalize), "searching the map"),
            (Trigger, "~/reset", lambda: order(Tracker.reset), "back to uninitialized"),
            (Trigger, "~/pause", lambda: pause(True), ""),
            (Trigger, "~/resume", lambda: pause(False), ""),
            (Empty, "reinitialize_global_localization", lambda: order(Tracker.relocalize), ""),
        )
        self._services = [
            node.create_service(kind, name, _answering(act, done)) for kind, name, act, done in rows
        ]

    def withdraw(self) -> None:
        """Take them down."""
        for service in self._services:
            self._node.destroy_service(service)


def _answering(act: Callable[[], str], done: str) -> Callable[[Any, Any], Any]:
    """What a service calls: it acts, and says what became of it where the answer has room."""

    def answer(_: Any, response: Any) -> Any:
        refusal = act()
        if isinstance(response, Trigger.Response):
            response.success, response.message = not refusal, refusal or done
        return response

    return answer
