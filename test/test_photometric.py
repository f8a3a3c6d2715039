"""Polishing by colours: poses that it finds, in other light and with things in the way."""

from __future__ import annotations

import numpy as np
import pytest
import toy_room

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.photometric import (
    GreyImage,
    align_colours,
    fit_light,
    likeness,
    slide,
)

CAMERA = Camera(320, 240, 260.0, 258.0, 161.0, 119.0)
LENSES = {
    "none": CAMERA,
    "radtan": Camera(320, 240, 260.0, 258.0, 161.0, 119.0, "radtan", (-0.1, 0.02, 0.001, 0.0)),
}
TRUTH = toy_room.poses(12)[3]  # map_from_camera
NEAR = TRUTH @ Pose.exp(np.array([0.006, -0.004, 0.005, 0.002, -0.003, 0.002]))


def seen(camera: Camera, count: int = 800) -> tuple[GreyImage, np.ndarray, np.ndarray]:
    """The image at the true pose, points at its edges, and their grey values."""
    image, depth = toy_room.look(toy_room.textures(), TRUTH, camera)
    grey = GreyImage.of(image, 640)
    pixels = grey.edges(count, np.random.default_rng(0))
    x, y = (pixels - 0.5).round().astype(int).T
    bearings = camera.bearings(pixels)
    points = TRUTH.apply(bearings * (depth[y, x] / bearings[:, 2])[:, None])
    return grey, points, grey.value[y, x].astype(np.float64)


def moved(found: Pose | None) -> tuple[float, float]:
    """Error in millimetres and degrees."""
    assert found is not None
    metres, radians = found.inverse().distance(TRUTH)
    return 1e3 * metres, float(np.degrees(radians))


@pytest.mark.parametrize("lens", LENSES)
def test_pose_slides_to_the_truth_in_another_light(lens: str) -> None:
    grey, points, value = seen(LENSES[lens])
    found = slide(grey, points, 0.6 * value + 0.2, LENSES[lens], NEAR.inverse())
    millimetres, degrees = moved(found)
    assert millimetres < 1.0 and degrees < 0.03


def test_points_of_something_else_do_not_pull_it_away() -> None:
    grey, points, value = seen(CAMERA)
    value[::4] = np.random.default_rng(1).uniform(0, 1, len(value[::4]))
    millimetres, degrees = moved(slide(grey, points, value, CAMERA, NEAR.inverse()))
    assert millimetres < 2.0 and degrees < 0.06


def test_nothing_in_the_image_is_no_pose() -> None:
    grey, points, value = seen(CAMERA)
    away = TRUTH @ Pose.exp(np.array([0, 0, 0, 0, 3.0, 0]))
    assert slide(grey, points, value, CAMERA, away.inverse()) is None


def test_likeness_knows_the_same_room_from_another() -> None:
    """Brighter or with less contrast it is the same room; with other textures it is not."""
    grey, points, value = seen(CAMERA)
    assert likeness(grey, points, 0.5 * value + 0.3, CAMERA, TRUTH.inverse()) > 0.95
    strange = np.random.default_rng(0).permutation(value)
    assert abs(likeness(grey, points, strange, CAMERA, TRUTH.inverse())) < 0.2
    assert likeness(grey, points, np.full(len(points), 0.5), CAMERA, TRUTH.inverse()) == 0.0
    behind = TRUTH @ Pose.exp(np.array([0, 0, 0, 0, 3.0, 0]))
    assert likeness(grey, points, value, CAMERA, behind.inverse()) == 0.0


def test_an_image_that_does_not_look_like_the_render_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, _ = toy_room.look(toy_room.textures(), TRUTH, CAMERA)
    _, points, value = seen(CAMERA)
    for rendered, expected in ((value, True), (1.0 - value, False)):
        monkeypatch.setattr(
            "crossfire_core.localization.photometric._rendered",
            lambda *_, rendered=rendered: (points, rendered),
        )
        found = align_colours(None, image, CAMERA, NEAR, 800, 0.5, 0)  # type: ignore[arg-type]
        assert (found is not None) == expected


def test_light_is_fitted_despite_outliers() -> None:
    rng = np.random.default_rng(2)
    rendered = rng.uniform(0, 1, 500)
    value = 0.7 * rendered + 0.1 + rng.normal(0, 0.01, 500)
    value[:50] = 1.0
    residual, weight = fit_light(value, rendered)
    assert np.median(np.abs(residual[50:])) < 0.01
    assert weight[50:].mean() > 10 * weight[:50].mean()


def test_edges_are_where_the_image_is_steep() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    image[:, 80:] = np.random.default_rng(0).integers(0, 255, (120, 80, 1))
    pixels = GreyImage.of(image, 640).edges(500, np.random.default_rng(0))
    assert len(pixels) == 500 == len(np.unique(pixels, axis=0))
    assert (pixels[:, 0] > 78).all()
    shrunk = GreyImage.of(image, 80).edges(500, np.random.default_rng(0))
    assert (shrunk[:, 0] > 74).all() and shrunk[:, 0].max() > 140  # pixels of the camera


def test_blank_image_has_no_edges() -> None:
    blank = np.full((120, 160, 3), 90, np.uint8)
    assert len(GreyImage.of(blank, 640).edges(500, np.random.default_rng(0))) == 0
