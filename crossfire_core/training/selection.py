"""Which frames of a recording become mapping views, and which test the map meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.geometry.trajectory import motion_along
from crossfire_core.recordings.lazy import FrameInfo, hold_out

_TEST_FRAMES = 4  # tell the progress bar how it goes; each costs a localization
_SPARE_FRAMES = 48  # frames not trained on, for a quantile of nine tenths


@dataclass(frozen=True)
class Selection:
    """Indices into a recording.

    Attributes:
        mapping: frames to train on.
        test: a few others, to watch the training with.
        spare: some that are neither trained on nor held out, spread over the recording.
    """

    mapping: tuple[int, ...]
    test: tuple[int, ...]
    spare: tuple[int, ...] = ()


def select_frames(infos: Sequence[FrameInfo], max_views: int, holdout_every: int = 0) -> Selection:
    """Spread the mapping views evenly over each camera's path.

    Args:
        infos: of every frame; those without a pose take no part.
        max_views: largest number of mapping views.
        holdout_every: every n-th moment stays out of training; 0 keeps none out.

    Raises:
        TrainingError: fewer than two frames with a pose are left.
        ConfigError: ``holdout_every`` leaves nothing to train on.
    """
    held = set(hold_out(infos, holdout_every)[1])
    posed = [i for i, info in enumerate(infos) if info.world_from_camera is not None]
    open_to_use = [i for i in posed if i not in held]
    if len(open_to_use) < 2:
        raise TrainingError(
            f"{len(open_to_use)} frames with a pose are too few to train on: "
            "record poses with the images, or name their topic"
        )
    mapping = _spread_by_camera(infos, open_to_use, max_views)
    others = sorted(set(posed) & held) or sorted(set(posed) - set(mapping))
    step = max(1, len(others) // _TEST_FRAMES)
    test = others[step // 2 :: step][:_TEST_FRAMES]
    unused = np.array(sorted(set(open_to_use) - set(mapping)), dtype=np.int64)
    few = np.linspace(0, len(unused) - 1, min(len(unused), _SPARE_FRAMES)).round().astype(int)
    return Selection(tuple(mapping), tuple(test), tuple(unused[few].tolist()))


def _spread_by_camera(infos: Sequence[FrameInfo], indices: Sequence[int], count: int) -> list[int]:
    """Some of the frames, of each camera its share."""
    by_camera: dict[str, list[int]] = {}
    for index in indices:
        mount = infos[index].mount
        by_camera.setdefault(mount.camera if mount else "", []).append(index)
    kept = []
    for mine in by_camera.values():
        poses = [infos[i].world_from_camera for i in mine]
        share = max(1, count * len(mine) // len(indices))
        kept += [mine[i] for i in _spread(poses, share)]  # type: ignore[arg-type]
    return sorted(kept)


def _spread(poses: Sequence[Pose], count: int) -> list[int]:
    """Positions at even steps of motion along a path."""
    if len(poses) <= count:
        return list(range(len(poses)))
    travelled = motion_along(poses)
    wanted = np.linspace(0.0, travelled[-1], count)
    return sorted({int(i) for i in np.abs(travelled[None] - wanted[:, None]).argmin(axis=1)})
