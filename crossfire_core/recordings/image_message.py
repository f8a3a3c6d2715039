"""Pixels out of ROS image messages, for bags and for the node alike.

Written out here because the usual converters fall short on machines without ROS: one ignores
``step``, the other reads 16-bit depth as bytes under today's NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import RecordingError

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True)
class _Layout:
    """How one encoding lies in memory, and OpenCV's conversion of it to RGB."""

    kind: str
    channels: int
    to_rgb: int | None


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
    "rgb16": _Layout("u2", 3, None),
    "bgr16": _Layout("u2", 3, cv2.COLOR_BGR2RGB),
    "yuv422": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": _Layout("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    **{f"bayer_{name}8": _Layout("u1", 1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": _Layout("u2", 1, code) for name, code in _BAYER.items()},
}
# Metres in one unit; millimetres in integers and metres in floats are ROS's convention (REP 118).
_DEPTH = {
    "16uc1": (_Layout("u2", 1, None), 1e-3),
    "mono16": (_Layout("u2", 1, None), 1e-3),
    "32fc1": (_Layout("f4", 1, None), 1.0),
}
_COMPRESSED_DEPTH_HEADER = 12


def decode_image(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Bytes
) -> NDArray[np.uint8]:
    """The colours of a ``sensor_msgs/Image``, given by its fields.

    Args:
        encoding: ROS's name, such as ``bgr8`` or ``bayer_rggb8``.
        height: pixels.
        width: pixels.
        step: bytes from one row to the next, padding included.
        is_bigendian: byte order of numbers longer than a byte.
        data: the rows.

    Returns:
        ``[height, width, 3]`` uint8, RGB. 16-bit images keep their upper eight bits.

    Raises:
        RecordingError: an unknown encoding, or sizes that contradict each other.
    """
    layout = _LAYOUTS.get(encoding.lower())
    if layout is None:
        raise RecordingError(
            f"image encoding {encoding!r} is not supported: use one of {', '.join(_LAYOUTS)}"
        )
    pixels = _rows(layout, height, width, step, is_bigendian, data)
    if layout.channels == 2 and width % 2:
        raise RecordingError(f"image is {width} px wide, {encoding} needs an even width")
    if layout.to_rgb is not None:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), layout.to_rgb)
    if pixels.dtype == np.uint16:
        pixels = pixels >> 8
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


def decode_compressed(data: Bytes) -> NDArray[np.uint8]:
    """The colours of a ``sensor_msgs/CompressedImage``: ``[height, width, 3]`` uint8, RGB.

    Raises:
        RecordingError: the bytes are no complete JPEG, PNG or other known image.
    """
    raw = np.frombuffer(data, np.uint8)
    _refuse_cut_jpeg(raw)
    image = _imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_compressed_depth(data: Bytes) -> NDArray[np.float32]:
    """The depth of a ``CompressedImage`` that holds a 16-bit PNG, as decode_depth returns it.

    The 12 bytes that ``compressed_depth_image_transport`` puts before the PNG are skipped.

    Raises:
        RecordingError: no 16-bit image in it.
    """
    raw = np.frombuffer(data, np.uint8)
    has_header = raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n"
    png = raw[_COMPRESSED_DEPTH_HEADER:] if has_header else raw
    image = _imdecode(png, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        raise RecordingError("compressed depth image is not a 16-bit PNG: record 16UC1 depth")
    return metres(image, 1e-3)


def metres(raw: NDArray[Any], unit: float) -> NDArray[np.float32]:
    """Depth numbers in metres, 0 where they are not finite or not positive.

    Args:
        raw: ``[height, width]`` as stored.
        unit: metres in one of its units.
    """
    depth = raw.astype(np.float32) * np.float32(unit)
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    return depth


def _rows(
    layout: _Layout, height: int, width: int, step: int, is_bigendian: bool, data: Bytes
) -> NDArray[Any]:
    """The pixels without row padding, ``[height, width]`` or ``[height, width, channels]``."""
    dtype = np.dtype(layout.kind).newbyteorder(">" if is_bigendian else "<")
    used = width * layout.channels * dtype.itemsize
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


def _refuse_cut_jpeg(raw: NDArray[np.uint8]) -> None:
    """Decoders fill a cut JPEG with grey and say nothing; its scan must come to an end."""
    if raw[:2].tobytes() != b"\xff\xd8":
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
