"""Recordings of several cameras, from the files to a map that knows each of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_samples import (
    BASE_FROM_CAMERA,
    CAMERA,
    IMAGE,
    RobotBag,
    assert_poses_close,
    base_pose,
    picture,
    png,
    stamp,
)
from scipy.spatial.transform import Rotation
from test_evaluation import FakeLocalizer
from test_neural_map import tiny_map
from test_recordings_datasets import COUNT, write_euroc, write_kapture
from test_recordings_files import RIG_SENSOR, edit, with_rig, write_colmap_text
from test_rig import Fake
from test_training import TINY
from toy_room import CAMERA as TOY_CAMERA
from toy_room import ToyRoom

from crossfire_core.cli import evaluation as commands
from crossfire_core.cli import run
from crossfire_core.config import TrackingConfig
from crossfire_core.errors import RecordingError
from crossfire_core.evaluation.evaluate import EvaluationOptions, evaluate
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.uncertainty import diagonal
from crossfire_core.mapping_poses.from_motion import odometry_poses
from crossfire_core.maps.header import RigCamera, read_header
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.recordings import Frame, FrameInfo, RecordingOptions, open_recording
from crossfire_core.recordings.convert import ConvertOptions, convert
from crossfire_core.recordings.frame import Mount
from crossfire_core.recordings.lazy import Recording, hold_out, moments
from crossfire_core.recordings.rig import RigRecording, camera_names
from crossfire_core.training.schedule import Course
from crossfire_core.training.selection import select_frames
from crossfire_core.training.trainer import Trainer
from crossfire_ros.offline import track_offline
from crossfire_ros.replay_report import truth_of

LEFT = Camera(32, 24, 20.0, 21.0, 16.5, 11.5, "equidistant", (0.01, 0.0, 0.0, 0.0))
BASE_FROM_LEFT = Pose(
    Rotation.from_euler("z", 90, degrees=True).as_matrix() @ BASE_FROM_CAMERA.rotation,
    np.array([0.0, 0.3, 0.7]),
)
LATE_NS = 2_000_000
TOPICS = f"{IMAGE},/left/image_raw"


def rig_bag(path: Path, skip: int = -1) -> Path:
    """The robot's bag, with a smaller camera on its left that is two milliseconds late."""

    def add(bag, index):
        if index == 0:
            bag.transforms(stamp(0), [("base_link", "left", BASE_FROM_LEFT)], static=True)
        if index != skip:
            now = stamp(index) + LATE_NS
            bag.image("/left/image_raw", now, "left", picture(index + 10, (32, 24)))
            bag.camera_info("/left/camera_info", now, "left", LEFT)

    return RobotBag(extra=add).write(path)


def test_cameras_of_a_bag_are_one_recording(tmp_path: Path) -> None:
    rig = open_recording(rig_bag(tmp_path / "bag"), RecordingOptions(image_topic=TOPICS))
    front, left = camera_names(TOPICS.split(","))
    assert left == "left" and [m.camera for m in rig.mounts] == [front, left]
    frames = list(rig)
    assert len(frames) == len(rig) == 12 and len({f.name for f in frames}) == 12
    assert [f.stamp_ns for f in frames] == sorted(f.stamp_ns for f in frames)
    of = {name: [f for f in frames if f.mount.camera == name] for name in (front, left)}
    assert all(f.camera == CAMERA for f in of[front]) and all(f.camera == LEFT for f in of[left])
    assert of[left][3].image.shape == (24, 32, 3)
    np.testing.assert_array_equal(of[left][3].image, picture(13, (32, 24)))
    # truth is there from a quarter before each image to a quarter after it
    late = LATE_NS / (stamp(1) - stamp(0))
    assert_poses_close(
        [of[left][i].world_from_camera for i in range(1, 5)],
        [base_pose(i + late) @ BASE_FROM_LEFT for i in range(1, 5)],
        1e-3,
    )
    assert_poses_close([rig.mounted(f) for f in of[left]], [BASE_FROM_LEFT] * 6)
    assert_poses_close([rig.mounted(f) for f in of[front]], [BASE_FROM_CAMERA] * 6)
    assert rig.odometry() is not None and rig.base_from_camera == rig.mounts[0].base_from_camera


def test_some_frames_are_those_of_the_list(tmp_path: Path) -> None:
    rig = open_recording(rig_bag(tmp_path / "bag"), RecordingOptions(image_topic=TOPICS))
    some = list(rig.frames([7, 2, 3]))
    assert [f.name for f in some] == [rig.infos[i].name for i in (2, 3, 7)]
    assert [f.camera for f in some] == [rig.infos[i].camera for i in (2, 3, 7)]


def test_a_missing_image_leaves_the_other_camera_alone(tmp_path: Path) -> None:
    bag = rig_bag(tmp_path / "bag", skip=2)
    rig = open_recording(bag, RecordingOptions(image_topic=TOPICS))
    assert [len(m) for m in moments(rig.infos)] == [2, 2, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_topic": f"{IMAGE},{IMAGE}"}, "each once"),
        ({"image_topic": ",".join(f"/c{i}/image" for i in range(9))}, "8 at most"),
        ({"image_topic": TOPICS, "mask": "a.png,b.png,c.png"}, "--mask lists 3 values for 2"),
        ({"image_topic": f"{IMAGE},/right/image"}, "/right/image"),
    ],
)
def test_lists_that_fit_no_cameras_are_refused(changes, words, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=words):
        open_recording(rig_bag(tmp_path / "bag"), RecordingOptions(**changes))


def test_cameras_are_called_as_their_topics() -> None:
    assert camera_names(["/front/image_raw/compressed", "/left/image_raw"]) == ["front", "left"]
    assert camera_names(["cam0", "cam1"]) == ["cam0", "cam1"]
    assert camera_names(["/cam/a", "/cam/b"]) == ["cam/a", "cam/b"]


def test_two_cameras_of_euroc_are_a_rig(tmp_path: Path) -> None:
    folder = write_euroc(tmp_path / "MH_05")
    second = folder / "mav0" / "cam1"
    second.mkdir()
    for file in (folder / "mav0" / "cam0").rglob("*"):
        target = second / file.relative_to(folder / "mav0" / "cam0")
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(file.read_bytes())
    rig = open_recording(folder, RecordingOptions(image_topic="cam0,cam1"))
    assert [m.camera for m in rig.mounts] == ["cam0", "cam1"]
    assert all(len(m) == 2 for m in moments(rig.infos))


def test_rigs_of_kapture_say_where_their_cameras_sit(tmp_path: Path) -> None:
    folder = write_kapture(tmp_path / "kapture", rig=True)
    sensors = folder / "sensors"
    camera = "cam1, left, camera, PINHOLE, 64, 48, 50.0, 51.0, 32.0, 24.0"
    edit(sensors / "sensors.txt", lambda s: s.replace("imu0, , imu", camera))
    edit(sensors / "rigs.txt", lambda s: s + "rig0, cam1, 1.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.3\n")
    shutil.copytree(sensors / "records_data" / "cam", sensors / "records_data" / "left")
    taken = "".join(f"{i * 100}, cam1, left/{i}.png\n" for i in range(COUNT))
    edit(sensors / "records_camera.txt", lambda s: s + taken)
    rig = open_recording(folder)
    assert all(len(m) == 2 for m in moments(rig.infos)) and len(rig) == 2 * COUNT
    by_name = {m.camera: m.base_from_camera for m in rig.mounts}
    assert_poses_close([by_name["cam0"]], [BASE_FROM_CAMERA])
    # the rig lies 0.1, 0.2, 0.3 from cam1, without a turn
    np.testing.assert_allclose(by_name["cam1"].translation, [-0.1, -0.2, -0.3])
    base = [f.world_from_camera @ rig.mounted(f).inverse() for f in rig]
    assert_poses_close(base[0::2], base[1::2])


def test_rigs_of_colmap_are_moments(tmp_path: Path) -> None:
    folder = with_rig(write_colmap_text(tmp_path / "scene"), binary=False)
    model = folder / "sparse" / "0"
    edit(model / "cameras.txt", lambda s: s + "6 PINHOLE 64 48 60 60 32 24\n")
    # images 1 and 2 are of one time, and so are 3 and 4
    rows = [line.split() for line in (model / "frames.txt").read_text().splitlines()[1:]]
    lines = [
        f"{k + 1} {' '.join(rows[2 * k][1:9])} 2 CAMERA 6 {2 * k + 1} CAMERA 7 {2 * k + 2}"
        for k in range(2)
    ]
    (model / "frames.txt").write_text("# Frame list\n" + "\n".join(lines) + "\n")

    def of_camera_6(text: str) -> str:
        out = []
        for line in text.splitlines():
            words = line.split()
            if len(words) > 9 and words[0] in ("1", "3") and words[8] == "7":
                words[8] = "6"
            out.append(" ".join(words))
        return "\n".join(out) + "\n"

    edit(model / "images.txt", of_camera_6)
    rig = open_recording(folder)
    assert [len(m) for m in moments(rig.infos)] == [2, 2]
    by_name = {m.camera: m.base_from_camera for m in rig.mounts}
    assert set(by_name) == {"camera6", "camera7"}
    assert_poses_close([by_name["camera7"]], [RIG_SENSOR.inverse()])


# -- what becomes of them ------------------------------------------------------------------------


def infos(count: int, cameras: int = 2) -> list[FrameInfo]:
    """A rig's frames, both images of a moment at one time."""
    mounts = [Mount(f"c{i}", Pose.identity()) for i in range(cameras)]
    return [
        FrameInfo(f"{m.camera}/{i}", 10**9 * (i + 1), CAMERA, base_pose(i), m)
        for i in range(count)
        for m in mounts
    ]


def test_all_images_of_a_moment_are_held_out_together() -> None:
    training, held = hold_out(infos(6), 3)
    assert held == [0, 1, 6, 7] and training == [2, 3, 4, 5, 8, 9, 10, 11]


def test_each_camera_has_its_share_of_the_views() -> None:
    """However differently they move in the image: one turns with the robot, one looks up."""
    chosen = select_frames(infos(40), max_views=20)
    cameras = [i % 2 for i in chosen.mapping]
    assert len(chosen.mapping) <= 20 and 9 <= cameras.count(0) == cameras.count(1)


class SideView(ToyRoom):
    """The toy room by a smaller camera that looks to the left of the way."""

    TURN = Pose(Rotation.from_euler("y", -40, degrees=True).as_matrix(), np.zeros(3))

    def __init__(self, count: int) -> None:
        super().__init__(count, camera=replace(TOY_CAMERA.resized(120, 90), fx=90.0))
        self.poses = [pose @ self.TURN for pose in self.poses]
        self.base_from_camera = self.TURN


@pytest.fixture(scope="module")
def rig_room() -> Recording:
    return RigRecording([ToyRoom(12), SideView(12)], ["front", "left"])


def test_a_map_of_a_rig_knows_each_of_its_cameras(rig_room, tmp_path: Path) -> None:
    trainer = Trainer(rig_room, tmp_path / "rig.map", TINY, Course(4, device="cpu"))
    trainer.prepare()
    text = json.dumps(trainer._header().to_json())
    header = read_header(tmp_path / "rig.map", text)
    assert [each.name for each in header.rig] == ["front", "left"]
    assert header.rig[1].camera == rig_room.infos[1].camera
    assert_poses_close([header.mounts["left"]], [SideView.TURN])
    assert {header.camera_of(v).size for v in header.views} == {(160, 120), (120, 90)}
    assert {v.rig_camera for v in header.views} == {"front", "left"}


class SideKnows(Fake):
    """The side camera finds its truth; the front one nothing."""

    def __init__(self, recording: Recording) -> None:
        super().__init__({})
        self.frames: list[Frame] = list(recording)

    def localize(self, image, camera, prior=None, **options):
        frame = next(f for f in self.frames if np.array_equal(f.image, image))
        if frame.mount.camera == "front":
            return PoseEstimate(False, "no place of the map looks like this image")
        points = frame.world_from_camera.apply(camera.bearings(PIXELS) * 2.0)
        return sure_of(frame.world_from_camera, PIXELS, points)


def test_a_rig_is_evaluated_moment_by_moment(rig_room) -> None:
    found = evaluate(SideKnows(rig_room), rig_room, EvaluationOptions(holdout_every=3))
    assert len(found.errors) == 4 and all(e.localized for e in found.errors)
    # of the first image of each moment, which is the front camera's
    assert max(e.translation_m for e in found.errors) < 1e-6
    assert found.context["found alone by each camera"] == {"front": "0 of 4", "left": "4 of 4"}


def test_a_rig_is_tracked_moment_by_moment(rig_room) -> None:
    """By the side camera alone, whose place on the robot is another than the first one's."""
    steps = track_offline(rig_room, SideKnows(rig_room), TrackingConfig())
    assert len(steps) == 12
    fixes = [s for s in steps if s.result.map_from_base is not None]
    assert len(fixes) > 8 and all("front" in s.result.left_out for s in fixes)
    assert max(s.result.map_from_base.distance(s.truth)[0] for s in fixes) < 1e-6
    truth = truth_of(rig_room)
    assert_poses_close(truth.poses, [s.truth for s in steps])


def test_odometry_says_where_each_camera_is(tmp_path: Path) -> None:
    rig = open_recording(rig_bag(tmp_path / "bag"), RecordingOptions(image_topic=TOPICS))
    posed = zip(rig.infos, odometry_poses(rig), strict=True)
    known = [(rig.odometry().at(i.stamp_ns), p @ rig.mounted(i).inverse()) for i, p in posed if p]
    assert len(known) > 8
    assert_poses_close(*zip(*known, strict=True))


@pytest.mark.parametrize("format", ["bag", "transforms"])
def test_a_rig_is_converted_with_all_its_cameras(format, tmp_path: Path) -> None:
    before = open_recording(rig_bag(tmp_path / "a"), RecordingOptions(image_topic=TOPICS))
    made = convert(before, tmp_path / "b", format, ConvertOptions(images="png"))
    assert made.frames == 12 - made.left_out
    names = ",".join(f"/{name}/image_raw/compressed" for name in camera_names(TOPICS.split(",")))
    topics = RecordingOptions(image_topic=names if format == "bag" else "")
    after = open_recording(tmp_path / "b", topics)
    posed = [f for f in before if format == "bag" or f.world_from_camera is not None]
    for old, new in zip(posed, after, strict=True):
        np.testing.assert_array_equal(old.image, new.image)
        pixels = old.camera.pixel_grid(8, 6)
        bearings = (each.camera.bearings(pixels) for each in (new, old))
        np.testing.assert_allclose(*bearings, atol=1e-12)
        assert_poses_close([new.world_from_camera], [old.world_from_camera], 1e-3)
        if format == "bag":
            assert_poses_close([after.mounted(new)], [before.mounted(old)])


def test_cameras_whose_names_make_no_topics_are_numbered(tmp_path: Path) -> None:
    """And images that only have numbers get one time a moment."""

    class Numbered(ToyRoom):
        @property
        def infos(self) -> list[FrameInfo]:
            return [replace(info, stamp_ns=i) for i, info in enumerate(super().infos)]

    rig = RigRecording([Numbered(3), Numbered(3)], ["0/a", "0-a"])
    convert(rig, tmp_path / "b", "bag")
    topics = "/camera0/image_raw/compressed,/camera1/image_raw/compressed"
    after = open_recording(tmp_path / "b", RecordingOptions(image_topic=topics))
    assert [len(m) for m in moments(after.infos)] == [2, 2, 2]


def test_a_method_for_one_camera_says_so(rig_room) -> None:
    with pytest.raises(RecordingError, match="several cameras, of which this method takes one"):
        evaluate(FakeLocalizer(), rig_room)


PIXELS = np.random.default_rng(3).uniform(5.0, 85.0, (60, 2))


def sure_of(pose: Pose, pixels: np.ndarray, points: np.ndarray):
    """A camera's answer that passes its gates."""
    matches = Matches(pixels, points, np.ones(60), np.ones(60, bool))
    return PoseEstimate(
        True, "", pose, diagonal(0.01, 0.002), 60, 60, 0.5, 0.5, details=matches, evidence=20.0
    )


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def rig_map(tmp_path: Path) -> Path:
    made = tiny_map()
    camera = made.header.camera
    rig = (
        RigCamera("front", camera, BASE_FROM_CAMERA),
        RigCamera("left", camera.resized(32, 24), BASE_FROM_LEFT),
    )
    made.header = replace(made.header, rig=rig)
    made.save(tmp_path / "rig.map")
    for name, each in zip(("a.png", "b.png"), rig, strict=True):
        (tmp_path / name).write_bytes(png(picture(1, each.camera.size)))
    return tmp_path / "rig.map"


def test_images_of_a_rig_are_localized_together(rig_map, tmp_path, monkeypatch, capsys) -> None:
    truth = base_pose(2)

    class Sure(Fake):
        """Each camera finds its place on the robot, the smaller one by its size."""

        neural_map = NeuralMap.load(rig_map, device="cpu")

        def localize(self, image, camera, prior=None, **options):
            pose = truth @ (BASE_FROM_LEFT if camera.width == 32 else BASE_FROM_CAMERA)
            pixels = 0.25 * PIXELS
            return sure_of(pose, pixels, pose.apply(camera.bearings(pixels) * 2.0))

    monkeypatch.setattr(commands, "load_localizer", lambda *_: Sure({}))
    out = tmp_path / "said.json"
    line = ["localize", rig_map, tmp_path / "a.png", tmp_path / "b.png"]
    line += ["--cameras", "front,left", "--json", out]
    assert run([str(word) for word in line]) == 0, capsys.readouterr().err
    said = json.loads(out.read_text())
    assert said["ok"] and said["left_out"] == {"front": "", "left": ""}
    assert_poses_close([Pose.from_json(said["map_from_base"])], [truth], 1e-3)


@pytest.mark.parametrize(
    ("cameras", "words"),
    [("front,rear", "no camera 'rear': its cameras are front, left"), ("front", "1 cameras for 2")],
)
def test_cameras_that_the_map_lacks_are_named(cameras, words, rig_map, capsys) -> None:
    images = [str(rig_map.parent / name) for name in ("a.png", "b.png")]
    assert run(["localize", str(rig_map), *images, "--cameras", cameras]) == 2
    assert words in capsys.readouterr().err
