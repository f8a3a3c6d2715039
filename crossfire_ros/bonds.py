"""The bond by which Nav2's lifecycle manager notices that a node is gone."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

# As Nav2's own nodes have it.
_PERIOD_S, _TIMEOUT_S = 0.1, 4.0


def start_bond(node: Node) -> Any | None:
    """Begin to tell a lifecycle manager that the node lives.

    Args:
        node: whose name the manager knows.

    Returns:
        What has a method ``shutdown``; None where bondpy is not installed.
    """
    try:
        from bondpy.bondpy import Bond
    except ImportError:
        return None
    bond = Bond("bond", node.get_name(), node)
    bond.heartbeat_period, bond.heartbeat_timeout = _PERIOD_S, _TIMEOUT_S
    bond.start()
    return bond
