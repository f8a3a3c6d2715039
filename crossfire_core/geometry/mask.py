"""Which pixels of an image show the scene: no robot's own body, no border of the lens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

BoolImage = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Mask:
    """Pixels that may be used; masks of equal content are equal, so cameras can be compared.

    Attributes:
        usable: ``[height, width]``, not to be changed.
    """

    usable: BoolImage

    @cached_property
    def digest(self) -> str:
        """Tells contents apart."""
        packed = np.packbits(self.usable).tobytes()
        return hashlib.sha256(repr(self.usable.shape).encode() + packed).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether both let the same pixels through."""
        return isinstance(other, Mask) and self.digest == other.digest

    def __hash__(self) -> int:
        """By content."""
        return hash(self.digest)

    def resized(self, width: int, height: int) -> Mask:
        """The mask of the same image scaled to another size."""
        return Mask(whole_cells(self.usable, width, height))


def whole_cells(usable: BoolImage, columns: int, rows: int) -> BoolImage:
    """``[rows, columns]`` cells of a regular grid over an image that are usable throughout."""
    share = cv2.resize(usable.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0.9999)


def clearance_of(usable: BoolImage) -> NDArray[np.float32]:
    """Distance of every pixel ``[height, width]`` to the nearest one that is not usable."""
    distance = cv2.distanceTransform(usable.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)
