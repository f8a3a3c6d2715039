"""Poses of a recording's images by localizing them in a map that exists already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import rotation_angle
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.mapping_poses.from_motion import odometry_poses
from crossfire_core.mapping_poses.keyframes import choose_keyframes, glance
from crossfire_core.mapping_poses.posed import PosedRecording
from crossfire_core.recordings.lazy import Recording

_LEAST_FIXES = 5  # fewer say nothing of how the odometry lies in the map
_NEIGHBOURS = 3  # on each side, one of which must agree with a fix
_AGREE_M, _AGREE_RAD = 0.15, np.radians(4.0)  # what two fixes may differ at the same place
_DRIFT_M_PER_M, _DRIFT_RAD_PER_M = 0.05, np.radians(2.0)  # what bad odometry adds to it, a metre
_FAR_M = 5.0  # further from the last fix than this, odometry is no longer believed

Fixes = dict[int, Pose]


def poses_from_map(
    recording: Recording,
    localizer: ImageLocalizer,
    keyframes: int,
    name: str,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> PosedRecording:
    """Place the keyframes of a recording in a map.

    Keyframes that the map does not recognise, because they show what it has never seen, are
    placed by odometry between and beyond those that it does.

    Args:
        recording: its own poses are not looked at.
        localizer: of the map.
        keyframes: at most so many.
        name: of the map, for people.
        tell: called with what is being done, how much of it, and of how much.

    Raises:
        TrainingError: the map does not recognise the place.
    """
    odometry = odometry_poses(recording)
    look = glance(recording, odometry, lambda done, total: tell("choosing keyframes", done, total))
    chosen = choose_keyframes(look, keyframes)
    fixes = _fixes(recording, localizer, chosen, odometry, tell)
    good = consistent(fixes, odometry)
    if len(good) < _LEAST_FIXES:
        raise TrainingError(
            f"only {len(good)} of {len(chosen)} images of {recording.name} were recognised in "
            f"{name}: it shows another place, or another light"
        )
    poses: list[Pose | None] = [None] * len(recording)
    for index in chosen:
        poses[index] = good.get(index) or carried(index, good, odometry)
    lost = sum(poses[index] is None for index in chosen)
    notes = [f"{len(good)} of {len(chosen)} keyframes were recognised in {name}"]
    if len(good) + lost < len(chosen):
        notes.append(f"{len(chosen) - len(good) - lost} were placed by odometry between them")
    if lost:
        notes.append(f"{lost} could not be placed: left out")
    return PosedRecording(recording, poses, f"localized in {name}", notes=notes)


def consistent(fixes: Fixes, odometry: Sequence[Pose | None]) -> Fixes:
    """Fixes that a neighbour agrees with, by odometry; all where there is none.

    Args:
        fixes: ``map_from_camera`` by number of the frame.
        odometry: ``odom_from_camera`` of every frame.
    """
    order = sorted(fixes)
    good = {}
    for place, index in enumerate(order):
        around = order[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1]
        others = [j for j in around if j != index and odometry[j] is not None]
        if odometry[index] is None or any(_agree(index, j, fixes, odometry) for j in others):
            good[index] = fixes[index]
    return good


def carried(index: int, fixes: Fixes, odometry: Sequence[Pose | None]) -> Pose | None:
    """A pose from the nearest fixes before and after, moved by odometry; None if too far."""
    here = odometry[index]
    if here is None:
        return None
    before = max((i for i in fixes if i < index and odometry[i] is not None), default=None)
    after = min((i for i in fixes if i > index and odometry[i] is not None), default=None)
    guesses = [(i, _moved(i, index, fixes, odometry)) for i in (before, after) if i is not None]
    near = [(_gap(i, index, odometry), pose) for i, pose in guesses]
    near = [(gap, pose) for gap, pose in near if gap < _FAR_M]
    if len(near) < 2:
        return near[0][1] if near else None
    (gap_a, a), (gap_b, b) = near
    return a.interpolate(b, gap_a / max(gap_a + gap_b, 1e-9))


def _fixes(
    recording: Recording,
    localizer: ImageLocalizer,
    chosen: Sequence[int],
    odometry: Sequence[Pose | None],
    tell: Callable[[str, int, int], None],
) -> Fixes:
    found: Fixes = {}
    last: int | None = None
    for done, (index, frame) in enumerate(zip(chosen, recording.frames(chosen), strict=True), 1):
        estimate = None
        if last is not None and odometry[index] is not None and odometry[last] is not None:
            prior = _moved(last, index, found, odometry)
            estimate = localizer.localize(frame.image, frame.camera, prior)
        if estimate is None or not estimate.ok:
            estimate = localizer.localize(frame.image, frame.camera)
        if estimate.ok and estimate.map_from_camera is not None:
            found[index], last = estimate.map_from_camera, index
        tell("localizing", done, len(chosen))
    return found


def _moved(start: int, end: int, fixes: Fixes, odometry: Sequence[Pose | None]) -> Pose:
    """The fix of one frame carried to another."""
    a, b = odometry[start], odometry[end]
    assert a is not None and b is not None
    return fixes[start] @ a.inverse() @ b


def _gap(i: int, j: int, odometry: Sequence[Pose | None]) -> float:
    a, b = odometry[i], odometry[j]
    assert a is not None and b is not None
    return a.distance(b)[0]


def _agree(i: int, j: int, fixes: Fixes, odometry: Sequence[Pose | None]) -> bool:
    guess, gap = _moved(j, i, fixes, odometry), _gap(i, j, odometry)
    metres = guess.distance(fixes[i])[0]
    turned = rotation_angle(guess.rotation.T @ fixes[i].rotation)
    return metres < _AGREE_M + _DRIFT_M_PER_M * gap and turned < _AGREE_RAD + _DRIFT_RAD_PER_M * gap
