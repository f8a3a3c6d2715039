"""What a replay showed: figures for machines, a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.evaluation import plots
from crossfire_core.evaluation.metrics import FrameError, median, position_sigma
from crossfire_core.files import write_bytes, write_text
from crossfire_core.geometry import Pose, Trajectory
from crossfire_core.recordings.lazy import Recording
from crossfire_core.reports import html
from crossfire_core.reports.html import Picture
from crossfire_core.reports.plots import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    RED,
    TopView,
    figure,
    png,
    style,
)
from crossfire_ros.offline import OfflineStep

if TYPE_CHECKING:  # it needs ROS, the offline part of this report does not
    from crossfire_ros.recorder import Recorded

# A pose further off than this whose covariance claims to be better than that misleads a robot.
WRONG_M, CONFIDENT_M = 0.5, 0.1
_SLACK_S = 0.2  # an image was taken before its answer came
_LOCALIZED = ("tracking", "coasting")
_COLOURS = {"tracking": GREEN, "coasting": BLUE, "lost": RED, "uninitialized": ORANGE}


@dataclass(frozen=True)
class ReplayOutcome:
    """A replay held against the truth.

    Attributes:
        recorded: what the node published, None where it was not run.
        offline: the same tracker without ROS, None where it was not run.
        truth: ``map_from_base`` over time.
        odometry: ``odom_from_base`` over time, None where the node got none.
        frames: images in the bag.
        jumps: (at, to) seconds of the bag where playing jumped.
        start_s: second of the bag where playing began.
        context: what was run.
    """

    recorded: Recorded | None
    offline: Sequence[OfflineStep] | None
    truth: Trajectory
    frames: int
    jumps: Sequence[tuple[float, float]] = ()
    start_s: float = 0.0
    context: dict[str, Any] = field(default_factory=dict)
    odometry: Trajectory | None = None

    def live_errors(self) -> list[FrameError]:
        """Published poses against the truth at their stamps."""
        if self.recorded is None:
            return []
        found = [(p, self.truth.at(p.stamp_ns)) for p in self.recorded.poses]
        return [
            frame_error(p.stamp_ns, p.map_from_base, truth, p.covariance)
            for p, truth in found
            if truth is not None
        ]

    def offline_errors(self) -> list[FrameError]:
        """Fixes of the offline run against the truth."""
        return [
            frame_error(s.result.stamp_ns, s.result.map_from_base, s.truth, s.result.covariance)
            for s in self.offline or ()
            if s.result.map_from_base is not None and s.truth is not None
        ]

    def transform_errors(self) -> list[float]:
        """How far off the robot is by ``/tf``, metres, at the time each correction came."""
        if self.recorded is None or self.odometry is None:
            return []
        errors = []
        for t in self.recorded.transforms:
            odom_from_base, truth = self.odometry.at(t.arrived_ns), self.truth.at(t.arrived_ns)
            if odom_from_base is not None and truth is not None:
                errors.append(truth.distance(t.map_from_child @ odom_from_base)[0])
        return errors

    def tracking_again(self) -> list[float | None]:
        """Seconds from each jump to the first pose of an image from behind it."""
        seconds: list[float | None] = []
        played, position = 0.0, self.start_s
        for at_s, to_s in self.jumps:
            played += at_s - position
            position = to_s
            seconds.append(self._first_from(played, to_s))
        return seconds

    def _first_from(self, jumped_s: float, to_s: float) -> float | None:
        start_ns = int(self.truth.stamps_ns[0])
        for pose in self.recorded.poses if self.recorded else ():
            since = pose.played_s - jumped_s
            into = (pose.stamp_ns - start_ns) * 1e-9 - to_s
            # What was under way when the jump came carries a stamp from before it.
            if since > 0 and -_SLACK_S <= into <= since + _SLACK_S:
                return since
        return None

    def to_json(self) -> dict[str, Any]:
        """All figures as plain types; what was not measured is null."""
        figures: dict[str, Any] = {"frames": self.frames, **self.context}
        if self.recorded is not None:
            figures |= live_figures(self.recorded, self.live_errors())
            figures["recovery_s"] = self.tracking_again()
            by_tf = self.transform_errors()
            figures["tf_median_translation_m"] = median(by_tf)
            figures["tf_wrong"] = sum(metres > WRONG_M for metres in by_tf)
        figures |= offline_figures(self.offline, self.offline_errors())
        return figures


def truth_of(recording: Recording) -> Trajectory:
    """``map_from_base`` over time, from the recording's own poses.

    Raises:
        RecordingError: it has none.
    """
    samples = [
        (info.stamp_ns, pose)
        for info in recording.infos
        if (pose := recording.world_from_base(info)) is not None
    ]
    if not samples:
        raise RecordingError(f"recording {recording.name} has no poses to compare with")
    return Trajectory.from_samples(samples)


def frame_error(stamp_ns: int, found: Pose, truth: Pose, covariance: Any) -> FrameError:
    """One pose of the robot as an evaluated frame."""
    metres, radians = truth.distance(found)
    return FrameError(
        str(stamp_ns), stamp_ns, True, "", truth, found, metres, math.degrees(radians),
        covariance=covariance,
    )  # fmt: skip


def confidently_wrong(errors: Sequence[FrameError]) -> int:
    """Poses that are far off and claim to be good."""
    return sum(
        e.translation_m > WRONG_M and position_sigma(e.covariance) < CONFIDENT_M for e in errors
    )


def live_figures(recorded: Recorded, errors: Sequence[FrameError]) -> dict[str, Any]:
    """The figures of the node."""
    poses, status = recorded.poses, recorded.status
    ages = [(p.arrived_ns - p.stamp_ns) * 1e-6 for p in poses]
    arrivals = [p.played_s for p in poses]
    received = int(status.get("images_received", 0))
    dropped = int(status.get("images_dropped", 0)) + int(status.get("images_stale", 0))
    times = sorted({round(t.played_s, 4) for t in recorded.transforms})
    return {
        "fixes": len(poses),
        "fixes_per_s": fix_rate(recorded),
        "tf_hz": tf_rate(recorded),
        "tf_messages": len(times),
        "median_translation_m": median([e.translation_m for e in errors]),
        "median_rotation_deg": median([e.rotation_deg for e in errors]),
        "p95_translation_m": _percentile([e.translation_m for e in errors], 95),
        "pose_age_ms": {"median": median(ages), "p95": _percentile(ages, 95)},
        "dropped": dropped,
        "drop_rate": dropped / received if received else None,
        "received": received,
        "refused": int(status.get("refused", 0)),
        "confidently_wrong": confidently_wrong(errors),
        "first_fix_s": arrivals[0] if arrivals else None,
        "time_lost_s": time_lost(recorded),
        "node_memory_mb": recorded.memory_mb,
        "node_cores": recorded.cpu_s / recorded.lived_s if recorded.lived_s else None,
        "latency_ms": {
            stage: median([ms[stage] for ms in recorded.latencies_ms if stage in ms])
            for stage in dict.fromkeys(k for ms in recorded.latencies_ms for k in ms)
        },
    }


def offline_figures(
    steps: Sequence[OfflineStep] | None, errors: Sequence[FrameError]
) -> dict[str, Any]:
    """The figures of the run without ROS."""
    if steps is None:
        return {"offline_median_translation_m": None, "offline_median_rotation_deg": None}
    return {
        "offline_frames": len(steps),
        "offline_fixes": len(errors),
        "offline_median_translation_m": median([e.translation_m for e in errors]),
        "offline_median_rotation_deg": median([e.rotation_deg for e in errors]),
        "offline_p95_translation_m": _percentile([e.translation_m for e in errors], 95),
        "offline_confidently_wrong": confidently_wrong(errors),
        "offline_in_plane": in_plane(errors),
    }


def in_plane(errors: Sequence[FrameError]) -> dict[str, float | None]:
    """Of a robot on a floor: how far off it is along the map's xy plane, and off that plane."""
    pairs = [(e.estimate, e.truth) for e in errors if e.estimate is not None]
    off = [found.translation - truth.translation for found, truth in pairs]
    turns = [found.rotation @ truth.rotation.T for found, truth in pairs]
    yaws = [math.degrees(abs(math.atan2(turn[1, 0], turn[0, 0]))) for turn in turns]
    tilts = [math.degrees(math.hypot(turn[2, 0], turn[2, 1])) for turn in turns]
    return {
        "median_m": median([math.hypot(*each[:2]) for each in off]),
        "median_yaw_deg": median(yaws),
        "largest_height_m": max((abs(float(each[2])) for each in off), default=None),
        "largest_tilt_deg": max(tilts, default=None),
    }


def tf_rate(recorded: Recorded) -> float | None:
    """Corrections a second while tracking, the time in between not counted."""
    seconds = sum(stop - start for start, stop, state in spans(recorded) if state in _LOCALIZED)
    return len(recorded.transforms) / seconds if seconds > 0 else None


def time_lost(recorded: Recorded) -> float:
    """Seconds of playing after the first fix in which the robot's place was not known."""
    if not recorded.poses:
        return 0.0
    first = recorded.poses[0].played_s
    return sum(
        stop - max(start, first)
        for start, stop, state in spans(recorded)
        if state not in _LOCALIZED and stop > first
    )


def spans(recorded: Recorded) -> list[tuple[float, float, str]]:
    """Stretches of one state: (from, to, state) in seconds of playing."""
    last = max(
        [t.played_s for t in recorded.transforms]
        + [p.played_s for p in recorded.poses]
        + [s for s, _ in recorded.states],
        default=0.0,
    )
    starts = [start for start, _ in recorded.states]
    return [
        (start, stop, state)
        for (start, state), stop in zip(recorded.states, [*starts[1:], last], strict=True)
    ]


def fix_rate(recorded: Recorded) -> float | None:
    """Fixes a second from the first one to the end, stretches without tracking included."""
    if not recorded.poses:
        return None
    first = recorded.poses[0].played_s
    last = max((stop for _, stop, _ in spans(recorded)), default=first)
    return (len(recorded.poses) - 1) / (last - first) if last > first else None


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None


def write_report(folder: Path, outcome: ReplayOutcome, view: TopView | None = None) -> Path:
    """Write ``report.html``, its pictures and ``replay.json``; returns the page's path."""
    items = _pictures(outcome, view)
    for item in items:
        write_bytes(folder / f"{item.name}.png", item.data)
    figures = outcome.to_json()
    write_text(folder / "replay.json", json.dumps(figures, indent=1) + "\n")
    body = [html.cards(_cards(figures)), *(html.picture(item) for item in items)]
    body += [html.heading("All figures"), html.table(("figure", "value"), _rows(figures))]
    path = folder / "report.html"
    write_text(path, html.page("Replay", body))
    return path


def _cards(figures: dict[str, Any]) -> list[tuple[str, str]]:
    def number(key: str, factor: float, unit: str, digits: int = 1) -> str:
        value = figures.get(key)
        return "none" if value is None else f"{factor * value:.{digits}f} {unit}"

    return [
        (number("median_translation_m", 100, "cm"), "median position error"),
        (number("median_rotation_deg", 1, "deg", 2), "median rotation error"),
        (number("offline_median_translation_m", 100, "cm"), "the same without ROS"),
        (number("fixes_per_s", 1, "a second"), "fixes"),
        (number("tf_hz", 1, "Hz"), "corrections on /tf"),
        (number("time_lost_s", 1, "s"), "without tracking"),
        (str(figures.get("confidently_wrong", "none")), "wrong poses with small covariance"),
    ]


def _rows(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in figures.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((prefix + key, text))
    return rows


def _pictures(outcome: ReplayOutcome, view: TopView | None) -> list[Picture]:
    errors = outcome.live_errors() or outcome.offline_errors()
    items = []
    if errors and view is not None:
        items.append(
            Picture(
                "trajectory",
                "The robot over the map seen from above; lines join each pose with its truth.",
                plots.trajectory(errors, view),
            )
        )
    if errors:
        items.append(Picture("error_over_time", "Errors of the published poses.", _errors(outcome)))
    if outcome.recorded is not None and outcome.recorded.poses:
        items.append(
            Picture(
                "latency",
                "From the stamp of an image to the arrival of its pose; colour shows the state.",
                _latency(outcome.recorded),
            )
        )
    return items


def _errors(outcome: ReplayOutcome) -> bytes:
    """Errors with the claimed uncertainty, live and offline."""
    fig = figure(9.0, 4.6)
    panels = fig.subplots(2, 1, sharex=True)
    start = int(outcome.truth.stamps_ns[0])
    runs = (("offline", outcome.offline_errors(), MUTED), ("node", outcome.live_errors(), BLUE))
    for name, errors, colour in runs:
        if not errors:
            continue
        seconds = [(e.stamp_ns - start) * 1e-9 for e in errors]
        panels[0].plot(
            seconds, [100 * e.translation_m for e in errors], ".", color=colour, label=name
        )
        panels[1].plot(seconds, [e.rotation_deg for e in errors], ".", color=colour)
        if name == "node":
            sigma = [100 * position_sigma(e.covariance) for e in errors]
            panels[0].plot(seconds, sigma, color=ORANGE, linewidth=0.8, label="claimed sigma")
    panels[0].set_yscale("log")
    panels[1].set_yscale("log")
    panels[0].legend(fontsize=9)
    style(panels[0], "", "position error, cm")
    style(panels[1], "seconds of the bag", "rotation error, °")
    return png(fig)


def _latency(recorded: Recorded) -> bytes:
    fig = figure(9.0, 3.2)
    axes = fig.subplots()
    for start, stop, state in spans(recorded):
        axes.axvspan(start, stop, color=_COLOURS.get(state, MUTED), alpha=0.12, linewidth=0)
    axes.plot(
        [p.played_s for p in recorded.poses],
        [(p.arrived_ns - p.stamp_ns) * 1e-6 for p in recorded.poses],
        ".",
        color=INK,
    )
    style(axes, "seconds of playing", "age of the pose, ms")
    return png(fig)
