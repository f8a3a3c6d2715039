"""A tiny example of every data set's layout, written and read back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from recording_samples import (
    BASE_FROM_CAMERA,
    CAMERA,
    SIZE,
    assert_poses_close,
    base_pose,
    picture,
    png,
)

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.colmap import camera_of

COUNT = 4
WORLD_FROM_CAMERA = [base_pose(i) @ BASE_FROM_CAMERA for i in range(COUNT)]
LENS = CAMERA.coefficients[:4]
COLMAP_PARAMETERS = (60.0, 61.0, 32.5, 24.0, *LENS)
COLMAP_CAMERA = Camera(*SIZE, 60.0, 61.0, 32.5, 24.0, "radtan", LENS)


def wxyz(pose: Pose) -> list[float]:
    """The quaternion as most data sets order it."""
    x, y, z, w = pose.quaternion()
    return [w, x, y, z]


def words(values) -> str:
    """Numbers with all their digits."""
    return " ".join(repr(float(v)) for v in values)


def write_pictures(folder: Path, names: list[str]) -> None:
    """One PNG a name."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(picture(i)))


def write_colmap_text(folder: Path) -> Path:
    """With points for the first image and none for the others."""
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    write_pictures(folder / "images", [f"a b/{i}.png" for i in range(COUNT)])
    (model / "cameras.txt").write_text(f"# cameras\n7 OPENCV 64 48 {words(COLMAP_PARAMETERS)}\n")
    lines = ["# images", "# two lines each"]
    for i in reversed(range(COUNT)):
        inverse = WORLD_FROM_CAMERA[i].inverse()
        lines.append(f"{i + 1} {words([*wxyz(inverse), *inverse.translation])} 7 a b/{i}.png")
        lines.append("10.5 11.5 -1 3.0 4.0 12" if i == COUNT - 1 else "")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_colmap_binary(folder: Path) -> Path:
    """The same model in binary."""
    write_colmap_text(folder)
    model = folder / "sparse" / "0"
    (model / "cameras.txt").unlink()
    (model / "images.txt").unlink()
    cameras = struct.pack("<QiiQQ8d", 1, 7, 4, *SIZE, *COLMAP_PARAMETERS)
    images = struct.pack("<Q", COUNT)
    for i in reversed(range(COUNT)):
        inverse = WORLD_FROM_CAMERA[i].inverse()
        images += struct.pack("<i7di", i + 1, *wxyz(inverse), *inverse.translation, 7)
        images += f"a b/{i}.png".encode() + b"\0"
        points = 2 if i == COUNT - 1 else 0
        images += struct.pack("<Q", points) + struct.pack("<ddq", 1.0, 2.0, -1) * points
    (model / "cameras.bin").write_bytes(cameras)
    (model / "images.bin").write_bytes(images)
    return folder


@pytest.mark.parametrize("write", [write_colmap_text, write_colmap_binary])
def test_colmap(tmp_path: Path, write) -> None:
    folder = write(tmp_path / "scene")
    for path in (folder, folder / "sparse" / "0"):
        frames = list(open_recording(path))
        assert [f.name for f in frames] == [f"a b/{i}.png" for i in range(COUNT)]
        assert_poses_close([f.world_from_camera for f in frames], WORLD_FROM_CAMERA)
        assert all(f.camera == COLMAP_CAMERA for f in frames)
        np.testing.assert_array_equal(frames[2].image, picture(2))
    (folder / "images" / "a b" / "1.png").unlink()
    absent = "1 of 4 listed images are absent: left out (first: a b/1.png)"
    assert open_recording(folder).notes == (absent,)


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (write_colmap_text, "cameras.txt"),
        (write_colmap_binary, "cameras.bin"),
        (write_colmap_binary, "images.bin"),
    ],
)
def test_a_colmap_model_that_is_damaged(tmp_path: Path, write, file: str) -> None:
    path = write(tmp_path / "scene") / "sparse" / "0" / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CrossfireError) as caught:
        open_recording(tmp_path / "scene")
    assert "\n" not in str(caught.value)


FOUR, EIGHT = (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("model", "parameters", "expected"),
    [
        ("SIMPLE_PINHOLE", (60, 32, 24), (60, 60, 32, 24)),
        ("PINHOLE", (60, 61, 32, 24), (60, 61, 32, 24)),
        ("SIMPLE_RADIAL", (60, 32, 24, 0.1), (60, 60, 32, 24, "radtan", (0.1, 0, 0, 0))),
        ("RADIAL", (60, 32, 24, 0.1, 0.2), (60, 60, 32, 24, "radtan", (0.1, 0.2, 0, 0))),
        ("FULL_OPENCV", (60, 61, 32, 24, *EIGHT), (60, 61, 32, 24, "rational", EIGHT)),
        ("OPENCV_FISHEYE", (60, 61, 32, 24, *FOUR), (60, 61, 32, 24, "equidistant", FOUR)),
        ("RADIAL_FISHEYE", (60, 32, 24, 1, 2), (60, 60, 32, 24, "equidistant", (1, 2, 0, 0))),
        ("EUCM", (60, 61, 32, 24, 0.6, 1.1), (60, 61, 32, 24, "eucm", (0.6, 1.1))),
        ("FISHEYE", (60, 61, 32, 24), (60, 61, 32, 24, "equidistant", (0,) * 4)),
        ("SIMPLE_FISHEYE", (60, 32, 24), (60, 60, 32, 24, "equidistant", (0,) * 4)),
    ],
)
def test_colmap_camera_models(model: str, parameters: tuple, expected: tuple) -> None:
    assert camera_of(model, *SIZE, parameters) == Camera(*SIZE, *expected)
    with pytest.raises(CalibrationError):
        camera_of(model, *SIZE, parameters[:-1])


@pytest.mark.parametrize("model", ["THIN_PRISM_FISHEYE", "SOMETHING"])
def test_colmap_camera_models_that_are_not_supported(model: str) -> None:
    count = {"THIN_PRISM_FISHEYE": 12}.get(model, 4)
    with pytest.raises(CalibrationError, match="not supported"):
        camera_of(model, *SIZE, [1.0] * count)


def write_cambridge(folder: Path, radial: float = 0.02) -> Path:
    """A scene with a training and a test list."""
    names = [f"seq1/frame{i:05d}.png" for i in range(COUNT)]
    write_pictures(folder, names)
    header = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
    lines, model = [], ["NVM_V3 ", "", str(COUNT)]
    for name, pose in zip(names, WORLD_FROM_CAMERA, strict=True):
        turn = wxyz(pose.inverse())
        lines.append(f"{name} {words([*pose.translation, *turn])}")
        values = [60.0, *turn, *pose.translation, radial]
        model.append(f"{name.replace('.png', '.jpg')}\t{words(values)} 0")
    (folder / "dataset_train.txt").write_text(header + "\n".join(lines[:3]) + "\n")
    (folder / "dataset_test.txt").write_text(header + "\n".join(lines[3:]) + "\n")
    (folder / "reconstruction.nvm").write_text("\n".join([*model, "", "0"]) + "\n")
    return folder


def test_cambridge(tmp_path: Path) -> None:
    folder = write_cambridge(tmp_path / "ShopFacade")
    frames = list(open_recording(folder))
    assert [f.name for f in frames] == [f"seq1/frame{i:05d}.png" for i in range(3)]
    assert_poses_close([f.world_from_camera for f in frames], WORLD_FROM_CAMERA[:3])
    test = open_recording(folder / "dataset_test.txt")
    assert test.name == "ShopFacade/dataset_test"
    assert_poses_close([i.world_from_camera for i in test.infos], WORLD_FROM_CAMERA[3:])


def test_cambridge_distortion_is_visualsfms(tmp_path: Path) -> None:
    camera = open_recording(write_cambridge(tmp_path / "scene")).infos[0].camera
    # VisualSFM undistorts a measured point m, from the centre in focal lengths, by 1 + k |m|^2.
    measured = np.array([[0.3, 0.2], [-0.5, 0.4], [0.0, -0.35]])
    straight = measured * (1 + 0.02 * (measured**2).sum(axis=1, keepdims=True))
    pixels = 60.0 * measured + [32.0, 24.0]
    bearings = camera.bearings(pixels)
    np.testing.assert_allclose(bearings[:, :2] / bearings[:, 2:], straight, atol=1e-6)


def test_cambridge_without_its_model(tmp_path: Path) -> None:
    folder = write_cambridge(tmp_path / "scene")
    (folder / "reconstruction.nvm").unlink()
    with pytest.raises(CalibrationError, match="holds the calibration"):
        open_recording(folder)


def write_tum(folder: Path) -> Path:
    """Depth and truth at other times than the images."""
    start, names = 1305031102, [f"rgb/{i}.png" for i in range(COUNT)]
    write_pictures(folder, names)
    (folder / "depth").mkdir()
    rgb, depth, truth = ["# color images"], ["# depth"], ["# ground truth"]
    for i, name in enumerate(names):
        rgb.append(f"{start + i}.175304 {name}")
        depth.append(f"{start + i}.160407 depth/{i}.png")
        (folder / "depth" / f"{i}.png").write_bytes(png(np.full((48, 64), 5000 + i, np.uint16)))
        for shift, fraction in ((-0.1, "075304"), (0.1, "275304")):
            pose = base_pose(i + shift) @ BASE_FROM_CAMERA
            quaternion = pose.quaternion()
            truth.append(f"{start + i}.{fraction} {words([*pose.translation, *quaternion])}")
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "camera-intrinsics.txt").write_text("60 0 32\n0 61 23.5\n0 0 1\n")
    return folder


def test_tum_rgbd(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "rgbd_dataset_freiburg1_desk")
    frames = list(open_recording(folder, RecordingOptions(use_depth=True)))
    assert frames[0].stamp_ns == 1305031102_175304000
    assert_poses_close([f.world_from_camera for f in frames], WORLD_FROM_CAMERA, metres=1e-3)
    assert frames[3].depth[0, 0] == pytest.approx(5003 / 5000)
    assert frames[0].camera == Camera(*SIZE, 60.0, 61.0, 32.5, 24.0)


@pytest.mark.parametrize("separator", [",", ", ", "\t", " , "])
def test_words_of_tum_and_euroc_are_apart_by_commas_or_blanks(
    tmp_path: Path, separator: str
) -> None:
    """As the benchmark's own associate.py reads them."""
    tum, euroc = write_tum(tmp_path / "tum"), write_euroc(tmp_path / "euroc")
    for file in (*tum.glob("*.txt"), *euroc.rglob("data.csv")):
        old = "," if file.suffix == ".csv" else " "
        rows = file.read_text().split("\n")
        rows = [row if row.startswith("#") else row.replace(old, separator) for row in rows]
        if file.name != "camera-intrinsics.txt":
            file.write_text("\r\n".join(rows))
    for folder in (tum, euroc):
        found = [i.world_from_camera for i in open_recording(folder).infos]
        assert_poses_close(found, WORLD_FROM_CAMERA, metres=1e-3)


def test_bad_depth_images_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "freiburg1")
    (folder / "depth" / "0.png").write_bytes(b"no image")
    (folder / "depth" / "1.png").write_bytes(png(np.full((24, 48), 5000, np.uint16)))
    recording = open_recording(folder, RecordingOptions(use_depth=True))
    assert [frame.depth is None for frame in recording] == [True, True, False, False]
    assert recording.notes[0].startswith("2 of 4 depth images cannot be used: left out")


@pytest.mark.parametrize(
    ("name", "fx", "notes"),
    [("x_freiburg2_y", 520.9, 0), ("x_freiburg3_y", 535.4, 0), ("own", 525, 1)],
)
def test_tum_calibration_by_name(tmp_path: Path, name: str, fx: float, notes: int) -> None:
    folder = write_tum(tmp_path / name)
    (folder / "camera-intrinsics.txt").unlink()
    recording = open_recording(folder)
    camera = recording.infos[0].camera  # calibrated at 640x480
    assert camera.size == SIZE
    assert camera.fx == pytest.approx(fx / 10, abs=0.01)
    assert len(recording.notes) == notes


def test_tum_without_truth(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "own")
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(RecordingError, match="no poses"):
        open_recording(folder)
    assert len(open_recording(folder, RecordingOptions(require_poses=False))) == COUNT


def write_euroc(folder: Path) -> Path:
    """One camera and the truth of the body."""
    camera, truth = folder / "mav0" / "cam0", folder / "mav0" / "state_groundtruth_estimate0"
    start = 1403638538577829376
    write_pictures(camera / "data", [f"{start + i * 50_000_000}.png" for i in range(COUNT)])
    truth.mkdir(parents=True)
    rows = ["#timestamp [ns],filename"]
    poses = ["#timestamp, p_RS_R_x [m], y, z, q_RS_w [], x, y, z, v_RS_R_x"]
    for i in range(COUNT):
        stamp = start + i * 50_000_000
        rows.append(f"{stamp},{stamp}.png\r")
        for shift in (-0.1, 0.1):
            pose = base_pose(i + shift)
            values = ",".join(repr(float(v)) for v in [*pose.translation, *wxyz(pose), 0.0])
            poses.append(f"{stamp + round(shift * 50_000_000)},{values}")
    (camera / "data.csv").write_text("\n".join(rows) + "\n")
    (truth / "data.csv").write_text("\n".join(poses) + "\n")
    matrix = ", ".join(repr(v) for v in BASE_FROM_CAMERA.matrix().ravel().tolist())
    (camera / "sensor.yaml").write_text(
        "%YAML:1.0\n#camera\nsensor_type: camera\n"
        f"T_BS:\n  cols: 4\n  rows: 4\n  data: [{matrix}]\n"
        "rate_hz: 20\nresolution: [64, 48]\ncamera_model: pinhole\n"
        "intrinsics: [60.0, 61.0, 32.0, 23.5] #fu, fv, cu, cv\n"
        f"distortion_model: radial-tangential\ndistortion_coefficients: {list(LENS)}\n"
    )
    return folder


def test_euroc(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "MH_05")
    for path in (folder, folder / "mav0"):
        recording = open_recording(path)
        assert recording.name == "MH_05"
        assert_poses_close([recording.base_from_camera], [BASE_FROM_CAMERA])
        found = [i.world_from_camera for i in recording.infos]
        assert_poses_close(found, WORLD_FROM_CAMERA, metres=1e-3)
        assert recording.infos[0].camera == COLMAP_CAMERA
        assert len(list(recording)) == COUNT


def test_the_cameras_of_euroc(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "MH_05") / "mav0"
    with pytest.raises(RecordingError, match=r"cam9.*its cameras are cam0"):
        open_recording(folder, RecordingOptions(image_topic="cam9"))
    (folder / "cam0").rename(folder / "cam1")
    assert len(open_recording(folder)) == COUNT
    assert len(open_recording(folder.parent, RecordingOptions(image_topic="cam1"))) == COUNT


def test_a_lens_of_euroc_without_its_numbers_is_none(tmp_path: Path) -> None:
    """A name that is not read must not leave the lens out."""
    folder = write_euroc(tmp_path / "MH_05")
    file = folder / "mav0" / "cam0" / "sensor.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("distortion_coefficients", "distortion_coeffs"))
    assert open_recording(folder).infos[0].camera == COLMAP_CAMERA
    file.write_text(whole.replace("distortion_coefficients", "lens"))
    with pytest.raises(CalibrationError, match="no distortion_coefficients"):
        open_recording(folder)
    file.write_text(whole.replace("radial-tangential", "none").replace("distortion_coeff", "x"))
    assert open_recording(folder).infos[0].camera.distortion == "none"


def test_cameras_of_kalibr_in_a_sequence_of_euroc(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "room")
    file = folder / "mav0" / "cam0" / "sensor.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("pinhole", "omni").replace("intrinsics: [", "intrinsics: [1.2, "))
    expected = Camera(*SIZE, 60.0, 61.0, 32.5, 24.0, "omni", (1.2, *LENS))
    assert open_recording(folder).infos[0].camera == expected
    file.write_text(whole.replace("intrinsics: [", "intrinsics: [1.2, "))
    with pytest.raises(CalibrationError, match="intrinsics has 5 numbers, 4 were expected"):
        open_recording(folder)


def test_markers_of_a_motion_capture_sit_on_the_body(tmp_path: Path) -> None:
    """EuRoC's vicon0 follows markers, whose T_BS says where they are."""
    folder = write_euroc(tmp_path / "V1_01") / "mav0"
    (folder / "state_groundtruth_estimate0").rename(folder / "vicon0")
    assert_poses_close(
        [i.world_from_camera for i in open_recording(folder).infos], WORLD_FROM_CAMERA, 1e-3
    )
    body_from_marker = base_pose(7)
    rows = body_from_marker.matrix().tolist()
    (folder / "vicon0" / "sensor.yaml").write_text(f"sensor_type: vicon\nT_BS: {rows}\n")
    moved = BASE_FROM_CAMERA.inverse() @ body_from_marker.inverse() @ BASE_FROM_CAMERA
    assert_poses_close(
        [i.world_from_camera for i in open_recording(folder).infos],
        [pose @ moved for pose in WORLD_FROM_CAMERA],
        1e-3,
    )
    (folder / "vicon0" / "sensor.yaml").write_text("T_BS: [1, 2]\n")
    with pytest.raises(RecordingError, match="2 numbers, 16 were expected"):
        open_recording(folder)
    (folder / "vicon0").rename(folder / "truth")
    with pytest.raises(RecordingError, match="none of state_groundtruth_estimate0, mocap0, vicon0"):
        open_recording(folder)


def test_a_mounting_of_euroc_with_opencvs_tag_or_that_is_none(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "MH_05")
    file = folder / "mav0" / "cam0" / "sensor.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("T_BS:", "T_BS: !!opencv-matrix"))
    assert_poses_close([open_recording(folder).base_from_camera], [BASE_FROM_CAMERA])
    moved = whole.replace("data: [", "data: [3.0, ")  # all of it by one
    for text, said in ((moved, "17 numbers, 16"), (moved.replace(", 1.0]", "]"), "no rotation")):
        file.write_text(text)
        with pytest.raises(CalibrationError, match=said):
            open_recording(folder)


def test_euroc_without_calibration(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "MH_05")
    for text in ("", "a: [", "intrinsics: [1, 2]", "intrinsics: [1, 2, 3, 4]"):
        (folder / "mav0" / "cam0" / "sensor.yaml").write_text(text)
        with pytest.raises(CalibrationError, match="holds no calibration"):
            open_recording(folder)


def write_kapture(folder: Path, rig: bool = False) -> Path:
    """One camera, by itself or on a rig."""
    sensors = folder / "sensors"
    write_pictures(sensors / "records_data", [f"cam/{i}.png" for i in range(COUNT)])
    calibration = ", ".join(repr(v) for v in COLMAP_PARAMETERS)
    (sensors / "sensors.txt").write_text(
        "# kapture format: 1.1\n# sensor_device_id, name, sensor_type, [sensor_params]+\n"
        f"cam0, front, camera, OPENCV, 64, 48, {calibration}\nimu0, , imu\n"
    )
    records, poses = ["# timestamp, device_id, image_path"], ["# timestamp, device_id, qw, ..."]
    for i in range(COUNT):
        records.append(f"{i * 100}, cam0, cam/{i}.png")
        posed = base_pose(i) if rig else WORLD_FROM_CAMERA[i]
        values = [*wxyz(posed.inverse()), *posed.inverse().translation]
        device = "rig0" if rig else "cam0"
        poses.append(f"{i * 100}, {device}, {', '.join(repr(float(v)) for v in values)}")
    (sensors / "records_camera.txt").write_text("\n".join(records) + "\n")
    (sensors / "trajectories.txt").write_text("\n".join(poses) + "\n")
    if rig:
        mounted = BASE_FROM_CAMERA.inverse()
        values = ", ".join(repr(float(v)) for v in [*wxyz(mounted), *mounted.translation])
        (sensors / "rigs.txt").write_text(f"# rig_id, sensor_id, ...\nrig0, cam0, {values}\n")
    return folder


@pytest.mark.parametrize("rig", [False, True])
def test_kapture(tmp_path: Path, rig: bool) -> None:
    frames = list(open_recording(write_kapture(tmp_path / "kapture", rig)))
    assert [f.stamp_ns for f in frames] == [0, 100, 200, 300]
    assert_poses_close([f.world_from_camera for f in frames], WORLD_FROM_CAMERA)
    assert all(f.camera == COLMAP_CAMERA for f in frames)


def test_a_png_whose_end_is_damaged_is_left_out_and_one_with_more_behind_it_is_not(
    tmp_path: Path,
) -> None:
    folder = write_kapture(tmp_path / "kapture")
    images = folder / "sensors" / "records_data" / "cam"
    whole = (images / "1.png").read_bytes()
    (images / "1.png").write_bytes(whole[:-12] + b"\xeb\xe6\x19." + whole[-8:])
    (images / "2.png").write_bytes(whole + b"more")
    recording = open_recording(folder)
    assert [f.name for f in recording] == ["cam/0.png", "cam/2.png", "cam/3.png"]
    assert "1 of 4 listed images cannot be read" in " ".join(recording.notes)


@pytest.mark.parametrize("file", ["sensors", "records_camera", "trajectories"])
@pytest.mark.parametrize("text", ["a", "a, b, c", "1, cam0, x, y, z, 1, 2, 3, 4"])
def test_kapture_that_is_damaged(tmp_path: Path, file: str, text: str) -> None:
    folder = write_kapture(tmp_path / "kapture")
    (folder / "sensors" / f"{file}.txt").write_text(text)
    with pytest.raises(CrossfireError) as caught:
        open_recording(folder)
    assert "\n" not in str(caught.value)


def test_nerfstudio(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", [f"frame_{i:05d}.png" for i in range(COUNT)])
    frames = []
    for i, pose in enumerate(WORLD_FROM_CAMERA):
        opengl = (pose.matrix() @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()
        own = {"fl_x": 60.0, "fl_y": 61.0, "cx": 32.5, "cy": 24.0, "w": 64, "h": 48}
        lens = dict(zip(("k1", "k2", "p1", "p2"), LENS, strict=True))
        path = f"images/frame_{i:05d}.png"
        frames.append({"file_path": path, "transform_matrix": opengl, **own, **lens})
    data = {"camera_model": "OPENCV", "frames": frames, "ply_file_path": "sparse_pc.ply"}
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    recording = open_recording(tmp_path)
    assert_poses_close([f.world_from_camera for f in recording.infos], WORLD_FROM_CAMERA)
    assert all(f.camera == COLMAP_CAMERA for f in recording.infos)
