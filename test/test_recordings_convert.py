"""Recordings converted, and read back as what they were."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recording_samples import (
    CAMERAS,
    FRAME,
    RobotBag,
    assert_poses_close,
    picture,
    stamp,
    without,
)
from test_recordings_datasets import write_colmap_text, write_euroc, write_kapture, write_tum
from test_recordings_images import write_scene, write_transforms

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.recordings import Frame, RecordingOptions, open_recording
from crossfire_core.recordings.bag_reader import open_bag
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.convert import ConvertOptions, convert

LOSSLESS = ConvertOptions(images="png")


def assert_same(new: Frame, old: Frame) -> None:
    """Image, pose and what the camera does, whatever model describes it."""
    np.testing.assert_array_equal(old.image, new.image)
    assert_poses_close([new.world_from_camera], [old.world_from_camera])
    pixels = old.camera.pixel_grid(8, 6)
    np.testing.assert_allclose(new.camera.bearings(pixels), old.camera.bearings(pixels), atol=1e-12)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("images", ["png", "raw"])
def test_a_bag_from_a_bag(tmp_path: Path, storage: str, images: str) -> None:
    before = open_recording(RobotBag().write(tmp_path / "a"))
    made = convert(before, tmp_path / "b", "bag", ConvertOptions(storage=storage, images=images))
    after = open_recording(tmp_path / "b")
    assert (made.frames, made.posed, made.left_out) == (6, 6, 0)
    for old, new in zip(before, after, strict=True):
        assert (old.stamp_ns, old.camera) == (new.stamp_ns, new.camera)
        np.testing.assert_array_equal(old.image, new.image)
        assert_poses_close([new.world_from_camera], [old.world_from_camera])
    assert_poses_close([after.base_from_camera], [before.base_from_camera])
    assert after.odometry().stamps_ns.tolist() == before.odometry().stamps_ns.tolist()
    assert_poses_close(after.odometry().poses, before.odometry().poses)


def test_the_bag_serves_players_and_late_listeners(tmp_path: Path) -> None:
    convert(open_recording(RobotBag().write(tmp_path / "a")), tmp_path / "b", "bag")
    with open_bag(tmp_path / "b") as bag:
        assert set(bag.topics) == {
            "/camera/image_raw/compressed",
            "/camera/camera_info",
            "/tf_static",
            "/tf",
            "/odom",
            "/ground_truth/pose",
        }
    text = (tmp_path / "b" / "metadata.yaml").read_text()
    static = text[text.index("name: /tf_static") :]
    assert "durability: transient_local" in static or "durability: 1" in static


@pytest.mark.parametrize("model", ["none", "radtan", "equidistant"])
def test_transforms_from_a_bag(tmp_path: Path, model: str) -> None:
    before = open_recording(RobotBag(camera=CAMERAS[model]).write(tmp_path / "a"))
    made = convert(before, tmp_path / "b", "transforms", LOSSLESS)
    after = open_recording(tmp_path / "b")
    assert made.frames == len(after) == 6
    for old, new in zip(before, after, strict=True):
        assert_same(new, old)


@pytest.mark.parametrize("write", [write_scene, write_transforms, write_colmap_text])
def test_folders_become_bags_with_made_up_times(tmp_path: Path, write) -> None:
    before = open_recording(write(tmp_path / "a"))
    options = dataclasses.replace(LOSSLESS, rate_hz=4.0)
    convert(before, tmp_path / "b", "bag", options)
    after = open_recording(tmp_path / "b")
    stamps = [info.stamp_ns for info in after.infos]
    assert set(np.diff(stamps)) == {250_000_000}
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.image, new.image)
        assert_poses_close([new.world_from_camera], [old.world_from_camera])
    assert after.odometry() is None


@pytest.mark.parametrize(
    "write", [write_euroc, write_tum, write_kapture, partial(write_kapture, rig=True)]
)
@pytest.mark.parametrize("format", ["bag", "transforms"])
def test_data_sets_become_what_a_robot_or_a_trainer_reads(tmp_path: Path, write, format) -> None:
    before = open_recording(write(tmp_path / "a"))
    convert(before, tmp_path / "b", format, LOSSLESS)
    after = open_recording(tmp_path / "b")
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert_same(new, old)
    if format == "bag":
        stamps = [info.stamp_ns for info in before.infos]
        if stamps[0] > 0:  # kapture's here only count
            assert [info.stamp_ns for info in after.infos] == stamps
        assert_poses_close([after.base_from_camera], [before.base_from_camera])


def test_depth_travels_along(tmp_path: Path) -> None:
    depth = RecordingOptions(use_depth=True)
    before = open_recording(write_scene(tmp_path / "a"), depth)
    for name, format in (("b", "bag"), ("c", "transforms")):
        convert(before, tmp_path / name, format, LOSSLESS)
        after = open_recording(tmp_path / name, depth)
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(new.depth, old.depth, atol=1e-6)


def test_jpeg_is_near_the_original(tmp_path: Path) -> None:
    before = open_recording(RobotBag().write(tmp_path / "a"))
    convert(before, tmp_path / "b", "transforms")
    frame = next(iter(open_recording(tmp_path / "b")))
    assert np.abs(frame.image.astype(int) - picture(0)).mean() < 8


def test_images_without_pose_are_left_out_of_transforms_only(tmp_path: Path) -> None:
    def some(writer: BagWriter, index: int) -> None:
        if index in (1, 2, 3):
            writer.pose("/truth", stamp(index), "map", Pose.identity())

    path = RobotBag(parts=without("truth"), extra=some).write(tmp_path / "a")
    before = open_recording(path)
    made = convert(before, tmp_path / "b", "transforms")
    assert (made.frames, made.left_out) == (3, 3)
    made = convert(before, tmp_path / "c", "bag")
    assert (made.frames, made.posed) == (6, 3)
    unposed = open_recording(path, RecordingOptions(pose_topic="none"))
    with pytest.raises(RecordingError, match="no poses"):
        convert(unposed, tmp_path / "d", "transforms")


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(
        text.replace('"file_path": "001.png"', '"file_path": "001.png", "fl_x": 70.0')
    )
    several = open_recording(folder)
    with pytest.raises(CalibrationError, match="several calibrations"):
        convert(several, tmp_path / "b", "bag")
    convert(several, tmp_path / "c", "transforms")
    assert [i.camera.fx for i in open_recording(tmp_path / "c").infos] == [60, 70, 60, 60]
    rational = open_recording(RobotBag(camera=CAMERAS["rational"]).write(tmp_path / "d"))
    with pytest.raises(CalibrationError, match="rational"):
        convert(rational, tmp_path / "e", "transforms")
    assert not (tmp_path / "e").exists()


def test_nothing_is_written_over_and_failures_leave_nothing(tmp_path: Path) -> None:
    before = open_recording(write_kapture(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    with pytest.raises(RecordingError, match="exists already"):
        convert(before, tmp_path / "b", "bag")
    (tmp_path / "a" / "sensors" / "records_data" / "cam" / "3.png").write_bytes(b"no image")
    for format in ("bag", "transforms"):
        with pytest.raises(RecordingError, match="cannot be decoded"):
            convert(before, tmp_path / "c", format)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_progress_is_told(tmp_path: Path) -> None:
    told = []
    before = open_recording(RobotBag().write(tmp_path / "a"))
    convert(before, tmp_path / "b", "bag", on_progress=lambda *now: told.append(now))
    assert told == [(i, 6) for i in range(1, 7)]
    assert open_recording(tmp_path / "b").camera_frame == FRAME
