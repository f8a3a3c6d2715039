"""Going on with a map that exists: a new recording joins, and the old place is rehearsed.

The old recording is not needed. What the map knows of it, colours and surfaces, is rendered at
its mapping poses, and these pictures are trained on beside the new ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossfire_core.config import LocalizationConfig, TrainingConfig
from crossfire_core.errors import TrainingError
from crossfire_core.features.network import fitted
from crossfire_core.geometry import Pose
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.header import MapHeader, each_camera_once
from crossfire_core.maps.neural_map import NeuralMap, read_map_header
from crossfire_core.maps.patches import Patches
from crossfire_core.maps.place import Place, beyond, is_place, tile_of, write_place
from crossfire_core.recordings.lazy import Recording
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.training import checkpoint
from crossfire_core.training.schedule import USUAL, Course
from crossfire_core.training.sparse_points import depth_image_points
from crossfire_core.training.survey import Survey
from crossfire_core.training.tiles import Tell, train_place
from crossfire_core.training.tiling import MARGIN, Part, cut
from crossfire_core.training.trainer import Trainer
from crossfire_core.training.views import View
from crossfire_core.vision.sparse_points import SparsePoints

FloatArray = NDArray[np.float64]
_SIDE = 224  # of a rehearsed view, pixels: about what the image network sees
_VIEWS = 80  # of the old place that are rehearsed: half of what a training keeps
_KNOWN = 0.5  # median distances of surfaces beyond a tile's core: what lies nearer is known
# A trained map needs smaller steps than a new one.
_RATE = 0.3


def extend_map(
    old: NeuralMap,
    recording: Recording,
    output: Path,
    config: TrainingConfig | None = None,
    course: Course = USUAL,
    on_progress: Tell = lambda progress: None,
) -> NeuralMap:
    """Train a map further with a recording whose poses are in its frame.

    Args:
        old: the map; its sizes and its frame stay.
        recording: images with ``map_from_camera``.
        output: the new map file; it may be the old one's.
        config: settings of training; those of the field are the map's own.
        course: its length, 15 minutes by default, and how it goes.
        on_progress: called about twice a second.

    Returns:
        The extended map; raises as :func:`.trainer.train_map`.
    """
    settings = slower(_like(config or TrainingConfig(), old.header))
    return Extension(old, recording, output, settings, course).run(on_progress)


def new_parts(old: NeuralMap | Place, recording: Recording) -> list[Part]:
    """Tiles for what a recording shows beyond a map.

    Args:
        old: a map or a place.
        recording: with poses in its frame.

    Returns:
        None of them where both together are one map's size.

    Raises:
        TrainingError: a place knows all of it already.
    """
    headers = [old.header] if isinstance(old, NeuralMap) else old.headers
    distance = float(np.median([header.spacing.knee for header in headers]))
    poses = [info.world_from_camera for info in recording.infos]
    posed = np.array([i for i, pose in enumerate(poses) if pose is not None], dtype=np.int64)
    centres = np.array([poses[i].translation for i in posed]).reshape(-1, 3)
    if isinstance(old, NeuralMap):
        before = np.stack([view.map_from_camera.translation for view in old.header.views])
        if len(cut(np.concatenate([before, centres]), distance)) == 1:
            return []
        away = beyond(before.min(axis=0), before.max(axis=0), centres)
    else:
        away = np.array([min(tile.outside(centre) for tile in old.tiles) for centre in centres])
    new = np.flatnonzero(away > _KNOWN * distance)
    if len(new) < 2:
        raise TrainingError(
            "all of this recording lies where the map knows its way already: nothing to add"
        )
    found = []
    for part in cut(centres[new], distance):
        near = beyond(part.low, part.high, centres) <= MARGIN * distance
        found.append(Part(part.low, part.high, posed[near]))
    return found


def extend_place(
    old: Path,
    recording: Recording,
    output: Path,
    config: TrainingConfig | None = None,
    course: Course = USUAL,
    on_progress: Tell = lambda progress: None,
    *,
    parts: Sequence[Part],
) -> Place:
    """Add tiles to a place, or to a map that then becomes one; what is known stays as it is.

    Args:
        old: the place's folder or the map's file.
        recording: images with poses in its frame.
        output: the new place's folder; it may be the old one's.
        config: settings of training; sizes are the old map's own.
        course: its length and how it goes.
        on_progress: called about twice a second.
        parts: of :func:`new_parts`.

    Raises:
        TrainingError: too few frames, a diverging loss, a work folder of another training.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = Place.open(old) if is_place(old) else None
        if known is None:
            frame_id = read_map_header(old).frame_id
            known = write_place(Path(folder) / old.name, frame_id, tile_of(old))
        settings = _like(config or TrainingConfig(), known.headers[0])
        return train_place(
            recording, output, settings, course, on_progress, parts=parts, known=known
        )


class Extension(Trainer):
    """A training whose first views are pictures rendered by the old map."""

    def __init__(
        self,
        old: NeuralMap,
        recording: Recording,
        output: Path,
        config: TrainingConfig,
        course: Course,
    ) -> None:
        """Keep the settings; the work begins in :meth:`run`."""
        super().__init__(recording, output, config, course)
        self.old = old

    def read_frames(self) -> None:
        """The new recording's views, then pictures of the old place before them."""
        super().read_frames()
        self.spare = ()  # the old map's factor is kept
        self.stage = "rehearsing"
        self.rehearsed: list[View] = []
        for view in rehearsal(self.old, self.new_names()):
            self.rehearsed.append(view)
            self.report(held_out=None)
        frame = Localizer(self.old).frame
        before = [frame.recorded(view.map_from_camera) for view in self.rehearsed]
        self.recorded = [*before, *self.recorded]
        new = [
            replace(view, map_from_camera=frame.trained(view.map_from_camera))
            for view in self.views
        ]
        self.views = [*self.rehearsed, *new]

    def _origin_of(self, poses: Sequence[Pose]) -> FloatArray:
        """The old map's."""
        return np.array(self.old.header.origin)

    def new_names(self) -> set[str]:
        """Names that the new recording's views have taken."""
        return {view.name for view in self.views}

    def look_at_the_scene(self, saved: dict[str, Any] | None) -> None:
        """The old box; depths of the old views as rendered, of the new ones triangulated."""
        if saved is not None:
            super().look_at_the_scene(saved)
            return
        self.stage = "triangulating"
        self.report(held_out=None, force=True)
        count = len(self.rehearsed)
        new = self.views[count:]
        front_end = self._front_end_of(new)
        self.tracks = front_end.tracks(new)
        seen = front_end.sparse(new, self.tracks)
        drawn = depth_image_points(self.rehearsed, np.random.default_rng(self.config.seed))
        sparse = SparsePoints(
            np.concatenate([drawn.view, seen.view + count]),
            np.concatenate([drawn.pixel, seen.pixel]),
            np.concatenate([drawn.point, seen.point]),
            np.concatenate([drawn.sigma_m, seen.sigma_m]),
        )
        header = self.old.header
        spacing = replace(header.spacing, near=self._near(header.spacing.near, seen, new))
        self.survey = Survey(header.box, spacing, sparse)

    @staticmethod
    def _near(near: float, seen: SparsePoints, views: Sequence[View]) -> float:
        """The new recording may have come closer to things."""
        if len(seen) == 0:
            return near
        centres = np.stack([v.map_from_camera.translation for v in views])[seen.view]
        closest = np.percentile(np.linalg.norm(seen.point - centres, axis=1), 0.2)
        return min(near, 0.4 * float(closest))

    def build(self, saved: dict[str, Any] | None) -> None:
        """Start from the old map's parameters."""
        super().build(None)
        self._take_over()
        if saved is not None:
            checkpoint.restore(self, saved)

    @torch.no_grad()
    def _take_over(self) -> None:
        state = {k: v.clone() for k, v in self.old.field.state_dict().items()}
        light = state.pop("appearance").mean(dim=0)
        for name, value in state.items():
            self.field.state_dict()[name].copy_(value)
        self.field.appearance.copy_(light.expand_as(self.field.appearance))
        self.network.load_state_dict(self.old.network.state_dict())
        self.first_weights = "the extended map"

    def _cut_patches(self) -> Patches:
        """The new recording's, beside what the old map has of the views that are kept."""
        count, most = len(self.rehearsed), self.config.patches
        new = self._patches_of(
            self.views[count:], most * (len(self.views) - count) // len(self.views)
        )
        views = np.full(len(self.old.header.views), -1)
        views[rehearsed_views(self.old.header)] = np.arange(count)
        return Patches.joined(
            [self.old.patches.renumbered(views), new.renumbered(range(count, len(self.views)))]
        )

    def _covariance_factor(self, made: NeuralMap) -> float:
        """The old map's: the new recording's poses are mostly its own answers, and no truth."""
        return self.old.header.covariance_factor

    def _header(self) -> MapHeader:
        made, old = super()._header(), self.old.header
        kept = {view.name for view in self.rehearsed}
        earlier = [view.name for view in old.views if view.name not in kept]
        provenance = {
            **made.provenance,
            "extends": old.provenance,
            # not rehearsed, but seen all the same: they are no test of the map
            "earlier_views": [*old.provenance.get("earlier_views", []), *earlier],
        }
        return replace(
            made, frame_id=old.frame_id, camera=old.camera,
            base_from_camera=old.base_from_camera, base_frame=old.base_frame,
            provenance=provenance,
            rig=each_camera_once(old.rig, made.rig),
        )  # fmt: skip


def rehearsed_views(header: MapHeader) -> NDArray[np.int64]:
    """Numbers of the views that are rehearsed, spread evenly."""
    count = len(header.views)
    return np.unique(np.linspace(0, count - 1, min(count, _VIEWS)).round().astype(np.int64))


def rehearsal(old: NeuralMap, taken: set[str]) -> Iterator[View]:
    """Pictures with depth of the old place, seen from its mapping poses.

    Args:
        old: the map.
        taken: names that are in use already; a view of the same name is renamed.
    """
    header = old.header
    renderer = Renderer(old.field, header.spacing, header.render)
    side = min(_SIDE, header.features.side)
    names = {view.name for view in header.views}
    for number in rehearsed_views(header):
        view, pose = header.views[int(number)], header.field_poses[int(number)]
        camera = header.camera_of(view)
        camera = camera.resized(*fitted(*camera.size, side))
        seen = renderer.render(camera, pose)
        image = np.rint(255.0 * seen.colour).astype(np.uint8)
        depth = np.where(seen.opacity > LocalizationConfig().min_opacity, seen.z_depth, 0.0).astype(
            np.float32
        )
        name = view.name
        if name in taken:
            while name in taken | names:
                name = f"earlier/{name}"
        yield View(name, view.stamp_ns, image, camera, pose, depth, view.rig_camera)


def _like(config: TrainingConfig, header: MapHeader) -> TrainingConfig:
    """Training settings with the sizes of a map that exists."""
    return replace(
        config, field=header.field, render=header.render, features=header.features,
        image_side=header.image_side,
    )  # fmt: skip


def slower(config: TrainingConfig) -> TrainingConfig:
    """Learning rates for a map that has learnt already; poses keep theirs."""
    g, d = config.geometry, config.descriptor
    geometry = replace(g, grid_rate=_RATE * g.grid_rate, network_rate=_RATE * g.network_rate)
    descriptor = replace(d, grid_rate=_RATE * d.grid_rate, network_rate=_RATE * d.network_rate)
    return replace(config, geometry=geometry, descriptor=descriptor)
