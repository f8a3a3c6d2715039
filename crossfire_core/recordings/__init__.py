"""Recordings of every format, read into the same frames.

:func:`open_recording` finds out the format; a reader is imported when it is needed.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfire_core.errors import RecordingError
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.registry import READERS

if TYPE_CHECKING:
    from crossfire_core.recordings.frame import Frame
    from crossfire_core.recordings.lazy import FrameInfo, Recording, split_holdout
    from crossfire_core.recordings.reader import Reader

__all__ = [
    "Frame",
    "FrameInfo",
    "Recording",
    "RecordingOptions",
    "open_recording",
    "split_holdout",
]

_MOST_CHILDREN = 20

# Where the names above live; loaded when asked for, since the command line needs the options
# alone and must start quickly.
_HOMES = {
    "Frame": "frame",
    "FrameInfo": "lazy",
    "Recording": "lazy",
    "split_holdout": "lazy",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def open_recording(path: Path | str, options: RecordingOptions | None = None) -> Recording:
    """Open a recording, whatever its format.

    Args:
        path: a bag, or a folder of a known layout.
        options: topics, frames and how much of it; by default everything is found out.

    Raises:
        RecordingError: missing, of no known format, damaged, or without poses.
        CalibrationError: without usable calibration.
    """
    path, options = Path(path), options or RecordingOptions()
    if not path.exists():
        raise RecordingError(f"no recording at {path}")
    if options.reader != "auto":
        return _read(path, options, READERS.load(options.reader))
    for reader in map(READERS.load, READERS.names()):
        if reader.recognises(path):
            return _read(path, options, reader)
    raise RecordingError(
        f"{path} is no recording that is known here: a rosbag2, a folder with transforms.json, a "
        "COLMAP model, or a folder of 7-Scenes, Cambridge Landmarks, TUM RGB-D, EuRoC, kapture "
        f"or ACE{_known_inside(path)}"
    )


def _known_inside(folder: Path) -> str:
    """Which recordings lie in a folder that is none, for the message."""
    children = sorted(folder.iterdir())[:_MOST_CHILDREN] if folder.is_dir() else []
    readers = [READERS.load(name) for name in READERS.names()] if children else []
    known = [c.name for c in children if any(reader.recognises(c) for reader in readers)]
    return f"; in it lie {', '.join(known)}" if known else ""


def _read(path: Path, options: RecordingOptions, reader: Reader) -> Recording:
    # Heavier than the options, which the command line needs first.
    from crossfire_core.recordings.rig import read_rig

    return read_rig(options, lambda own: _masked(reader.read(path, own), own.mask))


def _masked(recording: Recording, masks: str) -> Recording:
    if not masks:
        return recording
    from crossfire_core.recordings.masks import MaskedRecording, Masks

    return MaskedRecording(recording, Masks(Path(masks)))
