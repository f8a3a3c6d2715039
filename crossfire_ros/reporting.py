"""What the node says about itself: `~/status` and `/diagnostics`."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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

_SILENCE_S = 2.0  # a stream silent for longer is a warning
_REMEMBERED_S = 5.0  # a note stays so long for a viewer that looks once a second
Level = bytes
Complaint = tuple[Level, str]
# A calibration may come once and for all; the others must keep coming. What a camera of several
# gives has its name behind it.
_STREAMS = ("image", "odometry")


@dataclass
class Tally:
    """Counts since activation.

    Attributes:
        received: image messages.
        processed: images that the tracker saw.
        fixes: poses published.
        dropped: images that gave way to a newer one.
        skipped: images not looked at by intention: paused, too soon, the robot stands, or the map
            is still being loaded.
        stale: images whose stamps were too far from the clock on arrival.
        jumps: fixes that contradicted what was believed before them.
        refused: messages that could not be used, by kind.
        last_refusal: the latest reason.
        heard_at_s: when each input was last heard, of the monotonic clock.
        notes: what is wrong with an input, by what it is about: when that was seen last, of the
            monotonic clock, and a sentence with its remedy.
    """

    received: int = 0
    processed: int = 0
    fixes: int = 0
    dropped: int = 0
    skipped: int = 0
    stale: int = 0
    jumps: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_refusal: str = ""
    heard_at_s: dict[str, float] = field(default_factory=dict)
    notes: dict[str, tuple[float, str]] = field(default_factory=dict)

    def hear(self, kind: str) -> None:
        """Note that a message has come."""
        self.heard_at_s[kind] = time.monotonic()

    def refuse(self, kind: str, reason: str) -> None:
        """Count a message that could not be used."""
        self.refused[kind] += 1
        self.last_refusal = reason
        self.note(f"refused {kind}", f"refused: {reason}")

    def note(self, about: str, text: str) -> None:
        """Remember for a while that something is wrong with an input; nothing if empty."""
        if text:
            self.notes[about] = (time.monotonic(), text)

    def noted(self, now_s: float) -> list[str]:
        """What was wrong lately.

        Args:
            now_s: of the monotonic clock.
        """
        return [text for at_s, text in list(self.notes.values()) if now_s - at_s < _REMEMBERED_S]


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
        withheld: why the transform does not go out although it should, for people; empty if all
            is well.
        paused: whether images are left alone because somebody asked for it.
        map_change: another map on its way, or why it does not come, for people; empty for none.
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
    withheld: str = ""
    paused: bool = False
    map_change: str = ""


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
            usable = " usable" if tally.refused.get(kind) else ""
            complaints.append(f"nothing{usable} yet on {topic}")
        elif kind.split()[0] in _STREAMS and now_s - heard > _SILENCE_S:
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
    missing = [report.missing] if report.missing and not report.paused else []
    complaints = [*missing, *tally.noted(now_s)]
    return _status(
        f"{name}: inputs",
        map_name,
        DiagnosticStatus.WARN if complaints else DiagnosticStatus.OK,
        "; ".join(complaints) or "all arrive",
        {f"refused_{kind}": str(n) for kind, n in sorted(dict(tally.refused).items())},
    )


def transforms_status(
    name: str, map_name: str, complaints: Sequence[Complaint]
) -> DiagnosticStatus:
    """Whether the tree of frames is one that others can rely on.

    Args:
        name: of the node.
        map_name: for the hardware id.
        complaints: what is wrong with it, each with its remedy.
    """
    level = max((level for level, _ in complaints), default=DiagnosticStatus.OK)
    text = "; ".join(text for _, text in complaints) or "consistent"
    return _status(f"{name}: transforms", map_name, level, text, {})


def idle_status(
    name: str, map_name: str, state: str, text: str, level: Level = DiagnosticStatus.WARN
) -> DiagnosticStatus:
    """What a node says that is not active, so that no latched status claims more.

    Args:
        name: of the node.
        map_name: for the hardware id.
        state: of its life, in a word.
        text: what to do.
        level: of :class:`DiagnosticStatus`.
    """
    return _status(f"{name}: localization", map_name, level, f"{state}: {text}", {"state": state})


def status_message(name: str, map_name: str, report: Report) -> DiagnosticStatus:
    """A report as a diagnostic; its level is OK only while tracking.

    Args:
        name: of the node.
        map_name: for the hardware id, which tools group by.
        report: what to say.
    """
    level, text = _judge(report)
    if report.result is None:
        clues = [report.missing, report.tally.last_refusal]
        text += "".join(f": {clue}" for clue in clues if clue)
    return _status(f"{name}: localization", map_name, level, text, _values(report))


def _judge(report: Report) -> tuple[Level, str]:
    """The level and the sentence of the main status."""
    level, reason = _LEVELS[report.state], report.result.reason if report.result else ""
    if report.state is TrackingState.COASTING and not reason:
        unconfirmed = math.isnan(report.fix_age_s)
        reason = "initial pose" if unconfirmed else f"no fix for {report.fix_age_s:.1f} s"
    if report.state.localized:
        reason = report.withheld or reason
        level = DiagnosticStatus.WARN if reason else level
    if report.paused:
        level = max(level, DiagnosticStatus.WARN)
        reason = "paused, call ~/resume to go on" + (f", {reason}" if reason else "")
    if report.map_change:
        level = max(level, DiagnosticStatus.WARN)
        reason = f"{report.map_change}; {reason}" if reason else report.map_change
    return level, report.state.value + (f": {reason}" if reason else "")


def _status(
    name: str, map_name: str, level: Level, text: str, values: Mapping[str, str]
) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=name, message=text, hardware_id=map_name, values=pairs
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
        **{f"camera_{name}": why for name, why in (result.left_out if result else {}).items()},
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
        "images_skipped": str(tally.skipped),
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
