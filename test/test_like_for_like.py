"""Peers get the poses that the neural map was trained with, and answer as it does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_room import CAMERA, ToyRoom

from crossfire_core.evaluation.peers.like_for_like import RecordedLocalizer, with_trained_poses
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.maps.header import MappingView

MOVED = Pose.exp(np.array([0.02, -0.01, 0.03, 0.01, 0.0, -0.02]))


def header(room: ToyRoom, kept: int) -> Any:
    """Of a map whose training moved the first views all alike."""
    views = [
        MappingView(info.name, info.stamp_ns, pose @ MOVED, pose)
        for info, pose in zip(room.infos[:kept], room.poses[:kept], strict=True)
    ]
    return SimpleNamespace(views=tuple(views), spacing=SimpleNamespace(knee=2.0))


def test_mapping_frames_get_the_trained_poses_and_others_are_left_out() -> None:
    room = ToyRoom(4)
    found = list(with_trained_poses(room.frames(range(4)), header(room, 3)))
    assert [frame.name for frame in found] == [info.name for info in room.infos[:3]]
    for frame, pose in zip(found, room.poses, strict=False):
        assert frame.world_from_camera is not None
        assert frame.world_from_camera.distance(pose @ MOVED)[0] < 1e-12


def test_answers_come_back_to_the_recordings_frame() -> None:
    room = ToyRoom(3)
    answer = PoseEstimate(True, "", room.poses[1] @ MOVED)

    class Peer:
        def localize(self, *_: Any, **__: Any) -> PoseEstimate:
            return answer

    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    found = RecordedLocalizer(Peer(), header(room, 3)).localize(image, CAMERA)
    assert found.map_from_camera is not None
    metres, radians = found.map_from_camera.distance(room.poses[1])
    assert (metres, radians) == pytest.approx((0.0, 0.0), abs=1e-6)
