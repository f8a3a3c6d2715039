"""How the frames of two maps lie to each other, told by images that both recognise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import nearest_rotation
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.recordings import Recording

_AGREE = (0.3, np.radians(3.0))  # metres at the camera, and angle
_LEAST = 4  # images that agree
_MOST = 200  # images that are looked at, spread over the recording


def first_from_second(
    recording: Recording,
    first: ImageLocalizer,
    second: ImageLocalizer,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Pose, int]:
    """Find the transform between two maps.

    Args:
        recording: some of its images show what both maps know; its poses are not looked at.
        first: the map whose frame is kept.
        second: the other one.
        tell: called with images done and in all.

    Returns:
        ``first_from_second``, and how many images agree on it.

    Raises:
        TrainingError: hardly an image is recognised by both, or they contradict each other.
    """
    chosen = np.unique(np.linspace(0, len(recording) - 1, _MOST).round().astype(int)).tolist()
    pairs = []
    for done, frame in enumerate(recording.frames(chosen), 1):
        there = second.localize(frame.image, frame.camera)
        if there.ok and there.map_from_camera is not None:
            here = first.localize(frame.image, frame.camera)
            if here.ok and here.map_from_camera is not None:
                pairs.append((here.map_from_camera, there.map_from_camera))
        tell(done, len(chosen))
    return agreed(pairs)


def agreed(pairs: Sequence[tuple[Pose, Pose]]) -> tuple[Pose, int]:
    """The transform that most pairs of poses of one camera agree on.

    Args:
        pairs: ``first_from_camera`` and ``second_from_camera`` of images.

    Returns:
        ``first_from_second``, the mean of those that agree, and how many these are.

    Raises:
        TrainingError: fewer than four do.
    """
    proposed = [a @ b.inverse() for a, b in pairs]
    best: list[int] = []
    for each in proposed:
        apart = [(each @ b).distance(a) for a, b in pairs]
        mine = [i for i, (t, r) in enumerate(apart) if t < _AGREE[0] and r < _AGREE[1]]
        best = max(best, mine, key=len)
    if len(best) < _LEAST:
        raise TrainingError(
            f"{len(pairs)} images are recognised by both maps and {len(best)} agree on how they "
            f"lie to each other, {_LEAST} are needed: give images of where they meet, or the "
            "transform"
        )
    rotation = nearest_rotation(np.mean([proposed[i].rotation for i in best], axis=0))
    # where the cameras are, not at the second map's origin, which a small angle moves far
    here = np.mean([pairs[i][0].translation for i in best], axis=0)
    there = np.mean([pairs[i][1].translation for i in best], axis=0)
    return Pose(rotation, here - rotation @ there), len(best)
