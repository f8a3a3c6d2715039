"""``crossfire evaluate`` and ``crossfire localize``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfire_core.cli import shell
from crossfire_core.errors import ConfigError
from crossfire_core.recordings.options import RecordingOptions

if TYPE_CHECKING:
    from crossfire_core.evaluation.evaluate import Evaluation, EvaluationOptions
    from crossfire_core.geometry import Camera, Pose
    from crossfire_core.localization.estimate import PoseEstimate
    from crossfire_core.localization.place import MapLocalizer
    from crossfire_core.recordings.lazy import Recording
    from crossfire_core.recordings.masks import Masks


@shell.command("Use a map")
def evaluate(
    map_file: shell.MapFile,
    recording: shell.RecordingPath,
    options: RecordingOptions,
    run: shell.Running,
    start_from: Annotated[
        str,
        shell.choice(
            ("retrieval", "previous", "odometry"),
            help="Where each search starts: retrieval (nothing known), previous (last pose) "
            "or odometry (last pose moved by the recorded odometry).",
        ),
    ] = "retrieval",
    holdout_every: Annotated[
        int, typer.Option(help="Only the frames that training with this number kept out.")
    ] = 0,
    align: Annotated[
        str,
        shell.choice(
            ("none", "rigid", "similarity"),
            help="none, rigid or similarity: bring the poses onto the truth first, "
            "for a map whose frame is its own.",
        ),
    ] = "none",
    report: Annotated[
        Path | None, typer.Option(help="Folder for the HTML report and its pictures.")
    ] = None,
) -> None:
    """Localize the images of a recording and say how far off the poses are.

    An image that is not localized counts as a miss; one without a recorded pose is passed over.
    Exit code 1 if none was localized.

    Example: crossfire evaluate room.map room/query_bag --start-from odometry --report report
    """
    from crossfire_core.cli import display
    from crossfire_core.evaluation.evaluate import EvaluationOptions
    from crossfire_core.recordings import open_recording

    chosen = EvaluationOptions(start_from, holdout_every, align)  # type: ignore[arg-type]
    localizer = load_localizer(map_file, run.device, run.backend, run.config, run.changes)
    source = open_recording(recording, options)
    if source.poses_drift:
        display.err.print(
            f"warning: {source.name} has no other poses than {source.pose_source}: errors below "
            "are also those of the odometry",
            style="yellow",
        )
    evaluation = measure(localizer, source, chosen, map_file)
    known = evaluation.context["trained_on"]
    origin = str(localizer.neural_map.header.provenance.get("recording", ""))
    if known and source.name in origin:  # frames of other recordings may have the same names
        display.out.print(
            f"{known} of these {len(evaluation.errors)} frames are what the map was trained on: "
            "errors on others are larger (train with --holdout-every and evaluate with the same)"
        )
    print_summary(evaluation)
    shell.emit(evaluation.to_json(), run.json)
    if report:
        page = write_report(report, evaluation, source, localizer)
        display.out.print(f"report: {page}")
    if not any(error.localized for error in evaluation.errors):
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)


def load_localizer(
    map_file: Path,
    device: str,
    backend: str | None = None,
    config: Path | None = None,
    changes: list[str] | None = None,
) -> MapLocalizer:
    """Open a map for localization.

    Raises:
        MapFormatError: no usable map.
        ConfigError: a setting is wrong.
        BackendError: the device or backend does not run here.
    """
    from crossfire_core.cli import display
    from crossfire_core.config import LocalizationConfig

    settings = shell.configured(LocalizationConfig(), config, changes)
    with display.working("opening the map"):
        from crossfire_core.localization.place import open_localizer

        return open_localizer(map_file, settings, device, backend or "auto")


def measure(
    localizer: MapLocalizer, source: Recording, options: EvaluationOptions, map_file: Path
) -> Evaluation:
    """Evaluate with a progress bar."""
    from crossfire_core.cli import display
    from crossfire_core.evaluation.evaluate import evaluate as run
    from crossfire_core.evaluation.report import describe
    from crossfire_core.maps.place import map_bytes

    context = {"map": map_file.name, "localization": dataclasses.asdict(localizer.config)}
    with display.working("warming up"):
        localizer.warm_up()
    with display.counting("localizing") as update:
        return run(
            localizer,
            source,
            options,
            map_bytes=map_bytes(map_file),
            trained=localizer.neural_map.header.trained_on,
            context=context,
            on_frame=lambda done, total, error: update(done, total, describe(error)),
        )


def print_summary(evaluation: Evaluation) -> None:
    """The figures of an evaluation as a table on stdout."""
    from crossfire_core.cli import display
    from crossfire_core.evaluation.report import headline, latency_rows, recall_rows

    summary = evaluation.summary()
    rows = [(label, value) for value, label in headline(summary)]
    rows += [(f"within {name}", share) for name, share in recall_rows(summary)]
    rows += [(f"time, {stage}", f"{ms} ms") for stage, ms in latency_rows(summary)]
    display.table(rows, title=f"{evaluation.context['recording']}: {summary['frames']} frames")
    display.out.print("Medians are over the localized frames; recall is over all.", style="dim")


def write_report(
    folder: Path, evaluation: Evaluation, source: Recording, localizer: MapLocalizer
) -> Path:
    """Write the report of an evaluation, with the map drawn in it; returns the page."""
    from crossfire_core.cli import display
    from crossfire_core.evaluation import report

    header = localizer.neural_map.header
    poses = [view.map_from_camera for view in header.views]
    view = report.MapView(localizer.renderer, header.camera, poses)
    with display.working("report") as say:
        return report.write_report(folder, evaluation, source, localizer, view, say)


@shell.command("Use a map")
def localize(
    map_file: shell.MapFile,
    images: Annotated[list[Path], typer.Argument(help="Image files of the mapping camera.")],
    run: shell.Running,
    prior: Annotated[
        str,
        typer.Option(
            metavar="'X Y Z QX QY QZ QW'",
            help="Pose of the camera in the map to start from; by default everywhere is searched.",
        ),
    ] = "",
    calibration: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Calibration of the images' camera, where it is not the one that made the map: "
            "YAML of ROS, OpenCV or kalibr, or COLMAP's cameras.txt.",
        ),
    ] = "",
    rectified: Annotated[
        bool | None,
        typer.Option(
            "--rectified/--no-rectified",
            help="Whether the images are rectified, so that P of the calibration holds instead of "
            "K and D.",
        ),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Image whose black pixels are left out, or a folder of such images named like "
            "the images.",
        ),
    ] = "",
    cameras: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="The images are of these cameras of the rig that mapped, taken at one time: one "
            "pose of the robot.",
        ),
    ] = "",
) -> None:
    """Say where single images were taken.

    They must come from the camera that made the map, at any size of the same shape, or from one
    whose calibration is given. An image that cannot be read or is not found has its reason in the
    list; exit code 1 if none was found.

    Example: crossfire localize room.map photo.jpg --json -
    """
    from crossfire_core.recordings.calibration_file import read_calibration
    from crossfire_core.recordings.masks import Masks

    start = parse_pose(prior) if prior else None
    masks = Masks(Path(mask)) if mask else None
    localizer = load_localizer(map_file, run.device, run.backend, run.config, run.changes)
    if cameras:
        _localize_together(localizer, images, cameras, start, run.json)
        return
    if rectified is not None and not calibration:
        raise ConfigError("--rectified chooses between the two cameras of a --calibration: give it")
    mapping = localizer.neural_map.header.camera

    def camera_of(size: tuple[int, int]) -> Camera:
        if not calibration:
            return mapping
        return read_calibration(calibration, size, rectified=rectified).camera

    estimates = {
        str(path): localize_file(localizer, path, start, camera_of, masks) for path in images
    }
    outcomes = {name: estimate_json(estimate) for name, estimate in estimates.items()}
    shell.emit(outcomes, run.json)
    if run.json is None:
        _print_poses(outcomes)
    if not any(estimate.ok for estimate in estimates.values()):
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)


def _localize_together(
    localizer: MapLocalizer, images: list[Path], cameras: str, start: Pose | None, json: Path | None
) -> None:
    from crossfire_core.cli import display
    from crossfire_core.cli.together import localize_together

    found = localize_together(localizer, images, shell.names(cameras), start)
    shell.emit(found, json)
    if json is None:
        pose = found["map_from_base"]
        for name, why in found["left_out"].items():
            if why:
                display.out.print(f"{name}: left out, {why}")
        if found["ok"]:
            numbers = (*pose["translation"], *pose["quaternion_xyzw"])
            display.out.print("robot: " + " ".join(f"{v:.4f}" for v in numbers))
        else:
            display.out.print(f"robot: not localized, {found['reason']}")
    if not found["ok"]:
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)


def localize_file(
    localizer: MapLocalizer,
    path: Path,
    prior: Pose | None,
    camera_of: Callable[[tuple[int, int]], Camera],
    masks: Masks | None,
) -> PoseEstimate:
    """Localize an image file; what is wrong with the file is the reason why it is not found.

    Args:
        localizer: of the map.
        path: the image.
        prior: ``map_from_camera`` to start from, or None.
        camera_of: gives the image's calibration, of any size, for its (width, height).
        masks: of the images as they are after turning, or None.
    """
    from crossfire_core.errors import CrossfireError
    from crossfire_core.localization.estimate import PoseEstimate
    from crossfire_core.recordings.image_file import read_fitted

    try:
        image, camera = read_fitted(path, camera_of)
        if masks is not None:
            camera = masks.masked(camera, path.name)
    except CrossfireError as error:
        return PoseEstimate(False, str(error))
    return localizer.localize(image, camera, prior)


def _print_poses(outcomes: dict[str, dict[str, Any]]) -> None:
    from crossfire_core.cli import display

    for name, found in outcomes.items():
        if not found["ok"]:
            display.out.print(f"{name}: not localized, {found['reason']}")
            continue
        pose = found["map_from_camera"]
        numbers = " ".join(f"{v:.4f}" for v in (*pose["translation"], *pose["quaternion_xyzw"]))
        display.out.print(f"{name}: {numbers}")


def estimate_json(estimate: PoseEstimate) -> dict[str, Any]:
    """An outcome as plain types."""
    from crossfire_core.cli.together import outcome_json

    return {
        **outcome_json(estimate, "map_from_camera"),
        "inliers": estimate.inliers,
        "matches": estimate.matches,
        "timings_ms": estimate.timings_ms,
    }


def parse_pose(text: str) -> Any:
    """A pose written as ``x y z qx qy qz qw``, separated by spaces or commas.

    Raises:
        ConfigError: not seven numbers, or no rotation.
    """
    from crossfire_core.geometry import Pose

    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
        if len(numbers) != 7:
            raise ValueError(f"{len(numbers)} numbers")
        return Pose.from_quaternion(numbers[3:], numbers[:3])
    except ValueError as error:
        raise ConfigError(f"a pose is 'x y z qx qy qz qw', got {text!r}: {error}") from error
