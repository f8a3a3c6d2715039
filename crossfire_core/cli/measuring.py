"""``crossfire benchmark`` and ``crossfire speed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossfire_core.cli import shell

if TYPE_CHECKING:
    from crossfire_core.evaluation import benchmark as bench


@shell.command("Measure")
def benchmark(
    suite: Annotated[
        str,
        typer.Option(
            help="shared (the three scenes of the benchmarks), sample, negatives (images of other "
            "places, which no map may answer), or a public data set by its own split: 7scenes, "
            "12scenes, cambridge; 7scenes_sfm and 12scenes_sfm take the poses of structure from "
            "motion."
        ),
    ] = "shared",
    scenes: Annotated[str, typer.Option(help="Only these scenes, separated by commas.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="Of crossfire, sift, xfeat, lighterglue, lightglue, retrieval; by commas. "
            "Empty takes all; for negatives the first three."
        ),
    ] = "",
    minutes: Annotated[float, typer.Option(min=0.05, help="Training time of this method.")] = 15.0,
    stride: Annotated[int, typer.Option(min=1, help="Take every n-th frame only.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the recordings; default is $CROSSFIRE_DATA."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for maps, tables and plots.")
    ] = Path("reports/benchmark"),
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder with maps SCENE.map that are trained already; those missing are trained. "
            "For negatives by default the folder of --output."
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="For negatives: take every n-th image of other places.")
    ] = 1,
    device: shell.Device = "auto",
    backend: shell.Backend = None,
    json: shell.JsonFile = None,
) -> None:
    """Compare with other methods on exactly the same mapping and query frames.

    Peers that need a missing package are skipped, and say so. Sample: make it first with
    crossfire sample room, then name it with --data.

    Example: crossfire benchmark --suite sample --data room --minutes 5

    Negatives asks each map about its own queries and about all images of the other scenes and of
    places that look like it, and plots true against false answers over the gate.

    Example: crossfire benchmark --suite negatives --scenes corridor --every 5
    """
    from crossfire_core.evaluation import benchmark as bench
    from crossfire_core.evaluation import negatives

    strange = suite == "negatives"
    plan = bench.Plan(
        suite,
        shell.names(scenes),
        shell.names(methods) or (negatives.METHODS if strange else bench.METHODS),
        data or bench.default_data(),
        output,
        minutes,
        stride,
        device,
        maps or (output if strange else None),
        backend or "auto",
    )
    if strange:
        _negatives(plan, every, json)
    else:
        _compare(plan, json)


def _compare(plan: bench.Plan, json: Path | None) -> None:
    from crossfire_core.cli import display
    from crossfire_core.evaluation import benchmark as bench

    rows: list[bench.Row] = []
    with display.counting("benchmark") as update:
        for row in bench.run(plan, lambda text: update(len(rows), plan.rows, text)):
            rows.append(row)
            page = bench.write_results(rows, plan)  # each time: an hour's work may be interrupted
            display.err.print(f"{row.scene}, {row.method}: {'skipped' if row.skipped else 'done'}")
    shell.emit(bench.result(rows, plan), json)
    display.table(bench.table(rows), bench.HEADER)
    display.out.print(bench.EXPLANATION, style="dim")
    if others := bench.published_table(rows, plan):
        display.table(others, bench.PUBLISHED_HEADER, title="published")
    for reason in sorted({f"{r.method}: {r.skipped}" for r in rows if r.skipped}):
        display.out.print(reason, style="dim", markup=False)
    display.out.print(f"report: {page}")


def _negatives(plan: bench.Plan, every: int, json: Path | None) -> None:
    from crossfire_core.cli import display
    from crossfire_core.evaluation import negatives

    done = [negatives.Outcome()]
    with display.counting("negatives") as update:
        for outcome in negatives.run(
            plan, every, lambda text: update(len(done[-1].rows), plan.rows, text)
        ):
            done.append(outcome)
            page = negatives.write_results(outcome, plan, every)
    outcome = done[-1]
    shell.emit(outcome.to_json(plan, every), json)
    display.table(negatives.table(outcome), negatives.HEADER)
    if outcome.live:
        display.table(negatives.live_table(outcome), negatives.LIVE_HEADER)
    display.out.print(negatives.EXPLANATION, style="dim")
    for reason in sorted({f"{r.method}: {r.skipped}" for r in outcome.rows if r.skipped}):
        display.out.print(reason, style="dim", markup=False)
    display.out.print(f"report: {page}")


@shell.command("Measure")
def speed(
    map_file: shell.MapFile,
    recording: shell.RecordingPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the figures as a PNG.")
    ] = None,
    device: shell.Device = "auto",
    backend: shell.Backend = None,
    json: shell.JsonFile = None,
) -> None:
    """Measure how long training and localization take, beside what the machine could do.

    The recording is of the map's place.

    Example: crossfire speed room.map room/mapping_bag -o speed.png
    """
    from crossfire_core.cli import display
    from crossfire_core.evaluation import speed as timing
    from crossfire_core.files import write_bytes
    from crossfire_core.recordings import open_recording

    workload = timing.Workload(map_file, open_recording(recording))
    with display.working("speed") as say:
        figures = timing.measure(workload, device, backend or "auto", say)
    shell.emit(figures, json)
    if json is None:
        display.table(timing.rows(figures), title="speed")
    if output:
        write_bytes(output, timing.plot(figures))
        display.err.print(f"plot: {output}")
