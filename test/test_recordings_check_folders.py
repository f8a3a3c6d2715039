"""Inspection of folders of photographs: lenses, conventions of poses, scale, jumps, corridors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from recording_samples import base_pose
from test_recordings_check import CAMERA, camera_at, codes, view

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.mask import Mask
from crossfire_core.recordings.check import CheckReport, check_recording
from crossfire_core.recordings.checks import calibration
from crossfire_core.recordings.checks.calibration import judge_centres
from crossfire_core.recordings.checks.conventions import axis_turns, describe
from crossfire_core.recordings.checks.images import Look, _look, without_border
from crossfire_core.recordings.checks.motion import judge_motion, measure_motion
from crossfire_core.recordings.checks.pairs import match
from crossfire_core.recordings.lazy import FrameInfo

COUNT = 30
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
ROS_BODY = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


def taken(index: int) -> float:
    """When a photograph was taken, seconds."""
    return 0.15 * index


def write_photographs(
    folder: Path,
    written: Callable[[np.ndarray], np.ndarray] = lambda pose: pose @ OPENGL,
    zoom: Callable[[int], float] = lambda index: 1.0,
    shown: Callable[[int], float] = taken,
) -> Path:
    """Views of a wall with a transforms.json.

    Args:
        folder: for them.
        written: what becomes of ``world_from_camera``; by default what the format asks for.
        zoom: of each photograph's lens.
        shown: what a photograph shows, as the time of its view.
    """
    folder.mkdir()
    frames = []
    for index in range(COUNT):
        f = zoom(index)
        magnified = np.array([[f, 0, (1 - f) * 159.5], [0, f, (1 - f) * 119.5]])
        image = cv2.warpAffine(view(shown(index)), magnified, CAMERA.size)
        cv2.imwrite(str(folder / f"{index:03d}.jpg"), image[..., ::-1])
        entry = {"file_path": f"{index:03d}.jpg", "fl_x": CAMERA.fx * f, "fl_y": CAMERA.fy * f}
        pose = written(camera_at(taken(index)).matrix())
        frames.append({**entry, "transform_matrix": pose.tolist()})
    data = {"w": CAMERA.width, "h": CAMERA.height, "cx": 160.0, "cy": 120.0, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(data))
    return folder


def text_of(report: CheckReport, code: str) -> str:
    """What one finding says."""
    return next(finding.text for finding in report.findings if finding.code == code)


def test_photographs_of_two_lenses_are_each_judged_by_their_own(tmp_path: Path) -> None:
    report = check_recording(
        write_photographs(tmp_path / "a", zoom=lambda index: 1.6 if index % 2 else 1.0)
    )
    assert "calibration" in codes(report, "good"), report.verdict
    assert report.figures["epipolar_error_px"] < 1.0
    assert report.usable


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda pose: pose, "x right, y up, z backward (OpenGL's axes)"),
        (lambda pose: pose @ ROS_BODY.T @ OPENGL, "x forward, y left, z up (a ROS body's"),
        (lambda pose: np.linalg.inv(pose) @ OPENGL, "from the world to the camera"),
    ],
)
def test_another_convention_of_poses_is_an_error_that_names_it(
    tmp_path: Path, written: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    report = check_recording(write_photographs(tmp_path / "a", written))
    assert "pose_convention" in codes(report, "error"), report.verdict
    assert words in text_of(report, "pose_convention")
    assert "tf" not in text_of(report, "pose_convention")


def test_poses_of_other_images_are_an_error(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(COUNT)
    report = check_recording(
        write_photographs(tmp_path / "a", shown=lambda index: taken(int(order[index])))
    )
    assert codes(report, "error") & {"epipolar"}, report.verdict
    assert "tf from base to camera" not in text_of(report, "epipolar")


def test_lengths_of_unknown_scale_are_no_metres(tmp_path: Path) -> None:
    report = check_recording(write_photographs(tmp_path / "a"))
    assert "units over" in text_of(report, "motion")
    assert " m " not in text_of(report, "motion")
    assert "extent_units" in report.figures
    assert "extent_m" not in report.figures


def test_an_image_that_breaks_late_is_in_the_report(tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RecordingError("017.jpg cannot be decoded")

    monkeypatch.setattr(calibration, "measure_fit", broken)
    report = check_recording(write_photographs(tmp_path / "a"))
    assert text_of(report, "images") and not report.usable
    assert "017.jpg" in report.verdict


def infos(poses: Sequence[Pose | None], step_ns: int = 1) -> list[FrameInfo]:
    """Frames without images."""
    camera = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)
    return [FrameInfo(f"{i}", i * step_ns, camera, pose) for i, pose in enumerate(poses)]


@pytest.mark.parametrize("posed", [1, 3])
def test_too_few_posed_images_are_an_error(posed: int) -> None:
    frames = infos([base_pose(i) if i < posed else None for i in range(40)])
    (finding,) = judge_motion(measure_motion(frames, metric=True), frames)
    assert (finding.level, finding.code) == ("error", "frames")


@pytest.mark.parametrize(("step_ns", "jumps"), [(1, False), (100_000_000, True)])
def test_a_photographer_may_jump_but_a_video_may_not(step_ns: int, jumps: bool) -> None:
    away = Pose(np.eye(3), np.array([9.0, 0, 0]))
    frames = infos([base_pose(i) if i < 30 else away @ base_pose(i) for i in range(60)], step_ns)
    found = {f.code for f in judge_motion(measure_motion(frames, metric=True), frames)}
    assert ("pose_jump" in found) == jumps


def test_two_places_on_one_pose_are_an_error(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "a")
    data = json.loads((folder / "transforms.json").read_text())
    frames = data["frames"]
    for index in range(20, COUNT):  # as where a pose source stood still and the camera did not
        frames[index]["transform_matrix"] = frames[2]["transform_matrix"]
    noise = np.random.default_rng(1).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    other = cv2.resize(noise, CAMERA.size, interpolation=cv2.INTER_CUBIC)
    for index in range(20, COUNT):
        cv2.imwrite(str(folder / f"{index:03d}.jpg"), np.roll(other, 30 * index, axis=1))
    (folder / "transforms.json").write_text(json.dumps(data))
    report = check_recording(folder)
    assert "one_pose" in codes(report, "error"), report.verdict


def test_a_robot_that_stands_still_is_at_one_place(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "a", shown=lambda index: taken(min(index, 20)))
    data = json.loads((folder / "transforms.json").read_text())
    for frame in data["frames"][20:]:
        frame["transform_matrix"] = data["frames"][20]["transform_matrix"]
    (folder / "transforms.json").write_text(json.dumps(data))
    assert "one_pose" not in codes(check_recording(folder), "error")


def test_a_corridors_calibration_is_checked(data_dir: Path) -> None:
    report = check_recording(data_dir / "corridor_phone" / "mapping")
    assert "calibration" in codes(report, "good"), report.verdict
    assert 0.95 < report.figures["focal_scale"] < 1.05


@pytest.mark.parametrize("radius", [75, 100])
def test_the_black_around_a_round_image_is_no_fault_of_the_exposure(radius: int) -> None:
    x, y = np.meshgrid(np.arange(240), np.arange(180))
    inside = np.hypot(x - 119.5, y - 89.5) < radius
    looks = [look_at(np.where(inside, 90 + 5 * i, 2).astype(np.uint8)) for i in range(6)]
    assert (radius < 100) == looks[0].is_badly_exposed
    found, findings = without_border(looks)
    assert not any(look.is_badly_exposed for look in found)
    np.testing.assert_allclose([look.brightness for look in found], 90 + 5 * np.arange(6), atol=4)
    assert [f.code for f in findings] == ["border"] and "--mask" in findings[0].text
    rim = np.hypot(x - 119.5, y - 89.5) < radius + 30  # as far as a calibration goes
    partly = [look_at(np.where(inside, 90, 2).astype(np.uint8), Mask(rim)) for _ in range(6)]
    assert [f.code for f in without_border(partly)[1]] == ["border"]
    masked = [look_at(np.where(inside, 90, 2).astype(np.uint8), Mask(inside)) for _ in range(6)]
    assert without_border(masked) == (masked, [])


@pytest.mark.parametrize(("scale", "codes"), [(0.7, []), (1.0, []), (2.0, ["principal_point"])])
def test_a_calibration_of_another_size_shows_in_its_principal_point(scale, codes) -> None:
    """An intrinsics file that does not say its size is taken at the images'."""
    camera = Camera(320, 240, 260.0 * scale, 260.0 * scale, 160.0 * scale, 120.0 * scale)
    frames = [FrameInfo("0", 0, CAMERA, None), FrameInfo("1", 1, camera, None)]
    found = judge_centres(frames)
    assert [f.code for f in found] == codes
    assert all("(320, 240)" in f.text and "320x240" in f.text for f in found)


def test_a_dark_recording_has_no_border() -> None:
    looks = [look_at(np.full((180, 240), 3, np.uint8)) for _ in range(6)]
    assert without_border(looks)[1] == [] and looks[0].is_badly_exposed


def look_at(grey: np.ndarray, mask: Mask | None = None) -> Look:
    """A look at one grey image."""
    camera = Camera(240, 180, 200.0, 200.0, 120.0, 90.0, mask=mask)
    return _look(0, np.repeat(grey[..., None], 3, axis=2), camera)


def test_wide_lenses_are_matched_all_around() -> None:
    """Matches beyond 90 degrees to the axis count, and wrong ones do not."""
    lens = (0.012, -0.006, 0.001, -0.0002)
    camera = Camera(480, 480, 140.0, 141.0, 241.0, 238.0, "equidistant", lens)
    random = np.random.default_rng(4)
    points = random.normal(size=(1500, 3)) * [3.0, 3.0, 1.5]
    poses = [Pose.identity(), Pose.exp((0.5, -0.2, 0.3, 0.1, 0.2, -0.05))]
    pixels = np.stack([camera.project(pose.inverse().apply(points)) for pose in poses])
    inside = ((pixels > 0) & (pixels < 480)).all(axis=(0, 2))
    pixels = pixels[:, inside] + random.normal(0, 0.2, (2, inside.sum(), 2))
    names = random.normal(size=(inside.sum(), 128)).astype(np.float32)
    wrong = random.random(inside.sum()) < 0.2
    pixels[1, wrong] = random.uniform(60, 420, (wrong.sum(), 2))
    frames = [FrameInfo(str(i), i, camera, pose) for i, pose in enumerate(poses)]
    pair = match(0, 1, frames, {0: (pixels[0], names), 1: (pixels[1], names)})
    assert pair is not None
    angle = np.degrees(np.arccos(camera.bearings(pair.pixels[0])[:, 2]))
    assert angle.max() > 95 and (angle > 90).mean() > 0.1
    there = {tuple(p): bad for p, bad in zip(pixels[0], wrong, strict=True)}
    assert np.mean([there[tuple(p)] for p in pair.pixels[0]]) < 0.03


def test_the_turns_of_axes_are_the_24_of_a_cube() -> None:
    turns = {turn.tobytes() for turn in axis_turns()}
    assert len(turns) == 24
    assert "OpenCV's axes" in describe(np.eye(3), inverted=False)
    # right, down and forward as a body with x forward, y left and z up has them
    body = np.stack([[0, -1, 0], [0, 0, -1], [1, 0, 0]], axis=1).astype(float)
    assert "x forward, y left, z up" in describe(body, inverted=False)
