"""The file camera-intrinsics.txt beside the images of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera
from crossfire_core.recordings.image_file import Size
from crossfire_core.recordings.text import numbers, read_matrix, read_text

INTRINSICS = "camera-intrinsics.txt"


def read_intrinsics(file: Path) -> Callable[[Size], Camera]:
    """A camera from a 3x3 matrix (pixel centres at integers) and the lens in a comment.

    Args:
        file: the matrix; a line ``# radtan k1 k2 p1 p2: [...]`` holds the distortion.

    Returns:
        What makes the camera of a (width, height); the file does not say them.

    Raises:
        RecordingError: no numbers.
        CalibrationError: no 3x3 matrix of a camera.
    """
    lens = numbers(_radtan(read_text(file)))
    matrix = read_matrix(file)
    if matrix.shape != (3, 3):
        raise CalibrationError(f"{file} is no 3x3 matrix")
    return lambda size: Camera.from_ros(*size, matrix, "plumb_bob" if lens else "", lens)


def _radtan(text: str) -> list[str]:
    found = re.search(r"#\s*radtan[^:\n]*:\s*\[([^\]]*)\]", text)
    return [x for x in found.group(1).split(",") if x.strip()] if found else []
