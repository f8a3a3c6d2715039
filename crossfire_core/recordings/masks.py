"""Masks that a user gives: one image for all frames, or a folder with one for each.

White is what may be used, black is left out (the robot's own body, the border of a lens), as
COLMAP and nerfstudio have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Trajectory
from crossfire_core.geometry.mask import Mask
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.image_file import read_image
from crossfire_core.recordings.lazy import FrameInfo, Recording

_WHITE = 128  # grey values from here on are used
_SUFFIXES = (".png", ".jpg", ".jpeg")


class Masks:
    """Gives cameras their masks."""

    def __init__(self, path: Path) -> None:
        """Look at what is there; images are read when they are needed.

        Args:
            path: an image, or a folder of images that have the frames' names.

        Raises:
            RecordingError: nothing is there, or an empty folder.
        """
        self._path = path.expanduser()
        if not self._path.exists():
            raise RecordingError(f"no mask at {path}")
        self._of_name: dict[str, Path] = {}
        if self._path.is_dir():
            files = sorted(f for f in self._path.rglob("*") if f.suffix.lower() in _SUFFIXES)
            self._of_name = {str(f.relative_to(self._path)): f for f in files}
            if not files:
                raise RecordingError(f"{path} holds no mask: give it images named like the frames'")
        self._masked: dict[tuple[Camera, Path], Camera] = {}

    @staticmethod
    def listed(path: Path, files: Mapping[str, Path]) -> Masks:
        """Masks that a recording itself names.

        Args:
            path: of the list, for messages.
            files: by the name of the frame.
        """
        masks = Masks(path)
        masks._of_name = dict(files)
        return masks

    def masks(self, name: str) -> bool:
        """Whether there is a mask for a frame of that name."""
        return self._file(name) is not None

    def masked(self, camera: Camera, name: str = "") -> Camera:
        """The camera of a frame with the frame's mask.

        Args:
            camera: without it.
            name: of the frame; a folder's masks are called alike, also with another ending or with
                ``.png`` behind the whole name, in folders alike or in none.

        Raises:
            RecordingError: the mask cannot be read, is of another shape than the image, or leaves
                nothing; or it is a folder and the frame has no name.
        """
        if self._of_name and not name:
            raise RecordingError(f"mask {self._path} is a folder: give one image for all frames")
        file = self._file(name)
        if file is None:
            return camera
        if (camera, file) not in self._masked:
            mask = _read(file, camera)
            if camera.mask is not None:
                mask = Mask(mask.usable & camera.mask.usable)
            self._masked[camera, file] = replace(camera, mask=mask)
        return self._masked[camera, file]

    def digest(self) -> str:
        """Tells masks apart, by what is in their files."""
        found = hashlib.sha256()
        for name, file in sorted(self._of_name.items()) or [("", self._path)]:
            found.update(f"{name}\0".encode() + file.read_bytes())
        return found.hexdigest()

    def _file(self, name: str) -> Path | None:
        if not self._of_name:
            return self._path
        full = Path(name)
        for stem in (full, Path(full.name)):
            for end in ("", *_SUFFIXES):
                for place in (f"{stem}{end}", str(stem.with_suffix(end or stem.suffix))):
                    if place in self._of_name:
                        return self._of_name[place]
        return None


def _read(file: Path, camera: Camera) -> Mask:
    image = read_image(file)
    usable = image.max(axis=2) >= _WHITE
    rows, columns = usable.shape
    # one pixel more or less is rounding, as when images were made smaller
    if abs(columns * camera.height - rows * camera.width) > max(columns, rows, *camera.size):
        raise RecordingError(
            f"mask {file} is {columns}x{rows}, its image is {camera.width}x{camera.height}: "
            "make it of the same shape"
        )
    if not usable.any():
        raise RecordingError(f"mask {file} is black and leaves nothing: white is what may be used")
    mask = Mask(np.asarray(usable))
    return mask if (columns, rows) == camera.size else mask.resized(*camera.size)


class MaskedRecording(Recording):
    """A recording whose frames have masks."""

    def __init__(self, base: Recording, masks: Masks) -> None:
        """Put masks on frames.

        Args:
            base: the recording.
            masks: for its frames.

        Raises:
            RecordingError: none of the masks belongs to any of the frames.
        """
        self._base, self._masks = base, masks
        bare = [info.name for info in base.infos if not masks.masks(info.name)]
        if len(bare) == len(base.infos):
            raise RecordingError(
                f"none of the masks has the name of a frame of {base.name}, such as {bare[0]}"
            )
        self.describe_as(base)
        self.masks = " ".join(filter(None, (base.masks, masks.digest())))
        if bare:
            self.notes += (f"{len(bare)} of {len(base.infos)} images have no mask: used whole",)

    def __getattr__(self, name: str) -> Any:
        """What readers know beyond the interface."""
        return getattr(self._base, name)

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels and masks."""
        return self._base.infos

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Decode some frames; see the base class."""
        for frame in self._base.frames(indices):
            yield replace(frame, camera=self._masks.masked(frame.camera, frame.name))

    def odometry(self) -> Trajectory | None:
        """``odom_from_base`` over time, or None."""
        return self._base.odometry()
