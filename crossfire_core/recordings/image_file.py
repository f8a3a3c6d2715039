"""Image files of a folder: found, measured without being decoded, and read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera
from crossfire_core.recordings.image_message import PixelDepth, decode_compressed, is_deep, metres

Size = tuple[int, int]
Pixels = TypeVar("Pixels", bound=NDArray[Any])

_ORIENTATION = 0x0112
# EXIF's number of a picture that was taken with the camera on its side, and how it is turned up;
# odd ones are mirrored besides.
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(np.swapaxes(pixels, 0, 1), 2),
    8: np.rot90,
}
_JPEGS = ("JPEG", "MPO")
_END_OF_JPEG = b"\xff\xd9"
_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
_FOREIGN_ROOT = re.compile(r"/|[A-Za-z]:/|\.\./|file:/")


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before it is decoded.

    Attributes:
        size: (width, height) as stored.
        turn: EXIF's number of the quarter turn that it asks for, or None.
        deep: whether it is a PNG of 16 bits a channel.
    """

    size: Size
    turn: int | None
    deep: bool = False


class ImageFinder:
    """Finds files that a list names, on whatever machine the list was written.

    Backslashes separate folders. A path that is absolute or begins with ``..``, and is not here,
    is looked for by its last parts. Neither the case of names matters nor, where endings are
    given, a file's ending.
    """

    def __init__(self, *folders: Path, endings: Sequence[str] = ()) -> None:
        """Prepare.

        Args:
            folders: that the names are relative to, the likelier first.
            endings: tried where the list names a file without its own.
        """
        self._folders = folders
        self._endings = ("", *endings)
        self._names: dict[Path, dict[str, Path]] = {}
        self._claimed: dict[Path, str] = {}

    def find(self, listed: str) -> Path | None:
        """The file of that name, or None."""
        for whole, name in _spellings(listed):
            for folder in self._folders:
                path = self._in(folder, name)
                # Of two paths that differ in their front only the first has the file.
                if path and (whole or self._claimed.setdefault(path, listed) == listed):
                    return path
        return None

    def _in(self, folder: Path, name: str) -> Path | None:
        for ending in self._endings:
            path = folder / (name + ending)
            try:
                if path.is_file():
                    return path
                found = self._alike(folder, Path(name + ending).parts)
            except (OSError, ValueError):  # a name that no file can have
                return None
            if found is not None and found.is_file():
                return found
        return None

    def _alike(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """What lies there under these names, in capitals or not."""
        found: Path | None = folder
        for part in parts:
            if found is None:
                return None
            there = found / part
            found = there if there.is_dir() else self._listing(found).get(part.casefold())
        return found

    def _listing(self, folder: Path) -> dict[str, Path]:
        if folder not in self._names:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            self._names[folder] = {p.name.casefold(): p for p in paths}
        return self._names[folder]


def _spellings(listed: str) -> Iterator[tuple[bool, str]]:
    """Names to look for; the flag says whether it is the whole path."""
    yield True, listed
    name = listed.replace("\\", "/")
    if name != listed:
        yield True, name
    if _FOREIGN_ROOT.match(name):
        parts = [part for part in name.split("/") if part]
        for start in range(1, len(parts)):
            yield False, "/".join(parts[start:])


def read_header(path: Path) -> ImageHeader:
    """Size and orientation of an image file.

    Raises:
        RecordingError: missing, no image, or damaged.
    """
    with _named(path), path.open("rb") as file:
        return header_of(file)


def header_of(stream: BinaryIO, format: str = "") -> ImageHeader:
    """Size and orientation of an image that is stored as a file is.

    Args:
        stream: the bytes.
        format: of a message with an image, see :func:`.decode_compressed`.

    Raises:
        RecordingError: no image, or a damaged one.
    """
    from PIL import Image  # slow to import, and the command line imports this module's neighbours

    size, turn, kind, deep = (0, 0), None, None, False
    sound = complete = False
    # each of PIL's formats has its own errors; OpenCV may know better
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(stream) as image:
            size, kind = image.size, image.format
            exif = image.getexif() if "exif" in image.info else {}
            turn = said if (said := exif.get(_ORIENTATION)) in _TURNS else None
            deep = kind == "PNG" and is_deep(_part(stream, 0, 64))
            if kind in _JPEGS:
                complete = _part(stream, -2, 2) == _END_OF_JPEG
            elif kind == "PNG":
                complete = _part(stream, -len(_END_OF_PNG), len(_END_OF_PNG)) == _END_OF_PNG
                image.verify()  # the checksums of all but its end
                sound = True
    if kind == "PNG" and not sound:
        raise RecordingError("the PNG is damaged or cut short")
    if not complete:  # what has no mark of its end is decoded to find out
        stream.seek(0)
        pixels = decode_compressed(stream.read(), format)
        size = pixels.shape[1], pixels.shape[0]
    return ImageHeader(size, turn, deep)


def _part(stream: BinaryIO, start: int, length: int) -> bytes:
    """Some bytes, from the end where the start is negative."""
    stream.seek(start, 0 if start >= 0 else 2)
    return stream.read(length)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what is said of it."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error


def turned(pixels: Pixels, turn: int | None) -> Pixels:
    """An image or depth image after a quarter turn, see :class:`ImageHeader`."""
    if turn is None:
        return pixels
    return np.ascontiguousarray(_TURNS[turn](pixels))  # type: ignore[return-value]


def read_image(path: Path, depth: PixelDepth | None = None) -> NDArray[np.uint8]:
    """An image file as ``[height, width, 3]`` uint8 RGB, as stored, whatever EXIF says.

    Args:
        path: of the file.
        depth: what is known of the bits of this camera's pixels; by default the image tells.

    Raises:
        RecordingError: the file is missing or no complete image.
    """
    with _named(path):
        return decode_compressed(path.read_bytes(), depth=depth)


def read_depth(path: Path, unit: float, unknown: int) -> NDArray[np.float32]:
    """A 16-bit depth file as ``[height, width]`` float32 metres, 0 where unknown.

    Args:
        path: a PNG of one 16-bit channel.
        unit: metres in one of its units.
        unknown: the number that stands for "unknown" besides 0.

    Raises:
        RecordingError: no such image.
    """
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise RecordingError(f"{path} is not a 16-bit depth image")
    return metres(np.where(raw == unknown, 0, raw), unit)


def fitted(camera: Camera, header: ImageHeader) -> tuple[Camera, int | None]:
    """The camera of an image at the image's size, and how the image is to be turned for it.

    An image that is stored on its side is turned up where the calibration is for the upright one;
    where it is for the stored one, image, calibration and pose agree as they are.

    Args:
        camera: as calibrated, perhaps at another size.
        header: of the image.

    Raises:
        CalibrationError: the image has another shape.
    """
    width, height = header.size
    if (scaled := scaled_to(camera, (width, height))) is not None:
        return scaled, None
    if header.turn is not None and (scaled := scaled_to(camera, (height, width))) is not None:
        return scaled, header.turn
    raise CalibrationError(
        f"it is {width}x{height}, its calibration is for {camera.width}x{camera.height}, "
        "another shape: give that of its own camera with --calibration"
    )


def read_fitted(
    path: Path, camera_of: Callable[[Size], Camera]
) -> tuple[NDArray[np.uint8], Camera]:
    """An image file, turned up where its calibration is for the upright one, and its camera.

    Args:
        path: of the file.
        camera_of: gives the calibration, of any size; takes the (width, height) of the file.

    Raises:
        RecordingError: the file is missing or no complete image.
        CalibrationError: it has another shape than its calibration.
    """
    header = read_header(path)
    camera, turn = fitted(camera_of(header.size), header)
    return turned(read_image(path), turn), camera


def scaled_to(camera: Camera, size: Size) -> Camera | None:
    """The camera of an image that was scaled, None if that does not explain its size.

    Sizes are whole pixels, so either side may be off by less than one from the other's ratio;
    each axis is scaled by its own.

    Args:
        camera: before scaling.
        size: (width, height) after it.
    """
    width, height = size
    if camera.size == size:
        return camera
    if min(size) <= 0:
        return None
    across = abs(width - camera.width * height / camera.height)
    down = abs(height - camera.height * width / camera.width)
    return camera.resized(width, height) if max(across, down) < 1.0 else None
