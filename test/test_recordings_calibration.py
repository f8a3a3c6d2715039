"""Calibrations: raw and rectified images, drivers' habits, files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_samples import (
    BASE_FROM_CAMERA,
    CAMERA,
    FRAME,
    IMAGE,
    INFO,
    SIZE,
    RobotBag,
    base_pose,
    picture,
    png,
    recorded_info,
    replaced,
    stamp,
    without,
)
from test_recordings_datasets import write_cambridge, write_euroc
from test_recordings_images import write_transforms
from toy_room import look, poses, textures

from crossfire_core.cli import evaluation, run
from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.calibration_file import read_calibration
from crossfire_core.recordings.camera_info import (
    Calibration,
    chosen_view,
    named_rectified,
    same_lens,
)

# The other camera of the calibration: longer, aside, and turned, as stereo rectification does it.
P = np.array([[55.0, 0, 30.0, 0], [0, 55.0, 25.5, 0], [0, 0, 1, 0]])
R = cv2.Rodrigues(np.array([0.02, -0.05, 0.03]))[0]
RECTIFIED = {"r": R.ravel(), "p": P.ravel()}
# In the robot's frame, in front of it.
LANDMARKS = np.random.default_rng(3).uniform((2.0, -0.8, -0.3), (4.0, 0.8, 0.9), (30, 3))


def pixels_of(rectified: bool) -> np.ndarray:
    """Where OpenCV sees the landmarks, pixel centres at integers; once by K and D, once by R, P."""
    in_camera = BASE_FROM_CAMERA.inverse().apply(LANDMARKS)
    if rectified:
        homogeneous = (P[:, :3] @ R @ in_camera.T).T
        return homogeneous[:, :2] / homogeneous[:, 2:]
    k, d = CAMERA.opencv_matrix, np.array(CAMERA.coefficients)
    return cv2.projectPoints(in_camera, np.zeros(3), np.zeros(3), k, d)[0].reshape(-1, 2)


def found_base(recording: Any, pixels: np.ndarray) -> Pose:
    """Where PnP puts the robot, given the calibration and mounting that a reader found."""
    rays = recording.infos[0].camera.bearings(pixels + 0.5)
    plane = np.ascontiguousarray(rays[:, :2] / rays[:, 2:])
    ok, turn, move = cv2.solvePnP(LANDMARKS, plane, np.eye(3), None)
    assert ok
    camera_from_base = Pose(cv2.Rodrigues(turn)[0], move.ravel())
    return recording.base_from_camera @ camera_from_base


@pytest.mark.parametrize("compressed", [False, True])
def test_rectified_and_raw_images_give_one_pose(tmp_path: Path, compressed: bool) -> None:
    for topic, rectified in (("/cam/image_raw", False), ("/cam/image_rect", True)):
        bag = RobotBag(
            count=2, image_topic=topic, info_changes=RECTIFIED, compressed=compressed
        ).write(tmp_path / str(rectified))
        recording = open_recording(bag)
        distance, angle = found_base(recording, pixels_of(rectified)).distance(Pose.identity())
        assert distance < 1e-4
        assert np.degrees(angle) < 0.01
        # The pose of an image is that of its own axes.
        info = recording.infos[1]
        rays = info.camera.bearings(pixels_of(rectified) + 0.5) @ info.world_from_camera.rotation.T
        seen = base_pose(1).apply(LANDMARKS) - info.world_from_camera.translation
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        np.testing.assert_allclose(rays, seen, atol=2e-5)


@pytest.mark.parametrize("rectified", [False, True])
def test_the_images_say_it_where_the_name_does_not(tmp_path: Path, rectified: bool) -> None:
    size = (320, 240)
    lens = (-0.28, 0.08, 0.0, 0.0, 0.0)
    raw = Camera(*size, 240.0, 240.0, 160.0, 120.0, "radtan", lens)
    taken_by = Camera(*size, 200.0, 200.0, 155.0, 122.0) if rectified else raw
    faces = textures(seed=4)
    p = np.hstack([Camera(*size, 200.0, 200.0, 155.0, 122.0).opencv_matrix, np.zeros((3, 1))])
    with BagWriter(tmp_path / "bag") as writer:
        for index, pose in enumerate(poses(40)[:16]):
            writer.image("/cam/image", stamp(index), FRAME, look(faces, pose, taken_by)[0])
            known = replaced(writer, recorded_info(writer, raw), p=p.ravel())
            writer.write(INFO, stamp(index), known)
    recording = open_recording(tmp_path / "bag", RecordingOptions(require_poses=False))
    camera = recording.infos[0].camera
    assert (camera.fx, camera.distortion) == ((200.0, "none") if rectified else (240.0, "radtan"))
    word = "rectified" if rectified else "raw"
    assert any(f"taken for {word}" in note for note in recording.notes)


@pytest.mark.parametrize("rectified", [False, True])
def test_the_user_says_what_the_topic_does_not(tmp_path: Path, rectified: bool) -> None:
    path = RobotBag(count=2, image_topic="/cam/image", info_changes=RECTIFIED).write(tmp_path / "b")
    recording = open_recording(path, RecordingOptions(rectified=rectified))
    found = found_base(recording, pixels_of(rectified))
    assert found.distance(Pose.identity())[0] < 1e-4


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("/camera/image_raw", False),
        ("/camera/image_raw/compressed", False),
        ("/camera/image_rect", True),
        ("/camera/image_rect_color/compressed", True),
        ("/camera/infra1/image_rect_raw", True),
        ("/zed/left/rect/image", True),
        ("/stereo/imageRect", True),
        ("/cam/image_undistort", True),
        ("/cam/imageRaw", False),
        ("/camera/image", None),
        ("/direct/rectangle/image", None),
        ("/draw/image", None),
    ],
)
def test_what_a_topics_name_says(topic: str, said: bool | None) -> None:
    assert named_rectified(topic) is said


def info(**changes: Any) -> Calibration:
    """A calibration as CAMERA's message has it."""
    k = CAMERA.opencv_matrix
    fields = {
        "width": SIZE[0],
        "height": SIZE[1],
        "model": "plumb_bob",
        "k": tuple(k.ravel()),
        "d": CAMERA.coefficients,
        "r": tuple(np.eye(3).ravel()),
        "p": tuple(np.hstack([k, np.zeros((3, 1))]).ravel()),
    }
    return Calibration(**{**fields, **changes})  # type: ignore[arg-type]


def test_doubt_is_there_only_where_both_cameras_differ() -> None:
    assert chosen_view(info(), "/cam/image", None)[1] is not None  # with D, P = K is another lens
    assert chosen_view(info(d=()), "/cam/image", None)[1] is None
    assert chosen_view(info(), "/cam/image_raw", None)[1] is None
    assert chosen_view(info(), "/cam/image", True)[1] is None
    assert chosen_view(info(p=(0.0,) * 12), "/cam/image", None)[1] is None


def test_rectified_images_without_p() -> None:
    zeros = (0.0,) * 12
    with pytest.raises(CalibrationError, match="no P"):
        chosen_view(info(p=zeros), "/cam/image_rect", None)
    view, _ = chosen_view(info(p=zeros, d=(0.0,) * 5), "/cam/image_rect", None)
    assert (view.camera.fx, view.camera.cx) == (60.0, 32.5)
    with pytest.raises(CalibrationError, match="no rotation"):
        chosen_view(info(r=(2.0,) * 9), "/cam/image_rect", None)


def test_region_and_binning_apply_to_the_rectified_camera_too() -> None:
    whole = info(width=256, height=192, roi=(10, 6, 128, 96), binning=(2, 2), p=tuple(P.ravel()))
    camera = chosen_view(whole, "/cam/image_rect", None)[0].camera
    # (30 + 0.5 - 10) / 2, (25.5 + 0.5 - 6) / 2
    assert (camera.size, camera.fx) == ((64, 48), 27.5)
    assert (camera.cx, camera.cy) == (10.25, 10.0)


def series(tmp_path: Path, change: Any, count: int = 5) -> Any:
    """A bag whose n-th camera_info has the fields that ``change(n)`` gives."""

    def write(writer: BagWriter, index: int) -> None:
        good = recorded_info(writer, CAMERA)
        writer.write(INFO, stamp(index), replaced(writer, good, **change(index)))

    bag = RobotBag(count=count, parts=without("info", "odom"), extra=write)
    return open_recording(bag.write(tmp_path / "bag"))


def scaled(share: float) -> np.ndarray:
    k = CAMERA.opencv_matrix.copy()
    k[0, 0] *= 1 + share
    k[1, 1] *= 1 + share
    return k.ravel()


def test_an_empty_first_calibration_is_passed_over(tmp_path: Path) -> None:
    found = series(tmp_path, lambda i: {"k": np.zeros(9), "d": np.zeros(0)} if i == 0 else {})
    assert found.infos[0].camera == CAMERA
    assert found.notes == ()


def test_rounding_of_a_calibration_is_no_change(tmp_path: Path) -> None:
    found = series(tmp_path, lambda i: {"k": CAMERA.opencv_matrix.ravel() + 1e-9 * (i - 2)})
    assert found.infos[0].camera.fx == pytest.approx(60.0, abs=1e-12)
    assert found.notes == ()


def test_an_autofocus_gives_the_median_and_says_so(tmp_path: Path) -> None:
    shares = [-0.004, 0.001, 0.004, 0.002, -0.001]
    found = series(tmp_path, lambda i: {"k": scaled(shares[i])})
    assert found.infos[0].camera.fx == pytest.approx(60.0 * 1.001)
    assert found.infos[0].camera.fy == pytest.approx(61.0 * 1.001)
    assert len(found.notes) == 1
    assert "0.5% in focal length" in found.notes[0] and "60.06" in found.notes[0]


def test_a_zoom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="fx 60 to 66"):
        series(tmp_path, lambda i: {"k": scaled(0.1 if i > 2 else 0.0)})


def test_calibration_without_a_size_takes_the_images(tmp_path: Path) -> None:
    found = series(tmp_path, lambda i: {"width": 0, "height": 0})
    assert found.infos[0].camera.size == SIZE


@pytest.mark.parametrize("field", ["k", "d", "r", "p"])
def test_nan_in_a_calibration_is_said(tmp_path: Path, field: str) -> None:
    bag = RobotBag(
        count=2, image_topic="/cam/image_rect" if field in "rp" else IMAGE,
        info_changes={field: np.full({"k": 9, "d": 5, "r": 9, "p": 12}[field], np.nan)},
    ).write(tmp_path / "bag")  # fmt: skip
    with pytest.raises(CalibrationError, match=r"NaN|rotation"):
        open_recording(bag)


OST = """\
image_width: 64
image_height: 48
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [60.0, 0.0, 32.0, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.2, 0.05, 0.001, -0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [55.0, 0.0, 30.0, 0.0, 0.0, 55.0, 25.5, 0.0, 0.0, 0.0, 1.0, 0.0]
"""
OPENCV = """\
%YAML:1.0
---
calibration_time: "Thu 26 Nov 2026"
image_width: 64
image_height: 48
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 60., 0., 32., 0., 61., 23.5, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.2, 0.05, 1.0e-03, -2.0e-03, 0. ]
"""
KALIBR = """\
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.2, 0.05, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [60.0, 61.0, 32.0, 23.5]
  resolution: [64, 48]
  rostopic: /cam/image_raw
cam1:
  T_cn_cnm1:
  - [1.0, 0.0, 0.0, -0.11]
  - [0.0, 1.0, 0.0, 0.0]
  - [0.0, 0.0, 1.0, 0.0]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: [0.01, -0.02, 0.003, 0.001]
  distortion_model: equidistant
  intrinsics: [30.0, 30.5, 31.0, 24.5]
  resolution: [64, 48]
  rostopic: /right/image_raw
"""
COLMAP = """\
# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 1
1 OPENCV 64 48 60 61 32.5 24 -0.2 0.05 0.001 -0.002
"""
# As ``ros2 topic echo /cam/camera_info`` prints it; ROS 1 has the names in capitals.
PRINTED = """\
header:
  stamp:
    sec: 1700000000
    nanosec: 0
  frame_id: camera_optical_frame
height: 48
width: 64
distortion_model: plumb_bob
d: [-0.2, 0.05, 0.001, -0.002, 0.0]
k: [60.0, 0.0, 32.0, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0]
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [55.0, 0.0, 30.0, 0.0, 0.0, 55.0, 25.5, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
---
header:
  stamp: a second message
---
"""
PRINTED_1 = re.sub(r"(?m)^([dkrp]):", lambda found: found[0].upper(), PRINTED)
# One camera without a name, as EuRoC's sensor.yaml and users of kalibr have it.
SENSOR = """\
sensor_type: camera
resolution: [64, 48]
camera_model: pinhole
intrinsics: [60.0, 61.0, 32.0, 23.5]
distortion_model: radial-tangential
distortion_coefficients: [-0.2, 0.05, 0.001, -0.002]
"""
# As Python's users write OpenCV's results.
JSON = """\
{
\t"mtx": [[60.0, 0.0, 32.0], [0.0, 61.0, 23.5], [0.0, 0.0, 1.0]],
\t"dist_coefs": [[-0.2, 0.05, 0.001, -0.002, 0.0]],
\t"image_width": 64, "image_height": 48
}
"""
FILES = {
    "ost.yaml": OST,
    "opencv.yml": OPENCV,
    "camchain.yaml": KALIBR,
    "cameras.txt": COLMAP,
    "printed.yaml": PRINTED,
    "printed_1.yaml": PRINTED_1,
    "sensor.yaml": SENSOR,
    "calibration.json": JSON,
}


def written(folder: Path, name: str) -> Path:
    (folder / name).write_text(FILES[name])
    return folder / name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [SIZE, (128, 96)])
def test_a_file_calibrates_a_bag_without_camera_info(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    bag = RobotBag(count=2, parts=without("info"), image_size=size).write(tmp_path / "bag")
    found = open_recording(bag, RecordingOptions(calibration=str(written(tmp_path, name))))
    expected = CAMERA.resized(*size)
    pixels = expected.pixel_grid(8, 6)
    camera = next(iter(found)).camera
    assert camera.size == size
    np.testing.assert_allclose(camera.bearings(pixels), expected.bearings(pixels), atol=1e-9)


@pytest.mark.parametrize("name", ["printed.yaml", "printed_1.yaml"])
def test_a_printed_message_has_the_rectified_camera_too(tmp_path: Path, name: str) -> None:
    camera = read_calibration(written(tmp_path, name), SIZE, "/cam/image_rect").camera
    assert camera == Camera(*SIZE, 55.0, 55.0, 30.5, 26.0)


def test_a_file_goes_before_the_bags_own_calibration(tmp_path: Path) -> None:
    wrong = RobotBag(count=2, camera=CAMERA.resized(64, 48), info_changes={"k": np.zeros(9)})
    options = RecordingOptions(calibration=str(written(tmp_path, "ost.yaml")))
    assert open_recording(wrong.write(tmp_path / "bag"), options).infos[0].camera.fx == 60.0


def test_the_camera_of_a_chain_is_chosen_by_topic_or_name(tmp_path: Path) -> None:
    file = written(tmp_path, "camchain.yaml")
    for topic in ("/cam/image_raw/compressed", "cam/image_raw"):
        assert read_calibration(file, SIZE, topic).camera.fx == 60.0
    second = read_calibration(f"{file}:cam1", SIZE).camera
    assert (second.distortion, second.fx, second.cx) == ("equidistant", 30.0, 31.5)
    with pytest.raises(CalibrationError, match=r"cam0, cam1.*:NAME"):
        read_calibration(file, SIZE, "/other")
    with pytest.raises(CalibrationError, match="'cam7'"):
        read_calibration(f"{file}:cam7", SIZE)


@pytest.mark.parametrize("width", ["1" + "0" * 400, "[" * 3000, ".inf", "1e999", "null", "-64"])
def test_any_width_is_a_camera_or_one_line(tmp_path: Path, width: str) -> None:
    file = written(tmp_path, "ost.yaml")
    file.write_text(file.read_text().replace("image_width: 64", f"image_width: {width}"))
    with pytest.raises(CalibrationError) as caught:
        read_calibration(file, SIZE)
    assert "ost.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_camera_that_is_not_meant_need_not_be_right(tmp_path: Path) -> None:
    chain, cameras = written(tmp_path, "camchain.yaml"), written(tmp_path, "cameras.txt")
    chain.write_text(chain.read_text().replace("distortion_model: equidistant", "camera_model: x"))
    cameras.write_text(cameras.read_text() + "2 DIVISION 64 48 60 61 32 24 0.1\n")
    assert read_calibration(chain, SIZE, "/cam/image_raw").camera.fx == 60.0
    assert read_calibration(f"{cameras}:1", SIZE).camera.fx == 60.0
    with pytest.raises(CalibrationError, match="camera_model 'x'"):
        read_calibration(f"{chain}:cam1", SIZE)
    with pytest.raises(CalibrationError, match="DIVISION"):
        read_calibration(f"{cameras}:2", SIZE)


def test_a_file_of_ros_knows_the_rectified_camera(tmp_path: Path) -> None:
    camera = read_calibration(written(tmp_path, "ost.yaml"), SIZE, "/cam/image_rect").camera
    assert (camera.fx, camera.cx, camera.cy, camera.distortion) == (55.0, 30.5, 26.0, "none")


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "- 1", "camera_matrix: 3", "camera_matrix: {data: [1, 2]}", "1 2 3", "\0",
     "cam0: {intrinsics: [1, 2], resolution: [4, 4]}", "camera_matrix: {data: [.inf, a]}",
     OST.replace("60.0", ".nan"), OST.replace("60.0", "0.0"), KALIBR.replace("pinhole", "brown")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["file.yaml", "cameras.txt"])
def test_files_that_are_no_calibration(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CalibrationError) as caught:
        read_calibration(tmp_path / name, SIZE, IMAGE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ost.yaml", "opencv.yml", "camchain.yaml"])
def test_a_lens_without_its_numbers_is_not_taken_for_none(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name)
    file.write_text(re.sub("distortion_coeff[a-z]*", "other_name", file.read_text(), count=1))
    with pytest.raises(CalibrationError, match="distortion_coeff"):
        read_calibration(file, SIZE, "/cam/image_raw")
    said = "distortion_model: none"
    text = re.sub("distortion_model: (radtan|plumb_bob)", said, file.read_text())
    file.write_text(text if said in text else f"{text}{said}\n")
    assert read_calibration(file, SIZE, "/cam/image_raw").camera.distortion == "none"


def test_a_file_that_is_not_there_or_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot read.*none\.yaml"):
        read_calibration(tmp_path / "none.yaml", SIZE)
    with pytest.raises(CalibrationError, match="64x48, these are 64x64"):
        read_calibration(written(tmp_path, "ost.yaml"), (64, 64))


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, 1e308, -1e308, 1e-300])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    k=st.lists(NUMBERS, min_size=9, max_size=9),
    d=st.lists(NUMBERS, max_size=14),
    r=st.lists(NUMBERS, min_size=9, max_size=9),
    p=st.lists(NUMBERS, min_size=12, max_size=12),
    model=st.text(max_size=8) | st.sampled_from(["plumb_bob", "equidistant", "none"]),
    roi=st.tuples(*[st.integers(0, 2**32 - 1)] * 4),
    binning=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    rectified=st.booleans(),
)
def test_any_numbers_give_a_camera_or_one_line(
    size: Any, k: Any, d: Any, r: Any, p: Any, model: str, roi: Any, binning: Any, rectified: bool
) -> None:
    x, y, width, height = roi
    region = SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)
    message = SimpleNamespace(
        width=size[0], height=size[1], distortion_model=model, k=k, d=d, r=r, p=p, roi=region,
        binning_x=binning[0], binning_y=binning[1],
    )  # fmt: skip
    try:
        found = Calibration.from_message(message).view(rectified).camera
        assert np.isfinite(found.matrix).all()
        assert found.width > 0
    except CalibrationError as error:
        assert "\n" not in str(error)
    same_lens(Calibration.from_message(message), info())


def test_a_file_calibrates_folders_too(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "folder")
    options = RecordingOptions(calibration=str(written(tmp_path, "cameras.txt")))
    camera = next(iter(open_recording(folder, options))).camera
    assert (camera.fx, camera.fy, camera.cx, camera.distortion) == (60.0, 61.0, 32.5, "radtan")


@pytest.mark.parametrize(("write", "own"), [(write_euroc, "sensor.yaml"), (write_cambridge, "nvm")])
def test_a_file_calibrates_folders_without_a_calibration(tmp_path: Path, write, own: str) -> None:
    folder = write(tmp_path / "folder")
    for file in folder.rglob(f"*{own}"):
        file.unlink()
    with pytest.raises(CalibrationError):
        open_recording(folder)
    file = written(tmp_path, "cameras.txt")
    recording = open_recording(folder, RecordingOptions(calibration=str(file)))
    assert recording.infos[0].camera.fx == 60.0 and recording.infos[0].world_from_camera
    assert (own == "sensor.yaml") == any("of the camera itself" in n for n in recording.notes)


def test_a_file_knows_the_rectified_camera_of_folders_too(tmp_path: Path) -> None:
    folder, file = write_transforms(tmp_path / "folder"), str(written(tmp_path, "ost.yaml"))
    for rectified in (False, True):
        options = RecordingOptions(calibration=file, rectified=rectified)
        camera = open_recording(folder, options).infos[0].camera
        assert camera == read_calibration(file, SIZE, rectified=rectified).camera
        assert (camera.distortion == "none") == rectified


def test_check_takes_a_calibration_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = RobotBag(count=3, parts=without("info")).write(tmp_path / "bag")
    run(["check", str(bag), "--json", str(tmp_path / "without.json")])
    assert "--calibration" in capsys.readouterr().err
    file = str(written(tmp_path, "ost.yaml"))
    run(["check", str(bag), "--calibration", file, "--json", str(tmp_path / "with.json")])
    codes = [f["code"] for f in json.loads((tmp_path / "with.json").read_text())["findings"]]
    assert "camera_info" not in codes and "estimate" in codes


def test_localize_takes_a_calibration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    class Localizer:
        neural_map = SimpleNamespace(header=SimpleNamespace(camera=Camera(30, 30, 9, 9, 15, 15)))

        def localize(self, image: Any, camera: Camera, prior: Any) -> Any:
            asked.append(camera)
            return PoseEstimate(True, "", Pose.identity())

    monkeypatch.setattr(evaluation, "load_localizer", lambda *a: Localizer())
    (tmp_path / "a.png").write_bytes(png(picture(0, (128, 96))))
    words = ["localize", "room.map", str(tmp_path / "a.png")]
    assert run(words) == 1  # another shape than the map's camera
    assert "--calibration" in capsys.readouterr().out
    assert run([*words, "--calibration", str(written(tmp_path, "ost.yaml"))]) == 0
    assert run([*words, "--calibration", str(written(tmp_path, "ost.yaml")), "--rectified"]) == 0
    assert [camera.size for camera in asked] == [(128, 96)] * 2
    assert asked[0].fx == 120.0
    rectified = read_calibration(tmp_path / "ost.yaml", (128, 96), rectified=True).camera
    assert asked[1] == rectified != asked[0]
    assert run([*words, "--rectified"]) == 2  # of which calibration?
