"""Damaged files of every format: one line that says what is wrong, or the frames that are left.

Thirty damages a format by default; ``CROSSFIRE_DAMAGES=10000`` makes the long run.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_samples import SIZE, RobotBag
from test_recordings_calibration import FILES
from test_recordings_datasets import (
    write_cambridge,
    write_colmap_binary,
    write_colmap_text,
    write_euroc,
    write_kapture,
    write_tum,
)
from test_recordings_files import with_rig, write_ace
from test_recordings_images import write_scene, write_transforms
from test_recordings_messages import as_ros_1

from crossfire_core.errors import CalibrationError, CrossfireError
from crossfire_core.recordings import open_recording
from crossfire_core.recordings.calibration_file import read_calibration

# A user who reads a damaged file is told in our words, not in NumPy's.
pytestmark = pytest.mark.filterwarnings("error")
COUNT = int(os.environ.get("CROSSFIRE_DAMAGES", "30"))
WORDS = [
    *("nan", "inf", "-inf", "1e999", "1e308", "-1e308", "1e-320", "0", "-0.0", "-1", "1e200"),
    *("99999999999999999999", "9223372036854775807", "9" * 400, "1e999999999", "0x1p3", "1_0"),
    *("", "a", "null", "#", ",", ":", "[", "{", "\x00", "\n", "\r", "\ufeff", "\u0663", "../.."),
    *("a\\b", "/", "C:\\x.png", "x" * 5000, "[" * 3000, "2001-99-99", "!!python/none"),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**400, 1e308, 1e-320, float("nan"), float("inf"), 0.0, 3.2, 7.0),
    *("", "nan", "a\nb", "\x00", "x" * 5000, "../..", [], {}, [[]], [None], {"a": None}),
]
FORMATS: dict[str, Callable[[Path], Path]] = {
    "transforms": write_transforms,
    "colmap text": lambda folder: with_rig(write_colmap_text(folder), binary=False),
    "colmap binary": lambda folder: with_rig(write_colmap_binary(folder), binary=True),
    "7-scenes": write_scene,
    "cambridge": write_cambridge,
    "tum": write_tum,
    "euroc": write_euroc,
    "kapture": lambda folder: write_kapture(folder, rig=True),
    "ace": lambda folder: write_ace(folder, lambda i: "60 0 32\n0 60 24\n0 0 1\n", "{stem}.txt"),
    "mcap": RobotBag(count=2).write,
    "sqlite3": RobotBag(count=2, storage="sqlite3").write,
    "ros 1": lambda folder: as_ros_1(
        RobotBag(count=2).write(folder.with_name("bag")), folder.with_suffix(".bag"), None
    ),
}


@pytest.fixture(scope="module", params=FORMATS)
def recording(request, tmp_path_factory) -> Path:
    """A whole recording of one format."""
    return FORMATS[request.param](tmp_path_factory.mktemp("damaged") / "scene")


@settings(max_examples=COUNT)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_one_line_or_fewer_frames(recording: Path, seed: int) -> None:
    chance = random.Random(seed)
    inside = sorted(p for p in recording.rglob("*") if p.is_file())
    files = inside if recording.is_dir() else [recording]
    lists = [p for p in files if p.suffix not in (".png", ".jpg")]
    file = chance.choice(lists if chance.random() < 0.9 else files)
    whole = file.read_bytes()
    try:
        file.write_bytes(damaged(whole, file.suffix, chance))
        look(recording)
    finally:
        file.write_bytes(whole)


@settings(max_examples=COUNT)
@given(name=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**32))
def test_a_damaged_calibration_is_one_line_or_a_camera(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    chance = random.Random(seed)
    file = tmp_path_factory.getbasetemp() / f"damaged {name}"
    file.write_bytes(damaged(FILES[name].encode(), ".txt", chance))
    try:
        camera = read_calibration(file, SIZE, "/cam/image_raw", chance.choice((True, False))).camera
    except CalibrationError as error:
        assert "\n" not in str(error)
    else:
        assert camera.size == SIZE and np.isfinite(camera.matrix).all()


def look(path: Path) -> None:
    """Open it, or say in one line why not; what is opened can be read."""
    try:
        recording = open_recording(path)
    except CrossfireError as error:
        assert str(error).strip()
        assert "\n" not in str(error)
        return
    frames = list(recording)
    assert len(frames) == len(recording) > 0
    assert all("\n" not in note for note in recording.notes)
    for frame in frames:
        assert frame.image.shape == (frame.camera.height, frame.camera.width, 3)
        assert frame.world_from_camera is None or frame.world_from_camera.is_finite()


def damaged(content: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file with one thing wrong in it."""
    kind = chance.randrange(5)
    if kind == 0:
        return content[: chance.randrange(len(content) + 1)]
    if kind == 1:
        at = chance.randrange(len(content))
        return content[:at] + chance.randbytes(4) + content[at + 4 :]
    if suffix == ".json":
        return json.dumps(with_bad_value(json.loads(content), chance)).encode()
    if suffix not in (".txt", ".csv", ".yaml", ".nvm"):
        return with_bad_bytes(content, chance)
    return with_bad_word(content.decode(), chance).encode("utf-8", "surrogatepass")


def with_bad_bytes(content: bytes, chance: random.Random) -> bytes:
    """A binary file with a number that is too large or nothing, or with bytes more or less."""
    kind = chance.randrange(4)
    if kind < 2:
        at = 8 * chance.randrange(max(1, len(content) // 8))
        return content[:at] + (b"\xff" * 8, b"\x00" * 8)[kind] + content[at + 8 :]
    at, length = chance.randrange(len(content)), chance.randrange(1, 40)
    return content[:at] + content[at : at + length] * (kind == 3) * 2 + content[at + length :]


def with_bad_value(data: Any, chance: random.Random) -> Any:
    """A tree of JSON with another value in one place."""
    if isinstance(data, (dict, list)) and data and chance.random() < 0.8:
        key = chance.choice(list(data)) if isinstance(data, dict) else chance.randrange(len(data))
        data[key] = with_bad_value(data[key], chance)
        return data
    return chance.choice(VALUES)


def with_bad_word(text: str, chance: random.Random) -> str:
    """A table with another word in one place, or with a row more or less."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    kind = chance.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, chance.choice([*WORDS, lines[at]]))
    else:
        separator = "," if "," in lines[at] else " "
        cells = lines[at].split(separator)
        cells[chance.randrange(len(cells))] = chance.choice(WORDS)
        lines[at] = separator.join(cells)
    return "\n".join(lines)
