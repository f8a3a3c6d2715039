"""Which pixels take part: masks of users, what a lens does not show, and both together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from crossfire_core.cli import run
from crossfire_core.config import SfmConfig
from crossfire_core.errors import CalibrationError, CrossfireError, RecordingError, TrainingError
from crossfire_core.features.network import DenseDescriptors
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.mask import Mask, clearance_of, whole_cells
from crossfire_core.mapping_poses.from_motion import fingerprint
from crossfire_core.mapping_poses.posed import without_holdout
from crossfire_core.recordings import Recording, RecordingOptions, open_recording
from crossfire_core.recordings.calibration_file import read_calibration
from crossfire_core.recordings.checks.images import _look
from crossfire_core.recordings.masks import Masks
from crossfire_core.training.views import RayTable, View
from crossfire_core.vision.sift import root_sift

PLAIN = Camera(64, 48, 50.0, 50.0, 32.0, 24.0)
# r = 20 angle: the widest angle of 73.2 degrees (1 = 0.6 angle^2) lies 20 * 0.8607 px aside
FISHEYE = Camera(64, 48, 20.0, 20.0, 32.0, 24.0, "equidistant", (-0.2, 0.0, 0.0, 0.0))


def body() -> Mask:
    """The robot's hood at the lower border."""
    usable = np.ones((48, 64), bool)
    usable[40:] = False
    return Mask(usable)


def test_what_a_lens_does_not_show_is_not_usable() -> None:
    assert PLAIN.usable is None
    usable = FISHEYE.usable
    assert usable is not None
    away = np.hypot(*(FISHEYE.pixel_grid() - [32.0, 24.0]).T).reshape(48, 64)
    np.testing.assert_array_equal(usable, away < 20 * 1.29099 * (1 - 0.2 * 1.29099**2))
    pixels = np.array([[32.0, 24.0], [1.0, 1.0], [-1.0, 9.0], [np.nan, 1.0]])
    assert FISHEYE.shows(pixels).tolist() == [True, False, False, False]


def test_mask_and_lens_are_one() -> None:
    both = replace(FISHEYE, mask=body())
    assert both.usable is not None and FISHEYE.usable is not None
    np.testing.assert_array_equal(both.usable, FISHEYE.usable & body().usable)
    assert both == replace(FISHEYE, mask=body()) and hash(both) != hash(FISHEYE)
    assert "mask" not in both.to_json() and Camera.from_json(both.to_json()) == FISHEYE
    assert replace(PLAIN, mask=Mask(np.ones((48, 64), bool))).usable is None
    with pytest.raises(CalibrationError, match="64x40"):
        replace(PLAIN, mask=Mask(np.ones((40, 64), bool)))


def test_resized_masks_keep_away_from_what_is_left_out() -> None:
    camera = replace(PLAIN, mask=body())
    small = camera.resized(16, 9)  # a row is 5.33 pixels high
    assert small.usable is not None
    assert small.usable.all(axis=1).tolist() == [True] * 7 + [False] * 2
    assert camera.resized(16, 9) is small  # worked out once


def test_clearance_is_the_distance_to_what_is_left_out() -> None:
    camera = replace(PLAIN, mask=body())
    pixels = np.array([[10.5, 30.5], [10.5, 39.5], [10.5, 44.5], [10.5, 48.5], [np.nan, 3.0]])
    np.testing.assert_allclose(camera.clearance(pixels), [10.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(PLAIN.clearance(pixels)[[0, 3]], [np.inf, 0.0])


def views(cameras: list[Camera]) -> list[View]:
    images = [np.full((c.height, c.width, 3), i, np.uint8) for i, c in enumerate(cameras)]
    return [
        View(str(i), i, image, camera, Pose.identity())
        for i, (image, camera) in enumerate(zip(images, cameras, strict=True))
    ]


def test_rays_and_patches_are_drawn_from_usable_pixels_only() -> None:
    left = np.zeros((48, 64), bool)
    left[:, :20] = True
    cameras = [replace(PLAIN, mask=body()), FISHEYE, PLAIN, replace(PLAIN, mask=Mask(left))]
    table = RayTable(views(cameras), torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    for view, pixel in (table.draw(8000, rng), table.draw_patches(200, 8, rng)):
        assert torch.isfinite(table.rays(view, pixel).directions).all()
        for number, camera in enumerate(cameras):
            mine = pixel[view == number].numpy()
            if camera.usable is not None:
                assert camera.usable.ravel()[mine].all()
            column, row = mine % 64, mine // 64
            assert np.ptp(column) > 15 and np.ptp(row) > 15
    share = np.bincount(table.draw(8000, rng)[0].numpy()) / 8000
    np.testing.assert_allclose(share, 0.25, atol=0.02)  # every view alike, however little it shows


def test_masks_that_leave_no_room_are_refused() -> None:
    stripes = np.zeros((48, 64), bool)
    stripes[::4] = True
    table = RayTable(views([replace(PLAIN, mask=Mask(stripes))] * 2), torch.device("cpu"))
    with pytest.raises(TrainingError, match="8 pixels"):
        table.draw_patches(4, 8, torch.Generator())


def test_descriptors_of_masked_cells_are_like_none() -> None:
    values = torch.full((4, 24, 32), 0.5)
    masked = DenseDescriptors(values, (0.5, 0.5)).masked(replace(PLAIN, mask=body()))
    assert (masked.values[:, :20] == 0.5).all() and not masked.values[:, 20:].any()
    assert DenseDescriptors(values, (0.5, 0.5)).masked(PLAIN).values is values


def test_no_keypoint_lies_on_the_robot() -> None:
    grey = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 80, (96, 128)), (0, 0), 1.5)
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    usable = np.ones((96, 128), bool)
    usable[60:] = False
    grey[60:] = 0  # whose border is the strongest edge of all
    pixels, _ = root_sift(grey, 500, 0.01, usable)
    assert len(pixels) > 20 and pixels[:, 1].max() < 60


def test_black_corners_are_no_fault_of_the_exposure() -> None:
    """A circle of light in a dark frame: well exposed and sharp where the lens shows something."""
    grain = np.random.default_rng(0).integers(90, 170, (48, 64, 1)).astype(np.uint8)
    image = np.repeat(grain, 3, axis=2)
    assert FISHEYE.usable is not None
    image[~FISHEYE.usable] = 0
    assert _look(0, image, PLAIN).is_badly_exposed
    assert not _look(0, image, FISHEYE).is_badly_exposed


def write_transforms(folder: Path) -> Path:
    """Three posed pictures of the plain camera."""
    frames = [
        {"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(3)
    ]
    for frame in frames:
        written(folder / str(frame["file_path"]), np.tile(np.arange(64) % 2 == 0, (48, 1)))
    values = {"w": 64, "h": 48, "fl_x": 50.0, "fl_y": 50.0, "cx": 32.0, "cy": 24.0}
    (folder / "transforms.json").write_text(json.dumps({**values, "frames": frames}))
    return folder


def written(path: Path, usable: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), usable.astype(np.uint8) * 255)
    return path


def test_one_mask_for_all_frames(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "scene")
    plain = open_recording(folder)
    width, height = plain.infos[0].camera.size
    usable = np.ones((height, width), bool)
    usable[-3:] = False
    file = written(tmp_path / "mask.png", usable)
    frames = list(open_recording(folder, RecordingOptions(mask=str(file))))
    assert len(frames) == len(plain)
    for frame in frames:
        np.testing.assert_array_equal(frame.camera.usable, usable)
    assert frames[0].camera is frames[1].camera  # worked out once


def test_a_mask_changes_nothing_else_of_a_recording(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "scene")
    plain = open_recording(folder)
    file = written(tmp_path / "mask.png", body().usable)
    masked = open_recording(folder, RecordingOptions(mask=str(file)))
    for name in set(Recording.__annotations__) - {"masks"}:
        assert getattr(masked, name) == getattr(plain, name), name
    assert not masked.metric and not plain.masks
    again = without_holdout(masked, 2)
    assert again.masks == masked.masks != ""  # by which structure from motion is not gone on with
    written(file, np.roll(body().usable, 1, axis=0))
    other = open_recording(folder, RecordingOptions(mask=str(file)))
    config = SfmConfig()
    assert fingerprint(other, config, 0) != fingerprint(masked, config, 0)


@pytest.mark.parametrize("name", ["{name}", "{name}.png", "{stem}.png", "deep/{name}"])
def test_a_folder_of_masks(tmp_path: Path, name: str) -> None:
    """Named like the image, with any ending or one more, in its folder or in none."""
    written(tmp_path / "masks" / name.format(name="a.jpg", stem="a"), body().usable)
    masks = Masks(tmp_path / "masks")
    found = masks.masked(PLAIN, "deep/a.jpg" if name.startswith("deep") else "images/a.jpg").mask
    assert found is not None
    assert (found.usable == body().usable).mean() > 0.99  # a JPEG blurs
    assert masks.masked(PLAIN, "images/b.jpg").mask is None
    with pytest.raises(RecordingError, match="one image for all frames"):
        masks.masked(PLAIN)  # as a node has it, whose images have no names


def test_masks_that_a_transforms_json_names(tmp_path: Path) -> None:
    """One more of the user's leaves out what either leaves out."""
    folder = write_transforms(tmp_path / "scene")
    file = folder / "transforms.json"
    data = json.loads(file.read_text())
    for frame in data["frames"][:2]:
        frame["mask_path"] = "masks/hood.png"
    file.write_text(json.dumps(data))
    written(folder / "masks" / "hood.png", body().usable)
    recording = open_recording(folder)
    assert "1 of 3 images have no mask: used whole" in recording.notes
    assert not recording.metric and recording.masks
    first, _, last = (frame.camera.usable for frame in recording)
    assert first is not None and last is None
    np.testing.assert_array_equal(first, body().usable)
    left = np.ones((48, 64), bool)
    left[:, :9] = False
    both = open_recording(folder, RecordingOptions(mask=str(written(tmp_path / "left.png", left))))
    first, _, last = (frame.camera.usable for frame in both)
    assert first is not None and last is not None
    np.testing.assert_array_equal(first, body().usable & left)
    np.testing.assert_array_equal(last, left)


def test_a_conversion_keeps_masks_or_says_that_they_are_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_transforms(tmp_path / "scene")
    mask = ["--mask", str(written(tmp_path / "mask.png", body().usable))]
    assert (
        run(["convert", str(folder), "-o", str(tmp_path / "again"), "--to", "transforms", *mask])
        == 0
    )
    for frame in open_recording(tmp_path / "again"):
        np.testing.assert_array_equal(frame.camera.usable, body().usable)
    assert "no masks" not in capsys.readouterr().err
    assert run(["convert", str(folder), "-o", str(tmp_path / "bag"), *mask]) == 0
    assert "no masks" in capsys.readouterr().err


def test_masks_of_no_use_say_so(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "scene")
    other = written(tmp_path / "other" / "nothing_alike.png", body().usable)
    black = written(tmp_path / "black.png", np.zeros((48, 64), bool))
    flat = written(tmp_path / "flat.png", np.ones((10, 64), bool))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for path, words in [
        (tmp_path / "absent.png", "no mask"), (tmp_path / "empty", "holds no mask"),
        (other.parent, "name of a frame"), (black, "black"), (flat, "same shape"),
        (broken, "broken.png"),
    ]:  # fmt: skip
        with pytest.raises(CrossfireError, match=words):
            list(open_recording(folder, RecordingOptions(mask=str(path))))
    with pytest.raises(RecordingError):
        Masks(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("model", "intrinsics", "distortion", "numbers", "lens"),
    [
        ("omni", [0.9, 400, 402, 319.5, 239.5], "radtan", [-0.2, 0.04, 2e-4, -1e-4],
         ("omni", (0.9, -0.2, 0.04, 2e-4, -1e-4))),
        ("omni", [0.9, 400, 402, 319.5, 239.5], "none", [], ("omni", (0.9,))),
        ("ds", [-0.17, 0.59, 400, 402, 319.5, 239.5], "none", [], ("ds", (-0.17, 0.59))),
        ("eucm", [0.6, 1.1, 400, 402, 319.5, 239.5], "none", [], ("eucm", (0.6, 1.1))),
        ("pinhole", [400, 402, 319.5, 239.5], "fov", [0.9], ("fov", (0.9,))),
    ],
)  # fmt: skip
def test_wide_lenses_of_kalibr(
    tmp_path: Path, model: str, intrinsics: list, distortion: str, numbers: list, lens: tuple
) -> None:
    camera = {
        "camera_model": model, "intrinsics": intrinsics, "distortion_model": distortion,
        "distortion_coeffs": numbers, "resolution": [640, 480],
    }  # fmt: skip
    file = tmp_path / "camchain.yaml"
    file.write_text(json.dumps({"cam0": camera}))
    found = read_calibration(str(file), (640, 480)).camera
    assert found == Camera(640, 480, 400.0, 402.0, 320.0, 240.0, *lens)
    file.write_text(json.dumps({"cam0": {**camera, "camera_model": "evenwider"}}))
    with pytest.raises(CalibrationError, match="evenwider"):
        read_calibration(str(file), (640, 480))


def test_a_cell_is_whole_only_if_all_of_its_pixels_are() -> None:
    usable = np.ones((12, 16), dtype=bool)
    usable[3, 7] = False  # the last pixel of its cell of four by four
    expected = np.ones((3, 4), dtype=bool)
    expected[0, 1] = False
    np.testing.assert_array_equal(whole_cells(usable, 4, 3), expected)


def test_clearance_is_measured_as_the_crow_flies() -> None:
    """From a single pixel that is left out, 3 to the right and 4 down: 5, not 7."""
    usable = np.ones((10, 12), dtype=bool)
    usable[2, 1] = False
    clearance = clearance_of(usable)
    assert clearance.dtype == np.float32
    assert clearance[6, 4] == pytest.approx(5.0)
    assert clearance[2, 1] == 0.0 and clearance[2, 6] == 5.0
