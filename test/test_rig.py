"""Several cameras on one robot: what they know together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_neural_map import tiny_map

from crossfire_core.config import LocalizationConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization import pose_solver
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.evidence import Agreement
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.rig import RigImage, RigLocalizer
from crossfire_core.localization.rig_solver import RigSight, rig_covariance, solve_rig
from crossfire_core.localization.tracker import Tracker, TrackingState
from crossfire_core.localization.uncertainty import diagonal, sigmas
from crossfire_core.maps.chance import Chance
from crossfire_core.maps.header import RigCamera

OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
FRONT = Camera(640, 480, 500.0, 510.0, 320.0, 240.0)
LEFT = Camera(320, 240, 180.0, 178.0, 158.0, 121.0, "radtan", (-0.1, 0.01, 0.0, 0.0))
BASE_FROM_FRONT = Pose(OPTICAL, np.array([0.3, 0.0, 0.8]))
BASE_FROM_LEFT = Pose(
    Rotation.from_euler("z", 90, degrees=True).as_matrix() @ OPTICAL, np.array([0.0, 0.25, 1.1])
)
MOUNTS = ((FRONT, BASE_FROM_FRONT), (LEFT, BASE_FROM_LEFT))
MAP_FROM_BASE = Pose.exp((2.0, -1.0, 0.3, 0.05, -0.1, 1.2))


def sight(
    camera: Camera, mount: Pose, good: int, bad: int = 0, seed: int = 0, noise_px: float = 0.0
) -> RigSight:
    """Matches that a camera of the robot would have, and wrong ones."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.05, 0.95, (good + bad, 2)) * camera.size
    distance = rng.uniform(2.0, 6.0, good + bad)[:, None]
    points = (MAP_FROM_BASE @ mount).apply(camera.bearings(pixels) * distance)
    points[good:] += rng.normal(0, 2.0, (bad, 3))
    pixels = pixels + rng.normal(0, noise_px, pixels.shape)
    return RigSight(camera, mount, pixels, points, np.ones(good + bad))


@dataclass
class Fake:
    """Finds matches by the image's brightest grey value; alone it needs forty of them.

    Its map has no patches, and one match in twenty agrees by chance.
    """

    sights: dict[int, RigSight]
    passes: frozenset[int] = frozenset()
    priors: list = field(default_factory=list)
    chance: Chance = field(default_factory=Chance)
    config: LocalizationConfig = field(default_factory=LocalizationConfig)

    def patch_agreement(self, image, camera, map_from_camera) -> Agreement:
        return Agreement(0, 0.0)

    def honest(self, covariance, pose):
        return covariance

    def localize(self, image, camera, prior=None, **options):
        key = int(image.max())
        self.priors.append((key, prior))
        if key not in self.sights:
            return PoseEstimate(False, "no place of the map looks like this image")
        seen = self.sights[key]
        matches = Matches(seen.pixels, seen.points, seen.weights, np.ones(len(seen.pixels), bool))
        ok = key in self.passes
        return PoseEstimate(
            ok, "" if ok else "only 25 matches agree on a pose, 40 are needed",
            MAP_FROM_BASE @ seen.base_from_camera, diagonal(0.01, 0.002),
            inliers=len(seen.pixels), spread=0.5, residual_px=0.5, details=matches,
            evidence=20.0 if ok else 0.0,
        )  # fmt: skip


def image(camera: Camera, key: int) -> np.ndarray:
    picture = np.zeros((camera.height, camera.width, 3), np.uint8)
    picture[:, : camera.width // 2] = key
    return picture


def rig_images(keys=(200, 100)) -> list[RigImage]:
    named = zip(MOUNTS, keys, ("front", "left"), strict=True)
    return [RigImage(image(each[0], key), *each, name) for each, key, name in named]


def test_exact_matches_give_the_exact_pose_whatever_lenses_and_mounts() -> None:
    sights = [sight(*MOUNTS[0], 30, 12, seed=1), sight(*MOUNTS[1], 30, 12, seed=2)]
    solved = solve_rig(sights, 4.0, 2000)
    assert solved is not None
    metres, radians = solved.base_from_map.inverse().distance(MAP_FROM_BASE)
    assert metres < 1e-4 and radians < 1e-4
    for inlier in solved.inliers:
        assert inlier[:30].all() and inlier[30:].sum() <= 1


def test_one_camera_with_nothing_takes_no_part() -> None:
    empty = RigSight(*MOUNTS[1], np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))
    solved = solve_rig([sight(*MOUNTS[0], 40), empty], 4.0, 2000)
    assert solved is not None and len(solved.inliers[1]) == 0
    assert solved.base_from_map.inverse().distance(MAP_FROM_BASE)[0] < 1e-4
    assert solve_rig([empty, empty], 4.0, 2000) is None


def test_the_covariance_holds_what_noise_does() -> None:
    """Errors of many noisy solutions, by their own covariance, have six degrees of freedom."""
    squared = []
    for trial in range(40):
        sights = [
            sight(*MOUNTS[0], 30, seed=2 * trial, noise_px=1.0),
            sight(*MOUNTS[1], 30, seed=2 * trial + 1, noise_px=0.5),  # half the width: 1 px at 640
        ]
        solved = solve_rig(sights, 6.0, 200)
        pose = solved.base_from_map.inverse()
        turn = Rotation.from_matrix(pose.rotation @ MAP_FROM_BASE.rotation.T).as_rotvec()
        error = np.concatenate([pose.translation - MAP_FROM_BASE.translation, turn])
        # a focal length of 360 at 320 stands for the front's 500 at 640: the left's pixel is larger
        squared.append(error @ np.linalg.solve(rig_covariance(solved, 1.0), error))
    assert 3.5 < np.mean(squared) < 10.0


def test_a_rig_is_found_where_no_camera_is_found_alone() -> None:
    weak = {200: sight(*MOUNTS[0], 25, 60, seed=3), 100: sight(*MOUNTS[1], 25, 60, seed=4)}
    localizer = Fake(weak)
    found = RigLocalizer(localizer).localize(rig_images())
    assert not any(own.ok for own in found.alone)
    assert found.ok and found.left_out == ("", "") and found.evidence > 6.0
    assert found.map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    one = RigLocalizer(Fake({200: weak[200]})).localize(rig_images()[:1])
    assert not one.ok and "30 are needed" in one.reason


def test_many_matches_that_chance_explains_are_no_place() -> None:
    """A corridor has the doors of the next one: what counts is what agrees beyond chance."""
    weak = {200: sight(*MOUNTS[0], 25, 60, seed=3), 100: sight(*MOUNTS[1], 25, 60, seed=4)}
    alike = Fake(weak, chance=Chance(0.3, 0.3))  # 25 of 85 agree in any place of this map
    found = RigLocalizer(alike).localize(rig_images())
    assert not found.ok and "another place might agree as well" in found.reason


def astray(count: int, x: float, y: float) -> RigSight:
    """The first camera, which sees so many points elsewhere."""
    seen = sight(*MOUNTS[0], count, seed=7)
    return replace(seen, points=seen.points + np.array([x, y, 0.0]))


def test_cameras_that_are_sure_of_different_places_are_not_believed() -> None:
    """As where one sits elsewhere on the robot than its mount says."""
    both = {200: astray(60, 1.0, 0.5), 100: sight(*MOUNTS[1], 70, seed=8)}
    found = RigLocalizer(Fake(both, frozenset({200, 100}))).localize(rig_images())
    assert not found.ok and "check where each sits on the robot" in found.reason


def test_a_camera_that_is_not_sure_has_no_say_beside_one_that_is() -> None:
    """However many of its matches agree with each other: they may all be of another place."""
    localizer = Fake(
        {200: astray(300, 3.0, 1.0), 100: sight(*MOUNTS[1], 60, seed=8)}, frozenset({100})
    )
    found = RigLocalizer(localizer).localize(rig_images())
    assert found.ok and found.map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    assert found.left_out == ("only 25 matches agree on a pose, 40 are needed", "")


def test_without_poselib_each_camera_says_where_to_begin(monkeypatch) -> None:
    monkeypatch.setattr(pose_solver, "poselib", None)
    sights = [sight(*MOUNTS[0], 30, 12, seed=1), sight(*MOUNTS[1], 30, 12, seed=2)]
    solved = solve_rig(sights, 4.0, 2000)
    assert solved is not None
    assert solved.base_from_map.inverse().distance(MAP_FROM_BASE)[0] < 1e-4
    assert all(inlier[:30].all() for inlier in solved.inliers)


def test_a_camera_before_a_white_wall_is_helped_and_then_left_out() -> None:
    localizer = Fake({100: sight(*MOUNTS[1], 60, seed=5)}, frozenset({100}))
    found = RigLocalizer(localizer).localize(rig_images())
    assert found.ok and found.map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    assert found.inliers == (0, 60)
    assert "no place of the map" in found.left_out[0] and found.left_out[1] == ""
    # the other camera told it where to look
    key, prior = localizer.priors[-1]
    assert key == 200 and prior.distance(MAP_FROM_BASE @ BASE_FROM_FRONT)[0] < 1e-9


def test_a_dark_camera_is_not_even_asked() -> None:
    localizer = Fake({100: sight(*MOUNTS[1], 60, seed=6)}, frozenset({100}))
    dark, left = rig_images()
    dark = replace(dark, image=np.full_like(dark.image, 7))
    found = RigLocalizer(localizer).localize([dark, left])
    assert found.ok and found.left_out == ("the image shows nothing", "")
    assert [key for key, _ in localizer.priors] == [100]


def test_a_camera_that_sees_another_place_is_outvoted() -> None:
    elsewhere = sight(*MOUNTS[0], 30, seed=7)
    wrong = RigSight(
        *MOUNTS[0],
        elsewhere.pixels,
        elsewhere.points + np.array([3.0, 1.0, 0.0]),
        elsewhere.weights,
    )
    localizer = Fake({200: wrong, 100: sight(*MOUNTS[1], 60, seed=8)}, frozenset({100}))
    found = RigLocalizer(localizer).localize(rig_images())
    assert found.ok and found.map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    assert found.inliers[0] < 12 and found.left_out[0]


def test_two_sure_cameras_are_not_called_surer_than_the_map() -> None:
    both = {200: sight(*MOUNTS[0], 60, seed=9), 100: sight(*MOUNTS[1], 60, seed=10)}
    found = RigLocalizer(Fake(both, frozenset({200, 100}))).localize(rig_images())
    assert found.ok
    # each says 1 cm; their levers of half a metre and more add 2 mrad of it
    assert 0.009 < sigmas(found.covariance)[0] < 0.012


def test_nothing_at_all_is_said() -> None:
    found = RigLocalizer(Fake({})).localize(rig_images())
    assert not found.ok and found.map_from_base is None
    assert found.reason == "no camera finds the place"


def test_the_prior_reaches_each_camera_through_its_mount() -> None:
    localizer = Fake({200: sight(*MOUNTS[0], 60, seed=11)}, frozenset({200}))
    prior = Pose.exp((1.0, 2.0, 0.0, 0.0, 0.0, 0.5))
    RigLocalizer(localizer).localize(rig_images(), prior)
    assert localizer.priors[0][1].distance(prior @ BASE_FROM_FRONT)[0] < 1e-12
    assert localizer.priors[1][1].distance(prior @ BASE_FROM_LEFT)[0] == pytest.approx(
        0.0, abs=1e-12
    )


# -- followed over time --------------------------------------------------------------------------

TICK_NS = 100_000_000


def flickering(each: RigImage, number: int) -> RigImage:
    """As a camera's next image is: never the very same pixels again."""
    changed = each.image.copy()
    changed[0, 0] = number
    return replace(each, image=changed)


def drive(tracker: Tracker, seen: list[list[RigImage]]) -> list:
    """The outcomes of images at ten a second."""
    return [tracker.update_rig(images, (n + 1) * TICK_NS) for n, images in enumerate(seen)]


def test_a_robot_is_followed_with_all_its_cameras() -> None:
    both = {200: sight(*MOUNTS[0], 60, seed=9), 100: sight(*MOUNTS[1], 60, seed=10)}
    tracker = Tracker(Fake(both, frozenset({200, 100})))
    found = drive(tracker, [[flickering(e, n) for e in rig_images()] for n in range(4)])
    assert [r.state for r in found[-3:]] == [TrackingState.TRACKING] * 3
    assert found[-1].map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    assert found[-1].estimate.inliers == 120 and not found[-1].left_out


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda front, n: replace(front, image=np.full_like(front.image, 7)), "covered or dark"),
        (lambda front, n: front, "frozen"),
    ],
)
def test_a_dark_or_frozen_camera_is_dropped_and_said(spoilt, words) -> None:
    localizer = Fake({100: sight(*MOUNTS[1], 60, seed=6)}, frozenset({100}))
    front, left = rig_images()
    seen = [[spoilt(front, n), flickering(left, n)] for n in range(4)]
    found = drive(Tracker(localizer), seen)
    assert found[-1].state is TrackingState.TRACKING
    assert found[-1].map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3
    assert set(found[-1].left_out) == {"front"} and words in found[-1].left_out["front"]


def test_when_no_camera_shows_anything_each_says_why() -> None:
    dark = [replace(each, image=np.full_like(each.image, 7)) for each in rig_images()]
    (found,) = drive(Tracker(Fake({})), [dark])
    assert found.map_from_base is None
    assert "front: image shows nothing" in found.reason and "left: image shows" in found.reason


def test_cameras_that_do_not_agree_in_time_each_find_the_robot() -> None:
    both = {200: sight(*MOUNTS[0], 60, seed=9), 100: sight(*MOUNTS[1], 60, seed=10)}
    tracker = Tracker(Fake(both, frozenset({200, 100})))
    one_by_one = [[flickering(rig_images()[n % 2], n)] for n in range(6)]
    found = drive(tracker, one_by_one)
    assert [r.state for r in found[-4:]] == [TrackingState.TRACKING] * 4
    assert all(r.map_from_base.distance(MAP_FROM_BASE)[0] < 1e-3 for r in found[-4:])


# -- cameras that the map has never seen ---------------------------------------------------------


def test_the_network_sees_things_as_large_as_it_has_learnt_them() -> None:
    """Half the view in as many pixels is twice as large: the network's image is half as long."""
    made = tiny_map()
    finder, mapped = Localizer(made).finder, made.header.camera
    side = made.header.features.side
    assert finder.side(mapped) == finder.side(mapped.resized(mapped.width // 2, mapped.height // 2))
    assert finder.side(mapped) == side
    tele = replace(mapped, fx=2.0 * mapped.fx, fy=2.0 * mapped.fy)
    assert finder.side(tele) == max(side // 2, 64)
    wide = replace(mapped, fx=0.5 * mapped.fx, fy=0.5 * mapped.fy)
    assert finder.side(wide) == 2 * side
    # what a zoom in training makes look alike anyway
    assert finder.side(replace(mapped, fx=1.1 * mapped.fx, fy=1.1 * mapped.fy)) == side


def test_each_camera_of_a_rig_is_seen_as_in_training() -> None:
    made = tiny_map()
    mapped = made.header.camera
    wide = replace(mapped, fx=0.4 * mapped.fx, fy=0.4 * mapped.fy)
    rig = (RigCamera("front", mapped, Pose.identity()), RigCamera("wide", wide, Pose.identity()))
    made.header = replace(made.header, rig=rig)
    finder = Localizer(made).finder
    assert finder.side(mapped) == finder.side(wide) == made.header.features.side
