"""Places of several tiles: their files, which tiles are in memory, and how images find theirs."""

from __future__ import annotations

import json
import shutil
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_neural_map import tiny_map

from crossfire_core.config import LocalizationConfig
from crossfire_core.errors import CrossfireError, MapFormatError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.place import PlaceLocalizer, open_localizer
from crossfire_core.localization.rig import RigWitness
from crossfire_core.localization.tile_store import TileStore
from crossfire_core.maps.header import RigCamera
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.maps.place import NewTile, Place, write_place

IMAGE = np.zeros((48, 64, 3), np.uint8)
CAMERA = Camera(64, 48, 50.0, 51.0, 32.0, 24.0)
LENGTH = 4.0  # of the tiles' cores along x, metres; the tiny map's median distance is 1.3 m


def tile_map(number: int) -> NeuralMap:
    """A map whose views are its own, the network shared."""
    made = tiny_map()
    views = tuple(replace(v, name=f"{number}-{v.name}") for v in made.header.views)
    made.header = replace(made.header, views=views)
    return made


def new_tiles(folder: Path, count: int) -> list[NewTile]:
    """Cores one behind the other along x."""
    tiles = []
    for number in range(count):
        path = folder / f"{number}.map"
        tile_map(number).save(path)
        low = np.array([LENGTH * number, 0.0, 0.0])
        tiles.append(NewTile(path, low, low + np.array([LENGTH, 2.0, 1.0]), Pose.identity()))
    return tiles


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place of four tiles in a row."""
    folder = tmp_path_factory.mktemp("row")
    write_place(folder / "row.map", "house", new_tiles(folder, 4))
    return folder / "row.map"


# -- files -------------------------------------------------------------------------------------


def test_a_place_knows_the_cameras_of_all_its_tiles(tmp_path: Path) -> None:
    """A camera that only one tile's views are of counts too, also for which way is up."""
    lying = Pose(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3))
    rigs = ((RigCamera("front", CAMERA, Pose.identity()),), (RigCamera("left", CAMERA, lying),))
    tiles = new_tiles(tmp_path, 2)
    for tile, rig in zip(tiles, rigs, strict=True):
        made = NeuralMap.load(tile.file, "cpu")
        made.header = replace(made.header, rig=rig)
        made.save(tile.file)
    write_place(tmp_path / "rig.map", "house", tiles)
    mounts = Place.open(tmp_path / "rig.map").header.mounts
    assert mounts["front"].distance(Pose.identity()) == (0.0, 0.0)
    assert mounts["left"].distance(lying) == (0.0, 0.0)


def test_a_place_is_read_as_it_was_written(row: Path) -> None:
    place = Place.open(row)
    assert place.frame_id == "house" and len(place.tiles) == 4
    assert place.header.frame_id == "house"
    assert {v.name for v in place.header.views} == {
        f"{t}-frame-{i}" for t in range(4) for i in range(3)
    }
    assert place.header.trained_on == {v.name for v in place.header.views}
    assert len({tile.network for tile in place.tiles}) == 1
    assert sorted(p.name for p in row.iterdir()) == [
        "index.safetensors", "place.json", *(f"tile_{i:03d}.map" for i in range(4)),
    ]  # fmt: skip
    made = place.load(2, "cpu")
    assert made.header.views[0].name == "2-frame-0"
    described = made.field.descriptors(made.places.points)
    stored = place.index[2].described(np.arange(20))  # type: ignore[arg-type]
    assert float((stored - described).abs().max()) < 0.5 / 127 + 1e-6
    assert place.file_bytes == sum(p.stat().st_size for p in row.iterdir())


def edit(row: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((row / "place.json").read_text())
    change(content)
    (row / "place.json").write_text(json.dumps(content))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(row: Path) -> None:
    shutil.copy(row / "tile_002.map", row / "tile_001.map")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: (p / "tile_001.map").unlink(), "lacks tile_001.map"),
        (lambda p: (p / "index.safetensors").unlink(), "lacks index.safetensors"),
        (lambda p: (p / "place.json").unlink(), "no map at"),
        (lambda p: flip(p / "tile_003.map"), "tile_003.map is not the file"),
        (lambda p: flip(p / "index.safetensors"), "index.safetensors is not the file"),
        (foreign, "tile_001.map is not the file"),
        (lambda p: (p / "place.json").write_text("{"), "cannot be read"),
        (lambda p: edit(p, lambda c: c.update(place_version=9)), "format version 9"),
        (lambda p: edit(p, lambda c: c.update(tiles=[])), "no tiles"),
        (lambda p: edit(p, lambda c: c["tiles"][0].update(low=[9, 9, 9])), "no box"),
        (lambda p: edit(p, lambda c: c["tiles"][0].update(low="x")), "not valid"),
        (lambda p: edit(p, lambda c: c["tiles"][0].update(file="../a.map")), "outside"),
        (lambda p: edit(p, lambda c: c["tiles"][1].pop("network")), "network"),
        (lambda p: edit(p, lambda c: c["tiles"][1].update(network="?")), "does not fit"),
    ],
)
def test_a_place_that_is_not_whole_is_refused_in_one_line(
    row: Path, tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    copy = tmp_path / "copy.map"
    shutil.copytree(row, copy)
    harm(copy)
    with pytest.raises(MapFormatError) as refused:
        open_localizer(copy, device="cpu")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_place_that_cannot_be_finished_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, tiles = tmp_path / "home.map", new_tiles(tmp_path, 2)
    tile_map(7).save(target)  # a single map that was there
    before = target.read_bytes()
    broken = replace(tiles[1], file=tmp_path / "none.map")
    with pytest.raises(CrossfireError, match="cannot write"):
        write_place(target, "map", [tiles[0], broken])
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.map", "1.map", "home.map"]
    write_place(target, "map", tiles)
    assert len(Place.open(target).tiles) == 2
    write_place(target, "map", tiles[:1])  # in place of a place
    assert len(Place.open(target).tiles) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.map", "1.map", "home.map"]


# -- memory ------------------------------------------------------------------------------------


def test_tiles_used_longest_ago_make_room() -> None:
    read: list[int] = []
    store = TileStore(lambda n: read.append(n) or n, lambda _: 10, 30)
    assert [store.get(n) for n in (0, 1, 2)] == [0, 1, 2]
    store.get(0)
    store.get(3)  # 1 was used longest ago
    assert store.loaded() == [2, 0, 3]
    store.get(2)
    assert read == [0, 1, 2, 3]
    store.get(1)
    assert store.loaded() == [3, 2, 1] and read[-1] == 1


def test_the_tile_in_use_and_the_next_one_are_kept_whatever_they_take() -> None:
    store = TileStore(lambda n: n, lambda _: 10, 1)
    for number in (0, 1, 2):
        store.get(number)
    assert store.loaded() == [1, 2]


def test_a_tile_is_read_in_the_background_and_once() -> None:
    begun, may_end, read = threading.Event(), threading.Event(), []

    def load(number: int) -> int:
        read.append((number, threading.current_thread() is threading.main_thread()))
        if number == 1:
            begun.set()
            assert may_end.wait(30)
        return number

    store = TileStore(load, lambda _: 10, 20)
    store.get(0)
    store.prefetch(1)
    store.prefetch(1)
    assert begun.wait(30)
    assert store.get(0) == 0 and store.loaded() == [0]  # nobody waits for it
    may_end.set()
    assert store.get(1) == 1
    assert read == [(0, True), (1, False)]


def test_a_tile_that_was_expected_goes_before_the_one_in_use() -> None:
    store = TileStore(lambda n: n, lambda _: 10, 20)
    store.get(0)
    store.get(1)
    store.prefetch(2)
    store.prefetch(3)
    store._background.shutdown()  # type: ignore[union-attr]
    assert 1 in store.loaded() and len(store.loaded()) == 2


def test_what_a_tile_took_is_given_back_at_once() -> None:
    class Tile:
        """Refers to itself, as localizers do."""

        def __init__(self) -> None:
            self.method = self.__init__  # type: ignore[misc]

    made: list[weakref.ref[Tile]] = []

    def load(number: int) -> Tile:
        tile = Tile()
        made.append(weakref.ref(tile))
        return tile

    store = TileStore(load, lambda _: 10, 20)
    for number in range(4):
        store.get(number)
    assert [tile() is None for tile in made] == [True, True, False, False]


def test_a_tile_that_cannot_be_read_is_tried_again() -> None:
    failures = [MapFormatError("gone")]

    def load(number: int) -> int:
        if failures:
            raise failures.pop()
        return number

    store = TileStore(load, lambda _: 1, 10)
    with pytest.raises(MapFormatError, match="gone"):
        store.get(5)
    assert store.get(5) == 5


# -- handing over ------------------------------------------------------------------------------


class FakeTile:
    """Answers with its prior where its images reach: a metre beyond its core."""

    def __init__(self, number: int, asked: list[int], blind: bool = False) -> None:
        self.number, self.asked, self.blind = number, asked, blind

    def localize(
        self, image: Any, camera: Any, prior: Pose | None = None, **options: Any
    ) -> PoseEstimate:
        assert prior is not None
        self.asked.append(self.number)
        x = prior.translation[0]
        inside = LENGTH * self.number - 1.0 <= x <= LENGTH * (self.number + 1) + 1.0
        ok = inside and not self.blind
        return PoseEstimate(ok, "" if ok else "not here", prior, np.eye(6))


def walking(row: Path, blind: tuple[int, ...] = ()) -> tuple[PlaceLocalizer, list[int]]:
    localizer, asked = PlaceLocalizer(Place.open(row), device="cpu"), list[int]()
    load = lambda number: FakeTile(number, asked, number in blind)  # noqa: E731
    localizer._store = TileStore(load, lambda _: 100 << 20, 200 << 20)  # type: ignore[arg-type]
    return localizer, asked


def at(x: float) -> Pose:
    return Pose(np.eye(3), np.array([x, 1.0, 0.5]))


def test_a_walk_through_all_tiles_loses_no_image_and_waits_for_none(row: Path) -> None:
    localizer, asked = walking(row)
    steps, waited = np.arange(0.1, 15.9, 0.1), []
    for x in steps:
        before = localizer.loaded
        if localizer._store._background is not None:
            localizer._store._background.submit(lambda: None).result()  # it keeps up
            before = localizer.loaded
        found = localizer.localize(IMAGE, CAMERA, at(x))
        assert found.ok and found.map_from_camera is not None
        assert found.map_from_camera.distance(at(x)) == (0.0, 0.0)
        waited.append(asked[-1] not in before)
    assert asked == sorted(asked) and set(asked) == {0, 1, 2, 3}  # each image asks one tile
    assert sum(waited) == 1 and waited[0]  # for the first one
    assert len(localizer.loaded) == 2  # of four, as the memory allows


def test_a_robot_at_a_border_does_not_change_tiles_with_every_image(row: Path) -> None:
    localizer, asked = walking(row)
    for i in range(20):
        assert localizer.localize(IMAGE, CAMERA, at(LENGTH + (0.1 if i % 2 else -0.1))).ok
    assert len(set(asked)) == 1


def test_what_a_tile_does_not_know_near_its_border_the_next_one_may(row: Path) -> None:
    localizer, asked = walking(row, blind=(1,))
    assert localizer.localize(IMAGE, CAMERA, at(LENGTH + 0.5)).ok
    assert asked == [1, 0]
    asked.clear()
    found = localizer.localize(IMAGE, CAMERA, at(1.5 * LENGTH))  # nobody else sees this
    assert not found.ok and found.reason == "not here" and asked[-1] == 1


def test_a_tile_that_vanishes_is_a_failure_with_its_reason(row: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.map"
    shutil.copytree(row, copy)
    localizer = PlaceLocalizer(Place.open(copy), device="cpu")
    (copy / "tile_000.map").unlink()
    found = localizer.localize(IMAGE, CAMERA, at(1.0))
    assert not found.ok and "no map at" in found.reason


def test_a_tile_with_a_frame_of_its_own_answers_in_the_places(row: Path, tmp_path: Path) -> None:
    """Turned by 90 degrees about z and moved: worked out by hand."""
    turn = Pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, 20.0, 0.0]))
    (tile,) = new_tiles(tmp_path, 1)
    place = write_place(tmp_path / "p.map", "map", [replace(tile, map_from_tile=turn)])
    localizer = PlaceLocalizer(place, device="cpu")
    told: list[Pose] = []

    class Fixed:
        def localize(self, image: Any, camera: Any, prior: Pose, **_: Any) -> PoseEstimate:
            told.append(prior)
            return PoseEstimate(
                True, "", Pose(np.eye(3), np.array([1.0, 2.0, 3.0])), np.diag([1.0, 2, 3, 4, 5, 6])
            )

    localizer._store = TileStore(lambda _: Fixed(), lambda _: 1, 10)  # type: ignore[arg-type,return-value]
    found = localizer.localize(IMAGE, CAMERA, Pose(turn.rotation, np.array([8.0, 21.0, 3.0])))
    # x of the tile runs along y of the place, y of the tile against x of it
    assert told[0].translation == pytest.approx([1.0, 2.0, 3.0])
    assert told[0].rotation == pytest.approx(np.eye(3))
    assert found.map_from_camera is not None and found.covariance is not None
    assert found.map_from_camera.translation == pytest.approx([8.0, 21.0, 3.0])
    assert found.map_from_camera.rotation == pytest.approx(turn.rotation)
    assert np.diag(found.covariance) == pytest.approx([2, 1, 3, 5, 4, 6])


def test_a_file_and_a_folder_are_opened_by_one_function(row: Path) -> None:
    assert isinstance(open_localizer(row, device="cpu"), PlaceLocalizer)
    assert isinstance(open_localizer(row / "tile_000.map", device="cpu"), Localizer)
    assert isinstance(open_localizer(row, device="cpu"), RigWitness)
    settings = LocalizationConfig(tiles_mb=7)
    localizer = open_localizer(row, settings, device="cpu")
    assert localizer.config is settings
    found = localizer.localize(IMAGE, CAMERA)  # untrained: it must say so
    assert not found.ok and found.reason
