"""Inspection of the real recordings, where they are at hand, and of copies broken in many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from test_recordings_check import codes

from crossfire_core.recordings.check import check_recording

IMAGE, INFO = "/camera/image_raw/compressed", "/camera/camera_info"
Change = Callable[[str, int, Any], Any]  # topic, number of its message, message -> message or None


@pytest.mark.parametrize(
    "name",
    [
        "redkitchen/mapping_bag",
        "redkitchen/query_bag",
        "redkitchen/frames",
        "euroc_mh05/bag",
        "fox",
    ],
)
def test_what_maps_well_is_found_usable(data_dir: Path, name: str) -> None:
    report = check_recording(data_dir / name)
    assert report.usable, report.verdict
    assert {"poses", "calibration"} <= codes(report, "good")
    assert 0.97 < report.figures["focal_scale"] < 1.03
    assert report.figures["epipolar_error_px"] < 1.5


def without(*topics: str) -> Change:
    """Drops topics."""
    return lambda topic, number, message: None if topic in topics else message


def pictures(edit: Callable[[int, np.ndarray], np.ndarray]) -> Change:
    """Changes what the images show."""

    def change(topic: str, number: int, message: Any) -> Any:
        if topic != IMAGE:
            return message
        image = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
        assert image is not None
        done, data = cv2.imencode(".jpg", edit(number, image))
        assert done
        return replace(message, data=data.ravel())

    return change


def as_published(topic: str, number: int, message: Any) -> Any:
    """The data set's own focal length, which is the depth camera's."""
    if topic != INFO:
        return message
    k = np.array([585.0, 0, 320, 0, 585, 240, 0, 0, 1])
    return replace(message, k=k, d=np.zeros(5))


def stamped(topics: tuple[str, ...], moved: Callable[[float], float]) -> Change:
    """Moves the stamps of some topics: seconds since the first to seconds."""
    first: list[int] = []

    def change(topic: str, number: int, message: Any) -> Any:
        if topic not in topics:
            return message
        stamp = message.header.stamp
        at = stamp.sec * 10**9 + stamp.nanosec
        first.append(at)
        sec, nanosec = divmod(first[0] + round(moved((at - first[0]) / 1e9) * 1e9), 10**9)
        stamp = replace(stamp, sec=sec, nanosec=nanosec)
        return replace(message, header=replace(message.header, stamp=stamp))

    return change


def hole(topic: str, number: int, message: Any) -> Any:
    """Two seconds that the recorder lost."""
    return None if topic in (IMAGE, INFO) and 80 <= number < 140 else message


def hanging() -> Change:
    """A camera that repeats its picture from the hundredth on."""
    kept: list[np.ndarray] = []

    def edit(number: int, image: np.ndarray) -> np.ndarray:
        kept.append(image)
        return kept[min(number, 100)]

    return pictures(edit)


BROKEN: dict[str, tuple[Change, str, str]] = {
    "focal length as published": (as_published, "error", "focal_length"),
    "no camera_info": (without(INFO), "error", "camera_info"),
    "no transform to the camera": (without("/tf_static"), "error", "recording"),
    "no poses": (without("/ground_truth/pose", "/odom", "/tf"), "warning", "poses"),
    "odometry alone": (without("/ground_truth/pose"), "warning", "drift"),
    "two seconds missing": (hole, "warning", "gap"),
    "looped": (stamped((IMAGE, INFO), lambda s: s % 3.0), "error", "clock_jump"),
    "late poses": (stamped(("/ground_truth/pose",), lambda s: s + 0.2), "warning", "pose_time"),
    "dark": (pictures(lambda number, image: image // 12), "error", "exposure"),
    "glaring": (
        pictures(lambda number, image: cv2.convertScaleAbs(image, alpha=5.0)),
        "error",
        "exposure",
    ),
    "blurred": (pictures(lambda number, image: cv2.blur(image, (31, 3))), "error", "blur"),
    "half the size": (
        pictures(lambda number, image: cv2.resize(image, (320, 240))),
        "warning",
        "left_out",
    ),
    "another shape": (
        pictures(lambda number, image: cv2.resize(image, (320, 200))),
        "error",
        "camera_info",
    ),
    "a camera that hangs": (hanging(), "warning", "frozen"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_in_a_copy_is_named(data_dir: Path, tmp_path: Path, name: str) -> None:
    change, level, code = BROKEN[name]
    report = check_recording(copied(data_dir / "redkitchen/query_bag", tmp_path / "bag", change))
    assert code in codes(report, level), report.verdict
    assert report.usable == (level == "warning"), report.verdict


def copied(source: Path, target: Path, change: Change) -> Path:
    """A bag whose messages were changed or dropped."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    numbers: dict[str, int] = {}
    with (
        AnyReader([source], default_typestore=store) as reader,
        Writer(target, version=9) as writer,
    ):
        known = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
            for c in reader.connections
        }
        for connection, at, raw in reader.messages():
            number = numbers.setdefault(connection.topic, 0)
            numbers[connection.topic] += 1
            message = store.deserialize_cdr(raw, connection.msgtype)
            message = change(connection.topic, number, message)
            if message is not None:
                data = store.serialize_cdr(message, connection.msgtype)
                writer.write(known[connection.topic], at, data)
    return target


def test_photographs_whose_poses_were_mixed_up_disagree(data_dir: Path, tmp_path: Path) -> None:
    """Those that poses put side by side show nothing in common; those that follow each other do."""
    data = json.loads((data_dir / "fox" / "transforms.json").read_text())
    frames = [f for f in data["frames"] if (data_dir / "fox" / f["file_path"]).is_file()]
    order = np.random.default_rng(0).permutation(len(frames))
    poses = [frames[i]["transform_matrix"] for i in order]
    data["frames"] = [
        {
            **frame,
            "file_path": str((data_dir / "fox" / frame["file_path"]).resolve()),
            "transform_matrix": pose,
        }
        for frame, pose in zip(frames, poses, strict=True)
    ]
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    report = check_recording(tmp_path)
    assert codes(report, "error") == {"epipolar"}, report.verdict
