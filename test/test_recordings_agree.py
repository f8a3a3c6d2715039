"""The same frames of a rig of two cameras, through every format: one answer to 1e-9."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recording_samples import BASE_FROM_CAMERA, base_pose, picture, png
from test_recordings_datasets import COUNT, words, wxyz

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.bag_writer import BagWriter

# Both lenses bend: one as COLMAP's OPENCV, the other, which is smaller, as its OPENCV_FISHEYE.
CAMERAS = (
    Camera(64, 48, 60.0, 61.0, 32.5, 24.0, "radtan", (-0.2, 0.05, 0.001, -0.002)),
    Camera(32, 24, 20.0, 21.0, 16.5, 11.5, "equidistant", (0.01, -0.02, 0.003, 0.001)),
)
MODELS = ("OPENCV", "OPENCV_FISHEYE")
PLACES = (
    BASE_FROM_CAMERA,
    Pose.exp((0.0, 0.3, 0.1, 0.2, -0.1, 0.4)) @ BASE_FROM_CAMERA,
)  # base_from_camera
BASES = [base_pose(0.7 * i) for i in range(COUNT)]
START, STEP = 1_403_638_538_000_000_000, 10**9
BOTH = "cam0,cam1"


def shots() -> Iterator[tuple[int, int, np.ndarray, Pose]]:
    """Camera, moment, picture and ``world_from_camera`` of every image."""
    for moment, base in enumerate(BASES):
        for number, place in enumerate(PLACES):
            pixels = picture(moment + 10 * number, CAMERAS[number].size)
            yield number, moment, pixels, base @ place


def stamp(moment: int) -> int:
    return START + moment * STEP


def numbers(number: int) -> list[float]:
    """A camera as COLMAP writes it."""
    c = CAMERAS[number]
    return [c.fx, c.fy, c.cx, c.cy, *c.coefficients]


def colmap_pose(pose: Pose) -> list[float]:
    return [*wxyz(pose), *pose.translation]


def write_images(folder: Path, name: str) -> None:
    """All pictures, under names of a pattern with ``number``, ``moment`` and ``stamp``."""
    for number, moment, pixels, _ in shots():
        file = folder / name.format(number=number, moment=moment, stamp=stamp(moment))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(pixels))


def write_bag(folder: Path, storage: str) -> RecordingOptions:
    with BagWriter(folder, storage) as bag:  # type: ignore[arg-type]
        links = [("base_link", f"optical{n}", place) for n, place in enumerate(PLACES)]
        bag.transforms(START, links, static=True)
        for number, moment, pixels, _ in shots():
            now, topic, frame = stamp(moment), f"/cam{number}", f"optical{number}"
            bag.image(f"{topic}/image_raw", now, frame, pixels)
            bag.camera_info(f"{topic}/camera_info", now, frame, CAMERAS[number])
            if number == 0:
                bag.pose("/truth", now, "map", BASES[moment])
    return RecordingOptions(image_topic="/cam0/image_raw,/cam1/image_raw")


def write_transforms(folder: Path) -> RecordingOptions:
    write_images(folder, "{number}/{moment}.png")
    names = (("k1", "k2", "p1", "p2"), ("k1", "k2", "k3", "k4"))
    frames = []
    for number, moment, _, pose in shots():
        camera = CAMERAS[number]
        entry = {"w": camera.width, "h": camera.height, "camera_model": MODELS[number]}
        keys = ("fl_x", "fl_y", "cx", "cy", *names[number])
        entry |= dict(zip(keys, numbers(number), strict=True))
        opengl = pose.matrix() @ np.diag([1.0, -1.0, -1.0, 1.0])
        entry |= {"file_path": f"{number}/{moment}.png", "transform_matrix": opengl.tolist()}
        frames.append(entry)
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return RecordingOptions()


def write_colmap(folder: Path, binary: bool) -> RecordingOptions:
    """Poses are those of the rig alone, whose first sensor is the first camera."""
    write_images(folder / "images", "{number}/{moment}.png")
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    mounted = colmap_pose(PLACES[1].inverse() @ PLACES[0])
    placed = [colmap_pose((base @ PLACES[0]).inverse()) for base in BASES]
    names = [(2 * m + n + 1, n + 1, f"{n}/{m}.png") for n, m, _, _ in shots()]
    none = [1.0, 0, 0, 0, 0, 0, 0]
    if not binary:
        cameras = [
            f"{n + 1} {MODELS[n]} {c.width} {c.height} {words(numbers(n))}"
            for n, c in enumerate(CAMERAS)
        ]
        tables = {
            "cameras": cameras,
            "images": [f"{image} {words(none)} {camera} {name}\n" for image, camera, name in names],
            "rigs": [f"1 2 CAMERA 1 CAMERA 2 1 {words(mounted)}"],
            "frames": [
                f"{m + 1} 1 {words(row)} 2 CAMERA 1 {2 * m + 1} CAMERA 2 {2 * m + 2}"
                for m, row in enumerate(placed)
            ],
        }
        for name, rows in tables.items():
            (model / f"{name}.txt").write_text("\n".join(rows) + "\n")
        return RecordingOptions()
    data = struct.pack("<Q", 2)
    for n, c in enumerate(CAMERAS):
        data += struct.pack("<iiQQ8d", n + 1, (4, 5)[n], *c.size, *numbers(n))
    (model / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(names))
    for image, camera, name in names:
        data += struct.pack("<i7di", image, *none, camera) + name.encode() + b"\0" + bytes(8)
    (model / "images.bin").write_bytes(data)
    (model / "rigs.bin").write_bytes(struct.pack("<QIIiIiIB7d", 1, 1, 2, 0, 1, 0, 2, 1, *mounted))
    data = struct.pack("<Q", COUNT)
    for m, row in enumerate(placed):
        data += struct.pack("<II7dIiIQiIQ", m + 1, 1, *row, 2, 0, 1, 2 * m + 1, 0, 2, 2 * m + 2)
    (model / "frames.bin").write_bytes(data)
    return RecordingOptions()


def write_euroc(folder: Path) -> RecordingOptions:
    root = folder / "mav0"
    write_images(root, "cam{number}/data/{stamp}.png")
    for n, (camera, place) in enumerate(zip(CAMERAS, PLACES, strict=True)):
        rows = "".join(f"{stamp(m)},{stamp(m)}.png\n" for m in range(COUNT))
        (root / f"cam{n}" / "data.csv").write_text("#timestamp [ns],filename\n" + rows)
        model = ("radial-tangential", "equidistant")[n]
        (root / f"cam{n}" / "sensor.yaml").write_text(
            f"T_BS:\n  data: {place.matrix().ravel().tolist()}\n"
            f"resolution: {list(camera.size)}\ncamera_model: pinhole\n"
            f"intrinsics: {[camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5]}\n"
            f"distortion_model: {model}\ndistortion_coefficients: {list(camera.coefficients)}\n"
        )
    rows = [
        ",".join([str(stamp(m)), *(repr(float(v)) for v in [*base.translation, *wxyz(base)])])
        for m, base in enumerate(BASES)
    ]
    (root / "state_groundtruth_estimate0").mkdir()
    (root / "state_groundtruth_estimate0" / "data.csv").write_text("\n".join(rows) + "\n")
    return RecordingOptions(image_topic=BOTH)


def write_kapture(folder: Path) -> RecordingOptions:
    sensors = folder / "sensors"
    write_images(sensors / "records_data", "{number}/{moment}.png")
    cameras = [
        f"cam{n}, , camera, {MODELS[n]}, {c.width}, {c.height}, {', '.join(map(repr, numbers(n)))}"
        for n, c in enumerate(CAMERAS)
    ]
    tables = {
        "sensors": cameras,
        "records_camera": [f"{stamp(m)}, cam{n}, {n}/{m}.png" for n, m, _, _ in shots()],
        "rigs": [
            f"rig, cam{n}, {words(colmap_pose(place.inverse())).replace(' ', ', ')}"
            for n, place in enumerate(PLACES)
        ],
        "trajectories": [
            f"{stamp(m)}, rig, {words(colmap_pose(base.inverse())).replace(' ', ', ')}"
            for m, base in enumerate(BASES)
        ],
    }
    for name, rows in tables.items():
        (sensors / f"{name}.txt").write_text("# kapture format: 1.1\n" + "\n".join(rows) + "\n")
    return RecordingOptions()


def write_tum(folder: Path, number: int) -> RecordingOptions:
    """One of the cameras, which is all that the format holds; a fisheye by a file of kalibr's."""
    camera = CAMERAS[number]
    write_images(folder, "{number}/{moment}.png")
    times = [f"{START // STEP + m}.000000000" for m in range(COUNT)]
    (folder / "rgb.txt").write_text(
        "".join(f"{time} {number}/{m}.png\n" for m, time in enumerate(times))
    )
    truth = [base @ PLACES[number] for base in BASES]
    (folder / "groundtruth.txt").write_text(
        "".join(
            f"{time} {words([*pose.translation, *pose.quaternion()])}\n"
            for time, pose in zip(times, truth, strict=True)
        )
    )
    matrix = [camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5]
    if number == 0:
        lens = ", ".join(map(repr, camera.coefficients))
        fx, fy, cx, cy = matrix
        (folder / "camera-intrinsics.txt").write_text(
            f"# radtan k1 k2 p1 p2: [{lens}]\n{fx} 0 {cx}\n0 {fy} {cy}\n0 0 1\n"
        )
        return RecordingOptions()
    file = folder / "camchain.yaml"
    file.write_text(
        f"cam0:\n  camera_model: pinhole\n  intrinsics: {matrix}\n"
        f"  distortion_model: equidistant\n  distortion_coeffs: {list(camera.coefficients)}\n"
        f"  resolution: {list(camera.size)}\n"
    )
    return RecordingOptions(calibration=str(file))


FORMATS: dict[str, tuple[Callable[[Path], RecordingOptions], tuple[int, ...]]] = {
    "mcap": (partial(write_bag, storage="mcap"), (0, 1)),
    "sqlite3": (partial(write_bag, storage="sqlite3"), (0, 1)),
    "transforms": (write_transforms, (0, 1)),
    "colmap text": (partial(write_colmap, binary=False), (0, 1)),
    "colmap binary": (partial(write_colmap, binary=True), (0, 1)),
    "euroc": (write_euroc, (0, 1)),
    "kapture": (write_kapture, (0, 1)),
    "tum": (partial(write_tum, number=0), (0,)),
    "tum with a calibration file": (partial(write_tum, number=1), (1,)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_frames_agree_in_every_format(tmp_path: Path, name: str) -> None:
    write, cameras = FORMATS[name]
    recording = open_recording(tmp_path / "scene", write(tmp_path / "scene"))
    expected = {shown.tobytes(): (n, pose) for n, _, shown, pose in shots() if n in cameras}
    places = []
    for frame in recording:
        number, pose = expected.pop(frame.image.tobytes())  # every picture is another
        distance, angle = frame.world_from_camera.distance(pose)
        assert distance < 1e-9 and angle < 1e-7  # an angle of 1e-16 is told from 0 by its cosine
        np.testing.assert_allclose(frame.world_from_camera.matrix(), pose.matrix(), atol=1e-9)
        pixels = CAMERAS[number].pixel_grid(8, 6)
        found = frame.camera.bearings(pixels)
        np.testing.assert_allclose(found, CAMERAS[number].bearings(pixels), atol=1e-9)
        if frame.mount is not None:
            base = frame.world_from_camera @ frame.mount.base_from_camera.inverse()
            places.append((frame.stamp_ns, base.matrix()))
    assert not expected, "images are missing"
    if len(cameras) > 1 and name != "transforms":  # which knows no rigs
        assert len(places) == 2 * COUNT
        for (first, one), (second, other) in zip(places[::2], places[1::2], strict=True):
            assert first == second
            np.testing.assert_allclose(one, other, atol=1e-9)
