"""Where an image was taken, from the neural map alone: the method of the paper.

The map is rendered where the camera might be, rendered descriptors are matched with the image's
own, and the matches give the pose; again from there. What a pose gains from the map's patches
comes after it (:mod:`.patches`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import LocalizationConfig
from crossfire_core.features.network import DenseDescriptors, fitted, network_input
from crossfire_core.field.constants import constant
from crossfire_core.field.graphs import Graphed
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.covisibility import SeenSpace, grouped, shared_views
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.localization.matching import CellMatches, Matcher
from crossfire_core.localization.pose_solver import SolvedPose, Solver, camera_covariance
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.places import signature
from crossfire_core.rendering.renderer import Rays, Renderer

FloatArray = NDArray[np.float64]
_ALIKE = 1.2  # focal lengths that differ by less look alike: training zooms by as much
_LEAST_SIDE = 64  # pixels: the network sees nothing in smaller images
_KEPT_GRIDS = 16  # two a camera, of eight
_RENDERED_PLACES = 2  # of the places on which surface points agree, the best are rendered
_RENDERED_VIEWS = 2  # and where none of them is right, the map at the poses of so many views
POINTS_OF_PLACE = 800  # surface points that stand for a place
_HOPELESS = 0.4  # of the inliers that are needed: another look will not help
_LEAST_AGREED = 10  # matches of a place with the image that are worth rendering it


class Stopwatch:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        """All at zero."""
        self.ms: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add what passes inside to a stage."""
        start = time.perf_counter()
        yield
        self.add({stage: 1e3 * (time.perf_counter() - start)})

    def add(self, others: Mapping[str, float]) -> None:
        """Add milliseconds by stage that were measured elsewhere."""
        for stage, ms in others.items():
            self.ms[stage] = self.ms.get(stage, 0.0) + ms


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


class Finder:
    """Features, rendering at the prior, matching, pose; again from the new pose."""

    def __init__(
        self, neural_map: NeuralMap, config: LocalizationConfig, matcher: Matcher, solver: Solver
    ) -> None:
        """Prepare a loaded map; see :class:`.localizer.Localizer`."""
        self.neural_map, self.config = neural_map, config
        self.matcher, self.solver = matcher, solver
        header, places = neural_map.header, neural_map.places
        self.renderer = Renderer(
            neural_map.field, header.spacing, header.render, origin=header.origin
        )
        self.renderer.freeze(config.samples)
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
        with torch.no_grad():
            self._point_descriptors = neural_map.field.descriptors(self._points)

    def describe(self, image: NDArray[np.uint8], camera: Camera) -> DenseDescriptors:
        """Dense descriptors of an image."""
        tensor, scale = network_input(image, self.side(camera))
        (values,) = self._network(tensor.to(self.neural_map.device))
        return DenseDescriptors(values[0], scale)

    def side(self, camera: Camera) -> int:
        """Longer side of an image for the network, pixels.

        The mapping images' own, but for a lens of quite another angle: the network has learnt what
        things look like at the mapping cameras' pixels an angle.
        """
        header = self.neural_map.header
        known = [_length(each.camera) for each in header.rig] or [_length(header.camera)]
        length = _length(camera)
        alike = float(np.clip(length, min(known), max(known)))
        if 1.0 / _ALIKE < alike / length < _ALIKE:
            return header.features.side
        return max(round(header.features.side * alike / length), _LEAST_SIDE)

    # -- without a prior -----------------------------------------------------------------------

    def search(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        iterations: int,
        clock: Stopwatch,
        until_known: bool = False,
    ) -> Iterator[PoseEstimate]:
        """What is found where an image may have been taken, the likeliest first.

        Places are poses on which surface points of the retrieved views agree; where none is the
        right one, the map is rendered at the poses of the views themselves.
        """
        with clock.time("retrieve"):
            views = self._alike(dense)
            places = self.places(dense, camera, views)
        near = self.wide_sigma(camera)
        starts: list[tuple[Pose, tuple[float, float] | None]] = [
            (pose, near) for pose, _ in places[:_RENDERED_PLACES]
        ]
        poses = self.neural_map.header.field_poses
        starts += [(poses[view], None) for view in views[:_RENDERED_VIEWS]]
        for pose, sigma in starts:
            yield self.refine(dense, camera, pose, sigma, iterations, clock, until_known)

    def _alike(self, dense: DenseDescriptors) -> list[int]:
        """Mapping views in the order of how much the image looks like them."""
        likeness = self._signatures @ signature(dense.values, self._words)
        return [int(view) for view in likeness.argsort(descending=True).cpu().numpy()]

    def places(
        self, dense: DenseDescriptors, camera: Camera, views: Sequence[int]
    ) -> list[tuple[Pose, int]]:
        """Poses worth rendering without a prior, and how many matches agree on each, best first.

        The image's descriptors are matched with the surface points of the best retrieved views,
        those that see the same at a time.

        Args:
            dense: of the image.
            camera: of the image.
            views: mapping views, the likeliest first.
        """
        groups = grouped(views[: 4 * self.config.candidates], self._shared)
        of_view = self.neural_map.places.point_view.numpy()
        chosen = [
            some(np.flatnonzero(np.isin(of_view, group)), POINTS_OF_PLACE)
            for group in groups[: self.config.candidates]
        ]
        return self._agreeing(dense, camera, chosen)

    def _agreeing(
        self, dense: DenseDescriptors, camera: Camera, chosen: Sequence[NDArray[np.int64]]
    ) -> list[tuple[Pose, int]]:
        found = []
        for index in chosen:
            mine = torch.from_numpy(index).to(self._points.device)
            points, descriptors = self._points[mine], self._point_descriptors[mine]
            found.append(self.from_points(dense, camera, points, descriptors))
        return sorted((f for f in found if f is not None), key=lambda each: -each[1])

    def wide_sigma(self, camera: Camera) -> tuple[float, float]:
        """An uncertainty that makes the search window as large as windows get."""
        scale = 0.5 * self.side(camera) / max(camera.size)
        return 0.0, (self.config.window_radius - 3) / (3.0 * camera.fx * scale)

    def from_points(
        self, dense: DenseDescriptors, camera: Camera, points: Tensor, descriptors: Tensor
    ) -> tuple[Pose, int] | None:
        """A pose from surface points ``[n, 3]`` looked for everywhere in an image.

        Args:
            dense: of the image.
            camera: its calibration.
            points: metres.
            descriptors: ``[n, d]`` of the points.

        Returns:
            ``map_from_camera`` and how many matches agree; None where hardly any do.
        """
        found = self.matcher(descriptors, dense.values, None, None)
        solved = self._solve(dense, camera, found, points, error_scale=2.0)
        if solved is None or solved[0].inlier.sum() < _LEAST_AGREED:
            return None
        return solved[0].camera_from_map.inverse(), int(solved[0].inlier.sum())

    # -- from a prior --------------------------------------------------------------------------

    def refine(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        prior: Pose,
        sigma: tuple[float, float] | None,
        iterations: int,
        clock: Stopwatch,
        until_known: bool = False,
    ) -> PoseEstimate:
        """Render, match and solve from a prior, then again from the result.

        Args:
            dense: of the image.
            camera: of the image.
            prior: ``map_from_camera`` to begin at.
            sigma: its standard deviations, metres and radians; None for an unknown one.
            iterations: at most so many looks.
            clock: takes the time.
            until_known: leave off at the first good pose, however coarse the look.
        """
        c, pose, known = self.config, prior, False
        radius = self._radius(dense, camera, sigma)
        nothing = PoseEstimate(False, "nothing of the map is seen from the prior")
        estimate = nothing
        for number in range(iterations):
            # a coarse look will do until the pose is known, unless it is the last of several
            only = until_known and iterations == 1
            coarse = only or (not known and number + 1 < iterations)
            look = _Look(c.search_along if coarse else c.points_along, radius, known)
            found = self._once(dense, camera, pose, look, clock)
            if found is None:
                estimate = estimate if known else nothing
                break
            estimate = replace(found, iterations=number + 1)
            assert estimate.map_from_camera is not None
            metres, radians = estimate.map_from_camera.distance(pose)
            pose, known = estimate.map_from_camera, estimate.ok
            if estimate.inliers < _HOPELESS * self.config.min_inliers:
                break
            radius = self._next_radius(estimate)
            rests = metres < c.converged_m and radians < np.radians(c.converged_deg)
            if known and (until_known or (rests and not coarse)):
                break
        return estimate

    def _once(
        self,
        dense: DenseDescriptors,
        camera: Camera,
        pose: Pose,
        look: _Look,
        clock: Stopwatch,
    ) -> PoseEstimate | None:
        with clock.time("render"):
            pixels, points = self._render(camera, pose, look.along)
        if len(points) < self.config.min_inliers:
            return None
        with clock.time("match"):
            found = self._match(dense, pixels, points, look.radius)
        with clock.time("solve"):
            start = pose.inverse() if look.known else None
            solved = self._solve(dense, camera, found, points, start=start)
        if solved is None:
            return None
        return self._judge(camera, *solved)

    def _match(
        self, dense: DenseDescriptors, pixels: Tensor, points: Tensor, radius: int | None
    ) -> CellMatches:
        """Rendered points found in the image, around their pixels or anywhere."""
        descriptors = self.neural_map.field.descriptors(points)
        centre = pixels * constant(dense.scale, pixels) - 0.5
        return self.matcher(descriptors, dense.values, centre, radius)

    def limit(self, camera: Camera) -> float:
        """The inlier threshold in pixels of this camera."""
        return self.config.ransac_error_px * camera.relative_size

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
        """Pixels and bearings of a rendered grid, kept for the cameras of a rig."""
        if (camera, along) not in self._grids:
            if len(self._grids) >= _KEPT_GRIDS:
                self._grids.clear()
            pixels = camera.pixel_grid(*fitted(*camera.size, along))
            pixels = pixels[camera.shows(pixels)]
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
    ) -> tuple[SolvedPose, Matches] | None:
        pixels = _centres(found, dense)
        space = points[torch.from_numpy(found.index).to(points.device)].double().cpu().numpy()
        weights = found.confidence.astype(np.float64)
        limit = error_scale * self.limit(camera)
        solved = self.solver(
            pixels, space, weights, camera, limit, self.config.ransac_iterations,
            self.config.seed, start,
        )  # fmt: skip
        if solved is None:
            return None
        return solved, Matches(pixels, space, weights, solved.inlier)

    def _judge(self, camera: Camera, solved: SolvedPose, matches: Matches) -> PoseEstimate:
        """Gates and covariance of a solved pose."""
        inliers, count = int(solved.inlier.sum()), len(matches.pixels)
        residual = float(np.median(solved.error_px[solved.inlier])) if inliers else float("nan")
        spread = spread_of(matches.pixels[solved.inlier], camera)
        noise = max(residual, 0.3) * self.config.covariance_inflation
        reason = self._complaint(inliers, spread)
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

    def _complaint(self, inliers: int, spread: float) -> str:
        c = self.config
        if inliers < c.min_inliers:
            return f"only {inliers} matches agree on a pose, {c.min_inliers} are needed"
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
        sigma: tuple[float, float] | None,
    ) -> int | None:
        """Half the search window in cells for three sigmas of the prior, None for everywhere."""
        if sigma is None:
            return None
        nearest = self.neural_map.header.spacing.near * 3.0
        angle = 3.0 * (sigma[1] + sigma[0] / nearest)
        cells = int(np.ceil(angle * camera.fx * dense.scale[0])) + 2
        return None if cells > self.config.window_radius else max(cells, self.config.track_radius)


def some(index: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many of them at most, evenly."""
    return index[:: -(-len(index) // most)] if len(index) > most else index


def _length(camera: Camera) -> float:
    """Focal length by the longer side of the image."""
    return 0.5 * (camera.fx + camera.fy) / max(camera.size)


def _centres(found: CellMatches, dense: DenseDescriptors) -> NDArray[np.float64]:
    """Pixels ``[n, 2]`` of the image at the matches' cells."""
    return np.asarray((found.cell.astype(np.float64) + 0.5) / np.array(dense.scale))


def spread_of(pixels: FloatArray, camera: Camera) -> float:
    """Share of a 4x4 grid over the image that holds one of the pixels ``[n, 2]``.

    Cells of which less than a half shows the scene do not count.
    """
    cells = np.clip(pixels * 4 / np.array(camera.size), 0, 3).astype(int)
    held = np.unique(cells @ np.array([1, 4]))
    if camera.usable is None:
        return len(held) / 16.0
    share = cv2.resize(camera.usable.astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA)
    usable = np.flatnonzero(np.asarray(share).ravel() >= 0.5)
    return len(np.intersect1d(held, usable)) / max(len(usable), 1)
