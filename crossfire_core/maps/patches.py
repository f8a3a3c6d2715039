"""Small pictures of surfaces that a map keeps, as they are stored.

What is done with them is in :mod:`crossfire_core.localization.patches`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import MapFormatError

FloatArray = NDArray[np.float64]
SIDE = 16  # samples along a patch: two blocks of a JPEG
_COLUMNS = 64  # patches beside each other in the stored picture
_QUALITY = 85  # of JPEG: a compromise of size and noise


@dataclass(frozen=True)
class Patches:
    """Small flat pieces of surface, with what one mapping image showed there.

    A patch lies in the plane through its point. Its axes come from the view it was cut from:
    :func:`axes`.

    Attributes:
        points: ``[n, 3]`` the middles, metres in the map frame.
        normals: ``[n, 3]`` unit, towards the view.
        spacing: ``[n]`` metres between samples: a pixel of the view there.
        view: ``[n]`` int64, from which mapping view each was cut.
        grey: ``[n, SIDE, SIDE]`` uint8.
    """

    points: FloatArray
    normals: FloatArray
    spacing: FloatArray
    view: NDArray[np.int64]
    grey: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.points)

    @staticmethod
    def none() -> Patches:
        """No patches at all."""
        empty = np.zeros((0, 3))
        grey = np.zeros((0, SIDE, SIDE), np.uint8)
        return Patches(empty, empty, empty[:, 0], np.zeros(0, np.int64), grey)

    @staticmethod
    def joined(parts: Sequence[Patches]) -> Patches:
        """All patches of several lots."""
        return Patches(*(np.concatenate(c) for c in zip(*map(_columns, parts), strict=True)))

    def renumbered(self, numbers: Sequence[int] | NDArray[np.int64]) -> Patches:
        """With other numbers for the views; patches of views whose number is -1 are dropped."""
        view = np.asarray(numbers, dtype=np.int64)[self.view]
        kept = [column[view >= 0] for column in _columns(replace(self, view=view))]
        return Patches(*kept)


def _columns(patches: Patches) -> tuple[Any, ...]:
    return tuple(getattr(patches, field.name) for field in fields(patches))


def pack_pictures(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of one JPEG that holds patches ``[n, SIDE, SIDE]`` side by side."""
    rows = -(-len(grey) // _COLUMNS)
    filled = np.zeros((rows * _COLUMNS, SIDE, SIDE), np.uint8)
    filled[: len(grey)] = grey
    beside = filled.reshape(rows, _COLUMNS, SIDE, SIDE).swapaxes(1, 2)
    sheet = beside.reshape(rows * SIDE, _COLUMNS * SIDE)
    done, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return np.asarray(data, dtype=np.uint8).ravel()


def unpack_pictures(data: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack_pictures`, but for what JPEG loses.

    Raises:
        MapFormatError: no JPEG of that many patches.
    """
    rows = -(-count // _COLUMNS)
    size, sheet = (rows * SIDE, _COLUMNS * SIDE), None
    if _announced(data.tobytes()) == size:  # before as much memory is taken
        try:
            sheet = cv2.imdecode(np.ascontiguousarray(data), cv2.IMREAD_GRAYSCALE)
        except cv2.error:
            sheet = None
    if sheet is None or sheet.shape != size:
        raise MapFormatError("the pictures of the map's patches are damaged: train it again")
    grey = sheet.reshape(rows, SIDE, _COLUMNS, SIDE).swapaxes(1, 2)
    return np.ascontiguousarray(grey.reshape(-1, SIDE, SIDE)[:count]).astype(np.uint8)


def _announced(jpeg: bytes) -> tuple[int, int] | None:
    """(height, width) in the frame header of a baseline JPEG; None where there is none.

    ITU-T T.81, annex B: segments are a marker and a length, until the frame header comes.
    """
    at = 2
    while jpeg[:2] == b"\xff\xd8" and at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        if jpeg[at + 1] == 0xC0:
            height, width = struct.unpack_from(">HH", jpeg, at + 5)
            return height, width
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None
