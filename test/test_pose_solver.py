"""From matches to a pose: derivatives, outliers, lenses, and how sure the answer is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.pose_solver import (
    FloatArray,
    camera_covariance,
    normal_equations,
    refine_pose,
    reprojection,
    solve_pose,
)
from crossfire_core.localization.uncertainty import difference, is_covariance

CAMERAS = {
    "none": Camera(640, 480, 520.0, 515.0, 322.0, 238.0),
    "radtan": Camera(640, 480, 520.0, 515.0, 322.0, 238.0, "radtan", (-0.28, 0.07, 0.001, -0.002)),
    "rational": Camera(
        640, 480, 520.0, 515.0, 322.0, 238.0, "rational",
        (0.1, -0.05, 0.001, 0.0005, 0.01, 0.12, -0.04, 0.006),
    ),
    "equidistant": Camera(
        640, 480, 300.0, 298.0, 322.0, 238.0, "equidistant", (-0.01, 0.02, -0.01, 0.002)
    ),
    "fisheye": Camera(640, 640, 230.0, 228.0, 318.0, 322.0, "equidistant", (0.0, 0.0, 0.0, 0.0)),
    "omni": Camera(
        640, 640, 400.0, 402.0, 318.0, 322.0, "omni", (0.9, -0.2, 0.04, 2e-4, -1e-4)
    ),
    "ds": Camera(640, 640, 210.0, 211.0, 318.0, 322.0, "ds", (-0.17, 0.59)),
}  # fmt: skip


def scene(
    camera: Camera, count: int, rng: np.random.Generator, noise_px: float
) -> tuple[Pose, FloatArray, FloatArray]:
    """``map_from_camera``, noisy pixels and the points that they show."""
    map_from_camera = Pose.exp(np.concatenate([rng.normal(0, 2, 3), rng.normal(0, 0.8, 3)]))
    pixels = rng.uniform([20, 20], [camera.width - 20, camera.height - 20], (count, 2))
    points = map_from_camera.apply(camera.bearings(pixels) * rng.uniform(1.5, 6.0, (count, 1)))
    return map_from_camera, pixels + rng.normal(0, noise_px, pixels.shape), points


def exponential(twist: Tensor) -> Tensor:
    vx, vy, vz, x, y, z = twist.unbind()
    o = torch.zeros_like(x)
    rows = [o, -z, y, vx, z, o, -x, vy, -y, x, o, vz, o, o, o, o]
    return torch.linalg.matrix_exp(torch.stack(rows).view(4, 4))


def test_jacobian_against_autograd() -> None:
    rng = np.random.default_rng(0)
    camera = CAMERAS["none"]
    map_from_camera, pixels, points = scene(camera, 12, rng, 2.0)
    pose, sights, focal = map_from_camera.inverse(), camera.sights(pixels), 517.0
    ideal = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    matrix, space = torch.tensor(pose.matrix()), torch.tensor(points)

    def residual(twist: Tensor) -> Tensor:
        moved = exponential(twist) @ matrix
        p = space @ moved[:3, :3].T + moved[:3, 3]
        return focal * (p[:, :2] / p[:, 2:] - torch.tensor(ideal))

    zero = torch.zeros(6, dtype=torch.float64)
    values, jacobian, ahead = reprojection(pose, sights, points, focal)
    np.testing.assert_allclose(values, residual(zero).numpy(), atol=1e-9)
    expected = torch.autograd.functional.jacobian(residual, zero).numpy()
    np.testing.assert_allclose(jacobian, expected, rtol=1e-7, atol=1e-6)
    assert ahead.all()


def test_equations_are_the_products_of_the_jacobian() -> None:
    rng = np.random.default_rng(8)
    map_from_camera, pixels, points = scene(CAMERAS["none"], 60, rng, 3.0)
    pose, sights, focal, width = (
        map_from_camera.inverse(), CAMERAS["none"].sights(pixels), 517.0, 2.0,
    )  # fmt: skip
    points[:5] = map_from_camera.apply(np.full((5, 3), -1.0))  # behind the camera
    weights = rng.uniform(0.0, 1.0, 60)
    residual, jacobian, ahead = reprojection(pose, sights, points, focal)
    kernel = width**2 / (width**2 + (residual**2).sum(axis=1))
    rows, heavy = jacobian.reshape(-1, 6), np.repeat(weights * ahead * kernel**2, 2)[:, None]
    information, gradient = normal_equations(pose, sights, points, weights, focal, width)
    np.testing.assert_allclose(information, (heavy * rows).T @ rows, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(gradient, (heavy * rows).T @ residual.ravel(), rtol=1e-9, atol=1e-6)


def test_points_behind_the_camera_do_not_count() -> None:
    points = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0], [0.1, 0.0, 0.0]])
    sights = np.broadcast_to(np.eye(3), (3, 3, 3))
    values, jacobian, ahead = reprojection(Pose.identity(), sights, points, 500.0)
    assert ahead.tolist() == [True, False, False]
    assert np.isfinite(values).all() and np.isfinite(jacobian).all()


@pytest.mark.parametrize("model", CAMERAS)
def test_pose_is_found_among_sixty_percent_outliers(model: str) -> None:
    rng = np.random.default_rng(4)
    camera = CAMERAS[model]
    truth, pixels, points = scene(camera, 500, rng, 0.5)
    wrong = rng.random(500) < 0.6
    points[wrong] += rng.normal(0, 1.5, (wrong.sum(), 3))
    solved = solve_pose(pixels, points, rng.random(500), camera, 4.0, 2000)
    assert solved is not None
    metres, radians = solved.camera_from_map.inverse().distance(truth)
    assert metres < 0.02 and np.degrees(radians) < 0.25
    assert solved.inlier[~wrong].mean() > 0.97
    assert solved.inlier[wrong].mean() < 0.1


def test_a_lens_of_160_degrees_gives_exact_poses() -> None:
    """What lies 60 to 80 degrees aside decides as well as what lies ahead, also alone."""
    camera = Camera(640, 640, 230.0, 228.0, 318.0, 322.0, "equidistant", (0.0, 0.0, 0.0, 0.0))
    rng = np.random.default_rng(5)
    for narrowest in (0.0, 60.0):
        angle = np.radians(rng.uniform(narrowest, 80.0, 200))
        turn = rng.uniform(0, 2 * np.pi, 200)
        radius = np.stack([230.0 * angle * np.cos(turn), 228.0 * angle * np.sin(turn)], axis=1)
        ways = [np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)]
        truth = Pose.exp(np.array([1.0, -2.0, 0.5, 0.3, -1.2, 0.7]))
        points = truth.apply(np.stack(ways, axis=1) * rng.uniform(1.0, 5.0, (200, 1)))
        pixels = radius + np.array([318.0, 322.0])
        points[:80] += rng.normal(0, 1.0, (80, 3))
        solved = solve_pose(pixels, points, np.ones(200), camera, 3.0, 1000)
        assert solved is not None
        assert max(solved.camera_from_map.inverse().distance(truth)) < 1e-4  # outliers still pull
        good = solved.inlier
        exact = refine_pose(
            solved.camera_from_map, solved.sights[good], points[good], np.ones(good.sum()), 229.0,
            0.1,
        )  # fmt: skip
        assert max(exact.camera_from_map.inverse().distance(truth)) < 1e-9
        assert good[80:].all()


def test_errors_of_a_wide_lens_are_pixels_of_its_image() -> None:
    """A pixel beside is an error of a pixel, ahead as at 80 degrees, along as across."""
    camera = CAMERAS["fisheye"]
    middle = np.array([318.0, 322.0])
    for aside in (0.0, 150.0, 320.0):
        for step in ([1.0, 0.0], [0.0, 1.0]):
            pixels = np.tile(middle + np.array([aside, 0.0]), (6, 1))
            points = 3.0 * camera.bearings(pixels + step)
            residual, _, _ = reprojection(Pose.identity(), camera.sights(pixels), points, 229.0)
            np.testing.assert_allclose(residual, np.tile(step, (6, 1)), atol=0.02)


def test_solving_twice_gives_the_same_pose() -> None:
    rng = np.random.default_rng(2)
    camera = CAMERAS["radtan"]
    _, pixels, points = scene(camera, 200, rng, 1.0)
    points[::2] += rng.normal(0, 1.0, (100, 3))
    weights = rng.random(200)
    first, second = (solve_pose(pixels, points, weights, camera, 4.0, 500) for _ in range(2))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.camera_from_map.matrix(), second.camera_from_map.matrix())


def test_no_pose_from_too_little_or_from_noise() -> None:
    rng = np.random.default_rng(1)
    camera = CAMERAS["none"]
    _, pixels, points = scene(camera, 300, rng, 0.5)
    few = slice(0, 5)
    assert solve_pose(pixels[few], points[few], np.ones(5), camera, 4.0, 500) is None
    assert solve_pose(pixels[:0], points[:0], np.ones(0), camera, 4.0, 500) is None
    rng.shuffle(points)
    solved = solve_pose(pixels, points, np.ones(300), camera, 4.0, 500)
    assert solved is None or solved.inlier.sum() < 30


@pytest.mark.parametrize("kind", ["one point", "one line", "far away", "one pixel"])
def test_matches_that_fix_no_pose_give_none_or_a_finite_one(kind: str) -> None:
    rng = np.random.default_rng(3)
    for seed in range(20):
        pixels, points = rng.uniform(0.0, 400.0, (60, 2)), rng.normal(0.0, 1.0, (60, 3))
        if kind == "one point":
            points[:] = points[0]
        elif kind == "one line":
            points = points[0] + rng.normal(0.0, 1.0, (60, 1)) * points[1]
        elif kind == "far away":
            points *= 10.0 ** rng.uniform(5.0, 300.0)
        else:
            pixels[:] = pixels[0]
        for start in (None, Pose.identity()):
            with np.errstate(all="ignore"):
                found = solve_pose(
                    pixels, points, np.ones(60), CAMERAS["none"], 4.0, 200, seed=seed, start=start
                )
            assert found is None or found.camera_from_map.is_finite()


def test_poselibs_answer_that_is_no_pose_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    poselib = pytest.importorskip("poselib")
    nothing = (SimpleNamespace(Rt=np.full((3, 4), np.nan)), {"inliers": [True] * 60})
    monkeypatch.setattr(poselib, "estimate_absolute_pose", lambda *_: nothing)
    rng = np.random.default_rng(4)
    pixels, points = rng.uniform(0.0, 400.0, (60, 2)), rng.normal(0.0, 1.0, (60, 3))
    assert solve_pose(pixels, points, np.ones(60), CAMERAS["none"], 4.0, 200) is None


def test_surer_matches_pull_harder() -> None:
    """Half of the matches are shifted sideways a little; the weights decide who is believed."""
    rng = np.random.default_rng(6)
    camera = CAMERAS["none"]
    truth, pixels, points = scene(camera, 400, rng, 0.0)
    pixels[::2, 0] += 1.5
    weights = np.where(np.arange(400) % 2 == 0, 0.02, 1.0)
    sights = camera.sights(pixels)
    error = []
    for w in (weights, weights[::-1]):
        solved = refine_pose(truth.inverse(), sights, points, w, camera.fx, 6.0)
        error.append(float(np.median(solved.error_px[1::2])))
    assert error[0] < 0.2
    assert error[1] > 1.0


def test_refinement_reaches_the_minimum_from_nearby() -> None:
    rng = np.random.default_rng(3)
    camera = CAMERAS["equidistant"]
    truth, pixels, points = scene(camera, 100, rng, 0.0)
    start = Pose.exp(np.array([0.01, -0.02, 0.015, 0.004, 0.003, -0.005])) @ truth.inverse()
    sights = camera.sights(pixels)
    solved = refine_pose(start, sights, points, np.ones(100), camera.fx, 20.0, iterations=20)
    assert max(solved.camera_from_map.distance(truth.inverse())) < 1e-6
    assert solved.inlier.all()


@pytest.mark.parametrize("model", ["none", "fisheye", "omni", "ds"])
def test_covariance_is_what_the_errors_show(model: str) -> None:
    """Squared errors in units of the covariance average to six, the degrees of freedom."""
    rng = np.random.default_rng(0)
    camera = CAMERAS[model]
    squared, signs = [], []
    for _ in range(200):
        truth, pixels, points = scene(camera, 80, rng, 0.6)
        sights, focal = camera.sights(pixels), 0.5 * (camera.fx + camera.fy)
        solved = refine_pose(truth.inverse(), sights, points, np.ones(80), focal, 12.0)
        covariance = camera_covariance(solved, noise_px=0.6)
        assert is_covariance(covariance)
        error = difference(solved.camera_from_map.inverse(), truth)
        squared.append(error @ np.linalg.solve(covariance, error))
        signs.append(error / np.sqrt(np.diag(covariance)))
    assert 5.0 < np.mean(squared) < 7.0
    assert (np.abs(np.array(signs).std(axis=0) - 1.0) < 0.25).all()  # each axis on its own


def test_covariance_grows_where_the_image_says_nothing() -> None:
    rng = np.random.default_rng(0)
    camera = CAMERAS["none"]
    truth, pixels, points = scene(camera, 200, rng, 0.0)
    sights = camera.sights(pixels)

    def sigma(chosen: FloatArray) -> float:
        keep = chosen.astype(bool)
        solved = refine_pose(
            truth.inverse(), sights[keep], points[keep], np.ones(keep.sum()), camera.fx, 12.0
        )
        return float(np.sqrt(np.trace(camera_covariance(solved, 1.0)[:3, :3])))

    whole, corner = np.ones(200), (pixels < [160, 120]).all(axis=1)
    assert corner.sum() > 5
    assert sigma(corner) > 3 * sigma(whole)
