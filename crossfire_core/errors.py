"""Every error that a user can meet, each with one line that says what to do.

The command line and the ROS node catch :class:`CrossfireError` once, at the edge; everything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import importlib
from typing import Any


class CrossfireError(Exception):
    """Base of all errors whose message is meant for a user."""

    def __init__(self, text: object) -> None:
        """Keep the message in one line, whatever a damaged file put into it.

        Args:
            text: what is wrong, and what to do.
        """
        super().__init__(" ".join(str(text).splitlines()))


class ConfigError(CrossfireError):
    """A setting is unknown, of the wrong type or out of its range."""


class RecordingError(CrossfireError):
    """A recording cannot be read, or lacks something that the task needs."""


class CalibrationError(CrossfireError):
    """A camera's intrinsics or distortion are missing, zero, or do not fit the image."""


class MapFormatError(CrossfireError):
    """A map file is cut short, of another version, or not a map at all."""


class TrainingError(CrossfireError):
    """Training cannot start or go on (no usable frames, diverged, checkpoint unusable)."""


class ExportError(CrossfireError):
    """A map cannot be given out in the form that was asked for."""


class BackendError(CrossfireError):
    """The requested device or field backend is not available on this machine."""


class MissingDependencyError(CrossfireError):
    """An optional package is needed; the message names the extra that installs it."""


def optional(package: str, without: str) -> Any:
    """A package that only some of the program needs, imported when it is needed.

    Args:
        package: its name.
        without: what needs it, and how it is installed.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(without) from error
