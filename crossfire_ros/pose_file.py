"""The last pose, kept from one run of the node to the next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import CrossfireError
from crossfire_core.files import write_text
from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import Tracker
from crossfire_core.localization.uncertainty import diagonal, is_covariance

# Between two runs the robot may have been moved: a little at once, further the longer it was.
_MOVED_M, _MOVED_M_PER_S, _MOVED_MOST_M = 0.3, 0.02, 1.0
_TURNED_RAD, _TURNED_RAD_PER_S, _TURNED_MOST_RAD = 0.2, 0.01, 0.5
# Odometry that has gone on for longer than this has drifted away from what it was good for.
_ODOMETRY_HOLDS_S = 60.0


class PoseFileError(CrossfireError):
    """The file of the last pose cannot be used."""


@dataclass(frozen=True)
class KeptPose:
    """Where the robot was.

    Attributes:
        stamp_ns: when, of the robot's clock (which may be a simulation's).
        saved_s: when, of the machine's clock, seconds.
        map_from_base: the pose.
        covariance: ``[6, 6]``.
        odom_from_base: the odometry at that time, or None.
    """

    stamp_ns: int
    saved_s: float
    map_from_base: Pose
    covariance: NDArray[np.float64]
    odom_from_base: Pose | None = None

    def age_s(self) -> float:
        """Seconds since it was saved; infinite where the machine's clock has gone back."""
        age = time.time() - self.saved_s
        return age if age >= 0.0 else float("inf")

    def widened(self) -> NDArray[np.float64]:
        """Its covariance, grown by what may have happened since."""
        age = self.age_s()
        moved = min(_MOVED_MOST_M, _MOVED_M + _MOVED_M_PER_S * age)
        turned = min(_TURNED_MOST_RAD, _TURNED_RAD + _TURNED_RAD_PER_S * age)
        return self.covariance + diagonal(moved, turned)

    def start(self, tracker: Tracker, now_ns: int) -> None:
        """Let a tracker look here first; nothing is said before images agree.

        Odometry that has not been interrupted adds what the robot drove in the meantime; whether
        it was, the tracker's own history judges.

        Args:
            tracker: that has not seen anything yet.
            now_ns: the present, of the robot's clock.
        """
        past_s = (now_ns - self.stamp_ns) * 1e-9
        if self.odom_from_base is None or not 0.0 <= past_s < _ODOMETRY_HOLDS_S:
            tracker.set_prior(0, self.map_from_base, self.widened(), coast=False)
            return
        tracker.add_odometry(self.stamp_ns, self.odom_from_base)
        tracker.set_prior(self.stamp_ns, self.map_from_base, self.widened(), coast=False)


class PoseKeeper:
    """Keeps the pose of one robot in one map."""

    def __init__(
        self, path: Path, frame: str, map_identity: str, warn: Callable[[str], None]
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            path: the file.
            frame: of the map.
            map_identity: of the map.
            warn: called with a line when the file cannot be used.
        """
        self._path, self._frame, self._identity = path, frame, map_identity
        self._warn = warn
        self._written_s = -float("inf")

    def read(self) -> KeptPose | None:
        """The kept pose; None if there is none that can be used."""
        try:
            return load_pose(self._path, self._frame, self._identity)
        except PoseFileError as error:
            self._warn(str(error))
            return None

    def write(self, tracker: Tracker, period_s: float = 0.0) -> None:
        """Keep where a tracker has the robot, if it knows, and no more often than that."""
        now = time.monotonic()
        kept = kept_from(tracker) if now - self._written_s >= period_s else None
        if kept is None:
            return
        self._written_s = now
        try:
            save_pose(self._path, self._frame, self._identity, kept)
        except OSError as error:
            self._warn(f"the last pose cannot be kept: {error}")


def kept_from(tracker: Tracker) -> KeptPose | None:
    """What a tracker knows that is worth keeping; None unless it is localized."""
    fix = tracker.last_fix
    if fix is None or not tracker.state.localized:
        return None
    latest = tracker.odometry.latest
    stamp = max(fix.stamp_ns, latest.stamp_ns if latest else 0)
    there = tracker.predict(stamp)
    if there is None:
        return None
    odometry = tracker.odometry.at(stamp)
    return KeptPose(
        stamp,
        time.time(),
        there.map_from_base,
        there.covariance,
        None if odometry is None else odometry.odom_from_base,
    )


def save_pose(path: Path, frame: str, map_identity: str, kept: KeptPose) -> None:
    """Write a pose, whole or not at all.

    Raises:
        OSError: no permission or no space.
    """
    odometry = kept.odom_from_base
    data = {
        "frame_id": frame,
        "map": map_identity,
        "stamp_ns": kept.stamp_ns,
        "saved_s": kept.saved_s,
        "pose": kept.map_from_base.to_json(),
        "covariance": kept.covariance.tolist(),
        "odometry": None if odometry is None else odometry.to_json(),
    }
    write_text(path, json.dumps(data, indent=1) + "\n")


def load_pose(path: Path, frame: str, map_identity: str) -> KeptPose | None:
    """Read the last pose.

    Args:
        path: the file.
        frame: of the present map.
        map_identity: of the present map.

    Returns:
        None if there is no file.

    Raises:
        PoseFileError: the file is broken or belongs to another map.
    """
    try:
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        odometry = data["odometry"]
        kept = KeptPose(
            int(data["stamp_ns"]),
            float(data["saved_s"]),
            Pose.from_json(data["pose"]),
            np.asarray(data["covariance"], dtype=np.float64),
            None if odometry is None else Pose.from_json(odometry),
        )
        found = data["frame_id"], data["map"]
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise PoseFileError(f"{path} holds no pose and is ignored: {error}") from error
    if found[0] != frame:
        raise PoseFileError(f"{path} holds a pose in frame {found[0]!r}, ignored in {frame!r}")
    if found[1] != map_identity:
        raise PoseFileError(f"{path} holds a pose in another map, and is ignored")
    if not is_covariance(kept.covariance) or not np.isfinite(kept.saved_s):
        raise PoseFileError(f"{path} holds no pose and is ignored: its numbers make no sense")
    return kept
