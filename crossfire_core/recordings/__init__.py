"""Recordings of every format, read into the same frames.

:func:`open_recording` finds out the format; a reader is imported when it is needed.
"""

from __future__ import annotations

from contextlib import suppress
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

_MOST_CHILDREN = 20  # that are looked into, to name a folder one level down
_ACTIVE, _VIDEOS = (".active",), (".mp4", ".avi", ".mov", ".mkv", ".webm")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".tif", ".tiff")

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
        f"or ACE{_instead(path)}"
    )


def _instead(path: Path) -> str:
    """What a path that is no recording is instead, for the message."""
    if path.suffix in _ACTIVE:
        return "; it is a bag that was not closed: run `rosbag reindex`"
    if path.suffix.lower() in _VIDEOS:
        return "; it is a video: take images out of it, and find their poses with COLMAP"
    children = sorted(path.iterdir())[:_MOST_CHILDREN] if path.is_dir() else []
    if known := [c.name for c in children if _is_known(c)]:
        return f"; in it lie {', '.join(known)}"
    if children and all(c.suffix.lower() in _IMAGES for c in children):
        return "; it holds images alone: find their poses with COLMAP, and name its model"
    if above := next((p for p in list(path.resolve().parents)[:2] if _is_known(p)), None):
        return f"; it is a part of {above}, which is one"
    return ""


def _is_known(path: Path) -> bool:
    with suppress(OSError):  # of a folder that nobody asked for
        return any(READERS.load(name).recognises(path) for name in READERS.names())
    return False


def _read(path: Path, options: RecordingOptions, reader: Reader) -> Recording:
    # Heavier than the options, which the command line needs first.
    from crossfire_core.recordings.rig import read_rig

    return read_rig(options, lambda own: _masked(reader.read(path, own), own.mask))


def _masked(recording: Recording, masks: str) -> Recording:
    if not masks:
        return recording
    from crossfire_core.recordings.masks import MaskedRecording, Masks

    return MaskedRecording(recording, Masks(Path(masks)))
