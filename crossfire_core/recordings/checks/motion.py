"""The camera's path: its length, its extent, where it looked, where it jumped."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError
from crossfire_core.geometry import Pose
from crossfire_core.geometry.upright import plane_axes, up_direction
from crossfire_core.recordings.checks.finding import Finding, error, good, warning
from crossfire_core.recordings.lazy import FrameInfo, Recording, is_timed

_SECTOR_DEG = 30  # in which directions are counted
_LEAST_EXTENT_M = 0.3  # less parallax fixes no depth in a room
_LEAST_FRAMES = 20  # fewer make no map
_JUMP_TIMES, _JUMP_M = 10.0, 0.3  # steps larger than the usual one, and at all
# In so many parts a path is compared with odometry, where that moves at least so far.
_PARTS, _LEAST_PART_M = 60, 0.02
_SAME_SCALE, _HOPELESS_SCALE = 2.0, 20.0  # wheels slip, and by so much nothing does
_FASTEST_M_S = 100.0  # nothing that localizes itself by a place


@dataclass(frozen=True)
class Motion:
    """A path of ``n`` posed frames.

    Attributes:
        indices: ``[n]`` positions of these frames in the recording.
        centres: ``[n, 3]`` camera centres.
        plan: ``[n, 2]`` the same, seen from above.
        heading: ``[n]`` where the camera looked, seen from above, radians.
        length: of the path.
        extent: diagonal of the box around it.
        seen_deg: of the full circle, how much lies within a sector that was looked into.
        unit: of lengths: "m", or "units" where the scale is not known.
        timed: whether the images were taken one after the other, as a video is.
    """

    indices: NDArray[np.int64]
    centres: NDArray[np.float64]
    plan: NDArray[np.float64]
    heading: NDArray[np.float64]
    length: float
    extent: float
    seen_deg: float
    unit: str
    timed: bool

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "posed_frames": len(self.indices),
            f"path_{self.unit}": self.length,
            f"extent_{self.unit}": self.extent,
            "directions_deg": self.seen_deg,
        }


def measure_motion(infos: Sequence[FrameInfo], *, metric: bool) -> Motion | None:
    """The path of the posed frames, or None with fewer than two.

    Args:
        infos: frames.
        metric: whether the unit of their poses is known to be a metre.
    """
    posed = [(i, info.world_from_camera) for i, info in enumerate(infos) if info.world_from_camera]
    if len(posed) < 2:
        return None
    indices = np.array([i for i, _ in posed])
    poses = [pose for _, pose in posed]
    centres = np.stack([pose.translation for pose in poses])
    axes = plane_axes(up_direction(poses))
    looks = np.stack([pose.rotation[:, 2] for pose in poses]) @ axes.T
    heading = np.arctan2(looks[:, 1], looks[:, 0])
    sectors = np.unique(np.floor(np.degrees(heading) / _SECTOR_DEG))
    return Motion(
        indices,
        centres,
        centres @ axes.T,
        heading,
        float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum()),
        float(np.linalg.norm(np.ptp(centres, axis=0))),
        float(min(360, _SECTOR_DEG * len(sectors))),
        "m" if metric else "units",
        is_timed(infos),
    )


def judge_motion(motion: Motion | None, infos: Sequence[FrameInfo]) -> list[Finding]:
    """What is wrong with the path.

    Args:
        motion: the path, or None without two poses.
        infos: all frames of the recording.
    """
    count, posed = len(infos), sum(info.world_from_camera is not None for info in infos)
    if posed and (motion is None or posed < _LEAST_FRAMES):
        images = "image" if posed == 1 else "images"
        return [error("frames", f"{posed} {images} with a pose: too few for a map")]
    if motion is None:
        return [
            warning(
                "poses",
                "no poses: crossfire train finds them by structure from motion (--poses sfm), "
                "which takes minutes and some luck; poses of a SLAM are better",
            )
        ]
    findings = []
    if posed < 0.8 * count:
        findings.append(warning("poses", f"{count - posed} of {count} images have no pose"))
    if motion.unit == "m" and motion.extent < _LEAST_EXTENT_M:
        findings.append(
            error(
                "baseline",
                f"the camera stays within {motion.extent:.2f} m: depth needs a baseline, move it "
                "sideways past what it sees",
            )
        )
    findings += _jumps(motion)
    return findings or [
        good(
            "motion",
            f"a path of {motion.length:.1f} {motion.unit} over {motion.extent:.1f} "
            f"{motion.unit}, looking into "
            f"{motion.seen_deg:.0f} of 360 degrees",
        )
    ]


def judge_scale(recording: Recording) -> list[Finding]:
    """Whether metres are metres: poses move as far as odometry does, and at a possible speed."""
    infos, odometry = recording.infos, None
    with suppress(CrossfireError):  # which is said elsewhere
        odometry = recording.odometry()
    posed = [info for info in infos if info.world_from_camera is not None]
    if len(posed) < 2 or not recording.metric or not is_timed(infos):
        return []
    some = [posed[i] for i in np.unique(np.linspace(0, len(posed) - 1, _PARTS).astype(int))]
    moved = _steps([recording.world_from_base(info) for info in some])
    seconds = np.diff([info.stamp_ns * 1e-9 for info in some])
    speed = float(np.median(moved / seconds))
    if odometry is not None:
        driven = _steps([odometry.at(info.stamp_ns) for info in some])
        told = driven > _LEAST_PART_M
        ratio = float(np.median(moved[told] / driven[told])) if told.any() else 1.0
        off = max(ratio, 1.0 / max(ratio, 1e-9))
        judge = error if off > _HOPELESS_SCALE else warning
        if off > _SAME_SCALE:
            text = f"the poses move {ratio:.3g} times as far as the odometry: is one of them not "
            return [judge("scale", f"{text}in metres (millimetres, or without scale)?")]
    if speed > _FASTEST_M_S:
        text = f"the camera moves at {speed:.0f} m/s (median): are its poses in millimetres?"
        return [warning("scale", text)]
    return []


def _steps(poses: Sequence[Pose | None]) -> NDArray[np.float64]:
    """Distances from pose to pose, NaN where one is missing."""
    missing = np.full(3, np.nan)
    centres = np.stack([missing if pose is None else pose.translation for pose in poses])
    return np.asarray(np.linalg.norm(np.diff(centres, axis=0), axis=1))


def _jumps(motion: Motion) -> list[Finding]:
    """Photographs are taken where one likes; a video moves on from frame to frame."""
    steps = np.linalg.norm(np.diff(motion.centres, axis=0), axis=1)
    steps = steps / np.diff(motion.indices)  # frames without a pose lie between
    least = _JUMP_M if motion.unit == "m" else 0.0
    jumps = np.flatnonzero(steps > max(_JUMP_TIMES * float(np.median(steps)), least))
    if not motion.timed or not len(jumps) or len(jumps) > 0.05 * len(steps):
        return []
    return [
        warning(
            "pose_jump",
            f"the poses jump {len(jumps)} times, up to {steps[jumps].max():.2f} {motion.unit} from "
            f"one image to the next, first at image {motion.indices[jumps[0]]}: the pose source "
            "relocalized or was reset",
        )
    ]
