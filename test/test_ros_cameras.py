"""Several cameras on one robot: which images belong together, and the node that takes them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest
from ros_graph import BASE_FROM_CAMERA, CAMERA, DEADLINE_S, FakeLocalizer, camera_info, graph
from sensor_msgs.msg import CameraInfo, Image

from crossfire_core.config import LocalizationConfig
from crossfire_core.errors import ConfigError, RecordingError
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.evidence import Agreement
from crossfire_core.maps.chance import Chance
from crossfire_ros.cameras import CameraInput, Moments, Shot
from crossfire_ros.conversions import image_to_message, stamp_from_ns, transform_from_pose
from crossfire_ros.map_loading import LoadedMap
from crossfire_ros.settings import settings_from

MS = 1_000_000


def moments(shots: str, bound_s: float = 0.005, cameras=("front", "left")) -> list[str]:
    """What comes out, by initials: ``f0`` is the front camera's image at 0 ms."""
    names = {name[0]: name for name in cameras}
    pairing: Moments[str] = Moments(cameras, bound_s)
    found = []
    for word in shots.split():
        shot = Shot(names[word[0]], int(word[1:]) * MS, word)
        found += ["+".join(each.message for each in m) for m in pairing.add(shot)]
    return found


def test_a_mask_is_put_on_the_camera_of_each_image(tmp_path):
    """One image for all, at the images' size; a folder, whose masks have names, is refused."""
    usable = np.ones((96, 128), np.uint8)
    usable[80:] = 0
    cv2.imwrite(str(tmp_path / "front.png"), 255 * usable)
    config = settings_from({"mask": str(tmp_path / "{camera}.png")}).node
    front = CameraInput("front", config)
    front.take_info(camera_info(CAMERA))
    camera = front.view(64, 48).camera
    assert camera.usable is not None and replace(camera, mask=None) == CAMERA
    assert camera.usable.all(axis=1).tolist() == [True] * 40 + [False] * 8
    assert front.view(64, 48).camera is camera  # worked out once
    several = CameraInput("", settings_from({"mask": str(tmp_path)}).node)
    several.take_info(camera_info(CAMERA))
    with pytest.raises(RecordingError, match="one image for all frames"):
        several.view(64, 48)


class TestMoments:
    def test_images_of_one_time_come_together_at_once(self):
        assert moments("f0 l2 l100 f101") == ["f0+l2", "l100+f101"]

    def test_a_silent_camera_is_waited_for_once(self):
        assert moments("f0 l0 f100 f200 f300") == ["f0+l0", "f100", "f200", "f300"]

    def test_cameras_at_other_times_go_each_by_itself_without_waiting(self):
        assert moments("f0 l50 f100 l150 f200") == ["f0", "l50", "f100", "l150", "f200"]

    def test_one_that_comes_back_is_taken_along_again(self):
        assert moments("f0 f100 f200 l201 f300 l301") == ["f0", "f100", "f200", "l201", "f300+l301"]

    def test_one_camera_waits_for_nobody(self):
        assert moments("f0 f100", cameras=("front",)) == ["f0", "f100"]

    def test_two_images_of_one_camera_are_no_pair(self):
        assert moments("f0 f3 l4") == ["f0", "f3", "l4"]

    def test_a_clock_that_goes_back_begins_anew(self):
        assert moments("f5000 l5001 f10 l11") == ["f5000+l5001", "f10+l11"]


@pytest.mark.parametrize(
    ("cameras", "words"),
    [
        (["front", "front"], "each once"),
        (["2nd"], "begins with a letter"),
        ([3], "begins with a letter"),
        ([f"c{i}" for i in range(9)], "8 at most"),
        ("front", "expected tuple"),
    ],
)
def test_names_that_make_no_topics_are_refused(cameras, words):
    with pytest.raises(ConfigError, match=words):
        settings_from({"cameras": cameras})


# -- the node ------------------------------------------------------------------------------------

MOUNTS = {
    "front": BASE_FROM_CAMERA,
    "left": Pose.exp((0.0, 0.1, 0.0, 0.0, 0.0, np.pi / 2)) @ BASE_FROM_CAMERA,
}
HERE = Pose(Pose.exp([0, 0, 0, 0, 0, 0.5]).rotation, np.array([3.0, 4.0, 0.0]))


@dataclass
class RigFake(FakeLocalizer):
    """Knows a camera by its width; each sees what is before it."""

    blind_widths: set = field(default_factory=set)
    chance: Chance = field(default_factory=Chance)
    config: LocalizationConfig = field(default_factory=LocalizationConfig)

    def localize(self, image, camera, prior=None, **options):
        if camera.width in self.blind_widths:
            return PoseEstimate(False, "no place of the map looks like this image")
        mount = MOUNTS["front" if camera.width == CAMERA.width else "left"]
        pose = self.map_from_base @ mount
        pixels = np.random.default_rng(0).uniform(4.0, 40.0, (80, 2))
        points = pose.apply(camera.bearings(pixels) * 3.0)
        found = super().localize(image, camera, prior)
        details = Matches(pixels, points, np.ones(80), np.ones(80, bool))
        return replace(found, map_from_camera=pose, details=details, inliers=80)

    def patch_agreement(self, image, camera, map_from_camera):
        return Agreement(0, 0.0)

    def honest(self, covariance, pose):
        return covariance


LENSES = {"front": CAMERA, "left": CAMERA.resized(96, 72)}


class Rig:
    """A robot with two cameras in a graph."""

    def __init__(self, g, localizer) -> None:
        self.g, self.localizer = g, localizer
        g.activate()
        transforms = [
            transform_from_pose(mount, "base_link", name, stamp_from_ns(0))
            for name, mount in MOUNTS.items()
        ]
        g.statics.sendTransform(transforms)
        for name, camera in LENSES.items():
            publisher = g.publisher(f"{name}/camera_info", CameraInfo)
            publisher.publish(camera_info(camera))
        g.wait(lambda: all(c.camera is not None for c in g.node.inputs.cameras.values()))

    def see(self, *names: str, dark: str = "") -> None:
        """Images of one time."""
        self.g.send_odometry()
        stamp = self.g.tick()
        for name in names:
            size = (LENSES[name].height, LENSES[name].width, 3)
            pixels = self.g.rng.integers(0, 255, size, dtype=np.uint8)
            pixels = np.full_like(pixels, 3) if name == dark else pixels
            self.g.publisher(f"{name}/image", Image).publish(image_to_message(pixels, name, stamp))

    def drive_until(self, condition, *names: str, dark: str = "") -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.g.status()
            before = self.g.node.tally.processed
            self.see(*names, dark=dark)
            patience = time.monotonic() + 1.0
            while self.g.node.tally.processed == before and time.monotonic() < patience:
                self.g.executor.spin_once(timeout_sec=0.01)


def rig_graph(**parameters):
    localizer = RigFake(HERE)

    def load(settings):
        return lambda: LoadedMap(
            localizer, "map", BASE_FROM_CAMERA, "fake.map", [BASE_FROM_CAMERA], mounts=MOUNTS
        )

    given = {"cameras": ["front", "left"], **parameters}
    return localizer, graph(load=load, **given)


def test_both_cameras_give_one_pose():
    localizer, opened = rig_graph()
    with opened as g:
        rig = Rig(g, localizer)
        rig.drive_until(lambda: len(g.received["~/pose"]) > 1, "front", "left")
        g.wait(lambda: g.status().get("inliers") == "160")
        at = g.received["~/pose"][-1].pose.pose.position
        assert (at.x, at.y, at.z) == pytest.approx((3.0, 4.0, 0.0), abs=1e-3)
        g.wait(lambda: g.status().get("state") == "tracking")


def test_a_silent_camera_stops_nothing_and_is_missed():
    localizer, opened = rig_graph(extrinsics="map")
    with opened as g:
        rig = Rig(g, localizer)
        rig.drive_until(lambda: len(g.received["~/pose"]) > 1, "front")
        g.wait(lambda: g.status().get("inliers") == "80")
        g.wait(
            lambda: any(
                "nothing yet on /left/image" in status.message
                for array in g.received["/diagnostics"]
                for status in array.status
            )
        )


def test_a_dark_camera_is_dropped_and_the_status_says_so():
    localizer, opened = rig_graph()
    with opened as g:
        rig = Rig(g, localizer)
        rig.drive_until(lambda: len(g.received["~/pose"]) > 1, "front", "left", dark="left")
        g.wait(lambda: "covered or dark" in g.status().get("camera_left", ""))
        assert "camera_front" not in g.status()


def test_a_camera_before_a_wall_is_left_out_and_the_status_says_so():
    localizer, opened = rig_graph()
    localizer.blind_widths = {LENSES["left"].width}
    with opened as g:
        rig = Rig(g, localizer)
        rig.drive_until(lambda: len(g.received["~/pose"]) > 1, "front", "left")
        g.wait(lambda: "no place of the map" in g.status().get("camera_left", ""))


def test_a_camera_that_the_map_does_not_know_is_named():
    _, opened = rig_graph(extrinsics="map", cameras=["rear"])
    with opened as g:
        g.activate()
        g.publisher("rear/camera_info", CameraInfo).publish(camera_info(CAMERA))
        g.wait(lambda: g.node.inputs.cameras["rear"].camera is not None)
        image = g.rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        message = image_to_message(image, "rear", g.tick())
        g.publisher("rear/image", Image).publish(message)
        g.wait(lambda: "no camera 'rear'" in g.node.tally.last_refusal)
        assert "front, left" in g.node.tally.last_refusal
