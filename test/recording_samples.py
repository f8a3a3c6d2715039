"""Small recordings, written by the tests that read them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.bag_writer import BagWriter

SIZE = (64, 48)
CAMERA = Camera(*SIZE, 60.0, 61.0, 32.5, 24.0, "radtan", (-0.2, 0.05, 0.001, -0.002, 0.0))
CAMERAS = {
    "none": Camera(*SIZE, 60.0, 61.0, 32.5, 24.0),
    "radtan": CAMERA,
    "rational": Camera(
        *SIZE, 60.0, 61.0, 32.5, 24.0, "rational", (0.3, 0.1, 1e-3, 1e-3, 0.01, 0.4, 0.1, 0.01)
    ),
    "equidistant": Camera(
        *SIZE, 60.0, 61.0, 32.5, 24.0, "equidistant", (0.01, -0.02, 0.003, 0.001)
    ),
    "fov": Camera(*SIZE, 30.0, 31.0, 32.5, 24.0, "fov", (0.9,)),
    "omni": Camera(*SIZE, 60.0, 61.0, 32.5, 24.0, "omni", (1.2, -0.1, 0.02, 1e-3, -1e-3)),
    "eucm": Camera(*SIZE, 30.0, 31.0, 32.5, 24.0, "eucm", (0.6, 1.1)),
    "ds": Camera(*SIZE, 30.0, 31.0, 32.5, 24.0, "ds", (-0.2, 0.6)),
}
BASE_FROM_CAMERA = Pose.from_quaternion((-0.5, 0.5, -0.5, 0.5), (0.1, 0.02, 0.25))
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
IMAGE, INFO, TRUTH, ODOM = "/cam/image_raw", "/cam/camera_info", "/truth", "/odom"
FRAME = "camera_optical_frame"


def stamp(index: float) -> int:
    """Time of the n-th image."""
    return START_NS + round(index * PERIOD_NS)


def base_pose(index: float) -> Pose:
    """Where the robot is at the n-th image: a straight line that turns slowly."""
    return Pose.exp((0.1 * index, 0.05 * index, 0.0, 0.0, 0.0, 0.0)) @ Pose.exp(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.03 * index)
    )


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth colour picture, another for every index."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    channels = (3 * x + 9 * index, 4 * y + 5 * index, 2 * x + 2 * y)
    return np.stack([c % 200 for c in channels], axis=-1).astype(np.uint8)


def jpeg(rgb: np.ndarray) -> bytes:
    """An image as a JPEG file of high quality."""
    ok, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert ok
    return data.tobytes()


def png(image: np.ndarray) -> bytes:
    """An image, RGB or one channel, as a PNG file."""
    ok, data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    assert ok
    return data.tobytes()


@dataclass
class RobotBag:
    """A bag as a robot records it; every part can be left out or replaced."""

    count: int = 6
    camera: Camera = CAMERA
    storage: str = "mcap"
    compressed: bool = False
    parts: set[str] = field(default_factory=lambda: {"info", "truth", "odom", "tf", "static"})
    image_size: tuple[int, int] = SIZE
    extra: Callable[[BagWriter, int], None] | None = None
    image_topic: str = IMAGE
    info_changes: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write it and return its path."""
        with BagWriter(path, self.storage) as bag:  # type: ignore[arg-type]
            if "static" in self.parts:
                bag.transforms(START_NS, [("base_link", FRAME, BASE_FROM_CAMERA)], static=True)
            for index in range(self.count):
                self._write_moment(bag, index)
        return path

    def _write_moment(self, bag: BagWriter, index: int) -> None:
        pixels, now = picture(index, self.image_size), stamp(index)
        if self.compressed:
            bag.compressed_image(f"{self.image_topic}/compressed", now, FRAME, png(pixels))
        else:
            bag.image(self.image_topic, now, FRAME, pixels)
        if "info" in self.parts:
            good = recorded_info(bag, self.camera, now)
            bag.write(INFO, now, replaced(bag, good, **self.info_changes))
        # Poses come between the images, so that they must be interpolated.
        for moment in (index - 0.25, index + 0.25):
            if "truth" in self.parts:
                bag.pose(TRUTH, stamp(moment), "map", base_pose(moment))
            if "odom" in self.parts:
                bag.odometry(ODOM, stamp(moment), "odom", "base_link", base_pose(moment))
            if "tf" in self.parts:
                bag.transforms(stamp(moment), [("odom", "base_link", base_pose(moment))])
        if self.extra:
            self.extra(bag, index)


def without(*parts: str) -> set[str]:
    """All parts of a RobotBag but some."""
    return RobotBag().parts - set(parts)


def assert_poses_close(
    actual: Iterable[Pose | None], expected: Iterable[Pose], metres: float = 1e-9
) -> None:
    """Compare poses one by one."""
    for found, wanted in zip(actual, expected, strict=True):
        assert found is not None
        distance, angle = found.distance(wanted)
        assert distance < metres
        assert angle < max(metres, 1e-7)


def message_fields(message: Any) -> dict[str, Any]:
    """A rosbags message's fields, to change one and make it anew."""
    return {k: v for k, v in vars(message).items() if k != "__msgtype__"}


def recorded_info(writer: BagWriter, camera: Camera, stamp_ns: int = 0) -> Any:
    """The message that the writer makes of a camera."""
    kept = []
    original = writer.write
    writer.write = lambda topic, stamp_ns, message: kept.append(message)  # type: ignore[method-assign]
    writer.camera_info(INFO, stamp_ns, FRAME, camera)
    writer.write = original  # type: ignore[method-assign]
    return kept[0]


def replaced(writer: BagWriter, message: Any, **changes: Any) -> Any:
    """A message with some fields changed."""
    return writer.message(message.__msgtype__, **{**message_fields(message), **changes})
