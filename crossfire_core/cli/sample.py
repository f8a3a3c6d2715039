"""``crossfire sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfire_core.cli import shell


@shell.command("First steps")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the two bags go.")],
    seed: Annotated[int, typer.Option(help="Another seed paints the room differently.")] = 1,
    json: shell.JsonFile = None,
) -> None:
    """Make a recording to try things with: a furnished room, ray cast.

    FOLDER/mapping_bag is for training. FOLDER/query_bag drives another way, in other light,
    while somebody walks through. Both are rosbag2 with exact poses and drifting odometry.

    Example: crossfire sample room
    """
    from crossfire_core.cli import display
    from crossfire_core.sample.recording import write_sample

    with display.counting("ray casting") as update:
        written = write_sample(folder, seed, update)
    shell.emit({which: str(path) for which, path in written.items()}, json)
    if json is None:
        for path in written.values():
            display.out.print(str(path))
