"""Bags as they come: foreign topics, old names, video, depth under any name, broken messages."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer as McapWriter
from recording_samples import (
    CAMERA,
    CAMERAS,
    FRAME,
    IMAGE,
    ODOM,
    RobotBag,
    assert_poses_close,
    jpeg,
    picture,
    png,
    stamp,
    without,
)  # fmt: skip
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_recordings_datasets import write_euroc, write_pictures
from test_recordings_image_message import message as fields_of

from crossfire_core.errors import RecordingError
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.bag_reader import POSE_TYPES, TF_TYPE, open_bag
from crossfire_core.recordings.bag_writer import BagWriter
from crossfire_core.recordings.image_message import (
    PixelDepth,
    decode_compressed,
    decode_compressed_depth,
    decode_image,
)
from crossfire_core.recordings.messages import colour_of, depth_of, message_pose

RGB = picture(3)
GREY = RGB[..., 0]


def again(
    source: Path, target: Path, change: Any = None, extra: Any = None, profile: str = "ros2"
) -> Path:
    """An mcap written anew, each schema's (name, encoding, text) changed by a function."""
    change = change or (lambda name, encoding, text: (name, encoding, text))
    with open_bag(source) as bag, target.open("wb") as stream:
        storage = bag._storage
        writer = McapWriter(stream)
        writer.start(profile=profile)
        channels = {}
        for topic in storage.topics:
            name, encoding, text = change(topic.msgtype, f"ros2{topic.language}", topic.definition)
            schema = writer.register_schema(name, encoding, text.encode())
            channels[topic.name] = writer.register_channel(topic.name, "cdr", schema)
        for topic, time, raw in storage.messages([t.name for t in storage.topics], None, None):
            writer.add_message(channels[topic], time, raw, time)
        if extra:
            extra(writer)
        writer.finish()
    return target


def foreign(encoding: str, text: bytes) -> Any:
    """A topic of another system's beside the robot's own."""

    def write(writer: McapWriter) -> None:
        schema = writer.register_schema("foxglove.SceneUpdate", encoding, text)
        format = "cdr" if encoding.startswith("ros2") else encoding
        channel = writer.register_channel("/scene", format, schema)
        writer.add_message(channel, stamp(1), b"\x01\x02", stamp(1))

    return write


@pytest.mark.parametrize(
    ("encoding", "text", "said"),
    [
        ("protobuf", b"\xff\xfe\x00binary", "protobuf"),
        ("jsonschema", b"{}", "jsonschema"),
        ("ros2msg", b"this is ( no definition", "definition is broken"),
        ("ros2msg", b"\xff\xfe", "definition is broken"),
    ],
)
def test_a_topic_that_cannot_be_read_is_passed_over_and_named(
    tmp_path: Path, encoding: str, text: bytes, said: str
) -> None:
    bag = RobotBag().write(tmp_path / "bag")
    path = again(bag, tmp_path / "a.mcap", extra=foreign(encoding, text))
    recording = open_recording(path)
    np.testing.assert_array_equal(next(iter(recording)).image, picture(0))
    assert len(recording.notes) == 1
    assert "/scene is passed over" in recording.notes[0] and said in recording.notes[0]


def test_a_broken_definition_of_a_usual_type_does_no_harm(tmp_path: Path) -> None:
    bag = RobotBag().write(tmp_path / "bag")

    def spoil(name: str, encoding: str, text: str) -> tuple[str, str, str]:
        return name, encoding, "int32 ( nonsense" if "Odometry" in name else text

    recording = open_recording(again(bag, tmp_path / "a.mcap", spoil))
    odometry = recording.odometry()
    assert odometry is not None and len(odometry) == 12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foxglove_msgs/msg/CompressedVideo", "video on /cam/image_raw"),
        ("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "video on /cam/image_raw"),
        ("sensor_msgs/msg/Other", "no images: record sensor_msgs/Image"),
        ("theora_image_transport/msg/Packet", "/cam/image_raw is a theora_image_transport"),
        ("foxglove_msgs/msg/CompressedImage", "/cam/image_raw is a foxglove_msgs"),
    ],
)
def test_what_a_bag_has_instead_of_images_is_named(tmp_path: Path, name: str, said: str) -> None:
    bag = RobotBag(count=1).write(tmp_path / "bag")

    def renamed(old: str, encoding: str, text: str) -> tuple[str, str, str]:
        return (name, encoding, "uint8 data") if old.endswith("/Image") else (old, encoding, text)

    with pytest.raises(RecordingError, match=said):
        open_recording(again(bag, tmp_path / "a.mcap", renamed))


def test_a_bag_whose_images_are_another_systems_says_so(tmp_path: Path) -> None:
    bag = RobotBag(count=1).write(tmp_path / "bag")

    def protobuf(old: str, encoding: str, text: str) -> tuple[str, str, str]:
        return ("foxglove.Raw", "protobuf", "") if old.endswith("/Image") else (old, encoding, text)

    with pytest.raises(RecordingError, match=r"no images.*/cam/image_raw is passed over.*protobuf"):
        open_recording(again(bag, tmp_path / "a.mcap", protobuf))


def test_type_names_of_the_first_ros_2(tmp_path: Path) -> None:
    bag = RobotBag().write(tmp_path / "bag")

    def old(name: str, encoding: str, text: str) -> tuple[str, str, str]:
        return name.replace("/msg/", "/"), encoding, text

    recording = open_recording(again(bag, tmp_path / "a.mcap", old))
    assert (len(recording), recording.pose_source) == (6, "/truth")
    assert recording.odometry() is not None


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_a_ros_1_bag_holds_the_same(tmp_path: Path, compression: str | None) -> None:
    bag = RobotBag(compressed=True).write(tmp_path / "bag")
    modern, old = (
        open_recording(bag),
        open_recording(as_ros_1(bag, tmp_path / "a.bag", compression)),
    )
    assert old.pose_source == modern.pose_source == "/truth"
    assert_poses_close([old.base_from_camera], [modern.base_from_camera])
    for a, b in zip(old, modern, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.stamp_ns, a.camera) == (b.stamp_ns, b.camera)
        assert b.world_from_camera is not None
        assert_poses_close([a.world_from_camera], [b.world_from_camera])
    first, second = old.odometry(), modern.odometry()
    assert first is not None and second is not None
    assert_poses_close(first.poses, second.poses)


def test_several_ros_1_bags_in_a_folder_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("a_0.bag", "a_1.bag"):
        (folder / name).write_bytes(b"")
    with pytest.raises(RecordingError, match="2 ROS 1 bags: name one of them"):
        open_recording(folder)


def as_ros_1(bag: Path, path: Path, compression: str | None) -> Path:
    """The same messages in a ROS 1 bag."""
    types = get_typestore(Stores.ROS1_NOETIC)
    types.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TF_TYPE))
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    with open_bag(bag) as source, writer:
        names = {topic.name: topic.msgtype for topic in source.topics.values()}
        opened = {n: writer.add_connection(n, kind, typestore=types) for n, kind in names.items()}
        for item in source.messages(list(names)):
            made = as_old(item.content, types)
            raw = types.serialize_ros1(made, names[item.topic])
            writer.write(opened[item.topic], item.key[0], bytes(raw))
    return path


def as_old(value: Any, types: Any) -> Any:
    """A message of ROS 2 as one of ROS 1, whose headers count and whose names are in capitals."""
    if isinstance(value, list):
        return [as_old(item, types) for item in value]
    if not hasattr(value, "__msgtype__"):
        return value
    fields = {k: as_old(v, types) for k, v in vars(value).items() if k != "__msgtype__"}
    wanted = types.types[value.__msgtype__]
    names = [n for n in wanted.__dataclass_fields__ if n != "__msgtype__"]
    return wanted(**{n: fields.get(n, fields.get(n.lower(), 0)) for n in names})


def test_the_calibration_may_lie_below_the_images(tmp_path: Path) -> None:
    """As AirSim names it; another camera beside it must not be asked about."""

    def calibrated(writer: BagWriter, index: int) -> None:
        for name, camera in (("front/Scene", CAMERA), ("rear/Scene", CAMERAS["none"])):
            writer.camera_info(f"/drone/{name}/camera_info", stamp(index), FRAME, camera)

    bag = RobotBag(
        count=2, parts=without("info"), image_topic="/drone/front/Scene", extra=calibrated
    ).write(tmp_path / "bag")
    recording = open_recording(bag, RecordingOptions(rectified=False))
    assert recording.infos[0].camera == CAMERA


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    euroc = write_euroc(tmp_path / "MH_05") / "mav0" / "cam0"
    photos = tmp_path / "photos"
    write_pictures(photos, ["a.jpg", "b.png"])
    for path, said in (
        (tmp_path / "drive.bag.active", "rosbag reindex"),
        (tmp_path / "walk.MP4", "it is a video"),
        (photos, "images alone: find their poses with COLMAP"),
        (euroc, "it is a part of"),
    ):
        path.mkdir(exist_ok=True) if path.suffix == "" else path.write_bytes(b"")
        with pytest.raises(RecordingError, match=said):
            open_recording(path)


def test_a_folder_of_recordings_names_them(tmp_path: Path) -> None:
    for name in ("mapping_bag", "query_bag"):
        RobotBag(count=1).write(tmp_path / "room" / name)
    with pytest.raises(RecordingError, match="in it lie mapping_bag, query_bag"):
        open_recording(tmp_path / "room")


def test_a_ros_1_recording_in_an_mcap_is_named(tmp_path: Path) -> None:
    bag = RobotBag(count=1).write(tmp_path / "bag")
    path = again(bag, tmp_path / "a.mcap", profile="ros1")
    with pytest.raises(RecordingError, match="ROS 1 recording in an mcap"):
        open_recording(path)


def test_an_mcap_of_no_profile_is_read(tmp_path: Path) -> None:
    bag = RobotBag(count=2).write(tmp_path / "bag")
    assert len(open_recording(again(bag, tmp_path / "a.mcap", profile=""))) == 2


def test_messages_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    def torn(writer: McapWriter) -> None:
        schema = writer.register_schema("nav_msgs/msg/Odometry", "ros2msg", b"")
        channel = writer.register_channel(ODOM, "cdr", schema)
        for index in range(3):
            writer.add_message(channel, stamp(index), b"\0\1\0\0torn", stamp(index))

    bag = RobotBag().write(tmp_path / "bag")
    recording = open_recording(again(bag, tmp_path / "a.mcap", extra=torn))
    assert any(f"3 of 15 messages on {ODOM} cannot be read" in note for note in recording.notes)


def test_times_of_recording_beyond_all_clocks_are_counted(tmp_path: Path) -> None:
    def late(writer: McapWriter) -> None:
        schema = writer.register_schema("nav_msgs/msg/Odometry", "ros2msg", b"")
        channel = writer.register_channel(ODOM, "cdr", schema)
        writer.add_message(channel, 2**63 + 5, b"\0\1\0\0", 2**63 + 5)

    bag = RobotBag().write(tmp_path / "bag")
    recording = open_recording(again(bag, tmp_path / "a.mcap", extra=late))
    assert any(f"1 of 13 messages on {ODOM}" in note for note in recording.notes)
    assert recording.odometry() is not None


# Colours of compressed images


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("pack", [jpeg, png])
def test_a_compressed_mosaic_becomes_colours(pattern: str, pack: Any) -> None:
    colour = {"r": 200, "g": 120, "b": 40}
    mosaic = np.zeros((48, 64), np.uint8)
    for position, name in enumerate(pattern):
        mosaic[position // 2 :: 2, position % 2 :: 2] = colour[name]
    ok, data = cv2.imencode(
        ".png" if pack is png else ".jpg", mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100]
    )
    assert ok
    for said in ("jpeg compressed", "jpeg compressed bgr8", "png compressed "):
        image = decode_compressed(data.tobytes(), f"bayer_{pattern}8; {said}")
        inside = image[4:-4, 4:-4].reshape(-1, 3).astype(int)
        assert np.abs(inside - [200, 120, 40]).max() <= 6


@pytest.mark.parametrize(
    "said", ["", "jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"]
)
def test_the_format_of_a_colour_image_changes_nothing(said: str) -> None:
    np.testing.assert_array_equal(decode_compressed(jpeg(RGB), said), decode_compressed(jpeg(RGB)))


def test_a_mosaic_that_the_encoder_made_colours_of_stays() -> None:
    found = decode_compressed(png(RGB), "bayer_rggb8; png compressed bgr8")
    np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("how", ["mono16", "png", "bayer_rggb16"])
def test_pixels_of_fewer_bits_in_sixteen(bits: int, how: str) -> None:
    flat = np.full((48, 64), 200, np.uint16)  # of 255
    flat[0, 0] = 255
    deep = (flat << (bits - 8)) | (1 if bits > 8 else 0)
    if how == "png":
        found = decode_compressed(png(deep), "mono16; png compressed ")
    else:
        found = decode_image(how, *fields_of(deep))
    assert (found[9, 9] == 200).all()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_an_encoding_that_names_its_bits_needs_no_bright_pixel(bits: int) -> None:
    dark = np.full((48, 64), 50 << (bits - 8), np.uint16)
    assert decode_image(f"mono{bits}", *fields_of(dark))[9, 9, 0] == 50
    assert decode_image(f"bayer_rggb{bits}", *fields_of(dark))[9, 9, 1] == 50


def test_a_dark_image_is_scaled_like_the_bright_ones(tmp_path: Path) -> None:
    def deep(writer: BagWriter, index: int) -> None:
        level = 4000 if index == 2 else 400  # of 4095
        writer._raw_image("/mono", stamp(index), FRAME, np.full((48, 64), level, "<u2"), "mono16")

    bag = RobotBag(count=3, parts=without("odom"), extra=deep).write(tmp_path / "bag")
    recording = open_recording(bag, RecordingOptions(image_topic="/mono"))
    assert [int(f.image[5, 5, 0]) for f in recording] == [400 // 16, 400 // 16, 4000 // 16]
    assert [int(f.image[5, 5, 0]) for f in recording.frames([0])] == [400 // 16]


def test_a_pixel_depth_only_grows() -> None:
    depth = PixelDepth()
    bright, dark = (np.full((2, 2), v, np.uint16) for v in (4095, 16))
    assert decode_image("mono16", *fields_of(bright), depth)[0, 0, 0] == 255
    assert decode_image("mono16", *fields_of(dark), depth)[0, 0, 0] == 1
    assert depth.bits == 12


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ("h264", b"\0\0\0\1gB"),
        ("hevc; something", b"x"),
        ("", b"\0\0\0\1\x67\x42\x00\x0a"),
        ("", b"\0\0\1\x67"),
    ],
)
def test_a_video_is_named(said: str, data: bytes) -> None:
    with pytest.raises(RecordingError, match="video"):
        decode_compressed(data, said)


# Depth


def test_compressed_inverse_depth_is_scaled_by_its_header() -> None:
    # compressed_depth_image_transport: raw = A / depth + B, with A and B in front of the PNG.
    depth = np.array([[0.5, 1.0, 2.0, 4.0]], np.float64).repeat(4, axis=0)
    scale, offset = 10100.0, -1009.0
    raw = np.rint(scale / depth + offset).astype(np.uint16)
    raw[0, 0] = 0  # unknown
    data = struct.pack("<iff", 0, scale, offset) + png(raw)
    found = decode_compressed_depth(data, "32FC1; compressedDepth png")
    assert found[0, 0] == 0.0
    np.testing.assert_allclose(found[1:], depth[1:], rtol=1e-3)
    millimetres = np.full((4, 4), 1250, np.uint16)
    plain = decode_compressed_depth(struct.pack("<iff", 0, 0, 0) + png(millimetres), "16UC1; png")
    np.testing.assert_allclose(plain, 1.25)
    with pytest.raises(RecordingError, match="RVL"):
        decode_compressed_depth(data, "16UC1; compressedDepth rvl")


def test_a_depth_camera_may_send_colours(tmp_path: Path) -> None:
    bag = RobotBag(count=2, image_topic="/depth_camera/image_raw").write(tmp_path / "bag")
    recording = open_recording(bag)
    np.testing.assert_array_equal(next(iter(recording)).image, picture(0))


def test_sixteen_bit_distances_are_depth_under_any_name(tmp_path: Path) -> None:
    def distances(writer: BagWriter, index: int) -> None:
        writer.depth("/tof/range_image", stamp(index), FRAME, np.full((48, 64), 2.5, np.float32))

    bag = RobotBag(count=2, extra=distances).write(tmp_path / "bag")
    recording = open_recording(bag, RecordingOptions(use_depth=True))
    frame = next(iter(recording))
    np.testing.assert_array_equal(frame.image, picture(0))
    assert frame.depth is not None and frame.depth[5, 5] == 2.5


def test_a_bag_of_depth_alone_says_so(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.depth("/tof/image", stamp(0), FRAME, np.full((48, 64), 2.5, np.float32))
    with pytest.raises(RecordingError, match=r"only images in the bag are depth: /tof/image"):
        open_recording(tmp_path / "bag")


def test_a_coloured_copy_of_depth_is_no_second_camera(tmp_path: Path) -> None:
    def coloured(writer: BagWriter, index: int) -> None:
        writer.image("/cam/depth/colorized", stamp(index), FRAME, picture(index + 9))

    recording = open_recording(RobotBag(count=2, extra=coloured).write(tmp_path / "bag"))
    np.testing.assert_array_equal(next(iter(recording)).image, picture(0))
    assert IMAGE in recording._scan.image_topic  # type: ignore[attr-defined]


# Fields of any value


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(["rgb8", "mono16", "bayer_rggb8", "yuyv", "32FC1", "16UC1", "mono12"])
    | st.text(max_size=6),
    size=st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 6)] * 3),
    big=st.integers(0, 255),
    data=st.binary(max_size=96),
)
def test_any_image_message_is_an_image_or_one_line(
    encoding: str, size: Any, big: int, data: bytes
) -> None:
    height, width, step = size
    raw = np.frombuffer(data, np.uint8)
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=raw
    )
    packed = SimpleNamespace(format=encoding, data=raw)
    for decode in (colour_of, depth_of):
        for content in (message, packed):
            try:
                assert decode(content).shape[:2] == (height, width)
            except RecordingError as error:
                assert "\n" not in str(error)


ANY = st.floats(width=64) | st.sampled_from([0.0, 1e308, 1e-300])


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY, min_size=7, max_size=7), st.sampled_from(POSE_TYPES), st.text(max_size=5))
def test_any_pose_message_is_a_pose_or_refused(values: Any, msgtype: str, frame: str) -> None:
    position = SimpleNamespace(**dict(zip("xyz", values[:3], strict=True)))
    orientation = SimpleNamespace(**dict(zip("xyzw", values[3:], strict=True)))
    pose = SimpleNamespace(position=position, orientation=orientation)
    transform = SimpleNamespace(translation=position, rotation=orientation)
    header = SimpleNamespace(frame_id=frame)
    content = SimpleNamespace(header=header, child_frame_id=frame, transform=transform, pose=pose)
    if not msgtype.endswith("PoseStamped"):
        content.pose = SimpleNamespace(pose=pose)
    try:
        found = message_pose(content, msgtype)[2]
    except ValueError:
        return
    assert found.is_finite()
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
