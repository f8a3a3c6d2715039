"""One pose from several cameras that are fixed on one robot.

Each camera is localized by itself first, and again from where the surest of them says it is.
Cameras whose evidence suffices alone have the say, and the pose is theirs together. Where none
does, the matches of all are solved for one pose of the robot, and it is the evidence of all cameras
together that has to suffice. A camera that does not agree with the pose is left out, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossfire_core.config import LocalizationConfig, TrackingConfig
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import (
    WIDE,
    ImageLocalizer,
    Matches,
    PoseEstimate,
    Search,
    Way,
)
from crossfire_core.localization.evidence import MATCH_CELLS, Agreement, digits, together
from crossfire_core.localization.rig_solver import RigSight, SolvedRig, rig_covariance, solve_rig
from crossfire_core.localization.uncertainty import at_lever, difference, symmetric
from crossfire_core.localization.upright import KnowsUpright, localize_turned
from crossfire_core.maps.chance import Chance

FloatArray = NDArray[np.float64]

DARK = "the image shows nothing"
_LEAST_INLIERS = 12  # of one camera, by which it counts
_LEAST_SHARE = 0.3  # of a sure camera's inliers; a pose that fits fewer is of another place
# How surely one camera tells another its place.
_NEIGHBOURLY = Search((0.15, float(np.radians(3.0))))


@dataclass(frozen=True)
class RigImage:
    """What one camera of a rig saw at the common stamp.

    Attributes:
        image: ``[height, width, 3]`` uint8 RGB.
        camera: its calibration.
        base_from_camera: where it sits on the robot.
        name: of the camera.
    """

    image: NDArray[np.uint8]
    camera: Camera
    base_from_camera: Pose
    name: str = ""


@dataclass(frozen=True)
class RigEstimate:
    """The outcome of localizing a rig.

    Attributes:
        ok: whether the pose passed its gates; only then may it be used.
        reason: empty if ok, else one line for people.
        map_from_base: the pose, or None.
        covariance: ``[6, 6]`` of the base's position and of a small rotation about the axes of
            the map, metres and radians; None without a pose.
        inliers: matches that agree with the pose, by camera.
        left_out: why each camera has no say; empty where it has.
        alone: what each camera finds by itself.
        looks: what each finds at last, after another one has told it where to look.
        evidence: of all cameras together, decimal digits; see :mod:`.evidence`.
        residual_px: median reprojection error of the inliers, pixels of images 640 wide.
    """

    ok: bool
    reason: str
    map_from_base: Pose | None = None
    covariance: FloatArray | None = None
    inliers: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    alone: tuple[PoseEstimate, ...] = ()
    looks: tuple[PoseEstimate, ...] = ()
    evidence: float = 0.0
    residual_px: float = float("nan")

    def of_base(self) -> PoseEstimate:
        """The same as of one camera that sits in the robot's base and looks along its z axis.

        Spread is that of the camera which sees most; times are sums.
        """
        timings: dict[str, float] = {}
        for own in self.looks:
            for stage, ms in own.timings_ms.items():
                timings[stage] = timings.get(stage, 0.0) + ms
        heard = [own for own, out in zip(self.looks, self.left_out, strict=False) if not out]
        ways = {own.way for own in heard}
        return PoseEstimate(
            self.ok, self.reason, self.map_from_base, self.covariance,
            inliers=sum(n for n, out in zip(self.inliers, self.left_out, strict=True) if not out),
            matches=sum(own.matches for own in heard),
            spread=max((own.spread for own in heard), default=0.0),
            residual_px=self.residual_px, timings_ms=timings,
            way=ways.pop() if len(ways) == 1 else Way.FOUND, evidence=self.evidence,
        )  # fmt: skip


@runtime_checkable
class RigWitness(ImageLocalizer, Protocol):
    """What a rig needs of a localizer; :class:`~.localizer.Localizer` is the real one."""

    chance: Chance
    config: LocalizationConfig

    def patch_agreement(
        self, image: NDArray[np.uint8], camera: Camera, map_from_camera: Pose
    ) -> Agreement:
        """What the map's patches say of an image at a pose that others found."""
        ...

    def honest(self, covariance: FloatArray, pose: Pose) -> FloatArray:
        """A covariance ``[6, 6]`` of matches with what the map knows of its own errors there."""
        ...


class RigLocalizer:
    """Localizes all cameras of a rig together."""

    def __init__(
        self, localizer: RigWitness, min_contrast: float = TrackingConfig.min_contrast
    ) -> None:
        """Wrap a localizer of single images.

        Args:
            localizer: of the map.
            min_contrast: standard deviation of grey values below which an image shows nothing.
        """
        self.localizer, self.config = localizer, localizer.config
        self.min_contrast = min_contrast
        self._upright = localizer.upright if isinstance(localizer, KnowsUpright) else None

    def localize(
        self, images: Sequence[RigImage], prior: Pose | None = None, search: Search = WIDE
    ) -> RigEstimate:
        """Find the pose of a robot from images of one stamp.

        Args:
            images: one a camera.
            prior: ``map_from_base`` to start from, or None for a global search.
            search: how each camera shall look from there.

        Raises:
            CalibrationError: an image is not of its camera's size.
        """
        alone = [self._alone(each, prior, search) for each in images]
        order = sorted(range(len(images)), key=lambda i: _sureness(alone[i]), reverse=True)
        leaders = [i for i in order if alone[i].map_from_camera is not None]
        best = RigEstimate(False, "no camera finds the place")
        # who is sure leads the others; where nobody is, each may try
        for leader in leaders[:1] if any(own.ok for own in alone) else leaders:
            found = self._joint(images, self._led(images, alone, leader))
            if found.map_from_base is not None and found.evidence >= best.evidence:
                best = found
            if best.ok:
                break
        return replace(best, alone=tuple(alone))

    def _joint(self, images: Sequence[RigImage], alone: Sequence[PoseEstimate]) -> RigEstimate:
        """The pose on which cameras agree: those sure of theirs, or else all of them."""
        sure = any(own.ok for own in alone)
        sights = [
            _sight(each, own.details if own.ok or not sure else None)
            for each, own in zip(images, alone, strict=True)
        ]
        c = self.config
        solved = solve_rig(sights, c.ransac_error_px, c.ransac_iterations, c.seed)
        if solved is None:
            return RigEstimate(False, "no camera finds the place")
        heard = [
            inlier.sum() >= max(_LEAST_INLIERS, _LEAST_SHARE * own.inliers if own.ok else 0)
            for inlier, own in zip(solved.inliers, alone, strict=True)
        ]
        digits = self._digits(images, alone, sights, solved, heard)
        agree = sum(int(i.sum()) for i, counts in zip(solved.inliers, heard, strict=True) if counts)
        reason = self._complaint(alone, heard, digits, agree)
        left_out = tuple(
            "" if counts else _why(own, int(inlier.sum()))
            for counts, own, inlier in zip(heard, alone, solved.inliers, strict=True)
        )
        pose, covariance, residual = self._answer(images, alone, left_out, solved)
        return RigEstimate(
            not reason, reason, pose, covariance,
            tuple(int(inlier.sum()) for inlier in solved.inliers), left_out,
            looks=tuple(alone), evidence=max(together(digits), *digits), residual_px=residual,
        )  # fmt: skip

    def _digits(
        self,
        images: Sequence[RigImage],
        alone: Sequence[PoseEstimate],
        sights: Sequence[RigSight],
        solved: SolvedRig,
        heard: Sequence[bool],
    ) -> list[float]:
        """Evidence of each camera for the common pose; that of a sure one is its own."""
        map_from_base = solved.base_from_map.inverse()
        trials = self.config.candidates * len(images)
        found = []
        for each, own, sight, inlier, counts in zip(
            images, alone, sights, solved.inliers, heard, strict=True
        ):
            if not counts or own.ok:
                found.append(own.evidence if counts else 0.0)
                continue
            seen = Agreement.of(sight.pixels, inlier, each.camera, MATCH_CELLS)
            pose = map_from_base @ each.base_from_camera
            patches = self.localizer.patch_agreement(each.image, each.camera, pose)
            found.append(digits(self.localizer.chance, seen, patches, trials))
        return found

    def _complaint(
        self,
        alone: Sequence[PoseEstimate],
        heard: Sequence[bool],
        digits: Sequence[float],
        agree: int,
    ) -> str:
        """Why the common pose cannot be believed, or an empty string."""
        needed = self.config.min_evidence
        if agree < self.config.min_inliers:
            return (
                f"only {agree} matches of all cameras agree, {self.config.min_inliers} are needed"
            )
        sure = [d for d, own in zip(digits, alone, strict=True) if own.ok]
        evidence = max(together(digits), max(sure, default=0.0))
        against = [own.evidence for own, counts in zip(alone, heard, strict=True) if not counts]
        rival = max(against, default=0.0)
        if evidence < needed:
            return (
                f"another place might agree as well (evidence of all cameras {evidence:.1f}, "
                f"{needed:.1f} is needed)"
            )
        if rival >= needed and evidence - rival < needed:
            return (
                "cameras are sure of different places: check where each sits on the robot "
                f"(evidence {evidence:.1f} against {rival:.1f})"
            )
        return ""

    def _alone(self, each: RigImage, prior: Pose | None, search: Search) -> PoseEstimate:
        if float(each.image.mean(axis=2).std()) < self.min_contrast:
            return PoseEstimate(False, DARK)
        there = prior @ each.base_from_camera if prior is not None else None
        quarters = self._upright.quarters(each.base_from_camera, there) if self._upright else 0
        return localize_turned(self.localizer, each.image, each.camera, quarters, there, search)

    def _led(
        self, images: Sequence[RigImage], alone: Sequence[PoseEstimate], leader: int
    ) -> list[PoseEstimate]:
        """Cameras that are not sure of a place, looked at again from where one says they are."""
        pose = alone[leader].map_from_camera
        assert pose is not None
        map_from_base = pose @ images[leader].base_from_camera.inverse()
        return [
            own
            if own.ok or number == leader or own.reason == DARK
            else self._alone(each, map_from_base, _NEIGHBOURLY)
            for number, (each, own) in enumerate(zip(images, alone, strict=True))
        ]

    def _answer(
        self,
        images: Sequence[RigImage],
        alone: Sequence[PoseEstimate],
        left_out: Sequence[str],
        solved: SolvedRig,
    ) -> tuple[Pose, FloatArray, float]:
        """The joint pose, its covariance and residual.

        Where cameras passed alone the pose is the mean of theirs, which is finer.
        """
        joint = solved.base_from_map.inverse()
        errors = np.concatenate(
            [e[i] for e, i in zip(solved.errors_px, solved.inliers, strict=True)]
        )
        residual = float(np.median(errors)) if len(errors) else np.inf
        noise = max(residual, 0.3)
        covariance = rig_covariance(solved, noise * self.config.covariance_inflation)
        weights, total, count = np.zeros((6, 6)), np.zeros(6), 0
        for each, own, out in zip(images, alone, left_out, strict=True):
            if out or not own.ok or own.map_from_camera is None or own.covariance is None:
                continue
            base = own.map_from_camera @ each.base_from_camera.inverse()
            lever = base.translation - own.map_from_camera.translation
            weight = np.linalg.inv(at_lever(own.covariance, lever))
            weights += weight
            total += weight @ difference(base, joint)
            count += 1
        if not count:
            return joint, self.localizer.honest(covariance, joint), residual
        mean = symmetric(np.asarray(np.linalg.inv(weights), dtype=np.float64))
        step = mean @ total
        covariance = count * mean  # cameras share the map's errors, which do not average out
        turn = Pose.exp((0.0, 0.0, 0.0, *step[3:])).rotation
        return Pose(turn @ joint.rotation, joint.translation + step[:3]), covariance, residual


def _sureness(own: PoseEstimate) -> tuple[bool, float, int]:
    return own.ok, own.evidence, own.inliers


def _why(own: PoseEstimate, agree: int) -> str:
    """Why a camera has no say."""
    if own.ok:
        return "it finds another place"
    return own.reason or f"only {agree} of its matches agree"


def _sight(each: RigImage, matches: Matches | None) -> RigSight:
    if matches is None:
        empty = np.zeros((0, 3))
        return RigSight(each.camera, each.base_from_camera, empty[:, :2], empty, empty[:, 0])
    return RigSight(
        each.camera, each.base_from_camera, matches.pixels, matches.points, matches.scores
    )
