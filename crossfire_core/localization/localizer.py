"""The pose of one image in a neural map.

The **finder** says where it is, from anywhere in the map. The map's **patches** make that exact,
and follow an image by themselves where its pose is known to some centimetres already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from crossfire_core.config import LocalizationConfig
from crossfire_core.errors import CalibrationError
from crossfire_core.features.network import DenseDescriptors
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import WIDE, Matches, PoseEstimate, RgbImage, Search, Way
from crossfire_core.localization.evidence import MATCH_CELLS, Agreement, digits
from crossfire_core.localization.finder import Finder, Stopwatch, spread_of
from crossfire_core.localization.hiding import Hiding
from crossfire_core.localization.matching import Matcher
from crossfire_core.localization.patches import PatchAligner, PatchFit
from crossfire_core.localization.pose_solver import Solver, camera_covariance
from crossfire_core.localization.recorded_frame import RecordedFrame
from crossfire_core.localization.upright import Upright
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.registry import MATCHERS, SOLVERS

FloatArray = NDArray[np.float64]

_FOLLOW_PX = 24.0  # of a 640 px wide image: patches are searched so far from where a prior has them
_FINISH_PX = 12.0  # and so far from where the finder has them


class Localizer:
    """Finds images in a map, and finishes or follows them on its patches."""

    def __init__(
        self,
        neural_map: NeuralMap,
        config: LocalizationConfig | None = None,
        *,
        matcher: Matcher | None = None,
        solver: Solver | None = None,
    ) -> None:
        """Prepare a loaded map; it runs where the map's parameters are.

        Args:
            neural_map: the map.
            config: by default the program's settings.
            matcher: finds points of the map in the image; by default the configured one.
            solver: makes a pose of what was found; by default the configured one.

        Raises:
            ConfigError: the configured matcher or solver cannot be loaded.
        """
        self.neural_map = neural_map
        self.config = config or LocalizationConfig()
        matcher = matcher or MATCHERS.load(self.config.matcher)
        solver = solver or SOLVERS.load(self.config.solver)
        self.finder = Finder(neural_map, self.config, matcher, solver)
        self.renderer = self.finder.renderer
        header = neural_map.header
        poses = header.field_poses
        self._origin = np.array(header.origin)
        hiding = Hiding(header, self.renderer, neural_map.patches.points)
        self.patches = PatchAligner(
            neural_map.patches, poses, header.spacing.knee, header.image_side, hiding.open_to
        )
        self.chance = header.chance
        self.upright = Upright(
            [view.map_from_camera for view in header.views],
            list(header.mounts.values()) or [header.base_from_camera],
        )
        self.frame = RecordedFrame(
            poses,
            [
                pose if view.recorded is None else view.recorded.shifted(-self._origin)
                for pose, view in zip(poses, header.views, strict=True)
            ],
            header.spacing.knee,
        )

    @property
    def follows(self) -> bool:
        """Whether images can be followed on patches alone."""
        return self.config.method != "crossfire" and len(self.patches) > 0

    def warm_up(self, camera: Camera | None = None) -> None:
        """Compile kernels and allocate buffers by localizing a grey image."""
        camera = camera or self.neural_map.header.camera
        image = np.full((camera.height, camera.width, 3), 128, np.uint8)
        pose = self.neural_map.header.field_poses[0]
        self.localize(image, camera, pose.shifted(self._origin))
        # where nothing matched, these were not reached
        self._fitted(image, camera, pose, self.config.patches, Stopwatch())

    @torch.no_grad()
    def localize(
        self, image: RgbImage, camera: Camera, prior: Pose | None = None, *, search: Search = WIDE
    ) -> PoseEstimate:
        """Find the pose of one image; see :class:`.estimate.ImageLocalizer`.

        Raises:
            CalibrationError: the image is not of the camera's size.
        """
        check_image(image, camera)
        clock = Stopwatch()
        start = None if prior is None else self.frame.trained(prior.shifted(-self._origin))
        estimate = None
        if search.follow and start is not None and self.follows:
            estimate = self._follow(image, camera, start, clock)
        if estimate is None:
            with clock.time("features"):
                dense = self.finder.describe(image, camera).masked(camera)
            single = search.sigma is None
            trials = self.config.candidates if single else 1
            estimate = self._settled(
                image, camera, dense, start, search.sigma, search.iterations, single, trials, clock
            )
        return self._in_recorded_frame(replace(estimate, timings_ms=dict(clock.ms)))

    @torch.no_grad()
    def confirm(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        dense: DenseDescriptors,
        proposed: Pose,
        trials: int,
        iterations: int | None = None,
        near: bool = True,
    ) -> PoseEstimate:
        """What becomes of a pose that a search proposes.

        Args:
            image: ``[height, width, 3]`` uint8 RGB, of the camera's size.
            camera: its calibration.
            dense: the image's descriptors.
            proposed: ``map_from_camera`` about the map's origin, as the map was trained.
            trials: poses of which this one is the best, see :func:`.evidence.digits`.
            iterations: overrides the configured number.
            near: whether the image is looked for around the pose, not everywhere in what is seen
                from there.
        """
        clock = Stopwatch()
        sigma = self.finder.wide_sigma(camera) if near else None
        estimate = self._settled(
            image, camera, dense, proposed, sigma, iterations, True, trials, clock
        )
        return self._in_recorded_frame(replace(estimate, timings_ms=dict(clock.ms)))

    def _settled(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        dense: DenseDescriptors,
        start: Pose | None,
        sigma: tuple[float, float] | None,
        iterations: int | None,
        single: bool,
        trials: int,
        clock: Stopwatch,
    ) -> PoseEstimate:
        """Found and finished; of a search, at the first place that proves itself."""
        best: PoseEstimate | None = None
        for found in self._found(dense, camera, start, sigma, iterations, clock):
            estimate = self._proven(image, camera, dense, found, iterations, single, trials, clock)
            if best is None or estimate.ok or _likelier(estimate, best):
                best = estimate
            if best.ok:
                break
        assert best is not None
        return best

    def _proven(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        dense: DenseDescriptors,
        found: PoseEstimate,
        iterations: int | None,
        single: bool,
        trials: int,
        clock: Stopwatch,
    ) -> PoseEstimate:
        """Finished; where patches do not take over, from the finder's own best pose.

        With patches the finder leaves off at its first good pose. Where they do not finish it, but
        it may be right, the finder looks on from there.
        """
        estimate = self._finish(image, camera, found, single, trials, clock)
        settled = estimate.ok and estimate.way is Way.FINISHED
        likely = estimate.evidence > 0.5 * self.config.min_evidence
        pose = found.map_from_camera
        if settled or not (self.follows and found.ok and likely) or pose is None:
            return estimate
        wide, count = self.finder.wide_sigma(camera), iterations or self.config.iterations
        found = self.finder.refine(dense, camera, pose, wide, count, clock)
        return self._finish(image, camera, found, single, trials, clock)

    def _found(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        start: Pose | None,
        sigma: tuple[float, float] | None,
        iterations: int | None,
        clock: Stopwatch,
    ) -> Iterator[PoseEstimate]:
        """The finder's pose from a prior, or poses without one, as good as patches need it."""
        count = iterations or self.config.iterations
        if start is None:
            yield from self.finder.search(dense, camera, count, clock, self.follows)
        else:
            yield self.finder.refine(dense, camera, start, sigma, count, clock, self.follows)

    def _finish(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        found: PoseEstimate,
        single: bool,
        trials: int,
        clock: Stopwatch,
    ) -> PoseEstimate:
        """The finder's pose, made exact on patches where they fit, and how sure it is.

        Inliers and residual stay those of the matches.
        """
        if not found.ok:
            return found
        most = self.config.patches if single else self.config.track_patches
        seen, fit = self._witnesses(image, camera, found, most, clock)
        agreed = Agreement(0, 0.0) if fit is None else fit.agreement
        evidence = digits(self.chance, seen, agreed, trials)
        pose, matches = found.map_from_camera, found.details
        exact = None if fit is None else self._judged(camera, fit, evidence)
        if exact is not None and pose is not None and matches is not None:
            moved = _moved_px(camera, matches, pose, exact.map_from_camera)
            if moved < (_FINISH_PX + self.config.ransac_error_px) * camera.relative_size:  # not NaN
                found = replace(
                    found, map_from_camera=exact.map_from_camera, covariance=exact.covariance,
                    patches=exact.patches, way=Way.FINISHED,
                )  # fmt: skip
        return self._believed(replace(found, evidence=evidence))

    @torch.no_grad()
    def agreement(self, image: NDArray[np.uint8], camera: Camera) -> tuple[float, float]:
        """Shares of the image that agree with the best pose found, however bad that is.

        Returns:
            Shares of the finder's matches and of patches; see :class:`.evidence.Agreement`.
        """
        clock = Stopwatch()
        dense = self.finder.describe(image, camera).masked(camera)
        every = list(self._found(dense, camera, None, None, None, clock))
        found = max(every, key=lambda each: each.inliers)
        seen, fit = self._witnesses(image, camera, found, self.config.patches, clock)
        return seen.share, 0.0 if fit is None else fit.agreement.share

    @torch.no_grad()
    def patch_agreement(
        self, image: NDArray[np.uint8], camera: Camera, map_from_camera: Pose
    ) -> Agreement:
        """What the map's patches say of an image at a pose that others found."""
        pose = self.frame.trained(map_from_camera.shifted(-self._origin))
        fit = self._fitted(image, camera, pose, self.config.patches, Stopwatch())
        return Agreement(0, 0.0) if fit is None else fit.agreement

    def _witnesses(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        found: PoseEstimate,
        most: int,
        clock: Stopwatch,
    ) -> tuple[Agreement, PatchFit | None]:
        """What matches and patches say of a found pose."""
        pose, matches = found.map_from_camera, found.details
        if pose is None or matches is None:
            return Agreement(0, 0.0), None
        seen = Agreement.of(matches.pixels, matches.inlier, camera, MATCH_CELLS)
        return seen, self._fitted(image, camera, pose, most, clock)

    def _fitted(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        pose: Pose,
        most: int,
        clock: Stopwatch,
    ) -> PatchFit | None:
        """The map's patches in an image whose pose is about right; None without any."""
        if not (self.follows and most):
            return None
        reach = _FINISH_PX * camera.relative_size
        with clock.time("patches"):
            return self.patches.fit(image, camera, pose, 0.5 * self._limit(camera), most, reach)

    def _believed(self, found: PoseEstimate) -> PoseEstimate:
        """An estimate that fails if another place might agree as well."""
        if found.evidence >= self.config.min_evidence:
            return found
        reason = (
            f"another place might agree as well (evidence {found.evidence:.1f}, "
            f"{self.config.min_evidence:.1f} is needed)"
        )
        return replace(found, ok=False, reason=reason)

    def _follow(
        self, image: NDArray[np.uint8], camera: Camera, start: Pose, clock: Stopwatch
    ) -> PoseEstimate | None:
        """The pose from patches alone, from a prior; None where too few fit."""
        reach = _FOLLOW_PX * camera.relative_size
        limit, most = 0.5 * self._limit(camera), self.config.track_patches
        with clock.time("patches"):
            fit = self.patches.fit(image, camera, start, limit, most, reach)
        if fit is None:
            return None
        found = self._judged(camera, fit, digits(self.chance, Agreement(0, 0.0), fit.agreement))
        return found if found is not None and self._believed(found).ok else None

    def _judged(self, camera: Camera, fit: PatchFit, evidence: float) -> PoseEstimate | None:
        """A fit of patches as an estimate; None where it is none to go by."""
        solved, inlier = fit.solved, fit.solved.inlier
        count, spread = int(inlier.sum()), spread_of(fit.pixels[inlier], camera)
        if count < self.config.min_inliers or spread < self.config.min_spread:
            return None
        residual = float(np.median(solved.error_px[inlier]))
        noise = max(residual, 0.3) * self.config.covariance_inflation
        matches = Matches(fit.pixels, fit.points, np.ones(len(fit.points)), inlier)
        return PoseEstimate(
            ok=True, reason="", map_from_camera=solved.camera_from_map.inverse(),
            covariance=camera_covariance(solved, noise), inliers=count, matches=len(fit.points),
            spread=spread, residual_px=residual, details=matches,
            patches=(count, fit.tried), way=Way.PATCHES, evidence=evidence,
        )  # fmt: skip

    def _in_recorded_frame(self, found: PoseEstimate) -> PoseEstimate:
        """The pose as the recording would have it, and its matches with it."""
        pose, matches = found.map_from_camera, found.details
        if pose is None:
            return found
        recorded = self.frame.recorded(pose)
        covariance = found.covariance
        if covariance is not None:
            covariance = self._honest(covariance, pose, found.way)
        if matches is not None:
            points = (recorded @ pose.inverse()).apply(matches.points) + self._origin
            matches = replace(matches, points=points)
        recorded = recorded.shifted(self._origin)
        return replace(found, map_from_camera=recorded, covariance=covariance, details=matches)

    def honest(self, covariance: FloatArray, pose: Pose) -> FloatArray:
        """A covariance ``[6, 6]`` of matches with what the map knows of its own errors there."""
        trained = self.frame.trained(pose.shifted(-self._origin))
        return self._honest(covariance, trained, Way.FOUND)

    def _honest(self, covariance: FloatArray, pose: Pose, way: Way) -> FloatArray:
        # patches bring a covariance of their own, and it is theirs that was measured
        factor = self.neural_map.header.covariance_factor
        if len(self.patches) and way is Way.FOUND:
            factor = max(1.0, factor)
        return factor * (covariance + self.frame.scatter(pose))

    def _limit(self, camera: Camera) -> float:
        return self.finder.limit(camera)


def check_image(image: NDArray[np.uint8], camera: Camera) -> None:
    """Refuse an image that is not of its camera's size.

    Raises:
        CalibrationError: it is of another.
    """
    if image.shape != (camera.height, camera.width, 3):
        raise CalibrationError(
            f"image is {image.shape[1]}x{image.shape[0]}, its camera {camera.width}x{camera.height}"
        )


def _likelier(one: PoseEstimate, other: PoseEstimate) -> bool:
    """Whether one of two poses that are not vouched for is more likely right."""
    return (one.evidence, one.inliers) > (other.evidence, other.inliers)


def _moved_px(camera: Camera, matches: Matches, before: Pose, after: Pose | None) -> float:
    """By how many pixels the inliers' points move from one pose to the other, the median."""
    assert after is not None
    seen = matches.points[matches.inlier]
    moved = camera.project(after.inverse().apply(seen))
    moved -= camera.project(before.inverse().apply(seen))
    return float(np.nanmedian(np.linalg.norm(moved, axis=1)))  # some may leave a lens's view
