"""Text files of numbers, as data sets are made of."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError, RecordingError

T = TypeVar("T")

# What Python says of values that are not what they should be.
BAD_VALUES = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error)
_LONGEST_EXAMPLE = 200
_LARGEST_INT64 = 2**63 - 1


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        RecordingError: missing, unreadable or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"cannot read {path}: it is no text ({error.reason})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RecordingError: missing, or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"cannot read {path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML with OpenCV's tag for matrices."""


def _opencv_matrix(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _opencv_matrix)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML file, of its first part where it has several as ``topic echo`` writes.

    Raises:
        RecordingError: missing, unreadable or no text.
        ValueError: no YAML, or no fields in it.
    """
    # OpenCV begins with "%YAML:1.0", which is no YAML.
    lines = read_text(path).expandtabs().splitlines()  # JSON has tabs, YAML must not
    text = "\n".join(line for line in lines if not line.startswith("%"))
    try:
        data = next(yaml.load_all(text, _Loader), None)  # a SafeLoader
    except (yaml.YAMLError, *BAD_VALUES) as error:
        raise ValueError(f"no YAML: {(str(error).splitlines() or [''])[0]}") from error
    if not isinstance(data, dict):
        raise ValueError("no fields")
    return data


def read_lines(path: Path) -> list[tuple[int, str]]:
    """All lines but empty ones and comments (``#``), each with its number from 1.

    Raises:
        RecordingError: missing, unreadable or no text.
    """
    numbered = enumerate(read_text(path).split("\n"), 1)
    lines = ((number, line.split("#", 1)[0].strip()) for number, line in numbered)
    return [(number, line) for number, line in lines if line]


def parse_rows(
    path: Path,
    parse: Callable[[list[str]], T],
    notes: list[str],
    separator: str | None = None,
) -> list[T]:
    """What the rows of a table mean; a row that cannot be read is left out and counted.

    Args:
        path: the file; empty lines and comments (``#``) are no rows.
        parse: takes the words of one row; raises anything of ``BAD_VALUES`` for a bad one.
        notes: gets a line about the bad rows.
        separator: between words; by default any white space or commas.

    Raises:
        RecordingError: missing, unreadable or no text.
    """
    rows = [
        (
            f"line {number}",
            [word.strip() for word in line.split(separator)]
            if separator
            else line.replace(",", " ").split(),
        )
        for number, line in read_lines(path)
    ]
    return parse_each(rows, parse, notes, f"rows of {path.name}")


def parse_each(
    items: Sequence[tuple[str, Any]], parse: Callable[[Any], T], notes: list[str], what: str
) -> list[T]:
    """What each of many items means; one that cannot be read is left out and counted.

    Args:
        items: where each stands, and what is there.
        parse: takes what is there; raises anything of ``BAD_VALUES`` for a bad one.
        notes: gets a line about the bad ones.
        what: name of the items, in the plural.
    """
    good, bad = [], []
    for place, item in items:
        try:
            good.append(parse(item))
        except (*BAD_VALUES, CrossfireError) as error:
            bad.append(f"{place}: {_reason(error)}")
    notes += left_out(bad, len(items), f"{what} cannot be read: left out")
    return good


def _reason(error: Exception) -> str:
    """What is wrong with a row, in words where Python speaks of itself."""
    if isinstance(error, IndexError) or "unpack" in str(error):
        return "it has another number of columns than its kind of file"
    return f"{error}"


def left_out(examples: Sequence[str], total: int, what: str) -> list[str]:
    """A note on things that are not used, none where there are none.

    Args:
        examples: a reason each; the first that says something is quoted.
        total: how many there are with the good ones.
        what: they are, and what became of them.
    """
    if not examples:
        return []
    first = next((text for text in examples if text), "")
    quoted = f" (first: {' '.join(first.split())[:_LONGEST_EXAMPLE]})" if first else ""
    return [f"{len(examples)} of {total} {what}{quoted}"]


def read_matrix(path: Path) -> NDArray[np.float64]:
    """A file of rows with equally many numbers, ``[rows, columns]``.

    Raises:
        RecordingError: anything else.
    """
    try:
        rows = [[float(word) for word in line.split()] for _, line in read_lines(path)]
        matrix = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise RecordingError(f"{path} is no matrix of numbers") from error
    if matrix.ndim != 2:
        raise RecordingError(f"{path} is no matrix of numbers")
    return matrix


def numbers(words: Iterable[Any]) -> list[float]:
    """Values as finite numbers.

    Raises:
        RecordingError: one is none.
    """
    return [number(word) for word in words]


def number(value: Any) -> float:
    """A value as a finite number.

    Raises:
        RecordingError: it is none.
    """
    found = _converted(value, float, "no number")
    if not np.isfinite(found):
        raise RecordingError(f"{value!r} is no finite number")
    return found


def whole(value: Any) -> int:
    """A value as a whole number of 64 bits, such as a stamp in nanoseconds.

    Raises:
        RecordingError: it is none.
    """
    found = _converted(value, int, "no whole number")
    if abs(found) > _LARGEST_INT64:
        raise RecordingError(f"{value!r} is larger than any time in nanoseconds can be")
    return found


def _converted(value: Any, kind: Callable[[Any], T], otherwise: str) -> T:
    try:
        return kind(value)
    except BAD_VALUES as error:
        raise RecordingError(f"{value!r} is {otherwise}") from error


def seconds_to_ns(text: str) -> int:
    """A decimal number of seconds, to the nanosecond: a float holds microseconds only.

    Args:
        text: such as ``1305031102.175304`` or ``1.305031102175304e+09``.

    Raises:
        RecordingError: no number, or larger than any time can be.
    """
    try:
        seconds = Decimal(text)
    except InvalidOperation as error:
        raise RecordingError(f"{text!r} is no time in seconds") from error
    if not seconds.is_finite() or seconds.adjusted() > 10:
        raise RecordingError(f"{text!r} is no time in seconds")
    return whole(seconds.scaleb(9))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts names as people count: ``frame_2`` before ``frame_10``."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
