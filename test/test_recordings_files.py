"""Folders as people bring them: names, sizes, orientations, several models, bad rows."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording_samples import BASE_FROM_CAMERA, SIZE, assert_poses_close, base_pose, picture, png
from test_recordings_datasets import (
    COUNT,
    WORLD_FROM_CAMERA,
    words,
    write_cambridge,
    write_colmap_binary,
    write_colmap_text,
    write_euroc,
    write_kapture,
    write_pictures,
    write_tum,
    wxyz,
)
from test_recordings_images import write_scene, write_transforms

from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.text import natural_key, seconds_to_ns


def names(path: Path) -> list[str]:
    """Of the frames, in their order."""
    return [info.name for info in open_recording(path).infos]


def edit(file: Path, change: Callable[[str], str]) -> None:
    """Rewrite a text file."""
    file.write_text(change(file.read_text()))


def edit_json(folder: Path, change: Callable[[dict], None]) -> None:
    """Rewrite a transforms.json."""
    data = json.loads((folder / "transforms.json").read_text())
    change(data)
    (folder / "transforms.json").write_text(json.dumps(data))


# Order


def test_names_are_sorted_as_people_count() -> None:
    counted = ["a2/f10", "a10/f2", "frame_1.jpg", "frame_2.jpg", "frame_10.jpg", "x", "x1y"]
    assert sorted(reversed(counted), key=natural_key) == counted


def test_transforms_in_natural_order(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    for old, new in zip(range(4), (1, 2, 10, 11), strict=True):
        before, after = f"{old:03d}.png", f"frame_{new}.png"
        (folder / before).rename(folder / after)
        edit(folder / "transforms.json", lambda s, a=before, b=after: s.replace(a, b))
    recording = open_recording(folder)
    assert [i.name for i in recording.infos] == [f"frame_{n}.png" for n in (1, 2, 10, 11)]
    assert_poses_close([i.world_from_camera for i in recording.infos], map(base_pose, range(4)))


def test_colmap_and_cambridge_in_natural_order(tmp_path: Path) -> None:
    colmap = write_colmap_text(tmp_path / "a")
    (colmap / "images" / "a b" / "3.png").rename(colmap / "images" / "a b" / "12.png")
    edit(colmap / "sparse" / "0" / "images.txt", lambda s: s.replace("a b/3.png", "a b/12.png"))
    assert names(colmap) == [f"a b/{n}.png" for n in (0, 1, 2, 12)]
    cambridge = write_cambridge(tmp_path / "b")
    for file in ("dataset_train.txt", "reconstruction.nvm"):
        edit(cambridge / file, lambda s: s.replace("frame00000", "frame10").replace("0000", ""))
    for i, new in ((0, "frame10"), (1, "frame1"), (2, "frame2")):
        (cambridge / "seq1" / f"frame{i:05d}.png").rename(cambridge / "seq1" / f"{new}.png")
    assert names(cambridge) == ["seq1/frame1.png", "seq1/frame2.png", "seq1/frame10.png"]


# COLMAP


def move_model(folder: Path, target: str) -> Path:
    """Put the model of a scene elsewhere."""
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    (folder / "sparse" / "0").rename(folder / target)
    return folder


@pytest.mark.parametrize("write", [write_colmap_text, write_colmap_binary])
def test_the_largest_of_several_models_is_read_and_named(tmp_path: Path, write) -> None:
    folder = move_model(write(tmp_path / "scene"), "sparse/1")
    small = write(tmp_path / "other") / "sparse" / "0"
    if write is write_colmap_text:
        edit(small / "images.txt", lambda s: "\n".join(s.split("\n")[:4]))
    else:
        (small / "images.bin").write_bytes(struct.pack("<Q", 0))
    shutil.copytree(small, folder / "sparse" / "0")
    recording = open_recording(folder)
    assert len(recording) == COUNT
    assert recording.pose_source == "COLMAP model sparse/1"
    few = 1 if write is write_colmap_text else 0
    assert recording.notes == (
        f"of 2 COLMAP models sparse/1 with 4 images is read, the largest; passed over: sparse/0 "
        f"with {few}",
    )


@pytest.mark.parametrize("place", ["colmap/sparse/0", "sparse", "colmap", "dense/sparse", "sfm"])
def test_images_lie_beside_the_folders_of_the_model(tmp_path: Path, place: str) -> None:
    folder = write_colmap_text(tmp_path / "scene")
    (folder / "sparse").rename(folder / "old")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "old" / "0").rename(folder / place)
    for path in (folder, folder / place):
        assert len(open_recording(path)) == COUNT


def test_images_of_a_smaller_size_only(tmp_path: Path) -> None:
    folder = write_colmap_text(tmp_path / "scene")
    shutil.rmtree(folder / "images")
    (folder / "images_2" / "a b").mkdir(parents=True)
    for i in range(COUNT):
        (folder / "images_2" / "a b" / f"{i}.png").write_bytes(png(picture(i, (32, 24))))
    camera = open_recording(folder).infos[0].camera
    assert (camera.size, camera.fx, camera.cy) == ((32, 24), 30.0, 12.0)


def test_a_list_of_images_without_lines_of_points(tmp_path: Path) -> None:
    folder = write_colmap_text(tmp_path / "scene")
    file = folder / "sparse" / "0" / "images.txt"
    edit(file, lambda s: "\n".join(x for x in s.split("\n") if x.strip() and "-1 3.0" not in x))
    infos = open_recording(folder).infos
    assert_poses_close([i.world_from_camera for i in infos], WORLD_FROM_CAMERA)


def test_cameras_that_no_image_uses_need_not_be_supported(tmp_path: Path) -> None:
    text = write_colmap_text(tmp_path / "a")
    edit(text / "sparse" / "0" / "cameras.txt", lambda s: s + "8 THIN_PRISM_FISHEYE 9 9 1 2\n")
    binary = write_colmap_binary(tmp_path / "b")
    file = binary / "sparse" / "0" / "cameras.bin"
    unknown = struct.pack("<IiQQ16d", 8, 11, 9, 9, *[0.1] * 16)  # RAD_TAN_THIN_PRISM_FISHEYE
    file.write_bytes(struct.pack("<Q", 2) + unknown + file.read_bytes()[8:])
    for folder in (text, binary):
        recording = open_recording(folder)
        assert (len(recording), recording.notes) == (COUNT, ())
    edit(text / "sparse" / "0" / "images.txt", lambda s: s.replace(" 7 a b/1", " 8 a b/1"))
    recording = open_recording(text)
    assert len(recording) == COUNT - 1
    assert "1 of 4 listed images have no usable calibration" in recording.notes[0]
    assert "THIN_PRISM_FISHEYE" in recording.notes[0]


RIG_SENSOR = Pose.exp((0.2, -0.1, 0.05, 0.1, 0.2, -0.3))


def with_rig(folder: Path, binary: bool) -> Path:
    """The images of a model as those of the second sensor of a rig; their own poses are lost."""
    model = folder / "sparse" / "0"
    mounted = [*wxyz(RIG_SENSOR), *RIG_SENSOR.translation]
    placed = [(RIG_SENSOR.inverse() @ pose.inverse()) for pose in WORLD_FROM_CAMERA]
    values = [[*wxyz(pose), *pose.translation] for pose in placed]
    if binary:
        rigs = struct.pack("<QIIiIiIB7d", 1, 5, 2, 0, 6, 0, 7, 1, *mounted)
        frames = struct.pack("<Q", COUNT)
        for i, row in enumerate(values):
            frames += struct.pack("<II7dIiIQ", i + 1, 5, *row, 1, 0, 7, i + 1)
        (model / "rigs.bin").write_bytes(rigs)
        (model / "frames.bin").write_bytes(frames)
        return folder
    (model / "rigs.txt").write_text(f"# Rig calib list\n5 2 CAMERA 6 CAMERA 7 1 {words(mounted)}\n")
    lines = [f"{i + 1} 5 {words(row)} 1 CAMERA 7 {i + 1}" for i, row in enumerate(values)]
    (model / "frames.txt").write_text("# Frame list\n" + "\n".join(lines) + "\n")
    identity = "1.0 0.0 0.0 0.0 0.0 0.0 0.0"
    for pose in WORLD_FROM_CAMERA:
        inverse = pose.inverse()
        own = words([*wxyz(inverse), *inverse.translation])
        edit(model / "images.txt", lambda s, own=own: s.replace(own, identity))
    return folder


@pytest.mark.parametrize("binary", [False, True])
def test_poses_of_a_model_with_rigs_and_frames(tmp_path: Path, binary: bool) -> None:
    write = write_colmap_binary if binary else write_colmap_text
    infos = open_recording(with_rig(write(tmp_path / "scene"), binary)).infos
    assert_poses_close([i.world_from_camera for i in infos], WORLD_FROM_CAMERA)


def test_a_model_that_colmap_itself_writes(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="no pycolmap: it comes with the extra sfm")
    folder = with_rig(write_colmap_text(tmp_path / "scene"), binary=False)
    model = folder / "sparse" / "0"
    edit(model / "cameras.txt", lambda s: s + "6 PINHOLE 64 48 60 60 32 24\n")
    (model / "points3D.txt").write_text("")
    edit(model / "images.txt", lambda s: s.replace("10.5 11.5 -1 3.0 4.0 12", ""))
    edit(model / "images.txt", lambda s: s.replace("a b/", "a/"))  # COLMAP reads no spaces
    (folder / "images" / "a b").rename(folder / "images" / "a")
    reconstruction = pycolmap.Reconstruction(str(model))
    for file in model.iterdir():
        file.unlink()
    reconstruction.write_binary(str(model))
    infos = open_recording(folder).infos
    assert_poses_close([i.world_from_camera for i in infos], WORLD_FROM_CAMERA)


# Sizes, orientations, names


def test_sizes_that_scaling_explains(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", count=1, w=4946, h=3286, cx=2473.0, cy=1643.0)
    for size, fits in (((1237, 822), True), ((1236, 821), True), ((1237, 800), False)):
        (folder / "000.png").write_bytes(png(np.zeros((size[1], size[0], 3), np.uint8)))
        if not fits:
            with pytest.raises(CalibrationError, match="1237x800, its calibration is for 4946"):
                open_recording(folder)
            continue
        camera = open_recording(folder).infos[0].camera
        assert camera.size == size
        assert camera.fx == pytest.approx(60.0 * size[0] / 4946)
        assert camera.fy == pytest.approx(61.0 * size[1] / 3286)


def photograph(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """A JPEG as a telephone writes it: pixels of the sensor, and how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=98, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (5, lambda stored: np.rot90(stored[:, ::-1], 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored[:, ::-1], -1)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
def test_a_photograph_on_its_side(tmp_path: Path, orientation: int, turn: Callable) -> None:
    """Odd numbers are mirrored before the turn, as front cameras do."""
    stored = picture(0)
    upright = turn(stored)
    for w, h, shown in ((64, 48, stored), (48, 64, upright), (24, 32, upright)):
        folder = write_transforms(
            tmp_path / f"{w}", 1, frame={"file_path": "a.jpg"}, w=w, h=h, cx=w / 2 + 1, cy=h / 2
        )
        photograph(folder / "a.jpg", stored, orientation)
        frame = next(iter(open_recording(folder)))
        assert frame.camera.size == (shown.shape[1], shown.shape[0])
        assert frame.camera.cx == pytest.approx((w / 2 + 1) * shown.shape[1] / w)
        assert np.abs(frame.image.astype(int) - shown).mean() < 8
        assert_poses_close([frame.world_from_camera], [base_pose(0)])


@pytest.mark.parametrize(
    "listed",
    [
        "images\\frame.JPG",
        "./images/frame.jpg",
        "images/frame",
        "images/FRAME.jpg",
        "Images\\Frame.jpg",
        "/data/fox/images/frame.JPG",
        "C:\\Users\\someone\\fox\\images\\frame.JPG",
        "../data/fox/images/frame.JPG",
    ],
)
def test_paths_of_other_machines(tmp_path: Path, listed: str) -> None:
    folder = write_transforms(tmp_path / "fox", 1, frame={"file_path": listed})
    (folder / "images").mkdir()
    (folder / "000.png").rename(folder / "images" / "frame.JPG")
    assert len(list(open_recording(folder))) == 1


def test_two_foreign_paths_do_not_share_a_file(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "fox", 2)
    edit(folder / "transforms.json", lambda s: s.replace("000.png", "/a/left/x.png"))
    edit(folder / "transforms.json", lambda s: s.replace("001.png", "/a/right/x.png"))
    (folder / "000.png").rename(folder / "x.png")
    assert names(folder) == ["/a/left/x.png"]


def test_endings_in_capitals_in_seven_scenes(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "s", count=2, ending="jpg")
    for file in folder.glob("*.color.jpg"):
        file.rename(file.with_suffix(".JPG"))
    assert len(open_recording(folder)) == 2


def test_transforms_train(tmp_path: Path) -> None:
    """As the synthetic scenes of NeRF come."""
    (tmp_path / "train").mkdir()
    frames = []
    for i in range(3):
        (tmp_path / "train" / f"r_{i}.png").write_bytes(png(picture(i)))
        opengl = base_pose(i).matrix() @ np.diag([1.0, -1.0, -1.0, 1.0])
        entry = {"file_path": f"./train/r_{i}", "rotation": 0.012566370614359171}
        frames.append({**entry, "transform_matrix": opengl.tolist()})
    data = {"camera_angle_x": 0.6911112070083618, "frames": frames}
    (tmp_path / "transforms_train.json").write_text(json.dumps(data))
    (tmp_path / "transforms_test.json").write_text(json.dumps({**data, "frames": frames[:1]}))
    recording = open_recording(tmp_path)
    assert_poses_close([i.world_from_camera for i in recording.infos], map(base_pose, range(3)))
    # the published focal length of these scenes is 1111.111 px at a width of 800
    assert recording.infos[0].camera.fx == pytest.approx(1111.111 * 64 / 800, abs=1e-3)
    assert len(open_recording(tmp_path / "transforms_test.json")) == 1


def write_ace(folder: Path, calibration: Callable[[int], str], pose_name: str) -> Path:
    """A scene of ACE with a part for training."""
    for part in ("rgb", "poses", "calibration"):
        (folder / "train" / part).mkdir(parents=True)
    for i in range(COUNT):
        stem = f"seq-01-frame-{i:06d}"
        (folder / "train" / "rgb" / f"{stem}.color.png").write_bytes(png(picture(i)))
        pose = folder / "train" / "poses" / pose_name.format(stem=stem, i=i)
        np.savetxt(pose, WORLD_FROM_CAMERA[i].matrix())
        (folder / "train" / "calibration" / f"{stem}.calibration.txt").write_text(calibration(i))
    return folder


@pytest.mark.parametrize("pose_name", ["{stem}.pose.txt", "{i}.txt"])
def test_the_layout_of_ace(tmp_path: Path, pose_name: str) -> None:
    folder = write_ace(tmp_path / "chess", lambda i: "525.0\n", pose_name)
    for path in (folder, folder / "train"):
        recording = open_recording(path)
        assert_poses_close([i.world_from_camera for i in recording.infos], WORLD_FROM_CAMERA)
        assert recording.infos[0].camera == Camera(*SIZE, 525.0, 525.0, 32.0, 24.0)
    assert open_recording(folder).name == "chess/train"


def test_matrices_in_the_layout_of_ace(tmp_path: Path) -> None:
    matrix = "60 0 32.5\n0 61 24\n0 0 1\n"
    folder = write_ace(tmp_path / "s", lambda i: "broken" if i == 1 else matrix, "{stem}.txt")
    recording = open_recording(folder)
    assert [i.camera for i in recording.infos] == [Camera(*SIZE, 60, 61, 32.5, 24)] * 3
    assert "no usable calibration" in recording.notes[0]


# What is bad is left out and counted, by every reader alike


def spoil_transforms(folder: Path) -> None:
    def change(data: dict) -> None:
        data["frames"][1]["transform_matrix"][0][3] = float("nan")

    write_transforms(folder)
    edit_json(folder, change)
    (folder / "002.png").unlink()
    (folder / "003.png").write_bytes(b"no image")


def spoil_colmap(folder: Path) -> None:
    write_colmap_text(folder)
    old = words([*wxyz(WORLD_FROM_CAMERA[1].inverse())])
    edit(folder / "sparse/0/images.txt", lambda s: s.replace(old, "nan 0 0 0"))
    (folder / "images" / "a b" / "2.png").unlink()
    (folder / "images" / "a b" / "3.png").write_bytes(b"no image")


def spoil_seven_scenes(folder: Path) -> None:
    write_scene(folder)
    np.savetxt(folder / "frame-000001.pose.txt", np.full((4, 4), np.nan))
    (folder / "frame-000002.color.png").rename(folder / "frame-000002.colour")
    (folder / "frame-000003.color.png").write_bytes(b"no image")


def spoil_cambridge(folder: Path) -> None:
    write_cambridge(folder)
    test = (folder / "dataset_test.txt").read_text().split("\n")[3]
    edit(folder / "dataset_train.txt", lambda s: s + test + "\n")
    old = words(wxyz(WORLD_FROM_CAMERA[1].inverse()))
    edit(folder / "dataset_train.txt", lambda s: s.replace(old, "nan 0 0 0"))
    (folder / "seq1" / "frame00002.png").unlink()
    (folder / "seq1" / "frame00003.png").write_bytes(b"no image")


def spoil_tum(folder: Path) -> None:
    write_tum(folder)
    edit(folder / "groundtruth.txt", lambda s: spoiled_rows(s, " ", 4, 3, 4))
    (folder / "rgb" / "2.png").unlink()
    (folder / "rgb" / "3.png").write_bytes(b"no image")


def spoil_euroc(folder: Path) -> None:
    write_euroc(folder)
    truth = folder / "mav0" / "state_groundtruth_estimate0" / "data.csv"
    edit(truth, lambda s: spoiled_rows(s, ",", 4, *range(3, 9)))
    images = sorted((folder / "mav0" / "cam0" / "data").iterdir())
    images[2].unlink()
    images[3].write_bytes(b"no image")


def spoil_kapture(folder: Path) -> None:
    write_kapture(folder)
    edit(folder / "sensors" / "trajectories.txt", lambda s: spoiled_rows(s, ",", 2, 2))
    (folder / "sensors" / "records_data" / "cam" / "2.png").unlink()
    (folder / "sensors" / "records_data" / "cam" / "3.png").write_bytes(b"no image")


def spoil_ace(folder: Path) -> None:
    write_ace(folder, lambda i: "60", "{stem}.txt")
    poses = sorted((folder / "train" / "poses").iterdir())
    np.savetxt(poses[1], np.full((4, 4), np.nan))
    images = sorted((folder / "train" / "rgb").iterdir())
    images[2].unlink()
    images[3].write_bytes(b"no image")


def spoiled_rows(text: str, separator: str, column: int, *rows: int) -> str:
    """A table with NaN in one column of some rows."""
    lines = text.split("\n")
    for row in rows:
        cells = lines[row].split(separator)
        cells[column] = "nan"
        lines[row] = separator.join(cells)
    return "\n".join(lines)


SPOIL = {
    "transforms": spoil_transforms,
    "colmap": spoil_colmap,
    "7-scenes": spoil_seven_scenes,
    "cambridge": spoil_cambridge,
    "tum": spoil_tum,
    "euroc": spoil_euroc,
    "kapture": spoil_kapture,
    "ace": spoil_ace,
}


@pytest.mark.parametrize("name", SPOIL)
def test_bad_rows_absent_files_and_poses_of_nan_are_left_out_and_counted(
    tmp_path: Path, name: str
) -> None:
    SPOIL[name](tmp_path / "scene")
    recording = open_recording(tmp_path / "scene")
    assert len(recording) == 2
    assert recording.infos[0].world_from_camera is not None
    assert recording.infos[1].world_from_camera is None
    notes = "\n".join(recording.notes)
    assert "cannot be read: left out (first: " in notes
    assert "1 of 2 frames have no valid pose" in notes
    if name not in ("7-scenes", "ace"):  # which list what is there
        assert "1 of 4 listed images are absent: left out" in notes
    assert len(list(recording)) == 2


def test_a_row_of_another_kind_is_said_in_words(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "tum")
    edit(folder / "groundtruth.txt", lambda text: text.replace(" ", ";"))
    with pytest.raises(RecordingError, match=r"line 2: it has another number of columns"):
        open_recording(folder)


def test_a_scene_of_ace_without_calibrations(tmp_path: Path) -> None:
    folder = write_ace(tmp_path / "ace", lambda i: "60\n", "{stem}.txt")
    for file in folder.rglob("calibration/*"):
        file.unlink()
    for part in [*folder.rglob("calibration")]:
        part.rmdir()
    with pytest.raises(CalibrationError, match="--calibration"):
        open_recording(folder)


def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "own")
    edit(folder / "rgb.txt", lambda s: s + "99999999999999999999.5 rgb/0.png\nsome words\n")
    recording = open_recording(folder)
    assert len(recording) == COUNT
    assert recording.notes == (
        "2 of 6 rows of rgb.txt cannot be read: left out (first: line 6: "
        "'99999999999999999999.5' is no time in seconds)",
    )


def test_poses_too_far_apart_name_the_option(tmp_path: Path) -> None:
    folder = write_tum(tmp_path / "own")
    options = RecordingOptions(max_pose_gap_s=0.01)
    with pytest.raises(RecordingError, match=r"0\.01 s around its time \(--max-pose-gap-s\)"):
        open_recording(folder, options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1305031102.175304", 1305031102_175304000),
        ("1.305031102175304000e+09", 1305031102_175304000),
        ("1403636579.7635555", 1403636579_763555500),
        ("-1.5", -1_500_000_000),
    ],
)
def test_times_in_seconds(text: str, expected: int) -> None:
    assert seconds_to_ns(text) == expected


@pytest.mark.parametrize("text", ["1e999999999", "nan", "inf", "1403636579763555584", "x", ""])
def test_what_is_no_time_in_seconds(text: str) -> None:
    with pytest.raises(RecordingError, match="no time in seconds"):
        seconds_to_ns(text)


def test_errors_are_one_line_whatever_is_in_the_file(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", 1, frame={"file_path": "a\nb\n", "fl_x": "c\nd"})
    with pytest.raises(CrossfireError) as caught:
        open_recording(folder)
    assert "\n" not in str(caught.value)


def test_a_camera_of_kapture_that_is_not_there(tmp_path: Path) -> None:
    folder = write_kapture(tmp_path / "a")
    with pytest.raises(RecordingError, match=r"no images of cam9 \(--image-topic\).*cam0"):
        open_recording(folder, RecordingOptions(image_topic="cam9"))


# Lines as they are published


def test_published_lines_of_colmap(tmp_path: Path) -> None:
    """The example of COLMAP's page on its formats."""
    (tmp_path / "cameras.txt").write_text(
        "# Camera list with one line of data per camera:\n"
        "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n# Number of cameras: 3\n"
        "1 SIMPLE_PINHOLE 3072 2304 2559.81 1536 1152\n"
        "2 PINHOLE 3072 2304 2560.56 2560.56 1536 1152\n"
        "3 SIMPLE_RADIAL 3072 2304 2559.69 1536 1152 -0.0218531\n"
    )
    (tmp_path / "images.txt").write_text(
        "# Image list with two lines of data per image:\n"
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
        "#   POINTS2D[] as (X, Y, POINT3D_ID)\n"
        "# Number of images: 2, mean observations per image: 2\n"
        "1 0.851773 0.0165051 0.503764 -0.142941 -0.737434 1.02973 3.74354 1 P1180141.JPG\n"
        "2362.39 248.498 58396 1784.7 268.254 59027 1784.7 268.254 -1\n"
        "2 0.851773 0.0165051 0.503764 -0.142941 -0.737434 1.02973 3.74354 1 P1180142.JPG\n"
        "1190.83 663.957 23056 1258.77 640.354 59070\n"
    )
    write_pictures(tmp_path, ["P1180141.JPG", "P1180142.JPG"])
    infos = open_recording(tmp_path).infos
    assert [i.name for i in infos] == ["P1180141.JPG", "P1180142.JPG"]
    assert infos[0].camera == Camera(*SIZE, 2559.81 / 48, 2559.81 / 48, 32.0, 24.0)
    # the camera's centre c solves R c + t = 0, with R c of the quaternion by Hamilton's product
    centre, turn = (
        infos[0].world_from_camera.translation,
        np.array([0.0165051, 0.503764, -0.142941]),
    )
    crossed = 2 * np.cross(turn, centre)
    turned = centre + 0.851773 * crossed + np.cross(turn, crossed)
    np.testing.assert_allclose(turned, [0.737434, -1.02973, -3.74354], atol=1e-5)


def test_published_lines_of_kapture(tmp_path: Path) -> None:
    sensors = tmp_path / "sensors"
    write_pictures(sensors / "records_data", ["cam0/0000.png"])
    (sensors / "sensors.txt").write_text(
        "# kapture format: 1.0\n# sensor_id, name, sensor_type, [sensor_params]+\n"
        "cam0, CAM0, camera, SIMPLE_PINHOLE, 640, 480, 516.0, 318.0, 255.0\n"
        "gnss_01, GPS module, gnss, EPSG:4326\n"
    )
    (sensors / "records_camera.txt").write_text(
        "# kapture format: 1.0\n# timestamp, device_id, image_path\n0, cam0, cam0/0000.png\n"
    )
    (sensors / "trajectories.txt").write_text(
        "# kapture format: 1.0\n# timestamp, device_id, qw, qx, qy, qz, tx, ty, tz\n"
        "0000, cam0, 1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0\n"
    )
    info = open_recording(tmp_path).infos[0]
    assert info.camera == Camera(*SIZE, 51.6, 51.6, 31.8, 25.5)
    np.testing.assert_allclose(info.world_from_camera.translation, [-1.0, -2.0, -3.0])


def test_published_lines_of_tum(tmp_path: Path) -> None:
    """Of freiburg1_xyz."""
    folder = tmp_path / "rgbd_dataset_freiburg1_xyz"
    folder.mkdir()
    write_pictures(folder, ["rgb/1305031102.175304.png"])
    (folder / "rgb.txt").write_text(
        "# color images\n# file: 'rgbd_dataset_freiburg1_xyz.bag'\n# timestamp filename\n"
        "1305031102.175304 rgb/1305031102.175304.png\n"
    )
    (folder / "groundtruth.txt").write_text(
        "# ground truth trajectory\n# timestamp tx ty tz qx qy qz qw\n"
        "1305031102.1758 1.3405 0.6266 1.6575 0.6574 0.6126 -0.2949 -0.3248\n"
        "1305031102.1658 1.3445 0.6272 1.6618 0.6567 0.6146 -0.2941 -0.3232\n"
    )
    info = open_recording(folder).infos[0]
    assert info.stamp_ns == 1305031102_175304000
    fraction = (0.175304 - 0.1658) / 0.01
    expected = 1.3445 + fraction * (1.3405 - 1.3445)
    assert info.world_from_camera.translation[0] == pytest.approx(expected, abs=1e-9)


def test_published_lines_of_euroc(tmp_path: Path) -> None:
    """Of MH_01_easy; its truth has a quaternion first in w."""
    camera = tmp_path / "mav0" / "cam0"
    truth = tmp_path / "mav0" / "state_groundtruth_estimate0"
    truth.mkdir(parents=True)
    write_pictures(camera / "data", ["1403636580838555648.png"])
    (camera / "data.csv").write_text(
        "#timestamp [ns],filename\r\n1403636580838555648,1403636580838555648.png\r\n"
    )
    (truth / "data.csv").write_text(
        "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], "
        "q_RS_z [], v_RS_R_x [m s^-1], v_RS_R_y [m s^-1], v_RS_R_z [m s^-1]\n"
        "1403636580838555648,4.688319,-1.786938,0.783338,0.534108,-0.153029,-0.827383,-0.082152,"
        "-0.027876,0.033207,0.800006\n"
    )
    (camera / "sensor.yaml").write_text(
        "# General sensor definitions.\nsensor_type: camera\ncomment: VI-Sensor cam0 (MT9M034)\n\n"
        "# Sensor extrinsics wrt. the body-frame.\nT_BS:\n  cols: 4\n  rows: 4\n"
        "  data: [0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975,\n"
        "         0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768,\n"
        "        -0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949,\n"
        "         0.0, 0.0, 0.0, 1.0]\n\n"
        "# Camera specific definitions.\nrate_hz: 20\nresolution: [752, 480]\n"
        "camera_model: pinhole\nintrinsics: [458.654, 457.296, 367.215, 248.375] #fu, fv, cu, cv\n"
        "distortion_model: radial-tangential\n"
        "distortion_coefficients: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]\n"
    )
    (camera / "data" / "1403636580838555648.png").write_bytes(png(picture(0, (752, 480))))
    info = open_recording(tmp_path).infos[0]
    assert info.camera.cx == 367.715
    body = info.world_from_camera @ open_recording(tmp_path).base_from_camera.inverse()
    np.testing.assert_allclose(body.translation, [4.688319, -1.786938, 0.783338], atol=1e-9)
    np.testing.assert_allclose(
        body.quaternion(), [-0.153029, -0.827383, -0.082152, 0.534108], atol=1e-6
    )


def test_a_camera_on_a_robot_of_euroc_and_kapture_is_at_one_place(tmp_path: Path) -> None:
    euroc, kapture = write_euroc(tmp_path / "a"), write_kapture(tmp_path / "b", rig=True)
    assert_poses_close(
        [i.world_from_camera for i in open_recording(kapture).infos],
        [base_pose(i) @ BASE_FROM_CAMERA for i in range(COUNT)],
    )
    assert_poses_close([open_recording(euroc).base_from_camera], [BASE_FROM_CAMERA])


def test_a_rig_in_a_rig_of_kapture(tmp_path: Path) -> None:
    """A head that carries the camera sits on the robot."""
    folder = write_kapture(tmp_path / "b", rig=True)
    rigs = folder / "sensors" / "rigs.txt"
    place = base_pose(3)
    inside = rigs.read_text()
    rig = next(line for line in inside.split("\n") if not line.startswith("#")).split(",")[0]
    moved = ", ".join(words([*wxyz(place), *place.translation]).split())
    rigs.write_text(f"{inside}robot, {rig}, {moved}\n")
    edit(folder / "sensors" / "trajectories.txt", lambda s: s.replace(f" {rig},", " robot,"))
    assert_poses_close(
        [i.world_from_camera for i in open_recording(folder).infos],
        [base_pose(i) @ place.inverse() @ BASE_FROM_CAMERA for i in range(COUNT)],
    )
