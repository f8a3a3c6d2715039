"""ROS messages to core types, for bags and for the node alike; needs no ROS.

Messages are taken by their fields, so that those of rclpy and those of rosbags are one.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.recordings.image_file import header_of
from crossfire_core.recordings.image_message import (
    PixelDepth,
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
    is_jpeg,
    original_encoding,
    used_bits,
)
from crossfire_core.recordings.lazy import FARTHEST

_NS = 1_000_000_000
_DEPTH_ENCODINGS = ("16uc1", "32fc1", "64fc1")
# Some drivers send depth under these names, most send pictures.
_GREY_ENCODINGS = ("mono16", "mono8", "8uc1")
_SEEN_COMPRESSED = 20  # every so many are decoded, which takes long, and tell enough


def stamp_ns(header: Any) -> int:
    """A ``std_msgs/Header``'s stamp in nanoseconds."""
    return int(header.stamp.sec) * _NS + int(header.stamp.nanosec)


def transform_pose(transform: Any) -> Pose:
    """A ``geometry_msgs/Transform`` as a pose.

    Raises:
        ValueError: NaN, infinite or a zero quaternion.
    """
    return _pose(transform.translation, transform.rotation)


def plain_pose(pose: Any) -> Pose:
    """A ``geometry_msgs/Pose`` as a pose.

    Raises:
        ValueError: NaN, infinite or a zero quaternion.
    """
    return _pose(pose.position, pose.orientation)


def message_pose(message: Any, msgtype: str) -> tuple[str, str, Pose]:
    """(frame, frame that is posed or empty, pose) of a message with a header and one pose.

    Args:
        message: a PoseStamped, PoseWithCovarianceStamped, TransformStamped or Odometry.
        msgtype: which of them.

    Raises:
        ValueError: NaN, infinite or a zero quaternion.
    """
    frame = str(message.header.frame_id)
    child = str(getattr(message, "child_frame_id", ""))
    if msgtype.endswith("TransformStamped"):
        return frame, child, transform_pose(message.transform)
    return (
        frame,
        child,
        plain_pose(message.pose if msgtype.endswith("PoseStamped") else message.pose.pose),
    )


def colour_of(message: Any, depth: PixelDepth | None = None) -> NDArray[np.uint8]:
    """The pixels of an ``Image`` or ``CompressedImage``, ``[height, width, 3]`` uint8 RGB.

    Args:
        message: of either type.
        depth: what is known of the bits of this camera's pixels; by default the image tells.

    Raises:
        RecordingError: no complete image, or of a kind that is not supported.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data, str(message.format), depth)
    return decode_image(*_fields(message), depth)


def depth_of(message: Any) -> NDArray[np.float32]:
    """The depth of an ``Image`` or ``CompressedImage``, ``[height, width]`` float32 metres.

    Raises:
        RecordingError: no depth image.
    """
    if hasattr(message, "format"):
        return decode_compressed_depth(message.data, str(message.format))
    return decode_depth(*_fields(message))


def encoding_of(message: Any) -> str:
    """The encoding of an image message in lower case, empty where a compressed one hides it."""
    if hasattr(message, "format"):
        return original_encoding(str(message.format))
    return str(message.encoding).lower()


def holds_depth(message: Any, named_depth: bool) -> bool:
    """Whether an image message holds distances.

    Args:
        message: an ``Image`` or ``CompressedImage``.
        named_depth: whether its topic is named after depth, which decides where the encoding does
            not.
    """
    encoding = encoding_of(message)
    if (
        encoding in _DEPTH_ENCODINGS
        or "compresseddepth" in str(getattr(message, "format", "")).lower()
    ):
        return True
    if encoding:
        return named_depth and encoding in _GREY_ENCODINGS
    return named_depth and not is_jpeg(message.data)


def measure(message: Any, depth: PixelDepth, number: int) -> tuple[int, int]:
    """(width, height) of a message with a colour image, which is told to be whole undecoded.

    Args:
        message: an ``Image`` or ``CompressedImage``.
        depth: learns how many bits its pixels use.
        number: which message it is; of compressed ones some are decoded for that, which takes long.

    Raises:
        RecordingError: as :func:`colour_of` does.
    """
    if not hasattr(message, "format"):
        depth.see(used_bits(*_fields(message)))
        return int(message.width), int(message.height)
    data, said = bytes(message.data), str(message.format)
    header = header_of(BytesIO(data), said)
    if header.deep and number % _SEEN_COMPRESSED == 0:
        decode_compressed(data, said, depth)
    return header.size


def _fields(image: Any) -> tuple[str, int, int, int, bool, Any]:
    return (
        str(image.encoding),
        int(image.height),
        int(image.width),
        int(image.step),
        bool(image.is_bigendian),
        image.data,
    )


def _pose(position: Any, orientation: Any) -> Pose:
    place = (position.x, position.y, position.z)
    pose = Pose.from_quaternion((orientation.x, orientation.y, orientation.z, orientation.w), place)
    if not np.abs(place).max() < FARTHEST:
        raise ValueError(f"pose lies more than {FARTHEST:g} m from its origin")
    return pose
