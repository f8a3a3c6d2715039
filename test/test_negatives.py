"""Images of other places: what counts as right, wrong and sure, and what a map is asked."""

import json

import numpy as np
import pytest

from crossfire_core.evaluation import benchmark, intruder, negatives
from crossfire_core.evaluation.negatives import Answer, Row
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.recordings import Frame
from crossfire_core.recordings.lazy import FrameInfo, Recording

INF, NAN = float("inf"), float("nan")
CAMERA = Camera(16, 12, 12.0, 12.0, 8.0, 6.0)


def at(x):
    return Pose(np.eye(3), np.array([x, 0.0, 0.0]))


class Pictures(Recording):
    """Frames whose red value is the colour of the place; one every half metre along x."""

    def __init__(self, colour, count, name="pictures"):
        self.colour, self.name = colour, name
        self.count = count

    @property
    def infos(self):
        return [
            FrameInfo(str(i), 10**9 + i, CAMERA, at(0.5 * i)) for i in range(self.count)
        ]  # fmt: skip

    def frames(self, indices):
        generator = np.random.default_rng(5)
        for i in sorted(set(indices)):
            info = self.infos[i]
            image = generator.integers(0, 255, (12, 16, 3)).astype(np.uint8)
            image[..., 0] = self.colour
            image[0, 0] = i
            yield Frame(info.name, image, CAMERA, info.stamp_ns, info.world_from_camera)


class Believer:
    """Knows places by colour; ``gullible`` ones it takes for its own as well."""

    def __init__(self, home, gullible=(), sigma=0.01):
        self.home, self.gullible, self.sigma = home, gullible, sigma

    def localize(self, image, camera, prior=None, **_):
        colour, index = int(image[1, 1, 0]), int(image[0, 0, 0])
        known = colour == self.home or colour in self.gullible
        inliers = 90 if colour == self.home else 45
        covariance = np.eye(6) * self.sigma**2
        pose = at(0.5 * index)
        said = "" if known else "unknown"
        return PoseEstimate(
            known, said, pose, covariance, inliers, 100, 1.0, 0.02, evidence=30.0 if known else 0.0
        )


def answer(certainty, error=INF, answered=True, sigma=NAN, recording="other"):
    return Answer(recording, "1", answered, certainty, error, sigma)


def test_only_a_pose_near_the_truth_is_right_and_a_wrong_one_is_worse_when_it_is_sure():
    assert answer(1, 0.5).right and not answer(1, 0.51).right
    assert not answer(0, NAN).right and not answer(0, NAN).elsewhere
    assert answer(1, 0.6, sigma=0.09).surely_wrong
    assert not answer(1, 0.6, sigma=0.11).surely_wrong
    assert not answer(1, 0.6).surely_wrong  # it claims nothing
    assert not answer(1, 0.4, sigma=0.01).surely_wrong
    assert answer(1, sigma=0.01).surely_wrong and not answer(1, answered=False).surely_wrong


def test_the_curve_counts_what_each_gate_lets_in():
    own = (answer(9, 0.1), answer(5, 0.1), answer(2, 0.1, answered=False), answer(7, 3.0))
    others = (answer(4), answer(1, answered=False), answer(6, NAN, answered=False))
    row = Row("room", "CROSSFIRE", own, others)
    np.testing.assert_allclose(
        row.curve,
        [
            [9, 0.25, 0], [7, 0.25, 0], [6, 0.25, 0], [5, 0.5, 0],
            [4, 0.5, 1 / 3], [2, 0.75, 1 / 3], [1, 0.75, 2 / 3],
        ],
    )  # fmt: skip
    assert row.found_without_false == 0.5
    figures = row.to_json()
    assert (figures["found"], figures["wrong_queries"], figures["queries"]) == (2, 1, 4)
    assert (figures["others_answered"], figures["others"]) == (1, 3)
    assert Row("room", "SIFT", (answer(1, 0.1),), (answer(2),)).found_without_false == 0.0


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Two scenes and a lookalike, told apart by colour; maps and recordings are made up."""
    colours = {"a/map": 10, "a/query": 10, "a/twin": 11, "b": 20}
    scenes = (
        benchmark.Scene("a", "a/map", "a/query", lookalikes=("a/twin",)),
        benchmark.Scene("b", "b", holdout_every=5),
    )
    monkeypatch.setitem(benchmark.SUITES, "negatives", scenes)
    for path in colours:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)

    def opened(path, options=None):
        name = str(path.relative_to(tmp_path))
        return Pictures(colours[name], 30, name)

    monkeypatch.setattr(benchmark, "open_recording", opened)
    monkeypatch.setattr(negatives, "open_recording", opened)
    return tmp_path


def _plan(world, **given):
    return benchmark.Plan("negatives", (), ("crossfire",), world, world / "work", **given)


def test_every_map_is_asked_about_all_other_places_and_lookalikes_come_with_a_drive(
    world, monkeypatch
):
    believers = {"a": Believer(10, gullible=(11,)), "b": Believer(20)}
    monkeypatch.setattr(benchmark, "prepare", lambda scene, *_: (believers[scene.name], 1))
    outcome = list(negatives.run(_plan(world), 3, lambda text: None))[-1]
    first, second = outcome.rows
    assert first.by_recording() == {"a/twin": (10, 10), "b": (0, 10)}
    assert second.by_recording() == {"a/map": (0, 10), "a/query": (0, 10), "a/twin": (0, 10)}
    assert first.to_json()["found"] == 30 and second.to_json()["queries"] == 6  # held out
    assert first.to_json()["surely_wrong"] == 10 and second.to_json()["surely_wrong"] == 0
    # its lookalikes are less sure than its own images: a gate would have kept them out
    assert first.found_without_false == 1.0
    (drive,) = outcome.live
    assert (drive.scene, drive.recording, drive.images) == ("a", "a/twin", 10)

    page = negatives.write_results(outcome, _plan(world), 3)
    stored = json.loads((world / "work" / "negatives.json").read_text())
    assert stored["every"] == 3 and stored["rows"][0]["others_answered"] == 10
    assert "10/10" in (world / "work" / "negatives.md").read_text()
    assert "<figcaption>a<" in page.read_text()
    assert (world / "work" / "a_negatives.png").exists()


def test_a_method_without_its_package_is_left_out_and_says_so(world, monkeypatch):
    from crossfire_core.errors import MissingDependencyError

    def missing(*_):
        raise MissingDependencyError("install it")

    monkeypatch.setattr(benchmark, "prepare", missing)
    outcome = list(negatives.run(_plan(world), 1, lambda text: None))[-1]
    assert [row.skipped for row in outcome.rows] == ["install it"] * 2
    assert "install it" in negatives.markdown(outcome)


def test_maps_that_are_there_are_used_and_others_trained(world, monkeypatch):
    from crossfire_core.localization import localizer
    from crossfire_core.maps import neural_map
    from crossfire_core.training import trainer

    trained, loaded, backends = [], [], set()

    class Quiet:
        def __init__(self, *_):
            pass

        def warm_up(self):
            pass

    def train(recording, path, config, course, on_progress):
        trained.append(path)
        backends.add(config.backend)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")

    monkeypatch.setattr(trainer, "train_map", train)

    def load(path, device, backend):
        loaded.append(path)
        backends.add(backend)

    monkeypatch.setattr(neural_map.NeuralMap, "load", load)
    monkeypatch.setattr(localizer, "Localizer", Quiet)
    maps = world / "maps"
    maps.mkdir()
    (maps / "a.map").write_bytes(b"old")
    plan = _plan(world, maps=maps, backend="torch")
    for scene in plan.chosen_scenes():
        benchmark.prepare(scene, "crossfire", benchmark.split(scene, plan), plan, print)
    assert loaded == [maps / "a.map", plan.work / "b.map"] and backends == {"torch"}
    assert trained == [plan.work / "b.map"] and (maps / "a.map").read_bytes() == b"old"


def test_poses_that_a_tracker_publishes_in_another_place_are_counted():
    home = Pictures(10, 12)
    honest = intruder.intrude(Believer(10), "a", "b", home, Pictures(11, 30))
    assert honest.fixes_before >= 10 and honest.images == 30
    assert honest.wrong_fixes == 0
    fooled = intruder.intrude(Believer(10, gullible=(11,)), "a", "b", home, Pictures(11, 30))
    assert fooled.wrong_fixes > 0
