"""Cameras: projection and its inverse, sizes, and what ROS calls the same thing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from crossfire_core.errors import CalibrationError
from crossfire_core.geometry import Camera
from crossfire_core.geometry.lens_names import known_names, lens_named
from crossfire_core.geometry.sights import (
    by_twist,
    directions,
    flat_sights,
    offsets,
    pinholes,
    tangent_sights,
)

# As an OAK-D has it, but with thin prisms, and with a sensor that is tilted more.
LONG = (0.33, -0.04, -7e-5, -2e-5, -15e-4, 0.66, -0.01, -9e-3, 2e-3, -1e-3, 3e-3, 5e-4, 0.02, -0.05)
# Lenses as they are calibrated: an EuRoC camera, a phone, a TUM Kinect, a RealSense T265 and a
# TUM-VI camera (Usenko et al. 2018, table of the double sphere paper) among them.
COEFFICIENTS = {
    "none": [()],
    "radtan": [
        (-0.28340811, 0.07395907, 0.00019359, 1.76e-05),
        (-0.0137178155, -0.0344872758, 0.00266030972, -0.00425205921, 0.0),
        (0.0578421, -0.0805099, -0.000980296, 0.00015575),
    ],
    "rational": [(0.3, 0.1, 1e-3, 1e-3, 0.01, 0.4, 0.1, 0.01), LONG[:12], LONG],
    "equidistant": [(0.01, -0.02, 0.003, 0.001), (-0.00845, 0.04513, -0.04232, 0.00785)],
    "fov": [(0.92,), (0.3,)],
    "omni": [(0.9, -0.2, 0.04, 2e-4, -1e-4), (1.8, 0.0, 0.0, 0.0, 0.0), (0.7,)],
    "eucm": [(0.62, 1.05), (0.45, 0.9)],
    "ds": [(-0.17, 0.59), (0.2, 0.45)],
}


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    """Calibrations of all models, some of them narrower than their image."""
    width, height = draw(st.integers(16, 2000)), draw(st.integers(16, 2000))
    focal = st.floats(0.2, 2.0).map(lambda f: f * max(width, height))
    model = draw(st.sampled_from(sorted(COEFFICIENTS)))
    return Camera(
        width,
        height,
        draw(focal),
        draw(focal),
        width * draw(st.floats(0.4, 0.6)),
        height * draw(st.floats(0.4, 0.6)),
        model,
        draw(st.sampled_from(COEFFICIENTS[model])),
    )


def published(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Pixels of points by the formulas of the papers, one point after the other."""
    x, y, z = points.T
    k = camera.coefficients
    rho, far = np.hypot(x, y), np.linalg.norm(points, axis=1)
    angle = np.arctan2(rho, z)
    if camera.distortion == "equidistant":
        scale = sum(c * angle ** (2 * i + 1) for i, c in enumerate((1.0, *k))) / rho
    elif camera.distortion == "fov":
        scale = np.arctan(2 * rho / z * np.tan(k[0] / 2)) / k[0] / rho
    elif camera.distortion == "omni":
        scale = 1 / (z + k[0] * far)
    elif camera.distortion == "eucm":
        scale = 1 / (k[0] * np.sqrt(k[1] * rho**2 + z**2) + (1 - k[0]) * z)
    elif camera.distortion == "ds":
        beside = k[0] * far + z
        scale = 1 / (k[1] * np.sqrt(rho**2 + beside**2) + (1 - k[1]) * beside)
    else:
        scale = 1 / z
    m = np.stack([x, y], axis=1) * scale[:, None]
    bend = {"omni": k[1:], "radtan": k, "rational": k}.get(camera.distortion, ())
    k1, k2, p1, p2, k3, k4, k5, k6, *prism = (*bend, *[0.0] * (14 - len(bend)))
    r2 = (m**2).sum(axis=1)
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    a, b = m.T
    u = a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
    v = b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
    u, v = u + prism[0] * r2 + prism[1] * r2**2, v + prism[2] * r2 + prism[3] * r2**2
    tilt = Rotation.from_euler("y", -prism[5]) * Rotation.from_euler("x", -prism[4])
    x, y, z = tilt.apply(np.stack([u, v, np.ones_like(u)], axis=1)).T
    (_, _, right), (_, _, down), (_, _, ahead) = tilt.as_matrix()
    u, v = ahead * x / z - right, ahead * y / z - down
    return np.stack([camera.fx * u + camera.cx, camera.fy * v + camera.cy], axis=1)


def around(widest: float, count: int = 200) -> np.ndarray:
    """Points in all directions up to an angle to the axis, 0.5 to 4 m away."""
    rng = np.random.default_rng(0)
    angle, turn = rng.uniform(0.01, widest, count), rng.uniform(0, 2 * np.pi, count)
    ways = [np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)]
    return np.stack(ways, axis=1) * rng.uniform(0.5, 4.0, (count, 1))


@given(cameras())
def test_bearings_undo_projection(camera: Camera) -> None:
    pixels = camera.pixel_grid(9, 7)
    bearings = camera.bearings(pixels)
    seen = np.isfinite(bearings).all(axis=1)
    np.testing.assert_allclose(np.linalg.norm(bearings[seen], axis=1), 1.0, atol=1e-12)
    again = camera.project(3.7 * bearings)
    np.testing.assert_allclose(again[seen], pixels[seen], atol=1e-9 * max(camera.matrix[0]))
    assert np.isnan(again[~seen]).all()


@given(cameras())
def test_projection_undoes_bearings(camera: Camera) -> None:
    """Every direction that has a pixel is the only one of that pixel."""
    points = around(0.97 * camera.widest_angle, 40)
    pixels = camera.project(points)
    seen = np.isfinite(pixels).all(axis=1)
    assert seen.mean() > 0.9  # but for what a tilted lens folds a little earlier on one side
    ways = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(camera.bearings(pixels)[seen], ways[seen], atol=1e-7)


@pytest.mark.parametrize(
    ("model", "numbers"), [(m, k) for m, ks in COEFFICIENTS.items() for k in ks]
)
def test_pixels_are_those_of_the_published_formulas(model: str, numbers: tuple) -> None:
    camera = Camera(640, 480, 210.0, 205.0, 322.0, 238.0, model, numbers)
    points = around(0.9 * camera.widest_angle if model == "radtan" else min(
        0.99 * camera.widest_angle, 1.5 if camera.is_flat or model == "fov" else 9.0
    ))  # fmt: skip
    pixels = camera.project(points)
    assert np.isfinite(pixels).all()
    np.testing.assert_allclose(pixels, published(camera, points), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "numbers", "degrees"),
    [
        ("none", (), 90.0),
        ("radtan", (-0.5,), 39.2315),  # 3 k1 r^2 = -1 at r = 0.8165
        ("equidistant", (0.0, 0.0, 0.0, 0.0), 180.0),
        ("equidistant", (-0.1, 0.0, 0.0, 0.0), 104.6067),  # 3 k1 angle^2 = -1
        ("fov", (0.9,), 90.0),
        ("omni", (0.5,), 120.0),  # z = -xi |p|
        ("omni", (2.0,), 120.0),  # z = -|p| / xi
        ("eucm", (0.5, 1.0), 180.0),
        ("eucm", (0.6, 1.0), 131.8103),  # as omni with xi = 1.5
        ("ds", (0.0, 0.6), 131.8103),
    ],
)
def test_the_widest_angle_is_worked_out(model: str, numbers: tuple, degrees: float) -> None:
    numbers = (*numbers, 0.0, 0.0, 0.0) if model == "radtan" else numbers
    camera = Camera(640, 480, 200.0, 210.0, 320.0, 240.0, model, numbers)
    assert np.degrees(camera.widest_angle) == pytest.approx(degrees, abs=1e-3)
    beyond = np.radians(degrees) + np.array([-0.02, 0.02])
    points = np.stack([np.sin(beyond), 0 * beyond, np.cos(beyond)], axis=1)
    seen = np.isfinite(camera.project(points)).all(axis=1)
    assert seen.tolist() == [True, degrees == 180.0]


def test_pixels_that_a_calibration_folds_over_show_nothing() -> None:
    """r (1 - r^2 / 2) grows up to r = 0.8165, which lies 0.5443 focal lengths from the middle."""
    camera = Camera(640, 480, 400.0, 500.0, 320.0, 240.0, "radtan", (-0.5, 0.0, 0.0, 0.0))
    pixels = np.array([[320 + 400 * 0.544, 240], [320 + 400 * 0.545, 240], [320, 240 + 500 * 0.54]])
    bearings = camera.bearings(pixels)
    assert np.isfinite(bearings).all(axis=1).tolist() == [True, False, True]
    assert bearings[2, 1] / bearings[2, 2] == pytest.approx(0.7544, abs=2e-3)
    # such a point would lie well within the image, on the wrong side of the fold
    assert np.isnan(camera.project([[1.2, 0.0, 1.0]])).all()


def test_an_equidistant_lens_sees_behind_itself() -> None:
    camera = Camera(800, 800, 200.0, 190.0, 400.0, 400.0, "equidistant", (0.0, 0.0, 0.0, 0.0))
    side, behind = camera.project([[3.0, 0.0, 0.0], [0.0, -1.0, -1.0]])
    np.testing.assert_allclose(side, [400 + 200 * np.pi / 2, 400])
    np.testing.assert_allclose(behind, [400, 400 - 190 * 3 * np.pi / 4])
    bearing = camera.bearings([[400.0, 400 - 190 * 3 * np.pi / 4]])
    np.testing.assert_allclose(bearing, [[0.0, -(0.5**0.5), -(0.5**0.5)]], atol=1e-12)


@given(cameras())
def test_slopes_of_the_lens_are_differences(camera: Camera) -> None:
    points = around(0.9 * min(camera.widest_angle, 1.5), 30)
    pixels, slope = camera.project_with_slopes(points)
    seen = np.isfinite(pixels).all(axis=1)
    assert not slope[~seen].any()
    for axis, step in enumerate(1e-6 * np.eye(3)):
        difference = (camera.project(points + step) - camera.project(points - step)) / 2e-6
        known = seen & np.isfinite(difference).all(axis=1)
        size = np.abs(slope[known]).max(axis=(1, 2))[:, None]
        np.testing.assert_allclose(
            slope[known, :, axis] / size, difference[known] / size, atol=1e-5
        )


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_sights_tell_pixels_beside(model: str) -> None:
    """Of a point that is seen a little beside a pixel, to first order."""
    camera = Camera(640, 480, 300.0, 310.0, 322.0, 238.0, model, COEFFICIENTS[model][0])
    pixels = np.random.default_rng(0).uniform([120, 80], [520, 400], (50, 2))
    step = np.array([0.02, -0.03])
    points = 2.5 * camera.bearings(pixels + step)
    beside, by_point, ahead = offsets(camera.sights(pixels), points)
    assert ahead.all()
    if camera.is_flat:
        straight = [b[:, :2] / b[:, 2:] for b in (points, camera.bearings(pixels))]
        np.testing.assert_allclose(beside, straight[0] - straight[1], atol=1e-12)
    else:
        focal = 0.5 * (camera.fx + camera.fy)
        np.testing.assert_allclose(focal * beside, np.tile(step, (50, 1)), atol=2e-4)
    _, tangents = camera.tangents(points)
    moved = points + np.random.default_rng(1).normal(0, 1e-4, points.shape)
    expected = camera.project(moved) - (pixels + step)
    np.testing.assert_allclose(offsets(tangents, moved)[0], expected, atol=2e-4)
    shift = moved - points
    change = offsets(camera.sights(pixels), moved)[0] - beside
    np.testing.assert_allclose((by_point @ shift[:, :, None])[:, :, 0], change, atol=1e-7)


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


def test_numbers_of_a_small_camera_by_hand() -> None:
    camera = Camera(4, 2, 3.0, 5.0, 1.75, 0.75)
    assert camera.matrix.tolist() == [[3, 0, 1.75], [0, 5, 0.75], [0, 0, 1]]
    # OpenCV and ROS call the same point half a pixel less.
    assert camera.opencv_matrix.tolist() == [[3, 0, 1.25], [0, 5, 0.25], [0, 0, 1]]
    assert (
        camera.relative_size == 4 / 640 and Camera(2, 64, 1.0, 1.0, 1.0, 1.0).relative_size == 0.1
    )
    assert camera.resized(8, 6) == Camera(8, 6, 6.0, 15.0, 3.5, 2.25)
    assert camera.resized(8, 6) is camera.resized(8, 6)
    assert camera.mirrored() == Camera(4, 2, 3.0, 5.0, 2.25, 0.75)
    bent = Camera(4, 2, 3.0, 5.0, 1.75, 0.75, "fov", (0.9,))
    assert bent.undistorted() == camera and bent.to_json()["coefficients"] == [0.9]
    assert "mask" not in bent.to_json() and bent.is_flat is False and camera.is_flat
    np.testing.assert_array_equal(
        camera.pixel_grid(rows=1), [[x, 1.0] for x in (0.5, 1.5, 2.5, 3.5)]
    )
    np.testing.assert_array_equal(camera.pixel_grid(columns=1), [[2.0, 0.5], [2.0, 1.5]])
    region = Camera.from_ros(64, 48, K, "", [], roi_offset=(10, 4))
    assert (region.cx, region.cy, region.size) == (22.5, 20.5, (64, 48))


def test_the_outermost_pixels_tell_what_a_lens_shows() -> None:
    """It folds over 0.5443 focal lengths from the middle, as above: a disc of 10.9 pixels."""
    camera = Camera(32, 24, 20.0, 20.0, 16.0, 12.0, "radtan", (-0.5, 0.0, 0.0, 0.0))
    x, y = (camera.pixel_grid() - [16.0, 12.0]).T
    disc = (np.hypot(x, y) < 20.0 * 0.5443).reshape(24, 32)
    np.testing.assert_array_equal(camera.usable, disc)
    pixels = np.array([[16.0, 12.0], [16.0, 0.5], [np.nan, 3.0], [40.0, 12.0]])
    assert camera.shows(pixels).tolist() == [True, False, False, False]
    whole = Camera(32, 24, 20.0, 20.0, 16.0, 12.0)
    assert whole.usable is None
    corners = np.array([[0.0, 0.0], [31.9, 23.9], [32.0, 5.0], [5.0, 24.0], [-0.1, 5.0]])
    assert whole.clearance(corners).tolist() == [np.inf, np.inf, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["width", "height", "fx", "fy"])
def test_one_pixel_is_a_camera_and_none_is_not(name: str) -> None:
    least = {"width": 1, "height": 1, "fx": 0.1, "fy": 0.1}
    assert Camera(**least, cx=0.5, cy=0.5).size == (1, 1)
    with pytest.raises(CalibrationError, match=r"^camera is uncalibrated"):
        Camera(**(least | {name: 0}), cx=0.5, cy=0.5)


def test_a_side_of_a_million_pixels_is_the_longest() -> None:
    assert Camera(1, 1_000_000, 1.0, 1.0, 0.5, 0.5).height == 1_000_000
    with pytest.raises(CalibrationError, match=r"^camera has more than 1000000 pixels"):
        Camera(1, 1_000_001, 1.0, 1.0, 0.5, 0.5)


@pytest.mark.parametrize("model", ["none", "radtan", "rational", "equidistant"])
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


@pytest.mark.parametrize("name", ["plumb_bob", "rational_polynomial"])
@pytest.mark.parametrize("length", [4, 5, 8, 12, 14])
def test_the_length_says_which_of_opencvs_lenses_it_is(name: str, length: int) -> None:
    """Drivers write plumb_bob with 8 numbers, and rational_polynomial with 5 or 14."""
    camera = Camera.from_ros(640, 480, (500.0, 0, 320, 0, 510, 240, 0, 0, 1), name, LONG[:length])
    points = np.random.default_rng(0).uniform((-1, -0.8, 1.5), (1, 0.8, 4), (50, 3))
    zero, d = np.zeros(3), np.array(LONG[:length])
    expected = cv2.projectPoints(points[:, None], zero, zero, camera.opencv_matrix, d)[0]
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels - 0.5, expected.reshape(-1, 2), atol=1e-9)
    ways = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(camera.bearings(pixels), ways, atol=1e-10)
    padded = Camera.from_ros(
        640, 480, camera.opencv_matrix, name, [*LONG[:length], *[0.0] * (14 - length)]
    )
    np.testing.assert_allclose(padded.project(points), pixels, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["plumb_bob", "PLUMB_BOB", "radtan", "brown_conrady", "Brown-Conrady"]
)
def test_all_names_of_the_radial_tangential_lens(name: str) -> None:
    camera = Camera.from_ros(64, 48, K, name, [0.1, 0.2, 0.3, 0.4])
    assert (camera.distortion, camera.coefficients) == ("radtan", (0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("name", ["equi", "equidistant", "fisheye", "Kannala-Brandt"])
def test_all_names_of_the_fisheye(name: str) -> None:
    assert lens_named(f" {name} ") == "equidistant"
    assert Camera.from_ros(64, 48, K, name, [0.1, 0.2, 0.3, 0.4]).distortion == "equidistant"


def test_names_of_lenses_are_told_apart_by_commas() -> None:
    names = known_names().split(", ")
    assert {"plumb_bob", "kannala_brandt4", "double_sphere"} <= set(names) and "" not in names
    assert [lens_named(name) is None for name in names] == [False] * len(names)
    assert lens_named("ftheta") is None and lens_named("Kannala Brandt-4") is None


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
        ((10**400, 48, K, "plumb_bob", []), "more than 1000000 pixels"),
        ((64, 48, (np.nan, *K[1:]), "plumb_bob", []), "^camera calibration has NaN"),
        ((64, 48, K, "plumb_bob", [np.nan] * 5), "NaN"),
        ((64, 48, K, "ftheta", [0.1]), "ftheta"),
        ((64, 48, K, "", [0.1]), "no distortion_model"),
        ((64, 48, K, "plumb_bob", [0.1, 0.2]), "2 coefficients"),
        ((64, 48, K, "plumb_bob", [0.1] * 15), "15 coefficients"),
        ((64, 48, K, "equidistant", [0.1] * 3), "3 coefficients"),
    ],
)
def test_calibrations_that_are_none(arguments: tuple, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Camera.from_ros(*arguments)


@pytest.mark.parametrize(
    ("model", "numbers", "message"),
    [
        ("ds", (0.59, -0.17), "0 to 1"),  # the two in the wrong order
        ("eucm", (1.2, 1.0), "order"),
        ("fov", (0.0,), "fov has 0"),
        ("omni", (-1.0, 0.0, 0.0, 0.0, 0.0), "omni has -1"),
        ("omni", (1.0, 0.1), "2 coefficients"),
        ("kb4", (), "not supported"),
    ],
)
def test_lenses_that_are_none(model: str, numbers: tuple, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Camera(64, 48, 50.0, 50.0, 32.0, 24.0, model, numbers)


class TestSights:
    """By hand: 3 m ahead, 1 m right and 2 m down of a camera, and behind it."""

    POINTS = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, -2.0]])

    def test_of_a_flat_lens(self) -> None:
        sights = flat_sights(np.array([[0.2, 0.4, 0.5], [np.nan] * 3]))
        np.testing.assert_allclose(sights[0], [[1, 0, -0.4], [0, 1, -0.8], [0, 0, 1]])
        assert np.isnan(sights[1, 2, 2])
        np.testing.assert_allclose(directions(sights[:1]), [[0.4, 0.8, 1.0]])

    def test_that_touch_the_sphere_or_the_plane(self) -> None:
        slopes = np.arange(12.0).reshape(2, 2, 3)
        flat = tangent_sights(self.POINTS, slopes, True)
        np.testing.assert_allclose(flat[0], [[0, 3, 6], [9, 12, 15], [0, 0, 1]])
        around = tangent_sights(self.POINTS, slopes, False)
        far = 14.0**0.5
        np.testing.assert_allclose(around[0, 1], [3 * far, 4 * far, 5 * far])
        np.testing.assert_allclose(around[0, 2], [1 / far, 2 / far, 3 / far])
        np.testing.assert_allclose(around[1, 0, 0], 6 * 5.25**0.5)

    def test_points_beside_and_how_they_move(self) -> None:
        sights = np.array([[[1.0, 0, -0.5], [0, 2, 0], [0, 0.5, 1]]] * 2)
        beside, by_point, ahead = offsets(sights, self.POINTS)
        assert ahead.tolist() == [True, False]  # depths 0.5 * 2 + 3 and 0.5 * -1 - 2
        np.testing.assert_allclose(beside[0], [-0.5 / 4, 4 / 4])
        np.testing.assert_allclose(by_point[0], [[0.25, 0.125 / 8, -0.375 / 4], [0, 0.375, -0.25]])
        assert not beside[1].any() and not by_point[1].any()
        edge = np.array([[0.0, 0.0, 1e-6], [0.0, 0.0, 2e-6]])
        assert offsets(np.stack([np.eye(3)] * 2), edge)[2].tolist() == [False, True]

    def test_derivatives_by_a_twist(self) -> None:
        """Moved by v and turned by w, a point goes by v + w x p."""
        by_point = np.arange(1.0, 13.0).reshape(2, 2, 3)
        found = by_twist(by_point, self.POINTS)
        np.testing.assert_array_equal(found[:, :, :3], by_point)
        for axis, turn in enumerate(np.eye(3)):
            expected = np.einsum("nij,nj->ni", by_point, np.cross(turn, self.POINTS))
            np.testing.assert_allclose(found[:, :, 3 + axis], expected)

    def test_as_pinholes(self) -> None:
        """Six ways: each side sees its own in its middle, a little off where it is a little off."""
        ways = np.array(
            [[0.1, 0.2, 1], [1, 0.2, -0.1], [-0.1, 0.2, -1],
             [-1, 0.2, 0.1], [0.1, 1, -0.2], [0.1, -1, 0.2]]
        )  # fmt: skip
        sights = np.concatenate([tangents_of(ways), np.full((1, 3, 3), np.nan)])
        np.testing.assert_allclose(np.cross(directions(sights[:6]), ways), 0.0, atol=1e-12)
        parts = pinholes(sights, False)
        assert [part.index.tolist() for part in parts] == [[0], [1], [2], [3], [4], [5]]
        for part, way in zip(parts, ways, strict=True):
            assert np.linalg.det(part.turn) == pytest.approx(1.0)
            seen = part.turn @ way
            np.testing.assert_allclose(part.plane[0], seen[:2] / seen[2])
            assert seen[2] == pytest.approx(1.0) and np.abs(part.plane).max() < 0.21
        (flat,) = pinholes(flat_sights(ways[:1]), True)
        assert flat.turn.tolist() == np.eye(3).tolist() and flat.index.tolist() == [0]
        np.testing.assert_allclose(flat.plane, [[0.1, 0.2]])


def tangents_of(ways: np.ndarray) -> np.ndarray:
    """Sights that touch the sphere, the first two axes across each way."""
    out = []
    for way in ways / np.linalg.norm(ways, axis=1, keepdims=True):
        across = np.linalg.svd(way[None])[2][1:]
        turned = across if np.linalg.det([*across, way]) > 0 else across[::-1]
        out.append([*turned, way])
    return np.array(out)
