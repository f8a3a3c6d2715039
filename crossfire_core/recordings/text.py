"""Text files of numbers, as data sets are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import RecordingError


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        RecordingError: missing, unreadable or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"cannot read {path}: {error}") from error


def read_rows(path: Path, separator: str | None = None) -> list[list[str]]:
    """The words of all lines but empty ones and comments (``#``).

    Args:
        path: the file.
        separator: between words; by default any white space.

    Raises:
        RecordingError: missing, unreadable or no text.
    """
    lines = (line.split("#", 1)[0].strip() for line in read_text(path).splitlines())
    return [[word.strip() for word in line.split(separator)] for line in lines if line]


def read_matrix(path: Path) -> NDArray[np.float64]:
    """A file of rows with equally many numbers, ``[rows, columns]``.

    Raises:
        RecordingError: anything else.
    """
    try:
        matrix = np.array(read_rows(path), dtype=np.float64)
    except ValueError as error:
        raise RecordingError(f"{path} is no matrix of numbers") from error
    if matrix.ndim != 2:
        raise RecordingError(f"{path} is no matrix of numbers")
    return matrix


def numbers(words: list[str], path: Path) -> list[float]:
    """Words as numbers.

    Args:
        words: of one row.
        path: for the message.

    Raises:
        RecordingError: one is no number.
    """
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise RecordingError(f"{path}: {' '.join(words)!r} are no numbers") from error
