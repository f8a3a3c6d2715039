"""When the node says how it is, and where it has it from; :mod:`.reporting` finds the words."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from crossfire_core.localization.tracker import Tracker
from crossfire_core.localization.uncertainty import sigmas
from crossfire_ros.outputs import latched
from crossfire_ros.reporting import (
    idle_status,
    inputs_status,
    missing_inputs,
    status_message,
    transforms_status,
)

if TYPE_CHECKING:
    from crossfire_ros.localization_node import LocalizationNode


class StatusBoard:
    """Publishes the node's state, also while it does not localize."""

    def __init__(self, node: LocalizationNode) -> None:
        """Advertise."""
        self._node = node
        self._latest = node.create_publisher(DiagnosticStatus, "~/status", latched())
        self._all = node.create_publisher(DiagnosticArray, "/diagnostics", latched())

    def publish(self) -> None:
        """All of it."""
        node, status, more = self._node, self.publish_latest(), []
        if node.tracker is not None or node.active:
            more.append(inputs_status(*self._names, node.report, time.monotonic()))
        if node.tracker is not None:
            complaints = node.health.complaints(node.tracker, node.settings.node, node.buffer)
            more.append(transforms_status(*self._names, complaints))
        array = DiagnosticArray(status=[status, *more])
        array.header.stamp = node.get_clock().now().to_msg()
        self._all.publish(array)

    def publish_latest(self) -> DiagnosticStatus:
        """What changes with each image."""
        tracker = self._node.tracker
        if tracker is None:
            status = idle_status(*self._names, *self._idle())
        else:
            self._refresh(tracker)
            status = status_message(*self._names, self._node.report)
        self._latest.publish(status)
        return status

    @property
    def _names(self) -> tuple[str, str]:
        """Of the node with its namespace, and of the map."""
        return self._node.get_fully_qualified_name().lstrip("/"), self._node.maps.name

    def _idle(self) -> tuple[str, str, bytes]:
        """State, advice and level of a node that does not localize."""
        node, warn = self._node, DiagnosticStatus.WARN
        if node.finalized:
            return "finalized", "the node was shut down: start it again", warn
        if node.maps.loading is not None and node.maps.loaded is None:
            return "loading", f"reads {node.settings.node.map} and compiles kernels", warn
        if node.maps.loaded is not None:
            return "inactive", "activate the node to localize", warn
        if node.failure:
            return "unconfigured", node.failure, DiagnosticStatus.ERROR
        begin = f"ros2 lifecycle set {node.get_fully_qualified_name()} configure, then activate"
        missing = "" if node.settings.node.map else "set the parameter `map`, then "
        return "unconfigured", f"{missing}{begin}", warn

    def _refresh(self, tracker: Tracker) -> None:
        node, report = self._node, self._node.report
        report.tally, report.paused = node.tally, node.paused
        report.map_change = node.maps.change_failed
        if node.maps.loading is not None:
            file = node.maps.loading.file
            report.map_change = f"{file} is being loaded and will take the map's place"
        report.missing = missing_inputs(node.tally, node.inputs.topics, time.monotonic())
        node.tally.dropped = node.worker.dropped
        report.odometry = "off"
        if node.settings.node.use_odometry:
            report.odometry = "none yet" if tracker.odometry.empty else "arrives"
        topic = node.inputs.topics.get("odometry", "")
        _, refusal = node.tally.notes.get("refused odometry", (0.0, ""))
        report.withheld = node.health.withheld(tracker, node.settings.node, topic, refusal)
        report.fix_age_s = report.position_sigma_m = math.nan
        fix = tracker.last_fix
        if fix is not None:
            now = node.get_clock().now().nanoseconds
            report.fix_age_s = (now - fix.stamp_ns) * 1e-9
            prediction = tracker.predict(now)
            if prediction is not None:
                report.position_sigma_m = sigmas(prediction.covariance)[0]
