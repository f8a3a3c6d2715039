"""Recordings of any format written as a bag, to replay it to a robot, or as transforms.json."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import option
from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.files import write_text
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.bag_writer import BagWriter, Storage
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.images import FILE_NAME, OPENGL_FROM_OPENCV
from crossfire_core.recordings.lazy import FrameInfo, Recording, is_timed, moments

Format = Literal["bag", "transforms"]
OnProgress = Callable[[int, int], None]

ONE_CAMERA = "camera"
TRUTH_TOPIC = "/ground_truth/pose"
BASE_FRAME, ODOM_FRAME = "base_link", "odom"
_RADTAN_NAMES = ("k1", "k2", "p1", "p2", "k3")
_INVENTED_START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class ConvertOptions:
    """How images and times are written."""

    storage: str = option("mcap", "storage of a bag", choices=("mcap", "sqlite3"))
    images: str = option(
        "jpeg", "how images are stored; raw is for bags only", choices=("jpeg", "png", "raw")
    )
    jpeg_quality: int = option(95, "quality of JPEG images", min=1, max=100)
    rate_hz: float = option(
        10.0, "images a second in the bag of a recording without time", min=0.01, max=1000.0
    )


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the bag or folder.
        frames: number of images.
        posed: how many of them have a pose.
        left_out: images that the format cannot hold because they have no pose.
    """

    path: Path
    frames: int
    posed: int
    left_out: int


def convert(
    recording: Recording,
    out: Path,
    format: Format,
    options: ConvertOptions | None = None,
    on_progress: OnProgress | None = None,
) -> Converted:
    """Write a recording in another format; it appears under its name when it is complete.

    A bag holds images and camera_info under /camera, or under the name of each camera of a rig,
    where they are mounted in /tf_static, odometry in /odom and /tf where there is any, depth
    images where they were read, and the poses of base_link in /ground_truth/pose. A folder holds
    the images that have a pose, their masks, and a transforms.json.

    Args:
        recording: what to write.
        out: a name that does not exist.
        format: ``bag`` or ``transforms``.
        options: storage, images, rate.
        on_progress: called with the number of frames done and in all.

    Raises:
        RecordingError: the name exists, cannot be written, or no frame can be.
        CalibrationError: the format cannot hold the recording's cameras.
    """
    options, tell = options or ConvertOptions(), on_progress or (lambda done, total: None)
    if out.exists():
        raise RecordingError(f"{out} exists already: choose another name or remove it")
    try:
        if format == "bag":
            return _write_bag(recording, out, options, tell)
        return _write_transforms(recording, out, options, tell)
    except OSError as error:
        raise RecordingError(f"cannot write {out}: {error.strerror or error}") from error


def _write_bag(
    recording: Recording, out: Path, options: ConvertOptions, tell: OnProgress
) -> Converted:
    infos = recording.infos
    names = _names(recording)
    _check_calibrations(recording)
    stamps = _stamps(infos, options.rate_hz)
    mounted = {_camera_of(info): recording.mounted(info) for info in infos}
    mountings = [(BASE_FRAME, _frame(names[each]), mounted[each]) for each in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    storage: Storage = "sqlite3" if options.storage == "sqlite3" else "mcap"
    with BagWriter(out, storage) as bag:
        bag.transforms(stamps[0], mountings, static=True)
        motion = _odometry_messages(recording, bag)
        due = next(motion, None)
        for number, frame in enumerate(recording):
            while due is not None and due[0] <= stamps[number]:
                due[1]()
                due = next(motion, None)
            _write_frame(bag, frame, stamps[number], names[_camera_of(frame)], options)
            base = recording.world_from_base(frame)
            if base is not None and stamps[number] not in stamps[:number][-1:]:
                bag.pose(TRUTH_TOPIC, stamps[number], recording.world_frame, base)
            tell(number + 1, len(infos))
        while due is not None:
            due[1]()
            due = next(motion, None)
    return Converted(out, len(infos), _posed(infos), 0)


def _camera_of(frame: Frame | FrameInfo) -> str:
    """The name of a rig's camera; empty where there is one camera."""
    return frame.mount.camera if frame.mount else ""


def _names(recording: Recording) -> dict[str, str]:
    """What each camera is called in the bag's topics and frames, by its name in the recording."""
    cameras = [mount.camera for mount in recording.mounts]
    if len(cameras) < 2:
        return dict.fromkeys(cameras or [""], ONE_CAMERA)
    plain = [re.sub(r"[^A-Za-z0-9_]+", "_", camera).strip("_") for camera in cameras]
    good = len(set(plain)) == len(plain) and all(name[:1].isalpha() for name in plain)
    chosen = plain if good else [f"{ONE_CAMERA}{number}" for number in range(len(cameras))]
    return dict(zip(cameras, chosen, strict=True))


def _frame(camera: str) -> str:
    return f"{camera}_optical_frame"


def _check_calibrations(recording: Recording) -> None:
    calibrated = {(_camera_of(info), info.camera) for info in recording.infos}
    if len(calibrated) > max(len(recording.mounts), 1):
        raise CalibrationError(
            f"{recording.name} has images of several calibrations, a bag here holds one for each "
            "camera: convert to transforms"
        )


def _stamps(infos: Sequence[FrameInfo], rate_hz: float) -> list[int]:
    """Stamps for a bag: the recording's own, or made up where it has only numbers."""
    if is_timed(infos):
        return [info.stamp_ns for info in infos]
    found = [0] * len(infos)
    for number, moment in enumerate(moments(infos)):
        for index in moment:
            found[index] = _INVENTED_START_NS + round(number * 1e9 / rate_hz)
    return found


def _odometry_messages(
    recording: Recording, bag: BagWriter
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Stamps of the odometry, each with what writes it."""
    odometry = recording.odometry()
    if odometry is None:
        return
    for stamp, pose in zip(odometry.stamps_ns.tolist(), odometry.poses, strict=True):

        def write(stamp: int = stamp, pose: Pose = pose) -> None:
            bag.odometry("/odom", stamp, ODOM_FRAME, BASE_FRAME, pose)
            bag.transforms(stamp, [(ODOM_FRAME, BASE_FRAME, pose)])

        yield stamp, write


def _write_frame(
    bag: BagWriter, frame: Frame, stamp: int, name: str, options: ConvertOptions
) -> None:
    topic, link = f"/{name}/image_raw", _frame(name)
    if options.images == "raw":
        bag.image(topic, stamp, link, frame.image)
    else:
        data = encoded(frame.image, options)
        bag.compressed_image(f"{topic}/compressed", stamp, link, data)
    bag.camera_info(f"/{name}/camera_info", stamp, link, frame.camera)
    if frame.depth is not None:
        bag.depth(f"/{name}/depth/image_raw", stamp, link, frame.depth)


def encoded(image: NDArray[np.uint8], options: ConvertOptions) -> bytes:
    """An image as a JPEG or PNG file.

    Args:
        image: ``[height, width, 3]`` RGB, or ``[height, width]`` uint8 or uint16.
        options: which one.
    """
    jpeg = options.images == "jpeg" and image.dtype == np.uint8
    arguments = [cv2.IMWRITE_JPEG_QUALITY, options.jpeg_quality] if jpeg else []
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, data = cv2.imencode(".jpg" if jpeg else ".png", bgr, arguments)
    return data.tobytes()


def _write_transforms(
    recording: Recording, out: Path, options: ConvertOptions, tell: OnProgress
) -> Converted:
    infos = recording.infos
    posed = [i for i, info in enumerate(infos) if info.world_from_camera is not None]
    if not posed:
        raise RecordingError(f"{recording.name} has no poses, which transforms.json is made of")
    shared = {info.camera for info in infos}
    entries = []
    with _scratch_folder(out) as folder:
        for number, frame in enumerate(recording.frames(posed)):
            entries.append(_write_entry(folder, number, frame, options, one=len(shared) == 1))
            tell(number + 1, len(posed))
        head = _intrinsics(infos[0].camera) if len(shared) == 1 else {}
        data = {**head, "depth_unit_scale_factor": 1e-3, "frames": entries}
        write_text(folder / FILE_NAME, json.dumps(data, indent=1))
    return Converted(out, len(posed), len(posed), len(infos) - len(posed))


def _write_entry(
    folder: Path, number: int, frame: Frame, options: ConvertOptions, *, one: bool
) -> dict[str, Any]:
    """Write one frame's files and give its line; ``one`` says that all share their camera."""
    assert frame.world_from_camera is not None  # only these are asked for
    ending = "jpg" if options.images == "jpeg" else "png"
    name = f"images/{number:06d}.{ending}"
    (folder / "images").mkdir(exist_ok=True)
    (folder / name).write_bytes(encoded(frame.image, options))
    opengl = frame.world_from_camera @ OPENGL_FROM_OPENCV.inverse()
    entry: dict[str, Any] = {"file_path": name, "transform_matrix": opengl.matrix().tolist()}
    if frame.depth is not None:
        (folder / "depth").mkdir(exist_ok=True)
        millimetres = np.clip(np.rint(frame.depth * 1000.0), 0, 65534).astype(np.uint16)
        entry["depth_file_path"] = f"depth/{number:06d}.png"
        (folder / entry["depth_file_path"]).write_bytes(encoded(millimetres, options))
    if frame.camera.mask is not None:
        (folder / "masks").mkdir(exist_ok=True)
        entry["mask_path"] = f"masks/{number:06d}.png"
        usable = 255 * frame.camera.mask.usable.astype(np.uint8)
        lossless = replace(options, images="png")
        (folder / entry["mask_path"]).write_bytes(encoded(usable, lossless))
    return entry if one else {**entry, **_intrinsics(frame.camera)}


def _intrinsics(camera: Camera) -> dict[str, Any]:
    """A camera in the file's words."""
    values: dict[str, Any] = {
        "camera_model": "OPENCV_FISHEYE" if camera.distortion == "equidistant" else "OPENCV",
        **{"w": camera.width, "h": camera.height, "fl_x": camera.fx, "fl_y": camera.fy},
        **{"cx": camera.cx, "cy": camera.cy},
    }
    if camera.distortion not in ("none", "radtan", "equidistant"):
        raise CalibrationError(
            f"transforms.json cannot hold the distortion model {camera.distortion}"
            + (": convert to a bag" if camera.distortion == "rational" else "")
        )
    names = ("k1", "k2", "k3", "k4") if camera.distortion == "equidistant" else _RADTAN_NAMES
    values.update(zip(names, camera.coefficients, strict=False))
    return values


@contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name at the end, or is removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.parent / f".{out.name}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _posed(infos: Sequence[FrameInfo]) -> int:
    return sum(info.world_from_camera is not None for info in infos)
