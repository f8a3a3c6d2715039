"""What a reader of recordings is; :data:`crossfire_core.registry.READERS` names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crossfire_core.recordings.lazy import Recording
from crossfire_core.recordings.options import RecordingOptions


class Reader(NamedTuple):
    """One format.

    Attributes:
        recognises: whether a path is of this format, by names of files alone.
        read: opens such a path.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path, RecordingOptions], Recording]
