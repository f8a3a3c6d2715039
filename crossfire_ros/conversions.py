"""Messages to core types and back; pure functions, no graph needed.

Everything that a message can get wrong ends in :class:`MessageError` with one readable line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from builtin_interfaces.msg import Time as TimeMsg
from geometry_msgs.msg import Point, PoseWithCovarianceStamped, Quaternion, TransformStamped
from geometry_msgs.msg import Pose as PoseMsg
from geometry_msgs.msg import Transform as TransformMsg
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.localization.uncertainty import completed
from crossfire_core.recordings import messages
from crossfire_core.recordings.camera_info import Calibration, CameraView, chosen_view
from crossfire_core.recordings.image_message import PixelDepth

_NS = 1_000_000_000


class MessageError(CrossfireError):
    """A message cannot be used; the text says why."""


def stamp_to_ns(stamp: TimeMsg) -> int:
    """Nanoseconds of a message's stamp."""
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def stamp_from_ns(stamp_ns: int) -> TimeMsg:
    """A message's stamp of nanoseconds."""
    return TimeMsg(sec=int(stamp_ns // _NS), nanosec=int(stamp_ns % _NS))


def pose_from_transform(message: TransformMsg) -> Pose:
    """A transform as a pose.

    Raises:
        ValueError: NaN, or a zero quaternion.
    """
    return messages.transform_pose(message)


def transform_from_pose(pose: Pose, parent: str, child: str, stamp: TimeMsg) -> TransformStamped:
    """A pose ``parent_from_child`` as a stamped transform."""
    message = TransformStamped()
    message.header.stamp, message.header.frame_id, message.child_frame_id = stamp, parent, child
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, pose.translation)
    q.x, q.y, q.z, q.w = map(float, pose.quaternion())
    return message


def pose_from_message(message: PoseMsg) -> Pose:
    """A pose message as a pose.

    Raises:
        MessageError: NaN, or a zero quaternion.
    """
    try:
        return messages.plain_pose(message)
    except ValueError as error:
        raise MessageError(str(error)) from error


def pose_to_message(pose: Pose) -> PoseMsg:
    """A pose as a pose message."""
    x, y, z = map(float, pose.translation)
    qx, qy, qz, qw = map(float, pose.quaternion())
    return PoseMsg(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def covariance_from_message(values: Any, usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """A message's 36 numbers as ``[6, 6]``.

    Args:
        values: row by row; axes with zero, negative, huge or no numbers count as unknown.
        usual: ``[6, 6]`` diagonal, for the axes that are unknown.
    """
    return completed(np.asarray(values, dtype=np.float64).reshape(6, 6), usual)


def pose_with_covariance(
    pose: Pose, covariance: NDArray[np.float64], frame: str, stamp_ns: int
) -> PoseWithCovarianceStamped:
    """A pose with its covariance and the stamp of its measurement."""
    message = PoseWithCovarianceStamped()
    message.header.frame_id, message.header.stamp = frame, stamp_from_ns(stamp_ns)
    message.pose.pose = pose_to_message(pose)
    message.pose.covariance = np.asarray(covariance, dtype=np.float64).ravel()
    return message


def odometry_from_message(
    message: Odometry, odom_frame: str, base_frame: str
) -> tuple[int, Pose, NDArray[np.float64]]:
    """Stamp, ``odom_from_base`` and its covariance as it was reported, usable or not.

    Args:
        message: to convert.
        odom_frame: that it must be expressed in; an empty frame is taken for it.
        base_frame: that it must be about; an empty child frame is taken for it.

    Raises:
        MessageError: NaN, a zero quaternion, no stamp, or other frames.
    """
    frames = {
        "odom_frame": (message.header.frame_id.lstrip("/"), odom_frame),
        "base_frame": (message.child_frame_id.lstrip("/"), base_frame),
    }
    wrong = {role: found for role, (found, name) in frames.items() if found not in ("", name)}
    if wrong:
        raise MessageError(
            f"odometry is about {frames['base_frame'][0]!r} in {frames['odom_frame'][0]!r}: set "
            + " and ".join(f"{role} to {found!r}" for role, found in wrong.items())
        )
    stamp = stamp_to_ns(message.header.stamp)
    if stamp == 0:
        raise MessageError("odometry has no stamp: its publisher must fill header.stamp")
    pose = pose_from_message(message.pose.pose)
    covariance = np.asarray(message.pose.covariance, dtype=np.float64).reshape(6, 6)
    return stamp, pose, covariance


def view_from_message(
    message: CameraInfo, topic: str, rectified: bool | None
) -> tuple[CameraView, CameraView | None]:
    """The camera of the images that go with a ``camera_info``, as a bag's reader finds it.

    Binning and region of interest are applied, as drivers describe the full sensor.

    Args:
        message: the calibration.
        topic: of the images, whose name says whether they are rectified.
        rectified: what the user says about that, or None.

    Returns:
        The camera, and the other one that it may be where nothing says which.

    Raises:
        MessageError: zero or NaN numbers, an unknown distortion model, no size.
    """
    try:
        return chosen_view(Calibration.from_message(message), topic, rectified)
    except CalibrationError as error:
        raise MessageError(str(error)) from error


def image_from_message(
    message: Image | CompressedImage, depth: PixelDepth | None = None
) -> NDArray[np.uint8]:
    """The colours of an image message: ``[height, width, 3]`` uint8, RGB.

    Args:
        message: of either type.
        depth: what earlier images told about the bits of 16-bit pixels.

    Raises:
        MessageError: sizes that contradict each other, an unknown encoding, broken bytes.
    """
    try:
        return messages.colour_of(message, depth)
    except RecordingError as error:
        raise MessageError(str(error)) from error


def image_to_message(image: NDArray[np.uint8], frame: str, stamp_ns: int) -> Image:
    """``[height, width, 3]`` uint8 RGB as an ``rgb8`` message."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8")
    message.header.frame_id, message.header.stamp = frame, stamp_from_ns(stamp_ns)
    message.step = image.shape[1] * 3
    message.data.frombytes(np.ascontiguousarray(image).tobytes())
    return message
