"""Inspection of a good bag and of copies that are broken in many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from recording_samples import BASE_FROM_CAMERA, FRAME, IMAGE, INFO, ODOM, START_NS, TRUTH

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import RecordingOptions
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.check import CheckReport, check_recording
from crossfire_core.recordings.checks.images import blur_of

CAMERA = Camera(320, 240, 260.0, 260.0, 160.0, 120.0)
COUNT, PERIOD_S = 40, 0.1
WALL_M, PIXEL_M = 3.0, 0.004
UNCALIBRATED = "uncalibrated"


@lru_cache
def wall() -> np.ndarray:
    """A picture with detail at every scale."""
    random = np.random.default_rng(5)
    layers = []
    for size in (12, 40, 150, 500):
        noise = random.uniform(0, 255, (size * 3 // 4, size, 3)).astype(np.float32)
        layers.append(cv2.resize(noise, (1600, 1200), interpolation=cv2.INTER_CUBIC))
    mixed = np.mean(layers, axis=0)
    return np.clip((mixed - mixed.mean()) * 2.2 + 128, 0, 255).astype(np.uint8)


def camera_at(seconds: float) -> Pose:
    """The camera before the wall z = 3, walking to and fro and turning as it goes."""
    phase = 0.9 * seconds
    turn = Pose.exp((0, 0, 0, 0.10 * np.sin(1.7 * phase), 0.25 * np.sin(phase), 0.0))
    centre = np.array([0.8 * np.sin(0.8 * phase), 0.25 * np.cos(1.3 * phase), 0.0])
    return Pose(turn.rotation, centre)


@lru_cache(maxsize=256)
def view(seconds: float) -> np.ndarray:
    """What the camera sees of the wall."""
    pose = camera_at(seconds).inverse()
    wall_from_texture = np.array([[PIXEL_M, 0, -3.2], [0, PIXEL_M, -2.4], [0, 0, 1.0]])
    shift = pose.rotation[:, 2] * WALL_M + pose.translation
    plane = np.stack([pose.rotation[:, 0], pose.rotation[:, 1], shift], axis=1)
    warp = CAMERA.opencv_matrix @ plane @ wall_from_texture
    return cv2.warpPerspective(wall(), warp, CAMERA.size, borderMode=cv2.BORDER_REFLECT)


@dataclass
class Bag:
    """A bag of that walk; every field breaks one thing."""

    parts: set[str] = field(default_factory=lambda: {"info", "truth", "odom", "static"})
    focal: float = 1.0
    lens: tuple[float, ...] = ()
    edit: Callable[[int, np.ndarray], np.ndarray] = lambda index, image: image
    moment: Callable[[int], float] = lambda index: index * PERIOD_S
    image_stamp: Callable[[float], float] = lambda seconds: seconds
    pose_delay: float = 0.0
    truth_scale: float = 1.0
    pose: Callable[[float], Pose] = camera_at
    recorded_late: float = 0.0
    mounted: Pose = BASE_FROM_CAMERA

    def write(self, path: Path) -> Path:
        """Write it and return its path."""
        camera = replace(CAMERA, fx=CAMERA.fx * self.focal, fy=CAMERA.fy * self.focal)
        if self.lens:
            camera = replace(camera, distortion="radtan", coefficients=self.lens)
        with BagWriter(path) as bag:
            if "static" in self.parts:
                bag.transforms(START_NS, [("base_link", FRAME, self.mounted)], static=True)
            for index in range(COUNT):
                seconds = self.moment(index)
                self._write_image(bag, index, seconds)
                if "info" in self.parts:
                    bag.camera_info(INFO, ns(seconds), FRAME, camera)
                if UNCALIBRATED in self.parts:
                    write_zero_k(bag, ns(seconds))
                self._write_poses(bag, seconds)
        return path

    def _write_image(self, bag: BagWriter, index: int, seconds: float) -> None:
        image = self.edit(index, view(seconds))
        ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert ok
        stamp = ns(self.image_stamp(seconds))
        message = bag.message(
            "sensor_msgs/msg/CompressedImage",
            header=bag.header(stamp, FRAME),
            format="jpeg",
            data=data.ravel(),
        )
        bag.write(f"{IMAGE}/compressed", ns(seconds + self.recorded_late), message)

    def _write_poses(self, bag: BagWriter, seconds: float) -> None:
        for part in np.linspace(0, PERIOD_S, 3)[:-1]:
            at = seconds + float(part)
            base = self.pose(at) @ BASE_FROM_CAMERA.inverse()
            if "truth" in self.parts:
                moved = Pose(base.rotation, self.truth_scale * base.translation)
                bag.pose(TRUTH, ns(at + self.pose_delay), "map", moved)
            if "odom" in self.parts:
                bag.odometry(ODOM, ns(at + self.pose_delay), "odom", "base_link", base)


def ns(seconds: float) -> int:
    """As a stamp."""
    return START_NS + round(seconds * 1e9)


def write_zero_k(bag: BagWriter, stamp: int) -> None:
    """What drivers send that nobody calibrated."""
    region = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    message = bag.message(
        "sensor_msgs/msg/CameraInfo",
        header=bag.header(stamp, FRAME),
        **{"height": 240, "width": 320, "distortion_model": "plumb_bob", "d": np.zeros(5)},
        **{"k": np.zeros(9), "r": np.zeros(9), "p": np.zeros(12), "binning_x": 0, "binning_y": 0},
        roi=bag.message("sensor_msgs/msg/RegionOfInterest", **region),
    )
    bag.write(INFO, stamp, message)


def codes(report: CheckReport, *levels: str) -> set[str]:
    """Names of the findings of some levels."""
    return {finding.code for finding in report.findings if finding.level in levels}


def test_a_good_bag_and_its_page(tmp_path: Path) -> None:
    told = []
    path = Bag().write(tmp_path / "walk")
    report = check_recording(path, on_progress=lambda *now: told.append(now))
    assert report.verdict == "good: train a map of it"
    assert report.usable
    assert codes(report, "good") >= {"time", "poses", "images", "motion", "calibration"}
    figures = report.figures
    assert figures["frames"] == figures["posed_frames"] == COUNT
    assert figures["focal_scale"] == pytest.approx(1.0, abs=0.021)
    assert figures["pose_time_shift_s"] == pytest.approx(0.0, abs=0.021)
    assert figures["epipolar_error_px"] < 1.0
    assert figures["map_bytes"] == pytest.approx(9.8e6, rel=0.03)  # as real maps came out
    assert figures["training_minutes"] == 5.0
    assert {what for _, _, what in told} >= {"looking at images", "checking the calibration"}
    rates = {topic["name"]: topic["rate_hz"] for topic in report.topics}
    assert rates[f"{IMAGE}/compressed"] == pytest.approx(10.0, rel=0.01)
    json.dumps(report.to_json())
    page = report.write(tmp_path / "report").read_text()
    assert report.verdict in page
    pictures = report.pictures()
    assert page.count("data:image/png;base64,") == len(pictures) == 5
    for picture in pictures:
        image = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.std() > 5


def dark(index: int, image: np.ndarray) -> np.ndarray:
    """An exposure far too short."""
    return image // 6


def glaring(index: int, image: np.ndarray) -> np.ndarray:
    """An exposure that leaves nothing but white in most places."""
    return np.clip(image.astype(np.int32) * 4, 0, 255).astype(np.uint8)


def blurred(index: int, image: np.ndarray) -> np.ndarray:
    """An exposure far too long."""
    return cv2.blur(image, (15, 15))


def sometimes_blurred(index: int, image: np.ndarray) -> np.ndarray:
    """Every third image."""
    return blurred(index, image) if index % 3 == 0 else image


def frozen(index: int, image: np.ndarray) -> np.ndarray:
    """A camera that hangs from the tenth image on."""
    return image if index < 10 else view(1.0)


def smaller(index: int, image: np.ndarray) -> np.ndarray:
    """A stream of half the size under the full calibration, which scaling explains."""
    return cv2.resize(image, (160, 120))


def flatter(index: int, image: np.ndarray) -> np.ndarray:
    """A stream of another shape, which no scaling explains."""
    return cv2.resize(image, (320, 200))


def still(seconds: float) -> Pose:
    """A camera that turns on the spot."""
    return Pose(camera_at(seconds).rotation, np.zeros(3))


def nowhere(seconds: float) -> Pose:
    """Poses of a SLAM that is lost."""
    return Pose(np.eye(3), np.full(3, np.nan))


def jumping(seconds: float) -> Pose:
    """Poses that are reset by a metre and a half."""
    pose = camera_at(seconds)
    return pose if seconds < 2.0 else Pose(pose.rotation, pose.translation + np.array([1.5, 0, 0]))


def with_pause(index: int) -> float:
    """A recorder that lost two seconds."""
    return index * PERIOD_S + (2.0 if index >= 20 else 0.0)


def looped(seconds: float) -> float:
    """Stamps that start again."""
    return seconds % 2.0


ALL = Bag().parts
LENS = (-0.35, 0.12, 0.0, 0.0, 0.0)
TILTED = BASE_FROM_CAMERA @ Pose.exp((0, 0, 0, 0.0, 0.0, 0.35))
BROKEN = {
    "focal length 10 % too long": (Bag(focal=1.1), "error", "focal_length"),
    "focal length 10 % too short": (Bag(focal=0.9), "error", "focal_length"),
    "rectified images, said to be raw": (Bag(lens=LENS), "error", "rectified"),
    "no camera_info": (Bag(parts=ALL - {"info"}), "error", "camera_info"),
    "zero K": (Bag(parts=ALL - {"info"} | {UNCALIBRATED}), "error", "camera_info"),
    "half the image size": (Bag(edit=smaller), "warning", "left_out"),
    "another image shape": (Bag(edit=flatter), "error", "camera_info"),
    "no poses": (Bag(parts=ALL - {"truth", "odom"}), "warning", "poses"),
    "NaN poses": (Bag(parts=ALL - {"odom"}, pose=nowhere), "error", "recording"),
    "odometry alone": (Bag(parts=ALL - {"truth"}), "warning", "drift"),
    "no odometry": (Bag(parts=ALL - {"odom"}), "warning", "odometry"),
    "no tf_static": (Bag(parts=ALL - {"static"}), "error", "recording"),
    "a pause": (Bag(moment=with_pause), "warning", "gap"),
    "stamps that go back": (Bag(image_stamp=looped), "error", "clock_jump"),
    "another clock": (Bag(recorded_late=0.4), "warning", "clocks"),
    "late poses": (Bag(pose_delay=0.1), "warning", "pose_time"),
    "millimetres": (Bag(truth_scale=1000.0), "error", "scale"),
    "no scale": (Bag(truth_scale=4.0), "warning", "scale"),
    "millimetres alone": (Bag(truth_scale=1000.0, parts=ALL - {"odom"}), "warning", "scale"),
    "blur": (Bag(edit=blurred), "error", "blur"),
    "some blur": (Bag(edit=sometimes_blurred), "warning", "blur"),
    "darkness": (Bag(edit=dark), "error", "exposure"),
    "glare": (Bag(edit=glaring), "error", "exposure"),
    "a camera mounted otherwise": (Bag(mounted=TILTED), "error", "epipolar"),
    "one image a second": (Bag(moment=lambda index: float(index)), "warning", "rate"),
    "a frozen camera": (Bag(edit=frozen), "warning", "frozen"),
    "no baseline": (Bag(pose=still), "error", "baseline"),
    "a jump of the poses": (Bag(pose=jumping), "warning", "pose_jump"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, name: str) -> None:
    bag, level, code = BROKEN[name]
    report = check_recording(bag.write(tmp_path / "walk"))
    assert code in codes(report, level), report.verdict
    assert report.usable == (not codes(report, "error"))
    assert report.verdict.startswith("usable, with" if report.usable else "not usable: ")
    assert all("\n" not in finding.text for finding in report.findings)
    if code == "focal_length":
        assert report.figures["focal_scale"] == pytest.approx(1 / bag.focal, abs=0.03)


def test_a_bag_cut_short(tmp_path: Path) -> None:
    path = Bag().write(tmp_path / "walk")
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    report = check_recording(path)
    assert "cannot read bag" in report.verdict
    assert not report.usable


def test_what_is_no_recording(tmp_path: Path) -> None:
    assert "no recording at" in check_recording(tmp_path / "absent").verdict
    assert "no recording that is known" in check_recording(tmp_path).verdict


def test_a_source_of_poses_can_be_named(tmp_path: Path) -> None:
    path = Bag().write(tmp_path / "walk")
    report = check_recording(path, RecordingOptions(pose_topic=ODOM))
    assert "drift" in codes(report, "warning")


def test_blur_grows_with_blurring_and_not_with_contrast() -> None:
    grey = cv2.cvtColor(view(0.0), cv2.COLOR_RGB2GRAY)
    values = [blur_of(cv2.GaussianBlur(grey, (0, 0), s) if s else grey) for s in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[0] < 0.6
    assert values[3] > 0.65
    assert blur_of(grey // 3) == pytest.approx(values[0], abs=0.05)
