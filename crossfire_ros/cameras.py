"""The robot's cameras: what each of them publishes, and which of their images belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from sensor_msgs.msg import CameraInfo

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.calibration_file import read_calibration
from crossfire_core.recordings.camera_info import CameraView, same_camera
from crossfire_core.recordings.image_file import scaled_to
from crossfire_core.recordings.image_message import PixelDepth
from crossfire_core.recordings.masks import Masks
from crossfire_ros.conversions import MessageError, view_from_message
from crossfire_ros.settings import NodeConfig

T = TypeVar("T")
PLACEHOLDER = "{camera}"  # in the names of files that each camera of a rig has one of


class CameraInput:
    """What is known of one camera's images.

    Attributes:
        name: of the camera; empty where the robot has one.
        image_topic: full name of the topic of its images.
        info_topic: the same of its calibration.
        camera: its calibration, once there is one.
        pixel_depth: what its images have told about the bits of 16-bit pixels.
    """

    def __init__(self, name: str, config: NodeConfig) -> None:
        """Start knowing nothing.

        Args:
            name: of the camera, empty for the only one.
            config: which calibration and mask hold.
        """
        self.name = name
        self.image_topic = self.info_topic = ""
        self.camera: Camera | None = None
        self.pixel_depth = PixelDepth()
        self._frame_from_camera = Pose.identity()
        self._masks: Masks | None = None
        self._config = replace(
            config,
            calibration=config.calibration.replace(PLACEHOLDER, name),
            mask=config.mask.replace(PLACEHOLDER, name),
        )

    def kind(self, what: str) -> str:
        """An input's name in the status: ``image``, or ``image front``."""
        return f"{what} {self.name}".rstrip()

    def topic(self, what: str) -> str:
        """The relative name of one of its topics: ``image``, or ``front/image``."""
        return f"{self.name}/{what}" if self.name else what

    def take_info(self, message: CameraInfo) -> str:
        """Take a calibration over, if it is the first one.

        Returns:
            What the user should say about it, or an empty string.

        Raises:
            MessageError: it is of no use, or another one than before.
        """
        view, other = view_from_message(message, self.image_topic, self._config.is_rectified)
        if self.camera is not None:
            if not same_camera(view.camera, self.camera):
                raise MessageError(
                    "camera_info has changed and the new one is refused: "
                    "deactivate and activate the node to take it"
                )
            return ""
        self._frame_from_camera, self.camera = view.frame_from_camera, view.camera
        if other is None:
            return ""
        return (
            f"nothing says whether the images on {self.image_topic} are rectified; "
            "they are taken for raw: set the parameter rectified to true or false"
        )

    def view(self, width: int, height: int) -> CameraView:
        """The camera of images of a size.

        Raises:
            MessageError: none is known yet, or it is for images of another shape.
            CalibrationError: the calibration file is of no use.
            RecordingError: the mask is of no use.
        """
        config, size = self._config, (width, height)
        if config.calibration and (self.camera is None or self.camera.size != size):
            view = read_calibration(
                Path(config.calibration).expanduser(), size, self.image_topic, config.is_rectified
            )
            self._frame_from_camera, self.camera = view.frame_from_camera, view.camera
        if self.camera is None:
            raise MessageError(f"{self.kind('image')} came before any usable camera_info")
        camera = scaled_to(self.camera, size)
        if camera is None:
            raise MessageError(
                f"{self.kind('image')} is {width}x{height}, camera_info is for "
                f"{self.camera.width}x{self.camera.height}"
            )
        if config.mask:
            if self._masks is None:
                self._masks = Masks(Path(config.mask))
            camera = self._masks.masked(camera)
        return CameraView(camera, self._frame_from_camera)


@dataclass(frozen=True)
class Shot(Generic[T]):
    """One camera's image message.

    Attributes:
        camera: name of the camera.
        stamp_ns: nanoseconds, when it was taken.
        message: the image.
    """

    camera: str
    stamp_ns: int
    message: T


class Moments(Generic[T]):
    """Puts images of several cameras together that were taken at one time.

    An image waits only for cameras that joined the last one of its own camera: one that is silent,
    or takes its images at other times, holds nobody up.
    """

    def __init__(self, cameras: Sequence[str], bound_s: float) -> None:
        """Expect all of them.

        Args:
            cameras: their names.
            bound_s: images whose stamps are no further apart than this belong together, seconds.
        """
        self._bound_ns = round(bound_s * 1e9)
        self._partners = {camera: set(cameras) for camera in cameras}
        self._open: list[Shot[T]] = []
        self._closed: list[Shot[T]] = []

    def add(self, shot: Shot[T]) -> list[list[Shot[T]]]:
        """Take an image; which moments are complete now, in order of time."""
        complete = []
        if self._open and not self._belongs(shot, self._open):
            complete.append(self._close())
        late = not self._open and self._belongs(shot, self._closed)
        moment = self._closed if late else []
        self._open.append(shot)
        together = {each.camera for each in self._open}
        if late or set().union(*(self._partners[name] for name in together)) <= together:
            complete.append(self._close())
        if late:  # it came a little later than it was waited for
            self._meet([*moment, shot])
        return complete

    def _belongs(self, shot: Shot[T], moment: list[Shot[T]]) -> bool:
        stamps = [shot.stamp_ns, *(each.stamp_ns for each in moment)]
        twice = any(each.camera == shot.camera for each in moment)
        return bool(moment) and not twice and max(stamps) - min(stamps) <= self._bound_ns

    def _close(self) -> list[Shot[T]]:
        self._closed, self._open = self._open, []
        self._meet(self._closed)
        return self._closed

    def _meet(self, moment: list[Shot[T]]) -> None:
        together = {each.camera for each in moment}
        self._partners |= {name: set(together) for name in together}
