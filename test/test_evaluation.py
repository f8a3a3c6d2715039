import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfire_core.errors import ConfigError, RecordingError
from crossfire_core.evaluation.disturbances import DISTURBANCES
from crossfire_core.evaluation.evaluate import EvaluationOptions, evaluate
from crossfire_core.evaluation.metrics import (
    Alignment,
    FrameError,
    align,
    aligned,
    pose_error,
    position_sigma,
    recall,
    summarize,
)
from crossfire_core.evaluation.report import MapView, worst_first, write_report
from crossfire_core.files import write_bytes
from crossfire_core.geometry import Camera, Pose, Trajectory
from crossfire_core.localization.estimate import WIDE, Matches, PoseEstimate
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo, Recording
from crossfire_core.reports import pictures
from crossfire_core.training.selection import select_frames

CAMERA = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)


def path_pose(step: int) -> Pose:
    return Pose.exp([0.1 * step, 0.02 * step**1.5, 0.05, 0.01 * step, 0.03 * step, 0.0])


class FakeRecording(Recording):
    """A straight path; the image's first pixel is the number of the frame."""

    name = "fake"
    world_frame = "map"
    base_from_camera = Pose.exp([0.1, 0.0, 0.2, 0.0, 0.0, 1.5])

    def __init__(self, count=12, posed=lambda i: True, odometry=True):
        self.count, self.posed, self.has_odometry = count, posed, odometry

    @property
    def infos(self):
        return [
            FrameInfo(f"f{i:03d}", i * 100_000_000, CAMERA, path_pose(i) if self.posed(i) else None)
            for i in range(self.count)
        ]

    def frames(self, indices):
        infos = self.infos
        for i in sorted(set(indices)):
            image = np.full((48, 64, 3), 40, np.uint8)
            image[0, 0] = i
            info = infos[i]
            yield Frame(info.name, image, CAMERA, info.stamp_ns, info.world_from_camera)

    def odometry(self):
        if not self.has_odometry:
            return None
        odom_from_map = Pose.exp([1.0, 2.0, 0.0, 0.0, 0.0, 0.7])
        camera_from_base = self.base_from_camera.inverse()
        return Trajectory.from_samples(
            [
                (i * 100_000_000, odom_from_map @ path_pose(i) @ camera_from_base)
                for i in range(self.count)
            ]
        )


class FakeLocalizer:
    """Returns the true pose moved by a known amount; fails on the frames named in ``lost``."""

    def __init__(self, offset=(0.01, 0, 0), lost=(), transform=None):
        self.offset, self.lost = np.array(offset), set(lost)
        self.transform = transform or (lambda pose: pose)
        self.priors = []

    def localize(self, image, camera, prior=None, *, search=WIDE):
        index = int(image[0, 0, 0])
        self.priors.append(prior)
        if index in self.lost:
            return PoseEstimate(False, "too few inliers", timings_ms={"features": 2.0})
        truth = path_pose(index)
        pose = self.transform(Pose(truth.rotation, truth.translation + self.offset))
        pixels = np.array([[10.5, 10.5], [40.5, 30.5]])
        matches = Matches(
            pixels, pose.apply(camera.bearings(pixels) * 2), np.ones(2), np.array([True, False])
        )
        return PoseEstimate(
            True,
            "",
            pose,
            np.eye(6) * 1e-4,
            inliers=1,
            matches=2,
            timings_ms={"features": 2.0, "render": 3.0},
            details=matches,
        )


class FakeRenderer:
    """A wall two metres ahead of every camera."""

    def render(self, camera, map_from_camera):
        shape = (camera.height, camera.width)
        return type(
            "Rendering",
            (),
            {
                "colour": np.full((*shape, 3), 0.5, np.float32),
                "z_depth": np.full(shape, 2.0, np.float32),
                "opacity": np.ones(shape, np.float32),
            },
        )()


def error(metres, degrees, localized=True, name="f"):
    return FrameError(
        name, 0, localized, "", Pose.identity(), Pose.identity(), metres, degrees, timings_ms={}
    )


def test_summary_has_the_agreed_keys_and_counts_failures_as_misses():
    localizer = FakeLocalizer(offset=(0.03, 0, 0), lost=(2, 5, 7))
    summary = evaluate(localizer, FakeRecording(12), map_bytes=1234).summary()
    assert set(summary) == {
        "frames",
        "localized",
        "median_translation_m",
        "median_rotation_deg",
        "median_over",
        "recall",
        "normalized_error",
        "latency_ms",
        "map_bytes",
    }
    assert (summary["frames"], summary["localized"], summary["map_bytes"]) == (12, 9, 1234)
    assert summary["median_translation_m"] == pytest.approx(0.03)
    assert summary["median_rotation_deg"] == pytest.approx(0.0, abs=1e-5)
    assert summary["recall"] == {
        "2cm/2deg": 0.0,
        "5cm/5deg": 0.75,
        "25cm/5deg": 0.75,
        "1m/10deg": 0.75,
    }
    assert summary["latency_ms"]["by_stage"] == {"features": 2.0, "render": 3.0}
    assert summary["latency_ms"]["p95"] >= summary["latency_ms"]["median"] > 0


def test_nothing_localized_gives_null_medians_and_zero_recall():
    summary = evaluate(FakeLocalizer(lost=range(5)), FakeRecording(5)).summary()
    assert summary["localized"] == 0
    assert summary["median_translation_m"] is None
    assert set(summary["recall"].values()) == {0.0}
    json.dumps(summary, allow_nan=False)


def test_a_rejected_pose_is_no_hit_however_close_it_is():
    assert recall([error(0.0, 0.0, localized=False), error(0.0, 0.0)], 0.02, 2.0) == 0.5


def test_both_thresholds_must_hold():
    assert recall([error(0.01, 3.0), error(0.03, 1.0), error(0.01, 1.0)], 0.02, 2.0) == 1 / 3


def test_retrieval_never_passes_a_prior():
    localizer = FakeLocalizer()
    evaluate(localizer, FakeRecording(4))
    assert localizer.priors == [None] * 4


def test_previous_passes_the_last_pose_and_searches_after_a_failure():
    localizer = FakeLocalizer(offset=(0, 0, 0), lost=(2,))
    evaluate(localizer, FakeRecording(5), EvaluationOptions(prior="previous"))
    first, second, third, fourth, fifth = localizer.priors
    assert first is None and fourth is None
    assert second.distance(path_pose(0)) == pytest.approx((0, 0), abs=1e-6)
    assert third.distance(path_pose(1)) == pytest.approx((0, 0), abs=1e-6)
    assert fifth.distance(path_pose(3)) == pytest.approx((0, 0), abs=1e-6)


def test_odometry_moves_the_last_pose_to_where_the_camera_is_now():
    localizer = FakeLocalizer(offset=(0, 0, 0))
    evaluate(localizer, FakeRecording(6), EvaluationOptions(prior="odometry"))
    assert localizer.priors[0] is None
    for index, prior in enumerate(localizer.priors[1:], 1):
        assert prior.distance(path_pose(index)) == pytest.approx((0, 0), abs=1e-6)


def test_odometry_that_the_recording_lacks_is_an_error_that_names_the_way_out():
    with pytest.raises(RecordingError, match="--start-from previous"):
        evaluate(
            FakeLocalizer(), FakeRecording(odometry=False), EvaluationOptions(prior="odometry")
        )


def test_frames_without_truth_take_no_part_and_none_at_all_is_an_error():
    evaluation = evaluate(FakeLocalizer(), FakeRecording(9, posed=lambda i: i % 3 == 0))
    assert [e.name for e in evaluation.errors] == ["f000", "f003", "f006"]
    with pytest.raises(RecordingError, match="no image with a pose"):
        evaluate(FakeLocalizer(), FakeRecording(3, posed=lambda i: False))


def test_holdout_takes_exactly_the_frames_that_training_leaves_out():
    selection = select_frames(FakeRecording(12).infos, 1000, 5)
    trained = frozenset(f"f{i:03d}" for i in selection.mapping)
    options = EvaluationOptions(holdout_every=5)
    evaluation = evaluate(FakeLocalizer(), FakeRecording(12), options, trained=trained)
    assert len(evaluation.errors) == 12 - len(trained) >= 2


def test_frames_that_were_trained_on_never_count_as_held_out():
    options = EvaluationOptions(holdout_every=4)
    everything = [f"f{i:03d}" for i in range(12)]
    for names in (everything, [f"{FakeRecording(12).name}/{name}" for name in everything]):
        with pytest.raises(RecordingError, match="kept out of training"):
            evaluate(FakeLocalizer(), FakeRecording(12), options, trained=frozenset(names))


@pytest.mark.parametrize("bad", [{"prior": "gps"}, {"align": "affine"}, {"holdout_every": 1}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        evaluate(FakeLocalizer(), FakeRecording(4), EvaluationOptions(**bad))


def test_progress_is_reported_once_a_frame():
    seen = []
    evaluate(FakeLocalizer(), FakeRecording(4), on_frame=lambda i, n, e: seen.append((i, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_similarity_alignment_undoes_a_map_of_another_scale_and_frame():
    away = Pose.exp([3.0, -1.0, 0.5, 0.3, 0.8, -0.2])

    def foreign(pose):
        return Pose(away.rotation @ pose.rotation, away.apply(2.5 * pose.translation))

    localizer = FakeLocalizer(offset=(0, 0, 0), transform=foreign)
    options = EvaluationOptions(align="similarity")
    evaluation = evaluate(localizer, FakeRecording(12), options)
    assert evaluation.alignment.scale == pytest.approx(1 / 2.5)
    assert max(e.translation_m for e in evaluation.errors) < 1e-6
    assert max(e.rotation_deg for e in evaluation.errors) < 1e-4
    inside = evaluation.errors_in_map()[5]
    assert inside.estimate.distance(foreign(path_pose(5))) == pytest.approx((0, 0), abs=1e-6)


poses = st.lists(
    st.lists(st.floats(-2, 2, allow_nan=False), min_size=6, max_size=6).map(Pose.exp),
    min_size=4,
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(poses, st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(Pose.exp))
def test_rigid_alignment_recovers_any_transform(truths, away):
    result = align([away @ t for t in truths], truths)
    for truth in truths:
        assert result.apply(away @ truth).distance(truth) == pytest.approx((0, 0), abs=1e-5)
        there_and_back = result.inverse().apply(result.apply(truth))
        assert there_and_back.distance(truth) == pytest.approx((0, 0), abs=1e-5)


def test_alignment_of_cameras_on_a_line_keeps_their_orientation():
    truths = [Pose(np.eye(3), np.array([0.1 * i, 0, 0])) for i in range(10)]
    away = Pose.exp([1, 2, 3, 0.5, -0.4, 0.3])
    result = align([away @ t for t in truths], truths)
    assert result.pose.distance(away.inverse()) == pytest.approx((0, 0), abs=1e-5)


def test_alignment_leaves_outliers_out():
    truths = [path_pose(i) for i in range(20)]
    estimates = list(truths)
    estimates[7] = Pose(truths[7].rotation, truths[7].translation + np.array([0, 0, 5.0]))
    result = align(estimates, truths)
    assert result.pose.distance(Pose.identity()) == pytest.approx((0, 0), abs=1e-6)


def test_alignment_of_two_frames_is_refused():
    with pytest.raises(RecordingError, match="three pairs"):
        evaluate(FakeLocalizer(), FakeRecording(2), EvaluationOptions(align="rigid"))


def test_normalized_error_is_six_where_the_covariance_is_right_before_and_after_alignment():
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(6, 6)) * 1e-3
    covariance = factor @ factor.T + 1e-7 * np.eye(6)
    errors = []
    for i in range(400):
        truth = path_pose(i % 12)
        step = rng.multivariate_normal(np.zeros(6), covariance)
        turn = Pose.exp([0, 0, 0, *step[3:]]).rotation
        estimate = Pose(turn @ truth.rotation, truth.translation + step[:3])
        metres, degrees = pose_error(estimate, truth)
        errors.append(
            FrameError(str(i), i, True, "", truth, estimate, metres, degrees, covariance=covariance)
        )
    honest = summarize(errors, 0)["normalized_error"]
    assert honest["mean"] == pytest.approx(6.0, abs=0.6)
    assert honest["in_90"] == pytest.approx(0.9, abs=0.05)
    away = Alignment(Pose.exp([3.0, -1.0, 2.0, 0.4, -0.8, 1.1]), 2.5)
    elsewhere = [replace(e, estimate=away.inverse().apply(e.estimate)) for e in errors]
    turned = np.kron(np.diag([1 / 2.5, 1.0]), away.pose.rotation.T)
    elsewhere = [replace(e, covariance=turned @ covariance @ turned.T) for e in elsewhere]
    back, _ = aligned(elsewhere, with_scale=True)
    assert summarize(back, 0)["normalized_error"]["mean"] == pytest.approx(6.0, abs=0.6)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbances_change_much_of_an_image_and_always_in_the_same_way(name):
    image = np.random.default_rng(0).integers(40, 200, (96, 128, 3), dtype=np.uint8)
    first, again = DISTURBANCES[name](image, 5), DISTURBANCES[name](image, 5)
    np.testing.assert_array_equal(first, again)
    assert first.shape == image.shape and first.dtype == np.uint8
    assert (np.abs(first.astype(int) - image).max(axis=2) > 8).mean() > 0.15


def test_pose_error_without_an_estimate_is_nan():
    assert all(math.isnan(v) for v in pose_error(None, Pose.identity()))


def test_position_sigma_is_the_worst_axis():
    assert position_sigma(np.diag([1e-4, 4e-4, 9e-4, 1, 1, 1])) == pytest.approx(0.03)
    assert math.isnan(position_sigma(None))
    assert math.isnan(position_sigma(np.full((6, 6), np.nan)))


def test_worst_frames_are_the_lost_ones_then_the_farthest_off():
    errors = [
        error(0.1, 1, name="a"),
        error(0.5, 1, name="b"),
        error(math.nan, math.nan, localized=False, name="c"),
    ]
    assert [e.name for e in worst_first(errors)] == ["c", "b", "a"]


def test_report_is_one_page_with_its_pictures_and_png_files_that_open(tmp_path):
    recording, localizer = FakeRecording(8), FakeLocalizer(lost=(3,))
    evaluation = evaluate(localizer, recording, map_bytes=10, context={"map": "<room>.map"})
    view = MapView(FakeRenderer(), CAMERA, [path_pose(i) for i in range(8)])
    page = write_report(tmp_path / "out", evaluation, recording, localizer, view).read_text()
    assert "&lt;room&gt;.map" in page and "<room>" not in page
    assert "http" not in page.replace("<!doctype html>", "")
    names = {p.stem for p in (tmp_path / "out").glob("*.png")}
    assert {"trajectory", "error_over_time", "error_curve", "worst_1", "rendered_1"} <= names
    assert page.count("data:image/png;base64,") == len(names)
    for path in (tmp_path / "out").glob("*.png"):
        assert cv2.imread(str(path)).std() > 0, path
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert stored["frames"] == 8 and len(stored["per_frame"]) == 8


def test_report_without_a_renderer_or_any_localized_frame_still_comes(tmp_path):
    recording, localizer = FakeRecording(4), FakeLocalizer(lost=range(4))
    evaluation = evaluate(localizer, recording)
    page = write_report(tmp_path, evaluation, recording, localizer).read_text()
    assert "0 of 4" in page and "too few inliers" in page


def test_summary_of_summaries_is_deterministic():
    runs = [evaluate(FakeLocalizer(), FakeRecording(5)) for _ in range(2)]
    first, second = ([e.translation_m for e in run.errors] for run in runs)
    assert first == second
    assert summarize(runs[0].errors, 0)["recall"] == summarize(runs[1].errors, 0)["recall"]


def test_matches_are_drawn_where_they_are():
    image = np.zeros((48, 64, 3), np.uint8)
    pixels = np.array([[20.5, 10.5], [50.5, 40.5]])
    points = CAMERA.bearings(pixels) * 3.0
    matches = Matches(pixels, points, np.ones(2), np.array([True, False]))
    drawn = pictures.draw_matches(image, CAMERA, Pose.identity(), matches)
    assert tuple(drawn[10, 20]) == pictures.INLIER
    assert tuple(drawn[40, 50]) == pictures.OUTLIER
    assert image.max() == 0


def test_view_from_above_shows_the_wall_where_it_is():
    poses = [Pose(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3))]  # looks along y
    view = pictures.view_from_above(FakeRenderer(), CAMERA, poses)
    left, right, bottom, top = view.extent
    assert bottom < 2.0 < top and left < 0 < right
    np.testing.assert_allclose(pictures.up_direction(poses), [0, 0, 1])
    np.testing.assert_allclose(view.plane_from_map, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_depth_picture_is_white_where_nothing_is_known():
    depth = np.array([[0.0, np.nan], [1.0, 2.0]])
    drawn = pictures.depth_colours(depth)
    assert (drawn[0] == 255).all() and not (drawn[1] == 255).all()


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path):
    target = tmp_path / "report.json"
    write_bytes(target, b"old")
    with pytest.raises(TypeError):
        write_bytes(target, "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
