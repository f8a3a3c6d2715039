"""Bundle adjustment from poses that are nearly right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossfire_core.evaluation.metrics import fit
from crossfire_core.geometry import Camera, Pose
from crossfire_core.vision.adjustment import (
    Prior,
    Sightings,
    adjust,
    adjust_gently,
    depth_sigmas,
    join_matches,
)
from crossfire_core.vision.local_features import LocalFeatures

CAMERA = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)


def path(count: int) -> list[Pose]:
    """To and fro before a wall, looking around."""
    poses = []
    for i in range(count):
        phase = 2 * np.pi * i / count
        turn = Pose.exp((0, 0, 0, 0.1 * np.sin(3 * phase), 0.3 * np.sin(phase), 0.05))
        poses.append(Pose(turn.rotation, np.array([1.2 * np.sin(phase), 0.3 * np.cos(phase), 0])))
    return poses


def sightings(poses: list[Pose], wrong: float = 0.0) -> Sightings:
    """What the cameras see of points before them, with half a pixel of noise."""
    rng = np.random.default_rng(4)
    points = rng.uniform([-3, -2, 2.5], [3, 2, 5], (150, 3))
    lines = []
    for view, pose in enumerate(poses):
        pixels = CAMERA.project(pose.inverse().apply(points))
        inside = np.flatnonzero(((pixels > 0) & (pixels < CAMERA.size)).all(axis=1))
        pixels = pixels[inside] + rng.normal(0, 0.5, (len(inside), 2))
        bad = rng.uniform(size=len(inside)) < wrong
        pixels[bad] += rng.uniform(-80, 80, (int(bad.sum()), 2))
        lines += [(view, point, *at) for point, at in zip(inside, pixels, strict=True)]
    table = np.array(lines)
    view, point = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    sights = CAMERA.sights(table[:, 2:])
    seen = Sightings(view, point, point, sights, np.full(len(table), CAMERA.fx))
    return seen.where(np.bincount(point)[point] >= 2)


def errors(poses: list[Pose], truth: list[Pose], with_scale: bool = False) -> np.ndarray:
    """Median error in metres and degrees after the alignment that is left open."""
    found = fit(poses, truth, with_scale)
    parts = [found.apply(a).distance(b) for a, b in zip(poses, truth, strict=True)]
    return np.median(parts, axis=0) * [1.0, 180 / np.pi]


def drifted(truth: list[Pose], scale: float) -> list[Pose]:
    """Odometry: every step a little too long and turned a little."""
    rng = np.random.default_rng(7)
    poses = [truth[0]]
    for a, b in itertools.pairwise(truth):
        step = a.inverse() @ b
        noise = Pose.exp(np.concatenate([rng.normal(0, 0.004, 3), rng.normal(0, 0.01, 3)]))
        poses.append(poses[-1] @ Pose(step.rotation, scale * step.translation) @ noise)
    return poses


def test_drift_is_taken_out_and_the_scale_stays_that_of_the_odometry() -> None:
    truth = path(30)
    start = drifted(truth, scale=1.02)
    found = adjust(start, sightings(truth, wrong=0.03), Prior.of_odometry(start))
    before, after = errors(start, truth, True), errors(found.poses, truth, True)
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.1
    assert fit(found.poses, truth, True).scale == pytest.approx(1 / 1.02, abs=0.01)
    assert found.poses[0].distance(truth[0])[0] < 1e-3  # the map begins where the odometry did
    assert found.median_px[1] < 1.0 < found.median_px[0]
    seen = found.sightings
    sigma = depth_sigmas(found.poses, found.points, seen.view, seen.point, seen.focal)
    assert (sigma > 0).all()
    assert np.median(sigma) < 0.1


def test_a_wrong_mounting_of_the_camera_is_corrected() -> None:
    truth = path(30)
    rng = np.random.default_rng(2)
    off = Pose.exp((0.02, -0.015, 0.01, 0.04, -0.03, 0.03))
    start = [t @ off @ Pose.exp(rng.normal(0, 0.005, 6)) for t in truth]
    found = adjust(start, sightings(truth), Prior.of_poses(0.05, 3.0))
    before, after = errors(start, truth), errors(found.poses, truth)
    assert before[1] > 1.0
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.3 * before[1]


def test_poses_are_moved_no_further_than_the_images_ask_for() -> None:
    truth = path(30)
    rng = np.random.default_rng(3)
    noise = [np.concatenate([rng.normal(0, 0.002, 3), rng.normal(0, 0.004, 3)]) for _ in truth]
    start = [t @ Pose.exp(twist) for t, twist in zip(truth, noise, strict=True)]
    seen = sightings(truth)
    loose, gentle = adjust(start, seen, Prior.of_poses(0.05, 3.0)), adjust_gently(start, seen)

    def off(poses: list[Pose]) -> np.ndarray:
        return np.mean([a.distance(b) for a, b in zip(poses, truth, strict=True)], axis=0)

    assert gentle.median_px[1] < 1.05 * loose.median_px[1] < 0.7 * gentle.median_px[0]
    assert off(gentle.poses)[0] < off(start)[0] < off(loose.poses)[0]
    assert off(gentle.poses)[1] < 0.5 * off(start)[1]


def test_poses_that_are_far_off_are_still_corrected() -> None:
    truth = path(30)
    rng = np.random.default_rng(2)
    start = [t @ Pose.exp(rng.normal(0, 0.02, 6)) for t in truth]
    found = adjust_gently(start, sightings(truth))
    assert errors(found.poses, truth)[1] < 0.3 * errors(start, truth)[1]


def test_matches_become_points_and_ambiguous_ones_do_not() -> None:
    nothing = np.zeros((3, 128), np.float32)
    features = [LocalFeatures(np.full((3, 2), 100.0 * i, np.float32), nothing) for i in range(3)]
    matches = {
        (0, 1): np.array([[0, 0], [1, 1], [2, 2]], np.uint32),
        (1, 2): np.array([[0, 0], [1, 2]], np.uint32),
        (0, 2): np.array([[1, 1]], np.uint32),  # says otherwise than the two before
    }
    seen = join_matches(matches, features, [CAMERA] * 3)
    tracks = {
        tuple(sorted(zip(seen.view[seen.point == p], seen.keypoint[seen.point == p], strict=True)))
        for p in np.unique(seen.point)
    }
    assert tracks == {((0, 0), (1, 0), (2, 0)), ((0, 2), (1, 2))}
