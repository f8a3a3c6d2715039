"""``crossfire sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfire_core.cli import shell


@shell.command("First steps")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the bags go.")],
    place: Annotated[
        str,
        shell.choice(
            ("room", "corridor", "building", "rig"),
            help="room, corridor, building or rig; by default what FOLDER is called, else room.",
        ),
    ] = "",
    rooms: Annotated[
        int | None,
        typer.Option(
            min=2, help="How many rooms: 6 in a corridor and 12 in a building by default."
        ),
    ] = None,
    floors: Annotated[
        int | None, typer.Option(min=1, help="How many floors a building has; default is 2.")
    ] = None,
    alike: Annotated[
        bool,
        typer.Option(
            "--alike",
            help="Rooms of a corridor are alike but for small things; a building's always are.",
        ),
    ] = False,
    only: Annotated[
        str, typer.Option(help="Only these passes, such as mapping,lookalike; default is all.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Another seed paints the place differently.")
    ] = 1,
    json: shell.JsonFile = None,
) -> None:
    """Make a recording to try things with: a furnished room, a corridor or a building.

    FOLDER/mapping_bag is for training, FOLDER/query_bag drives another way. Both are rosbag2 with
    exact poses and drifting odometry. In the room the query is in other light, and somebody walks
    through.

    A corridor has copies that test what a map believes. relit_bag is it in the evening and
    rearranged_bag with its furniture elsewhere. lookalike_bag is another corridor of the same
    materials and furniture, and foreign_bag one furnished in another way: poses found in these two
    are wrong.

    A building has floors of 40 x 25 m with corridors and rooms that are alike. The robot is carried
    from floor to floor, and its odometry does not notice.

    A rig is a robot with two cameras, front and left, in the room with one wall white. The query
    faces that wall. Read it with --image-topic as the tutorial has it.

    Example: crossfire sample room

    Example: crossfire sample corridor --alike

    Example: crossfire sample building --rooms 12 --floors 2
    """
    from crossfire_core.cli import display
    from crossfire_core.sample import places

    request = places.Request(
        place or places.place_of(folder), rooms, floors, alike, shell.names(only), seed
    )
    with display.counting("ray casting") as update:
        written = places.write_place(folder, request, update)
    shell.emit({which: str(path) for which, path in written.items()}, json)
    if json is None:
        for path in written.values():
            display.out.print(str(path))
