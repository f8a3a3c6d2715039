"""The pose of one image in a neural map."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import LocalizationConfig
from crossfire_core.errors import CalibrationError
from crossfire_core.features.network import DenseDescriptors, fitted, network_input
from crossfire_core.features.places import signature
from crossfire_core.field.constants import constant
from crossfire_core.field.graphs import Graphed
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.alignment import align
from crossfire_core.localization.covisibility import SeenSpace, grouped, shared_views
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.matching import CellMatches, Matcher, match_points
from crossfire_core.localization.patches import PatchAligner
from crossfire_core.localization.photometric import align_colours
from crossfire_core.localization.pose_solver import (
    SolvedPose,
    Solver,
    camera_covariance,
    rescore,
    solve_pose,
)
from crossfire_core.localization.recorded_frame import RecordedFrame
from crossfire_core.localization.shifts import PointShifts
from crossfire_core.neural_map import NeuralMap
from crossfire_core.rendering.renderer import Rays, Renderer

FloatArray = NDArray[np.float64]


class _Stopwatch:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ms[stage] = self.ms.get(stage, 0.0) + 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class _Look:
    """How one step looks for the map in the image.

    Attributes:
        along: rendered points along the image's longer side.
        radius: half the search window in cells; None searches the whole image.
        known: the pose is right to within a few pixels, which makes RANSAC needless.
    """

    along: int
    radius: int | None
    known: bool


class Localizer:
    """Features, rendering at the prior, matching, pose; again from the new pose."""

    def __init__(
        self,
        neural_map: NeuralMap,
        config: LocalizationConfig | None = None,
        *,
        matcher: Matcher = match_points,
        solver: Solver = solve_pose,
    ) -> None:
        """Prepare a loaded map; it runs where the map's parameters are.

        Args:
            neural_map: the map.
            config: by default the program's settings.
            matcher: finds points of the map in the image.
            solver: makes a pose of what was found.
        """
        self.neural_map = neural_map
        self.config = config or LocalizationConfig()
        self.matcher, self.solver = matcher, solver
        header = neural_map.header
        self.renderer = Renderer(neural_map.field, header.spacing, header.render)
        self.renderer.freeze(self.config.samples)
        places = neural_map.places
        # a quarter faster on a CPU, and a cell's descriptor lies in one piece, as kernels read it
        neural_map.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = Graphed(lambda images: (neural_map.network(images),))
        self._surface = Graphed(self._clear_surface)
        self._grids: dict[tuple[Camera, int], tuple[Tensor, Tensor]] = {}
        self._words = places.words.to(neural_map.device)
        self._signatures = places.signatures.to(neural_map.device)
        self._points = places.points.to(neural_map.device)
        self._seen = SeenSpace(header.box, self._points)
        self._shared = shared_views(
            header.box, places.points, places.point_view, len(places.signatures)
        )
        poses = [view.map_from_camera for view in header.views]
        self.shifts = PointShifts(
            places.points.double().cpu().numpy(), places.shifts.double().cpu().numpy(),
            places.point_view.cpu().numpy(), poses, header.spacing.knee,
        )  # fmt: skip
        self.patches = PatchAligner(
            neural_map.patches, poses, header.spacing.knee, header.image_side
        )
        self.frame = RecordedFrame(
            poses,
            [view.recorded or view.map_from_camera for view in header.views],
            header.spacing.knee,
        )
        with torch.no_grad():
            self._point_descriptors = neural_map.field.descriptors(self._points)

    def warm_up(self, camera: Camera | None = None) -> None:
        """Compile kernels and allocate buffers by localizing a grey image."""
        camera = camera or self.neural_map.header.camera
        image = np.full((camera.height, camera.width, 3), 128, np.uint8)
        pose = self.neural_map.header.views[0].map_from_camera
        self.localize(image, camera, pose)
        # where nothing matched, these were not reached
        self.shifts.at(np.zeros((1, 3)), pose)
        self.patches.solve(image, camera, pose, 1.0, self.config.patches)

    @torch.no_grad()
    def localize(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        prior: Pose | None = None,
        *,
        prior_sigma: tuple[float, float] | None = None,
        iterations: int | None = None,
    ) -> PoseEstimate:
        """Find the pose of one image; see :class:`.estimate.ImageLocalizer`.

        Raises:
            CalibrationError: the image is not of the camera's size.
        """
        if image.shape != (camera.height, camera.width, 3):
            raise CalibrationError(
                f"image is {image.shape[1]}x{image.shape[0]}, "
                f"its camera {camera.width}x{camera.height}"
            )
        clock = _Stopwatch()
        with clock.time("features"):
            dense = self.describe(image)
        count = iterations or self.config.iterations
        if prior is not None:
            start = self.frame.trained(prior)
            found = self._refine(dense, camera, start, prior_sigma, count, clock)
        else:
            found = self._search(dense, camera, count, clock)
        polished = found
        if found.ok:
            polished = self._finish(image, camera, found, prior_sigma is None, clock)
        # patches bring a covariance of their own, and it is theirs that was measured
        factor = self.neural_map.header.covariance_factor
        if len(self.patches) and polished.covariance is found.covariance:
            factor = max(1.0, factor)
        return self._in_recorded_frame(replace(polished, timings_ms=dict(clock.ms)), factor)

    def _finish(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        found: PoseEstimate,
        single: bool,
        clock: _Stopwatch,
    ) -> PoseEstimate:
        """What grey values and colours add to a pose; a ``single`` image may take its time."""
        most = self.config.patches if single else self.config.track_patches
        if most and len(self.patches):
            with clock.time("patches"):
                finished = self._on_patches(image, camera, found, most)
            if finished is not None:
                return finished
        if self.config.colour_rays and single:
            with clock.time("colours"):
                return self._polish(image, camera, found)
        return found

    def _on_patches(
        self, image: NDArray[np.uint8], camera: Camera, estimate: PoseEstimate, most: int
    ) -> PoseEstimate | None:
        """The pose under which the map's patches fit the image; None where too few do.

        Inliers and residual stay those of the matches, by which a pose is believed or not.
        """
        start, matches = estimate.map_from_camera, estimate.details
        assert start is not None and matches is not None
        limit = 0.5 * self._limit(camera)
        found = self.patches.solve(image, camera, start, limit, most)
        if found is None:
            return None
        solved, pixels, _ = found
        inlier = solved.inlier
        if inlier.sum() < self.config.min_inliers or not solved.camera_from_map.is_finite():
            return None
        if _spread(pixels[inlier], camera) < self.config.min_spread:
            return None
        pose = solved.camera_from_map.inverse()
        if not _moved_px(camera, matches, start, pose) < self._limit(camera):
            return None
        noise = max(float(np.median(solved.error_px[inlier])), 0.3)
        covariance = camera_covariance(solved, noise * self.config.covariance_inflation)
        return replace(estimate, map_from_camera=pose, covariance=covariance)

    def _in_recorded_frame(self, found: PoseEstimate, factor: float) -> PoseEstimate:
        """The pose as the recording would have it, and its matches with it.

        Args:
            found: in the frame that training made.
            factor: on its covariance.
        """
        pose, matches = found.map_from_camera, found.details
        if pose is None:
            return found
        recorded = self.frame.recorded(pose)
        covariance = found.covariance
        if covariance is not None:
            covariance = factor * (covariance + self.frame.scatter(pose))
        if matches is not None and recorded is not pose:
            points = (recorded @ pose.inverse()).apply(matches.points)
            matches = replace(matches, points=points)
        return replace(found, map_from_camera=recorded, covariance=covariance, details=matches)

    def describe(self, image: NDArray[np.uint8]) -> DenseDescriptors:
        """Dense descriptors of an image."""
        tensor, scale = network_input(image, self.neural_map.header.features.side)
        (values,) = self._network(tensor.to(self.neural_map.device))
        return DenseDescriptors(values[0], scale)

    @torch.no_grad()
    def matches_at(
        self, dense: DenseDescriptors, camera: Camera, map_from_camera: Pose
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels ``[n, 2]`` and points ``[n, 3]`` of matches near a pose, none sorted out."""
        pixels, points = self._render(camera, map_from_camera, self.config.points_along)
        if len(points) == 0:
            return np.zeros((0, 2)), np.zeros((0, 3))
        found, _ = self._match(dense, pixels, points, self.config.track_radius)
        index = torch.from_numpy(found.index).to(points.device)
        return _centres(found, dense), points[index].double().cpu().numpy()

    def _match(
        self, dense: DenseDescriptors, pixels: Tensor, points: Tensor, radius: int | None
    ) -> tuple[CellMatches, Tensor]:
        """Rendered points found in the image, around their pixels or anywhere; descriptors."""
        descriptors = self.neural_map.field.descriptors(points)
        centre = pixels * constant(dense.scale, pixels) - 0.5
        return self.matcher(descriptors, dense.values, centre, radius), descriptors

    def _search(
        self, dense: DenseDescriptors, camera: Camera, iterations: int, clock: _Stopwatch
    ) -> PoseEstimate:
        """Without a prior: several places are tried until one passes its gates."""
        best = PoseEstimate(False, "no place of the map looks like this image")
        for pose, sigma in self.candidates(dense, camera, clock):
            found = self._refine(dense, camera, pose, sigma, iterations, clock)
            if found.inliers > best.inliers or found.ok:
                best = found
            if found.ok:
                break
        return best

    def candidates(
        self, dense: DenseDescriptors, camera: Camera, clock: _Stopwatch | None = None
    ) -> Iterator[tuple[Pose, tuple[float, float] | None]]:
        """Poses worth trying without a prior, the likeliest first, with their uncertainty.

        First what the image's descriptors say when matched with the surface points of the best
        retrieved views, those that see the same at a time; then with those of the whole map,
        then the retrieved views themselves.
        """
        clock = clock or _Stopwatch()
        with clock.time("retrieve"):
            likeness = self._signatures @ signature(dense.values, self._words)
            order = likeness.argsort(descending=True).cpu().numpy()
            groups = grouped(order[: 4 * self.config.candidates].tolist(), self._shared)
        for group in groups[: self.config.candidates]:
            with clock.time("retrieve"):
                theirs = np.isin(self.neural_map.places.point_view.numpy(), group)
                found = self._from_points(dense, camera, torch.from_numpy(theirs).nonzero()[:, 0])
            if found is not None:
                yield found, self._wide_sigma(camera)
        with clock.time("retrieve"):
            whole = self._from_points(dense, camera, torch.arange(len(self._points)))
        if whole is not None:
            yield whole, self._wide_sigma(camera)
        for view in order[: self.config.candidates]:
            yield self.neural_map.header.views[int(view)].map_from_camera, None

    def _wide_sigma(self, camera: Camera) -> tuple[float, float]:
        """An uncertainty that makes the search window as large as windows get."""
        scale = 0.5 * self.neural_map.header.features.side / max(camera.size)
        return 0.0, (self.config.window_radius - 3) / (3.0 * camera.fx * scale)

    def _from_points(self, dense: DenseDescriptors, camera: Camera, chosen: Tensor) -> Pose | None:
        chosen = chosen.to(self._points.device)
        found = self.matcher(self._point_descriptors[chosen], dense.values, None, None)
        solved = self._solve(dense, camera, found, self._points[chosen], error_scale=2.0)
        if solved is None or solved[0].inlier.sum() < 10:
            return None
        return solved[0].camera_from_map.inverse()

    def _refine(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        prior: Pose,
        sigma: tuple[float, float] | None,
        iterations: int,
        clock: _Stopwatch,
    ) -> PoseEstimate:
        """Render, match and solve from a prior, then again from the result."""
        c, pose, known = self.config, prior, False
        radius = self._radius(dense, camera, prior, sigma)
        nothing = PoseEstimate(False, "nothing of the map is seen from the prior")
        estimate = nothing
        for number in range(iterations):
            # until the pose is known a coarse look will do, unless it is the last one
            coarse = not known and number + 1 < iterations
            look = _Look(c.search_along if coarse else c.points_along, radius, known)
            found = self._once(dense, camera, pose, look, clock)
            if found is None:
                estimate = estimate if known else nothing
                break
            estimate = replace(found, iterations=number + 1)
            assert estimate.map_from_camera is not None
            metres, radians = estimate.map_from_camera.distance(pose)
            pose, known = estimate.map_from_camera, estimate.ok
            radius = self._next_radius(estimate)
            rests = metres < c.converged_m and radians < np.radians(c.converged_deg)
            if known and not coarse and rests:
                break
        return estimate

    def _once(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        pose: Pose,
        look: _Look,
        clock: _Stopwatch,
    ) -> PoseEstimate | None:
        with clock.time("render"):
            pixels, points = self._render(camera, pose, look.along)
        if len(points) < self._needed(look.along):
            return None
        with clock.time("match"):
            found, descriptors = self._match(dense, pixels, points, look.radius)
        with clock.time("solve"):
            start = pose.inverse() if look.known else None
            solved = self._solve(dense, camera, found, points, start=start, seen_from=pose)
        if solved is None:
            return None
        if self.config.align:
            with clock.time("align"):
                chosen = torch.from_numpy(found.index).to(descriptors.device)
                solved = self._align(dense, camera, descriptors[chosen], *solved)
        return self._judge(camera, *solved, self._needed(look.along))

    def _align(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        descriptors: Tensor,
        solved: SolvedPose,
        matches: Matches,
    ) -> tuple[SolvedPose, Matches]:
        """Polish a pose by its inliers' descriptors; errors are measured anew."""
        inlier = np.flatnonzero(solved.inlier)
        if len(inlier) < self.config.min_inliers:
            return solved, matches
        aligned = align(
            dense.grid(),
            dense.scale,
            descriptors[torch.from_numpy(inlier).to(descriptors.device)].cpu().numpy(),
            matches.points[inlier],
            matches.scores[inlier],
            camera,
            solved.camera_from_map,
        )
        if not aligned.camera_from_map.is_finite():
            return solved, matches
        return rescore(
            solved, aligned.camera_from_map, matches, camera, self._limit(camera)
        ), matches

    def _polish(
        self, image: NDArray[np.uint8], camera: Camera, estimate: PoseEstimate
    ) -> PoseEstimate:
        """The mean of a pose and of what colours make of it, unless that is far away.

        Covariance, inliers and residual stay those of the matches.
        """
        c = self.config
        start, matches = estimate.map_from_camera, estimate.details
        assert start is not None and matches is not None
        found = align_colours(
            self.renderer, image, camera, start, c.colour_rays, c.min_opacity, c.seed
        )
        if found is None:
            return estimate
        if not _moved_px(camera, matches, start, found) < self._limit(camera):  # nor NaN
            return estimate
        return replace(estimate, map_from_camera=start.interpolate(found, 0.5))

    def _limit(self, camera: Camera) -> float:
        """The inlier threshold in pixels of this camera."""
        return self.config.ransac_error_px * camera.relative_size

    def _needed(self, along: int) -> int:
        """Least number of inliers on a rendered grid: a coarser one has fewer points to give."""
        share = min(1.0, along / self.config.points_along)
        return max(12, round(self.config.min_inliers * share))

    def _render(self, camera: Camera, pose: Pose, along: int) -> tuple[Tensor, Tensor]:
        """Pixels ``[n, 2]`` of a grid and the surface points ``[n, 3]`` behind them."""
        pixels, bearings = self._ray_grid(camera, along)
        rotation = torch.tensor(pose.rotation, dtype=torch.float32, device=pixels.device)
        origin = torch.tensor(pose.translation, dtype=torch.float32, device=pixels.device)
        points, clear = self._surface(bearings, rotation, origin)
        return pixels[clear], points[clear]

    def _clear_surface(
        self, bearings: Tensor, rotation: Tensor, origin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Points ``[n, 3]`` behind bearings of a camera, and which are clear and known ``[n]``."""
        c = self.config
        rays = Rays(origin.expand(len(bearings), 3), bearings @ rotation.T)
        points, opacity, spread = self.renderer.surface(rays)
        clear = (opacity > c.min_opacity) & (spread < c.max_depth_spread)
        # where no mapping view saw anything the field was never taught
        return points, clear & self._seen.contains(points)

    def _ray_grid(self, camera: Camera, along: int) -> tuple[Tensor, Tensor]:
        """Pixels and bearings of a rendered grid, kept while the camera stays the same."""
        if (camera, along) not in self._grids:
            if any(known != camera for known, _ in self._grids):
                self._grids.clear()
            pixels = camera.pixel_grid(*fitted(*camera.size, along))
            device = self.neural_map.device
            both = (pixels, camera.bearings(pixels))
            kept = [torch.tensor(a, dtype=torch.float32, device=device) for a in both]
            self._grids[camera, along] = (kept[0], kept[1])
        return self._grids[camera, along]

    def _solve(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        found: CellMatches,
        points: Tensor,
        error_scale: float = 1.0,
        start: Pose | None = None,
        seen_from: Pose | None = None,
    ) -> tuple[SolvedPose, Matches] | None:
        pixels = _centres(found, dense)
        space = points[torch.from_numpy(found.index).to(points.device)].double().cpu().numpy()
        if seen_from is not None and self.config.shift_points:
            space += self.shifts.at(space, seen_from)
        weights = found.confidence.astype(np.float64)
        limit = error_scale * self._limit(camera)
        solved = self.solver(
            pixels, space, weights, camera, limit, self.config.ransac_iterations,
            self.config.seed, start,
        )  # fmt: skip
        if solved is None or not solved.camera_from_map.is_finite():
            return None
        return solved, Matches(pixels, space, weights, solved.inlier)

    def _judge(
        self, camera: Camera, solved: SolvedPose, matches: Matches, needed: int
    ) -> PoseEstimate:
        """Gates and covariance of a solved pose."""
        inliers, count = int(solved.inlier.sum()), len(matches.pixels)
        residual = float(np.median(solved.error_px[solved.inlier])) if inliers else float("nan")
        spread = _spread(matches.pixels[solved.inlier], camera)
        noise = max(residual, 0.3) * self.config.covariance_inflation
        reason = self._complaint(inliers, count, spread, needed)
        return PoseEstimate(
            ok=not reason,
            reason=reason,
            map_from_camera=solved.camera_from_map.inverse(),
            covariance=camera_covariance(solved, noise),
            inliers=inliers,
            matches=count,
            spread=spread,
            residual_px=residual,
            details=matches,
        )

    def _complaint(self, inliers: int, count: int, spread: float, needed: int) -> str:
        c = self.config
        if inliers < needed:
            return f"only {inliers} matches agree on a pose, {needed} are needed"
        if inliers < c.min_inlier_ratio * count:
            return f"only {inliers} of {count} matches agree on a pose"
        if spread < c.min_spread:
            return f"the matches cover only {100 * spread:.0f} % of the image"
        return ""

    def _next_radius(self, estimate: PoseEstimate) -> int | None:
        """How far to search from a pose that was just found: the surer it is, the nearer."""
        if estimate.ok:
            return self.config.track_radius
        likely = estimate.inliers >= 0.5 * self.config.min_inliers
        return self.config.window_radius if likely else None

    def _radius(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        prior: Pose,
        sigma: tuple[float, float] | None,
    ) -> int | None:
        """Half the search window in cells for three sigmas of the prior, None for everywhere."""
        if sigma is None:
            return None
        nearest = self.neural_map.header.spacing.near * 3.0
        angle = 3.0 * (sigma[1] + sigma[0] / nearest)
        cells = int(np.ceil(angle * camera.fx * dense.scale[0])) + 2
        return None if cells > self.config.window_radius else max(cells, self.config.track_radius)


def _centres(found: CellMatches, dense: DenseDescriptors) -> NDArray[np.float64]:
    """Pixels ``[n, 2]`` of the image at the matches' cells."""
    return np.asarray((found.cell.astype(np.float64) + 0.5) / np.array(dense.scale))


def _moved_px(camera: Camera, matches: Matches, before: Pose, after: Pose) -> float:
    """By how many pixels the inliers' points move from one pose to the other, the median."""
    seen = matches.points[matches.inlier]
    moved = camera.project(after.inverse().apply(seen))
    moved -= camera.project(before.inverse().apply(seen))
    return float(np.median(np.linalg.norm(moved, axis=1)))


def _spread(pixels: FloatArray, camera: Camera) -> float:
    """Share of a 4x4 grid over the image that holds one of the pixels ``[n, 2]``."""
    cells = np.clip(pixels * 4 / np.array(camera.size), 0, 3).astype(int)
    return len(np.unique(cells @ np.array([1, 4]))) / 16.0
