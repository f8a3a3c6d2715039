"""From a stream of images and odometry to a stream of poses that can be relied on.

The tracker owns no threads and no clock: the same calls in the same order give the same poses.
It believes one image only where the image agrees with what is already known. A pose out of the
blue (the first one, one after being lost, a jump) needs a second image that agrees with it, and
more evidence in both. A corridor that looks like the map's does so for minutes, and moves as the
odometry does: many images of it prove no more than one, so evidence is not summed up over images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import WIDE, ImageLocalizer, PoseEstimate, Search
from crossfire_core.localization.image_check import ImageCheck
from crossfire_core.localization.odometry import OdometryHistory, OdometrySample
from crossfire_core.localization.pace import Pace
from crossfire_core.localization.planar import flat, on_floor
from crossfire_core.localization.prediction import (
    Anchor,
    Prediction,
    PriorKind,
    Smoothed,
    carried,
    velocity_between,
)
from crossfire_core.localization.rig import RigImage, RigLocalizer, RigWitness
from crossfire_core.localization.smoothing import smoothed
from crossfire_core.localization.uncertainty import (
    FloatArray,
    at_lever,
    completed,
    diagonal,
    is_covariance,
    mahalanobis_squared,
    sigmas,
    symmetric,
)
from crossfire_core.localization.upright import KnowsUpright, localize_turned

# A pose from nothing may be confirmed for so long, and by so many images at least.
_CANDIDATE_NS, _CANDIDATE_CHANCES = 300_000_000, 2
_CONTRADICTIONS = 3  # fewer poses elsewhere prove nothing, however long they took
_NARROW = 0.6  # of the prior's uncertainty, searched as long as nothing has failed
_GIVEN_UP = 2.0  # times what it began with, if that is more than `lost_sigma_m`
# What a given pose is taken for where its covariance says nothing, as RViz's button has it.
USUAL_HINT = diagonal(0.5, np.radians(15.0))


class TrackingState(str, Enum):
    """What the tracker knows about where the robot is.

    Coasting: no image has confirmed it lately. Odometry carries the pose on, whose covariance
    grows; a pose that somebody gave and no image has confirmed yet is carried on too.
    """

    UNINITIALIZED = "uninitialized"
    TRACKING = "tracking"
    COASTING = "coasting"
    LOST = "lost"

    @property
    def localized(self) -> bool:
        """Whether the robot's place is known, confirmed lately or not."""
        return self in (TrackingState.TRACKING, TrackingState.COASTING)


@dataclass(frozen=True)
class TrackResult:
    """What one image changed.

    Attributes:
        state: after the image.
        stamp_ns: of the image.
        reason: empty when the image gave a fix, else one line for people.
        prior: what the localization started from.
        map_from_base: the fix, or None; only this may be published as a pose.
        covariance: ``[6, 6]`` of the fix, or None.
        map_from_odom: the correction after the fix, or None where no odometry is known.
        jumped: whether the fix contradicts what was believed before it, or is further from it
            than one image may move the robot.
        failures: images in a row without a fix.
        estimate: what the localizer said, or None if it was not asked; of several cameras, what
            they say together, as of one in the robot's base.
        left_out: why cameras of a rig had no say, by name.
    """

    state: TrackingState
    stamp_ns: int
    reason: str
    prior: PriorKind = PriorKind.NONE
    map_from_base: Pose | None = None
    covariance: FloatArray | None = None
    map_from_odom: Pose | None = None
    jumped: bool = False
    failures: int = 0
    estimate: PoseEstimate | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sight:
    """What images say, of a camera at a place on the robot."""

    estimate: PoseEstimate
    base_from_camera: Pose
    relative_size: float


@dataclass
class _Candidate:
    """A place that one image proposes and others must confirm."""

    anchor: Anchor
    agreed: int = 0
    missed: int = 0


@dataclass
class _Contradiction:
    """Poses found elsewhere than predicted, since the last one that agreed."""

    since_ns: int
    count: int = 0


class Tracker:
    """Follows one robot in one map.

    Attributes:
        config: thresholds; :meth:`configure` changes them.
        state: what is known now.
        odometry: the recent odometry.
        last_fix: the last believed pose, kept while lost.
        failures: images in a row without a fix.
    """

    def __init__(
        self,
        localizer: ImageLocalizer,
        config: TrackingConfig | None = None,
        base_from_camera: Pose | None = None,
    ) -> None:
        """Start uninitialized.

        Args:
            localizer: finds the pose of one image.
            config: thresholds; the defaults if None.
            base_from_camera: where the camera sits on the robot; identity if None.
        """
        self.config = config or TrackingConfig()
        self._localizer = localizer
        self._upright = localizer.upright if isinstance(localizer, KnowsUpright) else None
        self._camera_from_base = (base_from_camera or Pose.identity()).inverse()
        self._rig = RigLocalizer(localizer) if isinstance(localizer, RigWitness) else None
        self.odometry = OdometryHistory(self.config)
        self._images: defaultdict[str, ImageCheck] = defaultdict(ImageCheck)
        self._left_out: dict[str, str] = {}
        self.state = TrackingState.UNINITIALIZED
        self._last_stamp: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.last_fix: Anchor | None = None
        self._tied: Anchor | None = None  # the last pose whose odometry is known
        self._hint: Anchor | None = None
        self._hint_tried_ns: int | None = None
        self._candidate: _Candidate | None = None
        self._contradiction: _Contradiction | None = None
        self._pace = Pace()
        self.failures = 0
        self._attempts = 0
        self._search = self.config.auto_global

    @property
    def map_from_odom(self) -> Pose | None:
        """The correction of the odometry; None unless localized with unbroken odometry.

        It is that of the last pose that was tied to odometry: a fix without any leaves it.
        """
        # The state first: another thread that is being found again sets it last, and the pose
        # from before it was lost must not be taken for the new one.
        if not self.state.localized:
            return None
        tied = self._tied
        if tied is None or tied.odometry is None or self._odometry_broke_since(tied):
            return None
        return tied.published @ tied.odometry.odom_from_base.inverse()

    def configure(self, config: TrackingConfig) -> None:
        """Change the thresholds from the next image on."""
        if config.two_d != self.config.two_d:
            self.odometry.clear()  # what has been kept is of the other kind
        self.config = config
        self.odometry.configure(config)

    def mount(self, base_from_camera: Pose) -> None:
        """Say where the camera sits on the robot now (it may be on a moving head)."""
        self._camera_from_base = base_from_camera.inverse()

    def add_odometry(
        self, stamp_ns: int, odom_from_base: Pose, covariance: FloatArray | None = None
    ) -> bool:
        """Hand over one odometry sample; may be called from another thread.

        Args:
            stamp_ns: nanoseconds, of the same clock as the images.
            odom_from_base: the pose in the odometry's frame.
            covariance: ``[6, 6]`` as the odometry reports it, or None; axes with zero, negative,
                huge or no numbers count as unknown.

        Returns:
            Whether it was used; NaN and samples that come late are not.
        """
        if not odom_from_base.is_finite():
            return False
        if self.config.two_d:
            odom_from_base = flat(odom_from_base)
        return self.odometry.add(stamp_ns, odom_from_base, covariance)

    def set_prior(
        self, stamp_ns: int, map_from_base: Pose, covariance: FloatArray, coast: bool = True
    ) -> None:
        """Start over from a pose that somebody gave; it counts as a fix once images confirm it.

        Args:
            stamp_ns: when the robot was there, 0 for now; odometry since then is added.
            map_from_base: the pose.
            covariance: ``[6, 6]``; axes with zero, negative, huge or no numbers get what RViz's
                button has.
            coast: the robot is there and coasts from there at once, as an operator means it; else
                images look there first, and nothing is said before they agree.

        Raises:
            ValueError: the pose is not finite, or the covariance has another shape.
        """
        if not map_from_base.is_finite() or np.shape(covariance) != (6, 6):
            raise ValueError("the pose is not finite, or its covariance is not 6 by 6")
        floor = diagonal(self.config.floor_m, np.radians(self.config.floor_deg))
        known = completed(np.asarray(covariance, dtype=np.float64), USUAL_HINT)
        odometry = self._odometry_for_hint(stamp_ns)
        stamp_ns = stamp_ns if stamp_ns > 0 else self._newest_stamp() or 0
        self.reset()
        hint = Anchor(stamp_ns, map_from_base, symmetric(known + floor), odometry, waits=True)
        self._hint, _ = self._grounded(hint)
        self._tie()
        if coast:
            self.state = TrackingState.COASTING

    def relocalize(self) -> None:
        """Forget where the robot was and search the whole map from the next image on."""
        self._forget()
        self._search = True
        self.state = TrackingState.LOST

    def reset(self) -> None:
        """Back to the beginning, as after construction; odometry is kept."""
        self._forget()
        self.state = TrackingState.UNINITIALIZED

    def predict(self, stamp_ns: int) -> Prediction | None:
        """Where the robot should be at a time, from the last fix or, before one, from a hint.

        Returns:
            None without either, after an odometry reset, or once it is worth nothing.
        """
        belief = self.last_fix or self._hint
        if belief is None or self._odometry_broke_since(belief):
            return None
        best = self._worth(belief, stamp_ns)
        tied = self._tied
        if tied is not None and tied is not belief and not self._odometry_broke_since(tied):
            # A fix without odometry may say less by now than an older one with it.
            other = self._worth(tied, stamp_ns)
            if best is None or (other is not None and _sigma_m(other) < _sigma_m(best)):
                best = other
        return replace(best, kind=PriorKind.HINT) if best and self.last_fix is None else best

    def expire(self, stamp_ns: int | None = None) -> TrackingState:
        """The state at a time, whether or not images arrive.

        Args:
            stamp_ns: the present; by default the newest stamp of an image or of odometry.
        """
        stamp_ns = self._newest_stamp() if stamp_ns is None else stamp_ns
        if stamp_ns is not None:
            self._settle(stamp_ns)
        return self.state

    def update(self, image: NDArray[np.uint8], camera: Camera, stamp_ns: int) -> TrackResult:
        """Process one image.

        Args:
            image: ``[height, width, 3]`` uint8 RGB.
            camera: its calibration.
            stamp_ns: nanoseconds, when it was taken.
        """
        mount = self._camera_from_base.inverse()
        return self.update_rig([RigImage(image, camera, mount)], stamp_ns)

    def update_rig(self, images: Sequence[RigImage], stamp_ns: int) -> TrackResult:
        """Process images that several cameras of the robot took at one time.

        A camera that is dark or frozen takes no part.

        Args:
            images: one a camera, each of another name.
            stamp_ns: nanoseconds, when they were taken.
        """
        self._left_out = {}
        refusal = self._check_stamp(stamp_ns)
        if refusal:
            return self._result(stamp_ns, refusal)
        self._pace.seen(stamp_ns)
        expected = self._settle(stamp_ns)
        usable, refusal = self._usable(images, stamp_ns)
        if refusal:
            self.failures += 1
            return self._result(stamp_ns, refusal)
        prior = self._choose_prior(stamp_ns, expected)
        if prior is None and not self._search:
            return self._result(stamp_ns, "waiting for an initial pose")
        kind = PriorKind.GLOBAL if prior is None else prior.kind
        seen = self._localize(usable, prior)
        reason = self._quality(seen)
        if not reason:
            found, reason = self._grounded(self._anchor(seen, stamp_ns))
        if reason:
            self._miss_candidate(stamp_ns)
            self.failures += 1
            return self._result(stamp_ns, reason, kind, seen.estimate)
        return self._judge(found, expected, kind, seen.estimate)

    def _usable(self, images: Sequence[RigImage], stamp_ns: int) -> tuple[list[RigImage], str]:
        """The images that can show anything, and if there are none why."""
        usable = []
        for each in images:
            refusal = self._images[each.name].refusal(
                each.image, each.camera, stamp_ns, self.odometry, self.config.min_contrast
            )
            if refusal:
                self._left_out[each.name] = refusal
            else:
                usable.append(each)
        if usable or len(images) == 1:
            return usable, next(iter(self._left_out.values()), "") if not usable else ""
        return usable, "; ".join(f"{name}: {why}" for name, why in self._left_out.items())

    # The clock

    def _check_stamp(self, stamp_ns: int) -> str:
        last = self._last_stamp
        if last is not None and stamp_ns <= last:
            if last - stamp_ns < self.config.clock_jump_s * 1e9:
                return "image is not newer than the one before"
            self._start_new_recording(stamp_ns)
        self._last_stamp = stamp_ns
        return ""

    def _start_new_recording(self, stamp_ns: int) -> None:
        """The clock went back: nothing known so far holds any more."""
        latest = self.odometry.latest
        if latest is not None and latest.stamp_ns - stamp_ns > self.config.clock_jump_s * 1e9:
            self.odometry.clear()
        was_found = self.state is not TrackingState.UNINITIALIZED
        hint = self._hint
        self._forget()
        # A hint is of the new recording, or all that there is to begin with.
        if hint is not None and (hint.stamp_ns <= stamp_ns or not self._search):
            self._hint = replace(hint, odometry=None)
        self._images.clear()
        self.state = TrackingState.LOST if was_found else TrackingState.UNINITIALIZED

    def _newest_stamp(self) -> int | None:
        latest = self.odometry.latest
        stamps = [self._last_stamp, None if latest is None else latest.stamp_ns]
        return max((stamp for stamp in stamps if stamp is not None), default=None)

    # Prediction

    def _settle(self, stamp_ns: int) -> Prediction | None:
        """The state that time alone leads to; where the robot should be, None if not localized."""
        self._tie()
        if self._tied is not None and self._worth(self._tied, stamp_ns) is None:
            self._tied = None
        if not self.state.localized:
            return None
        expected, fix = self.predict(stamp_ns), self.last_fix
        if expected is None:
            self._lose()
        elif fix is None or stamp_ns - fix.stamp_ns >= self.config.coast_after_s * 1e9:
            self.state = TrackingState.COASTING
        return expected

    def _tie(self) -> None:
        """Give the last pose the odometry at its stamp, which may have come after the image."""
        belief = self.last_fix or self._hint
        if belief is None or self._odometry_broke_since(belief):
            return
        known = belief.odometry
        if known is None or known.ahead_s > 0.0:
            found = self.odometry.at(belief.stamp_ns)
            if found is None and known is None and belief.waits:
                found = self.odometry.latest  # a robot that was placed stood until then
            if found is None:
                return
            belief = replace(belief, odometry=found)
            if self.last_fix is not None:
                self.last_fix = belief
            else:
                self._hint = belief
        self._tied = belief

    def _move(self, anchor: Anchor, stamp_ns: int) -> Prediction:
        return carried(anchor, stamp_ns, self.odometry, self.config)

    def _worth(self, anchor: Anchor, stamp_ns: int) -> Prediction | None:
        """A prediction, or None once it is too uncertain to be worth anything."""
        prediction = self._move(anchor, stamp_ns)
        limit = max(self.config.lost_sigma_m, _GIVEN_UP * sigmas(anchor.covariance)[0])
        return None if _sigma_m(prediction) > limit else prediction

    def _odometry_broke_since(self, anchor: Anchor) -> bool:
        return anchor.odometry is not None and anchor.odometry.epoch != self.odometry.epoch

    def _lose(self) -> None:
        self._search = self._search or self.last_fix is not None
        self._contradiction = None
        self._attempts = 0
        self.state = TrackingState.LOST

    def _odometry_for_hint(self, stamp_ns: int) -> OdometrySample | None:
        """Odometry at a hint's stamp; RViz stamps may be zero or a little ahead of odometry."""
        latest = self.odometry.latest
        if latest is not None and (stamp_ns <= 0 or stamp_ns > latest.stamp_ns):
            return latest
        return self.odometry.at(stamp_ns)

    # Where to look, and what was found

    def _choose_prior(self, stamp_ns: int, expected: Prediction | None) -> Prediction | None:
        """While tracking the prediction, else a candidate, else a known place or the whole map."""
        if self.state is TrackingState.TRACKING:
            return expected
        candidate = self._candidate
        # One image for it while coasting, where it is likelier to be wrong.
        if candidate is not None and (expected is None or candidate.missed == 0):
            prediction = self._worth(candidate.anchor, stamp_ns)
            if prediction is not None:
                return replace(prediction, kind=PriorKind.CANDIDATE)
            self._candidate = None
        place = expected or self._last_place(stamp_ns)
        self._attempts += 1
        if self._search and self._attempts % 2 == 0 and not self._hint_comes_first(stamp_ns):
            return None
        return place

    def _last_place(self, stamp_ns: int) -> Prediction | None:
        """While not localized: what was given, or where the robot was.

        An odometry that restarts on a robot that stood still leaves the last pose right, so it is
        worth an image; like all found then it counts only once a second image agrees.
        """
        if self._hint is not None:
            return replace(self._move(self._hint, stamp_ns), kind=PriorKind.HINT)
        return None if self.last_fix is None else self._worth(self.last_fix, stamp_ns)

    def _hint_comes_first(self, stamp_ns: int) -> bool:
        if self._hint is None:
            return False
        if self._hint_tried_ns is None:
            self._hint_tried_ns = stamp_ns
        return stamp_ns - self._hint_tried_ns < self.config.coast_after_s * 1e9

    def _judge(
        self, found: Anchor, expected: Prediction | None, kind: PriorKind, estimate: PoseEstimate
    ) -> TrackResult:
        """Believe a pose that was expected, or that others have confirmed; remember the others."""
        agrees = expected is not None and self._agrees(found, expected)
        if agrees and self.last_fix is not None:
            return self._accept(found, kind, estimate)
        if not agrees and estimate.evidence < self.config.new_place_evidence:
            return self._unsure(found, expected, kind, estimate)
        reason = self._compare(found)
        if self._candidate is not None and self._candidate.agreed >= self.config.confirmations:
            return self._accept(found, kind, estimate, jumped=self._contradicts_fix(found))
        if expected is not None and not agrees:
            reason = self._contradict(found, expected)
        self.failures += 1
        return self._result(found.stamp_ns, reason, kind, estimate)

    def _unsure(
        self, found: Anchor, expected: Prediction | None, kind: PriorKind, estimate: PoseEstimate
    ) -> TrackResult:
        """Leave a place out of the blue alone that may only look alike.

        It speaks against an expectation all the same: then nothing is known for sure.
        """
        self._miss_candidate(found.stamp_ns)
        reason = (
            f"unsure, a place that looks alike might agree as well (evidence "
            f"{estimate.evidence:.1f}, a new place needs {self.config.new_place_evidence:.1f})"
        )
        if expected is not None:
            reason = f"{self._contradict(found, expected)}; {reason}"
        self.failures += 1
        return self._result(found.stamp_ns, reason, kind, estimate)

    def _contradict(self, found: Anchor, expected: Prediction) -> str:
        """Count a pose that lies elsewhere than expected; too many, and the robot is lost."""
        against = self._contradiction or _Contradiction(found.stamp_ns)
        against.count += 1
        self._contradiction = against
        lasted_s = (found.stamp_ns - against.since_ns) * 1e-9
        if against.count >= _CONTRADICTIONS and lasted_s >= self.config.contradicted_s:
            self._lose()
        return self._disagreement(found, expected)

    def _disagreement(self, found: Anchor, expected: Prediction) -> str:
        metres, radians = found.map_from_base.distance(expected.map_from_base)
        return (
            f"pose disagrees with {expected.kind.value} by {metres:.2f} m, "
            f"{np.degrees(radians):.1f} deg (distance {self._distance(found, expected):.0f}, "
            f"gate {self.config.gate:.0f})"
        )

    def _contradicts_fix(self, found: Anchor) -> bool:
        if self.last_fix is None:
            return False
        return not self._agrees(found, self._move(self.last_fix, found.stamp_ns))

    def _miss_candidate(self, stamp_ns: int) -> None:
        candidate = self._candidate
        if candidate is None:
            return
        candidate.missed += 1
        waited_ns = stamp_ns - candidate.anchor.stamp_ns
        if candidate.missed >= _CANDIDATE_CHANCES and waited_ns >= _CANDIDATE_NS:
            self._candidate = None

    def _compare(self, found: Anchor) -> str:
        """Count a place that agrees with the candidate, or take it for a new one; what to wait for.

        Odometry that moves otherwise than the robot does lets no two places agree.
        """
        reason, candidate = "found a place, waiting for confirmation", self._candidate
        if candidate is not None:
            prediction = self._move(candidate.anchor, found.stamp_ns)
            if self._agrees(found, prediction):
                candidate.anchor = found
                candidate.agreed += 1
                return reason
            reason += f": {self._disagreement(found, prediction)} since the one before"
        self._candidate = _Candidate(found)
        return reason

    # Judging and remembering

    def _localize(self, images: Sequence[RigImage], prior: Prediction | None) -> _Sight:
        """What a camera says, or what several say together."""
        if len(images) > 1:
            return self._localize_together(images, prior)
        (seen,) = images
        mount = seen.base_from_camera
        there = None if prior is None else prior.map_from_base @ mount
        quarters = self._upright.quarters(mount, there) if self._upright else 0
        search = self._search_from(prior, mount.translation)
        estimate = localize_turned(
            self._localizer, seen.image, seen.camera, quarters, there, search
        )
        return _Sight(estimate, mount, seen.camera.relative_size)

    def _localize_together(self, images: Sequence[RigImage], prior: Prediction | None) -> _Sight:
        if self._rig is None:
            raise TypeError("this localizer takes the images of one camera alone")
        there = None if prior is None else prior.map_from_base
        found = self._rig.localize(images, there, self._search_from(prior, np.zeros(3)))
        for each, reason in zip(images, found.left_out, strict=False):
            if reason:
                self._left_out[each.name] = reason
        return _Sight(found.of_base(), Pose.identity(), 1.0)

    def _search_from(self, prior: Prediction | None, mounted_at: FloatArray) -> Search:
        """How a localizer shall look from a prior for what is mounted somewhere on the robot."""
        if prior is None:
            return WIDE
        lever = prior.map_from_base.rotation @ mounted_at
        sigma_m, sigma_rad = sigmas(at_lever(prior.covariance, lever))
        # A narrow search is faster and finds fewer false matches. Where it misses, the next
        # image is searched more widely.
        width = _NARROW if self.failures == 0 else 1.0
        tracking = self.state is TrackingState.TRACKING
        stamp, sure = self._last_stamp, tracking and self.failures == 0
        return Search(
            (width * sigma_m, width * sigma_rad),
            self.config.iterations if tracking else None,
            follow=sure and stamp is not None and self._pace.follows(self.config, stamp),
        )

    def _quality(self, seen: _Sight) -> str:
        """Why an estimate cannot be believed on its own, or an empty string."""
        c, estimate = self.config, seen.estimate
        pose, covariance = estimate.map_from_camera, estimate.covariance
        residual = estimate.residual_px / seen.relative_size
        if not estimate.ok:
            return estimate.reason or "not localized"
        if pose is None or not pose.is_finite() or covariance is None:
            return "localizer gave no finite pose"
        if not is_covariance(covariance):
            return "localizer gave no usable covariance"
        if estimate.inliers < c.min_inliers:
            return f"only {estimate.inliers} inliers, {c.min_inliers} are needed"
        if estimate.spread < c.min_spread:
            return f"inliers cover {estimate.spread:.0%} of the image, {c.min_spread:.0%} is needed"
        if not residual <= c.max_residual_px:
            return f"residual is {residual:.1f} px, {c.max_residual_px:.1f} is allowed"
        sigma_m = sigmas(covariance)[0] * c.covariance_scale
        if sigma_m > c.max_sigma_m:
            return f"pose is uncertain by {sigma_m:.2f} m, {c.max_sigma_m:.2f} is allowed"
        return ""

    def _anchor(self, seen: _Sight, stamp_ns: int) -> Anchor:
        """An estimate of a camera as a pose of the robot."""
        estimate, camera_from_base = seen.estimate, seen.base_from_camera.inverse()
        assert estimate.map_from_camera is not None and estimate.covariance is not None
        c = self.config
        map_from_camera = estimate.map_from_camera
        floor = diagonal(c.floor_m, np.radians(c.floor_deg))
        camera_covariance = symmetric(estimate.covariance) * c.covariance_scale**2 + floor
        lever = map_from_camera.rotation @ camera_from_base.translation
        return Anchor(
            stamp_ns,
            map_from_camera @ camera_from_base,
            at_lever(camera_covariance, lever),
            self.odometry.at(stamp_ns),
        )

    def _grounded(self, found: Anchor) -> tuple[Anchor, str]:
        """A pose of a planar robot on its floor, and why it is none of there, if so."""
        if not self.config.two_d:
            return found, ""
        height = self.config.floor_z
        pose, covariance, distance = on_floor(found.map_from_base, found.covariance, height)
        off_m = abs(found.map_from_base.translation[2] - height)
        tilt = np.arccos(np.clip(found.map_from_base.rotation[2, 2], -1.0, 1.0))
        reason = (
            f"pose is {off_m:.2f} m off the floor and tilted by {np.degrees(tilt):.1f} deg "
            f"(distance {distance:.0f}, gate {self.config.gate:.0f}): is two_d right here?"
        )
        grounded = replace(found, map_from_base=pose, covariance=covariance)
        return grounded, reason if distance > self.config.gate else ""

    def _agrees(self, found: Anchor, prediction: Prediction) -> bool:
        """Whether a found pose is where it was expected.

        An uncertain prediction is no licence: a place metres away may lie within its gate, and
        only a second image tells it from one that merely looks alike.
        """
        metres, radians = found.map_from_base.distance(prediction.map_from_base)
        if metres > self.config.jump_m or np.degrees(radians) > self.config.jump_deg:
            return False
        return self._distance(found, prediction) <= self.config.gate

    def _distance(self, found: Anchor, prediction: Prediction) -> float:
        joint = found.covariance + prediction.covariance
        return mahalanobis_squared(found.map_from_base, prediction.map_from_base, joint)

    def _accept(
        self, found: Anchor, prior: PriorKind, estimate: PoseEstimate, jumped: bool = False
    ) -> TrackResult:
        velocity = None if jumped else velocity_between(self.last_fix, found)
        shown = self._smoothed(found, jumped) if self.config.smooth else None
        self.last_fix = replace(found, velocity=velocity, shown=shown)
        if found.odometry is not None or jumped:  # else the correction from before still holds
            self._tied = self.last_fix
        self._hint, self._candidate, self._contradiction = None, None, None
        self.failures = self._attempts = 0
        self._search = self.config.auto_global
        self.state = TrackingState.TRACKING
        self._pace.gone(found.stamp_ns, estimate)
        return self._result(found.stamp_ns, "", prior, estimate, self.last_fix, jumped)

    def _smoothed(self, found: Anchor, jumped: bool) -> Smoothed:
        """A fix weighed against the smoothed pose before it, as odometry has carried that on."""
        before, expected = self.last_fix, None
        if before is not None and before.shown is not None and not jumped:
            last = before.shown
            start = replace(before, map_from_base=last.map_from_base, covariance=last.covariance)
            if not self._odometry_broke_since(start):
                expected = self._move(start, found.stamp_ns)
        pose = smoothed(found.map_from_base, found.covariance, expected)
        if not self.config.two_d:
            return pose
        return replace(pose, map_from_base=flat(pose.map_from_base, self.config.floor_z))

    def _result(
        self,
        stamp_ns: int,
        reason: str,
        prior: PriorKind = PriorKind.NONE,
        estimate: PoseEstimate | None = None,
        fix: Anchor | None = None,
        jumped: bool = False,
    ) -> TrackResult:
        return TrackResult(
            state=self.state,
            stamp_ns=stamp_ns,
            reason=reason,
            prior=prior,
            map_from_base=None if fix is None else fix.published,
            covariance=None if fix is None else fix.covariance,
            map_from_odom=None if fix is None else self.map_from_odom,
            jumped=jumped,
            failures=self.failures,
            estimate=estimate,
            left_out={name: why for name, why in self._left_out.items() if name},
        )


def _sigma_m(prediction: Prediction) -> float:
    return sigmas(prediction.covariance)[0]
