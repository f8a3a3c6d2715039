"""Training a place of many tiles: each is a training of its own.

The first tile is trained as a room is. The others take over its image network as it is, so that
an image is described once and compared with all, and its vocabulary; only their fields are learnt.
They do not know of each other, so they can be trained side by side, on other machines, and again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from crossfire_core.config import TrainingConfig, to_dict
from crossfire_core.errors import TrainingError
from crossfire_core.features.augmentation import Warp
from crossfire_core.features.network import STRIDE, DenseDescriptors
from crossfire_core.files import write_text
from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses.posed import SelectedRecording, without_holdout
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import NewTile, Place, write_place
from crossfire_core.recordings import Recording
from crossfire_core.training import checkpoint
from crossfire_core.training.descriptor_stage import DescriptorStage
from crossfire_core.training.progress import Progress
from crossfire_core.training.schedule import USUAL, Course
from crossfire_core.training.tiling import Part
from crossfire_core.training.trainer import Trainer

Tell = Callable[[Progress], None]
FIRST_MINUTES, MORE_MINUTES = 15.0, 7.0  # by default: for the first tile, and for each further
_FIRST = 2.0  # the first tile, which trains the network, takes so much of the time of another
_GEOMETRY_SHARE = 0.6  # of the time of a tile that does not train a network


@dataclass(frozen=True)
class TileTask:
    """One tile's training; can be sent to another process.

    Attributes:
        number: of the tile.
        recording: its frames only.
        output: the map file.
        config: all settings.
        course: its length and how it goes.
        teacher: map whose network is taken over; None for the first tile.
    """

    number: int
    recording: Recording
    output: Path
    config: TrainingConfig
    course: Course
    teacher: Path | None

    @property
    def done(self) -> bool:
        """Whether the map is there."""
        return self.output.exists()

    def run(self, tell: Tell) -> None:
        """Train, from the checkpoint where there is one."""
        begun = checkpoint.checkpoint_path(self.output).exists()
        plain = (self.recording, self.output, self.config, replace(self.course, resume=begun))
        if self.teacher is None:
            trainer = Trainer(*plain)
        else:
            trainer = TaughtTrainer(NeuralMap.load(self.teacher, "cpu"), *plain)
        trainer.run(tell)


class Engine(Protocol):
    """Trains tiles that do not need each other.

    Attributes:
        lanes: how many at a time.
    """

    lanes: int

    def __call__(self, tasks: Sequence[TileTask], tell: Tell) -> None:
        """Return when all maps are written; see :func:`train_place` for what is raised."""
        ...


class OneAfterAnother:
    """Trains tiles in this process."""

    lanes = 1

    def __call__(self, tasks: Sequence[TileTask], tell: Tell) -> None:
        """Train; see :class:`Engine`."""
        for task in tasks:
            task.run(joint(tasks, task.number, tell))


def joint(tasks: Sequence[TileTask], number: int, tell: Tell) -> Tell:
    """Make one tile's progress that of all, done one after another."""
    done = sum(task.done for task in tasks if task.number < number)

    def report(progress: Progress) -> None:
        total, tiles = progress.total_steps, len(tasks)
        left = progress.seconds_left
        tell(
            replace(
                progress,
                stage=f"tile {number + 1} of {tasks[-1].number + 1}: {progress.stage}",
                step=done * total + progress.step,
                total_steps=tiles * total,
                seconds_left=None if left is None else left + (tiles - done - 1) * _whole(progress),
            )
        )

    return report


def _whole(progress: Progress) -> float:
    """Seconds that a tile takes, by its progress."""
    left = progress.seconds_left or 0.0
    return progress.seconds + left


def train_place(
    recording: Recording,
    output: Path,
    config: TrainingConfig,
    course: Course = USUAL,
    on_progress: Tell = lambda progress: None,
    *,
    parts: Sequence[Part],
    engine: Engine | None = None,
    known: Place | None = None,
) -> Place:
    """Train a place and write it.

    Args:
        recording: images with poses.
        output: the place's folder; a work folder lies beside it until the place is finished.
        config: all settings.
        course: how it goes; its length is shared among the tiles, by default 15 minutes for the
            first and 7 for each further. TensorBoard's files get a folder a tile.
        on_progress: called about twice a second.
        parts: the tiles' shares of the recording, of :func:`.tiling.parts_of`.
        engine: trains the tiles but the first; by default one after another.
        known: a place that these tiles join, in its frame; its first tile's network is taken over.

    Raises:
        TrainingError: too few frames, a diverging loss, a work folder of another training.
        CrossfireError: the place cannot be written.
    """
    config, course = course.seeded(config), course.lasting(default_minutes(len(parts)))
    work, engine = work_folder(output), engine or OneAfterAnother()
    time_shares = _shares(len(parts), engine.lanes, known is None)
    teacher = work / "tile_000.map" if known is None else known.folder / known.tiles[0].file
    taught = config
    if course.steps is None:  # a step of descriptors costs a fraction where the network rests
        taught = replace(config, geometry_share=max(config.geometry_share, _GEOMETRY_SHARE))
    tasks = []
    for number, chosen in enumerate(_recordings(recording, parts, course.holdout_every)):
        first = known is None and number == 0
        mine = replace(
            course, holdout_every=0,  # they are left out already
            steps=course.steps and max(2, course.steps // len(parts)),
            minutes=course.minutes and time_shares[not first] * course.minutes,
            log_dir=course.log_dir and course.log_dir / f"tile_{number:03d}",
        )  # fmt: skip
        task = TileTask(
            number, chosen, work / f"tile_{number:03d}.map", config if first else taught, mine,
            None if first else teacher,
        )  # fmt: skip
        tasks.append(task)
    _begin(work, _fingerprint(tasks), course.resume)
    if known is None and not tasks[0].done:
        tasks[0].run(joint(tasks, 0, on_progress))
    left = [task for task in tasks if not task.done]
    if left:
        engine(left, on_progress)
    made = [
        NewTile(task.output, part.low, part.high, Pose.identity())
        for task, part in zip(tasks, parts, strict=True)
    ]
    before = known.as_new() if known else []
    place = write_place(output, recording.world_frame if known is None else known.frame_id,
                        [*before, *made])  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return place


def work_folder(output: Path) -> Path:
    """Where the tiles of a place lie while it is being trained."""
    return output.with_name(output.name + ".tiles")


def default_minutes(tiles: int) -> float:
    """How long a place is trained where nobody says."""
    return FIRST_MINUTES + MORE_MINUTES * (tiles - 1)


def _recordings(recording: Recording, parts: Sequence[Part], every: int) -> list[Recording]:
    """Each tile's frames, without those that are held out."""
    held = set(_held_out(recording, every))
    found: list[Recording] = []
    for part in parts:
        chosen = SelectedRecording(recording, [int(i) for i in part.views if i not in held])
        chosen.held_out += len(held)
        found.append(chosen)
    return found


def _held_out(recording: Recording, every: int) -> list[int]:
    """Positions that :func:`.posed.without_holdout` leaves out."""
    if recording.held_out or not every:
        return []
    kept = {info.name for info in without_holdout(recording, every).infos}
    return [i for i, info in enumerate(recording.infos) if info.name not in kept]


def _shares(tiles: int, lanes: int, first: bool) -> tuple[float, float]:
    """Of the time, for one that trains the network and for each other, so many at a time."""
    if not first:
        return 0.0, 1.0 / -(-tiles // lanes)
    rounds = -(-(tiles - 1) // lanes)
    return _FIRST / (_FIRST + rounds), 1.0 / (_FIRST + rounds)


def _fingerprint(tasks: Sequence[TileTask]) -> str:
    """Tells the training of a place from another one."""
    what = [
        [to_dict(t.config), [i.name for i in t.recording.infos], c.steps, c.minutes, c.use_depth]
        for t in tasks
        for c in [t.course]
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _begin(work: Path, fingerprint: str, resume: bool) -> None:
    """Empty the work folder, or see that it belongs to this training."""
    plan = work / "plan"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_text(plan, fingerprint)
    elif not plan.is_file():
        raise TrainingError(f"there is no training to go on with in {work}: train without --resume")
    elif plan.read_text(encoding="utf-8") != fingerprint:
        raise TrainingError(
            f"{work} is of a training with other settings or another recording: "
            "repeat the first command with --resume, or train without it"
        )


class TaughtStage(DescriptorStage):
    """Pulls the field's descriptors towards those of a network that stays as it is."""

    def __init__(self, *rest: Any) -> None:
        """Describe all views; see :class:`.descriptor_stage.DescriptorStage`."""
        super().__init__(*rest)
        self.freedom = (0.0, 0.0)  # windows are cut out of descriptors
        self.parameters = [p for p in self.parameters if p.requires_grad]
        with torch.no_grad():
            self.described = [
                self.network(image.float() / 255.0)[0].half() for image, _ in self.images
            ]

    def _described(
        self, view: int, warp: Warp, pixels: Tensor, host: torch.Generator, rng: torch.Generator
    ) -> Tensor:
        """What the network said of the whole image, before."""
        dense = DenseDescriptors(self.described[view].float(), (1.0 / STRIDE, 1.0 / STRIDE))
        return dense.sample(warp.undo(pixels))


class TaughtTrainer(Trainer):
    """A training whose image network is another tile's."""

    descriptor_kind = TaughtStage

    def __init__(self, teacher: NeuralMap, *rest: Any) -> None:
        """Take the network over; the other arguments are :class:`.trainer.Trainer`'s."""
        super().__init__(*rest)
        self.teacher = teacher

    def build(self, saved: dict[str, Any] | None) -> None:
        """Make the field; the network is the teacher's, as it is."""
        super().build(saved)
        self.network.load_state_dict(self.teacher.network.state_dict())
        self.network.requires_grad_(False).eval()
        self.first_weights = "another tile"

    def words(self, points: Tensor) -> Tensor:
        """The teacher's vocabulary."""
        return self.teacher.places.words.to(points.device)
