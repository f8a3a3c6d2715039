"""The tracker fed from a recording without ROS: as fast as it goes, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crossfire_core.config import TrackingConfig
from crossfire_core.errors import ConfigError
from crossfire_core.evaluation.rigs import by_moment, rig_image
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.localization.tracker import Tracker, TrackResult
from crossfire_core.recordings.lazy import Recording
from crossfire_ros.settings import NODE_NAME, Settings, settings_from


@dataclass(frozen=True)
class OfflineStep:
    """One image, or those that several cameras took at one time.

    Attributes:
        result: of the tracker.
        truth: ``map_from_base`` of the recording, or None.
    """

    result: TrackResult
    truth: Pose | None


def track_offline(
    recording: Recording,
    localizer: ImageLocalizer,
    config: TrackingConfig,
    use_odometry: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[OfflineStep]:
    """Track through a recording.

    Args:
        recording: frames in order of time, with odometry or without.
        localizer: of single images.
        config: of the tracker.
        use_odometry: whether the recording's odometry is used.
        on_progress: told (frames done, frames in all).
    """
    tracker = Tracker(localizer, config, recording.base_from_camera)
    odometry = recording.odometry() if use_odometry else None
    samples = [] if odometry is None else list(zip(odometry.stamps_ns, odometry.poses, strict=True))
    steps: list[OfflineStep] = []
    fed = done = 0
    for frames in by_moment(recording, range(len(recording))):
        stamp = frames[0].stamp_ns
        # Up to the first sample after the image, so that the image's time is interpolated.
        while fed < len(samples) and (fed == 0 or samples[fed - 1][0] < stamp):
            tracker.add_odometry(int(samples[fed][0]), samples[fed][1])
            fed += 1
        result = tracker.update_rig([rig_image(recording, frame) for frame in frames], stamp)
        truths = (recording.world_from_base(frame) for frame in frames)
        steps.append(OfflineStep(result, next((t for t in truths if t is not None), None)))
        done += len(frames)
        if on_progress is not None:
            on_progress(done, len(recording))
    return steps


def settings_for(parameters: Sequence[str], file: Path | None) -> Settings:
    """What the node's parameters mean for a run without it.

    Args:
        parameters: as on the node's command line, ``NAME:=VALUE``.
        file: a ROS parameters file, or None.

    Raises:
        ConfigError: not readable, or a setting that does not exist or is out of its range.
    """
    values: dict[str, Any] = {}
    for found in _parameters_in(file) if file is not None else ():
        values |= _flat(found)
    for text in parameters:
        name, mark, value = text.partition(":=")
        if not mark:
            raise ConfigError(f"parameter {text!r}: write NAME:=VALUE, e.g. tracking.gate:=30.0")
        values[name] = yaml.safe_load(value)
    return settings_from({k: v for k, v in values.items() if not _of_every_node(k)})


def _of_every_node(name: str) -> bool:
    own = ("use_sim_time", "start_type_description_service")
    return name in own or name.startswith("qos_overrides.")


def _parameters_in(file: Path) -> list[dict[str, Any]]:
    """The mappings ``ros__parameters`` of a parameters file that are for this node."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"cannot read parameters from {file}: {text}") from error
    nodes = content.items() if isinstance(content, dict) else ()
    return [
        values["ros__parameters"]
        for name, values in nodes
        if str(name).rpartition("/")[2] in ("**", "*", NODE_NAME)
        and isinstance(values, dict)
        and "ros__parameters" in values
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
