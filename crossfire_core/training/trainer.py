"""Training from the first frame to the finished map."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfire_core import __version__
from crossfire_core.config import TrainingConfig, to_dict
from crossfire_core.errors import TrainingError
from crossfire_core.features.network import image_network, start_from_rooms
from crossfire_core.field.backends import encoder, resolve_device
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.field.scene_field import SceneField
from crossfire_core.geometry import Pose
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.chance import Chance
from crossfire_core.maps.header import MapHeader, MappingView, RigCamera
from crossfire_core.maps.neural_map import NeuralMap, round_as_stored
from crossfire_core.maps.patches import Patches
from crossfire_core.maps.places import Places, choose_words, signature
from crossfire_core.recordings import Recording
from crossfire_core.recordings.frame import Frame
from crossfire_core.recordings.lazy import FrameInfo
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.rendering.sampling import Spacing
from crossfire_core.training import checkpoint
from crossfire_core.training.descriptor_stage import DescriptorStage, Surfaces, measure_surfaces
from crossfire_core.training.front_end import FrontEnd
from crossfire_core.training.geometry_stage import GeometryStage
from crossfire_core.training.honesty import covariance_factor, measured_chance_of
from crossfire_core.training.patch_cutting import cut_patches
from crossfire_core.training.schedule import Budget, one_torch_thread_a_share, rate_factor
from crossfire_core.training.selection import select_frames
from crossfire_core.training.sparse_points import SparsePoints, depth_image_points
from crossfire_core.training.survey import Survey, survey
from crossfire_core.training.views import RayTable, View, view_of
from crossfire_core.vision.triangulation import Tracks

FloatArray = NDArray[np.float64]
_CHECKPOINT_SECONDS = 60.0
_FRONT_END_SHARE = 0.12  # of the time at most, for what the images have in common
_TEST_SECONDS = 45.0
_READ_SECONDS = 0.5
_WORDS = 256
_MIRRORED = 24  # images on which chance agreement is measured
_POINTS_A_VIEW = 96
_FAR_FROM_ORIGIN = 500.0  # metres; single precision is a twentieth of a millimetre there
_FINISH_SECONDS, _FINISH_SECONDS_A_VIEW, _FINISH_SECONDS_A_FRAME = (
    14.0,
    0.08,
    0.25,
)  # what comes after the last step, on 2 cores
DEFAULT_MINUTES = 15.0


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows.

    Attributes:
        stage: what is being done.
        step: of ``total_steps``; with a time budget both count seconds.
        total_steps: 0 while unknown.
        loss: smoothed.
        psnr: smoothed, dB.
        held_out: error on frames that are not trained on, when newly measured.
        seconds: since the start, across restarts.
        seconds_left: estimate, None while unknown.
    """

    stage: str
    step: int
    total_steps: int
    loss: float
    psnr: float
    held_out: dict[str, float] | None
    seconds: float
    seconds_left: float | None


def train_map(
    recording: Recording,
    output: Path,
    config: TrainingConfig | None = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    holdout_every: int = 0,
    use_depth: bool = False,
    resume: bool = False,
    device: str = "auto",
    seed: int | None = None,
    log_dir: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> NeuralMap:
    """Train a map and write it.

    Args:
        recording: images with poses.
        output: the map file; a checkpoint lies beside it until the map is finished.
        config: all settings.
        steps: length of the training in steps of both stages together.
        minutes: or in minutes, preparation included; neither means 15 minutes.
        holdout_every: every n-th frame is not trained on.
        use_depth: supervise with the recording's depth images.
        resume: go on from the checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: overrides the configured seed.
        log_dir: where TensorBoard's files go, or None.
        on_progress: called about twice a second.

    Returns:
        The finished map.

    Raises:
        TrainingError: too few frames, a diverging loss, no fitting checkpoint.
        CrossfireError: the map cannot be written.
    """
    settings = config or TrainingConfig()
    if seed is not None:
        settings = replace(settings, seed=seed)
    if steps is None and minutes is None:
        minutes = DEFAULT_MINUTES
    trainer = Trainer(recording, output, settings, steps, minutes, holdout_every, use_depth)
    trainer.observe(on_progress, log_dir)
    return trainer.run(device, resume)


class Trainer:
    """Holds the state of one training; :meth:`run` is its table of contents."""

    def __init__(
        self,
        recording: Recording,
        output: Path,
        config: TrainingConfig,
        steps: int | None,
        minutes: float | None,
        holdout_every: int,
        use_depth: bool,
    ) -> None:
        """Keep the settings; the work begins in :meth:`run`."""
        self.recording, self.output, self.config = recording, output, config
        self.steps, self.seconds = steps, None if minutes is None else 60.0 * minutes
        self.holdout_every, self.use_depth = holdout_every, use_depth
        self.on_progress: Callable[[Progress], None] = lambda progress: None
        self.log: Any = None
        self.stage = "reading"
        self.elapsed_before = 0.0
        self.started = time.monotonic()
        self.smooth: dict[str, float] = {}
        self.unread: list[dict[str, Tensor]] = []
        self.last_report = self.last_test = self.last_read = 0.0
        self.last_checkpoint = time.monotonic()

    def observe(self, on_progress: Callable[[Progress], None], log_dir: Path | None) -> None:
        """Report to a callback and to TensorBoard."""
        self.on_progress = on_progress
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.log = SummaryWriter(str(log_dir))

    def run(self, device: str, resume: bool) -> NeuralMap:
        """Read, look, learn geometry, learn descriptors, write."""
        self.prepare(device, resume)
        try:
            self.learn_geometry()
            self.find_surfaces()
            self.learn_descriptors()
            made = self.finish()
            made.save(self.output)
        except KeyboardInterrupt:
            self.save_checkpoint()
            raise
        checkpoint.checkpoint_path(self.output).unlink(missing_ok=True)
        return made

    # -- preparation ---------------------------------------------------------------------------

    def prepare(self, device: str, resume: bool = False) -> None:
        """All that comes before the first step."""
        self.device = resolve_device(device)
        self.read_frames()
        saved = self.load_checkpoint() if resume else None
        self.look_at_the_scene(saved)
        self.build(saved)

    def read_frames(self) -> None:
        """Decode the mapping views and a few frames to test with."""
        infos = self.recording.infos
        # where poses were found for training, held-out frames were left out before that
        every = 0 if self.recording.held_out else self.holdout_every
        chosen = select_frames(infos, self.config.max_views, every)
        self.views: list[View] = []
        self.test_frames: list[Frame] = []
        self.base_camera = infos[chosen.mapping[0]].camera
        self.rig = _rig([infos[i] for i in chosen.mapping])
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
        if self.use_depth:
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
            self._restore(saved)

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
        if self._moments:
            checkpoint.restore_optimizer(self.descriptors.optimizer, self._moments, "descriptors.")
        self._loop(self.descriptor_budget, self.descriptors.step)

    def descriptor_stage(self) -> DescriptorStage:
        """How the field's descriptors and the network learn."""
        assert self.surfaces is not None
        return DescriptorStage(
            self.field, self.network, self.views, self.surfaces, self.survey.spacing.knee,
            self.config,
        )  # fmt: skip

    def _release_images(self) -> None:
        """Give back what only the first stage needs; the second has small images of its own."""
        self.table.pixels = self.table.pixels[:0].clone()
        self.views = [replace(v, image=v.image[:0].copy(), depth=None) for v in self.views]

    _moments: dict[str, Tensor] | None = None

    def _loop(
        self, budget: Budget, step: Callable[[float, torch.Generator], dict[str, Tensor]]
    ) -> None:
        c = self.config
        budget.start()
        with one_torch_thread_a_share(self.device):
            while not budget.over:
                factor = rate_factor(budget.fraction, c.warm_up, c.final_rate)
                self.unread.append(step(factor, self.rng))
                budget.advance()
                self._between_steps(budget)

    def _read_figures(self) -> None:
        """Take the steps' figures over; only here does the host wait for a GPU.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        for name in self.unread[0] if self.unread else ():
            values = torch.stack([figures[name] for figures in self.unread]).tolist()
            if not np.isfinite(values).all():
                raise TrainingError(
                    "the loss is no longer a number: lower the learning rates, or check the poses"
                )
            for value in values:
                self.smooth[name] = 0.97 * self.smooth.get(name, value) + 0.03 * value
        self.unread.clear()

    def _between_steps(self, budget: Budget) -> None:
        now = time.monotonic()
        if not budget.over and now - self.last_read < _READ_SECONDS:
            return
        self._read_figures()
        self.last_read = time.monotonic()
        held_out = None
        if now - self.last_test > _TEST_SECONDS:
            held_out = self.test()
            self.last_test = now
        self.report(held_out, force=held_out is not None or budget.over)
        if now - self.last_checkpoint > _CHECKPOINT_SECONDS:
            self.save_checkpoint()
            self.last_checkpoint = time.monotonic()

    # -- finishing -----------------------------------------------------------------------------

    def finish(self) -> NeuralMap:
        """Put the map together."""
        self.stage = "finishing"
        self.report(held_out=None, force=True)
        round_as_stored(self.field, self.network)  # what follows is made from what a reader sees
        self.network.eval()
        made = NeuralMap(self._header(), self.field, self.network, self._places(), self.patches)
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
        c = self.config
        provenance = {
            "recording": self.recording.name,
            "frames": len(self.recording),
            "pose_source": self.recording.pose_source,
            "holdout_every": self.holdout_every,
            "steps": [self.geometry_budget.done, self.descriptor_budget.done],
            "seed": c.seed,
            "first_weights": self.first_weights,
            "program": f"crossfire {__version__}",
            "training": {k: to_dict(getattr(c, k)) for k in ("geometry", "descriptor")},
        }
        return MapHeader(
            self.recording.world_frame, self.base_camera, self.recording.base_from_camera,
            self.survey.box, self.survey.spacing, c.field, c.render, c.features,
            self._mapping_views(), provenance, image_side=c.image_side,
            origin=(float(self.origin[0]), float(self.origin[1]), float(self.origin[2])),
            base_frame=self.recording.base_frame,
            rig=self.rig,
        )  # fmt: skip

    def _mapping_views(self) -> tuple[MappingView, ...]:
        # who lets poses be learned does not trust the recording's: then what came out counts
        learned = self.geometry.corrects_poses
        views = []
        for view, pose in zip(self.views, self.recorded, strict=True):
            same = learned or pose is view.map_from_camera
            recorded = None if same else pose.shifted(self.origin)
            trained = view.map_from_camera.shifted(self.origin)
            views.append(MappingView(view.name, view.stamp_ns, trained, recorded, view.rig_camera))
        return tuple(views)

    @torch.no_grad()
    def _places(self) -> Places:
        assert self.surfaces is not None and self.descriptors is not None
        rng = np.random.default_rng(self.config.seed)
        points, view = (t.cpu() for t in self.surfaces.clear())
        order = torch.from_numpy(rng.permutation(len(points)))
        rank = _rank_within(view[order])
        chosen = order[rank < _POINTS_A_VIEW].sort().values
        points, view = points[chosen].to(self.device), view[chosen]
        words = self.words(points)
        signatures = [
            signature(self.network(image.to(self.device).float() / 255.0)[0], words)
            for image, _ in self.descriptors.images
        ]
        return Places(words.cpu(), torch.stack(signatures).cpu(), points.cpu(), view)

    def words(self, points: Tensor) -> Tensor:
        """The vocabulary ``[k, d]`` that images are compared by, from surface points ``[n, 3]``."""
        return choose_words(self.field.descriptors(points), _WORDS)

    # -- reports and checkpoints ---------------------------------------------------------------

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
        """Tell the progress bar and TensorBoard, not more often than twice a second."""
        now = time.monotonic()
        if not force and now - self.last_report < 0.5:
            return
        self.last_report = now
        done, total, left = self._count()
        smooth = self.smooth
        self.on_progress(
            Progress(
                self.stage, done, total, smooth.get("loss", float("nan")),
                smooth.get("psnr", float("nan")), held_out, self.elapsed(), left,
            )
        )  # fmt: skip
        if self.log is not None and smooth:
            for name, value in {**smooth, **(held_out or {})}.items():
                self.log.add_scalar(f"{self.stage}/{name}", value, done)

    def _count(self) -> tuple[int, int, float | None]:
        if not hasattr(self, "geometry_budget"):
            return 0, 0, None
        if self.seconds is not None:
            left = max(0.0, self.seconds - self.elapsed())
            return round(self.elapsed()), round(self.seconds), left
        parts = (self.geometry_budget, self.descriptor_budget)
        left = sum(part.seconds_left for part in parts)
        return sum(p.done for p in parts), sum(p.steps or 0 for p in parts), left

    def save_checkpoint(self) -> None:
        """Write everything that is needed to go on."""
        s = self.survey
        tensors = {f"field.{k}": v for k, v in self.field.state_dict().items()}
        tensors |= {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= checkpoint.optimizer_tensors(self.geometry.optimizer, "geometry.")
        if self.descriptors is not None:
            tensors |= checkpoint.optimizer_tensors(self.descriptors.optimizer, "descriptors.")
        if self.surfaces is not None:
            tensors |= {f"surfaces.{k}": v for k, v in vars(self.surfaces).items()}
        columns = (s.sparse.view, s.sparse.pixel, s.sparse.point, s.sparse.sigma_m)
        for name, column in zip(("view", "pixel", "point", "sigma"), columns, strict=True):
            tensors[f"sparse.{name}"] = torch.from_numpy(np.ascontiguousarray(column))
        tensors["rng"] = self.rng.get_state()
        matrices = np.stack([view.map_from_camera.matrix()[:3] for view in self.views])
        tensors["views.poses"] = torch.from_numpy(matrices)
        tensors["poses.twists"] = self.geometry.twists
        tensors["poses.rotations"] = self.table.rotations
        tensors["poses.translations"] = self.table.translations
        header = {
            "fingerprint": self._fingerprint(),
            "survey": {
                "centre": list(s.box.centre),
                "half_size": s.box.half_size,
                "spacing": vars(s.spacing),
            },
            "elapsed": self.elapsed(),
            "budgets": [[b.done, b.spent] for b in (self.geometry_budget, self.descriptor_budget)],
            "descriptor_seconds": self.descriptor_budget.seconds,
        }
        checkpoint.save_checkpoint(checkpoint.checkpoint_path(self.output), header, tensors)

    def load_checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint and make sure that it belongs to this training."""
        path = checkpoint.checkpoint_path(self.output)
        header, tensors = checkpoint.load_checkpoint(path)
        if header.get("fingerprint") != self._fingerprint():
            raise TrainingError(
                f"checkpoint {path} was made with other settings or another recording: "
                "repeat the first command with --resume, or train without it"
            )
        return {"header": header, "tensors": tensors}

    def _restore(self, saved: dict[str, Any]) -> None:
        header, tensors = saved["header"], saved["tensors"]
        part = lambda p: {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)}  # noqa: E731
        self.field.load_state_dict(part("field."))
        self.network.load_state_dict(part("network."))
        checkpoint.restore_optimizer(self.geometry.optimizer, tensors, "geometry.")
        self._moments = tensors
        self.geometry.twists.data = tensors["poses.twists"].to(self.device)
        self.table.rotations = tensors["poses.rotations"].to(self.device)
        self.table.translations = tensors["poses.translations"].to(self.device)
        surfaces = part("surfaces.")
        if surfaces:
            self.surfaces = Surfaces(**{k: v.to(self.device) for k, v in surfaces.items()})
        self.rng.set_state(tensors["rng"])
        budgets = (self.geometry_budget, self.descriptor_budget)
        for budget, (done, spent) in zip(budgets, header["budgets"], strict=True):
            budget.done, budget.spent = done, spent
        self.descriptor_budget.seconds = header["descriptor_seconds"]
        self.elapsed_before = header["elapsed"]
        self.started = time.monotonic()

    def _fingerprint(self) -> str:
        names = [
            [v.name, v.stamp_ns, v.camera.to_json(), v.camera.mask and v.camera.mask.digest]
            for v in self.views
        ]
        kind = self.device.type  # random numbers of a GPU cannot be continued on a CPU
        what = [to_dict(self.config), names, self.steps, self.seconds, self.use_depth, kind]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _rig(infos: Sequence[FrameInfo]) -> tuple[RigCamera, ...]:
    """The cameras that frames of a rig are of, in the order of their first ones."""
    found: dict[str, RigCamera] = {}
    for info in infos:
        if info.mount is not None and info.mount.camera not in found:
            mount = info.mount
            found[mount.camera] = RigCamera(mount.camera, info.camera, mount.base_from_camera)
    return tuple(found.values())


def _rank_within(group: Tensor) -> Tensor:
    """Of each element, how many before it are of the same group, ``[n]``."""
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group)
    first = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group)) - first
    return rank
