"""transforms.json and 7-Scenes folders written and read back, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recording_samples import CAMERAS, SIZE, assert_poses_close, base_pose, jpeg, picture, png

from crossfire_core.errors import CalibrationError, ConfigError, RecordingError
from crossfire_core.geometry import Camera
from crossfire_core.recordings import RecordingOptions, open_recording, split_holdout

INTRINSICS = {"fl_x": 60.0, "fl_y": 61.0, "cx": 32.5, "cy": 24.0, "w": 64.0, "h": 48.0}


def write_transforms(folder: Path, count: int = 4, frame: dict | None = None, **values) -> Path:
    """A folder with transforms.json; a value of None leaves a field out."""
    folder.mkdir(exist_ok=True)
    frames = []
    for i in range(count):
        (folder / f"{i:03d}.png").write_bytes(png(picture(i)))
        opengl = base_pose(i).matrix() @ np.diag([1.0, -1.0, -1.0, 1.0])
        entry = {"file_path": f"{i:03d}.png", "transform_matrix": opengl.tolist()}
        frames.append({**entry, **(frame or {})})
    data = {**INTRINSICS, "frames": frames, **values}
    data = {k: v for k, v in data.items() if v is not None}
    (folder / "transforms.json").write_text(json.dumps(data))
    return folder


def test_transforms_read_back_in_opencv_axes(tmp_path: Path) -> None:
    recording = open_recording(write_transforms(tmp_path / "photos"))
    frames = list(recording)
    assert (recording.name, recording.world_frame, recording.notes) == ("photos", "map", ())
    assert [f.name for f in frames] == ["000.png", "001.png", "002.png", "003.png"]
    assert_poses_close([f.world_from_camera for f in frames], [base_pose(i) for i in range(4)])
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(i))
        assert frame.camera == Camera(*SIZE, 60.0, 61.0, 32.5, 24.0)
        assert frame.stamp_ns == i
    assert open_recording(tmp_path / "photos" / "transforms.json").name == "photos"


def test_distortion_and_intrinsics_of_single_frames(tmp_path: Path) -> None:
    radtan = write_transforms(tmp_path / "a", k1=0.1, k2=-0.2, p1=0.01, p2=0.02)
    camera = open_recording(radtan).infos[0].camera
    assert (camera.distortion, camera.coefficients) == ("radtan", (0.1, -0.2, 0.01, 0.02))
    fisheye = write_transforms(tmp_path / "b", camera_model="OPENCV_FISHEYE", k1=0.1, k4=0.3)
    camera = open_recording(fisheye).infos[0].camera
    assert (camera.distortion, camera.coefficients) == ("equidistant", (0.1, 0.0, 0.0, 0.3))
    own = write_transforms(tmp_path / "c", frame={"fl_x": 99.0, "fl_y": 98.0})
    camera = open_recording(own).infos[0].camera
    assert (camera.fx, camera.fy) == (99.0, 98.0)
    angle = write_transforms(tmp_path / "d", frame={"camera_angle_x": np.pi / 2})
    camera = open_recording(angle).infos[0].camera  # the frame's own before the file's fl_x
    np.testing.assert_allclose((camera.fx, camera.fy), 32.0)
    nulls = write_transforms(tmp_path / "e", frame={"fl_x": None, "k1": None, "camera_model": None})
    assert open_recording(nulls).infos[0].camera == Camera(*SIZE, 60.0, 61.0, 32.5, 24.0)


@pytest.mark.parametrize(
    ("model", "numbers", "lens"),
    [
        ("SIMPLE_RADIAL", {"k1": 0.1}, ("radtan", (0.1, 0.0, 0.0, 0.0))),
        ("RADIAL", {"k1": 0.1, "k2": 0.2}, ("radtan", (0.1, 0.2, 0.0, 0.0))),
        ("RADIAL_FISHEYE", {"k1": 0.1, "k2": 0.2}, ("equidistant", (0.1, 0.2, 0.0, 0.0))),
        (
            "FULL_OPENCV",
            {"k1": 0.1, "k2": 0.2, "p1": 0.3, "k3": 0.4, "k4": 0.5, "k6": 0.6},
            ("rational", (0.1, 0.2, 0.3, 0.0, 0.4, 0.5, 0.0, 0.6)),
        ),
    ],
)
def test_lenses_by_the_names_of_colmap(
    tmp_path: Path, model: str, numbers: dict, lens: tuple
) -> None:
    folder = write_transforms(tmp_path / "a", camera_model=model, **numbers)
    camera = open_recording(folder).infos[0].camera
    assert (camera.distortion, camera.coefficients) == lens


def test_a_frame_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    file = folder / "transforms.json"
    file.write_text(file.read_text().replace("002.png", "001.png"))
    recording = open_recording(folder)
    assert [i.name for i in recording.infos] == ["000.png", "001.png", "003.png"]
    assert "1 of 4 listed images repeat the name of another" in recording.notes[0]
    assert "001.png" in recording.notes[0]


def test_dark_images_of_sixteen_bits_are_scaled_like_the_bright_ones(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    for i, level in enumerate((50, 1000, 400, 4000)):  # of 4095
        (folder / f"{i:03d}.png").write_bytes(png(np.full((48, 64), level, np.uint16)))
    recording = open_recording(folder)
    assert [int(f.image[0, 0, 1]) for f in recording] == [3, 62, 25, 250]
    assert [int(f.image[0, 0, 1]) for f in recording.frames([1])] == [62]


def test_focal_length_from_the_angle_of_view_and_size_from_the_image(tmp_path: Path) -> None:
    nothing = dict.fromkeys(INTRINSICS)
    folder = write_transforms(tmp_path / "a", **nothing, camera_angle_x=np.pi / 2)
    camera = open_recording(folder).infos[0].camera
    assert camera.size == SIZE
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((32, 32, 32, 24))


def test_file_names_without_their_ending(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", count=1, frame={"file_path": "./000"})
    assert len(list(open_recording(folder))) == 1


def test_poses_that_are_not_wanted_need_not_be_there(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", frame={"transform_matrix": None})
    options = RecordingOptions(pose_topic="none", require_poses=False)
    recording = open_recording(folder, options)
    assert [i.world_from_camera for i in recording.infos] == [None] * len(recording)
    assert len(recording) > 0 and recording.pose_source == ""


def test_absent_images_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    (folder / "001.png").unlink()
    recording = open_recording(folder)
    assert [i.name for i in recording.infos] == ["000.png", "002.png", "003.png"]
    assert recording.notes == ("1 of 4 listed images are absent: left out (first: 001.png)",)
    for i in (0, 2, 3):
        (folder / f"{i:03d}.png").unlink()
    with pytest.raises(RecordingError, match="no usable frame: 4 of 4"):
        open_recording(folder)


def test_depth_in_transforms(tmp_path: Path) -> None:
    folder = write_transforms(
        tmp_path / "a", frame={"depth_file_path": "d.png"}, depth_unit_scale_factor=0.01
    )
    (folder / "d.png").write_bytes(png(np.full((48, 64), 250, np.uint16)))
    frame = next(iter(open_recording(folder, RecordingOptions(use_depth=True))))
    np.testing.assert_allclose(frame.depth, 2.5)
    (folder / "d.png").write_bytes(png(np.full((24, 32), 250, np.uint16)))
    with pytest.raises(RecordingError, match="32x24"):
        list(open_recording(folder, RecordingOptions(use_depth=True)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fl_x": None, "fl_y": None}, "neither fl_x nor camera_angle_x"),
        ({"fl_x": 0.0}, "uncalibrated"),
        ({"fl_x": float("nan")}, "nan is no finite number"),
        ({"fl_x": "wide"}, "calibration is damaged: 'wide' is no number"),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": 0.0}, "camera_angle_x 0 is no angle"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"frames": None}, "no list of frames"),
        ({"frames": [1, 2]}, "no list of frames"),
        ({"frames": [{"transform_matrix": []}]}, "no file_path"),
        ({"frames": []}, "no usable frame"),
        ({"frame": {"transform_matrix": [[1, 2], [3, 4]]}}, "transform_matrix"),
        ({"frame": {"transform_matrix": np.full((4, 4), np.nan).tolist()}}, "transform_matrix"),
        ({"frame": {"transform_matrix": (2 * np.eye(4)).tolist()}}, "no rotation"),
        ({"frame": {"transform_matrix": None}}, "transform_matrix"),
    ],
)
def test_broken_transforms(tmp_path: Path, change: dict, message: str) -> None:
    folder = write_transforms(tmp_path / "a", **change)
    with pytest.raises((RecordingError, CalibrationError), match=message) as caught:
        list(open_recording(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(RecordingError):
        open_recording(tmp_path)


def test_images_of_another_size_are_scaled_by_exact_ratios_or_left_out(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    (folder / "002.png").write_bytes(png(picture(0, (32, 24))))
    (folder / "003.png").write_bytes(png(picture(0, (64, 40))))
    recording = open_recording(folder)
    assert [i.name for i in recording.infos] == ["000.png", "001.png", "002.png"]
    assert recording.infos[2].camera == Camera(32, 24, 30.0, 30.5, 16.25, 12.0)
    assert [f.image.shape[:2] for f in recording] == [(48, 64), (48, 64), (24, 32)]
    assert "1 of 4 listed images have no usable calibration" in recording.notes[0]
    assert "003.png: it is 64x40, its calibration is for 64x48" in recording.notes[0]


def write_scene(folder: Path, count: int = 4, ending: str = "png") -> Path:
    """A 7-Scenes folder with intrinsics of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    encode = png if ending == "png" else jpeg
    for i in range(count):
        stem = folder / f"frame-{i:06d}"
        stem.with_suffix(f".color.{ending}").write_bytes(encode(picture(i)))
        stem.with_suffix(".depth.png").write_bytes(png(depth_mm(i)))
        np.savetxt(stem.with_suffix(".pose.txt"), base_pose(i).matrix())
    (folder / "camera-intrinsics.txt").write_text(
        "60 0 32\n0 61 23.5\n0 0 1\n# radtan k1 k2 p1 p2: [-0.2, 0.05, 0.001, -0.002]\n"
    )
    return folder


def depth_mm(index: int) -> np.ndarray:
    """Millimetres, with an invalid corner."""
    depth = np.full((48, 64), 1000 + index, np.uint16)
    depth[0, 0] = 65535
    return depth


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_seven_scenes_reads_back(tmp_path: Path, ending: str) -> None:
    recording = open_recording(write_scene(tmp_path / "s", ending=ending))
    frames = list(recording)
    assert len(frames) == 4
    assert_poses_close([f.world_from_camera for f in frames], [base_pose(i) for i in range(4)])
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - picture(i)).mean() < (
            1e-9 if ending == "png" else 8
        )
        pixels = frame.camera.pixel_grid(8, 6)
        expected = CAMERAS["radtan"].bearings(pixels)
        np.testing.assert_allclose(frame.camera.bearings(pixels), expected, atol=1e-9)


def test_seven_scenes_depth(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "s")
    frames = list(open_recording(folder, RecordingOptions(use_depth=True)))
    assert frames[2].depth[5, 5] == pytest.approx(1.002)
    assert frames[2].depth[0, 0] == 0.0


def test_frames_that_lost_tracking_have_no_pose_and_are_counted_all_the_same(
    tmp_path: Path,
) -> None:
    folder = write_scene(tmp_path / "s")
    np.savetxt(folder / "frame-000001.pose.txt", np.full((4, 4), -np.inf))
    np.savetxt(folder / "frame-000002.pose.txt", np.zeros((4, 4)))
    recording = open_recording(folder)
    assert [i.world_from_camera is None for i in recording.infos] == [False, True, True, False]
    assert recording.notes == ("2 of 4 frames have no valid pose",)
    # every n-th frame is the same one whether poses are given or to be found
    bare = open_recording(folder, RecordingOptions(pose_topic="none", require_poses=False))
    assert [i.name for i in bare.infos] == [i.name for i in recording.infos]


def test_other_pose_files_and_none(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "s")
    np.savetxt(folder / "frame-000001.pose_slam.txt", base_pose(9).matrix())
    slam = open_recording(folder, RecordingOptions(pose_file="pose_slam.txt"))
    posed = [i for i in slam.infos if i.world_from_camera is not None]
    assert [i.name for i in posed] == ["frame-000001.color.png"]
    assert_poses_close([i.world_from_camera for i in posed], [base_pose(9)])
    none = open_recording(folder, RecordingOptions(pose_topic="none", require_poses=False))
    assert [i.world_from_camera for i in none.infos] == [None] * 4


def test_sequences_of_a_scene(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene" / "seq-01")
    write_scene(tmp_path / "scene" / "seq-02")
    (tmp_path / "scene" / "camera-intrinsics.txt").write_text("60 0 32\n0 61 23\n0 0 1\n")
    recording = open_recording(tmp_path / "scene")
    assert len(recording) == 8
    assert len({i.name for i in recording.infos}) == 8
    assert [i.stamp_ns for i in recording.infos] == list(range(8))
    assert recording.infos[0].camera.cy == 23.5


def test_absent_and_broken_intrinsics(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "s")
    (folder / "camera-intrinsics.txt").unlink()
    recording = open_recording(folder)
    assert "focal length of 525 px at a width of 640 px is assumed" in recording.notes[0]
    for text in ("", "a b c", "1 2\n3 4", "0 0 0\n0 0 0\n0 0 1"):
        (folder / "camera-intrinsics.txt").write_text(text)
        with pytest.raises((CalibrationError, RecordingError), match=r"matrix|uncalibrated"):
            open_recording(folder)


@pytest.mark.parametrize("text", ["", "x", "1 2 3", "1 0 0 0\n0 1 0 0"])
def test_broken_pose_file(tmp_path: Path, text: str) -> None:
    folder = write_scene(tmp_path / "s")
    (folder / "frame-000001.pose.txt").write_text(text)
    recording = open_recording(folder)
    assert [i.world_from_camera is None for i in recording.infos] == [False, True, False, False]
    assert recording.notes[0].startswith("1 of 4 frames have no valid pose (first: frame-000001")
    assert "matrix" in recording.notes[0]


def test_what_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no recording at"):
        open_recording(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="no recording that is known"):
        open_recording(tmp_path / "empty")
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(RecordingError, match="no recording that is known"):
        open_recording(tmp_path / "file.txt")


@pytest.mark.parametrize(("count", "every"), [(10, 5), (11, 2), (4, 5), (3, 100), (0, 5), (7, 0)])
def test_holdout_splits_every_nth_frame(count: int, every: int) -> None:
    training, held = split_holdout(list(range(count)), every)
    assert sorted(training + held) == list(range(count))
    if every:
        assert held == [i for i in range(count) if i % every == 0]
    else:
        assert held == []


@pytest.mark.parametrize("every", [1, -3])
def test_holdout_that_leaves_nothing(every: int) -> None:
    with pytest.raises(ConfigError):
        split_holdout([1, 2, 3], every)
