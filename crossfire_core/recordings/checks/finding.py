"""One thing that an inspection found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "good"]


@dataclass(frozen=True)
class Finding:
    """A judgement with what to do about it.

    Attributes:
        level: ``error`` (no map can be made), ``warning`` (the map will suffer) or ``good``.
        code: stable name for programs, such as ``focal_length``.
        text: one line for people.
    """

    level: Level
    code: str
    text: str


def error(code: str, text: str) -> Finding:
    """A finding that stands in the way of a map."""
    return Finding("error", code, text)


def warning(code: str, text: str) -> Finding:
    """A finding that makes a map worse."""
    return Finding("warning", code, text)


def good(code: str, text: str) -> Finding:
    """Something that was looked at and is as it should be."""
    return Finding("good", code, text)
