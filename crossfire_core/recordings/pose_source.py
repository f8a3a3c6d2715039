"""Where in a bag the camera's poses come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Pose, Trajectory
from crossfire_core.recordings.bag_reader import ODOMETRY_TYPE, PATH_TYPE
from crossfire_core.recordings.bag_scan import BagScan, PoseSeries
from crossfire_core.recordings.options import NO_POSES, RecordingOptions
from crossfire_core.recordings.tf_tree import TfTree, is_odometry, is_world, plain

_BASE_FRAMES = ("base_link", "base_footprint")


@dataclass(frozen=True)
class PoseSource:
    """Gives ``world_from_camera`` at a time.

    Attributes:
        label: for people.
        world_frame: its target frame.
        carrier: frame that is posed and carries the camera.
        trajectory: ``world_from_carrier``, or None where tf gives it.
        odometric: whether it is a topic of odometry, or tf.
    """

    label: str
    world_frame: str
    carrier: str
    trajectory: Trajectory | None
    odometric: bool = False

    @property
    def drifts(self) -> bool:
        """Whether the poses are in a frame of odometry, by the custom of frame names."""
        return _drifts(self.world_frame, self.odometric)

    def at(self, tree: TfTree, camera_frame: str, stamp_ns: int, max_gap_ns: int) -> Pose | None:
        """``world_from_camera``, or None where the source does not reach."""
        if self.trajectory is None:
            posed = tree.lookup(self.world_frame, self.carrier, stamp_ns, max_gap_ns)
        else:
            posed = self.trajectory.at(stamp_ns, max_gap_ns)
        mounted = tree.lookup(self.carrier, camera_frame, stamp_ns, max_gap_ns)
        return None if posed is None or mounted is None else posed @ mounted


def find_base_frame(scan: BagScan, options: RecordingOptions) -> str:
    """The robot's frame: as named, or base_link and its like, or what the odometry carries.

    Raises:
        RecordingError: the named frame is not connected to the camera.
    """
    camera, tree = scan.camera_frame, scan.tree
    if options.base_frame:
        if not tree.connected(options.base_frame, camera):
            raise RecordingError(
                f"no tf from {options.base_frame} to {camera}: record /tf_static, or say with "
                f"--base-frame {camera} that the poses are those of the camera itself"
            )
        return plain(options.base_frame)
    carried = [s.child for s in scan.poses.values() if s.child]
    for frame in (*_BASE_FRAMES, *carried):
        if tree.connected(frame, camera):
            return frame
    # A robot that stands still is not the place it stands in.
    fixed = [f for f in tree.chain(camera) if tree.is_static(f, camera)]
    return [f for f in fixed if f == fixed[0] or not (is_world(f) or is_odometry(f))][-1]


def _drifts(frame: str, odometric: bool) -> bool:
    """Whether poses in a frame drift: odometry's frame, or odometry in any frame but the map's."""
    return is_odometry(frame) or (odometric and not is_world(frame))


def find_pose_source(scan: BagScan, base: str, options: RecordingOptions) -> PoseSource | None:
    """The source that the user named, or the only candidate.

    Poses in a frame that does not drift come first; odometry counts only where there are none.

    Raises:
        RecordingError: none, several, or one that does not lead to the camera.
    """
    wanted = options.pose_topic
    if wanted == NO_POSES:
        return None
    absolute, drifting = _candidates(scan, base)
    names = absolute or drifting
    if not wanted:
        if not names and not options.require_poses:
            return None
        wanted = _only(names, scan)
    if wanted.startswith("tf:"):
        return _from_tf(wanted, scan)
    if wanted not in scan.poses:
        raise RecordingError(
            f"topic {wanted} (--pose-topic) holds no poses; the bag has: "
            f"{', '.join(absolute + drifting) or 'none'}"
        )
    return _from_topic(wanted, scan, base, options)


def find_odometry(scan: BagScan, base: str, options: RecordingOptions) -> Trajectory | None:
    """``odom_from_base`` from the odometry topic, else from tf's odom frame, else None.

    Raises:
        RecordingError: several topics, and none is named.
    """
    topics = [name for name, s in scan.poses.items() if s.msgtype == ODOMETRY_TYPE]
    wanted = options.odom_topic
    if wanted and wanted not in topics:
        raise RecordingError(
            f"topic {wanted} (--odom-topic) holds no odometry; the bag has: "
            f"{', '.join(topics) or 'none'}"
        )
    if not wanted and len(topics) > 1:
        usual = [name for name in topics if name == "/odom"]
        if not usual:
            raise RecordingError(
                f"the bag has several topics of odometry: {', '.join(topics)}: "
                "choose one with --odom-topic"
            )
        topics = usual
    if not wanted:  # what nothing joins to the robot is no use to it
        topics = [n for n in topics if scan.tree.connected(scan.poses[n].child or base, base)]
    name = wanted or (topics[0] if topics else "")
    if name:
        return _carried_to(scan.poses[name], base, scan.tree)
    return _tf_odometry(scan.tree, base)


def _tf_odometry(tree: TfTree, base: str) -> Trajectory | None:
    """``odom_from_base`` from the first link above the base that moves, or None."""
    links = pairwise(tree.chain(base))
    # A robot that stands has odometry, too.
    moving = ((c, p) for c, p in links if not tree.is_static(p, c) or is_odometry(p))
    child, parent = next(moving, ("", ""))
    trajectory = tree.trajectory(child)
    if trajectory is None or is_world(parent):
        return None
    samples = list(zip(trajectory.stamps_ns.tolist(), trajectory.poses, strict=True))
    return _mounted(samples, child, base, tree)


def _carried_to(series: PoseSeries, base: str, tree: TfTree) -> Trajectory | None:
    """A series of poses of its own child frame as a trajectory of the base frame."""
    if not series.samples:
        return None
    return _mounted(series.samples, series.child or base, base, tree)


def _mounted(
    samples: Sequence[tuple[int, Pose]], carrier: str, base: str, tree: TfTree
) -> Trajectory:
    """Poses of one frame of the robot as those of its base."""
    if carrier == base:
        return Trajectory.from_samples(samples)
    mounted = tree.lookup(carrier, base, samples[0][0])
    if mounted is None:
        raise RecordingError(f"no tf from {carrier} to {base}: record /tf_static")
    return Trajectory.from_samples([(stamp, pose @ mounted) for stamp, pose in samples])


def _candidates(scan: BagScan, base: str) -> tuple[list[str], list[str]]:
    """Names of sources in frames that do not drift, and in odometry's frames.

    A path repeats what another topic says, so it counts only where there is no other.
    """
    absolute: list[str] = []
    drifting: list[str] = []
    paths: tuple[list[str], list[str]] = [], []
    for name, series in scan.poses.items():
        drifts = _drifts(series.frame, series.msgtype == ODOMETRY_TYPE)
        if series.msgtype == PATH_TYPE:
            paths[drifts].append(name)
        else:
            (drifting if drifts else absolute).append(name)
    root = scan.tree.chain(scan.camera_frame)[-1]
    if not scan.tree.is_static(root, scan.camera_frame):
        source = f"tf:{root}:{base}"
        if is_world(root):
            absolute.append(source)
        elif not drifting:  # tf repeats the odometry topic
            drifting.append(source)
    return absolute or paths[False], drifting or paths[True]


def _only(names: list[str], scan: BagScan) -> str:
    if not names:
        raise RecordingError(
            "the bag has no poses (no PoseStamped, Odometry, or tf to the camera): record them, "
            "or name a source with --pose-topic"
        )
    if len(names) > 1:
        raise RecordingError(
            f"the bag has {len(names)} sources of poses: {', '.join(names)}: "
            "choose one with --pose-topic"
        )
    return names[0]


def _from_tf(wanted: str, scan: BagScan) -> PoseSource:
    parts = [plain(part) for part in wanted.split(":")[1:]]
    if len(parts) != 2 or not all(parts):
        raise RecordingError(f"--pose-topic {wanted} is not of the form tf:PARENT:CHILD")
    parent, child = parts
    for target, source in ((parent, child), (child, scan.camera_frame)):
        if not scan.tree.connected(target, source):
            raise RecordingError(
                f"tf in the bag does not lead from {target} to {source}; its frames are: "
                f"{', '.join(sorted(scan.tree.frames)) or 'none'}"
            )
    return PoseSource(f"tf from {parent} to {child}", parent, child, None, odometric=True)


def _from_topic(name: str, scan: BagScan, base: str, options: RecordingOptions) -> PoseSource:
    series = scan.poses[name]
    if not series.samples:
        raise RecordingError(
            f"all {series.bad} poses on {name} are NaN or have a zero quaternion: "
            "choose another source with --pose-topic"
        )
    carrier = series.child or base
    guessed = not series.child and not options.base_frame
    if guessed and carrier == scan.camera_frame:  # nothing says what the poses are poses of
        raise RecordingError(
            f"no tf from a base frame to {scan.camera_frame}: record /tf_static, or say with "
            f"--base-frame {scan.camera_frame} that the poses on {name} are the camera's own"
        )
    if not scan.tree.connected(carrier, scan.camera_frame):
        if not options.base_frame:
            raise RecordingError(
                f"poses on {name} are those of {carrier}, and no tf leads from it to "
                f"{scan.camera_frame}: record /tf_static, or say with --base-frame "
                f"{scan.camera_frame} that they are the camera's own"
            )
        carrier = base
    trajectory = Trajectory.from_samples(series.samples)
    odometric = series.msgtype == ODOMETRY_TYPE
    return PoseSource(name, series.frame or "map", carrier, trajectory, odometric)
