"""``crossfire check`` and ``crossfire convert``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from crossfire_core.cli import shell
from crossfire_core.recordings.options import RecordingOptions

_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "good": "[green]good[/]"}


@shell.command("Recordings")
def check(
    recording: shell.RecordingPath,
    options: RecordingOptions,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with pictures.")] = None,
    json: shell.JsonFile = None,
) -> None:
    """Say whether a recording is good enough for a map, before anything is trained.

    Topics, gaps, blur, exposure, motion, transforms, calibration. Exit code 1 if no map can be
    made of it.

    Example: crossfire check room/mapping_bag --report check
    """
    from rich.markup import escape

    from crossfire_core.cli import display
    from crossfire_core.recordings.check import check_recording

    with display.counting("checking") as update:
        found = check_recording(recording, options, update)
    shell.emit(found.to_json(), json)
    if json is None:
        rows = [(_MARKS.get(f.level, f.level), escape(f.text)) for f in found.findings]
        display.table(rows, title=found.name)
    display.err.print(found.verdict, markup=False)
    if report:
        with display.working("drawing"):
            page = found.write(report)
        display.err.print(f"report: {page}")
    if not found.usable:
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)


@shell.command("Recordings")
def convert(
    recording: shell.RecordingPath,
    options: RecordingOptions,
    output: shell.Output,
    to: Annotated[
        str,
        shell.choice(
            ("bag", "transforms"), help="bag, or transforms for a transforms.json folder."
        ),
    ] = "bag",
    storage: Annotated[
        str, shell.choice(("mcap", "sqlite3"), help="Of a bag: mcap or sqlite3.")
    ] = "mcap",
    image_format: Annotated[
        str, shell.choice(("jpeg", "png", "raw"), help="jpeg, png or raw.")
    ] = "jpeg",
    rate_hz: Annotated[
        float, typer.Option(min=0.01, help="Images a second where the recording has no time.")
    ] = 10.0,
    depth: Annotated[bool, typer.Option("--depth", help="Convert depth images as well.")] = False,
    json: shell.JsonFile = None,
) -> None:
    """Write a recording as a rosbag2, to replay it to a robot, or as transforms.json.

    Example: crossfire convert fox -o fox_bag
    """
    from crossfire_core.cli import display
    from crossfire_core.errors import ConfigError
    from crossfire_core.recordings import open_recording
    from crossfire_core.recordings.convert import ConvertOptions
    from crossfire_core.recordings.convert import convert as write

    if to not in ("bag", "transforms"):
        raise ConfigError(f"--to {to} is unknown: choose bag or transforms")
    source = open_recording(
        recording, dataclasses.replace(options, require_poses=False, use_depth=depth)
    )
    settings = shell.configured(
        ConvertOptions(), None, None, storage=storage, images=image_format, rate_hz=rate_hz
    )
    with display.counting("writing") as update:
        done = write(source, output, to, settings, update)  # type: ignore[arg-type]
    shell.emit(dataclasses.asdict(done), json)
    if source.masks and to == "bag":
        display.err.print("warning: a bag holds no masks: give --mask again when you read it")
    if json is None:
        left = f", {done.left_out} left out without a pose" if done.left_out else ""
        display.out.print(f"{output}: {done.frames} images, {done.posed} with a pose{left}")
