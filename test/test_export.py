"""A map's geometry for others: what is free, what is full, and what their programs read."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from box_room import CRATE, GREEN, LENS, RED, ROOM, BoxRoom, true_cells
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation
from test_neural_map import tiny_map

from crossfire_core.cli import run
from crossfire_core.config import ExportConfig
from crossfire_core.errors import ConfigError, ExportError
from crossfire_core.export import surfaces as surfaces_room
from crossfire_core.export.cloud import cloud, ply_bytes, write_mesh
from crossfire_core.export.floor import find_floor
from crossfire_core.export.map_server import read_grid, write_grid
from crossfire_core.export.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyGrid, occupancy
from crossfire_core.export.onto import lay_onto, moved
from crossfire_core.export.surfaces import cast
from crossfire_core.geometry import Camera, Pose

CONFIG = ExportConfig(columns=64)
AROUND = np.ones((3, 3), bool)


def surfaces_of(room: BoxRoom, config: ExportConfig = CONFIG, **views):
    poses = room.views(**views)
    return cast(room, [LENS] * len(poses), poses, config)


def grid_of(room: BoxRoom, config: ExportConfig = CONFIG, **views) -> OccupancyGrid:
    seen = surfaces_of(room, config, **views)
    return occupancy(seen, find_floor(seen, config), config)


def at(grid: OccupancyGrid, x: float, y: float) -> int:
    """The cell over a spot of the grid's frame."""
    column, row = np.floor((np.array([x, y]) - grid.origin[:2]) / grid.resolution).astype(int)
    return int(grid.cells[row, column])


@pytest.fixture(scope="module")
def seen():
    return surfaces_of(BoxRoom())


@pytest.fixture(scope="module")
def grid(seen) -> OccupancyGrid:
    return occupancy(seen, find_floor(seen, CONFIG), CONFIG)


# -- the grid ------------------------------------------------------------------------------------


def test_the_grid_of_a_room_is_the_true_one(grid):
    full = true_cells(grid)
    walls = full & binary_dilation(~full, AROUND)  # what can be seen from inside
    crate = (0.225, -1.175), (1.175, -0.725)  # low enough that its top is seen
    found = grid.cells == OCCUPIED
    near = binary_dilation(walls, AROUND) | full
    missed = walls & ~binary_dilation(found, AROUND)
    invented = found & ~near
    agree = (found & near).sum()
    assert agree / (agree + missed.sum() + invented.sum()) > 0.95
    assert not ((grid.cells == FREE) & binary_erosion(full, AROUND)).any()
    assert all(at(grid, *spot) == OCCUPIED for spot in crate)
    free_inside = (grid.cells == FREE)[~full].mean()
    assert free_inside > 0.9


def test_what_is_above_or_below_the_band_is_no_obstacle(grid):
    under_the_lamp, on_the_doorstep = (0.2, 0.4), (1.7, 0.8)
    assert at(grid, *under_the_lamp) == at(grid, *on_the_doorstep) == FREE
    told = replace(CONFIG, highest=2.2, find_floor=False)
    tall = grid_of(BoxRoom(), told, down_deg=-20.0)
    assert at(tall, 0.2, 0.225) == OCCUPIED  # the lamp's side
    low = grid_of(BoxRoom(), replace(CONFIG, lowest=0.02))
    assert at(low, *on_the_doorstep) == OCCUPIED


def test_what_no_view_looks_at_is_unknown():
    # a screen across the room: the cameras stay on one side of it
    screen = ((1.32, -1.5, 0.0), (1.38, 1.5, 2.5), RED)
    grid = grid_of(BoxRoom((screen,)))
    assert at(grid, 0.0, 0.0) == FREE
    assert at(grid, 1.325, 0.3) == OCCUPIED
    # nothing behind it was seen, so the grid ends there, or does not know
    behind = grid.cells[:, int((1.45 - grid.origin[0]) / grid.resolution) :]
    assert (behind == UNKNOWN).all()


def test_where_rays_do_not_know_their_end_nothing_is_free_and_nothing_full(seen):
    first, last, _ = (np.array(v) for v in CRATE)
    on_the_crate = ((seen.points > first - 0.01) & (seen.points < last + 0.01)).all(axis=1)
    # rays of one to three metres that may end up to a fifth of it earlier
    vague = replace(seen, clear=np.where(on_the_crate, 0.8 * seen.clear, seen.clear))
    grid = occupancy(vague, find_floor(seen, CONFIG), CONFIG)
    for spot in ((0.5, -0.95), (0.7, -0.8), (1.0, -1.1)):
        assert at(grid, *spot) == UNKNOWN
    assert at(grid, 1.5, -0.95) == FREE


def test_rays_that_slip_through_a_wall_free_nothing_behind_it(seen):
    astray = replace(seen, points=seen.points.copy())
    leaks = np.flatnonzero(seen.solid & (seen.points[:, 0] > 1.99))[::20]
    way = seen.points[leaks] - seen.origins[seen.view[leaks]]
    astray.points[leaks] += way
    astray.clear[leaks] *= 2.0
    grid = occupancy(astray, find_floor(seen, CONFIG), CONFIG)
    free = grid.centres(FREE)
    assert len(free) > 3000 and free[:, 0].max() < 2.0


def test_the_floor_is_found_where_it_is_even_when_it_slopes():
    # one degree about an axis that is neither x nor y, and 0.37 m down
    slope = Rotation.from_rotvec(np.radians(1.0) * np.array([0.6, 0.8, 0.0])).as_matrix()
    room = BoxRoom(world_from_room=Pose(slope, np.array([0.5, -0.2, -0.37])))
    floor = find_floor(surfaces_of(room), CONFIG)
    assert floor.is_level
    on_it = room.world_from_room.apply(np.array([[1.9, -1.4, 0.0], [-1.8, 0.2, 0.0]]))
    np.testing.assert_allclose(floor.over(on_it)[:, 2], 0.0, atol=0.01)
    np.testing.assert_allclose(floor.over(on_it)[:, :2], on_it[:, :2])


def test_a_table_higher_than_the_floor_is_not_taken_for_it():
    # half of the room, and seen better than the floor
    table = ((-2.0, -1.5, 0.5), (0.6, 0.9, 0.7), GREEN)
    floor = find_floor(surfaces_of(BoxRoom((table,)), height=1.6, down_deg=30.0), CONFIG)
    assert abs(floor.height_at(0.0, 0.0)) < 0.02


def test_a_floor_nobody_sees_must_be_told():
    room = BoxRoom(())
    up_only = surfaces_of(room, down_deg=-60.0)
    with pytest.raises(ExportError, match="--floor"):
        find_floor(up_only, CONFIG)
    told = find_floor(up_only, replace(CONFIG, find_floor=False, floor=-0.25))
    assert told.height_at(3.0, 4.0) == -0.25


def test_a_map_that_lies_on_its_side_gets_a_level_frame():
    # y of the map points down, as in frames of a first camera
    on_its_side = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    room = BoxRoom(world_from_room=Pose(on_its_side, np.array([0.0, 0.7, 0.0])))
    seen = surfaces_of(room)
    floor = find_floor(seen, CONFIG)
    assert not floor.is_level
    crate = room.world_from_room.apply(np.array([[0.7, -0.95, 0.6]]))
    over = floor.over(crate)
    np.testing.assert_allclose(over[0, 2], 0.6, atol=0.01)
    np.testing.assert_allclose(floor.grid_from_map.apply(crate)[0, :2], over[0, :2])
    grid = occupancy(seen, floor, CONFIG)
    assert at(grid, *over[0, :2]) == OCCUPIED
    corner = floor.map_from_corner(grid.origin)
    np.testing.assert_allclose(corner.rotation[:, 2], [0.0, -1.0, 0.0], atol=1e-9)


def test_the_grid_is_in_the_frame_that_poses_are_published_in():
    room = BoxRoom()
    shift = Pose(np.eye(3), np.array([0.31, -0.17, 0.05]))
    views = room.views(count=4)
    moved_surfaces = cast(room, [LENS] * 4, views, CONFIG, lambda pose: shift @ pose)
    plain = cast(room, [LENS] * 4, views, CONFIG)
    np.testing.assert_allclose(moved_surfaces.points, shift.apply(plain.points), atol=1e-5)
    np.testing.assert_allclose(moved_surfaces.origins, shift.apply(plain.origins))


def test_unusable_settings_and_maps_are_explained(seen):
    floor = find_floor(seen, CONFIG)
    with pytest.raises(ConfigError, match="highest above lowest"):
        occupancy(seen, floor, replace(CONFIG, lowest=0.5, highest=0.5))
    with pytest.raises(ExportError, match="floor's height"):
        occupancy(seen, replace(floor, plane=(0.0, 0.0, -5.0)), CONFIG)
    with pytest.raises(ExportError, match="coarser"):
        occupancy(seen, floor, replace(CONFIG, resolution=0.005, highest=1000.0))
    with pytest.raises(ExportError, match="clear surface"):
        surfaces_of(BoxRoom(spread=0.5))


# -- nav2's files --------------------------------------------------------------------------------


def as_nav2_reads(path) -> tuple[np.ndarray, dict]:
    """Cells by the rules of nav2's map_server in trinary mode, written from its documentation."""
    about = yaml.safe_load(path.read_text())
    picture = np.asarray(Image.open(path.parent / about["image"]).convert("L"), dtype=float)
    shade = picture / 255.0
    taken = shade if about["negate"] else 1.0 - shade
    cells = np.full(picture.shape, -1)
    cells[taken > about["occupied_thresh"]] = 100
    cells[taken < about["free_thresh"]] = 0
    return cells[::-1], about  # a grid's first row is the lowest, a picture's the highest


def test_the_yaml_means_to_nav2_what_the_grid_says(grid, tmp_path):
    write_grid(tmp_path / "place.yaml", grid)
    cells, about = as_nav2_reads(tmp_path / "place.yaml")
    np.testing.assert_array_equal(cells, grid.cells)
    assert {-1, 0, 100} == set(np.unique(cells))
    assert about["mode"] == "trinary" and about["resolution"] == 0.05
    # the crate's middle is right of the origin and below it
    column, row = ((np.array([0.7, -0.95]) - about["origin"][:2]) / about["resolution"]).astype(int)
    assert cells[row, column] == 100


def test_grids_are_read_as_map_server_reads_them(tmp_path):
    # two rows: white, middle grey, black over black, light grey, white
    picture = np.array([[255, 128, 0], [0, 230, 255]], np.uint8)
    cv2.imwrite(str(tmp_path / "g.png"), picture)
    about = {"image": "g.png", "resolution": 0.1, "origin": [1.0, 2.0, 0.5], "negate": 0,
             "occupied_thresh": 0.65, "free_thresh": 0.2}  # fmt: skip

    def read(**changes):
        (tmp_path / "g.yaml").write_text(yaml.safe_dump({**about, **changes}))
        return read_grid(tmp_path / "g.yaml")

    assert read().origin == (1.0, 2.0, 0.5)
    assert read().cells.tolist() == [[100, 0, 0], [0, -1, 100]]
    assert read(negate=1).cells.tolist() == [[0, 100, 100], [100, -1, 0]]
    # (1 - 128/255 - 0.2) / (0.65 - 0.2) is 66 of a hundred
    assert read(mode="scale").cells.tolist() == [[100, 0, 0], [0, 66, 100]]
    assert read(mode="raw").cells.tolist() == [[0, -1, -1], [-1, -1, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image: g.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "no 8-bit picture"),
        ("image: g.pgm\nresolution: 0\norigin: [0, 0, 0]\n", "out of range"),
        ("image: g.pgm\nresolution: 0.05\n", "origin"),
        ("resolution: [", "cannot read"),
        ("just words", "describes no occupancy grid"),
    ],
)
def test_files_that_are_no_grid_are_refused(text, words, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ExportError, match=words):
        read_grid(tmp_path / "bad.yaml")
    with pytest.raises(ExportError, match="cannot read"):
        read_grid(tmp_path / "missing.yaml")


# -- onto a grid that is there -------------------------------------------------------------------


def redrawn(grid: OccupancyGrid, motion, resolution: float) -> OccupancyGrid:
    """The same place as another mapper has it: other frame, other cells."""
    walls, free = (moved(grid.centres(kind), np.array(motion)) for kind in (OCCUPIED, FREE))
    low = np.minimum(walls.min(axis=0), free.min(axis=0)) - 0.5
    size = np.ceil((np.maximum(walls.max(axis=0), free.max(axis=0)) + 0.5 - low) / resolution)
    cells = np.full(size.astype(int)[::-1], UNKNOWN, np.int8)
    for points, kind in ((free, FREE), (walls, OCCUPIED)):
        column, row = np.floor((points - low) / resolution).astype(int).T
        cells[row, column] = kind
    return OccupancyGrid(cells, resolution, (float(low[0]), float(low[1]), 0.0))


def test_a_map_is_laid_onto_a_grid_of_the_place(grid):
    motion = (5.3, -2.1, np.radians(107.0))
    laid = lay_onto(grid, redrawn(grid, motion, 0.06))
    assert abs(laid.transform[0] - motion[0]) < 0.03
    assert abs(laid.transform[1] - motion[1]) < 0.03
    assert abs(laid.transform[2] - motion[2]) < np.radians(0.5)
    assert laid.agree > 0.95 and laid.residual_m < 0.03
    assert not laid.is_ambiguous


def test_a_room_alike_from_two_sides_is_said_to_be():
    bare = grid_of(BoxRoom(()))
    assert lay_onto(bare, redrawn(bare, (1.0, 2.0, 0.4), 0.05)).is_ambiguous


def test_another_place_does_not_fit(grid):
    rng = np.random.default_rng(0)
    cells = np.where(rng.random((160, 160)) < 0.02, OCCUPIED, FREE).astype(np.int8)
    with pytest.raises(ExportError, match="does not fit"):
        lay_onto(grid, OccupancyGrid(cells, 0.05, (0.0, 0.0, 0.0)))
    empty = OccupancyGrid(np.zeros((50, 50), np.int8), 0.05, (0.0, 0.0, 0.0))
    with pytest.raises(ExportError, match="existing grid has too few"):
        lay_onto(grid, empty)


# -- cloud and mesh ------------------------------------------------------------------------------


def test_the_cloud_lies_on_surfaces_with_their_colours_and_normals(seen):
    made = cloud(seen, replace(CONFIG, voxel=0.05))
    first, last, _ = (np.array(v) for v in CRATE)
    top = (np.abs(made.points[:, 2] - 0.6) < 0.01) & (
        (made.points[:, :2] > first[:2] + 0.1) & (made.points[:, :2] < last[:2] - 0.1)
    ).all(axis=1)
    assert top.sum() > 50
    np.testing.assert_allclose(made.normals[top], [[0.0, 0.0, 1.0]] * top.sum(), atol=0.05)
    red = np.rint(255 * np.array(RED))
    assert np.abs(np.median(made.colours[top], axis=0) - red).max() <= 1
    wall = made.points[:, 0] > 1.99
    assert wall.sum() > 50 and (made.normals[wall][:, 0] < -0.9).mean() > 0.9
    cells = np.floor(made.points / 0.05)
    assert len(np.unique(cells, axis=0)) > 0.99 * len(made)  # a mean may lie on its cube's face


@pytest.mark.parametrize(
    ("model", "numbers", "focal"),
    [
        ("omni", (1.4, -0.05, 0.01, 0.0, 0.0), 36.0),
        ("ds", (-0.25, 0.6), 15.0),
        ("equidistant", (0.01, -0.005, 0.001, 0.0), 8.0),
        ("radtan", (-0.4, 0.0, 0.0, 0.0), 48.0),  # folds over near the corners
    ],
)
def test_a_wide_lens_sees_the_room_all_around_and_nothing_beyond_its_border(model, numbers, focal):
    camera = Camera(64, 64, focal, focal, 32.0, 32.0, model, numbers)
    room = BoxRoom(())
    pose = room.views()[0]
    seen = cast(room, [camera], [pose], CONFIG)
    shown = np.isfinite(camera.bearings(camera.pixel_grid())[:, 0])
    assert 0.5 < shown.mean() < 1.0 and len(seen.points) == shown.sum()
    low, high = ROOM
    to_walls = np.abs(np.concatenate([seen.points - low, seen.points - high], axis=1))
    np.testing.assert_allclose(to_walls.min(axis=1), 0.0, atol=1e-5)
    behind = (pose.inverse().apply(seen.points)[:, 2] < -0.1).mean()
    assert (behind > 0.1) == (model != "radtan")
    # which wall a point lies on says how its normal points: into the room, but along edges
    inward = np.concatenate([np.eye(3), -np.eye(3)])[to_walls.argmin(axis=1)]
    told = seen.normals.any(axis=1)
    assert told.mean() > 0.6
    assert ((seen.normals[told] * inward[told]).sum(axis=1) > 0.99).mean() > 0.8


def test_the_cloud_is_bounded_by_coarser_cubes(seen):
    made = cloud(seen, replace(CONFIG, voxel=0.03, max_points=500))
    assert 200 < len(made) <= 500
    assert made.voxel > 0.03


def test_the_ply_is_read_by_others(seen):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed: extra [demo]")
    made = cloud(seen, replace(CONFIG, voxel=0.2))
    read = trimesh.load(trimesh.util.wrap_as_stream(ply_bytes(made)), file_type="ply")
    np.testing.assert_allclose(read.vertices, made.points, atol=1e-6)
    np.testing.assert_array_equal(read.colors[:, :3], made.colours)
    raw = read.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(raw["nz"].ravel(), made.normals[:, 2], atol=1e-6)


def test_the_mesh_is_the_rooms_surface(seen, tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap is not installed: extra [sfm]")
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed: extra [demo]")
    faces = write_mesh(tmp_path / "mesh.ply", cloud(seen, replace(CONFIG, voxel=0.1)))
    mesh = trimesh.load(tmp_path / "mesh.ply", file_type="ply")
    assert len(mesh.faces) == faces > 1000
    crate = mesh.vertices[
        ((mesh.vertices > (0.4, -1.1, 0.3)) & (mesh.vertices < (1.0, -0.8, 0.9))).all(axis=1)
    ]
    assert len(crate) > 5
    np.testing.assert_allclose(crate[:, 2], 0.6, atol=0.03)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def map_file(tmp_path, monkeypatch, seen):
    """A map file, in place of whose untrained field the room is seen."""
    tiny_map().save(tmp_path / "room.map")
    monkeypatch.setattr(surfaces_room, "map_surfaces", lambda *_: seen)
    return tmp_path / "room.map"


def test_the_command_writes_all_that_is_asked_for(map_file, tmp_path, capsys):
    theirs = redrawn(grid_of(BoxRoom()), (1.0, -0.5, 0.3), 0.05)
    write_grid(tmp_path / "old.yaml", theirs)
    line = [
        "export", map_file, "--grid", tmp_path / "new" / "place.yaml",
        "--cloud", tmp_path / "c.ply", "--picture", tmp_path / "p.png",
        "--onto", tmp_path / "old.yaml", "--floor", "0.02",
        "--resolution", "0.1", "--voxel", "0.1", "--json", tmp_path / "said.json",
    ]  # fmt: skip
    assert run([str(word) for word in line]) == 0, capsys.readouterr().err
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["grid"]["floor_m"] == 0.02 and said["grid"]["resolution_m"] == 0.1
    assert abs(said["onto"]["existing_from_map"]["x"] - 1.0) < 0.05
    assert abs(said["onto"]["existing_from_map"]["yaw"] - 0.3) < 0.02
    assert said["cloud"]["points"] > 100
    assert read_grid(tmp_path / "new" / "place.yaml").resolution == 0.1
    for picture in (tmp_path / "new" / "place.png", tmp_path / "p.png"):
        assert cv2.imread(str(picture)).std() > 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say what to write"),
        (["--grid", "place.pgm"], "must end with .yaml"),
        (["--cloud", "c.ply", "--onto", "old.yaml"], "--grid"),
        (["--grid", "g.yaml", "--onto", "missing.yaml"], "cannot read the grid"),
        (["--grid", "g.yaml", "--resolution", "0"], "resolution"),
        (["--grid", "g.yaml", "--floor", "inf"], "floor"),
        (["--grid", "g.yaml", "--set", "highest=.inf"], "highest"),
        (["--grid", "g.yaml", "--set", "colums=3"], "unknown setting colums"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(options, words, map_file, monkeypatch, capsys):
    monkeypatch.chdir(map_file.parent)
    assert run(["export", str(map_file), *options]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and said.startswith("error: ") and "\n" not in said
    assert not (map_file.parent / "g.yaml").exists()


def test_a_map_without_surfaces_is_said_to_have_none(tmp_path, capsys):
    tiny_map().save(tmp_path / "raw.map")
    assert run(["export", str(tmp_path / "raw.map"), "--cloud", str(tmp_path / "c.ply")]) == 2
    assert "no mapping view sees a clear surface" in capsys.readouterr().err
