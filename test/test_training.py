"""Training in a toy room: it works, it repeats itself, and it survives being stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from box_room import BoxRoom
from safetensors import safe_open
from torch import Tensor
from toy_map import HELD_OUT, SMALL, STEPS, TINY
from toy_room import CAMERA, ToyRoom

from crossfire_core.config import LocalizationConfig, TrainingConfig
from crossfire_core.errors import CrossfireError, TrainingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.mask import Mask
from crossfire_core.localization.finder import Stopwatch
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.matching import CellMatches, match_points
from crossfire_core.localization.pose_solver import SolvedPose, solve_pose
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.patches import SIDE, Patches
from crossfire_core.recordings.frame import Frame
from crossfire_core.training.checkpoint import checkpoint_path
from crossfire_core.training.descriptor_stage import measure_surfaces
from crossfire_core.training.progress import Progress
from crossfire_core.training.schedule import Budget, Course, rate_factor
from crossfire_core.training.selection import select_frames
from crossfire_core.training.trainer import train_map


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is split by the number of threads, so results are compared at one number of them."""
    monkeypatch.setenv("CROSSFIRE_THREADS", "2")


# -- the toy room ------------------------------------------------------------------------------


@pytest.fixture
def trained(toy_map: Path) -> NeuralMap:
    assert not checkpoint_path(toy_map).exists()
    return NeuralMap.load(toy_map, device="cpu")


def errors_of(neural_map: NeuralMap, with_prior: bool) -> np.ndarray:
    """Errors ``[frames, 2]`` in metres and degrees on the frames that were held out."""
    localizer = Localizer(neural_map, LocalizationConfig(points_along=48, min_inliers=30))
    views = [v.map_from_camera for v in neural_map.header.views]
    errors = []
    for frame in ToyRoom(30).frames(range(0, 30, HELD_OUT)):
        truth = frame.world_from_camera
        assert truth is not None
        prior = min(views, key=lambda p: sum(p.distance(truth))) if with_prior else None
        found = localizer.localize(frame.image, frame.camera, prior)
        pose = found.map_from_camera
        errors.append(pose.distance(truth) if pose is not None else (np.inf, np.inf))
    return np.array(errors) * [1.0, 180 / np.pi]


@pytest.mark.parametrize("with_prior", [True, False], ids=["prior", "retrieval"])
def test_held_out_images_are_localized(trained: NeuralMap, with_prior: bool) -> None:
    metres, degrees = np.median(errors_of(trained, with_prior), axis=0)
    assert metres < 0.08  # of a room of 3 m, seen in 160 x 120 pixels
    assert degrees < 2.5


def test_a_search_goes_on_until_a_place_proves_itself(
    trained: NeuralMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first place has the matches of a pose, of which no patch knows anything."""
    localizer = Localizer(trained, LocalizationConfig(min_inliers=30))
    frame = next(iter(ToyRoom(30).frames([0])))
    truth = frame.world_from_camera
    assert truth is not None
    dense = localizer.finder.describe(frame.image, frame.camera)
    real = localizer.finder.refine(dense, frame.camera, truth, (0.1, 0.1), 2, Stopwatch(), True)
    assert real.ok and real.details is not None
    beside = truth @ Pose.exp(np.array([0.3, 0.0, 0.2, 0.0, 0.3, 0.0]))
    few = replace(real.details, inlier=np.arange(len(real.details.inlier)) % 40 == 0)
    wrong = replace(real, map_from_camera=beside, details=few)
    monkeypatch.setattr(localizer.finder, "search", lambda *_: iter([wrong, real, wrong]))
    found = localizer.localize(frame.image, frame.camera)
    assert found.ok and found.map_from_camera is not None
    assert found.map_from_camera.distance(truth)[0] < 0.08
    monkeypatch.setattr(localizer.finder, "search", lambda *_: iter([wrong]))
    assert not localizer.localize(frame.image, frame.camera).ok


def test_poses_that_contradict_each_other_make_answers_less_sure(trained: NeuralMap) -> None:
    """The recording's poses are off by 15 cm by chance: no answer in its frame is surer."""
    rng = np.random.default_rng(0)
    shaken = tuple(
        replace(v, recorded=v.map_from_camera @ Pose.exp((*rng.normal(0, 0.15, 3), 0, 0, 0)))
        for v in trained.header.views
    )
    header = replace(trained.header, views=shaken)
    off = NeuralMap(header, trained.field, trained.network, trained.places)
    frame = next(iter(ToyRoom(30).frames([0])))
    loose = LocalizationConfig(points_along=48, min_inliers=20)
    variance = []
    for one in (trained, off):
        found = Localizer(one, loose).localize(frame.image, frame.camera, frame.world_from_camera)
        assert found.covariance is not None
        variance.append(np.trace(found.covariance[:3, :3]) / 3)
    assert 0.1 < np.sqrt(variance[1] - variance[0]) < 0.25
    off.header = replace(off.header, covariance_factor=3.0)  # as its training may have found out
    found = Localizer(off, loose).localize(frame.image, frame.camera, frame.world_from_camera)
    assert found.covariance is not None
    assert np.trace(found.covariance[:3, :3]) / 3 == pytest.approx(3.0 * variance[1])


def test_what_was_measured_on_patches_makes_no_match_surer(trained: NeuralMap) -> None:
    """A pose that patches did not finish keeps the covariance of its matches at least."""
    frame = next(iter(ToyRoom(30).frames([0])))
    loose = LocalizationConfig(points_along=48, min_inliers=20, patches=0, min_evidence=0.0)
    one = Patches(
        np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]]), np.ones(1), np.zeros(1, np.int64),
        np.zeros((1, SIDE, SIDE), np.uint8),
    )  # fmt: skip
    traces = {}
    none = Patches.none()
    for factor, patches in ((1.0, one), (0.2, one), (3.0, one), (1.0, none), (0.2, none)):
        header = replace(trained.header, covariance_factor=factor)
        other = NeuralMap(header, trained.field, trained.network, trained.places, patches)
        found = Localizer(other, loose).localize(frame.image, frame.camera, frame.world_from_camera)
        assert found.ok and found.covariance is not None
        traces[factor, len(patches)] = np.trace(found.covariance)
    assert traces[0.2, 1] == pytest.approx(traces[1.0, 1])
    assert traces[3.0, 1] == pytest.approx(3.0 * traces[1.0, 1])
    assert traces[0.2, 0] == pytest.approx(0.2 * traces[1.0, 0])  # measured on matches then


def test_what_no_mapping_camera_saw_takes_no_part(trained: NeuralMap) -> None:
    frame = next(iter(ToyRoom(30).frames([0])))
    everywhere = Localizer(trained).localize(frame.image, frame.camera, frame.world_from_camera)
    assert everywhere.details is not None
    axis = int(np.ptp(everywhere.details.points, axis=0).argmax())
    across = everywhere.details.points[:, axis]
    places, middle = trained.places, float(np.median(across))
    left = places.points[:, axis] < middle
    kept = {k: getattr(places, k)[left] for k in ("points", "point_view")}
    half = replace(places, **kept)
    seen = Localizer(NeuralMap(trained.header, trained.field, trained.network, half)).localize(
        frame.image, frame.camera, frame.world_from_camera
    )
    assert seen.details is not None
    reach = trained.header.box.half_size / 4.0
    assert len(seen.details.points) > 20 and seen.details.points[:, axis].max() < middle + reach
    assert across.max() > middle + reach


def test_another_matcher_and_another_solver_can_be_given(trained: NeuralMap) -> None:
    asked: dict[str, list[int]] = {"matcher": [], "solver": []}

    def every_second(
        descriptors: Tensor, dense: Tensor, centre: Tensor | None, radius: int | None
    ) -> CellMatches:
        found = match_points(descriptors, dense, centre, radius)
        asked["matcher"].append(len(found.index[::2]))
        half = (found.index, found.cell, found.similarity, found.confidence)
        return CellMatches(*(column[::2] for column in half))

    def counted(pixels: np.ndarray, *rest: Any, **options: Any) -> SolvedPose | None:
        asked["solver"].append(len(pixels))
        return solve_pose(pixels, *rest, **options)

    frame = next(iter(ToyRoom(30).frames([0])))
    loose = LocalizationConfig(points_along=48, min_inliers=20)
    localizer = Localizer(trained, loose, matcher=every_second, solver=counted)
    with_prior = localizer.localize(frame.image, frame.camera, frame.world_from_camera)
    steps = len(asked["matcher"])
    assert steps >= with_prior.iterations > 0
    assert with_prior.matches in asked["matcher"]
    localizer.localize(frame.image, frame.camera)  # retrieval asks them too
    assert len(asked["matcher"]) > steps + 1
    assert asked["solver"] == asked["matcher"]


def test_the_map_says_where_it_comes_from(trained: NeuralMap) -> None:
    room = ToyRoom(30)
    names = [v.name for v in trained.header.views]
    assert len(names) == 24
    assert not set(names) & {room.infos[i].name for i in range(0, 30, HELD_OUT)}
    assert trained.header.camera == room.camera
    assert trained.header.provenance["recording"] == "toy room"
    assert trained.header.provenance["pose_source"] == "the formula"
    assert trained.header.base_frame == "chassis"
    assert sum(trained.header.provenance["steps"]) == STEPS
    assert trained.header.provenance["first_weights"] == "random"  # SMALL has another network
    assert trained.header.field == SMALL.field


# -- the same again ----------------------------------------------------------------------------


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def train_tiny(
    path: Path,
    config: TrainingConfig = TINY,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    resume: bool = False,
    seed: int = 0,
    camera: Camera = CAMERA,
) -> dict[str, torch.Tensor]:
    train_map(
        ToyRoom(6, depth=True, camera=camera), path, config,
        Course(100, use_depth=True, resume=resume, device="cpu", seed=seed), on_progress,
    )  # fmt: skip
    return tensors(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFIRE_THREADS", "2")
        return train_tiny(tmp_path_factory.mktemp("tiny") / "tiny.map")


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    differing = [name for name in a if not torch.equal(a[name], b[name])]
    assert not differing


def test_one_seed_gives_one_map(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_equal(train_tiny(tmp_path / "again.map"), tiny)


def test_answers_are_measured_on_frames_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def factor(localizer: Localizer, frames: Iterable[Frame]) -> float:
        asked.extend(frame.name for frame in frames)
        return 2.25

    monkeypatch.setattr("crossfire_core.training.trainer.covariance_factor", factor)
    config = replace(TINY, max_views=5)
    train_map(
        ToyRoom(12, depth=True), tmp_path / "m.map", config,
        Course(150, holdout_every=4, use_depth=True, device="cpu"),
    )  # fmt: skip
    made = NeuralMap.load(tmp_path / "m.map", "cpu").header
    assert made.covariance_factor == 2.25
    held = {f"{i:03d}" for i in range(0, 12, 4)}
    assert set(asked) == {f"{i:03d}" for i in range(12)} - made.trained_on - held != set()


def test_another_seed_gives_another_map(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    other = train_tiny(tmp_path / "other.map", seed=1)
    assert not torch.equal(other["field.geometry.grid"], tiny["field.geometry.grid"])


# -- stopped and resumed -----------------------------------------------------------------------


def stop_in(stage: str, steps: int = 0) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.stage == stage and progress.step >= steps:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize(
    ("stage", "steps"), [("geometry", 40), ("surfaces", 0), ("descriptors", 90), ("finishing", 0)]
)
def test_a_stopped_training_goes_on_to_the_same_map(
    tiny: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    steps: int,
) -> None:
    report_every_step(monkeypatch)
    path = tmp_path / "stopped.map"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(path, on_progress=stop_in(stage, steps))
    assert checkpoint_path(path).exists() and not path.exists()
    assert_equal(train_tiny(path, resume=True), tiny)
    assert not checkpoint_path(path).exists()


def report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told twice a second; here it is told at once, whatever the clock says."""
    from crossfire_core.training.trainer import Trainer

    real = Trainer.report
    monkeypatch.setattr(
        Trainer, "report", lambda self, held_out, force=False: real(self, held_out, True)
    )


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    path = tmp_path / "stopped.map"
    with pytest.raises(KeyboardInterrupt):
        train_tiny(path, on_progress=stop_in("surfaces"))
    return path


def test_resuming_with_other_settings_is_refused(stopped: Path) -> None:
    other = replace(TINY, geometry=replace(TINY.geometry, rays=65))
    with pytest.raises(TrainingError, match="other settings"):
        train_tiny(stopped, other, resume=True)
    with pytest.raises(TrainingError, match="other settings"):
        train_tiny(stopped, resume=True, seed=3)
    usable = np.ones((CAMERA.height, CAMERA.width), bool)
    usable[-8:] = False
    for camera in (replace(CAMERA, mask=Mask(usable)), replace(CAMERA, fx=1.01 * CAMERA.fx)):
        with pytest.raises(TrainingError, match="other settings or another recording"):
            train_tiny(stopped, resume=True, camera=camera)


def test_resuming_from_a_damaged_checkpoint_is_refused(stopped: Path) -> None:
    path = checkpoint_path(stopped)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="damaged"):
        train_tiny(stopped, resume=True)


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        train_tiny(tmp_path / "none.map", resume=True)


def test_a_disk_that_is_full_at_the_end_leaves_the_old_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.map"
    path.write_bytes(b"the map before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CrossfireError, match="No space left"):
        train_tiny(path)
    assert path.read_bytes() == b"the map before"


# -- what cannot be trained on -----------------------------------------------------------------


@pytest.mark.parametrize(
    "room", [ToyRoom(1), ToyRoom(6, posed=False)], ids=["one frame", "no poses"]
)
def test_too_little_to_train_on_is_said(room: ToyRoom, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="too few to train on") as caught:
        train_map(room, tmp_path / "x.map", TINY, Course(10, device="cpu"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_poses_that_do_not_belong_to_the_images_are_noticed(tmp_path: Path) -> None:
    """No clear surface comes of ten steps; the message says what to look at."""
    with pytest.raises(TrainingError, match="no clear surfaces"):
        train_map(ToyRoom(4), tmp_path / "x.map", TINY, Course(3, device="cpu"))


# -- the parts ---------------------------------------------------------------------------------


def test_held_out_frames_are_never_trained_on() -> None:
    room = ToyRoom(40)
    chosen = select_frames(room.infos, max_views=10, holdout_every=4)
    held = set(range(0, 40, 4))
    assert len(chosen.mapping) <= 10 and not held & set(chosen.mapping)
    assert chosen.test and set(chosen.test) <= held
    assert chosen.spare == tuple(sorted({*range(40)} - held - {*chosen.mapping}))
    everything = select_frames(room.infos, max_views=100)
    assert everything.mapping == tuple(range(40)) and everything.test == everything.spare == ()
    few = select_frames(ToyRoom(120).infos, max_views=10).spare
    assert len(few) == len(set(few)) == 48 and np.ptp(few) > 100  # all over the recording


def test_kept_views_are_spread_over_the_path() -> None:
    """A robot that stood still for most of a recording is not mapped from that spot alone."""
    moving = ToyRoom(20).infos
    standing = [moving[0]] * 180
    chosen = select_frames([*standing, *moving], max_views=15)
    assert sum(i >= 180 for i in chosen.mapping) >= 12


def test_surfaces_that_a_wide_lens_sees_beside_and_behind_itself() -> None:
    """Between nodes of the grid points lie on the walls, and nothing torn is clear."""

    class Room(BoxRoom):
        device = "cpu"

    camera = Camera(64, 64, 36.0, 36.0, 32.0, 32.0, "omni", (1.4, -0.05, 0.01, 0.0, 0.0))
    crate = ((-1.2, -0.5, 0.6), (-0.7, 0.1, 1.4), (1.0, 0.0, 0.0))  # behind the camera
    room = Room((crate,))
    forward = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.2, 0.1, 1.1]))
    view = SimpleNamespace(camera=camera, map_from_camera=forward)
    surfaces = measure_surfaces(room, [view], 32)
    pixels = np.random.default_rng(0).uniform(8, 56, (4000, 2))
    true = room.surface(room.rays(camera, forward, pixels))[0].numpy()
    found, clear = surfaces.at(0, torch.tensor(pixels))
    angle = np.degrees(np.arccos(camera.bearings(pixels)[:, 2]))
    off = np.linalg.norm(found.numpy() - true, axis=1) / np.linalg.norm(
        true - forward.translation, axis=1
    )
    for part in (angle < 80, (angle > 85) & (angle < 95), angle > 100):
        kept = part & clear.numpy()
        assert kept.sum() > 0.5 * part.sum()
        assert np.median(off[kept]) < 0.0025 and np.quantile(off[kept], 0.9) < 0.01


def test_a_budget_counts_steps_or_seconds() -> None:
    steps = Budget(4, None)
    steps.start()
    for done in range(4):
        assert not steps.over and steps.fraction == done / 4
        steps.advance()
    assert steps.over
    now = [100.0]
    seconds = Budget(None, 10.0, clock=lambda: now[0])
    seconds.start()
    now[0] += 4.0
    seconds.advance()
    assert seconds.fraction == pytest.approx(0.4) and seconds.seconds_left == pytest.approx(6.0)
    again = Budget(None, 10.0, spent=seconds.spent, clock=lambda: now[0])
    now[0] += 1000.0  # while the program did not run
    again.start()
    now[0] += 7.0
    again.advance()
    assert again.over


def test_rates_rise_then_fall() -> None:
    rates = [rate_factor(f, 0.1, 0.03) for f in np.linspace(0, 1, 101)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(rates[10], rel=0.05)
    assert rates[-1] == pytest.approx(0.03)
    assert all(a > b for a, b in pairwise(rates[11:]))


FAR = np.array([500_000.0, 5_400_000.0, 250.0])  # UTM, where single precision has steps of 0.5 m


def test_far_from_its_frames_origin_a_map_has_an_origin_of_its_own(tmp_path: Path) -> None:
    room = ToyRoom(12, depth=True)
    moved = PosedRecording(room, [pose.shifted(FAR) for pose in room.poses], "shifted")
    near, far = (
        train_map(
            source, tmp_path / "a.map", TINY, Course(100, use_depth=True, device="cpu")
        ).header
        for source in (room, moved)
    )
    assert near.origin == (0.0, 0.0, 0.0)
    assert np.abs(np.array(far.origin) - FAR).max() < 5.0
    assert NeuralMap.load(tmp_path / "a.map", device="cpu").header.origin == far.origin
    for a, b in zip(near.views, far.views, strict=True):
        assert a.map_from_camera.distance(b.map_from_camera.shifted(-FAR))[0] < 1e-4
    middle = np.array(near.box.centre) - np.array(far.box.centre)
    np.testing.assert_allclose(middle, np.array(far.origin) - FAR, atol=1e-3)


def test_answers_far_from_the_origin_are_those_at_the_origin(trained: NeuralMap) -> None:
    views = tuple(
        replace(
            view,
            map_from_camera=view.map_from_camera.shifted(FAR),
            recorded=view.recorded and view.recorded.shifted(FAR),
        )
        for view in trained.header.views
    )
    header = replace(trained.header, views=views, origin=(FAR[0], FAR[1], FAR[2]))
    away = NeuralMap(header, trained.field, trained.network, trained.places, trained.patches)
    frame = next(iter(ToyRoom(30).frames([0])))
    truth = frame.world_from_camera
    assert truth is not None
    loose = LocalizationConfig(points_along=48, min_inliers=20, min_evidence=0.0)
    for prior in (truth, None):
        here = Localizer(trained, loose).localize(frame.image, frame.camera, prior)
        there = Localizer(away, loose).localize(
            frame.image, frame.camera, prior and prior.shifted(FAR)
        )
        assert here.map_from_camera is not None and there.map_from_camera is not None
        assert here.map_from_camera.distance(there.map_from_camera.shifted(-FAR))[0] < 1e-3
        assert here.details is not None and there.details is not None
        off = there.details.points.mean(axis=0) - FAR - here.details.points.mean(axis=0)
        assert np.abs(off).max() < 0.01
