"""``crossfire view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfire_core.cli import shell
from crossfire_core.recordings.options import RecordingOptions


@shell.command("Use a map")
def view(
    map_file: shell.MapFile,
    options: RecordingOptions,
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="[RECORDING]", help="Localized image by image and shown."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write an .rrd file instead of opening a window."),
    ] = None,
    device: shell.Device = "auto",
    backend: shell.Backend = None,
) -> None:
    """Show a map in Rerun: its surface, the mapping cameras, live matches and poses.

    Example: crossfire view room.map room/query_bag -o room.rrd
    """
    from crossfire_core.cli import display
    from crossfire_core.cli.evaluation import load_localizer
    from crossfire_core.recordings import open_recording
    from crossfire_core.viewer import Viewer, show_recording

    localizer = load_localizer(map_file, device, backend)
    source = open_recording(recording, options) if recording else None
    viewer = Viewer(output)
    header = localizer.neural_map.header
    with display.working("rendering the map"):
        poses = [each.map_from_camera for each in header.views]
        points = viewer.show_map(localizer.renderer, header.camera, poses)
    display.out.print(f"{points} points, {len(poses)} mapping cameras")
    found = 0
    if source is not None:
        with display.counting("localizing") as update:
            for done, estimate in enumerate(show_recording(viewer, localizer, source), 1):
                found += estimate.ok
                update(done, len(source), estimate.reason)
        display.out.print(f"{found} of {len(source)} images localized")
    viewer.close()
    if output:
        display.out.print(f"open it with: rerun {output}")
    if source is not None and not found:
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)
