"""Bags written and read back, whole ones and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_samples import (
    BASE_FROM_CAMERA,
    CAMERA,
    CAMERAS,
    FRAME,
    IMAGE,
    INFO,
    ODOM,
    TRUTH,
    RobotBag,
    assert_poses_close,
    base_pose,
    picture,
    png,
    recorded_info,
    replaced,
    stamp,
    without,
)

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import RecordingOptions, bag, open_recording
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.image_message import decode_image


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_reads_back_as_written(tmp_path: Path, storage: str, compressed: bool) -> None:
    path = RobotBag(storage=storage, compressed=compressed).write(tmp_path / "robot")
    recording = open_recording(path)
    frames = list(recording)
    assert len(recording) == len(frames) == 6
    assert (recording.name, recording.world_frame) == ("robot", "map")
    assert recording.pose_source == TRUTH
    assert [f.stamp_ns for f in frames] == [stamp(i) for i in range(6)]
    assert len({f.name for f in frames}) == 6
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))
        assert frame.depth is None
    assert_poses_close([recording.base_from_camera], [BASE_FROM_CAMERA])
    # Straight-line motion between the samples: interpolation is off by the turn alone.
    expected = [base_pose(i) @ BASE_FROM_CAMERA for i in range(6)]
    assert_poses_close([f.world_from_camera for f in frames], expected, metres=2e-5)


@pytest.mark.parametrize("model", CAMERAS)
def test_calibration_survives_every_distortion_model(tmp_path: Path, model: str) -> None:
    camera = CAMERAS[model]
    found = open_recording(RobotBag(camera=camera).write(tmp_path / "bag")).infos[0].camera
    assert found.size == camera.size
    pixels = camera.pixel_grid(8, 6)
    np.testing.assert_allclose(found.bearings(pixels), camera.bearings(pixels), atol=1e-9)


def test_a_single_storage_file_and_a_folder_without_metadata_open_too(tmp_path: Path) -> None:
    path = RobotBag().write(tmp_path / "bag")
    assert len(open_recording(path / "bag.mcap")) == 6
    (path / "metadata.yaml").unlink()
    assert len(open_recording(path)) == 6


def test_only_the_asked_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = open_recording(RobotBag(count=8).write(tmp_path / "bag"))
    decoded = []
    original = bag.colour_of
    monkeypatch.setattr(bag, "colour_of", lambda m, depth: decoded.append(m) or original(m, depth))
    infos = recording.infos
    assert len(infos) == 8
    assert not decoded
    frames = list(recording.frames([5, 2, 5]))
    assert [f.name for f in frames] == [infos[2].name, infos[5].name]
    assert len(decoded) == 2
    np.testing.assert_array_equal(frames[1].image, picture(5))


def test_stride_and_number_of_frames(tmp_path: Path) -> None:
    path = RobotBag(count=9).write(tmp_path / "bag")
    strided = open_recording(path, RecordingOptions(stride=4))
    assert [i.stamp_ns for i in strided.infos] == [stamp(i) for i in (0, 4, 8)]
    few = open_recording(path, RecordingOptions(max_frames=3))
    assert [i.stamp_ns for i in few.infos] == [stamp(i) for i in (0, 4, 8)]


def test_odometry_is_read_from_its_topic_and_from_tf(tmp_path: Path) -> None:
    by_topic = open_recording(RobotBag().write(tmp_path / "a")).odometry()
    by_tf = open_recording(RobotBag(parts=without("odom")).write(tmp_path / "b")).odometry()
    for odometry in (by_topic, by_tf):
        assert odometry is not None
        assert len(odometry) == 12
        pose = odometry.at(stamp(2.25))
        assert pose is not None
        assert_poses_close([pose], [base_pose(2.25)])
    none = RobotBag(parts=without("odom", "tf")).write(tmp_path / "c")
    assert open_recording(none).odometry() is None


def test_of_several_topics_of_odometry_the_named_or_the_usual_one_is_taken(tmp_path: Path) -> None:
    """The wheels' topic carries a frame of its own, turned and 0.3 m ahead of the base."""
    ahead = Pose.exp((0.3, 0.0, 0.1, 0.0, 0.0, 0.5))
    moved = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.0))

    def wheels(bag: BagWriter, index: int) -> None:
        if index == 0:
            bag.transforms(stamp(0), [("base_link", "wheels", ahead)], static=True)
        there = moved @ base_pose(index) @ ahead
        bag.odometry("/wheels", stamp(index), "odom", "wheels", there)

    path = RobotBag(extra=wheels, parts=without("tf")).write(tmp_path / "bag")
    usual = open_recording(path).odometry()
    named = open_recording(path, RecordingOptions(odom_topic="/wheels")).odometry()
    assert usual is not None and named is not None
    assert_poses_close([usual.at(stamp(2.25))], [base_pose(2.25)])
    assert_poses_close([named.at(stamp(2))], [moved @ base_pose(2)])
    with pytest.raises(RecordingError, match="the bag has: /odom, /wheels"):
        open_recording(path, RecordingOptions(odom_topic="/nothing")).odometry()


def test_no_topic_of_odometry_is_chosen_where_none_is_usual(tmp_path: Path) -> None:
    def two(bag: BagWriter, index: int) -> None:
        for name in ("/wheels", "/visual"):
            bag.odometry(name, stamp(index), "odom", "base_link", base_pose(index))

    path = RobotBag(extra=two, parts=without("odom", "tf")).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match=r"several topics of odometry: /(wheels|visual), /"):
        open_recording(path).odometry()


def test_odometry_alone_gives_the_poses_when_there_is_no_other(tmp_path: Path) -> None:
    path = RobotBag(parts=without("truth")).write(tmp_path / "bag")
    recording = open_recording(path)
    assert (recording.pose_source, recording.world_frame) == (ODOM, "odom")
    found = recording.infos[3].world_from_camera
    assert_poses_close([found], [base_pose(3) @ BASE_FROM_CAMERA], metres=2e-5)


def test_poses_from_tf_by_name(tmp_path: Path) -> None:
    path = RobotBag().write(tmp_path / "bag")
    recording = open_recording(path, RecordingOptions(pose_topic="tf:odom:base_link"))
    assert recording.world_frame == "odom"
    found = recording.infos[3].world_from_camera
    assert_poses_close([found], [base_pose(3) @ BASE_FROM_CAMERA], metres=2e-5)


@pytest.mark.parametrize("name", ["tf:odom", "tf::base_link", "tf:map:base_link", "/nothing"])
def test_a_pose_source_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = RobotBag().write(tmp_path / "bag")
    with pytest.raises(RecordingError, match=r"tf|--pose-topic"):
        open_recording(path, RecordingOptions(pose_topic=name))


def test_two_sources_of_poses_are_listed(tmp_path: Path) -> None:
    def second(writer: BagWriter, index: int) -> None:
        writer.pose("/slam/pose", stamp(index), "map", base_pose(index))

    path = RobotBag(extra=second).write(tmp_path / "bag")
    with pytest.raises(
        RecordingError, match=r"2 sources of poses: /truth, /slam/pose.*--pose-topic"
    ):
        open_recording(path)
    chosen = open_recording(path, RecordingOptions(pose_topic="/slam/pose"))
    assert chosen.pose_source == "/slam/pose"


def test_a_goal_is_not_a_pose(tmp_path: Path) -> None:
    def goal(writer: BagWriter, index: int) -> None:
        writer.pose("/goal_pose", stamp(index), "map", base_pose(index))

    assert open_recording(RobotBag(extra=goal).write(tmp_path / "bag")).pose_source == TRUTH


def test_two_image_topics_are_listed(tmp_path: Path) -> None:
    def second(writer: BagWriter, index: int) -> None:
        writer.image("/other/image_raw", stamp(index), FRAME, picture(index))

    path = RobotBag(extra=second).write(tmp_path / "bag")
    with pytest.raises(
        RecordingError, match=r"2 topics of images.*/other/image_raw.*--image-topic"
    ):
        open_recording(path)
    assert len(open_recording(path, RecordingOptions(image_topic=IMAGE))) == 6


def test_the_compressed_copy_of_a_topic_is_no_second_camera(tmp_path: Path) -> None:
    def copy(writer: BagWriter, index: int) -> None:
        writer.compressed_image(f"{IMAGE}/compressed", stamp(index), FRAME, b"not read")

    recording = open_recording(RobotBag(extra=copy).write(tmp_path / "bag"))
    assert len(list(recording)) == 6


def test_poses_can_be_left_out(tmp_path: Path) -> None:
    path = RobotBag(parts=without("truth", "odom", "tf")).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match="no poses"):
        open_recording(path)
    recording = open_recording(path, RecordingOptions(require_poses=False))
    assert all(i.world_from_camera is None for i in recording.infos)
    ignored = open_recording(
        RobotBag().write(tmp_path / "posed"), RecordingOptions(pose_topic="none")
    )
    assert all(i.world_from_camera is None for i in ignored.infos)
    assert ignored.pose_source == ""


def test_no_camera_info(tmp_path: Path) -> None:
    path = RobotBag(parts=without("info")).write(tmp_path / "bag")
    with pytest.raises(CalibrationError, match="record the camera_info topic"):
        open_recording(path)


def test_no_static_tf_asks_whose_poses_they_are(tmp_path: Path) -> None:
    path = RobotBag(parts=without("static", "odom", "tf")).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match=f"--base-frame {FRAME}"):
        open_recording(path)
    recording = open_recording(path, RecordingOptions(base_frame=FRAME))
    assert_poses_close([recording.infos[2].world_from_camera], [base_pose(2)], metres=2e-5)
    assert_poses_close([recording.base_from_camera], [Pose.identity()])
    assert recording.base_frame == FRAME


def test_poses_of_a_frame_that_tf_lacks_may_be_the_cameras_own(tmp_path: Path) -> None:
    """As a motion capture or a SLAM names its body."""

    def follow(writer: BagWriter, index: int) -> None:
        now = stamp(index)
        writer.odometry("/slam", now, "map", "camera_link", base_pose(index))

    parts = without("static", "truth", "odom", "tf")
    path = RobotBag(parts=parts, extra=follow).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match=f"those of camera_link.*--base-frame {FRAME}"):
        open_recording(path)
    recording = open_recording(path, RecordingOptions(base_frame=FRAME))
    assert_poses_close([i.world_from_camera for i in recording.infos], map(base_pose, range(6)))
    assert recording.odometry() is None  # of a frame that nothing joins to the camera


def test_an_unknown_base_frame(tmp_path: Path) -> None:
    path = RobotBag().write(tmp_path / "bag")
    with pytest.raises(RecordingError, match="no tf from chassis"):
        open_recording(path, RecordingOptions(base_frame="chassis"))


def test_a_chain_of_static_transforms(tmp_path: Path) -> None:
    mast = Pose.exp((0.0, 0.0, 1.0, 0.1, 0.0, 0.2))

    def chain(writer: BagWriter, index: int) -> None:
        if index == 0:
            items = [("mast", FRAME, BASE_FROM_CAMERA), ("base_link", "mast", mast)]
            writer.transforms(stamp(0), items, static=True)

    path = RobotBag(parts=without("static"), extra=chain).write(tmp_path / "bag")
    assert_poses_close([open_recording(path).base_from_camera], [mast @ BASE_FROM_CAMERA])


def test_zero_k(tmp_path: Path) -> None:
    def uncalibrated(writer: BagWriter, index: int) -> None:
        good = recorded_info(writer, CAMERA)
        writer.write(INFO, stamp(index), replaced(writer, good, k=np.zeros(9)))

    path = RobotBag(parts=without("info"), extra=uncalibrated).write(tmp_path / "bag")
    with pytest.raises(CalibrationError, match=r"uncalibrated.*calibrate it"):
        open_recording(path)


def test_a_calibration_that_changes(tmp_path: Path) -> None:
    def other(writer: BagWriter, index: int) -> None:
        camera = CAMERA if index < 3 else CAMERA.resized(128, 96)
        writer.camera_info(INFO, stamp(index), FRAME, camera)

    path = RobotBag(parts=without("info"), extra=other).write(tmp_path / "bag")
    with pytest.raises(CalibrationError, match="changes during the recording"):
        open_recording(path)


def test_region_of_interest_and_binning(tmp_path: Path) -> None:
    full = Camera(256, 200, 240.0, 244.0, 140.0, 100.0)

    def cropped(writer: BagWriter, index: int) -> None:
        good = recorded_info(writer, full)
        roi = replaced(writer, good.roi, x_offset=10, y_offset=4, width=128, height=96)
        message = replaced(writer, good, roi=roi, binning_x=2, binning_y=2)
        writer.write(INFO, stamp(index), message)

    path = RobotBag(parts=without("info"), extra=cropped).write(tmp_path / "bag")
    camera = open_recording(path).infos[0].camera
    assert camera.size == (64, 48)
    assert (camera.fx, camera.cx, camera.cy) == (120.0, 65.0, 48.0)


def test_images_of_another_size_than_the_calibration(tmp_path: Path) -> None:
    path = RobotBag(image_size=(32, 32)).write(tmp_path / "bag")
    with pytest.raises(CalibrationError, match=r"32x32.*64x48"):
        list(open_recording(path))


def test_images_made_smaller_scale_their_calibration(tmp_path: Path) -> None:
    recording = open_recording(RobotBag(image_size=(32, 24)).write(tmp_path / "bag"))
    camera = next(iter(recording)).camera
    # Pixel centres at .5: everything halves, also the principal point.
    assert (camera.size, camera.fx, camera.fy) == ((32, 24), 30.0, 30.5)
    assert (camera.cx, camera.cy) == (16.25, 12.0)
    assert any("32x24" in note and "64x48" in note for note in recording.notes)


def test_some_nan_poses_are_left_out_and_counted(tmp_path: Path) -> None:
    def lost(writer: BagWriter, index: int) -> None:
        bad = Pose(np.eye(3), np.array([np.nan, 0.0, 0.0]))
        writer.pose(TRUTH, stamp(index) + 1, "map", bad)

    recording = open_recording(RobotBag(extra=lost).write(tmp_path / "bag"))
    assert recording.notes == (
        f"6 of 18 poses on {TRUTH} are NaN or have a zero quaternion: left out",
    )
    assert all(i.world_from_camera.is_finite() for i in recording.infos)


def test_only_nan_poses(tmp_path: Path) -> None:
    def lost(writer: BagWriter, index: int) -> None:
        writer.pose(TRUTH, stamp(index), "map", Pose(np.eye(3), np.full(3, np.nan)))

    path = RobotBag(parts=without("truth"), extra=lost).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match="all 6 poses on /truth are NaN"):
        open_recording(path)


def test_poses_from_another_time(tmp_path: Path) -> None:
    def late(writer: BagWriter, index: int) -> None:
        writer.pose(TRUTH, stamp(index + 1000), "map", base_pose(index))

    path = RobotBag(parts=without("truth"), extra=late).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match="do not overlap in time"):
        open_recording(path)


def test_images_without_a_pose_near_them_stay_without(tmp_path: Path) -> None:
    def ends_early(writer: BagWriter, index: int) -> None:
        if index < 4:
            writer.pose(TRUTH, stamp(index), "map", base_pose(index))

    path = RobotBag(parts=without("truth"), extra=ends_early).write(tmp_path / "bag")
    recording = open_recording(path)
    assert [i.world_from_camera is not None for i in recording.infos] == [True] * 4 + [False] * 2
    assert recording.notes == ("2 of 6 images have no pose near their time",)


def test_images_with_one_stamp_keep_the_last(tmp_path: Path) -> None:
    def again(writer: BagWriter, index: int) -> None:
        writer.image(IMAGE, stamp(0), FRAME, picture(index + 20))

    recording = open_recording(RobotBag(count=3, extra=again).write(tmp_path / "bag"))
    assert len(list(recording)) == 3
    assert "repeat the stamp" in recording.notes[0]


def test_stamps_out_of_order_come_out_in_order(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    order = [0, 3, 1, 2]
    with BagWriter(path) as writer:
        for time, index in enumerate(order):
            rows = picture(index)
            message = writer.message(
                "sensor_msgs/msg/Image",
                header=writer.header(stamp(index), FRAME),
                height=48,
                width=64,
                encoding="rgb8",
                is_bigendian=0,
                step=192,
                data=rows.ravel(),
            )
            writer.write(IMAGE, stamp(time), message)
            writer.camera_info(INFO, stamp(time), FRAME, CAMERA)
    recording = open_recording(path, RecordingOptions(require_poses=False))
    for index, frame in enumerate(recording):
        assert frame.stamp_ns == stamp(index)
        np.testing.assert_array_equal(frame.image, picture(index))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_a_file_cut_short(tmp_path: Path, storage: str, share: float) -> None:
    path = RobotBag(count=12, storage=storage).write(tmp_path / "bag")
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RecordingError, match=r"cannot read bag|no images") as caught:
        list(open_recording(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: {version: 99}"])
def test_metadata_that_is_none(tmp_path: Path, text: str) -> None:
    path = RobotBag().write(tmp_path / "bag")
    (path / "metadata.yaml").write_text(text)
    with pytest.raises(RecordingError, match="cannot read bag"):
        open_recording(path)


def test_a_compressed_image_that_is_cut_short(tmp_path: Path) -> None:
    def broken(writer: BagWriter, index: int) -> None:
        writer.compressed_image("/c/image/compressed", stamp(index), FRAME, b"\xff\xd8\xff\xe0 no")

    path = RobotBag(extra=broken).write(tmp_path / "bag")
    with pytest.raises(RecordingError, match=r"no image could be read from.*cut short"):
        open_recording(path, RecordingOptions(image_topic="/c/image/compressed"))


def spoiled(writer: BagWriter, message: Any, number: int) -> Any:
    """The images of a driver that has its hiccups: empty, cut, of another size."""
    if number == 0:
        return replaced(writer, message, data=np.zeros(0, np.uint8))
    if number == 3:
        return replaced(writer, message, data=message.data[: len(message.data) // 2])
    if number == 4:
        small = picture(number, (32, 24))
        if hasattr(message, "format"):
            return replaced(writer, message, data=np.frombuffer(png(small), np.uint8))
        return replaced(writer, message, width=32, height=24, step=96, data=small.ravel())
    return message


@pytest.mark.parametrize("compressed", [False, True])
def test_bad_images_of_a_bag_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    count = iter(range(7))
    write = BagWriter.write

    def hiccups(self: BagWriter, topic: str, stamp_ns: int, message: Any) -> None:
        is_image = topic.startswith(IMAGE)
        write(self, topic, stamp_ns, spoiled(self, message, next(count)) if is_image else message)

    monkeypatch.setattr(BagWriter, "write", hiccups)
    recording = open_recording(RobotBag(count=7, compressed=compressed).write(tmp_path / "bag"))
    frames = list(recording)
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in (1, 2, 5, 6)]
    np.testing.assert_array_equal(frames[2].image, picture(5))
    unread, small = recording.notes
    assert unread.startswith("2 of 7 images on /cam/image_raw") and "left out" in unread
    assert small.startswith("1 of 7 images on /cam/image_raw") and "32x24" in small


def test_a_step_of_zero_means_rows_without_padding(tmp_path: Path) -> None:
    pixels = picture(3)
    fields = ("rgb8", *pixels.shape[:2], 0, False, pixels.tobytes())
    np.testing.assert_array_equal(decode_image(*fields), pixels)


def test_a_file_that_the_metadata_lists_is_missed_by_its_name(tmp_path: Path) -> None:
    path = RobotBag(count=2).write(tmp_path / "bag")
    next(path.glob("*.mcap")).rename(path / "renamed.mcap")
    with pytest.raises(RecordingError, match=r"has no bag.*\.mcap, which its metadata.yaml lists"):
        open_recording(path)


def test_depth_beside_colour(tmp_path: Path) -> None:
    def depth(writer: BagWriter, index: int) -> None:
        if index != 2:  # one is missing
            metres = np.full((48, 64), 1.0 + index, np.float32)
            metres[0, 0] = 0.0
            writer.depth("/cam/depth/image", stamp(index) + 5_000_000, FRAME, metres)

    path = RobotBag(extra=depth).write(tmp_path / "bag")
    frames = list(open_recording(path, RecordingOptions(use_depth=True)))
    assert frames[2].depth is None
    assert frames[4].depth[10, 10] == 5.0
    assert frames[4].depth[0, 0] == 0.0
    assert next(iter(open_recording(path))).depth is None


def test_depth_of_another_camera_is_registered(tmp_path: Path) -> None:
    depth_camera = Camera(32, 24, 30.0, 30.0, 16.0, 12.0)
    aside = Pose(np.eye(3), np.array([0.5, 0.0, 0.0]))

    def depth(writer: BagWriter, index: int) -> None:
        if index == 0:
            items = [("base_link", FRAME, BASE_FROM_CAMERA), (FRAME, "depth_frame", aside)]
            writer.transforms(stamp(0), items, static=True)
        wall = np.full((24, 32), 2.0, np.float32)
        writer.depth("/depth/image", stamp(index), "depth_frame", wall)
        writer.camera_info("/depth/camera_info", stamp(index), "depth_frame", depth_camera)

    camera = CAMERAS["none"]
    path = RobotBag(camera=camera, parts=without("static"), extra=depth).write(tmp_path / "bag")
    frame = next(iter(open_recording(path, RecordingOptions(use_depth=True))))
    rows, columns = np.nonzero(frame.depth)
    assert set(np.unique(frame.depth)) == {0.0, 2.0}
    # The wall fills x from -16/30*2+0.5 m on, which is this column of the colour image.
    first = camera.project([[-16 / 30 * 2 + 0.5 + 2 / 30, 0.0, 2.0]])[0, 0]
    assert columns.min() == pytest.approx(first, abs=1.5)
    assert len(rows) > 300


def test_a_bag_is_not_written_over(tmp_path: Path) -> None:
    path = RobotBag().write(tmp_path / "bag")
    with pytest.raises(RecordingError, match="exists already"):
        RobotBag().write(path)


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "bag") as writer:
        writer.pose(TRUTH, stamp(0), "map", base_pose(0))
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
