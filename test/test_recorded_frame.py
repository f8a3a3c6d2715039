"""Answers in the frame of the recording, where training has moved its poses."""

from __future__ import annotations

import numpy as np
import pytest
from toy_room import poses

from crossfire_core.geometry import Pose
from crossfire_core.localization.recorded_frame import RecordedFrame

TRAINED = poses(60)
DISTANCE = 1.5


def off(a: Pose, b: Pose) -> float:
    """Metres and radians together."""
    return sum(a.distance(b))


def bent(pose: Pose) -> Pose:
    """A correction that changes slowly along the path."""
    x, y, _ = pose.translation
    return pose @ Pose.exp(0.01 * np.array([x, -y, 0.3, y, 0.2, x]))


def test_a_map_whose_poses_were_not_moved_answers_as_it_is() -> None:
    frame = RecordedFrame(TRAINED, TRAINED, DISTANCE)
    assert frame.recorded(TRAINED[3]) is TRAINED[3]
    assert frame.trained(TRAINED[3]) is TRAINED[3]


def test_one_camera_turned_on_its_mount_is_turned_back_everywhere() -> None:
    mount = Pose.exp((0.002, -0.001, 0.003, 0.004, -0.003, 0.002))
    frame = RecordedFrame(TRAINED, [pose @ mount for pose in TRAINED], DISTANCE)
    for pose in (TRAINED[7], Pose.exp((4.0, 1.0, 0.0, 0.5, 0.0, 1.0))):
        assert off(frame.recorded(pose), pose @ mount) < 1e-9
        assert off(frame.trained(pose @ mount), pose) < 1e-9


def test_a_bend_of_the_path_comes_back_between_the_views() -> None:
    seen, asked = TRAINED[::2], TRAINED[1::2]
    frame = RecordedFrame(seen, [bent(pose) for pose in seen], DISTANCE)
    before = np.median([off(pose, bent(pose)) for pose in asked])
    after = np.median([off(frame.recorded(pose), bent(pose)) for pose in asked])
    assert after < 0.4 * before


def test_there_and_back_is_the_same_pose() -> None:
    frame = RecordedFrame(TRAINED, [bent(pose) for pose in TRAINED], DISTANCE)
    for pose in TRAINED:
        moved = off(frame.recorded(pose), pose)
        assert off(frame.trained(frame.recorded(pose)), pose) < 0.1 * moved


def test_chance_averages_out_far_from_the_views() -> None:
    rng = np.random.default_rng(0)
    shaken = [pose @ Pose.exp(rng.normal(0, 0.004, 6)) for pose in TRAINED]
    frame = RecordedFrame(TRAINED, shaken, DISTANCE)
    far = Pose(TRAINED[0].rotation, np.array([9.0, 9.0, 0.0]))
    one = np.median([off(a, b) for a, b in zip(TRAINED, shaken, strict=True)])
    assert off(frame.recorded(far), far) < 0.3 * one


def test_poses_that_were_moved_alike_add_no_uncertainty() -> None:
    mount = Pose.exp((0.002, -0.001, 0.003, 0.004, -0.003, 0.002))
    frame = RecordedFrame(TRAINED, [pose @ mount for pose in TRAINED], DISTANCE)
    assert np.abs(frame.scatter(TRAINED[7])).max() < 1e-12


def test_what_poses_differ_by_chance_is_the_uncertainty_of_one() -> None:
    rng = np.random.default_rng(2)
    sigma = np.array([0.004, 0.001, 0.001, 0.002, 0.0005, 0.0005])  # of the camera's own axes
    shaken = [pose @ Pose.exp(rng.normal(0, sigma)) for pose in TRAINED]
    frame = RecordedFrame(TRAINED, shaken, DISTANCE)
    found = []
    for pose in TRAINED:
        back = np.kron(np.eye(2), pose.rotation.T)
        found.append(np.diag(back @ frame.scatter(pose) @ back.T))
    assert np.allclose(np.sqrt(np.mean(found, axis=0)), sigma, rtol=0.35)


@pytest.mark.parametrize("step", [1e-3, 1e-2])
def test_the_frame_has_no_jumps(step: float) -> None:
    """A robot that moves a little is not moved by much more."""
    rng = np.random.default_rng(1)
    shaken = [pose @ Pose.exp(rng.normal(0, 0.004, 6)) for pose in TRAINED]
    frame = RecordedFrame(TRAINED, shaken, DISTANCE)
    aside = np.array([step, 0.0, 0.0])
    for pose in TRAINED[::5]:
        beside = Pose(pose.rotation, pose.translation + aside)
        moved = frame.recorded(beside).translation - frame.recorded(pose).translation
        assert np.linalg.norm(moved - aside) < 0.3 * step
