"""Cameras that are mounted upside-down or on their side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.mask import Mask
from crossfire_core.geometry.turning import (
    turned_camera,
    turned_from_camera,
    turned_image,
    turned_pixels,
)
from crossfire_core.geometry.upright import plane_axes, up_direction
from crossfire_core.localization.estimate import Matches, PoseEstimate, Search
from crossfire_core.localization.tracker import Tracker
from crossfire_core.localization.uncertainty import diagonal
from crossfire_core.localization.upright import Upright, localize_turned

FORWARD = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.2, 0.0, 0.5]))
CAMERAS = [
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0),
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0, "radtan", (-0.2, 0.05, 0.01, -0.02, 0.003)),
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0, "rational", (0.1, 0, 0.02, -0.01, 0, 0.05, 0, 0)),
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0, "rational", (*[0.01] * 8, 0.02, -0.01, 0.03, 0.04)),
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0, "equidistant", (0.02, -0.01, 0.003, 0.0)),
    Camera(64, 48, 50.0, 55.0, 30.0, 26.0, "omni", (0.8, -0.1, 0.02, 0.01, -0.02)),
]


def rolled(degrees: float) -> Pose:
    """About the optical axis, clockwise as the camera's owner sees it."""
    return Pose.exp([0, 0, 0, 0, 0, np.radians(degrees)])


def heading(degrees: float, x: float = 0.0) -> Pose:
    """A level robot."""
    return Pose(rolled(degrees).rotation, np.array([x, 0.0, 0.0]))


VIEWS = [heading(angle, x) @ FORWARD for angle in range(0, 360, 30) for x in (0.0, 1.0)]


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 5])
@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.distortion)
def test_a_turned_camera_sees_what_the_turned_image_shows(camera, quarters):
    """One bright pixel: the turned camera projects its point where the turned image has it."""
    points = np.array([[0.313, -0.207, 1.0], [-0.253, 0.151, 1.2], [0.007, 0.411, 2.0]])
    there = turned_from_camera(quarters).apply(points)
    turned = turned_camera(camera, quarters)
    expected = turned_pixels(camera.project(points), camera, quarters)
    np.testing.assert_allclose(turned.project(there), expected, atol=1e-9)
    for pixel, point in zip(camera.project(points), there, strict=True):
        image = np.zeros((48, 64, 3), np.uint8)
        column, row = pixel.astype(int)
        image[row, column] = 255
        found = turned_image(image, quarters)
        assert found.shape == (turned.height, turned.width, 3)
        x, y = turned.project(point[None])[0].astype(int)
        assert found[y, x, 0] == 255


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_tilted_sensor_is_turned_to_well_below_a_pixel(quarters):
    lens = (*[0.01] * 12, 2e-3, -5e-3)
    camera = Camera(640, 480, 500.0, 510.0, 322.0, 238.0, "rational", lens)
    points = camera.bearings(camera.pixel_grid(8, 6))
    found = turned_camera(camera, quarters).project(turned_from_camera(quarters).apply(points))
    expected = turned_pixels(camera.pixel_grid(8, 6), camera, quarters)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_mask_is_turned_with_its_camera(quarters):
    usable = np.ones((48, 64), bool)
    usable[40:, :20] = False  # the robot's own arm, at the bottom left
    turned = turned_camera(replace(CAMERAS[1], mask=Mask(usable)), quarters)
    assert turned.mask is not None
    np.testing.assert_array_equal(turned.mask.usable, np.rot90(usable, quarters))


def test_turned_pixels_come_back():
    pixels = np.array([[3.5, 7.5], [60.0, 1.0]])
    for quarters in range(4):
        there = turned_pixels(pixels, CAMERAS[0], quarters)
        back = turned_pixels(there, turned_camera(CAMERAS[0], quarters), -quarters)
        np.testing.assert_allclose(back, pixels)


class TestQuarters:
    """A camera that is rolled by a quarter clockwise needs its image turned by one back."""

    # What comes to rest in the image turned anticlockwise by that many quarters.
    ROLLS = ((0.0, 0), (30.0, 0), (-40.0, 0), (90.0, 3), (75.0, 3), (180.0, 2), (-90.0, 1))

    @pytest.mark.parametrize(("roll", "quarters"), ROLLS)
    def test_with_a_prior_as_the_views_around_it(self, roll, quarters):
        upright = Upright(VIEWS, [FORWARD])
        mount = FORWARD @ rolled(roll)
        for angle in (0.0, 100.0, -45.0):
            there = heading(angle, 0.5) @ mount
            assert upright.quarters(mount, there) == quarters
            turned = there @ turned_from_camera(quarters).inverse()
            assert turned.distance(heading(angle, 0.5) @ FORWARD)[1] < np.radians(46.0)

    @pytest.mark.parametrize(("roll", "quarters"), ROLLS)
    @pytest.mark.parametrize("mapped_with", [FORWARD, Pose.identity()])
    def test_without_one_as_its_mount_says(self, roll, quarters, mapped_with):
        """Also where the map knows its cameras alone and not the robot they sat on."""
        upright = Upright(VIEWS, [mapped_with] if mapped_with else [])
        assert upright.quarters(FORWARD @ rolled(roll), None) == quarters

    @pytest.mark.parametrize("mount_roll", [0.0, 90.0, 180.0])
    def test_the_camera_of_the_map_needs_none_however_it_is_mounted(self, mount_roll):
        mount = FORWARD @ rolled(mount_roll)
        views = [view @ rolled(mount_roll) for view in VIEWS]
        upright = Upright(views, [mount])
        assert upright.quarters(mount, None) == 0
        assert all(upright.quarters(mount, view) == 0 for view in views)
        back = FORWARD @ rolled(mount_roll + 180.0)
        assert upright.quarters(back, None) == 2

    def test_looking_up_or_where_no_view_looks_says_nothing(self):
        up = Pose(np.eye(3), np.zeros(3))
        upright = Upright(VIEWS, [FORWARD])
        assert upright.quarters(up, None) == 0 and upright.quarters(up, heading(10.0)) == 0

    @pytest.mark.parametrize("roll", [0.0, 90.0, 180.0, -90.0])
    def test_a_known_mount_says_more_than_the_maps_z_axis(self, roll):
        """The frame of this map lies upside-down, and no view looks where the camera does."""
        over = Pose.exp([0, 0, 0, np.pi, 0, 0])
        upright = Upright([over @ view for view in VIEWS], [FORWARD])
        aside = heading(90.0) @ FORWARD @ rolled(roll)
        assert upright.quarters(aside, None) == dict(self.ROLLS)[roll]

    def test_views_that_look_nearly_straight_up_do_not_say_where_up_is(self):
        """Leaning by 10 degrees from the zenith, all to one side."""
        zenith = Pose.exp([0, 0, 0, np.radians(10.0), 0, 0])
        assert Upright([zenith] * 3).quarters(FORWARD @ rolled(180.0), None) == 0

    def test_views_that_contradict_each_other_turn_nothing(self):
        views = [v @ rolled(180.0 * (i % 2)) for i, v in enumerate([VIEWS[0]] * 8)]
        assert Upright(views).quarters(Pose.identity(), VIEWS[0]) == 0


class TestUp:
    """Where up is in a map, from the cameras' axes."""

    @pytest.mark.parametrize(("tilt", "snapped"), [(19.5, True), (20.5, False)])
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_is_an_axis_of_the_map_if_one_is_near(self, tilt, snapped, sign):
        """Half of the cameras lean one way and half not at all; their mean leans half as far."""
        level = FORWARD if sign > 0 else FORWARD @ rolled(180.0)
        lean = Pose.exp([0, 0, 0, np.radians(2 * tilt), 0, 0])
        up = up_direction([level, lean @ level])
        exact = sign * np.array([0.0, -np.sin(np.radians(tilt)), np.cos(np.radians(tilt))])
        np.testing.assert_allclose(up, [0.0, 0.0, sign] if snapped else exact, atol=1e-12)

    def test_is_known_of_cameras_that_hardly_agree(self):
        """They lean by 75 degrees to either side, as those of a drone in a turn."""
        views = [Pose.exp([0, 0, 0, np.radians(a), 0, 0]) @ FORWARD for a in (75, -75)]
        np.testing.assert_allclose(up_direction(views), [0.0, 0.0, 1.0], atol=1e-12)

    def test_plane_below_is_seen_with_its_own_axes(self):
        np.testing.assert_array_equal(plane_axes(np.array([0.0, 0, 1])), [[1, 0, 0], [0, 1, 0]])
        np.testing.assert_array_equal(plane_axes(np.array([1.0, 0, 0])), [[0, 1, 0], [0, 0, 1]])
        slope = np.array([0.6, 0.0, 0.8])
        np.testing.assert_allclose(plane_axes(slope), [[0.8, 0, -0.6], [0, 1, 0]], atol=1e-12)
        steep = np.array([-0.96, 0.28, 0.0])
        np.testing.assert_allclose(plane_axes(steep), [[0.28, 0.96, 0], [0, 0, -1]], atol=1e-12)


class UprightOnly:
    """Finds the truth in images that stand upright, and only there."""

    def __init__(self, scene: np.ndarray, camera: Camera, truth: Pose) -> None:
        self.scene, self.camera, self.truth = scene, camera, truth
        self.upright = Upright(VIEWS, [FORWARD])

    def localize(self, image, camera, prior=None, **options):
        if camera != self.camera or not np.array_equal(image, self.scene):
            return PoseEstimate(False, "nothing matches")
        assert prior is None or prior.distance(self.truth)[1] < 0.2
        self.options = options
        details = Matches(np.array([[5.5, 9.5]]), np.zeros((1, 3)), np.ones(1), np.ones(1, bool))
        return PoseEstimate(
            True, "", self.truth, diagonal(0.01, 0.002), 200, 300, 0.9, 0.1, details=details,
            evidence=40.0,
        )  # fmt: skip


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_tracker_finds_and_follows_a_robot_whose_camera_is_turned(quarters):
    """The image of a camera that is rolled is the upright one turned the other way."""
    camera = CAMERAS[1]
    scene = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    map_from_base = heading(20.0, 0.4)
    localizer = UprightOnly(scene, camera, map_from_base @ FORWARD)
    mount = FORWARD @ turned_from_camera(quarters)
    calibration = turned_camera(camera, -quarters)
    tracker = Tracker(localizer, base_from_camera=mount)
    for number in range(4):
        scene += 1  # else it is the same image again
        seen = turned_image(scene, -quarters)
        result = tracker.update(seen, calibration, (number + 1) * 100_000_000)
    assert result.map_from_base is not None, result.reason
    metres, radians = result.map_from_base.distance(map_from_base)
    assert metres < 1e-9 and radians < 1e-9
    pixel = result.estimate.details.pixels
    expected = turned_pixels(np.array([[5.5, 9.5]]), camera, -quarters)
    np.testing.assert_allclose(pixel, expected)


def test_a_failure_is_passed_on_as_it_is():
    localizer = UprightOnly(np.zeros((48, 64, 3), np.uint8), CAMERAS[0], Pose.identity())
    image = np.ones((48, 64, 3), np.uint8)
    found = localize_turned(localizer, image, CAMERAS[0], 2)
    assert not found.ok and found.reason == "nothing matches"
    assert replace(found) == PoseEstimate(False, "nothing matches")


@pytest.mark.parametrize("quarters", [0, 2])
def test_options_reach_the_localizer(quarters):
    scene = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    localizer, search = UprightOnly(scene, CAMERAS[0], Pose.identity()), Search(follow=True)
    seen, camera = turned_image(scene, -quarters), turned_camera(CAMERAS[0], -quarters)
    assert localize_turned(localizer, seen, camera, quarters, search=search).ok
    assert localizer.options == {"search": search}
