"""Patches: cut from views of a painted wall, stored, and found again to a tenth of a pixel."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from crossfire_core.errors import MapFormatError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.patches import PatchAligner, axes, slide
from crossfire_core.maps.patches import SIDE, Patches, pack_pictures, unpack_pictures
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.patch_cutting import _pixel_sizes, cut_patches
from crossfire_core.training.views import View
from crossfire_core.vision.triangulation import Tracks

CAMERA = Camera(320, 240, 300.0, 305.0, 158.0, 122.0, "radtan", (-0.1, 0.03, 0.001, -0.001, 0.0))
WAVES = np.random.default_rng(3).normal(0, 60.0, (60, 2))  # radians a metre
PHASES = np.random.default_rng(4).uniform(0, 2 * np.pi, 60)


def paint(places: np.ndarray) -> np.ndarray:
    """Grey values of a wall at ``[..., 2]`` metres."""
    return 128.0 + 9.0 * np.sin(places @ WAVES.T + PHASES).sum(axis=-1)


def on_wall(bearings: np.ndarray, pose: Pose) -> np.ndarray:
    """Where rays meet the wall z = 0, ``[n, 3]``."""
    ways = bearings @ pose.rotation.T
    return pose.translation - ways * (pose.translation[2] / ways[:, 2])[:, None]


def photo(pose: Pose) -> np.ndarray:
    """``[height, width, 3]`` uint8 of the wall."""
    grey = paint(on_wall(CAMERA.bearings(CAMERA.pixel_grid()), pose)[:, :2])
    image = np.clip(grey, 0, 255).astype(np.uint8).reshape(CAMERA.height, CAMERA.width)
    return np.repeat(image[:, :, None], 3, axis=2)


def standing(x: float, y: float, turn: float = 0.0, away: float = 2.0) -> Pose:
    """A camera before the wall, looking at it along +z, turned about y."""
    c, s = np.cos(turn), np.sin(turn)
    return Pose(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), np.array([x, y, -away]))


class Wall:
    """Finds surfaces as a renderer of a perfect field would."""

    def rays(self, camera: Camera, pose: Pose, pixels: np.ndarray) -> Any:
        return SimpleNamespace(points=on_wall(camera.bearings(pixels), pose))

    def surface(self, rays: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count = len(rays.points)
        return torch.from_numpy(rays.points), torch.ones(count), torch.zeros(count)


POSES = [standing(0.1 * i - 0.4, 0.05 * (i % 3), 0.03 * (i % 4)) for i in range(9)]


def views() -> list[View]:
    return [View(str(i), i, photo(pose), CAMERA, pose) for i, pose in enumerate(POSES)]


def tracks(count: int = 150) -> Tracks:
    """Points of the wall, each seen by all views."""
    points = np.random.default_rng(0).uniform([-0.9, -0.6, 0], [0.9, 0.6, 0], (count, 3))
    point, view = np.meshgrid(np.arange(count), np.arange(len(POSES)))
    return Tracks(points, point.ravel(), view.ravel(), point.ravel())


@pytest.fixture(scope="module")
def patches() -> Patches:
    return cut_patches(views(), tracks(), Wall(), 450)  # type: ignore[arg-type]


def test_a_patch_is_found_where_it_is() -> None:
    """Whatever its warp, and whatever the light."""
    field = lambda p: paint(p / 150.0)  # noqa: E731
    y, x = np.meshgrid(np.arange(90) + 0.5, np.arange(120) + 0.5, indexing="ij")
    grey = (0.6 * field(np.stack([x, y], axis=-1)) + 30.0).astype(np.float32)
    warp = np.array([[0.9, -0.3], [0.2, 1.1]])
    truth = np.random.default_rng(1).uniform([25, 25], [95, 65], (40, 2))
    steps = np.arange(SIDE) - 0.5 * (SIDE - 1)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1)
    patch = field(truth[:, None, None] + grid @ warp.T).astype(np.float32)
    start = truth + np.random.default_rng(2).normal(0, 0.8, truth.shape)
    shift, likeness = slide(grey, start, np.broadcast_to(warp, (40, 2, 2)).copy(), patch)
    assert (np.linalg.norm(start + shift - truth, axis=1) < 0.05).all()
    assert (likeness > 0.98).all()


def test_flat_patches_and_those_outside_are_not_found() -> None:
    grey = np.random.default_rng(0).uniform(0, 255, (40, 50)).astype(np.float32)
    patch = np.stack([np.full((SIDE, SIDE), 9.0), grey[:SIDE, :SIDE]]).astype(np.float32)
    centres = np.array([[25.0, 20.0], [49.0, 39.0]])
    _, likeness = slide(grey, centres, np.broadcast_to(np.eye(2), (2, 2, 2)).copy(), patch)
    assert (likeness == -1.0).all()


@pytest.mark.parametrize("count", [1, 64, 100])
def test_pictures_survive_storage(count: int) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 3, (count, SIDE, SIDE)), axis=2) + 128
    grey = np.clip(smooth, 0, 255).astype(np.uint8)
    back = unpack_pictures(pack_pictures(grey), count)
    assert back.shape == grey.shape
    assert np.abs(back.astype(float) - grey).mean() < 3.0


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff"])
def test_damaged_pictures_are_refused(data: bytes) -> None:
    with pytest.raises(MapFormatError, match="train it again"):
        unpack_pictures(np.frombuffer(data, np.uint8), 10)
    whole = pack_pictures(np.zeros((100, SIDE, SIDE), np.uint8))
    with pytest.raises(MapFormatError):
        unpack_pictures(whole, 1000)


def test_axes_run_along_the_image() -> None:
    pose = Pose.exp(np.array([0.1, 0.2, 0.3, 0.2, -0.3, 0.1]))
    ahead = pose.rotation[:, 2]
    tilted = -ahead + np.array([0.2, -0.1, 0.3])
    normals = np.stack([-ahead, tilted / np.linalg.norm(tilted)])
    along = axes(normals, np.stack([pose.rotation] * 2))
    np.testing.assert_allclose(along.swapaxes(1, 2) @ along, np.stack([np.eye(2)] * 2), atol=1e-9)
    np.testing.assert_allclose(np.einsum("nij,ni->nj", along, normals), 0.0, atol=1e-9)
    in_camera = np.einsum("ji,njk->nik", pose.rotation, along)
    assert (in_camera[:, 0, 0] > 0.5).all() and (in_camera[:, 1, 1] > 0.5).all()


def test_every_view_gives_its_share(patches: Patches) -> None:
    assert 300 <= len(patches) <= 450
    assert (np.bincount(patches.view, minlength=len(POSES)) >= 20).all()
    np.testing.assert_allclose(
        patches.normals, np.broadcast_to([0, 0, -1], (len(patches), 3)), atol=1e-3
    )
    middle = patches.grey[:, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1]
    assert np.corrcoef(middle.mean(axis=(1, 2)), paint(patches.points[:, :2]))[0, 1] > 0.95


@pytest.mark.parametrize("away", [1.6, 2.0, 2.6])
def test_a_pose_that_is_a_pixel_off_is_found(patches: Patches, away: float) -> None:
    truth = standing(0.03, 0.02, 0.05, away)
    start = truth @ Pose.exp(np.array([0.006, -0.005, 0.01, 0.002, 0.002, -0.004]))
    found = PatchAligner(patches, POSES, 2.0, 640).fit(photo(truth), CAMERA, start, 2.0, 1000)
    assert found is not None
    metres, radians = found.solved.camera_from_map.inverse().distance(truth)
    before = start.distance(truth)
    assert metres < 0.3 * before[0] and radians < 0.3 * before[1]
    assert found.solved.inlier.sum() > 40 and found.pixels.shape == (len(found.points), 2)
    assert len(found.points) <= found.tried <= len(patches)


@pytest.mark.parametrize("off", [(0.03, 0.0, 0.0), (0.0, -0.03, 0.0), (0.0, 0.0, 0.03)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_pose_that_is_3_cm_and_a_degree_off_at_2_m_is_found(
    patches: Patches, off: tuple[float, float, float], axis: int
) -> None:
    truth = standing(0.03, 0.02, 0.05)
    turn = np.radians(1.0) * np.eye(3)[axis]
    start = truth @ Pose.exp(np.concatenate([off, turn]))
    aligner = PatchAligner(patches, POSES, 2.0, 640)
    found = aligner.fit(photo(truth), CAMERA, start, 2.0, 1000, reach_px=12.0)  # 24 at 640 px
    assert found is not None and found.solved.inlier.sum() > 40
    metres, radians = found.solved.camera_from_map.inverse().distance(truth)
    assert metres < 0.002 and np.degrees(radians) < 0.1


def test_images_are_looked_at_in_the_size_that_patches_were_cut_in(patches: Patches) -> None:
    """Patches of photographs that had been shrunk to half their size, as `image_side` asks for."""
    small = CAMERA.resized(160, 120)
    shrunk = [cv2.resize(v.image, (160, 120), interpolation=cv2.INTER_AREA) for v in views()]
    small_views = [replace(v, image=i, camera=small) for v, i in zip(views(), shrunk, strict=True)]
    coarse = cut_patches(small_views, tracks(), Wall(), 450)  # type: ignore[arg-type]
    truth = standing(0.03, 0.02, 0.05)
    start = truth @ Pose.exp(np.array([0.004, -0.004, 0.005, 0.001, 0.001, -0.002]))
    found = PatchAligner(coarse, POSES, 2.0, 160).fit(photo(truth), CAMERA, start, 4.0, 1000)
    assert found is not None and found.solved.inlier.sum() > 40
    pose = found.solved.camera_from_map.inverse()
    assert pose.distance(truth)[0] < 0.3 * start.distance(truth)[0]


@pytest.mark.parametrize("kind", ["radtan", "equidistant"])
def test_samples_are_as_large_as_pixels_all_over_the_image(kind: str) -> None:
    lens = replace(CAMERA, fx=110.0, fy=112.0, distortion=kind, coefficients=(-0.02, 0.001, 0, 0))
    view = View("0", 0, np.zeros((240, 320, 3), np.uint8), lens, POSES[4])
    pixels = np.random.default_rng(0).uniform([30, 30], [290, 210], (50, 2))
    bearings = lens.bearings(pixels)
    local = bearings / bearings[:, 2:] * 2.0
    size = _pixel_sizes(view, POSES[4].apply(local))
    tenths = 0.1 * size[:, None]
    steps = np.broadcast_to(np.eye(3)[:2, None], (2, 50, 3))
    if kind == "equidistant":  # a wide lens has no plane that faces all it sees
        right = np.cross([0.0, 1.0, 0.0], bearings)
        right /= np.linalg.norm(right, axis=1, keepdims=True)
        steps = np.stack([right, np.cross(bearings, right)])
    aside = [10.0 * (lens.project(local + tenths * step) - pixels) for step in steps]
    area = np.abs(aside[0][:, 0] * aside[1][:, 1] - aside[0][:, 1] * aside[1][:, 0])
    np.testing.assert_allclose(area, 1.0, rtol=0.02)


def test_only_so_many_are_tried_half_of_them_of_the_nearest_views(patches: Patches) -> None:
    truth = POSES[0]
    aligner = PatchAligner(patches, POSES, 2.0, 640)
    index, _, _, weights = aligner._in_sight(CAMERA, truth, 30)
    views = patches.view[index]
    assert len(set(index)) == 30 and (views == 0).sum() >= 15 and len(set(views)) >= 5
    assert weights[:15] == pytest.approx(1.0)
    found = aligner.fit(photo(truth), CAMERA, truth, 2.0, 30)
    assert found is not None and 20 <= len(found.points) <= found.tried == 30


def test_what_is_hidden_from_the_nearest_views_is_not_looked_for(patches: Patches) -> None:
    asked = []
    left = patches.points[:, 0] < 0.0

    def open_to(views: np.ndarray) -> np.ndarray:
        asked.append(views[0])
        return left

    aligner = PatchAligner(patches, POSES, 2.0, 640, open_to)
    found = aligner.fit(photo(POSES[4]), CAMERA, POSES[4], 2.0, 1000)
    assert found is not None and (found.points[:, 0] < 0.0).all() and asked == [4]
    assert found.tried < 0.75 * left.size


def test_an_image_of_something_else_says_nothing(patches: Patches) -> None:
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    found = PatchAligner(patches, POSES, 2.0, 640).fit(image, CAMERA, POSES[4], 2.0, 1000)
    assert found is None or found.solved.inlier.sum() < 20
    none = PatchAligner(Patches.none(), POSES, 2.0, 640)
    assert none.fit(photo(POSES[4]), CAMERA, POSES[4], 2.0, 1000) is None


def test_views_can_be_renumbered_and_lots_joined(patches: Patches) -> None:
    numbers = [-1, 0, 1, *[-1] * 6]
    kept = patches.renumbered(numbers)
    assert len(kept) == np.isin(patches.view, [1, 2]).sum() and set(kept.view) == {0, 1}
    both = Patches.joined([kept, replace(patches, view=patches.view + 2)])
    assert len(both) == len(kept) + len(patches) and both.view.max() == len(POSES) + 1


def test_corners_are_where_the_wall_is() -> None:
    found = FrontEnd(views()).tracks(views())
    assert len(found.points) > 50
    assert np.median(np.abs(found.points[:, 2])) < 0.01


def test_without_time_there_are_no_corners_and_no_patches() -> None:
    hurried = FrontEnd(views(), seconds=0.0).tracks(views())
    assert len(hurried.points) == 0
    assert len(cut_patches(views(), hurried, Wall(), 450)) == 0  # type: ignore[arg-type]
