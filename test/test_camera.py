"""Cameras: projection and its inverse, sizes, and what ROS calls the same thing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera

# Lenses as they are calibrated, none that folds the image over.
COEFFICIENTS = {
    "none": [()],
    "radtan": [
        (-0.28340811, 0.07395907, 0.00019359, 1.76e-05),
        (-0.0137178155, -0.0344872758, 0.00266030972, -0.00425205921, 0.0),
        (0.0578421, -0.0805099, -0.000980296, 0.00015575),
    ],
    "rational": [(0.3, 0.1, 1e-3, 1e-3, 0.01, 0.4, 0.1, 0.01)],
    "equidistant": [(0.01, -0.02, 0.003, 0.001), (-0.03, 0.02, -0.01, 0.002)],
}


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    """Calibrations of all models with an angle of view up to about 90 degrees."""
    width, height = draw(st.integers(16, 2000)), draw(st.integers(16, 2000))
    focal = st.floats(0.55, 2.0).map(lambda f: f * max(width, height))
    model = draw(st.sampled_from(sorted(COEFFICIENTS)))
    camera = Camera(
        width,
        height,
        draw(focal),
        draw(focal),
        width * draw(st.floats(0.4, 0.6)),
        height * draw(st.floats(0.4, 0.6)),
        model,
        draw(st.sampled_from(COEFFICIENTS[model])),
    )
    # a lens that is calibrated for a narrower image may fold a corner of this one over
    _, slope = camera.bend(camera.normalized(camera.pixel_grid(9, 7)))
    assume(np.linalg.det(slope).min() > 0.05 * camera.fx * camera.fy)
    return camera


@given(cameras())
def test_bearings_undo_projection(camera: Camera) -> None:
    pixels = camera.pixel_grid(9, 7)
    bearings = camera.bearings(pixels)
    np.testing.assert_allclose(np.linalg.norm(bearings, axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(camera.project(3.7 * bearings), pixels, atol=1e-4)


@given(cameras())
def test_slopes_of_the_lens_are_differences(camera: Camera) -> None:
    plane = camera.normalized(camera.pixel_grid(6, 5))
    pixels, slope = camera.bend(plane)
    np.testing.assert_allclose(pixels, camera.pixel_grid(6, 5), atol=1e-4)
    for axis, step in enumerate(1e-5 * np.eye(2)):
        ahead, behind = camera.bend(plane + step)[0], camera.bend(plane - step)[0]
        difference = (ahead - behind) / 2e-5
        np.testing.assert_allclose(slope[:, :, axis], difference, atol=1e-5 * max(camera.matrix[0]))


@given(cameras(), st.integers(8, 1500), st.integers(8, 1500))
def test_resizing_scales_pixels_and_keeps_directions(
    camera: Camera, width: int, height: int
) -> None:
    small = camera.resized(width, height)
    assert small.size == (width, height)
    np.testing.assert_allclose(
        small.bearings(small.pixel_grid(6, 5)), camera.bearings(camera.pixel_grid(6, 5)), atol=1e-6
    )
    again = small.resized(camera.width, camera.height)
    np.testing.assert_allclose(again.matrix, camera.matrix, rtol=1e-12)


@given(cameras())
def test_ros_and_json_read_back(camera: Camera) -> None:
    assert Camera.from_json(camera.to_json()) == camera
    names = {"none": "", "radtan": "plumb_bob", "rational": "rational_polynomial"}
    ros = Camera.from_ros(
        *camera.size,
        camera.opencv_matrix.ravel(),
        names.get(camera.distortion, camera.distortion),
        camera.coefficients,
    )
    np.testing.assert_allclose(ros.matrix, camera.matrix, atol=1e-9)
    assert (ros.distortion, ros.coefficients) == (camera.distortion, camera.coefficients)


def test_the_centre_of_the_first_pixel_is_at_one_half() -> None:
    camera = Camera(4, 2, 3.0, 3.0, 2.0, 1.0)
    np.testing.assert_array_equal(camera.pixel_grid()[:2], [[0.5, 0.5], [1.5, 0.5]])
    np.testing.assert_array_equal(camera.pixel_grid(2, 1), [[1.0, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(camera.project([[0.0, 0.0, 5.0]]), [[2.0, 1.0]])
    # OpenCV and ROS call the same point half a pixel less.
    assert camera.opencv_matrix[0, 2] == 1.5


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_projection_is_opencvs(model: str) -> None:
    camera = Camera(640, 480, 500.0, 510.0, 320.5, 240.5, model, COEFFICIENTS[model][0])
    points = np.random.default_rng(0).uniform((-1, -0.8, 1.5), (1, 0.8, 4), (50, 3))
    k, d, zero = camera.opencv_matrix, np.array(camera.coefficients), np.zeros(3)
    function = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    arguments = (zero, zero, k, d if d.size else None)
    expected = function(points[:, None], *arguments)[0].reshape(-1, 2)
    np.testing.assert_allclose(camera.project(points) - 0.5, expected, atol=1e-9)


def test_points_behind_the_camera_have_no_pixel() -> None:
    camera = Camera(64, 48, 50.0, 50.0, 32.0, 24.0)
    pixels = camera.project([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    assert np.isfinite(pixels[0]).all()
    assert np.isnan(pixels[1:]).all()
    assert camera.project(np.empty((0, 3))).shape == (0, 2)
    assert camera.bearings(np.empty((0, 2))).shape == (0, 3)


def test_no_distortion_under_another_name() -> None:
    camera = Camera.from_ros(64, 48, [50, 0, 32, 0, 50, 24, 0, 0, 1], "plumb_bob", [0.0] * 5)
    assert (camera.distortion, camera.coefficients) == ("none", ())
    long = [0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0]
    camera = Camera.from_ros(64, 48, [50, 0, 32, 0, 50, 24, 0, 0, 1], "plumb_bob", long)
    assert camera.coefficients == (0.1, 0.2, 0.3, 0.4, 0.5)


K = (50.0, 0, 32, 0, 50, 24, 0, 0, 1)


@pytest.mark.parametrize(
    "name", ["plumb_bob", "PLUMB_BOB", "radtan", "brown_conrady", "Brown-Conrady"]
)
def test_all_names_of_the_radial_tangential_lens(name: str) -> None:
    camera = Camera.from_ros(64, 48, K, name, [0.1, 0.2, 0.3, 0.4])
    assert (camera.distortion, camera.coefficients) == ("radtan", (0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("name", ["equi", "equidistant", "fisheye", "Kannala-Brandt"])
def test_all_names_of_the_fisheye(name: str) -> None:
    assert Camera.from_ros(64, 48, K, name, [0.1, 0.2, 0.3, 0.4]).distortion == "equidistant"


@pytest.mark.parametrize("name", ["", "none", "pinhole", "plumb_bob", "ftheta", "anything"])
def test_a_lens_without_coefficients_may_have_any_name(name: str) -> None:
    assert Camera.from_ros(64, 48, K, name, [0.0] * 5).distortion == "none"
    assert Camera.from_ros(64, 48, K, name, []).distortion == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, 48, np.zeros(9), "plumb_bob", []), "uncalibrated"),
        ((0, 48, K, "plumb_bob", []), "uncalibrated"),
        ((64, 48, (-50.0, *K[1:]), "plumb_bob", []), "uncalibrated"),
        ((64, 48, (np.nan, *K[1:]), "plumb_bob", []), "NaN"),
        ((64, 48, K, "plumb_bob", [np.nan] * 5), "NaN"),
        ((64, 48, K, "ftheta", [0.1]), "ftheta"),
        ((64, 48, K, "", [0.1]), "no distortion_model"),
        ((64, 48, K, "plumb_bob", [0.1, 0.2]), "2 coefficients"),
        ((64, 48, K, "plumb_bob", [0.1] * 8), "8 coefficients"),
        ((64, 48, K, "equidistant", [0.1] * 3), "3 coefficients"),
    ],
)
def test_calibrations_that_are_none(arguments: tuple, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Camera.from_ros(*arguments)
