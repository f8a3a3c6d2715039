"""What the node says about itself: `~/status` and `/diagnostics`."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from crossfire_core.localization.tracker import TrackingState, TrackResult
from crossfire_core.localization.uncertainty import sigmas

_LEVELS = {
    TrackingState.UNINITIALIZED: DiagnosticStatus.WARN,
    TrackingState.TRACKING: DiagnosticStatus.OK,
    TrackingState.COASTING: DiagnosticStatus.WARN,
    TrackingState.LOST: DiagnosticStatus.ERROR,
}

_SILENCE_S = 2.0
_REMEMBERED_S = 5.0
# A calibration may come once and for all; the others must keep coming.
_STREAMS = ("image", "odometry")


@dataclass
class Tally:
    """Counts since activation.

    Attributes:
        received: image messages.
        processed: images that the tracker saw.
        fixes: poses published.
        dropped: images that gave way to a newer one.
        stale: images whose stamps were too far from the clock on arrival.
        jumps: fixes that contradicted what was believed before them.
        refused: messages that could not be used, by kind.
        last_refusal: the latest reason.
        refused_at_s: when that was, of the monotonic clock.
        heard_at_s: when each input was last heard, of the monotonic clock.
    """

    received: int = 0
    processed: int = 0
    fixes: int = 0
    dropped: int = 0
    stale: int = 0
    jumps: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_refusal: str = ""
    refused_at_s: float = -math.inf
    heard_at_s: dict[str, float] = field(default_factory=dict)

    def hear(self, kind: str) -> None:
        """Note that a message has come."""
        self.heard_at_s[kind] = time.monotonic()

    def refuse(self, kind: str, reason: str) -> None:
        """Count a message that could not be used."""
        self.refused[kind] += 1
        self.last_refusal, self.refused_at_s = reason, time.monotonic()


@dataclass
class Report:
    """All that a status message is made from.

    Attributes:
        state: of the tracker.
        tally: counts.
        result: of the last image, or None.
        timings_ms: of the last image, by stage.
        fix_age_s: seconds since the stamp of the last fix, NaN without one.
        position_sigma_m: of the present prediction, NaN without one.
        pose_age_ms: from the last fix's image stamp to its publication, NaN without one.
        odometry: what is known of it, in a word.
        missing: which inputs do not arrive, for people; empty if all do.
    """

    state: TrackingState
    tally: Tally
    result: TrackResult | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    fix_age_s: float = math.nan
    position_sigma_m: float = math.nan
    pose_age_ms: float = math.nan
    odometry: str = "off"
    missing: str = ""


def missing_inputs(tally: Tally, topics: Mapping[str, str], now_s: float) -> str:
    """Which inputs are not heard, and for how long; empty if all arrive.

    Args:
        tally: when each was heard.
        topics: full name of the topic of each expected input.
        now_s: of the monotonic clock.
    """
    complaints = []
    for kind, topic in topics.items():
        heard = tally.heard_at_s.get(kind)
        if heard is None:
            complaints.append(f"nothing yet on {topic}")
        elif kind in _STREAMS and now_s - heard > _SILENCE_S:
            complaints.append(f"nothing on {topic} for {now_s - heard:.0f} s")
    return ", ".join(complaints)


def inputs_status(name: str, map_name: str, report: Report, now_s: float) -> DiagnosticStatus:
    """Whether all that the node needs arrives and can be used.

    Args:
        name: of the node.
        map_name: for the hardware id.
        report: what is known.
        now_s: of the monotonic clock.
    """
    tally = report.tally
    complaints = [report.missing] if report.missing else []
    if now_s - tally.refused_at_s < _REMEMBERED_S:
        complaints.append(f"refused: {tally.last_refusal}")
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if complaints else DiagnosticStatus.OK,
        name=f"{name}: inputs",
        message="; ".join(complaints) or "all arrive",
        hardware_id=map_name,
        values=[
            KeyValue(key=f"refused_{kind}", value=str(count))
            for kind, count in sorted(dict(tally.refused).items())
        ],
    )


def inactive_status(name: str, map_name: str) -> DiagnosticStatus:
    """What a node says that is not active, so that no latched status claims more."""
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN,
        name=f"{name}: localization",
        message="inactive: activate the node to localize",
        hardware_id=map_name,
        values=[KeyValue(key="state", value="inactive")],
    )


def status_message(name: str, map_name: str, report: Report) -> DiagnosticStatus:
    """A report as a diagnostic; its level is OK only while tracking.

    Args:
        name: of the node.
        map_name: for the hardware id, which tools group by.
        report: what to say.
    """
    result = report.result
    reason = result.reason if result is not None else ""
    level = _LEVELS[report.state]
    if report.state is TrackingState.COASTING and not reason:
        unconfirmed = math.isnan(report.fix_age_s)
        reason = "initial pose" if unconfirmed else f"no fix for {report.fix_age_s:.1f} s"
    if report.state is TrackingState.TRACKING and reason:
        level = DiagnosticStatus.WARN
    text = report.state.value + (f": {reason}" if reason else "")
    if result is None:
        clues = [report.missing, report.tally.last_refusal]
        text += "".join(f": {clue}" for clue in clues if clue)
    return DiagnosticStatus(
        level=level,
        name=f"{name}: localization",
        message=text,
        hardware_id=map_name,
        values=[KeyValue(key=k, value=v) for k, v in _values(report).items()],
    )


def _values(report: Report) -> dict[str, str]:
    tally, result = report.tally, report.result
    refused = dict(tally.refused)  # another thread may be counting
    estimate = result.estimate if result is not None else None
    values = {
        "state": report.state.value,
        "failures": str(result.failures if result is not None else 0),
        "prior": result.prior.value if result is not None else "none",
        "way": estimate.way.value if estimate is not None else "none",
        "evidence": _number(estimate.evidence if estimate is not None else math.nan, 1),
        "confidence": _number(estimate.confidence if estimate is not None else math.nan, 6),
        "inliers": str(estimate.inliers if estimate is not None else 0),
        "matches": str(estimate.matches if estimate is not None else 0),
        "reprojection_error_px": _number(estimate.residual_px if estimate else math.nan, 2),
        "fix_sigma_m": _number(_sigma(result), 3),
        "position_sigma_m": _number(report.position_sigma_m, 3),
        "fix_age_s": _number(report.fix_age_s, 3),
        "pose_age_ms": _number(report.pose_age_ms, 1),
        "odometry": report.odometry,
        "images_received": str(tally.received),
        "images_processed": str(tally.processed),
        "images_dropped": str(tally.dropped),
        "images_stale": str(tally.stale),
        "fixes": str(tally.fixes),
        "jumps": str(tally.jumps),
        "refused": str(sum(refused.values())),
        "last_refusal": tally.last_refusal,
    }
    values |= {f"refused_{kind}": str(count) for kind, count in sorted(refused.items())}
    return values | {f"{stage}_ms": _number(ms, 1) for stage, ms in report.timings_ms.items()}


def _sigma(result: TrackResult | None) -> float:
    if result is None or result.covariance is None:
        return math.nan
    return sigmas(result.covariance)[0]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "nan"
