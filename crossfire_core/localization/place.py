"""The pose of one image in a place of many tiles.

With a prior the tile that the prior lies in is asked, and the ones around are read in the
background before they are needed. Without one the signatures of all tiles' mapping views are
compared at once, the surface points of the likeliest are matched with the image, and only where
most of these agree a tile is rendered. An image is described once for all tiles of one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from crossfire_core.config import LocalizationConfig
from crossfire_core.errors import CrossfireError
from crossfire_core.features.network import DenseDescriptors
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.covisibility import grouped, shared_views
from crossfire_core.localization.estimate import WIDE, PoseEstimate, RgbImage, Search
from crossfire_core.localization.evidence import Agreement
from crossfire_core.localization.finder import POINTS_OF_PLACE, Stopwatch, some
from crossfire_core.localization.localizer import Localizer, check_image
from crossfire_core.localization.tile_store import TileStore
from crossfire_core.localization.upright import Upright
from crossfire_core.maps.chance import Chance
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import Place, is_place
from crossfire_core.maps.places import signature
from crossfire_core.rendering.renderer import Rendering

FloatArray = NDArray[np.float64]
_STAYS = 0.3  # a tile stays in use so far outside of its core, in median distances of surfaces
_REACHES = 0.75  # so far outside of its core a tile still shows what is seen there
_AHEAD = 2.5  # tiles whose cores are nearer than this are read before they are needed
_VIEWS, _GROUPS = 4, 2  # of the configured number of candidates: views, and places of them
_RENDERED = 2  # of the places that points agree on, so many are rendered
_RIVAL = 0.6  # of the matches of the first: a second place with so many is looked at, too
_SAME = (0.3, np.radians(20.0))  # poses nearer than this (median distances, angle) are one place


@dataclass(frozen=True)
class _Proposal:
    """A pose worth rendering.

    Attributes:
        pose: ``map_from_camera`` in the place.
        network: the tiles that know it.
        agreed: matches that agree on it.
        near: whether it is about right; a mapping view's pose only shows what may be seen.
    """

    pose: Pose
    network: str
    agreed: int
    near: bool = True


class PlaceRenderer:
    """Renders views of a place, each from the tile that it lies in."""

    def __init__(self, localizer: PlaceLocalizer) -> None:
        """Share a localizer's tiles."""
        self._localizer = localizer

    def render(self, camera: Camera, map_from_camera: Pose) -> Rendering:
        """Render every pixel of a camera; see :meth:`.Renderer.render`."""
        number = self._localizer.home(map_from_camera.translation)
        tile = self._localizer.tile(number)
        map_from_tile = self._localizer.place.tiles[number].map_from_tile
        return tile.renderer.render(camera, map_from_tile.inverse() @ map_from_camera)


class PlaceLocalizer:
    """Finds images in a place; of the same use as :class:`.localizer.Localizer`."""

    def __init__(
        self,
        place: Place,
        config: LocalizationConfig | None = None,
        device: str = "auto",
        backend: str = "auto",
    ) -> None:
        """Prepare an opened place, as :func:`open_localizer`; tiles are read when needed."""
        self.place = self.neural_map = place
        self.config = config or LocalizationConfig()
        self._device, self._backend = device, backend
        self._store = TileStore(self._load, localizer_bytes, self.config.tiles_mb << 20)
        self._current: int | None = None
        header = place.header
        self.upright = Upright(
            [view.map_from_camera for view in header.views],
            list(header.mounts.values()) or [header.base_from_camera],
        )
        self.chance = Chance(
            max(each.chance.matches for each in place.headers),
            max(each.chance.patches for each in place.headers),
        )
        self.renderer = PlaceRenderer(self)
        self._retrieval = {
            network: _Retrieval(place, network)
            for network in dict.fromkeys(tile.network for tile in place.tiles)
        }

    def tile(self, number: int) -> Localizer:
        """One tile's localizer, read where it is not in memory."""
        return self._store.get(number)

    @property
    def loaded(self) -> list[int]:
        """Numbers of the tiles in memory."""
        return self._store.loaded()

    def warm_up(self, camera: Camera | None = None) -> None:
        """Compile kernels and allocate buffers by localizing a grey image."""
        self.tile(0).warm_up(camera)

    def home(self, position: FloatArray, network: str | None = None) -> int:
        """The tile that a position ``[3]`` belongs to; that in use keeps what lies near."""
        return self._ordered(position, network)[0]

    def localize(
        self, image: RgbImage, camera: Camera, prior: Pose | None = None, *, search: Search = WIDE
    ) -> PoseEstimate:
        """Find the pose of one image; see :class:`.estimate.ImageLocalizer`.

        A tile that can no longer be read is a failure with its reason.

        Raises:
            CalibrationError: the image is not of the camera's size.
        """
        check_image(image, camera)
        try:
            if prior is None:
                found = self._search(image, camera, search.iterations)
            else:
                found = self._around(image, camera, prior, search)
        except CrossfireError as error:
            return PoseEstimate(False, str(error))
        if found.ok and found.map_from_camera is not None:
            self._look_ahead(found.map_from_camera.translation)
        return found

    def patch_agreement(
        self, image: NDArray[np.uint8], camera: Camera, map_from_camera: Pose
    ) -> Agreement:
        """What the map's patches say of an image at a pose that others found."""
        number = self.home(map_from_camera.translation)
        return self.tile(number).patch_agreement(
            image, camera, self._in_tile(number, map_from_camera)
        )

    def honest(self, covariance: FloatArray, pose: Pose) -> FloatArray:
        """A covariance ``[6, 6]`` of matches with what the map knows of its own errors there."""
        number = self.home(pose.translation)
        turn = np.kron(np.eye(2), self.place.tiles[number].map_from_tile.rotation)
        mine = self.tile(number).honest(turn.T @ covariance @ turn, self._in_tile(number, pose))
        return np.asarray(turn @ mine @ turn.T)

    def _load(self, number: int) -> Localizer:
        return Localizer(self.place.load(number, self._device, self._backend), self.config)

    # -- from a prior --------------------------------------------------------------------------

    def _around(self, image: RgbImage, camera: Camera, prior: Pose, search: Search) -> PoseEstimate:
        """From a prior, in the tile it lies in; where that fails, in one that reaches there."""
        best = PoseEstimate(False, "the place has no tile here")
        for number in self._reaching(prior.translation):
            found = self.tile(number).localize(
                image, camera, self._in_tile(number, prior), search=search
            )
            if found.ok or best.map_from_camera is None:
                best = self._in_place(number, found)
            if found.ok:
                break
        return best

    def _reaching(self, position: FloatArray) -> list[int]:
        """The tile of a position, and another one that shows what is seen there."""
        first, *others = self._ordered(position)
        near = [n for n in others if self._outside(n, position) < _REACHES]
        return [first, *near[:1]]

    def _ordered(self, position: FloatArray, network: str | None = None) -> list[int]:
        """Tiles by how near a position ``[3]`` is to their cores."""
        numbers = [n for n, t in enumerate(self.place.tiles) if network in (None, t.network)]

        def distance(number: int) -> tuple[float, float]:
            beyond = self._outside(number, position)
            if number == self._current and beyond < _STAYS:
                return -1.0, 0.0
            tile = self.place.tiles[number]
            middle = tile.map_from_tile.apply(0.5 * (tile.low + tile.high))
            return beyond, float(np.linalg.norm(position - middle))

        return sorted(numbers, key=distance)

    def _outside(self, number: int, position: FloatArray) -> float:
        """How far a position lies from a tile's core, in its median distances of surfaces."""
        knee = self.place.headers[number].spacing.knee
        return self.place.tiles[number].outside(position) / knee

    def _look_ahead(self, position: FloatArray) -> None:
        """Remember the tile of a position, and read those that may be next."""
        order = self._ordered(position)
        self._current = order[0]
        for number in order[1:]:
            if self._outside(number, position) < _AHEAD:
                self._store.prefetch(number)

    # -- without a prior -----------------------------------------------------------------------

    @torch.no_grad()
    def _search(
        self, image: NDArray[np.uint8], camera: Camera, iterations: int | None
    ) -> PoseEstimate:
        """Find an image anywhere in the place.

        Where no pose on which surface points agree is right, the likeliest views' are tried.
        """
        clock, best = Stopwatch(), PoseEstimate(False, "no place of the map looks like this image")
        described: dict[str, DenseDescriptors] = {}
        proposals: list[_Proposal] = []
        for network in self._retrieval:
            with clock.time("features"):
                finder = self._one_of(network).finder
                described[network] = finder.describe(image, camera).masked(camera)
            with clock.time("retrieve"):
                proposals += self._proposed(network, described[network], camera)
        tried = self._distinct(proposals)[:_RENDERED]
        for network, dense in described.items():
            tried += self._views(network, dense)
        for number, proposal in enumerate(tried):
            if best.ok and proposal.agreed <= _RIVAL * tried[number - 1].agreed:
                break
            dense = described[proposal.network]
            found = self._confirmed(image, camera, dense, proposal, len(proposals), iterations)
            clock.add(found.timings_ms)
            if best.map_from_camera is None or _surer(found, best):
                best = found
        return replace(best, timings_ms=clock.ms)

    def _views(self, network: str, dense: DenseDescriptors) -> list[_Proposal]:
        """Poses of the likeliest views of a network."""
        most = max(1, _RENDERED // len(self._retrieval))
        found = []
        for tile, view in self._retrieval[network].likeliest(dense, most):
            pose = self.place.headers[tile].views[view].map_from_camera
            found.append(
                _Proposal(self.place.tiles[tile].map_from_tile @ pose, network, 0, near=False)
            )
        return found

    def _one_of(self, network: str) -> Localizer:
        """Any tile of a network, best one that is in memory."""
        mine = [n for n, tile in enumerate(self.place.tiles) if tile.network == network]
        return self.tile(next((n for n in reversed(self.loaded) if n in mine), mine[0]))

    def _proposed(self, network: str, dense: DenseDescriptors, camera: Camera) -> list[_Proposal]:
        """Poses that surface points of the likeliest views agree on.

        Where those of the first places are not convincing, as many more are tried.
        """
        groups = self._retrieval[network].groups(dense, self.config.candidates)
        found: list[_Proposal] = []
        for number, (tile, views) in enumerate(groups):
            most = max((each.agreed for each in found), default=0)
            if number >= self.config.candidates and most >= self.config.min_inliers:
                break
            agreed = self._from_points(network, tile, views, dense, camera)
            if agreed is not None:
                found.append(agreed)
        return found

    def _from_points(
        self, network: str, tile: int, views: list[int], dense: DenseDescriptors, camera: Camera
    ) -> _Proposal | None:
        """A pose from the surface points that some views of a tile saw."""
        index, device = self.place.index[tile], dense.values.device
        mine = np.flatnonzero(np.isin(index.point_view.numpy(), views))
        chosen = torch.from_numpy(some(mine, POINTS_OF_PLACE))
        points, described = index.points[chosen], index.described(chosen)
        agreed = self._one_of(network).finder.from_points(
            dense, camera, points.to(device), described.to(device)
        )
        if agreed is None:
            return None
        pose = agreed[0].shifted(self.place.headers[tile].origin)
        return _Proposal(self.place.tiles[tile].map_from_tile @ pose, network, agreed[1])

    def _distinct(self, proposals: Sequence[_Proposal]) -> list[_Proposal]:
        """One proposal a spot, those with most agreeing matches first."""
        kept: list[_Proposal] = []
        metres = _SAME[0] * self.place.headers[0].spacing.knee
        for each in sorted(proposals, key=lambda p: -p.agreed):
            apart = [each.pose.distance(other.pose) for other in kept]
            if all(t > metres or r > _SAME[1] for t, r in apart):
                kept.append(each)
        return kept

    def _confirmed(
        self,
        image: NDArray[np.uint8],
        camera: Camera,
        dense: DenseDescriptors,
        proposal: _Proposal,
        trials: int,
        iterations: int | None,
    ) -> PoseEstimate:
        number = self.home(proposal.pose.translation, proposal.network)
        start = self._in_tile(number, proposal.pose).shifted(
            -np.array(self.place.headers[number].origin)
        )
        found = self.tile(number).confirm(
            image, camera, dense, start, max(trials, 1), iterations, proposal.near
        )
        return self._in_place(number, found)

    # -- frames --------------------------------------------------------------------------------

    def _in_tile(self, number: int, pose: Pose) -> Pose:
        return self.place.tiles[number].map_from_tile.inverse() @ pose

    def _in_place(self, number: int, found: PoseEstimate) -> PoseEstimate:
        """A tile's answer in the frame of the place."""
        move = self.place.tiles[number].map_from_tile
        if found.map_from_camera is None or move.distance(Pose.identity()) == (0.0, 0.0):
            return found
        turn = np.kron(np.eye(2), move.rotation)
        covariance, matches = found.covariance, found.details
        return replace(
            found,
            map_from_camera=move @ found.map_from_camera,
            covariance=None if covariance is None else turn @ covariance @ turn.T,
            details=matches and replace(matches, points=move.apply(matches.points)),
        )


class _Retrieval:
    """The mapping views of all tiles of one network, by what they look like."""

    def __init__(self, place: Place, network: str) -> None:
        numbers = [n for n, tile in enumerate(place.tiles) if tile.network == network]
        parts = [place.index[n] for n in numbers]
        self._words = parts[0].words
        self._signatures = torch.cat([part.signatures for part in parts])
        counts = [len(part.signatures) for part in parts]
        self._tile = np.repeat(numbers, counts)
        self._view = np.concatenate([np.arange(count) for count in counts])
        self._shared = {
            n: shared_views(
                place.headers[n].box, place.index[n].points, place.index[n].point_view,
                len(place.index[n].signatures),
            )
            for n in numbers
        }  # fmt: skip

    def likeliest(self, dense: DenseDescriptors, count: int) -> list[tuple[int, int]]:
        """Views that look most like an image: (tile, number of the view in it)."""
        likeness = self._signatures @ signature(dense.values.cpu(), self._words)
        order = likeness.argsort(descending=True).numpy()[:count]
        return list(zip(self._tile[order].tolist(), self._view[order].tolist(), strict=True))

    def groups(self, dense: DenseDescriptors, candidates: int) -> list[tuple[int, list[int]]]:
        """Likely views, put together that see the same: (tile, its views), the likeliest first."""
        order = self.likeliest(dense, _VIEWS * _GROUPS * candidates)
        tiles, views = np.array(order).T
        found = [
            (int(number), group)
            for number in dict.fromkeys(tiles.tolist())
            for group in grouped(views[tiles == number].tolist(), self._shared[number])
        ]
        rank = {each: i for i, each in enumerate(order)}
        found.sort(key=lambda each: rank[each[0], each[1][0]])
        return found[: _GROUPS * candidates]


def _surer(a: PoseEstimate, b: PoseEstimate) -> bool:
    return (a.ok, a.evidence, a.inliers) > (b.ok, b.evidence, b.inliers)


def localizer_bytes(localizer: Localizer) -> int:
    """About what a map takes in memory, with what its localizer makes of it."""
    made = localizer.neural_map
    parameters = [*made.field.parameters(), *made.network.parameters(), *vars(made.places).values()]
    points, patches = len(made.places.points), len(made.patches)
    tensors = sum(p.numel() * p.element_size() for p in parameters)
    # descriptors of the points, and of a patch its grey values as numbers, axes, point and normal
    described = points * 4 * made.header.field.descriptor_size
    return int(tensors) + int(described) + patches * (256 * 5 + 128)


MapLocalizer: TypeAlias = Localizer | PlaceLocalizer


def open_localizer(
    path: str | Path,
    config: LocalizationConfig | None = None,
    device: str = "auto",
    backend: str = "auto",
) -> MapLocalizer:
    """Open a map's file or a place's folder for localization.

    Args:
        path: of either.
        config: by default the program's settings.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        backend: what evaluates the hash grids.

    Raises:
        MapFormatError: neither, damaged, incomplete or of another version.
        BackendError: the device or backend is not there.
    """
    if is_place(Path(path)):
        return PlaceLocalizer(Place.open(path), config, device, backend)
    return Localizer(NeuralMap.load(path, device, backend), config)
