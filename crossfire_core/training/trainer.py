"""Training from the first frame to the finished map."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core.config import TrainingConfig
from crossfire_core.errors import TrainingError
from crossfire_core.features.network import image_network, start_from_rooms
from crossfire_core.field.backends import encoder, resolve_device
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.field.scene_field import SceneField
from crossfire_core.geometry import Pose
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.chance import Chance
from crossfire_core.maps.header import MapHeader
from crossfire_core.maps.neural_map import NeuralMap, round_as_stored
from crossfire_core.maps.patches import Patches
from crossfire_core.maps.places import Places, choose_words
from crossfire_core.recordings import Recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.rendering.sampling import Spacing
from crossfire_core.training import checkpoint
from crossfire_core.training.assembly import map_header, places_of, rig_of
from crossfire_core.training.descriptor_stage import DescriptorStage, Surfaces, measure_surfaces
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.geometry_stage import GeometryStage
from crossfire_core.training.honesty import covariance_factor, measured_chance_of
from crossfire_core.training.patch_cutting import cut_patches
from crossfire_core.training.progress import Progress, Reporter
from crossfire_core.training.schedule import (
    USUAL,
    Budget,
    Course,
    one_torch_thread_a_share,
    rate_factor,
)
from crossfire_core.training.selection import select_frames
from crossfire_core.training.sparse_points import depth_image_points
from crossfire_core.training.survey import Survey, survey
from crossfire_core.training.views import RayTable, View, view_of
from crossfire_core.vision.sparse_points import SparsePoints
from crossfire_core.vision.triangulation import Tracks

FloatArray = NDArray[np.float64]
_CHECKPOINT_SECONDS = 60.0  # what a stop may cost
_FRONT_END_SHARE = 0.12  # of the time at most, for what the images have in common
_TEST_SECONDS = 45.0  # between tests, which cost a second
_READ_SECONDS = 0.5  # between figures, which a GPU is waited for
_WORDS = 256  # of the places' vocabulary, part of the map's format
_MIRRORED = 24  # images on which chance agreement is measured
_FAR_FROM_ORIGIN = 500.0  # metres; single precision is a twentieth of a millimetre there
_FINISH_SECONDS, _FINISH_SECONDS_A_VIEW, _FINISH_SECONDS_A_FRAME = (
    14.0,
    0.08,
    0.25,
)  # what comes after the last step, on 2 cores
DEFAULT_MINUTES = 15.0  # where neither steps nor minutes are given


def train_map(
    recording: Recording,
    output: Path,
    config: TrainingConfig | None = None,
    course: Course = USUAL,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> NeuralMap:
    """Train a map and write it.

    Args:
        recording: images with poses.
        output: the map file; a checkpoint lies beside it until the map is finished.
        config: all settings.
        course: its length, 15 minutes by default, and how it goes.
        on_progress: called about twice a second.

    Returns:
        The finished map.

    Raises:
        TrainingError: too few frames, a diverging loss, no fitting checkpoint.
        CrossfireError: the map cannot be written.
    """
    return Trainer(recording, output, config or TrainingConfig(), course).run(on_progress)


class Trainer:
    """Holds the state of one training; :meth:`run` is its table of contents."""

    def __init__(
        self, recording: Recording, output: Path, config: TrainingConfig, course: Course
    ) -> None:
        """Keep the settings; the work begins in :meth:`run`."""
        self.recording, self.output, self.config = recording, output, course.seeded(config)
        self.course = course.lasting(DEFAULT_MINUTES)
        self.steps, minutes = self.course.steps, self.course.minutes
        self.seconds = None if minutes is None else 60.0 * minutes
        self.reporter = Reporter()
        self.stage = "reading"
        self.elapsed_before = 0.0
        self.started = time.monotonic()
        self.last_test = self.last_read = 0.0
        self.last_checkpoint = time.monotonic()

    def run(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> NeuralMap:
        """Read, look, learn geometry, learn descriptors, write."""
        self.reporter.observe(on_progress, self.course.log_dir)
        self.prepare()
        try:
            self.learn_geometry()
            self.find_surfaces()
            self.learn_descriptors()
            made = self.finish()
            made.save(self.output)
        except KeyboardInterrupt:
            checkpoint.save_training(self)
            raise
        checkpoint.checkpoint_path(self.output).unlink(missing_ok=True)
        return made

    # -- preparation ---------------------------------------------------------------------------

    def prepare(self) -> None:
        """All that comes before the first step."""
        self.device = resolve_device(self.course.device)
        self.read_frames()
        saved = checkpoint.load_training(self) if self.course.resume else None
        self.look_at_the_scene(saved)
        self.build(saved)

    def read_frames(self) -> None:
        """Decode the mapping views and a few frames to test with."""
        infos = self.recording.infos
        # where poses were found for training, held-out frames were left out before that
        every = 0 if self.recording.held_out else self.course.holdout_every
        chosen = select_frames(infos, self.config.max_views, every)
        self.views: list[View] = []
        self.test_frames: list[Frame] = []
        self.base_camera = infos[chosen.mapping[0]].camera
        self.rig = rig_of([infos[i] for i in chosen.mapping])
        # where poses are learned the recording's are no truth to measure answers by
        self.spare = () if self.config.geometry.pose_rate else chosen.spare
        testing = {infos[i].name for i in chosen.test}
        for frame in self.recording.frames(sorted({*chosen.mapping, *chosen.test})):
            if frame.name in testing:
                self.test_frames.append(frame)
            else:
                self.views.append(view_of(frame, self.config.image_side))
            self.report(held_out=None)
        self.origin = self._origin_of([view.map_from_camera for view in self.views])
        self.views = [
            replace(view, map_from_camera=view.map_from_camera.shifted(-self.origin))
            for view in self.views
        ]
        self.recorded = [view.map_from_camera for view in self.views]

    def _origin_of(self, poses: Sequence[Pose]) -> FloatArray:
        """Where the field has its zero: the frame's, unless single precision fails there."""
        middle = np.stack([pose.translation for pose in poses]).mean(axis=0)
        near = np.abs(middle).max() < _FAR_FROM_ORIGIN
        return np.zeros(3) if near else np.asarray(np.round(middle))

    def look_at_the_scene(self, saved: dict[str, Any] | None) -> None:
        """Make poses agree, find sparse points or take depth images, fit the box around them."""
        self.stage = "triangulating"
        self.report(held_out=None, force=True)
        if saved is not None:
            self.views = self._posed_as(saved["tensors"])
            t, h = saved["tensors"], saved["header"]["survey"]
            numbers = [t[f"sparse.{k}"].numpy() for k in ("view", "pixel", "point", "sigma")]
            box = SceneBox(tuple(h["centre"]), h["half_size"])
            self.survey = Survey(box, Spacing(**h["spacing"]), SparsePoints(*numbers))
            return
        front_end = self._front_end_of(self.views)
        if self.config.correct_poses:
            self.views = front_end.corrected(self.views)
        self.tracks = front_end.tracks(self.views)
        points = front_end.sparse(self.views, self.tracks)
        if self.course.use_depth:
            points = depth_image_points(self.views, np.random.default_rng(self.config.seed))
        self.survey = survey(self.views, points)

    tracks: Tracks | None = None

    def _front_end_of(self, views: Sequence[View]) -> FrontEnd:
        patience = math.inf if self.seconds is None else _FRONT_END_SHARE * self.seconds
        return FrontEnd(views, lambda: self.report(held_out=None), patience, self.config.seed)

    def _posed_as(self, tensors: dict[str, Tensor]) -> list[View]:
        """The views with a checkpoint's poses."""
        poses = [Pose(m[:, :3], m[:, 3]) for m in tensors["views.poses"].numpy()]
        return [
            replace(view, map_from_camera=pose)
            for view, pose in zip(self.views, poses, strict=True)
        ]

    def build(self, saved: dict[str, Any] | None) -> None:
        """Make field, network and both stages' budgets; take over a checkpoint's state."""
        c = self.config
        encode = encoder(c.backend, self.device)
        self.field = SceneField(c.field, self.survey.box, len(self.views), encode, c.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(c.seed)
            self.network = image_network(c.features, c.field.descriptor_size)
        self.first_weights = "random"  # also where the network is of another size than known ones
        if c.descriptor.start == "rooms" and start_from_rooms(self.network):
            self.first_weights = "rooms"
        self.field.to(self.device)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.table = RayTable(self.views, self.device)
        self.views = self.table.share_images(self.views)
        self.geometry = GeometryStage(self.field, self.table, self.survey, c)
        self.descriptors: DescriptorStage | None = None
        self.surfaces: Surfaces | None = None
        self.patches = Patches.none()
        self.rng = torch.Generator().manual_seed(c.seed)  # on the host: see draw_seeds
        self.renderer = Renderer(self.field, self.survey.spacing, c.render)
        self.geometry_budget, self.descriptor_budget = self._budgets()
        if saved is not None:
            checkpoint.restore(self, saved)

    def _budgets(self) -> tuple[Budget, Budget]:
        share = self.config.geometry_share
        if self.steps is not None:
            first = max(1, round(self.steps * share))
            return Budget(first, None), Budget(max(1, self.steps - first), None)
        assert self.seconds is not None
        left = max(1.0, self.seconds - self.elapsed())
        # the second stage gets what is really left when it begins
        return Budget(None, left * share), Budget(None, left * (1.0 - share))

    # -- the two stages ------------------------------------------------------------------------

    def learn_geometry(self) -> None:
        """Density and colour."""
        self.stage = "geometry"
        self._loop(self.geometry_budget, self.geometry.step)
        if self.geometry.corrects_poses:
            poses = self.geometry.corrected_poses()
            self.views = [
                replace(view, map_from_camera=pose)
                for view, pose in zip(self.views, poses, strict=True)
            ]

    def find_surfaces(self) -> None:
        """Render where the pixels of the mapping views lie."""
        self.stage = "surfaces"
        self.report(held_out=None, force=True)
        if self.surfaces is None:
            self.surfaces = measure_surfaces(
                Renderer(self.field, self.survey.spacing, self.config.render).freeze(),
                self.views,
                self.config.descriptor.surface_nodes,
            )
        if self.surfaces.nodes[:, 4].sum() < 256:
            raise TrainingError(
                "training found no clear surfaces: check that the poses belong to the images "
                "(crossfire check), or train longer"
            )
        self.patches = self._cut_patches()
        if self.seconds is not None and self.descriptor_budget.done == 0:
            after = _FINISH_SECONDS + _FINISH_SECONDS_A_VIEW * len(self.views)
            after += _FINISH_SECONDS_A_FRAME * len(self.spare)
            after = min(after, 0.2 * self.seconds)
            self.descriptor_budget.seconds = max(1.0, self.seconds - self.elapsed() - after)

    def _cut_patches(self) -> Patches:
        """Small pictures of the scene, while the views still have their images."""
        return self._patches_of(self.views, self.config.patches)

    def _patches_of(self, views: Sequence[View], most: int) -> Patches:
        if most == 0 or len(views) < 2:
            return Patches.none()
        # after an interruption, or where poses were learned since, points are found anew
        moved = self.geometry.corrects_poses
        tracks = None if moved else self.tracks
        if tracks is None:
            tracks = self._front_end_of(views).tracks(views)
        renderer = Renderer(self.field, self.survey.spacing, self.config.render).freeze()
        return cut_patches(views, tracks, renderer, most, self.config.seed)

    def learn_descriptors(self) -> None:
        """The field's descriptors and the image network."""
        assert self.surfaces is not None
        self.stage = "descriptors"
        self.descriptors = self.descriptor_stage()
        self._release_images()
        if self.moments:
            checkpoint.restore_optimizer(self.descriptors.optimizer, self.moments, "descriptors.")
        self._loop(self.descriptor_budget, self.descriptors.step)

    descriptor_kind: type[DescriptorStage] = DescriptorStage

    def descriptor_stage(self) -> DescriptorStage:
        """How the field's descriptors and the network learn."""
        assert self.surfaces is not None
        return self.descriptor_kind(
            self.field, self.network, self.views, self.surfaces, self.survey.spacing.knee,
            self.config,
        )  # fmt: skip

    def _release_images(self) -> None:
        """Give back what only the first stage needs; the second has small images of its own."""
        self.table.pixels = self.table.pixels[:0].clone()
        self.views = [replace(v, image=v.image[:0].copy(), depth=None) for v in self.views]

    moments: dict[str, Tensor] | None = None

    def _loop(
        self, budget: Budget, step: Callable[[float, torch.Generator], dict[str, Tensor]]
    ) -> None:
        c = self.config
        budget.start()
        with one_torch_thread_a_share(self.device):
            while not budget.over:
                factor = rate_factor(budget.fraction, c.warm_up, c.final_rate)
                self.reporter.keep(step(factor, self.rng))
                budget.advance()
                self._between_steps(budget)

    def _between_steps(self, budget: Budget) -> None:
        now = time.monotonic()
        if not budget.over and now - self.last_read < _READ_SECONDS:
            return
        self.reporter.read()
        self.last_read = time.monotonic()
        held_out = None
        if now - self.last_test > _TEST_SECONDS:
            held_out = self.test()
            self.last_test = now
        self.report(held_out, force=held_out is not None or budget.over)
        if now - self.last_checkpoint > _CHECKPOINT_SECONDS:
            checkpoint.save_training(self)
            self.last_checkpoint = time.monotonic()

    # -- finishing -----------------------------------------------------------------------------

    def finish(self) -> NeuralMap:
        """Put the map together."""
        self.stage = "finishing"
        self.report(held_out=None, force=True)
        round_as_stored(self.field, self.network)  # what follows is made from what a reader sees
        self.network.eval()
        made = NeuralMap(self._header(), self.field, self.network, places_of(self), self.patches)
        made.header = replace(made.header, chance=self._chance(made))
        made.header = replace(made.header, covariance_factor=self._covariance_factor(made))
        return made

    def _chance(self, made: NeuralMap) -> Chance:
        """From frames in a mirror, spread over the recording."""
        few = np.linspace(0, len(self.recording) - 1, min(len(self.recording), _MIRRORED))
        frames = self.recording.frames(sorted({int(i) for i in few}))
        return measured_chance_of(Localizer(made), frames)

    def _covariance_factor(self, made: NeuralMap) -> float:
        """From frames that were not trained on."""
        return covariance_factor(Localizer(made), self.recording.frames(self.spare))

    def _header(self) -> MapHeader:
        return map_header(self)

    def words(self, points: Tensor) -> Tensor:
        """The vocabulary ``[k, d]`` that images are compared by, from surface points ``[n, 3]``."""
        return choose_words(self.field.descriptors(points), _WORDS)

    # -- how it goes ---------------------------------------------------------------------------

    def elapsed(self) -> float:
        """Seconds of training, across restarts."""
        return self.elapsed_before + time.monotonic() - self.started

    @torch.no_grad()
    def test(self) -> dict[str, float] | None:
        """Median error on the test frames, from the nearest mapping view as prior."""
        if not self.test_frames:
            return None
        if self.stage == "geometry":
            return {"psnr": self._test_psnr()}
        nothing = Places(
            torch.zeros(1, self.config.field.descriptor_size), torch.zeros(len(self.views), 1),
            torch.zeros(0, 3), torch.zeros(0, dtype=torch.long),
        )  # fmt: skip
        self.network.eval()
        localizer = Localizer(
            NeuralMap(self._header(), self.field, self.network, nothing),
        )
        errors = []
        for frame in self.test_frames:
            truth = frame.world_from_camera
            assert truth is not None
            poses = [v.map_from_camera.shifted(self.origin) for v in self.views]
            prior = min(poses, key=lambda p: sum(p.distance(truth)))
            found = localizer.localize(frame.image, frame.camera, prior)
            errors.append(found.map_from_camera.distance(truth) if found.ok else (np.inf, np.inf))  # type: ignore[union-attr]
        self.network.train()
        metres, radians = np.median(np.array(errors), axis=0)
        return {"translation_m": float(metres), "rotation_deg": float(np.degrees(radians))}

    def _test_psnr(self) -> float:
        values = []
        for frame in self.test_frames:
            small = view_of(frame, 96)
            pose = small.map_from_camera.shifted(-self.origin)
            seen = self.renderer.render(small.camera, pose).colour
            real = small.image / 255.0
            values.append(-10.0 * np.log10(max(1e-10, float(((seen - real) ** 2).mean()))))
        return float(np.mean(values))

    def report(self, held_out: dict[str, float] | None, force: bool = False) -> None:
        """Tell how it goes, not more often than twice a second."""
        self.reporter.tell(self.stage, self._count, self.elapsed(), held_out, force)

    def _count(self) -> tuple[int, int, float | None]:
        if not hasattr(self, "geometry_budget"):
            return 0, 0, None
        if self.seconds is not None:
            left = max(0.0, self.seconds - self.elapsed())
            return round(self.elapsed()), round(self.seconds), left
        parts = (self.geometry_budget, self.descriptor_budget)
        left = sum(part.seconds_left for part in parts)
        return sum(p.done for p in parts), sum(p.steps or 0 for p in parts), left
