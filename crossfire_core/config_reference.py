"""The reference of all settings, made from the dataclasses: ``docs/configuration.md``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

from crossfire_core.config import (
    ExportConfig,
    LocalizationConfig,
    TrackingConfig,
    TrainingConfig,
)
from crossfire_core.recordings.options import RecordingOptions


@dataclass(frozen=True)
class Room:
    """One section of the page.

    Attributes:
        title: heading.
        kind: the dataclass.
        purpose: where its settings are given.
    """

    title: str
    kind: type
    purpose: str


ROOMS = (
    Room(
        "Training",
        TrainingConfig,
        "For `crossfire train --config FILE` and `--set NAME=VALUE`. Nested names are written "
        "with dots, such as `--set geometry.rays=2048`.",
    ),
    Room(
        "Localization",
        LocalizationConfig,
        "For `crossfire evaluate` and `crossfire localize`, by `--config` and `--set`; "
        "parameters `localization.*` of the node.",
    ),
    Room("Tracking", TrackingConfig, "Parameters `tracking.*` of the node."),
    Room(
        "Export",
        ExportConfig,
        "For `crossfire export --config FILE` and `--set NAME=VALUE`; parameters `export.*` of the "
        "node.",
    ),
    Room(
        "Reading recordings",
        RecordingOptions,
        "Options of every command that opens a recording: `image_topic` is `--image-topic`.",
    ),
)

_INTRODUCTION = """# Configuration

This page is made from the program itself: `python -m crossfire_core.config_reference`.
A settings file is YAML with the names below; whatever it leaves out keeps its default. An
unknown name, a wrong type or a value out of range is refused with a message. The node takes
`localization.*`, `tracking.*` and some of its own: all are in `config/localize.yaml`.
"""


def reference() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    for room in ROOMS:
        rows = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
        rows += [
            _row(name, field, value)
            for name, field, value in settings(room.kind())
            if not field.metadata.get("internal")
        ]
        parts.append(f"## {room.title}\n\n{room.purpose}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """All settings below a config: dotted name, field, default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value


def _row(name: str, field: Field[Any], value: Any) -> str:
    shown = f"`{value}`" if value != "" else "empty"
    meaning = str(field.metadata.get("help", "")).replace("|", "\\|")
    return f"| `{name}` | {shown} | {_limits(field.metadata)} | {meaning} |"


def _limits(metadata: Any) -> str:
    if "choices" in metadata:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    low, high = metadata.get("min"), metadata.get("max")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else ""


if __name__ == "__main__":
    print(reference(), end="")
