"""Whether the transforms around the robot are ones that others can rely on."""

from __future__ import annotations

import math
import time

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray

from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import Tracker
from crossfire_ros.frame_watch import FrameWatch, Link
from crossfire_ros.odometry_checks import TopicAgainstTf
from crossfire_ros.reporting import Complaint
from crossfire_ros.settings import NodeConfig
from crossfire_ros.transforms import latest, tf

# A transform that is not repeated for so long is missing to those who need it.
_SILENCE_S = 1.0
# No robot on wheels leans over so far; one whose camera's axes are confused seems to.
_MOST_LEANING_DEG = 50.0


class TransformHealth:
    """Collects what is seen of the transforms between two activations, and judges it."""

    def __init__(self, config: NodeConfig) -> None:
        """Start with nothing seen.

        Args:
            config: names of the frames, and what the node publishes.
        """
        child = config.odom_frame if config.use_odometry else config.base_frame
        self._frames = FrameWatch((config.map_frame, child), {child, config.base_frame})
        self._against = TopicAgainstTf()
        self._sent_s = -math.inf
        self._due_since_s: float | None = None
        self._posture = self._map_base = ""

    @property
    def link(self) -> Link:
        """Parent and child of the transform that the node publishes."""
        return self._frames.own

    def name_map(self, frame: str, base_frame: str) -> None:
        """Say what the map's frame is called, and that of the robot that mapped, if it is known."""
        self._frames.own = (frame, self._frames.own[1])
        self._map_base = base_frame

    def sent(self, stamp_ns: int) -> None:
        """Note that the node's transform goes out."""
        self._frames.sent(stamp_ns)
        self._sent_s = time.monotonic()

    def heard(self, transform: TransformStamped, static: bool) -> None:
        """Note a transform that has come in, perhaps our own."""
        self._frames.note(transform, static)

    def moves_base(self, child: str, base_frame: str) -> bool:
        """Whether a link with this child takes the robot along."""
        return self._frames.moves(child, base_frame)

    def look_at_posture(
        self, map_from_base: Pose, upward: NDArray | None, camera_frame: str
    ) -> None:
        """See whether the robot lies on its side, as it does where axes of a camera are confused.

        Args:
            map_from_base: where it is.
            upward: ``[3]`` unit, z axis of the robot that mapped; None where it is not known.
            camera_frame: of the image that said so.
        """
        if upward is None:
            return
        cosine = float(upward @ map_from_base.rotation[:, 2])
        leaning = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
        self._posture = ""
        if leaning > _MOST_LEANING_DEG:
            self._posture = (
                f"the robot seems to lean over by {leaning:.0f} deg: {camera_frame!r} is not the "
                "camera's optical frame (x right, y down, z forward); set the driver's frame_id "
                "to that one"
            )

    def withheld(
        self, tracker: Tracker, config: NodeConfig, odometry_topic: str, refusal: str
    ) -> str:
        """Why a localized robot's transform does not go out, or an empty string.

        Args:
            tracker: with the odometry.
            config: what the node publishes.
            odometry_topic: where the odometry is awaited.
            refusal: why what comes there is of no use, or an empty string.
        """
        now = time.monotonic()
        if not config.tf_broadcast or now - self._sent_s < _SILENCE_S:
            self._due_since_s = None
            return ""
        missing = f"{' -> '.join(self.link)} is not published"
        if config.use_odometry and tracker.odometry.empty and refusal:
            return f"{missing}: {refusal}"
        if config.use_odometry and tracker.odometry.empty:
            return (
                f"{missing}: no odometry on {odometry_topic}; remap `odom`, or set use_odometry "
                "to false on a robot that has none"
            )
        if config.use_odometry and tracker.map_from_odom is None:
            return f"{missing}: no odometry at the stamps of the images, or it has begun anew"
        self._due_since_s = self._due_since_s or now
        late = now - self._due_since_s >= _SILENCE_S
        return f"{missing}: the clock stands still" if late else ""

    def complaints(
        self, tracker: Tracker, config: NodeConfig, buffer: tf.Buffer
    ) -> list[Complaint]:
        """What is wrong, each with its remedy.

        Args:
            tracker: with the odometry.
            config: names of the frames, and what the node publishes.
            buffer: of the transforms that were heard.
        """
        error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
        texts = self._frames.complaints(config.tf_broadcast)
        texts += [self._posture] if self._posture else []
        found = [(error, text) for text in texts]
        if config.extrinsics == "map" and self._map_base not in ("", config.base_frame):
            found.append((warn, _another_base(config, self._map_base)))
        if not config.use_odometry or config.odometry_source != "topic":
            return found
        try:
            stamp, by_tf = latest(buffer, config.odom_frame, config.base_frame)
        except tf.TransformException:
            if tracker.state.localized:
                found.append((warn, _nobody(config, self.link)))
            return found
        apart = self._against.look(tracker.odometry.at(stamp), by_tf, config.base_frame)
        return [*found, (warn, apart)] if apart else found


def _another_base(config: NodeConfig, map_base: str) -> str:
    return (
        f"the map has the camera's place on {map_base!r}, and poses are published of "
        f"{config.base_frame!r}: set base_frame to {map_base!r}, or extrinsics to tf"
    )


def _nobody(config: NodeConfig, link: Link) -> str:
    return (
        f"nobody publishes {config.odom_frame} -> {config.base_frame} on /tf, so that {link[0]} "
        "does not lead to the robot: the odometry's driver or robot_localization should"
    )
