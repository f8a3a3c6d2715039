"""Mapping poses that are made to agree before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_map import TINY
from toy_room import CAMERA, ToyRoom

from crossfire_core.config import TrainingConfig
from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.maps.header import MappingView
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import train_map
from crossfire_core.training.views import View, view_of

COUNT = 24
BIG = CAMERA.resized(320, 240)


def shaken(room: ToyRoom) -> list[Pose]:
    """The room's poses, every second one as a stamp that jitters would have it."""
    rng = np.random.default_rng(5)
    noise = [Pose.exp(rng.normal(0, 1, 6) * ([0.004] * 3 + [0.006] * 3)) for _ in room.poses]
    both = enumerate(zip(room.poses, noise, strict=True))
    return [pose @ off if number % 2 else pose for number, (pose, off) in both]


@pytest.fixture(scope="module")
def room() -> ToyRoom:
    return ToyRoom(COUNT, camera=BIG)


@pytest.fixture(scope="module")
def views(room: ToyRoom) -> list[View]:
    frames = zip(room.frames(range(COUNT)), shaken(room), strict=True)
    return [replace(view_of(frame, 320), map_from_camera=pose) for frame, pose in frames]


def errors(found: list[View], room: ToyRoom) -> np.ndarray:
    """Metres and radians to the truth, ``[views, 2]``."""
    pairs = zip(found, room.poses, strict=True)
    return np.array([view.map_from_camera.distance(truth) for view, truth in pairs])


def test_jittering_poses_are_steadied(views: list[View], room: ToyRoom) -> None:
    found = FrontEnd(views).corrected(views)
    before, after = errors(views, room), errors(found, room)
    assert np.median(after[1::2, 1]) < 0.5 * np.median(before[1::2, 1])
    assert after[:, 1].mean() < 0.5 * before[:, 1].mean()
    assert after[:, 0].mean() < before[:, 0].mean()


def test_images_without_texture_correct_nothing(views: list[View]) -> None:
    grey = [replace(view, image=np.full_like(view.image, 128)) for view in views]
    for before, after in zip(grey, FrontEnd(grey).corrected(grey), strict=True):
        assert after.map_from_camera is before.map_from_camera


def test_a_map_keeps_both_poses_and_can_be_told_to_trust_the_recording(tmp_path: Path) -> None:
    small = ToyRoom(6, depth=True)
    given = shaken(small)
    recording = PosedRecording(small, list(given), "a formula with noise")

    def views_of_a_map(config: TrainingConfig) -> list[MappingView]:
        path = tmp_path / "a.map"
        train_map(recording, path, config, Course(100, use_depth=True, device="cpu"))
        return list(NeuralMap.load(path, device="cpu").header.views)

    both = list(zip(views_of_a_map(TINY), given, strict=True))
    for view, pose in both:
        assert view.recorded is not None
        assert view.recorded.distance(pose)[0] < 1e-6
    assert max(view.map_from_camera.distance(pose)[1] for view, pose in both) > 1e-3
    for view, pose in zip(views_of_a_map(replace(TINY, correct_poses=False)), given, strict=True):
        assert view.recorded is None
        assert view.map_from_camera.distance(pose)[0] < 1e-6
