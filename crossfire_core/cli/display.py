"""What people see: tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Into a file or a pipe, tables are as wide as they need.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), title: str = "") -> None:
    """Print a table; without a header as names and values."""
    grid = Table(title=title or None, title_justify="left", show_header=bool(header), box=None)
    for index in range(len(rows[0]) if rows else 0):
        grid.add_column(
            header[index] if header else "",
            justify="right" if header and index else "left",
            overflow="fold",
            style="dim" if not header and index == 0 else "",
        )
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


@contextmanager
def counting(what: str) -> Iterator[Any]:
    """A progress bar over a number of things; yields ``update(done, total, note)``."""
    columns = (
        TextColumn(what),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


@contextmanager
def working(what: str) -> Iterator[Any]:
    """A spinner; yields ``say(text)`` which changes what it says."""
    with err.status(what) as status:
        yield lambda text: status.update(f"{what}: {text}")


@contextmanager
def stages() -> Iterator[Any]:
    """A progress bar over several kinds of work; yields ``update(stage, done, total)``.

    Into a log file it writes a line when a stage begins.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None, visible=False)
        current = ""

        def update(stage: str, done: int, total: int) -> None:
            nonlocal current
            if stage != current:
                progress.reset(task, total=total, visible=True, description=stage)
                if not err.is_terminal:
                    err.print(f"{stage} ({total})")
            current = stage
            progress.update(task, completed=done, total=total)

        yield update


_LINE_SECONDS = 30.0  # between two lines of a log that is no terminal


@contextmanager
def training() -> Iterator[Any]:
    """A progress bar for training; yields a callback for ``train_map``'s ``on_progress``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    bar = Progress(*columns, console=err)
    with bar:
        task = bar.add_task("preparing", total=None, figures="", left="")
        held_out: dict[str, float] = {}

        last_line = 0.0

        def update(progress: Any) -> None:
            nonlocal last_line
            held_out.update(progress.held_out or {})
            if not err.is_terminal and progress.seconds - last_line >= _LINE_SECONDS:
                last_line = progress.seconds  # a log file wants lines, not a bar
                numbers = figures(progress.loss, progress.psnr, held_out)
                what = f"{progress.stage}: {numbers}" if numbers else progress.stage
                err.print(f"{clock(progress.seconds)} {what}")
            bar.update(
                task,
                description=progress.stage,
                completed=progress.step,
                total=progress.total_steps or None,
                figures=figures(progress.loss, progress.psnr, held_out),
                left=f"{clock(progress.seconds_left)} left",
            )

        yield update


def figures(loss: float, psnr: float, held_out: dict[str, float]) -> str:
    """Loss, PSNR and held-out error in few characters."""
    # before a stage's first step there are none
    parts = [f"loss {loss:.3f}"] if isfinite(loss) else []
    parts += [f"PSNR {psnr:.1f} dB"] if isfinite(psnr) else []
    names = {"translation_m": ("cm", 100.0), "rotation_deg": ("°", 1.0), "psnr": ("dB", 1.0)}
    for key, value in held_out.items():
        known = next((n for n in names if key.endswith(n)), None)
        if known and isfinite(value):
            unit, factor = names[known]
            parts.append(f"held out {factor * value:.1f} {unit}")
        elif not known:
            parts.append(f"{key.replace('_', ' ')} {value:.3g}")
    if not all(map(isfinite, held_out.values())):
        parts.append("held out: not found yet")
    return ", ".join(parts)


def clock(seconds: float | None) -> str:
    """A duration as m:ss or h:mm:ss."""
    if seconds is None or seconds != seconds or seconds < 0:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
