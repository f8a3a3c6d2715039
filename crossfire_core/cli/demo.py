"""``crossfire demo``: sample, train, replay, report."""

from __future__ import annotations

import json as json_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfire_core.cli import shell

if TYPE_CHECKING:
    from crossfire_core.evaluation.evaluate import Evaluation


@shell.command("First steps")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where everything goes.")] = Path(
        "demo"
    ),
    minutes: Annotated[float, typer.Option(min=0.05, help="Time to train.")] = 4.0,
    device: shell.Device = "auto",
    json: shell.JsonFile = None,
) -> None:
    """Show the whole way: make a recording, train a map, localize, replay into the ROS node.

    What is in the folder already is used again; Ctrl-C loses nothing. The last step needs
    ROS 2, or its wheels: pip install '.[ros]' ./tools/tf2_msgs in the clone.

    Example: crossfire demo demo --minutes 4
    """
    from crossfire_core.cli import display
    from crossfire_core.sample.recording import write_sample

    with display.counting("1. ray casting the sample recording") as update:
        bags = write_sample(folder, on_frame=update)
    display.out.print(f"1. recording: {bags['mapping']}, {bags['query']}")
    map_file = folder / "room.map"
    _train(bags["mapping"], map_file, minutes, device)
    evaluation = _evaluate(map_file, bags["query"], folder / "report", device)
    replayed = _replay(map_file, bags["query"], folder / "replay")
    _finish(folder, evaluation, replayed)
    shell.emit({"evaluation": evaluation.summary(), "replay": replayed}, json)


def _train(bag: Path, map_file: Path, minutes: float, device: str) -> None:
    from crossfire_core.cli import display
    from crossfire_core.cli.mapping import train_with_bar
    from crossfire_core.config import TrainingConfig
    from crossfire_core.recordings import open_recording
    from crossfire_core.training.checkpoint import checkpoint_path
    from crossfire_core.training.schedule import Course

    if not map_file.exists():
        begun = checkpoint_path(map_file).exists()
        course = Course(minutes=minutes, resume=begun, device=device, seed=0)
        train_with_bar(open_recording(bag), map_file, TrainingConfig(), course)
    display.out.print(f"2. map: {map_file} ({map_file.stat().st_size / 1e6:.1f} MB)")


def _evaluate(map_file: Path, bag: Path, report: Path, device: str) -> Evaluation:
    from crossfire_core.cli import display
    from crossfire_core.cli.evaluation import load_localizer, measure, write_report
    from crossfire_core.evaluation.evaluate import EvaluationOptions
    from crossfire_core.recordings import open_recording

    localizer = load_localizer(map_file, device)
    source = open_recording(bag)
    evaluation = measure(localizer, source, EvaluationOptions("retrieval"), map_file)
    page = write_report(report, evaluation, source, localizer)
    display.out.print(f"3. every query image localized without a starting pose: {page}")
    return evaluation


def _replay(map_file: Path, bag: Path, report: Path) -> dict[str, Any] | None:
    """Play the bag into the real node, where ROS is there; None otherwise."""
    from crossfire_core.cli import display

    if find_spec("rclpy") is None:
        display.out.print("4. the ROS 2 node is left out: no ROS 2 (see crossfire doctor)")
        return None
    outcome = report / "replay.json"
    code = shell.run(
        ["replay", str(map_file), str(bag), "--report", str(report), "--json", str(outcome)]
    )
    if code == shell.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0 or not outcome.exists():
        display.out.print("4. the ROS 2 node could not be tried: see the line above")
        return None
    display.out.print(f"4. the bag replayed into the ROS 2 node: {report}")
    values: dict[str, Any] = json_module.loads(outcome.read_text(encoding="utf-8"))
    return values


def _finish(folder: Path, evaluation: Evaluation, replayed: dict[str, Any] | None) -> None:
    from crossfire_core.cli import display
    from crossfire_core.evaluation.report import centimetres, degrees, headline

    rows = [(label, value) for value, label in headline(evaluation.summary())]
    if replayed:
        rows += [
            ("live: median position error", centimetres(replayed.get("median_translation_m"))),
            ("live: median rotation error", degrees(replayed.get("median_rotation_deg"))),
            ("live: fixes a second", f"{replayed.get('fixes_per_s') or 0.0:.1f}"),
        ]
    display.table(rows, title="demo")
    display.out.print(f"report: {folder / 'report' / 'report.html'}")
    display.out.print(f"pictures: {folder / 'report'}/*.png")
