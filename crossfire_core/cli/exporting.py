"""``crossfire export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfire_core.cli import shell

if TYPE_CHECKING:
    from crossfire_core.config import ExportConfig
    from crossfire_core.export.floor import Floor
    from crossfire_core.export.occupancy import OccupancyGrid
    from crossfire_core.export.surfaces import Surfaces


@shell.command("Use a map")
def export(
    map_file: shell.MapFile,
    run: shell.Running,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Occupancy grid for nav2's map_server; a .pgm beside."),
    ] = None,
    cloud: Annotated[
        Path | None, typer.Option(metavar="PLY", help="Points with colours and normals.")
    ] = None,
    mesh: Annotated[
        Path | None,
        typer.Option(metavar="PLY", help="The surface through these points; needs extra [sfm]."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Grid, cloud and mapping path from above.")
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="An existing grid of the place: say where the map lies in its frame, and draw "
            "both into a .png beside --grid.",
        ),
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Metres a cell of the grid, 0.05 by default.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(help="Height of the floor in the map, which is else looked for.")
    ] = None,
    voxel: Annotated[
        float | None, typer.Option(help="Metres between points of the cloud, 0.02 by default.")
    ] = None,
) -> None:
    """Give a map's geometry to other programs: an occupancy grid, a cloud, a mesh.

    All are in the frame in which poses are published. Cells that no mapping view looked through
    are unknown.

    Example: crossfire export room.map --grid room.yaml --cloud room.ply
    """
    from crossfire_core.config import ExportConfig
    from crossfire_core.errors import ConfigError
    from crossfire_core.export.map_server import read_grid

    if not any((grid, cloud, mesh, picture)):
        raise ConfigError("say what to write: --grid, --cloud, --mesh or --picture")
    if grid is not None and grid.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--grid {grid}: the file's name must end with .yaml")
    if onto is not None and grid is None:
        raise ConfigError("--onto compares with the map's own grid: say with --grid where it goes")
    settings = shell.configured(ExportConfig(), run.config, run.changes)
    settings = _told(settings, resolution=resolution, floor=floor, voxel=voxel)
    existing = read_grid(onto) if onto else None  # before the map is looked at, which takes time
    surfaces = _surfaces(map_file, run.device, run.backend or "auto", settings)
    done: dict[str, Any] = {}
    if grid is not None or picture is not None:
        done |= _grid(surfaces, settings, grid, existing, picture)
    if cloud is not None or mesh is not None:
        done |= _cloud(surfaces, settings, cloud, mesh)
    shell.emit(done, run.json)


def _told(settings: ExportConfig, **values: float | None) -> ExportConfig:
    """Settings with what was given as an option of its own."""
    from crossfire_core.config import replace_from

    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if "floor" in given:
        given["find_floor"] = False
    return replace_from(settings, given)


def _surfaces(map_file: Path, device: str, backend: str, settings: ExportConfig) -> Surfaces:
    from crossfire_core.cli import display

    with display.working("opening the map"):
        from crossfire_core.export.surfaces import map_surfaces
        from crossfire_core.maps.place import open_map

        neural_map = open_map(map_file, device, backend)
    with display.counting("looking at the map") as update:
        return map_surfaces(neural_map, settings, update)


def _grid(
    surfaces: Surfaces,
    settings: ExportConfig,
    target: Path | None,
    existing: OccupancyGrid | None,
    picture: Path | None,
) -> dict[str, Any]:
    from crossfire_core.cli import display
    from crossfire_core.export.floor import find_floor
    from crossfire_core.export.map_server import write_grid
    from crossfire_core.export.occupancy import occupancy

    with display.working("the grid"):
        floor = find_floor(surfaces, settings)
        made = occupancy(surfaces, floor, settings)
    done: dict[str, Any] = {"grid": _about(made, floor)}
    _tell_floor(floor, done["grid"])
    if target is not None:
        display.out.print(f"grid: {target}, {write_grid(target, made)}")
        if existing is not None:
            done["onto"] = _onto(made, existing, target.with_suffix(".png"))
    if picture is not None:
        _overview(picture, surfaces, made, floor, settings)
    return done


def _about(made: OccupancyGrid, floor: Floor) -> dict[str, Any]:
    rows, columns = made.cells.shape
    x, y, _ = made.origin
    middle = (x + 0.5 * columns * made.resolution, y + 0.5 * rows * made.resolution)
    return {
        "columns": columns,
        "rows": rows,
        "resolution_m": made.resolution,
        "area_m2": made.areas(),
        "floor_m": round(floor.height_at(*middle), 4),
        "grid_from_map": floor.grid_from_map.to_json(),
    }


def _tell_floor(floor: Floor, about: dict[str, Any]) -> None:
    from crossfire_core.cli import display

    area = ", ".join(f"{size} m² {kind}" for kind, size in about["area_m2"].items())
    display.out.print(
        f"{about['columns']} x {about['rows']} cells of {about['resolution_m']} m: {area}; "
        f"the floor is {about['floor_m']:.3f} m high"
    )
    if not floor.is_level:
        display.err.print(
            "warning: the map's z axis is not up, so the grid has a level frame of its own; the "
            "transform from the map to it is in --json as grid_from_map",
            style="yellow",
        )


def _onto(made: OccupancyGrid, existing: OccupancyGrid, picture: Path) -> dict[str, Any]:
    import math

    from crossfire_core.cli import display
    from crossfire_core.export.onto import lay_onto
    from crossfire_core.export.pictures import laid_picture
    from crossfire_core.files import write_bytes

    with display.working("laying it on the existing grid"):
        laid = lay_onto(made, existing)
    write_bytes(picture, laid_picture(made, existing, laid))
    x, y, yaw = laid.transform
    display.out.print(
        f"the map's origin lies at x {x:.3f} m, y {y:.3f} m, turned by {math.degrees(yaw):.2f}° in "
        f"the existing grid; {100 * laid.agree:.0f} % of the walls agree, to "
        f"{100 * laid.residual_m:.1f} cm in the median: {picture}"
    )
    if laid.is_ambiguous:
        display.err.print(
            "warning: another place fits nearly as well: look at the picture", style="yellow"
        )
    return laid.to_json()


def _overview(
    target: Path, surfaces: Surfaces, made: OccupancyGrid, floor: Floor, settings: ExportConfig
) -> None:
    from crossfire_core.cli import display
    from crossfire_core.export.cloud import cloud
    from crossfire_core.export.pictures import overview
    from crossfire_core.files import write_bytes

    with display.working("the picture"):
        points = cloud(surfaces, replace(settings, max_points=min(settings.max_points, 150_000)))
        write_bytes(target, overview(made, points, floor, surfaces.origins))
    display.out.print(f"picture: {target}")


def _cloud(
    surfaces: Surfaces, settings: ExportConfig, target: Path | None, mesh: Path | None
) -> dict[str, Any]:
    from crossfire_core.cli import display
    from crossfire_core.export.cloud import cloud, ply_bytes, write_mesh
    from crossfire_core.files import write_bytes

    with display.working("the cloud"):
        made = cloud(surfaces, settings)
    done: dict[str, Any] = {"cloud": {"points": len(made), "voxel_m": made.voxel}}
    if target is not None:
        write_bytes(target, ply_bytes(made))
        display.out.print(f"cloud: {target} ({len(made)} points, {made.voxel:.3g} m apart)")
    if mesh is not None:
        with display.working("the mesh"):
            done["mesh"] = {"triangles": write_mesh(mesh, made)}
        display.out.print(f"mesh: {mesh} ({done['mesh']['triangles']} triangles)")
    return done
