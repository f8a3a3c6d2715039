"""Direct alignment: its derivative against autograd's idea of it, and poses that it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.alignment import (
    LensTangent,
    align,
    cells_and_jacobian,
    residual_terms,
)

CAMERA = Camera(320, 240, 260.0, 258.0, 161.0, 119.0)
CAMERAS = {
    "none": CAMERA,
    "radtan": Camera(320, 240, 260.0, 258.0, 161.0, 119.0, "radtan", (-0.2, 0.05, 0.001, 0.0)),
    "equidistant": Camera(
        320, 240, 180.0, 181.0, 161.0, 119.0, "equidistant", (-0.01, 0.01, 0.0, 0.0)
    ),
}
SCALE = (0.25, 0.25)  # 80 x 60 cells
SIZE = 16


def described(cells: np.ndarray) -> np.ndarray:
    """Unit descriptors that vary smoothly over the grid."""
    rng = np.random.default_rng(3)
    raw = np.cos(cells @ rng.normal(0, 0.25, (2, SIZE)) + rng.uniform(0, 2 * np.pi, SIZE))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def grid() -> np.ndarray:
    y, x = np.meshgrid(np.arange(60), np.arange(80), indexing="ij")
    return described(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(60, 80, SIZE)


def scene(camera: Camera, count: int = 300) -> tuple[Pose, np.ndarray, np.ndarray]:
    """A pose, points ahead of it, and the cells where they are seen."""
    rng = np.random.default_rng(0)
    map_from_camera = Pose.exp(rng.normal(0, 0.5, 6))
    pixels = rng.uniform([24, 24], [296, 216], (count, 2))
    points = map_from_camera.apply(camera.bearings(pixels) * rng.uniform(1.5, 5, (count, 1)))
    return map_from_camera.inverse(), points, pixels * np.array(SCALE) - 0.5


@pytest.mark.parametrize("model", CAMERAS)
def test_cells_and_their_derivative(model: str) -> None:
    camera = CAMERAS[model]
    pose, points, cells = scene(camera, 40)
    lens = LensTangent.at(pose, points, camera, SCALE)
    found, jacobian = cells_and_jacobian(pose, points, lens)
    np.testing.assert_allclose(found, cells, atol=1e-4)
    step = 1e-5
    for axis in range(6):
        twist = np.zeros(6)
        twist[axis] = step
        ahead = camera.project((Pose.exp(twist) @ pose).apply(points))
        behind = camera.project((Pose.exp(-twist) @ pose).apply(points))
        slope = (ahead - behind) / (2 * step) * np.array(SCALE)
        np.testing.assert_allclose(jacobian[:, :, axis], slope, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("model", CAMERAS)
def test_a_lens_is_straight_over_a_cell(model: str) -> None:
    camera = CAMERAS[model]
    pose, points, _ = scene(camera)
    lens = LensTangent.at(pose, points, camera, SCALE)
    moved = Pose.exp(np.array([0.01, -0.012, 0.01, 0.012, 0.014, -0.01])) @ pose
    found, _ = cells_and_jacobian(moved, points, lens)
    truth = camera.project(moved.apply(points)) * np.array(SCALE) - 0.5
    step = np.linalg.norm(truth - lens.cells, axis=1)
    assert np.median(step) > 0.7
    assert (np.linalg.norm(found - truth, axis=1) < 0.05).all()


def test_residual_terms_against_autograd() -> None:
    """The slope is a difference over two cells, so the reference image is one that is linear."""
    rng = np.random.default_rng(1)
    tilt = rng.normal(0, 0.05, (2, SIZE))
    y, x = np.meshgrid(np.arange(20), np.arange(30), indexing="ij")
    image = (np.stack([x, y], axis=-1) @ tilt).astype(np.float32)
    cells = rng.uniform([2, 2], [26, 16], (25, 2))
    wanted = rng.normal(0, 1, (25, SIZE)).astype(np.float32)
    square, slope, cost = residual_terms(image, cells, wanted)
    where = torch.tensor(cells, requires_grad=True)
    residual = where @ torch.tensor(tilt) - torch.tensor(wanted)
    (half_gradient,) = torch.autograd.grad(0.5 * residual.square().sum(), where)
    np.testing.assert_allclose(slope, half_gradient.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(square, np.broadcast_to(tilt @ tilt.T, (25, 2, 2)), rtol=1e-3)
    np.testing.assert_allclose(cost, residual.square().sum(1).detach().numpy(), rtol=1e-3)


def test_points_outside_the_image_cost_most_and_pull_nowhere() -> None:
    cells = np.array([[-5.0, 10.0], [10.0, 70.0], [np.nan, 3.0], [0.5, 20.0]])
    square, slope, cost = residual_terms(grid(), cells, described(np.zeros((4, 2))))
    assert (cost == 4.0).all() and not slope.any() and not square.any()


@pytest.mark.parametrize("model", CAMERAS)
def test_a_pose_that_is_a_cell_off_is_found(model: str) -> None:
    camera = CAMERAS[model]
    truth, points, cells = scene(camera)
    rng = np.random.default_rng(5)
    start = Pose.exp(np.concatenate([rng.normal(0, 0.01, 3), rng.normal(0, 0.004, 3)])) @ truth
    found = align(
        grid(), SCALE, described(cells), points, np.ones(len(points)), camera, start, iterations=10
    )
    before, after = start.distance(truth), found.camera_from_map.distance(truth)
    assert before[0] > 0.005
    assert after[0] < 0.1 * before[0] + 5e-4 and after[1] < 5e-4
    assert np.median(found.cost) < 1e-3


def test_wrong_descriptors_are_outvoted() -> None:
    truth, points, cells = scene(CAMERA)
    rng = np.random.default_rng(5)
    descriptors = described(cells)
    descriptors[::3] = described(rng.uniform(0, 60, (len(descriptors[::3]), 2)))
    start = Pose.exp(np.array([0.008, -0.006, 0.01, 0.002, 0.003, -0.002])) @ truth
    found = align(
        grid(), SCALE, descriptors, points, np.ones(len(points)), CAMERA, start, iterations=10
    )
    assert found.camera_from_map.distance(truth)[0] < 0.003


def test_nothing_to_align_to_leaves_the_pose_alone() -> None:
    truth, points, cells = scene(CAMERA)
    away = points + 1000.0
    found = align(grid(), SCALE, described(cells), away, np.ones(len(points)), CAMERA, truth)
    assert found.camera_from_map.distance(truth)[0] < 1e-6
