"""Writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Args:
        path: the file; its folder is made where missing.
        content: everything that it shall hold.

    Raises:
        OSError: no space, no permission; a file that was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """:func:`write_bytes` for arrays by name, as an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # allow_pickle is an array to old numpy
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """What :func:`write_arrays` wrote; None where it is not there or damaged."""
    damage = (OSError, ValueError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (*damage, zlib.error):
        return None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
