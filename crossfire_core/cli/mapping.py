"""``crossfire train``, ``extend``, ``info`` and ``render``."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfire_core.cli import shell
from crossfire_core.recordings.options import RecordingOptions

if TYPE_CHECKING:
    from crossfire_core.config import TrainingConfig
    from crossfire_core.geometry import Pose
    from crossfire_core.localization.place import MapLocalizer
    from crossfire_core.maps.header import MapHeader
    from crossfire_core.maps.neural_map import NeuralMap
    from crossfire_core.maps.place import Place
    from crossfire_core.recordings import Recording
    from crossfire_core.training.schedule import Course


Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside the map.")]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Steps to train instead of minutes, of all tiles together.",
        rich_help_panel=shell.RUNNING,
    ),
]
_POSES, _LARGE = "Poses", "Large places"


@shell.command("Make a map")
def train(
    recording: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDING...",
            help="A rosbag2 or a folder of images; several of one place become one map.",
        ),
    ],
    options: RecordingOptions,
    output: shell.Output,
    run: shell.Running,
    poses: Annotated[
        str,
        shell.choice(
            ("auto", "given", "sfm", "odometry"),
            metavar="SOURCE",
            help="Where the images' poses come from: given (the recording's own), sfm (structure "
            "from motion), odometry, or auto for the best that there is.",
        ),
    ] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Time to train; the schedule fits itself to it. By default 15, and 7 more for "
            "each further tile; tiles share it.",
        ),
    ] = None,
    holdout_every: Annotated[
        int, typer.Option(help="Keep every n-th frame out of training, for evaluation.")
    ] = 0,
    depth: Annotated[
        bool, typer.Option("--depth", help="Learn from the recording's depth images too.")
    ] = False,
    resume: Resume = False,
    align_recordings: Annotated[
        bool,
        typer.Option(
            "--align-recordings",
            help="Bring several recordings into the frame of the first.",
            rich_help_panel=_POSES,
        ),
    ] = False,
    refine_poses: Annotated[
        bool,
        typer.Option(
            "--refine-poses",
            help="Correct given poses that are off by centimetres.",
            rich_help_panel=_POSES,
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Train so many tiles at a time.", rich_help_panel=_LARGE),
    ] = 1,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Train the tiles on a Ray cluster, or `local` for one of this machine; needs the "
            "extra [cluster].",
            rich_help_panel=_LARGE,
        ),
    ] = "",
    steps: Steps = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard.", rich_help_panel=shell.RUNNING)
    ] = None,
) -> None:
    """Train a neural map from a recording.

    Poses are taken from the recording, or found by structure from motion (--poses sfm, which
    needs the extra [sfm]), or are those of the odometry, corrected. Ctrl-C keeps
    what was done; the same command with --resume goes on from it.

    A place that is larger than a few rooms becomes several tiles, and its map a folder of them;
    every command takes it as it takes a file.

    Example: crossfire train room/mapping_bag -o room.map --minutes 15
    """
    from crossfire_core.cli import display
    from crossfire_core.config import TrainingConfig
    from crossfire_core.mapping_poses import sources
    from crossfire_core.mapping_poses.workspace import workspace_path
    from crossfire_core.maps.place import map_bytes
    from crossfire_core.training.schedule import Course

    settings = shell.configured(TrainingConfig(), run.config, run.changes, backend=run.backend)
    workspace = workspace_path(output)
    with display.stages() as update, keeping(workspace):
        source = sources.open_for_mapping(
            recording, dataclasses.replace(options, use_depth=depth), poses, settings.sfm,
            workspace, align=align_recordings, refine=refine_poses, holdout_every=holdout_every,
            seed=settings.seed,
            tell=update,
        )  # fmt: skip
    tell_source(source)
    course = Course(
        steps, minutes, holdout_every, use_depth=depth,
        resume=resume and can_resume(output, workspace), device=run.device, log_dir=log_dir,
    )  # fmt: skip
    train = trainer_of(source, output, workers, ray, course)
    made = train_with_bar(source, output, settings, course, train)
    shutil.rmtree(workspace, ignore_errors=True)
    tell_moved(made, can_refine=len(recording) == 1)
    merged = tell_merged(source)
    display.out.print(f"map: {output} ({map_bytes(output) / 1e6:.1f} MB)")
    tell_tiles(made)
    shell.emit({"map": str(output), **made.summary(), "warnings": merged}, run.json)


def trainer_of(
    source: Recording,
    map_file: Path,
    workers: int,
    ray: str,
    course: Course,
) -> Callable[..., NeuralMap | Place]:
    """What trains a recording: one map, or the tiles that it needs; says so.

    Raises:
        ConfigError: a room's map would go where a folder is.
        MissingDependencyError: Ray is not installed.
        TrainingError: there is no Ray cluster at the address.
    """
    from crossfire_core.cli import display
    from crossfire_core.errors import ConfigError
    from crossfire_core.training.engines import Cluster, Workers
    from crossfire_core.training.tiles import default_minutes, train_place
    from crossfire_core.training.tiling import parts_of
    from crossfire_core.training.trainer import train_map

    with display.working("looking how large the place is"):
        parts = parts_of(source)
    if len(parts) == 1:
        if map_file.is_dir():
            raise ConfigError(f"{map_file} is a folder, and this map is one file: name another")
        return train_map
    engine = Cluster(ray) if ray else Workers(workers) if workers > 1 else None
    course = course.lasting(default_minutes(len(parts)))
    length = f"{course.steps} steps" if course.steps else f"{course.minutes:g} minutes"
    longest = max(max(part.high - part.low) for part in parts)
    display.err.print(f"  {len(parts)} tiles, up to {longest:.1f} m long; {length} for all of them")
    return partial(train_place, parts=parts, engine=engine)


def tell_tiles(made: NeuralMap | Place) -> None:
    """Say what the tiles of a place resolve."""
    from crossfire_core.cli import display
    from crossfire_core.maps.place import Place

    if isinstance(made, Place):
        cells = [100.0 * header.cell_m for header in made.headers]
        display.out.print(f"{len(cells)} tiles, {min(cells):.1f} to {max(cells):.1f} cm a cell")


@contextmanager
def keeping(workspace: Path) -> Iterator[None]:
    """While structure from motion works, Ctrl-C says what it leaves behind."""
    from crossfire_core.cli import display

    try:
        yield
    except KeyboardInterrupt:
        if workspace.exists():
            display.err.print(f"stopped: the same command goes on from {workspace}")
        raise


def can_resume(map_file: Path, workspace: Path) -> bool:
    """Whether training itself was begun; a stop before that left a workspace only."""
    from crossfire_core.training.checkpoint import checkpoint_path
    from crossfire_core.training.tiles import work_folder

    begun = checkpoint_path(map_file).exists() or work_folder(map_file).exists()
    return begun or not workspace.exists()


@shell.command("Make a map")
def extend(
    map_file: shell.MapFile,
    recording: shell.RecordingPath,
    options: RecordingOptions,
    run: shell.Running,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the extended map goes; without it, over the old one."
        ),
    ] = None,
    poses: Annotated[
        str,
        shell.choice(
            ("map", "given"),
            metavar="SOURCE",
            help="map: localize the images in the map and go on by odometry; given: the "
            "recording's poses are in the map's frame.",
        ),
    ] = "map",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time to train, 15 by default.")
    ] = None,
    holdout_every: Annotated[
        int, typer.Option(help="Keep every n-th new frame out of training, for evaluation.")
    ] = 0,
    resume: Resume = False,
    steps: Steps = None,
) -> None:
    """Continue a map with a new recording of the same place or of what lies beside it.

    The old place is rehearsed from the map itself, its recording is not needed. Where the new
    recording goes further than one map can hold, what is new becomes tiles of their own, and what
    was known stays as it is; a map of one file then becomes a folder.

    Example: crossfire extend room.map room/second_bag -o room2.map --minutes 10
    """
    from crossfire_core.cli import display
    from crossfire_core.config import TrainingConfig
    from crossfire_core.localization.place import open_localizer
    from crossfire_core.maps.place import map_bytes
    from crossfire_core.training.schedule import Course

    settings = shell.configured(TrainingConfig(), run.config, run.changes, backend=run.backend)
    old = open_localizer(map_file, None, run.device, settings.backend)
    source = _placed(
        old, map_file.name, recording, options, poses, settings.sfm.keyframes, holdout_every
    )
    tell_source(source)
    target = output or map_file
    course = Course(steps, minutes, holdout_every, resume=resume, device=run.device)
    made = train_with_bar(source, target, settings, course, extender_of(old, map_file, source))
    display.out.print(f"map: {target} ({map_bytes(target) / 1e6:.1f} MB)")
    tell_tiles(made)
    shell.emit({"map": str(target), **made.summary()}, run.json)


def extender_of(
    old: MapLocalizer, map_file: Path, source: Recording
) -> Callable[..., NeuralMap | Place]:
    """What continues a map with a recording in its frame: the map itself, or further tiles.

    Raises:
        TrainingError: a place knows all of the recording already.
    """
    from crossfire_core.cli import display
    from crossfire_core.maps.neural_map import NeuralMap
    from crossfire_core.training.extension import extend_map, extend_place, new_parts

    parts = new_parts(old.neural_map, source)
    if isinstance(old.neural_map, NeuralMap) and not parts:
        return partial(extend_map, old.neural_map)
    display.err.print(f"  {len(parts)} further tiles")
    return partial(extend_place, map_file, parts=parts)


def _placed(
    old: MapLocalizer,
    name: str,
    path: Path,
    options: RecordingOptions,
    poses: str,
    keyframes: int,
    holdout_every: int,
) -> Recording:
    """A recording with poses in a map's frame.

    Raises:
        ConfigError: an unknown source of poses.
        TrainingError: the map does not recognise the place.
    """
    from crossfire_core.cli import display
    from crossfire_core.errors import ConfigError
    from crossfire_core.mapping_poses.from_map import poses_from_map
    from crossfire_core.mapping_poses.posed import without_holdout
    from crossfire_core.recordings import open_recording
    from crossfire_core.recordings.options import NO_POSES

    if poses == "given":
        return open_recording(path, options)
    if poses != "map":
        raise ConfigError(f"--poses is {poses!r}, choose from map, given")
    unposed = dataclasses.replace(options, pose_topic=NO_POSES, require_poses=False)
    source = without_holdout(open_recording(path, unposed), holdout_every)
    with display.stages() as update:
        return poses_from_map(source, old, keyframes, name, update)


def train_with_bar(
    source: Recording,
    map_file: Path,
    config: TrainingConfig,
    course: Course,
    train: Callable[..., NeuralMap | Place] | None = None,
) -> NeuralMap | Place:
    """Train with a progress bar; Ctrl-C says how to go on.

    Args:
        source: the recording.
        map_file: where the map goes.
        config: all settings.
        course: how the training goes.
        train: by default :func:`~crossfire_core.training.trainer.train_map`.
    """
    from crossfire_core.cli import display
    from crossfire_core.training.checkpoint import checkpoint_path
    from crossfire_core.training.tiles import work_folder
    from crossfire_core.training.trainer import train_map

    try:
        with display.training() as update:
            return (train or train_map)(source, map_file, config, course, update)
    except KeyboardInterrupt:
        if checkpoint_path(map_file).exists() or work_folder(map_file).exists():
            how = "the same command with --resume goes on from the checkpoint"
        else:
            how = "the first step was not reached, the same command starts training again"
        display.err.print(f"stopped: {how}")
        raise


def tell_source(source: Any) -> None:
    """Say what was found in a recording, and what was left out."""
    from crossfire_core.cli import display

    poses = getattr(source, "pose_source", "")
    display.err.print(
        f"{source.name}: {len(source)} frames" + (f", poses {poses}" if poses else "")
    )
    for note in getattr(source, "notes", ()):
        display.err.print(f"  {note}", style="dim")


def tell_merged(source: Recording) -> list[str]:
    """Say where poses lay two places on one another; the map is made all the same.

    Returns:
        What was said.
    """
    from crossfire_core.cli import display
    from crossfire_core.errors import CrossfireError
    from crossfire_core.recordings.checks import merges, places

    try:
        findings = places.judge_places(source)
        findings = findings or merges.judge_merges(merges.find_merges(source, lambda *_: None))
    except CrossfireError:  # an image that training did not need
        return []
    for finding in findings:
        display.err.print(f"warning: {finding.text}", style="yellow")
    return [finding.text for finding in findings]


# Poses that the images move by more than this are not just a little noisy.
_PLAINLY_WRONG = (0.01, 0.5)  # metres, degrees


def tell_moved(made: NeuralMap | Place, can_refine: bool) -> None:
    """Say where the images do not believe the recording's poses.

    Args:
        made: the finished map.
        can_refine: whether training can be told to believe the images instead.
    """
    from crossfire_core.cli import display

    metres, radians = made.header.moved
    degrees = math.degrees(radians)
    if metres > _PLAINLY_WRONG[0] or degrees > _PLAINLY_WRONG[1]:
        display.err.print(
            f"the images say that the recording's poses are off by {100 * metres:.1f} cm and "
            f"{degrees:.1f} degrees (median). Answers are in the recording's frame all the same, "
            "errors included: check the camera's place on the robot and the clocks"
            + (", or train with --refine-poses to believe the images" if can_refine else ""),
            style="yellow",
        )


@shell.command("Make a map")
def info(map_file: shell.MapFile, json: shell.JsonFile = None) -> None:
    """Say what a map file holds: where it is from, its size, camera and settings.

    Example: crossfire info room.map
    """
    from crossfire_core.cli import display
    from crossfire_core.maps.place import open_map

    summary = open_map(map_file).summary()
    shell.emit(summary, json)
    if json is None:
        display.table(list(_flat(summary)), title=str(map_file))


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _short(value)))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(v) for v in value)
    return str(value)


@shell.command("Make a map")
def render(
    map_file: shell.MapFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write, PNG.")],
    view: Annotated[
        int, typer.Option(min=0, help="Number of the mapping view to render from.")
    ] = 0,
    pose: Annotated[
        str,
        typer.Option(metavar="'X Y Z QX QY QZ QW'", help="Camera pose in the map instead."),
    ] = "",
    width: Annotated[int, typer.Option(min=8, max=4096, help="Pixels across.")] = 640,
    depth_output: Annotated[
        Path | None, typer.Option(help="Also write the depth: 16-bit PNG in millimetres.")
    ] = None,
    device: shell.Device = "auto",
    backend: shell.Backend = None,
) -> None:
    """Render a picture of the map, to see what it has learnt.

    Example: crossfire render room.map -o view.png --view 10 --depth-output depth.png
    """
    from crossfire_core.cli import display
    from crossfire_core.cli.evaluation import load_localizer, parse_pose
    from crossfire_core.files import write_bytes
    from crossfire_core.reports.pictures import (
        encode_depth,
        encode_png,
        resized_camera,
        to_bytes,
    )

    localizer = load_localizer(map_file, device, backend)
    header = localizer.neural_map.header
    at = parse_pose(pose) if pose else view_pose(header, view)
    camera = resized_camera(header.camera, width)
    with display.working("rendering"):
        rendering = localizer.renderer.render(camera, at)
    write_bytes(output, encode_png(to_bytes(rendering.colour)))
    if depth_output:
        write_bytes(depth_output, encode_depth(rendering.z_depth))
    display.out.print(f"picture: {output} ({camera.width}x{camera.height})")


def view_pose(header: MapHeader, number: int) -> Pose:
    """Pose of a mapping view by its number.

    Raises:
        ConfigError: there are not so many.
    """
    from crossfire_core.errors import ConfigError

    views = header.views
    if number >= len(views):
        raise ConfigError(f"the map has mapping views 0 to {len(views) - 1}, not {number}")
    return views[number].map_from_camera
