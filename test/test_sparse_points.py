"""Triangulated points and depth images against a room whose walls are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_room import CAMERA, HALF, ToyRoom

from crossfire_core.geometry import Camera
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.sparse_points import depth_image_points
from crossfire_core.training.survey import survey
from crossfire_core.training.views import View, view_of
from crossfire_core.vision.sparse_points import SparsePoints


@pytest.fixture(scope="module")
def views() -> list[View]:
    room = ToyRoom(24, depth=True)
    return [view_of(frame, 160) for frame in room.frames(range(0, 24, 3))]


@pytest.fixture(scope="module")
def sparse(views: list[View]) -> SparsePoints:
    return measured(views)


def measured(views: list[View]) -> SparsePoints:
    """What the views have in common, as depths."""
    front_end = FrontEnd(views)
    return front_end.sparse(views, front_end.tracks(views))


def off_the_walls(points: np.ndarray) -> np.ndarray:
    """Metres to the nearest wall."""
    return np.abs(np.abs(points) - HALF).min(axis=1)


def test_triangulated_points_lie_on_the_walls(sparse: SparsePoints) -> None:
    assert len(sparse) > 200
    error = off_the_walls(sparse.point)
    assert np.median(error) < 0.02
    assert (error < 3 * sparse.sigma_m).mean() > 0.95


def test_triangulated_points_are_seen_where_they_say(
    sparse: SparsePoints, views: list[View]
) -> None:
    for number in np.unique(sparse.view):
        mine = sparse.view == number
        view = views[number]
        pixels = view.camera.project(view.map_from_camera.inverse().apply(sparse.point[mine]))
        assert np.abs(pixels - sparse.pixel[mine]).max() < 2.1  # the limit is 2 px


def test_no_texture_gives_no_points(views: list[View]) -> None:
    grey = [replace(v, image=np.full_like(v.image, 128)) for v in views]
    assert len(measured(grey)) == 0


def test_depth_images_give_points_on_the_walls(views: list[View]) -> None:
    found = depth_image_points(views, np.random.default_rng(0), per_view=200)
    assert len(found) == 200 * len(views)
    assert off_the_walls(found.point).max() < 1e-4
    holes = [replace(v, depth=None) for v in views[:2]]
    empty = replace(views[2], depth=np.zeros_like(views[2].depth))
    spoilt = np.full_like(views[3].depth, np.nan)
    assert len(depth_image_points([*holes, empty], np.random.default_rng(0))) == 0
    assert len(depth_image_points([replace(views[3], depth=spoilt)], np.random.default_rng(0))) == 0


@pytest.mark.parametrize("distortion", ["none", "radtan"])
def test_depth_points_respect_the_lens(distortion: str) -> None:
    camera = CAMERA
    if distortion == "radtan":
        camera = replace(CAMERA, distortion="radtan", coefficients=(-0.2, 0.05, 0.0, 0.0))
    room = ToyRoom(4, depth=True, camera=camera)
    view = view_of(next(iter(room.frames([1]))), 160)
    found = depth_image_points([view], np.random.default_rng(0), per_view=500)
    assert off_the_walls(found.point).max() < 1e-4


def test_the_survey_fits_the_room(views: list[View], sparse: SparsePoints) -> None:
    found = survey(views, sparse)
    low = np.array(found.box.centre) - found.box.half_size
    high = np.array(found.box.centre) + found.box.half_size
    seen = (sparse.point > low).all(axis=1) & (sparse.point < high).all(axis=1)
    assert seen.mean() > 0.8
    assert found.box.half_size < 3.0
    centres = np.stack([views[i].map_from_camera.translation for i in sparse.view])
    distance = np.linalg.norm(sparse.point - centres, axis=1)
    assert found.spacing.near < distance.min() and found.spacing.far > np.percentile(distance, 99)


def test_the_survey_manages_without_points(views: list[View]) -> None:
    nothing = SparsePoints(np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))
    found = survey(views, nothing)
    for view in views:
        offset = view.map_from_camera.translation - np.array(found.box.centre)
        assert np.abs(offset).max() < found.box.half_size
    assert 0 < found.spacing.near < 1.0 < found.spacing.far


def test_views_are_shrunk_with_their_camera_and_depth() -> None:
    room = ToyRoom(2, depth=True, camera=Camera(320, 240, 260.0, 260.0, 160.0, 120.0))
    view = view_of(next(iter(room.frames([0]))), 160)
    assert view.image.shape == (120, 160, 3)
    assert view.camera == CAMERA
    assert view.depth is not None and view.depth.shape == (120, 160)
    found = depth_image_points([view], np.random.default_rng(0), per_view=300)
    assert np.median(off_the_walls(found.point)) < 0.01
