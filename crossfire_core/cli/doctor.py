"""``crossfire doctor``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from crossfire_core.cli import shell

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


@shell.command("First steps")
def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Try the parts, about 10 s.")
    ] = True,
    json: shell.JsonFile = None,
) -> None:
    """Look at this machine: versions, backends and why others are not there, ROS, threads.

    Exit code 2 if something that is always needed does not work.

    Example: crossfire doctor
    """
    from rich.markup import escape

    from crossfire_core.cli import display
    from crossfire_core.doctor import examine

    found = examine(self_test)
    shell.emit({"findings": [dataclasses.asdict(f) for f in found]}, json)
    if json is None:
        for area in dict.fromkeys(f.area for f in found):
            rows = [(f.name, _MARKS[f.verdict], escape(f.text)) for f in found if f.area == area]
            display.table(rows, title=area)
    if any(f.verdict == "problem" for f in found):
        raise typer.Exit(shell.EXIT_BAD_INPUT)
