"""From a stream of images and odometry to a stream of poses that can be relied on.

The tracker owns no threads and no clock: the same calls in the same order give the same poses.
It believes one image only where the image agrees with what is already known. A pose out of the
blue (the first one, one after being lost, a jump) needs a second image that agrees with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import TrackingConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.localization.odometry import (
    OdometryHistory,
    OdometrySample,
    motion_covariance,
)
from crossfire_core.localization.uncertainty import (
    FloatArray,
    at_lever,
    diagonal,
    is_covariance,
    mahalanobis_squared,
    sigmas,
    symmetric,
)

_THUMBNAIL_STEP = 8  # every so-manieth pixel tells whether an image is the last one again
_STILL_M, _STILL_RAD = 0.01, 0.01  # odometry that moved by less says that the robot stands
_VELOCITY_SPAN_NS = 1_000_000_000  # older fixes say nothing about how fast the robot is now
_CANDIDATE_CHANCES = 2  # images in which a pose from nothing may be confirmed
_NARROW = 0.6  # of the prior's uncertainty, searched as long as nothing has failed


class TrackingState(str, Enum):
    """What the tracker knows about where the robot is."""

    UNINITIALIZED = "uninitialized"
    TRACKING = "tracking"
    LOST = "lost"


class PriorKind(str, Enum):
    """Where the starting point of a localization came from."""

    NONE = "none"
    GLOBAL = "global"
    HINT = "hint"
    ODOMETRY = "odometry"
    VELOCITY = "velocity"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Anchor:
    """A pose at a time, from which later poses are predicted.

    Attributes:
        stamp_ns: nanoseconds.
        map_from_base: the pose.
        covariance: ``[6, 6]`` of the base in the map.
        odometry: the odometry at that time, or None.
        velocity: ``[6]`` twist of the base in its own axes, a second, or None.
        waits: without odometry, whether the pose stays as certain as it was (a hint that
            somebody gave does; a fix on a moving robot does not).
    """

    stamp_ns: int
    map_from_base: Pose
    covariance: FloatArray
    odometry: OdometrySample | None = None
    velocity: FloatArray | None = None
    waits: bool = False


@dataclass(frozen=True)
class Prediction:
    """Where the robot should be.

    Attributes:
        map_from_base: the pose.
        covariance: ``[6, 6]``, grown with the motion since the anchor.
        kind: what moved it there.
    """

    map_from_base: Pose
    covariance: FloatArray
    kind: PriorKind


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
        map_from_odom: of the fix, or None without odometry at its stamp.
        jumped: whether the fix contradicts what was believed before it, or is further from it
            than one image may move the robot.
        failures: images in a row without a fix.
        estimate: what the localizer said, or None if it was not asked.
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


@dataclass
class _Candidate:
    """A place that one image proposes and others must confirm."""

    anchor: Anchor
    agreed: int = 0
    missed: int = 0


class Tracker:
    """Follows one robot in one map."""

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
        self._camera_from_base = (base_from_camera or Pose.identity()).inverse()
        self._odometry = OdometryHistory(self.config)
        self._state = TrackingState.UNINITIALIZED
        self._last_stamp: int | None = None
        self._thumbnail: NDArray[np.uint8] | None = None
        self._thumbnail_odometry: OdometrySample | None = None
        self._fix: Anchor | None = None
        self._hint: Anchor | None = None
        self._candidate: _Candidate | None = None
        self._forget()

    @property
    def state(self) -> TrackingState:
        """What is known now."""
        return self._state

    @property
    def odometry(self) -> OdometryHistory:
        """The recent odometry."""
        return self._odometry

    @property
    def last_fix(self) -> Anchor | None:
        """The last believed pose, kept while lost."""
        return self._fix

    @property
    def failures(self) -> int:
        """Images in a row without a fix."""
        return self._failures

    @property
    def map_from_odom(self) -> Pose | None:
        """The correction of the odometry, or None unless tracking with unbroken odometry."""
        # The state first: another thread that is being found again sets it last, and the fix
        # from before it was lost must not be taken for the new one.
        if self._state is not TrackingState.TRACKING:
            return None
        fix = self._fix
        if fix is None or fix.odometry is None:
            return None
        if fix.odometry.epoch != self._odometry.epoch:
            return None
        return fix.map_from_base @ fix.odometry.odom_from_base.inverse()

    def configure(self, config: TrackingConfig) -> None:
        """Change the thresholds from the next image on."""
        self.config = config
        self._odometry.configure(config)

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
            covariance: ``[6, 6]`` as the odometry reports it, or None.

        Returns:
            Whether it was used; NaN and samples that come late are not.
        """
        if not odom_from_base.is_finite():
            return False
        return self._odometry.add(stamp_ns, odom_from_base, covariance)

    def set_prior(self, stamp_ns: int, map_from_base: Pose, covariance: FloatArray) -> None:
        """Start over from a pose that somebody gave; it is believed once images confirm it.

        Args:
            stamp_ns: when the robot was there; odometry since then is added.
            map_from_base: the pose.
            covariance: ``[6, 6]``.

        Raises:
            ValueError: the pose is not finite, or the covariance is not one.
        """
        if not map_from_base.is_finite() or not is_covariance(covariance):
            raise ValueError("the pose or its covariance is not finite and positive")
        floor = diagonal(self.config.floor_m, np.radians(self.config.floor_deg))
        self.reset()
        self._hint = Anchor(
            stamp_ns,
            map_from_base,
            symmetric(np.asarray(covariance) + floor),
            self._odometry_for_hint(stamp_ns),
            waits=True,
        )

    def relocalize(self) -> None:
        """Forget where the robot was and search the whole map from the next image on."""
        self._forget()
        self._search = True
        self._state = TrackingState.LOST

    def reset(self) -> None:
        """Back to the beginning, as after construction; odometry is kept."""
        self._forget()
        self._state = TrackingState.UNINITIALIZED

    def predict(self, stamp_ns: int) -> Prediction | None:
        """Where the robot should be at a time, from the last fix.

        Returns:
            None without a fix, after an odometry reset, or once it is worth nothing.
        """
        fix = self._fix
        if fix is None or self._odometry_broke_since(fix):
            return None
        prediction = self._move(fix, stamp_ns)
        return None if self._too_uncertain(prediction) else prediction

    def expire(self, stamp_ns: int) -> TrackingState:
        """The state at a time, when no image has arrived: lost once the prediction is worthless.

        Args:
            stamp_ns: the present.
        """
        if self._state is TrackingState.TRACKING:
            self._lose_unless(self.predict(stamp_ns))
        return self._state

    def update(self, image: NDArray[np.uint8], camera: Camera, stamp_ns: int) -> TrackResult:
        """Process one image.

        Args:
            image: ``[height, width, 3]`` uint8 RGB.
            camera: its calibration.
            stamp_ns: nanoseconds, when it was taken.
        """
        refusal = self._check_stamp(stamp_ns)
        if refusal:
            return self._result(stamp_ns, refusal)
        refusal = _check_size(image, camera) or self._check_image(image, stamp_ns)
        prediction = self.predict(stamp_ns)
        self._lose_unless(prediction)
        if refusal:
            return self._failed(stamp_ns, refusal)
        if self._state is TrackingState.TRACKING and prediction is not None:
            return self._track(image, camera, stamp_ns, prediction)
        return self._find(image, camera, stamp_ns)

    def _forget(self) -> None:
        self._fix = self._hint = None
        self._candidate = None
        self._failures = 0
        self._attempts = 0
        self._search = self.config.auto_global

    # Checks before any work

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
        latest = self._odometry.latest
        if latest is not None and latest.stamp_ns - stamp_ns > self.config.clock_jump_s * 1e9:
            self._odometry.clear()
        was_found = self._state is not TrackingState.UNINITIALIZED
        hint = self._hint
        self._forget()
        self._hint = hint
        self._thumbnail = None
        self._state = TrackingState.LOST if was_found else TrackingState.UNINITIALIZED

    def _check_image(self, image: NDArray[np.uint8], stamp_ns: int) -> str:
        thumbnail = image[::_THUMBNAIL_STEP, ::_THUMBNAIL_STEP].copy()
        if float(thumbnail.std()) < self.config.min_contrast:
            self._thumbnail = None
            return "image shows nothing: is the camera covered or dark?"
        odometry = self._odometry.at(stamp_ns)
        before = self._thumbnail
        if before is None or before.shape != thumbnail.shape or (before != thumbnail).any():
            self._thumbnail, self._thumbnail_odometry = thumbnail, odometry
            return ""
        # The very same pixels again: fine on a robot that stands still (in simulation, say),
        # a stuck driver on one that moves. Compared with the first of the series.
        if _stood_still(self._thumbnail_odometry, odometry):
            return ""
        return "camera is frozen: the same image again, and the robot may have moved"

    # Prediction

    def _move(self, anchor: Anchor, stamp_ns: int) -> Prediction:
        now = self._odometry.at(stamp_ns)
        then = anchor.odometry
        if now is not None and then is not None and now.epoch == then.epoch:
            step = then.odom_from_base.inverse() @ now.odom_from_base
            noise = motion_covariance(then, now, self.config)
            return _moved(anchor, step, noise, PriorKind.ODOMETRY)
        if anchor.waits:
            return Prediction(anchor.map_from_base, anchor.covariance, PriorKind.HINT)
        seconds = abs(stamp_ns - anchor.stamp_ns) * 1e-9
        step = Pose.identity()
        if anchor.velocity is not None:
            step = Pose.exp(anchor.velocity * min(seconds, 1.0))
        noise = diagonal(self.config.blind_m_per_s * seconds, self.config.blind_rad_per_s * seconds)
        return _moved(anchor, step, noise, PriorKind.VELOCITY)

    def _odometry_broke_since(self, anchor: Anchor) -> bool:
        return anchor.odometry is not None and anchor.odometry.epoch != self._odometry.epoch

    def _lose_unless(self, prediction: Prediction | None) -> None:
        if prediction is None and self._state is TrackingState.TRACKING:
            self._state = TrackingState.LOST
            self._search = True

    def _too_uncertain(self, prediction: Prediction) -> bool:
        return sigmas(prediction.covariance)[0] > self.config.lost_sigma_m

    def _odometry_for_hint(self, stamp_ns: int) -> OdometrySample | None:
        """Odometry at a hint's stamp; RViz stamps may be zero or a little ahead of odometry."""
        latest = self._odometry.latest
        if latest is not None and (stamp_ns <= 0 or stamp_ns > latest.stamp_ns):
            return latest
        return self._odometry.at(stamp_ns)

    # Tracking

    def _track(
        self, image: NDArray[np.uint8], camera: Camera, stamp_ns: int, prediction: Prediction
    ) -> TrackResult:
        estimate = self._localize(image, camera, prediction, self.config.iterations)
        reason = self._quality(estimate, camera)
        if reason:
            self._miss_candidate()
            return self._failed(stamp_ns, reason, prediction.kind, estimate)
        found = self._anchor(estimate, stamp_ns)
        if self._agrees(found, prediction):
            return self._accept(found, prediction.kind, estimate)
        if self._candidate is not None and self._confirms(found, self._candidate):
            if self._candidate.agreed >= self.config.confirmations:
                return self._accept(found, prediction.kind, estimate, jumped=True)
        else:
            self._candidate = _Candidate(found)
        distance = self._distance(found, prediction)
        metres, radians = found.map_from_base.distance(prediction.map_from_base)
        reason = (
            f"pose disagrees with {prediction.kind.value} by {metres:.2f} m, "
            f"{np.degrees(radians):.1f} deg (distance {distance:.0f}, gate {self.config.gate:.0f})"
        )
        return self._failed(stamp_ns, reason, prediction.kind, estimate)

    # Finding the robot

    def _find(self, image: NDArray[np.uint8], camera: Camera, stamp_ns: int) -> TrackResult:
        prior = self._choose_prior(stamp_ns)
        if prior is None and not self._search:
            return self._result(stamp_ns, "waiting for an initial pose")
        kind = PriorKind.GLOBAL if prior is None else prior.kind
        estimate = self._localize(image, camera, prior, None)
        reason = self._quality(estimate, camera)
        if reason:
            self._miss_candidate()
            return self._failed(stamp_ns, reason, kind, estimate)
        found = self._anchor(estimate, stamp_ns)
        if self._candidate is None or not self._confirms(found, self._candidate):
            self._candidate = _Candidate(found)
        if self._candidate.agreed >= self.config.confirmations:
            return self._accept(found, kind, estimate, jumped=self._contradicts_fix(found))
        return self._failed(stamp_ns, "found a place, waiting for confirmation", kind, estimate)

    def _choose_prior(self, stamp_ns: int) -> Prediction | None:
        """A candidate first, then a hint, then by turns the last fix and the whole map."""
        if self._candidate is not None:
            prediction = self._move(self._candidate.anchor, stamp_ns)
            if not self._too_uncertain(prediction):
                return replace(prediction, kind=PriorKind.CANDIDATE)
            self._candidate = None
        self._attempts += 1
        if self._hint is not None and self._attempts <= self.config.lost_after_failures:
            return replace(self._move(self._hint, stamp_ns), kind=PriorKind.HINT)
        self._hint = None
        if self._fix is None or (self._attempts % 2 == 0 and self._search):
            return None
        # An odometry that restarts on a robot that stood still leaves the last pose right, so it
        # is worth an image; like all found here it counts only once a second image agrees.
        prediction = self._move(self._fix, stamp_ns)
        return None if self._too_uncertain(prediction) else prediction

    def _contradicts_fix(self, found: Anchor) -> bool:
        if self._fix is None:
            return False
        return not self._agrees(found, self._move(self._fix, found.stamp_ns))

    def _miss_candidate(self) -> None:
        if self._candidate is None:
            return
        self._candidate.missed += 1
        if self._candidate.missed >= _CANDIDATE_CHANCES:
            self._candidate = None

    def _confirms(self, found: Anchor, candidate: _Candidate) -> bool:
        prediction = self._move(candidate.anchor, found.stamp_ns)
        if not self._agrees(found, prediction):
            return False
        candidate.anchor = found
        candidate.agreed += 1
        return True

    # Judging and remembering

    def _localize(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        prior: Prediction | None,
        iterations: int | None,
    ) -> PoseEstimate:
        if prior is None:
            return self._localizer.localize(image, camera)
        base_from_camera = self._camera_from_base.inverse()
        lever = prior.map_from_base.rotation @ base_from_camera.translation
        sigma_m, sigma_rad = sigmas(at_lever(prior.covariance, lever))
        # A narrow search is faster and finds fewer false matches. Where it misses, the next
        # image is searched more widely.
        width = _NARROW if self._failures == 0 else 1.0
        return self._localizer.localize(
            image,
            camera,
            prior.map_from_base @ base_from_camera,
            prior_sigma=(width * sigma_m, width * sigma_rad),
            iterations=iterations,
        )

    def _quality(self, estimate: PoseEstimate, camera: Camera) -> str:
        """Why an estimate cannot be believed on its own, or an empty string."""
        c = self.config
        pose, covariance = estimate.map_from_camera, estimate.covariance
        residual = estimate.residual_px / camera.relative_size
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

    def _anchor(self, estimate: PoseEstimate, stamp_ns: int) -> Anchor:
        """An estimate of the camera as a pose of the robot."""
        assert estimate.map_from_camera is not None and estimate.covariance is not None
        c = self.config
        map_from_camera = estimate.map_from_camera
        floor = diagonal(c.floor_m, np.radians(c.floor_deg))
        camera_covariance = symmetric(estimate.covariance) * c.covariance_scale**2 + floor
        lever = map_from_camera.rotation @ self._camera_from_base.translation
        return Anchor(
            stamp_ns,
            map_from_camera @ self._camera_from_base,
            at_lever(camera_covariance, lever),
            self._odometry.at(stamp_ns),
        )

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
        velocity = None if jumped else _velocity(self._fix, found)
        self._fix = replace(found, velocity=velocity)
        self._hint = None
        self._candidate = None
        self._failures = self._attempts = 0
        self._search = self.config.auto_global
        self._state = TrackingState.TRACKING
        return self._result(found.stamp_ns, "", prior, estimate, self._fix, jumped)

    def _failed(
        self,
        stamp_ns: int,
        reason: str,
        prior: PriorKind = PriorKind.NONE,
        estimate: PoseEstimate | None = None,
    ) -> TrackResult:
        self._failures += 1
        if self._failures >= self.config.lost_after_failures:
            self._lose_unless(None)
        return self._result(stamp_ns, reason, prior, estimate)

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
            state=self._state,
            stamp_ns=stamp_ns,
            reason=reason,
            prior=prior,
            map_from_base=None if fix is None else fix.map_from_base,
            covariance=None if fix is None else fix.covariance,
            map_from_odom=None if fix is None else self.map_from_odom,
            jumped=jumped,
            failures=self._failures,
            estimate=estimate,
        )


def _moved(anchor: Anchor, step: Pose, noise: FloatArray, kind: PriorKind) -> Prediction:
    """An anchor moved by ``then_from_now``, its covariance carried along and grown."""
    lever = anchor.map_from_base.rotation @ step.translation
    covariance = symmetric(at_lever(anchor.covariance, lever) + noise)
    return Prediction(anchor.map_from_base @ step, covariance, kind)


def _velocity(before: Anchor | None, now: Anchor) -> FloatArray | None:
    """Twist a second between two fixes, in the axes of the robot."""
    if before is None or not 0 < now.stamp_ns - before.stamp_ns <= _VELOCITY_SPAN_NS:
        return None
    step = (before.map_from_base.inverse() @ now.map_from_base).log()
    return np.asarray(step / ((now.stamp_ns - before.stamp_ns) * 1e-9))


def _check_size(image: NDArray[np.uint8], camera: Camera) -> str:
    if image.ndim == 3 and image.shape == (camera.height, camera.width, 3):
        return ""
    return f"image has shape {image.shape}, its calibration is for {camera.width}x{camera.height}"


def _stood_still(before: OdometrySample | None, now: OdometrySample | None) -> bool:
    if before is None or now is None or before.epoch != now.epoch:
        return False
    metres, radians = before.odom_from_base.distance(now.odom_from_base)
    return metres < _STILL_M and radians < _STILL_RAD
