"""Is a recording good enough for a map? Looked at before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from crossfire_core.config import TrainingConfig
from crossfire_core.errors import CalibrationError, CrossfireError
from crossfire_core.files import write_text
from crossfire_core.geometry import Pose
from crossfire_core.recordings import bag_reader, open_recording
from crossfire_core.recordings.checks import (
    calibration,
    images,
    merges,
    motion,
    places,
    plots,
    topics,
)
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.checks.straightness import looks_straight
from crossfire_core.recordings.lazy import Recording
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.reports import html
from crossfire_core.reports.html import Picture

OnProgress = Callable[[int, int, str], None]

_LOOKS = 40  # images that are opened: a minute at most
# Measured on two CPU cores: a view takes about this long to learn, and no map less than that.
_MINUTES_A_VIEW, _LEAST_MINUTES, _MOST_MINUTES = 0.1, 5.0, 15.0
# Structure from motion, or odometry corrected, where a recording has no poses.
_MINUTES_FOR_POSES = 5.0
# Networks, place signatures, surface points and patches beside the grids.
_OTHER_BYTES = 1_500_000


@dataclass(frozen=True)
class CheckReport:
    """What an inspection found.

    Attributes:
        name: of the recording.
        findings: the worst first.
        topics: one entry a topic, empty for folders.
        figures: numbers by name: frames, seconds, motion, calibration, estimates.
        drawings: what draws each picture; drawing takes longer than looking.
    """

    name: str
    findings: tuple[Finding, ...]
    topics: tuple[dict[str, Any], ...]
    figures: dict[str, Any]
    drawings: tuple[Callable[[], Picture], ...]

    def pictures(self) -> list[Picture]:
        """PNG files with captions, drawn now."""
        return [draw() for draw in self.drawings]

    @property
    def usable(self) -> bool:
        """Whether a map can be made of it."""
        return not any(f.level == "error" for f in self.findings)

    @property
    def verdict(self) -> str:
        """The judgement in words."""
        errors = [f.text for f in self.findings if f.level == "error"]
        warnings = [f for f in self.findings if f.level == "warning"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            return f"not usable: {errors[0]}{more}"
        if warnings:
            plural = "warning" if len(warnings) == 1 else "warnings"
            return f"usable, with {len(warnings)} {plural}: {warnings[0].text}"
        return "good: train a map of it"

    def to_json(self) -> dict[str, Any]:
        """As plain types, without the pictures."""
        return {
            "name": self.name,
            "usable": self.usable,
            "verdict": self.verdict,
            "findings": [vars(finding) for finding in self.findings],
            "topics": list(self.topics),
            **self.figures,
        }

    def write(self, folder: Path) -> Path:
        """Write ``index.html``, one page with everything, and return its path."""
        rows = [(f.level, f.text) for f in self.findings]
        body = [html.note(self.verdict), html.table(("", "finding"), rows)]
        if self.topics:
            body += [html.heading("Topics"), html.table(_TOPIC_HEADER, _topic_rows(self.topics))]
        body += [html.picture(item) for item in self.pictures()]
        page = folder / "index.html"
        write_text(page, html.page(f"Inspection of {self.name}", body))
        return page


def check_recording(
    path: Path | str,
    options: RecordingOptions | None = None,
    on_progress: OnProgress | None = None,
) -> CheckReport:
    """Inspect a recording; what is wrong with it is in the report, not raised.

    Args:
        path: a bag or a folder of any known format.
        options: topics and frames, as for opening it.
        on_progress: called with the number of things done, in all, and what is being done.

    Returns:
        Findings, figures and pictures; with a damaged recording the findings say so.
    """
    path, options = Path(path), options or RecordingOptions()
    tell = on_progress or (lambda done, total, what: None)
    builder = _Builder()
    builder.look_at_topics(path, tell)
    recording = builder.open(path, options)
    if recording is not None and len(recording):
        builder.look_at_frames(recording, tell)
    return builder.report(path.name)


class _Builder:
    """Collects findings, figures and what to draw."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.topics: list[topics.TopicStats] = []
        self.figures: dict[str, Any] = {}
        self.drawings: list[Callable[[], Picture]] = []

    def look_at_topics(self, path: Path, tell: OnProgress) -> None:
        if not path.exists() or not bag_reader.is_bag(path):
            return
        tell(0, 1, "reading topics")
        try:
            self.topics = topics.read_topics(path)
        except CrossfireError:
            return  # opening it for its frames says the same
        self.findings += topics.judge_topics(self.topics)
        if any(topic.stamps_ns for topic in self.topics):
            self.drawings.append(partial(plots.topics_plot, self.topics))

    def open(self, path: Path, options: RecordingOptions) -> Recording | None:
        """The recording, if need be without its poses, to see the more of it."""
        try:
            recording = open_recording(path, replace(options, require_poses=False))
        except CrossfireError as problem:
            code = "camera_info" if isinstance(problem, CalibrationError) else "recording"
            self.findings.append(error(code, str(problem)))
            if options.pose_topic == NO_POSES or code == "camera_info":
                return None
            try:
                return open_recording(
                    path, replace(options, pose_topic=NO_POSES, require_poses=False)
                )
            except CrossfireError:
                return None
        self.findings += [warning("left_out", note) for note in recording.notes]
        self._judge_sources(path, recording)
        return recording

    def _judge_sources(self, path: Path, recording: Recording) -> None:
        """Poses, odometry and the chain of transforms."""
        if recording.pose_source:
            self.findings.append(good("poses", f"poses come from {recording.pose_source}"))
        if not bag_reader.is_bag(path):
            return
        if recording.poses_drift:
            self.findings.append(
                warning(
                    "drift",
                    "the only poses are odometry, which drifts: crossfire train finds better ones "
                    "by structure from motion, or corrects these",
                )
            )
        try:
            if recording.odometry() is None:
                self.findings.append(
                    warning("odometry", "no odometry: a robot tracks better with it")
                )
        except CrossfireError as problem:
            self.findings.append(warning("odometry", str(problem)))
        if recording.base_frame == getattr(recording, "camera_frame", None):
            self.findings.append(
                warning("tf", "no tf from the robot's base to the camera: record /tf_static")
            )

    def look_at_frames(self, recording: Recording, tell: OnProgress) -> None:
        infos = recording.infos
        looks, found = images.look_at_images(
            recording, _LOOKS, lambda done, total: tell(done, total, "looking at images")
        )
        self.findings += found + calibration.judge_centres(infos)
        if looks:
            self.drawings += [partial(plots.images_plot, looks), partial(plots.sheet, looks)]
        path = motion.measure_motion(infos, metric=recording.metric)
        self.findings += motion.judge_motion(path, infos) + motion.judge_scale(recording)
        self._estimate(recording)
        self.figures["frames"] = len(infos)
        if path is None:
            return
        self.figures |= path.to_json()
        self.drawings.append(partial(plots.path_plot, path))
        if any(finding.code == "images" and finding.level == "error" for finding in found):
            return
        try:
            self._match_images(recording, tell)
        except CrossfireError as problem:  # an image that was not among the looks
            self.findings.append(error("images", str(problem)))

    def _match_images(self, recording: Recording, tell: OnProgress) -> None:
        """Poses, calibration and images against one another."""
        fit = calibration.measure_fit(
            recording, lambda done, total: tell(done, total, "checking the calibration")
        )
        mounted = recording.base_from_camera.distance(Pose.identity()) != (0.0, 0.0)
        lens = recording.infos[0].camera
        self.findings += calibration.judge_fit(
            fit,
            mounted=mounted,
            straight=lambda: lens.distortion != "none" and looks_straight(recording, lens),
        )
        if fit is not None:
            self.figures |= fit.to_json()
            self.drawings.append(partial(plots.fit_plot, fit))
        same = places.judge_places(recording)
        visited = merges.find_merges(
            recording, lambda done, total: tell(done, total, "comparing places seen twice")
        )
        self.findings += same or merges.judge_merges(visited)
        self.figures |= visited.to_json()

    def _estimate(self, recording: Recording) -> None:
        from crossfire_core.field.layout import GridLayout  # light, but beside torch
        from crossfire_core.maps.storage import BYTES_A_NUMBER

        config = TrainingConfig()
        views = min(len(recording), config.max_views)
        grids = (config.field.proposal, config.field.geometry, config.field.descriptor)
        parameters = sum(GridLayout.of(grid).parameters for grid in grids)
        minutes = min(_MOST_MINUTES, max(_LEAST_MINUTES, _MINUTES_A_VIEW * views))
        if not recording.pose_source or recording.poses_drift:
            minutes += _MINUTES_FOR_POSES
        self.figures["training_minutes"] = minutes
        self.figures["map_bytes"] = round(BYTES_A_NUMBER * parameters) + _OTHER_BYTES
        self.findings.append(
            good(
                "estimate",
                f"about {minutes:.0f} minutes of training on two CPU cores, a map of about "
                f"{self.figures['map_bytes'] / 1e6:.0f} MB",
            )
        )

    def report(self, name: str) -> CheckReport:
        order = {"error": 0, "warning": 1, "good": 2}
        findings = sorted(self.findings, key=lambda finding: order[finding.level])
        listed = tuple(topic.to_json() for topic in self.topics)
        return CheckReport(name, tuple(findings), listed, self.figures, tuple(self.drawings))


_TOPIC_HEADER = ("topic", "type", "messages", "rate", "longest gap")


def _topic_rows(listed: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            topic["name"],
            topic["type"],
            str(topic["count"]),
            f"{topic['rate_hz']:.1f} Hz" if topic["rate_hz"] else "",
            f"{topic['longest_gap_s']:.2f} s" if topic["longest_gap_s"] is not None else "",
        )
        for topic in listed
    ]
