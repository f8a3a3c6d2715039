"""Bags written without ROS: what a robot with one camera records."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose

Storage = Literal["mcap", "sqlite3"]
_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# Version 8 is the newest whose metadata Humble and Jazzy read as well.
_VERSION: Literal[8] = 8
_FOREVER = QosTime(2147483647, 4294967295)
_ROS_MODELS = {
    "none": ("plumb_bob", 5),
    "radtan": ("plumb_bob", 5),
    "rational": ("rational_polynomial", 8),
    "equidistant": ("equidistant", 4),
    # ROS has no names for these; those of kalibr are read back here.
    "fov": ("fov", 1),
    "omni": ("omni", 5),
    "eucm": ("eucm", 2),
    "ds": ("ds", 2),
}


class BagWriter:
    """Writes a rosbag2 that appears under its name only when it is complete.

    Messages are given as plain values; each method names its topic, and its frame where the
    message has one. Use it as a context manager.
    """

    def __init__(self, path: Path, storage: Storage = "mcap") -> None:
        """Prepare; nothing is written before the ``with`` statement.

        Args:
            path: folder of the bag, which must not exist.
            storage: ``mcap`` or ``sqlite3``.

        Raises:
            RecordingError: the folder exists.
        """
        if path.exists():
            raise RecordingError(f"{path} exists already: choose another name or remove it")
        self._path = path
        # The storage file is named after its folder, so only the folder around it is temporary.
        self._scratch = path.parent / f".{path.name}.partial"
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Connection] = {}
        self._storage = _PLUGINS[storage]
        self._writer: Writer | None = None

    def __enter__(self) -> BagWriter:
        """Open the temporary folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._writer = Writer(
            self._scratch / self._path.name, version=_VERSION, storage_plugin=self._storage
        )
        try:
            self._writer.open()
        except OSError as error:
            raise RecordingError(f"cannot write {self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the bag its name, or remove what is there after an error."""
        try:
            self._open_writer.close()
            if kind is None:
                (self._scratch / self._path.name).rename(self._path)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("BagWriter is used outside its with statement")
        return self._writer

    def message(self, msgtype: str, **values: Any) -> Any:
        """A message, for :meth:`write`.

        Args:
            msgtype: such as ``std_msgs/msg/String``.
            **values: all of its fields.
        """
        return self._types.types[msgtype](**values)

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Write any message; its time of recording is its stamp.

        Args:
            topic: where it was published.
            stamp_ns: nanoseconds.
            message: of :meth:`message`.
        """
        msgtype = message.__msgtype__
        if topic not in self._connections:
            qos = [_qos(latched=topic.endswith("tf_static"))]
            self._connections[topic] = self._open_writer.add_connection(
                topic, msgtype, typestore=self._types, offered_qos_profiles=qos
            )
        raw = self._types.serialize_cdr(message, msgtype)
        self._open_writer.write(self._connections[topic], stamp_ns, raw)

    def image(
        self, topic: str, stamp_ns: int, frame: str, pixels: NDArray[np.uint8], encoding: str = ""
    ) -> None:
        """A raw image.

        Args:
            topic: where.
            stamp_ns: when.
            frame: of the camera.
            pixels: ``[height, width]`` or ``[height, width, channels]``.
            encoding: ROS's name; by default mono8 or rgb8 as the shape says.
        """
        encoding = encoding or ("mono8" if pixels.ndim == 2 else "rgb8")
        self._raw_image(topic, stamp_ns, frame, pixels, encoding)

    def compressed_image(self, topic: str, stamp_ns: int, frame: str, data: bytes) -> None:
        """An image as the bytes of a JPEG or PNG file; see :meth:`image`."""
        png = data[:4] == b"\x89PNG"
        message = self.message(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame),
            format="png" if png else "jpeg",
            data=np.frombuffer(data, np.uint8),
        )
        self.write(topic, stamp_ns, message)

    def depth(self, topic: str, stamp_ns: int, frame: str, metres: NDArray[np.float32]) -> None:
        """A depth image in millimetres (16UC1).

        Args:
            topic: where.
            stamp_ns: when.
            frame: of the camera.
            metres: ``[height, width]``, 0 where unknown.
        """
        millimetres = np.clip(np.rint(metres * 1000.0), 0, 65535).astype("<u2")
        self._raw_image(topic, stamp_ns, frame, millimetres, "16UC1")

    def camera_info(self, topic: str, stamp_ns: int, frame: str, camera: Camera) -> None:
        """A calibration; see :meth:`image` for the arguments."""
        if camera.distortion not in _ROS_MODELS:
            raise CalibrationError(
                f"a camera_info cannot hold the distortion model {camera.distortion}"
            )
        model, length = _ROS_MODELS[camera.distortion]
        d = np.zeros(length)
        d[: len(camera.coefficients)] = camera.coefficients
        k = camera.opencv_matrix
        region = self.message(
            "sensor_msgs/msg/RegionOfInterest",
            **{"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False},
        )
        message = self.message(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame),
            height=camera.height,
            width=camera.width,
            distortion_model=model,
            d=d,
            k=k.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=region,
        )
        self.write(topic, stamp_ns, message)

    def pose(self, topic: str, stamp_ns: int, frame: str, pose: Pose) -> None:
        """A PoseStamped in a frame."""
        message = self.message(
            "geometry_msgs/msg/PoseStamped",
            header=self.header(stamp_ns, frame),
            pose=self.pose_message(pose),
        )
        self.write(topic, stamp_ns, message)

    def odometry(self, topic: str, stamp_ns: int, frame: str, child: str, pose: Pose) -> None:
        """An Odometry of ``frame_from_child`` without velocities or covariances."""
        zero = self.message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self.message("geometry_msgs/msg/Twist", linear=zero, angular=zero)
        unknown = np.zeros(36)
        message = self.message(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, frame),
            child_frame_id=child,
            pose=self.message(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self.pose_message(pose),
                covariance=unknown,
            ),
            twist=self.message(
                "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=unknown
            ),
        )
        self.write(topic, stamp_ns, message)

    def transforms(
        self, stamp_ns: int, items: Sequence[tuple[str, str, Pose]], *, static: bool = False
    ) -> None:
        """Transforms on /tf or /tf_static.

        Args:
            stamp_ns: when.
            items: (parent, child, ``parent_from_child``); all static ones go into one message.
            static: whether they hold always.
        """
        message = self.message(
            "tf2_msgs/msg/TFMessage", transforms=[self._transform(stamp_ns, *i) for i in items]
        )
        self.write("/tf_static" if static else "/tf", stamp_ns, message)

    def header(self, stamp_ns: int, frame: str) -> Any:
        """A ``std_msgs/Header``."""
        seconds, rest = divmod(stamp_ns, 1_000_000_000)
        stamp = self.message("builtin_interfaces/msg/Time", sec=seconds, nanosec=rest)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def pose_message(self, pose: Pose) -> Any:
        """A ``geometry_msgs/Pose``."""
        x, y, z = pose.translation.tolist()
        return self.message(
            "geometry_msgs/msg/Pose",
            position=self.message("geometry_msgs/msg/Point", x=x, y=y, z=z),
            orientation=self._quaternion(pose),
        )

    def _transform(self, stamp_ns: int, parent: str, child: str, pose: Pose) -> Any:
        x, y, z = pose.translation.tolist()
        return self.message(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            transform=self.message(
                "geometry_msgs/msg/Transform",
                translation=self.message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
                rotation=self._quaternion(pose),
            ),
        )

    def _quaternion(self, pose: Pose) -> Any:
        x, y, z, w = pose.quaternion().tolist()
        return self.message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def _raw_image(
        self, topic: str, stamp_ns: int, frame: str, pixels: NDArray[Any], encoding: str
    ) -> None:
        rows = np.ascontiguousarray(pixels)
        message = self.message(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns, frame),
            height=rows.shape[0],
            width=rows.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=rows.nbytes // rows.shape[0],
            data=rows.view(np.uint8).ravel(),
        )
        self.write(topic, stamp_ns, message)


def _qos(*, latched: bool) -> Qos:
    """Reliable; latched for /tf_static, which a late listener would miss otherwise."""
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
