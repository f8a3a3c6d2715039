"""Pixels out of ROS image messages, for bags and for the node alike.

Written out here because the usual converters fall short on machines without ROS: one ignores
``step``, the other reads 16-bit depth as bytes under today's NumPy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import RecordingError

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True)
class _Layout:
    """How one encoding lies in memory, and OpenCV's conversion of it to RGB.

    ``bits`` is 0 where the encoding does not say how many of its bits are used; ``tall`` says that
    rows of colour, half as many, lie below those of brightness.
    """

    kind: str
    channels: int
    to_rgb: int | None
    bits: int = 0
    tall: bool = False


_USUAL_BITS = (8, 10, 12, 14, 16)


@dataclass
class PixelDepth:
    """How many bits a camera's 16-bit pixels really use, as its images tell.

    Sensors give 10, 12 or 14 bits, and most drivers leave the upper ones empty. The brightest
    pixel so far decides, so that all images are scaled alike once a bright one was seen.

    Attributes:
        bits: one of 8, 10, 12, 14, 16.
    """

    bits: int = _USUAL_BITS[0]

    def see(self, needed: int) -> None:
        """Learn from an image how many bits its brightest pixel needs."""
        self.bits = max(self.bits, next(bits for bits in _USUAL_BITS if bits >= needed))

    def to_bytes(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """The upper eight of the used bits."""
        return np.asarray(np.minimum(pixels >> (self.bits - 8), 255), dtype=np.uint8)


# ROS names a Bayer pattern by its first four pixels, OpenCV by the four that start at (1, 1).
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_LAYOUTS = {
    "mono8": _Layout("u1", 1, cv2.COLOR_GRAY2RGB),
    "8uc1": _Layout("u1", 1, cv2.COLOR_GRAY2RGB),
    "mono16": _Layout("u2", 1, cv2.COLOR_GRAY2RGB),
    "16uc1": _Layout("u2", 1, cv2.COLOR_GRAY2RGB),
    "rgb8": _Layout("u1", 3, None),
    "bgr8": _Layout("u1", 3, cv2.COLOR_BGR2RGB),
    "8uc3": _Layout("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout("u1", 4, cv2.COLOR_BGRA2RGB),
    "8uc4": _Layout("u1", 4, cv2.COLOR_BGRA2RGB),
    "rgba16": _Layout("u2", 4, cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout("u2", 4, cv2.COLOR_BGRA2RGB),
    "rgb16": _Layout("u2", 3, None),
    "bgr16": _Layout("u2", 3, cv2.COLOR_BGR2RGB),
    "16uc3": _Layout("u2", 3, cv2.COLOR_BGR2RGB),
    "16uc4": _Layout("u2", 4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "nv12": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV12, tall=True),
    "nv21": _Layout("u1", 1, cv2.COLOR_YUV2RGB_NV21, tall=True),
    **{f"mono{bits}": _Layout("u2", 1, cv2.COLOR_GRAY2RGB, bits) for bits in (10, 12, 14)},
    **{f"bayer_{name}8": _Layout("u1", 1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": _Layout("u2", 1, code) for name, code in _BAYER.items()},
    **{
        f"bayer_{name}{bits}": _Layout("u2", 1, code, bits)
        for name, code in _BAYER.items()
        for bits in (10, 12, 14)
    },
}
# Metres in one unit; millimetres in integers and metres in floats are ROS's convention (REP 118).
_DEPTH = {
    "16uc1": (_Layout("u2", 1, None), 1e-3),
    "mono16": (_Layout("u2", 1, None), 1e-3),
    "32fc1": (_Layout("f4", 1, None), 1.0),
}
# What OpenCV makes of a PNG of 16 bits, by its shape beyond rows and columns.
_PNG_LAYOUTS = {
    (): _LAYOUTS["mono16"],
    (3,): _LAYOUTS["bgr16"],
    (4,): _Layout("u2", 4, cv2.COLOR_BGRA2RGB),
}
_HELP = "record mono8, rgb8, bgr8 or a bayer mosaic, or compressed images"
_COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")
_PNG = b"\x89PNG\r\n\x1a\n"
_VIDEO = ("h264", "h265", "hevc", "x264", "x265", "avc", "vp8", "vp9", "av1", "mpeg4")


def decode_image(
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool,
    data: Bytes,
    depth: PixelDepth | None = None,
) -> NDArray[np.uint8]:
    """The colours of a ``sensor_msgs/Image``, given by its fields.

    Args:
        encoding: ROS's name, such as ``bgr8`` or ``bayer_rggb8``.
        height: pixels.
        width: pixels.
        step: bytes from one row to the next, padding included.
        is_bigendian: byte order of numbers longer than a byte.
        data: the rows.
        depth: what earlier images told about the bits of 16-bit pixels; this one tells more.

    Returns:
        ``[height, width, 3]`` uint8, RGB. 16-bit images keep the upper eight of the bits in use.

    Raises:
        RecordingError: an unknown encoding, or sizes that contradict each other.
    """
    layout = _layout(encoding, height, width)
    pixels = _rows(layout, height, width, step, is_bigendian, data)
    return _to_rgb(pixels, layout, depth)


def used_bits(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Bytes
) -> int:
    """How many bits the brightest pixel of a ``sensor_msgs/Image`` needs, 0 where it is known.

    Raises:
        RecordingError: as :func:`decode_image` does.
    """
    layout = _layout(encoding, height, width)
    pixels = _rows(layout, height, width, step, is_bigendian, data)
    return _bits(pixels) if layout.kind == "u2" and not layout.bits else 0


def _bits(pixels: NDArray[np.uint16]) -> int:
    """That the brightest needs; how opaque a pixel is says nothing of it."""
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels
    return int(colours.max(initial=0)).bit_length()


def _layout(encoding: str, height: int, width: int) -> _Layout:
    layout = _LAYOUTS.get(encoding.lower())
    if layout is None:
        raise RecordingError(f"image encoding {encoding!r} is not supported: {_HELP}")
    if (layout.channels == 2 and width % 2) or (layout.tall and (width % 2 or height % 2)):
        raise RecordingError(f"image is {width}x{height}, {encoding} needs even sizes")
    return layout


def _to_rgb(pixels: NDArray[Any], layout: _Layout, depth: PixelDepth | None) -> NDArray[np.uint8]:
    """Pixels without padding as RGB bytes."""
    deep = pixels.dtype == np.uint16
    if deep:
        depth = PixelDepth(layout.bits) if layout.bits else depth or PixelDepth()
        depth.see(_bits(pixels))
    if layout.to_rgb is not None:
        try:
            pixels = cv2.cvtColor(np.ascontiguousarray(pixels), layout.to_rgb)
        except cv2.error as error:  # a mosaic needs two rows and columns
            width, height = pixels.shape[1], pixels.shape[0]
            raise RecordingError(f"image of {width}x{height} has too few pixels") from error
    if deep and depth is not None:
        pixels = depth.to_bytes(pixels)
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def decode_depth(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Bytes
) -> NDArray[np.float32]:
    """The depth image of a ``sensor_msgs/Image``, given by its fields as in :func:`decode_image`.

    Returns:
        ``[height, width]`` float32 metres, 0 where unknown.

    Raises:
        RecordingError: not a depth encoding, or sizes that contradict each other.
    """
    if encoding.lower() not in _DEPTH:
        raise RecordingError(f"depth encoding {encoding!r} is not supported: use 16UC1 or 32FC1")
    layout, unit = _DEPTH[encoding.lower()]
    raw = _rows(layout, height, width, step, is_bigendian, data)
    return metres(raw, unit)


def decode_compressed(
    data: Bytes, format: str = "", depth: PixelDepth | None = None
) -> NDArray[np.uint8]:
    """The colours of a ``sensor_msgs/CompressedImage``: ``[height, width, 3]`` uint8, RGB.

    Args:
        data: a JPEG, PNG or other image file.
        format: the message's: ``jpeg``, or with the encoding before it was compressed, such as
            ``bayer_rggb8; jpeg compressed bgr8``; empty for a plain file.
        depth: as for :func:`decode_image`.

    Raises:
        RecordingError: the bytes are no complete image, or are a part of a video.
    """
    raw = np.frombuffer(data, np.uint8)
    _refuse_video(raw, format)
    _refuse_cut_jpeg(raw)
    layout = _LAYOUTS.get(original_encoding(format))
    if layout is not None and layout.channels == 1 and not layout.tall:
        stored = _imdecode(raw, cv2.IMREAD_UNCHANGED)
        if stored.ndim == 2:  # an encoder that had made colours of it stored three channels
            return _to_rgb(stored, layout, depth)
    if is_deep(raw):
        stored = _imdecode(raw, cv2.IMREAD_UNCHANGED)
        return _to_rgb(stored, _PNG_LAYOUTS[stored.shape[2:]], depth)
    image = _imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def original_encoding(format: str) -> str:
    """What a ``CompressedImage``'s format says the image was before, or an empty string.

    ``image_transport`` writes ``ENCODING; CODEC compressed TARGET``; drivers write a codec alone.
    """
    encoding, mark, _ = format.partition(";")
    return encoding.strip().lower() if mark else ""


def decode_compressed_depth(data: Bytes, format: str = "") -> NDArray[np.float32]:
    """The depth of a ``CompressedImage`` that holds a 16-bit PNG, as decode_depth returns it.

    Args:
        data: the PNG, after the 12 bytes that ``compressed_depth_image_transport`` puts before it.
        format: the message's; of 32FC1 images the PNG holds inverse depth in steps that the
            12 bytes give, of others millimetres.

    Raises:
        RecordingError: no 16-bit image in it, or one that another codec made.
    """
    raw = np.frombuffer(data, np.uint8)
    if "rvl" in format.lower():
        raise RecordingError(
            "compressed depth images are of the codec RVL: record them raw or as PNG"
        )
    has_header = raw[:8].tobytes() != _PNG and len(raw) > _COMPRESSED_DEPTH_HEADER.size
    image = _imdecode(
        raw[_COMPRESSED_DEPTH_HEADER.size :] if has_header else raw, cv2.IMREAD_UNCHANGED
    )
    if image.dtype != np.uint16 or image.ndim != 2:
        raise RecordingError("compressed depth image is not a 16-bit PNG: record 16UC1 depth")
    if original_encoding(format) != "32fc1":
        return metres(image, 1e-3)
    if not has_header:
        raise RecordingError("compressed 32FC1 depth lacks the header that scales it")
    _, scale, offset = _COMPRESSED_DEPTH_HEADER.unpack(
        raw[: _COMPRESSED_DEPTH_HEADER.size].tobytes()
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = scale / (image.astype(np.float64) - offset)
    return metres(np.where(image > 0, depth, 0.0), 1.0)


def metres(raw: NDArray[Any], unit: float) -> NDArray[np.float32]:
    """Depth numbers in metres, 0 where they are not finite or not positive.

    Args:
        raw: ``[height, width]`` as stored.
        unit: metres in one of its units.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        depth = raw.astype(np.float32) * np.float32(unit)
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    return depth


def _rows(
    layout: _Layout, height: int, width: int, step: int, is_bigendian: bool, data: Bytes
) -> NDArray[Any]:
    """The pixels without row padding, ``[height, width]`` or ``[height, width, channels]``."""
    dtype = np.dtype(layout.kind).newbyteorder(">" if is_bigendian else "<")
    used = width * layout.channels * dtype.itemsize
    step = step or used  # of drivers that leave it empty
    if layout.tall:
        height = height * 3 // 2
    if height <= 0 or width <= 0:
        raise RecordingError(f"image message says its size is {width}x{height}")
    if step < used:
        raise RecordingError(f"image message has step {step}, a row of {width} px takes {used}")
    flat = np.frombuffer(data, np.uint8)
    if len(flat) < step * (height - 1) + used:
        raise RecordingError(
            f"image message holds {len(flat)} bytes, {step} x {height} were expected"
        )
    padded = np.lib.stride_tricks.as_strided(flat, (height, used), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(padded).view(dtype).astype(dtype.newbyteorder("="), copy=False)
    return pixels.reshape(height, width, layout.channels) if layout.channels > 1 else pixels


def is_jpeg(data: Bytes) -> bool:
    """Whether a file is a JPEG, which cannot hold distances."""
    return np.frombuffer(data, np.uint8)[:2].tobytes() == b"\xff\xd8"


def is_deep(data: Bytes) -> bool:
    """Whether a file is a PNG of 16 bits a channel, which its header says."""
    raw = np.frombuffer(data, np.uint8)
    return raw[:8].tobytes() == _PNG and len(raw) > 24 and raw[24] == 16


def _refuse_video(raw: NDArray[np.uint8], format: str) -> None:
    """One message of a video shows only what changed since the one before."""
    codec = next((name for name in _VIDEO if name in format.lower()), "")
    if not codec and raw[:4].tobytes().lstrip(b"\0")[:1] == b"\1" and not raw[:2].any():
        codec = "h264 or h265"
    if codec:
        raise RecordingError(
            f"images are a video ({codec}), which is not read here: record JPEG or raw images, "
            "or republish them with image_transport and record these"
        )


def _refuse_cut_jpeg(raw: NDArray[np.uint8]) -> None:
    """Decoders fill a cut JPEG with grey and say nothing; its scan must come to an end."""
    if not is_jpeg(raw):
        return
    data = raw.tobytes()
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise RecordingError("compressed image cannot be decoded: the JPEG is cut short")


def _imdecode(data: NDArray[np.uint8], flags: int) -> NDArray[Any]:
    image = None
    if len(data):
        try:
            image = cv2.imdecode(data, flags)
        except cv2.error:  # hostile sizes in a header
            image = None
    if image is None:
        raise RecordingError("compressed image cannot be decoded: it is cut short or no image")
    return np.asarray(image)
