"""Sample recordings: passes through made-up places, first of all through the furnished room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo, Recording
from crossfire_core.sample.drive import ODOMETRY_HZ, START_NS, Drive, Way
from crossfire_core.sample.raycast import TEXEL, Geometry, Lamp, Light, Scene, lit, paint
from crossfire_core.sample.room import Patch, furnished_room, visitor
from crossfire_core.sample.textures import Texture

CAMERA = Camera(
    480, 360, 302.0, 301.0, 243.5, 178.0, "radtan", (-0.08, 0.02, 0.0005, -0.0003)
)  # fmt: skip
_DOWN = Rotation.from_euler("y", 6.0, degrees=True).as_matrix()
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
BASE_FROM_CAMERA = Pose(_DOWN @ _OPTICAL, np.array([0.15, 0.02, 0.95]))

# Where in each pixel the rays go: two, on a diagonal, soften edges.
_SUBPIXELS = ((-0.25, -0.2), (0.25, 0.2))
_DAY = Light(
    (Lamp((0.3, 0.2, 2.5), (1.6, 1.5, 1.3)), Lamp((-0.1, 1.9, 1.6), (0.9, 1.0, 1.2))),
    (0.45, 0.45, 0.47),
)
_EVENING = Light(
    (Lamp((-1.5, -1.0, 2.2), (1.7, 1.35, 0.95)), Lamp((1.6, 0.8, 2.3), (1.0, 0.8, 0.6))),
    (0.34, 0.33, 0.34),
)


@dataclass(frozen=True)
class Fitted:
    """A camera on the robot.

    Attributes:
        name: of it, in topics and frames.
        camera: its calibration.
        base_from_camera: where it sits.
    """

    name: str
    camera: Camera
    base_from_camera: Pose


ONE_CAMERA = (Fitted("camera", CAMERA, BASE_FROM_CAMERA),)


@dataclass(frozen=True)
class PassSettings:
    """What distinguishes a pass.

    Attributes:
        name: of the pass.
        drive: the way.
        rate_hz: images a second.
        light: what shines.
        visitor: whether somebody walks through the furnished room.
        patches: makes the place.
        copy: which of several places of the same makes it is; see :func:`.raycast.paint`.
        texel: side of a texel, metres.
        cameras: of the robot.
    """

    name: str
    drive: Way
    rate_hz: float
    light: Light
    visitor: bool
    patches: Callable[[], list[Patch]] = furnished_room
    copy: int = 0
    texel: float = TEXEL
    cameras: tuple[Fitted, ...] = ONE_CAMERA


MAPPING = PassSettings(
    "mapping", Drive(20.0, 2.0, (1.15, 0.62), (0.0, 0.1), 0.0, 0.55, 11), 5.0, _DAY, False
)
QUERY = PassSettings(
    "query", Drive(7.0, 0.85, (0.95, 0.5), (0.12, 0.02), 0.9, 0.45, 12), 8.0, _EVENING, True
)


class SampleRecording(Recording):
    """What one camera sees of a pass through a place, ray cast when its frames are read."""

    world_frame = "map"
    pose_source = "exact"

    def __init__(
        self,
        settings: PassSettings,
        seed: int = 1,
        size: tuple[int, int] = CAMERA.size,
        fitted: Fitted | None = None,
    ) -> None:
        """Prepare; the place is built with the first frame.

        Args:
            settings: which pass.
            seed: of the place's surfaces and the camera's noise.
            size: (width, height) of the images, 4:3.
            fitted: which camera; by default the first of the pass.
        """
        self.name = f"sample {settings.name} pass"
        self.settings = settings
        self.fitted = fitted or settings.cameras[0]
        self.base_from_camera = self.fitted.base_from_camera
        self._seed = seed
        self._camera = self.fitted.camera.resized(*size)

    @cached_property
    def infos(self) -> Sequence[FrameInfo]:
        """All frames in order of time, without their pixels."""
        found = []
        for index, stamp in enumerate(self.settings.drive.stamps(self.settings.rate_hz)):
            pose = self.map_from_base(stamp) @ self.base_from_camera
            found.append(FrameInfo(f"{index:04d}", stamp, self._camera, pose))
        return found

    def map_from_base(self, stamp_ns: int) -> Pose:
        """Where the robot is at a time."""
        return self.settings.drive.map_from_base((stamp_ns - START_NS) * 1e-9)

    def odometry(self) -> Trajectory:
        """``odom_from_base`` over time, drifting."""
        return self.settings.drive.odometry()

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Ray cast some frames; see the base class."""
        for index in sorted(set(indices)):
            info = self.infos[index]
            image, depth = self._photograph(index, info)
            yield Frame(info.name, image, info.camera, info.stamp_ns, info.world_from_camera, depth)

    @cached_property
    def _empty_room(self) -> Scene:
        """The place as it looks under this pass's light, nobody in it."""
        given = self.settings
        patches = given.patches()
        geometry = Geometry(patches)
        textures = paint(patches, self._seed, given.copy, given.texel)
        shown = lit(patches, textures, geometry, given.light, (self._seed, given.copy))
        return Scene(geometry, shown, given.texel)

    @cached_property
    def _bearings(self) -> list[NDArray[np.float64]]:
        """Directions ``[n, 3]`` of the rays, one array for each place in a pixel."""
        grid = self._camera.pixel_grid()
        return [self._camera.bearings(grid + offset) for offset in _SUBPIXELS]

    def _scene(self, stamp_ns: int) -> list[Scene]:
        """The place, and in front of it who walks there."""
        if not self.settings.visitor:
            return [self._empty_room]
        person = visitor(*self.visitor_at(stamp_ns))
        geometry = Geometry(person)
        textures = lit(person, paint(person, self._seed), geometry, self.settings.light, (0,))
        return [self._empty_room, Scene(geometry, textures)]

    def visitor_at(self, stamp_ns: int) -> tuple[float, float]:
        """Where somebody walks: around the room, now and then in front of the camera."""
        seconds = (stamp_ns - START_NS) * 1e-9
        ahead = self.settings.drive.map_from_base(seconds - 0.4).rotation[:, 0]
        angle = np.arctan2(ahead[1], ahead[0]) + 0.7 * np.sin(2.1 * seconds)
        away = np.array([1.6 * np.cos(angle), 1.15 * np.sin(angle)])
        robot = self.settings.drive.map_from_base(seconds).translation[:2]
        gap = away - robot
        distance = max(float(np.linalg.norm(gap)), 1e-3)
        x, y = robot + gap / distance * max(distance, 1.1)
        return float(x), float(y)

    def _photograph(
        self, index: int, info: FrameInfo
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        camera, pose = info.camera, info.world_from_camera
        assert pose is not None
        scenes = self._scene(info.stamp_ns)
        colours = np.zeros((camera.height * camera.width, 3), np.float32)
        for bearings in self._bearings:
            colour, distance = _nearest(scenes, pose, bearings, 1.0 / camera.fx)
            colours += colour / len(self._bearings)
        z_depth = (distance * bearings[:, 2]).reshape(camera.height, camera.width)
        generator = np.random.default_rng((self._seed, index))
        image = _developed(colours.reshape(camera.height, camera.width, 3), generator)
        return image, z_depth.astype(np.float32)


def _nearest(
    scenes: Sequence[Scene], pose: Pose, bearings: NDArray[np.float64], pixel_angle: float
) -> tuple[Texture, NDArray[np.float64]]:
    """Colour and distance of what is nearest among several scenes."""
    directions = bearings @ pose.rotation.T
    colours, distance = scenes[0].cast(pose.translation, directions, pixel_angle)
    for scene in scenes[1:]:
        front, near = scene.cast(pose.translation, directions, pixel_angle)
        closer = near < distance
        colours[closer], distance[closer] = front[closer], near[closer]
    return colours, distance


def _developed(linear: Texture, generator: np.random.Generator) -> NDArray[np.uint8]:
    """What a small camera makes of the light: soft, darker towards the corners, noisy."""
    height, width = linear.shape[:2]
    soft = cv2.GaussianBlur(linear, (3, 3), 0.45)
    rows, columns = np.indices((height, width), dtype=np.float32)
    radius = np.hypot(columns / width - 0.5, rows / height - 0.5)
    shown = np.clip(soft * (1 - 0.35 * radius**2)[..., None], 0, 1) ** np.float32(1 / 1.5)
    noise = generator.normal(scale=1.6, size=shown.shape)
    return np.asarray(np.clip(255 * shown + noise + 0.5, 0, 255), dtype=np.uint8)


def write_sample(
    folder: Path,
    seed: int = 1,
    on_frame: Callable[[int, int, str], None] | None = None,
    *,
    passes: Sequence[PassSettings] = (MAPPING, QUERY),
    size: tuple[int, int] = CAMERA.size,
) -> dict[str, Path]:
    """Write passes as rosbag2 folders, such as ``mapping_bag`` and ``query_bag``.

    A bag that is there already is kept, so a second call costs nothing.

    Args:
        folder: where; made if missing.
        seed: of the places' surfaces and the camera's noise.
        on_frame: called with (frames done, frames in all, which pass).
        passes: what to write.
        size: (width, height) of the images, 4:3.

    Returns:
        Where each pass is.

    Raises:
        MissingDependencyError: trimesh or embreex is not installed.
        RecordingError: the bag cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, done = sum(len(SampleRecording(p)) * len(p.cameras) for p in passes), 0
    written: dict[str, Path] = {}
    for settings in passes:
        # one place in memory at a time
        recordings = [SampleRecording(settings, seed, size, fitted) for fitted in settings.cameras]
        name, count = settings.name, len(recordings) * len(recordings[0])
        written[name] = folder / f"{name}_bag"
        if not written[name].exists():
            with BagWriter(written[name]) as bag:
                for number, _ in enumerate(write_messages(bag, recordings), 1):
                    if on_frame:
                        on_frame(done + number, total, name)
        done += count
    return written


def write_messages(bag: BagWriter, recordings: Sequence[SampleRecording]) -> Iterator[Frame]:
    """Write a pass in order of time, yielding each frame after it is written.

    Args:
        bag: to write to.
        recordings: of the pass, one a camera.
    """
    first = recordings[0]
    odometry = first.odometry()
    ticks = iter(zip(odometry.stamps_ns.tolist(), odometry.poses, strict=True))
    mounted = [
        ("base_link", optical_frame(each.fitted), each.base_from_camera) for each in recordings
    ]
    bag.transforms(START_NS, mounted, static=True)
    tick = next(ticks, None)
    for index, info in enumerate(first.infos):
        while tick is not None and tick[0] <= info.stamp_ns + 1_000_000_000 // ODOMETRY_HZ:
            _write_tick(bag, first, *tick)
            tick = next(ticks, None)
        for recording in recordings:
            for frame in recording.frames([index]):
                _write_image(bag, frame, recording.fitted)
                yield frame
    while tick is not None:
        _write_tick(bag, first, *tick)
        tick = next(ticks, None)


def optical_frame(fitted: Fitted) -> str:
    """The frame of a camera."""
    return f"{fitted.name}_optical_frame"


def _write_tick(
    bag: BagWriter, recording: SampleRecording, stamp_ns: int, odom_from_base: Pose
) -> None:
    bag.odometry("/odom", stamp_ns, "odom", "base_link", odom_from_base)
    bag.transforms(stamp_ns, [("odom", "base_link", odom_from_base)])
    bag.pose("/ground_truth/pose", stamp_ns, "map", recording.map_from_base(stamp_ns))


def _write_image(bag: BagWriter, frame: Frame, fitted: Fitted) -> None:
    bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    topic, name = f"/{fitted.name}/image_raw/compressed", optical_frame(fitted)
    bag.compressed_image(topic, frame.stamp_ns, name, data.tobytes())
    bag.camera_info(f"/{fitted.name}/camera_info", frame.stamp_ns, name, frame.camera)
