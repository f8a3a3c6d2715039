"""``crossfire join``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossfire_core.cli import shell
from crossfire_core.recordings.options import RecordingOptions

if TYPE_CHECKING:
    from crossfire_core.geometry import Pose


@shell.command("Make a map")
def join(
    map_file: shell.MapFile,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The map that is put beside it.")],
    options: RecordingOptions,
    output: shell.Output,
    transform: Annotated[
        str,
        typer.Option(
            metavar="'X Y Z QX QY QZ QW'", help="Pose of the other map's frame in the first's."
        ),
    ] = "",
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="RECORDING",
            help="Or find it: some of these images show what both maps know, such as the "
            "doorway between them.",
        ),
    ] = None,
    device: shell.Device = "auto",
    backend: shell.Backend = None,
    json: shell.JsonFile = None,
) -> None:
    """Put two maps, or places, together: floors, buildings, rooms mapped on different days.

    Answers are in the frame of the first. Nothing is trained, and both keep what they know.

    Example: crossfire join ground.map first.map -o house.map --transform "0 0 3.2 0 0 0 1"

    Example: crossfire join hall.map office.map -o house.map --images doorway_bag
    """
    from crossfire_core.cli import display
    from crossfire_core.cli.evaluation import parse_pose
    from crossfire_core.errors import ConfigError
    from crossfire_core.maps.place import open_map, tile_of, write_place

    if bool(transform) == (images is not None):
        raise ConfigError("say how the maps lie to each other: --transform or --images")
    if images is None:
        move = parse_pose(transform)
    else:
        move = _found(map_file, other, images, options, device, backend or "auto")
    frame_id = open_map(map_file, device, backend or "auto").header.frame_id
    with display.working("joining"):
        made = write_place(output, frame_id, [*tile_of(map_file), *tile_of(other, move)])
    display.out.print(f"map: {output} ({made.file_bytes / 1e6:.1f} MB), {len(made.tiles)} tiles")
    shell.emit({"map": str(output), "first_from_other": move.to_json(), **made.summary()}, json)


def _found(
    first: Path, other: Path, images: Path, options: RecordingOptions, device: str, backend: str
) -> Pose:
    from dataclasses import replace

    from crossfire_core.cli import display
    from crossfire_core.localization.place import open_localizer
    from crossfire_core.mapping_poses.joining import first_from_second
    from crossfire_core.recordings import open_recording
    from crossfire_core.recordings.options import NO_POSES

    recording = open_recording(images, replace(options, pose_topic=NO_POSES, require_poses=False))
    here = open_localizer(first, None, device, backend)
    there = open_localizer(other, None, device, backend)
    with display.counting("localizing in both") as update:
        move, count = first_from_second(recording, here, there, update)
    numbers = " ".join(f"{v:.4f}" for v in (*move.translation, *move.quaternion()))
    display.out.print(f"{count} images agree: --transform '{numbers}'")
    return move
