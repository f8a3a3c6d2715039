"""Poses for recordings that come without: keyframes, structure from motion, scale, sessions."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_samples import RobotBag
from toy_room import ToyRoom

from crossfire_core.config import SfmConfig
from crossfire_core.errors import (
    ConfigError,
    MissingDependencyError,
    RecordingError,
    TrainingError,
)
from crossfire_core.evaluation.metrics import fit
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.mapping_poses import gauge, refinement, sources
from crossfire_core.mapping_poses.from_map import carried, consistent
from crossfire_core.mapping_poses.from_motion import odometry_poses, poses_from_motion
from crossfire_core.mapping_poses.keyframes import Look, choose_keyframes, flow_between, glance
from crossfire_core.mapping_poses.posed import (
    JoinedRecording,
    PosedRecording,
    without_holdout,
)
from crossfire_core.mapping_poses.reconstruction import colmap_parameters
from crossfire_core.mapping_poses.refinement import refine_poses
from crossfire_core.mapping_poses.sources import open_for_mapping, poses_from_odometry
from crossfire_core.recordings import RecordingOptions, open_recording
from crossfire_core.recordings.colmap import camera_of
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo
from crossfire_core.vision.pairs import image_signatures, loop_pairs, sequential_pairs

WIDE = Camera(320, 240, 190.0, 190.0, 160.0, 120.0)
SMALL_SFM = SfmConfig(keyframes=11, features=500, overlap=3, loops=1)


class DrivenRoom(ToyRoom):
    """The toy room from a robot whose odometry drifts by a known scale and heading."""

    def __init__(self, count: int, *, scale: float = 1.0, start: int = 0, **options) -> None:
        super().__init__(120, camera=WIDE, **options)
        self.poses = self.poses[start : start + count]
        self.scale = scale

    def odometry(self) -> Trajectory | None:
        first = self.poses[0]
        level = Pose(np.eye(3), first.translation)
        samples = []
        for i, pose in enumerate(self.poses):
            moved = level.inverse() @ pose
            samples.append((10**9 * i, Pose(moved.rotation, self.scale * moved.translation)))
        return Trajectory.from_samples(samples)


def walk(count: int, seed: int = 3) -> list[Pose]:
    """Poses along a winding path."""
    rng = np.random.default_rng(seed)
    at, poses = Pose.identity(), []
    for _ in range(count):
        at = at @ Pose.exp(np.concatenate([[0.0, 0.0, 0.1], rng.normal(0, 0.08, 3)]))
        poses.append(at)
    return poses


# -- keyframes and pairs -----------------------------------------------------------------------


def test_keyframes_follow_the_motion_and_prefer_sharp_images() -> None:
    travelled = np.concatenate([np.zeros(50), np.linspace(0, 1, 50)])  # stands, then drives
    blur = np.full(100, 0.5)
    blur[70] = 0.1
    chosen = choose_keyframes(Look(blur, travelled), 10)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert sum(i < 50 for i in chosen) <= 1
    assert 70 in chosen
    assert choose_keyframes(Look(blur[:5], travelled[:5]), 10) == [0, 1, 2, 3, 4]


def test_a_glance_measures_motion_by_flow_where_there_is_no_odometry() -> None:
    room = ToyRoom(8)
    stopped = PosedRecording(room, room.poses, "x")
    seen = glance(stopped, [None] * 8)
    assert (np.diff(seen.travelled) > 0.01).all()
    image = next(iter(room)).image[..., 1]
    assert flow_between(np.ascontiguousarray(image), np.ascontiguousarray(image)) == 0.0


def test_pairs_join_neighbours_and_places_seen_again() -> None:
    pairs = sequential_pairs([0, 0, 0, 0, 1, 1], 2)
    assert {(0, 1), (0, 2), (1, 3), (4, 5)} <= pairs
    assert (3, 4) not in pairs  # two recordings do not follow each other
    vectors = np.eye(8, dtype=np.float32)
    vectors[7] = vectors[0]
    nobody = [None] * 8
    assert (0, 7) in loop_pairs(vectors.copy(), [0] * 8, nobody, 2, 1)
    far = [Pose(np.eye(3), np.array([10.0 * i, 0, 0])) for i in range(8)]
    assert (0, 7) not in loop_pairs(vectors.copy(), [0] * 8, far, 2, 1)  # odometry knows better
    # another recording's odometry says nothing about this one's
    assert (0, 7) in loop_pairs(vectors.copy(), [0] * 4 + [1] * 4, far, 2, 1)


@pytest.mark.parametrize("keypoints", [0, 1])
def test_images_without_texture_are_alike_to_nothing(keypoints: int) -> None:
    nearly_blank = [np.ones((keypoints, 128), np.float32), *[np.zeros((0, 128), np.float32)] * 2]
    vectors = image_signatures(nearly_blank, 0)
    assert vectors.shape[0] == 3 and not vectors.any()


@pytest.mark.parametrize(
    "camera",
    [
        Camera(64, 48, 60.0, 61.0, 32.5, 24.0),
        Camera(64, 48, 60.0, 61.0, 32.5, 24.0, "radtan", (-0.2, 0.05, 0.001, -0.002)),
        Camera(64, 48, 60.0, 61.0, 32.5, 24.0, "radtan", (-0.2, 0.05, 0.001, -0.002, 0.01)),
        Camera(64, 48, 60.0, 61.0, 32.5, 24.0, "rational", (0.3, 0.1, 1e-3, 1e-3, 0.01, 0.4, 0, 0)),
        Camera(64, 48, 60.0, 61.0, 32.5, 24.0, "equidistant", (0.01, -0.02, 0.003, 0.001)),
    ],
    ids=lambda camera: f"{camera.distortion}{len(camera.coefficients)}",
)
def test_every_lens_is_told_to_colmap_as_it_is(camera: Camera) -> None:
    model, parameters = colmap_parameters(camera)
    back = camera_of(model, *camera.size, parameters)
    points = np.array([[0.1, 0.2, 1.0], [-0.4, 0.3, 1.2], [0.3, -0.3, 0.9]])
    assert np.allclose(back.project(points), camera.project(points), atol=1e-9)


# -- scale, gravity, origin --------------------------------------------------------------------


def test_odometry_gives_scale_gravity_and_origin_in_spite_of_its_drift() -> None:
    truth = walk(200)
    turn = Pose.exp((3.0, -2.0, 1.0, 0.4, -0.7, 1.1))
    sfm = [turn @ Pose(p.rotation, p.translation / 7.0) for p in truth]
    drifting, at = [truth[0]], truth[0]
    for a, b in itertools.pairwise(truth):
        step = a.inverse() @ b
        heading = 0.002  # a turn to the left at every step: 0.4 rad in all
        at = Pose.exp((0, 0, 0, 0, 0, heading)) @ at
        at = Pose(at.rotation, drifting[-1].translation) @ step
        drifting.append(at)
    found = gauge.from_odometry(sfm, drifting)
    poses = [found.pose(pose) for pose in sfm]
    assert found.scale == pytest.approx(7.0, rel=0.02)
    assert poses[0].distance(truth[0])[0] < 1e-9  # the map begins where the odometry did
    ups = np.array(
        [p.rotation.T[:, 2] @ t.rotation.T[:, 2] for p, t in zip(poses, truth, strict=True)]
    )
    assert np.degrees(np.arccos(np.clip(ups, -1, 1))).max() < 0.5
    point = np.array([[0.2, 0.1, 2.0]])
    assert np.allclose(
        found.points(sfm[5].apply(point / 7.0)), poses[5].apply(point * found.scale / 7.0)
    )


def test_known_poses_decide_and_outliers_do_not() -> None:
    truth = walk(60)
    turn = Pose.exp((1.0, 0.0, 1.0, 0.4, 0.2, -0.3))
    sfm = [turn @ Pose(p.rotation, p.translation / 3.0) for p in truth]
    known = [*truth]
    for i in (5, 20, 44):
        known[i] = Pose(truth[i].rotation, truth[i].translation + 2.0)
    found = gauge.from_poses(sfm, known)
    assert max(found.pose(a).distance(b)[0] for a, b in zip(sfm, truth, strict=True)) < 0.02


def test_what_cannot_give_a_scale_is_said() -> None:
    still = [Pose.identity()] * 10
    with pytest.raises(TrainingError, match="does not move"):
        gauge.from_odometry(walk(10), still)
    with pytest.raises(TrainingError, match="longer drive"):
        gauge.from_odometry(walk(2), walk(2))
    with pytest.raises(TrainingError, match="baseline"):
        gauge.from_poses(still, walk(10))


def test_known_poses_stay_and_others_follow_what_those_around_are_off() -> None:
    truth = walk(60)
    bend = [p @ Pose.exp(0.01 * np.array([i / 60, 0.5, 0, 0, i / 60, 0])) for i, p in
            enumerate(truth)]  # fmt: skip
    known: list[Pose | None] = [p if i % 2 == 0 else None for i, p in enumerate(truth)]
    wrong = Pose(truth[20].rotation, truth[20].translation + 0.5)
    known[20] = wrong
    poses, outliers = gauge.bent_to_known(dict(enumerate(bend)), known, 3.0)
    assert outliers == [20]
    off = np.array([poses[i].distance(t)[0] for i, t in enumerate(truth)])
    before = np.array([b.distance(t)[0] for b, t in zip(bend, truth, strict=True)])
    assert all(poses[i] is truth[i] for i in range(0, 60, 2) if i != 20)
    assert off[20] < before[20] and np.median(off[1::2]) < 0.3 * np.median(before[1::2])


def test_a_bend_of_a_part_of_the_path_is_no_outlier() -> None:
    truth, rng = walk(100), np.random.default_rng(2)
    noise = [Pose.exp((*rng.normal(0, 0.002, 3), 0, 0, 0)) for _ in truth]
    bend = [0.1 * max(0.0, (i - 85) / 14.0) ** 2 for i in range(100)]
    placed = {i: p @ noise[i] @ Pose.exp((0.0, bend[i], 0, 0, 0, 0)) for i, p in enumerate(truth)}
    poses, outliers = gauge.bent_to_known(placed, truth, 3.0)
    assert outliers == [] and all(poses[i] is p for i, p in enumerate(truth))


def test_without_known_poses_among_those_placed_nothing_is_bent() -> None:
    truth = walk(5)
    poses, outliers = gauge.bent_to_known(dict(enumerate(truth)), [None] * 5, 3.0)
    assert [poses[i] for i in range(5)] == truth and outliers == []


# -- recordings with other poses ---------------------------------------------------------------


def test_frames_without_a_pose_are_left_out() -> None:
    room = ToyRoom(6)
    poses = [None, *room.poses[1:5], None]
    posed = PosedRecording(room, poses, "somewhere", notes=["a note"])
    assert [info.name for info in posed.infos] == ["001", "002", "003", "004"]
    assert posed.notes == ("a note",)
    frames = list(posed.frames([2, 0]))
    assert [f.name for f in frames] == ["001", "003"]
    assert frames[1].world_from_camera is room.poses[3]


def test_recordings_join_and_names_stay_unique() -> None:
    both = JoinedRecording([ToyRoom(3), ToyRoom(2)])
    assert [i.name for i in both.infos] == ["0/000", "0/001", "0/002", "1/000", "1/001"]
    assert [f.name for f in both.frames([1, 4])] == ["0/001", "1/001"]
    assert [both.session(i) for i in range(5)] == [0, 0, 0, 1, 1]


# -- the choice of a source --------------------------------------------------------------------


def opened(path: Path, mode: str, tmp_path: Path, **options):
    return open_for_mapping([path], RecordingOptions(**options), mode, SMALL_SFM, tmp_path / "work")


def test_given_poses_come_first(tmp_path: Path) -> None:
    bag = RobotBag().write(tmp_path / "bag")
    found = opened(bag, "auto", tmp_path)
    assert found.pose_source == "/truth"
    assert not found.poses_drift


def test_odometry_can_be_asked_for(tmp_path: Path) -> None:
    bag = open_recording(RobotBag().write(tmp_path / "bag"))
    found = poses_from_odometry(bag)
    assert found.pose_source == "odometry"
    assert found.poses_drift
    assert not bag.poses_drift
    odometry, info = bag.odometry(), found.infos[2]
    expected = odometry.at(info.stamp_ns) @ bag.base_from_camera
    assert info.world_from_camera.distance(expected)[0] < 1e-9


def test_odometry_is_corrected_by_the_images(tmp_path: Path) -> None:
    room = DrivenRoom(11, scale=1.01)
    true, start = room.poses, odometry_poses(room)
    rng = np.random.default_rng(1)
    bent = [start[0], *[p @ Pose.exp(rng.normal(0, 0.02, 6)) for p in start[1:]]]
    found = refine_poses(room, bent, SMALL_SFM, tmp_path / "work", "odometry", odometry=True)
    after = [info.world_from_camera for info in found.infos]
    assert error(after, true) < 0.5 * error(bent, true)
    assert found.pose_source == "odometry, corrected by the images"
    assert "corrected by" in found.notes[0]


def error(poses: Sequence[Pose], truth: Sequence[Pose]) -> float:
    """Median distance after the similarity that is left open, metres."""
    found = fit(list(poses), list(truth), True)
    return float(
        np.median([found.apply(a).distance(b)[0] for a, b in zip(poses, truth, strict=True)])
    )


def test_a_correction_that_was_stopped_goes_on_from_its_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = DrivenRoom(8, scale=1.01)
    start, work = odometry_poses(room), tmp_path / "work"
    matched: list[tuple[int, int]] = []
    real = refinement.match_pairs

    def counted(features, cameras, pairs, *rest):  # type: ignore[no-untyped-def]
        matched.extend(pairs)
        return real(features, cameras, pairs, *rest)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "matching" and 2 * done >= total:
            raise KeyboardInterrupt

    monkeypatch.setattr(refinement, "match_pairs", counted)
    with pytest.raises(KeyboardInterrupt):
        refine_poses(room, start, SMALL_SFM, work, "odometry", odometry=True, tell=stop)
    before = list(matched)
    first = next(work.glob("matches-*.npz"))
    first.write_bytes(first.read_bytes()[:-7])  # a damaged file is made anew, not believed
    resumed = refine_poses(room, start, SMALL_SFM, work, "odometry", odometry=True)
    twice = {pair for pair in before if matched.count(pair) > 1}
    assert len({i for i, _ in twice}) == 1 and len(twice) < len(before)
    # other odometry asks for other pairs: nothing kept is for it
    matched.clear()
    aside = [start[0], *[p and p @ Pose.exp((0.01, 0, 0, 0, 0, 0)) for p in start[1:]]]
    refine_poses(room, aside, SMALL_SFM, work, "odometry", odometry=True)
    assert set(before) < set(matched)
    whole = refine_poses(room, start, SMALL_SFM, tmp_path / "anew", "odometry", odometry=True)
    for a, b in zip(resumed.infos, whole.infos, strict=True):
        assert a.world_from_camera.distance(b.world_from_camera)[0] < 1e-9


def test_without_pycolmap_the_odometry_is_taken_and_sfm_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    monkeypatch.setattr("crossfire_core.mapping_poses.sources.find_spec", lambda name: None)
    bag = RobotBag(parts={"info", "odom", "static"}).write(tmp_path / "bag")
    with pytest.raises(TrainingError, match="too little in common"):  # its pictures are no scene
        opened(bag, "auto", tmp_path)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[sfm\]'"):
        opened(bag, "sfm", tmp_path)
    nothing = RobotBag(parts={"info", "static"}).write(tmp_path / "nothing")
    with pytest.raises(RecordingError, match="neither poses nor odometry"):
        opened(nothing, "auto", tmp_path)
    with pytest.raises(RecordingError, match="no odometry"):
        opened(nothing, "odometry", tmp_path)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    bag = RobotBag().write(tmp_path / "bag")
    with pytest.raises(ConfigError, match="choose from auto"):
        opened(bag, "guess", tmp_path)
    with pytest.raises(ConfigError, match="two or more"):
        open_for_mapping([bag], RecordingOptions(), "auto", SMALL_SFM, tmp_path / "w", align=True)
    with pytest.raises(ConfigError, match="not with --poses odometry"):
        open_for_mapping(
            [bag, bag], RecordingOptions(), "odometry", SMALL_SFM, tmp_path / "w", align=True
        )
    with pytest.raises(ConfigError, match="not with --refine-poses"):
        open_for_mapping(
            [bag, bag], RecordingOptions(), "given", SMALL_SFM, tmp_path / "w", align=True,
            refine=True,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="are corrected by --align-recordings"):
        open_for_mapping([bag, bag], RecordingOptions(), "odometry", SMALL_SFM, tmp_path / "w")


# -- structure from motion itself --------------------------------------------------------------


class Unposed(DrivenRoom):
    """The driven room with an image that shows nothing."""

    blank = 7

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        for frame in super().frames(indices):
            grey = np.full_like(frame.image, 128)
            yield replace(frame, image=grey) if frame.name == f"{self.blank:03d}" else frame

    @property
    def infos(self) -> Sequence[FrameInfo]:
        return [replace(info, world_from_camera=None) for info in super().infos]


def test_where_structure_from_motion_fails_the_odometry_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_, **__):
        raise TrainingError("no place was seen from several sides")

    room = Unposed(11, scale=1.01)
    room.pose_source = ""
    monkeypatch.setattr(sources, "find_spec", lambda name: name)
    monkeypatch.setattr(sources, "poses_from_motion", fails)
    monkeypatch.setattr(sources.recordings, "open_recording", lambda path, options: room)
    found = opened(Path("room"), "auto", tmp_path)
    assert found.pose_source == "odometry, corrected by the images"
    assert "no place was seen from several sides" in found.notes[-1]
    with pytest.raises(TrainingError, match="several sides"):
        opened(Path("room"), "sfm", tmp_path)  # as it was asked for


def test_structure_from_motion_places_the_images_and_names_what_failed(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="structure from motion needs the extra [sfm]")
    room = Unposed(11, scale=1.01)
    told: list[str] = []
    found = poses_from_motion(
        room, SMALL_SFM, tmp_path / "work", tell=lambda stage, done, total: told.append(stage)
    )
    placed = [info.name for info in found.infos]
    assert len(placed) >= 9
    assert "007" not in placed
    assert any("could not be placed" in note and "007" in note for note in found.notes)
    truth = [room.poses[int(name)] for name in placed]
    poses = [info.world_from_camera for info in found.infos]
    alignment = fit(poses, truth, True)
    assert alignment.scale == pytest.approx(1 / 1.01, abs=0.01)
    errors = [alignment.apply(a).distance(b) for a, b in zip(poses, truth, strict=True)]
    assert np.median([e[0] for e in errors]) < 0.02  # of a room of 3 m
    assert {"finding keypoints", "matching", "placing images"} <= set(told)
    # the same again takes the outcome from the workspace
    told.clear()
    again = poses_from_motion(
        room, SMALL_SFM, tmp_path / "work", tell=lambda stage, done, total: told.append(stage)
    )
    assert told == []
    assert [i.name for i in again.infos] == placed
    assert again.infos[3].world_from_camera.distance(poses[3])[0] < 1e-9


def test_a_second_recording_joins_the_frame_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="structure from motion needs the extra [sfm]")
    first, second = DrivenRoom(8), DrivenRoom(6, start=4)
    known = [*first.poses, *[None] * 6]
    both = JoinedRecording([first, second])
    found = poses_from_motion(both, SMALL_SFM, tmp_path / "work", known=known)
    truth = [*first.poses, *second.poses]
    names = [info.name for info in both.infos]
    errors = [
        info.world_from_camera.distance(truth[names.index(info.name)])[0] for info in found.infos
    ]
    assert len(errors) >= 12
    assert (
        max(errors) < 0.1 and np.median([e for e in errors if e > 1e-9]) < 0.03
    )  # in the given frame itself, nothing is aligned
    assert "known poses" in found.pose_source
    of_first = [i for i in found.infos if i.name in names[:8]]  # those stay as they were given
    assert of_first and all(
        i.world_from_camera.distance(truth[names.index(i.name)])[0] < 1e-9 for i in of_first
    )


# -- placing a recording in a map --------------------------------------------------------------


def test_a_fix_that_no_neighbour_agrees_with_is_dropped() -> None:
    odometry = [Pose(np.eye(3), np.array([0.2 * i, 0, 0])) for i in range(12)]
    map_from_odom = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.8))
    fixes = {i: map_from_odom @ odometry[i] for i in (0, 2, 4, 6, 8)}
    fixes[5] = Pose(fixes[4].rotation, fixes[4].translation + 1.0)
    assert sorted(consistent(fixes, odometry)) == [0, 2, 4, 6, 8]
    assert sorted(consistent(fixes, [None] * 12)) == [0, 2, 4, 5, 6, 8]


def test_odometry_carries_poses_between_and_beyond_the_fixes_but_not_far() -> None:
    odometry = [Pose(np.eye(3), np.array([0.2 * i, 0, 0])) for i in range(60)]
    map_from_odom = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.8))
    truth = [map_from_odom @ pose for pose in odometry]
    fixes = {0: truth[0], 10: truth[10]}
    for index in (5, 20):
        pose = carried(index, fixes, odometry)
        assert pose is not None
        assert pose.distance(truth[index])[0] < 1e-9
    assert carried(50, fixes, odometry) is None
    assert carried(5, fixes, [None] * 60) is None


# -- frames that are held out -------------------------------------------------------------------


def test_frames_are_held_out_before_poses_are_found(tmp_path: Path) -> None:
    """Else they become keyframes, and every n-th keyframe is missing instead."""
    room = DrivenRoom(11, scale=1.01)
    rest = without_holdout(room, 4)
    assert rest.held_out == 3  # 0, 4, 8
    held = {room.infos[i].name for i in (0, 4, 8)}
    found = refine_poses(
        rest, odometry_poses(rest), SMALL_SFM, tmp_path / "work", "odometry", odometry=True
    )
    assert found.held_out == 3
    assert {i.name for i in found.infos} == {i.name for i in room.infos} - held
    frame = next(found.frames([2]))
    assert frame.name == found.infos[2].name == room.infos[3].name
    assert (frame.image == next(room.frames([3])).image).all()


def test_a_single_image_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match="has one image"):
        without_holdout(ToyRoom(1), 5)


def test_every_recording_holds_out_frames_of_its_own(tmp_path: Path) -> None:
    """So that each can be evaluated alone, with the same number."""
    first = RobotBag().write(tmp_path / "first")
    second = RobotBag().write(tmp_path / "second")
    count = len(open_recording(first))
    both = open_for_mapping(
        [first, second], RecordingOptions(), "given", SMALL_SFM, tmp_path / "w", holdout_every=3
    )
    left = [i for i in range(count) if i % 3]
    assert len(both) == 2 * len(left)
    names = [info.name for info in open_recording(second).infos]
    assert [info.name for info in both.infos][len(left) :] == [f"second/{names[i]}" for i in left]


def test_a_recording_with_poses_keeps_held_out_frames_to_be_watched(tmp_path: Path) -> None:
    """Training holds them out itself and tests the map with some of them meanwhile."""
    bag = RobotBag().write(tmp_path / "bag")
    whole = open_for_mapping(
        [bag], RecordingOptions(), "given", SMALL_SFM, tmp_path / "w", holdout_every=3
    )
    assert whole.held_out == 0 and len(whole) == len(open_recording(bag))
