"""A place that is larger than a room: a folder of maps, its tiles, in one frame.

Each tile is an ordinary map file. ``place.json`` says which files belong to the place, where each
one is at home and how its frame lies in the place's. ``index.safetensors`` holds of all tiles what
a search without a prior needs, so that no tile is read before it is worth it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from crossfire_core.errors import CrossfireError, MapFormatError
from crossfire_core.files import write_bytes, write_text
from crossfire_core.geometry import Pose
from crossfire_core.maps.header import MapHeader, MappingView, each_camera_once, one_line
from crossfire_core.maps.neural_map import NeuralMap, read_map_header

FloatArray = NDArray[np.float64]
PLACE_VERSION = 1
_CONTENT, _INDEX = "place.json", "index.safetensors"
_BYTE = 127.0  # a descriptor's numbers lie between -1 and 1


@dataclass(frozen=True)
class Tile:
    """One map of a place.

    Attributes:
        file: name in the place's folder.
        sha256: of the file.
        low: ``[3]`` corner of the core, the space in which this tile is the one to use, metres in
            the tile's own frame.
        high: ``[3]`` the opposite corner.
        map_from_tile: the tile's frame in the place's.
        network: tells the image network; tiles with the same one compare descriptors.
    """

    file: str
    sha256: str
    low: FloatArray
    high: FloatArray
    map_from_tile: Pose
    network: str

    def outside(self, point: FloatArray) -> float:
        """How far a point ``[3]`` of the place lies from the core, metres; 0 inside."""
        return float(beyond(self.low, self.high, self.map_from_tile.inverse().apply(point)))

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "file": self.file, "sha256": self.sha256, "network": self.network,
            "low": self.low.tolist(), "high": self.high.tolist(),
            "map_from_tile": self.map_from_tile.to_json(),
        }  # fmt: skip

    @staticmethod
    def from_json(data: dict[str, Any]) -> Tile:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        low, high = (np.array(data[name], dtype=np.float64) for name in ("low", "high"))
        if low.shape != (3,) or high.shape != (3,) or not (low <= high).all():
            raise ValueError("a tile's core is no box")
        file = str(data["file"])
        if Path(file).name != file:
            raise ValueError("a tile lies outside of the folder")
        pose = Pose.from_json(data["map_from_tile"])
        return Tile(file, str(data["sha256"]), low, high, pose, str(data["network"]))


def beyond(low: FloatArray, high: FloatArray, points: FloatArray) -> FloatArray:
    """How far points ``[..., 3]`` lie from a box, in the maximum norm; 0 inside of it."""
    return np.asarray(np.maximum(np.maximum(low - points, points - high), 0.0).max(axis=-1))


@dataclass(frozen=True)
class TileIndex:
    """What a search needs of one tile.

    Attributes:
        words: ``[k, d]`` the vocabulary, the same for all tiles of one network.
        signatures: ``[views, k]`` of the tile's mapping views.
        points: ``[n, 3]`` surface points about the tile's origin, metres.
        point_view: ``[n]`` int64, which view saw each.
        descriptors: ``[n, d]`` int8, of the points, in 127ths.
    """

    words: Tensor
    signatures: Tensor
    points: Tensor
    point_view: Tensor
    descriptors: Tensor

    @staticmethod
    @torch.no_grad()
    def of(neural_map: NeuralMap) -> TileIndex:
        """Of a loaded map."""
        p = neural_map.places
        described = neural_map.field.descriptors(p.points.to(neural_map.device)).cpu()
        small = torch.round(_BYTE * described).to(torch.int8)
        return TileIndex(p.words, p.signatures, p.points, p.point_view, small)

    def described(self, chosen: Tensor) -> Tensor:
        """Descriptors ``[m, d]`` of some points, as numbers."""
        return self.descriptors[chosen].float() / _BYTE


class Place:
    """An opened place: what it consists of; tiles are read one by one."""

    def __init__(
        self,
        folder: Path,
        frame_id: str,
        tiles: Sequence[Tile],
        headers: Sequence[MapHeader],
        index: Sequence[TileIndex],
    ) -> None:
        """Put the parts together; use :meth:`open` for a folder."""
        self.folder, self.frame_id = folder, frame_id
        self.tiles, self.headers, self.index = tuple(tiles), tuple(headers), tuple(index)

    @staticmethod
    def open(folder: str | Path) -> Place:
        """Read what a place consists of, and check that all of it is there.

        Raises:
            MapFormatError: not a place, of another version, a tile is missing, damaged, or not
                the one that belongs to it.
        """
        folder = Path(folder)
        frame_id, tiles = _content(folder)
        headers = [_checked(folder, tile) for tile in tiles]
        return Place(folder, frame_id, tiles, headers, _read_index(folder, tiles, headers))

    def load(self, number: int, device: str = "auto", backend: str = "auto") -> NeuralMap:
        """Read one tile; see :meth:`.NeuralMap.load`."""
        return NeuralMap.load(self.folder / self.tiles[number].file, device, backend)

    def as_new(self, target_from_map: Pose | None = None) -> list[NewTile]:
        """The tiles as parts of another place, in whose frame this one lies."""
        move = target_from_map or Pose.identity()
        return [
            NewTile(self.folder / t.file, t.low, t.high, move @ t.map_from_tile) for t in self.tiles
        ]

    @property
    def file_bytes(self) -> int:
        """Of all files together."""
        return map_bytes(self.folder)

    @cached_property
    def header(self) -> MapHeader:
        """As of one map: all views in the place's frame; camera and sizes are the first tile's."""
        views: dict[tuple[Any, ...], MappingView] = {}  # a view near a border is in several tiles
        for tile, header in zip(self.tiles, self.headers, strict=True):
            for view in header.views:
                recorded = view.recorded and tile.map_from_tile @ view.recorded
                pose = tile.map_from_tile @ view.map_from_camera
                spot = tuple((recorded or pose).translation.round(6))
                moved = replace(view, map_from_camera=pose, recorded=recorded)
                views.setdefault((view.name, view.stamp_ns, spot), moved)
        first = self.headers[0]
        known = frozenset().union(*(header.trained_on for header in self.headers))
        provenance = {**first.provenance, "earlier_views": sorted(known)}
        return replace(
            first, frame_id=self.frame_id, views=tuple(views.values()), provenance=provenance,
            origin=(0.0, 0.0, 0.0), rig=each_camera_once(*(header.rig for header in self.headers)),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """For ``crossfire info``: plain types, sizes in their units."""
        return {
            "place_version": PLACE_VERSION,
            "map_bytes": self.file_bytes,
            **self.header.summary(),
            "networks": len({tile.network for tile in self.tiles}),
            "tiles": {
                tile.file: {
                    "mapping_views": len(each.views),
                    "box_centre_m": [round(x, 3) for x in each.box.centre],
                    "box_half_size_m": each.box.half_size,
                    "cell_m": each.cell_m,
                    "recording": each.provenance.get("recording", ""),
                }
                for tile, each in zip(self.tiles, self.headers, strict=True)
            },
        }


def is_place(path: Path) -> bool:
    """Whether a path names a place, not a single map's file."""
    return path.is_dir()


def open_map(path: str | Path, device: str = "auto", backend: str = "auto") -> NeuralMap | Place:
    """Read a map's file, or see what a place's folder consists of.

    Raises:
        MapFormatError: neither, damaged, incomplete or of another version.
        BackendError: the device or backend is not there.
    """
    if is_place(Path(path)):
        return Place.open(path)
    return NeuralMap.load(path, device, backend)


def map_bytes(path: Path) -> int:
    """Size of a map's file, or of all files of a place."""
    if not is_place(path):
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir())


@dataclass(frozen=True)
class NewTile:
    """A map that becomes part of a place; see :class:`Tile`.

    Attributes:
        file: where it lies; it is copied.
        low: corner of its core.
        high: the opposite corner.
        map_from_tile: its frame in the place's.
    """

    file: Path
    low: FloatArray
    high: FloatArray
    map_from_tile: Pose


def tile_of(path: Path, target_from_map: Pose | None = None) -> list[NewTile]:
    """What a map's file, or a place's folder, brings into a place, in whose frame it lies.

    Raises:
        MapFormatError: neither, damaged or of another version.
    """
    if is_place(path):
        return Place.open(path).as_new(target_from_map)
    views = read_map_header(path).views
    centres = np.stack([view.map_from_camera.translation for view in views])
    pose = target_from_map or Pose.identity()
    return [NewTile(path, centres.min(axis=0), centres.max(axis=0), pose)]


def write_place(folder: Path, frame_id: str, tiles: Sequence[NewTile]) -> Place:
    """Make a place of maps, whole or not at all; what was at its path before is replaced last.

    Args:
        folder: where it goes.
        frame_id: of its frame, for ROS.
        tiles: at least one.

    Raises:
        MapFormatError: a map cannot be read.
        CrossfireError: the folder cannot be written or the disk is full; what was there stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(work, frame_id, tiles)
        work.chmod(0o777 & ~_umask())
        _exchange(work, folder)
    except OSError as error:
        raise CrossfireError(
            f"cannot write {folder}: {error.strerror or error}; "
            "free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Place.open(folder)


def _fill(work: Path, frame_id: str, tiles: Sequence[NewTile]) -> None:
    entries: list[Tile] = []
    arrays: dict[str, Tensor] = {}
    for number, new in enumerate(tiles):
        name = f"tile_{number:03d}.map"
        data = new.file.read_bytes()
        write_bytes(work / name, data)
        neural_map = NeuralMap.load(work / name, "cpu")
        network = _network_id(neural_map)
        digest = hashlib.sha256(data).hexdigest()
        entries.append(Tile(name, digest, new.low, new.high, new.map_from_tile, network))
        index = TileIndex.of(neural_map)
        arrays |= {f"words.{network}": index.words.half()}
        arrays |= {
            f"{name}.signatures": index.signatures.half(),
            f"{name}.points": index.points.float(),
            f"{name}.point_view": index.point_view.to(torch.int32),
            f"{name}.descriptors": index.descriptors,
        }
    index_bytes = to_bytes({k: v.contiguous() for k, v in arrays.items()})
    write_bytes(work / _INDEX, index_bytes)
    content = {
        "place_version": PLACE_VERSION,
        "frame_id": frame_id,
        "index_sha256": hashlib.sha256(index_bytes).hexdigest(),
        "tiles": [tile.to_json() for tile in entries],
    }
    write_text(work / _CONTENT, json.dumps(content, indent=1, allow_nan=False))


def _network_id(neural_map: NeuralMap) -> str:
    """Tells networks and vocabularies apart: signatures of two maps compare where it is equal."""
    digest = hashlib.sha256()
    for name, value in sorted(neural_map.network.state_dict().items()):
        digest.update(name.encode() + value.half().cpu().contiguous().numpy().tobytes())
    digest.update(neural_map.places.words.half().numpy().tobytes())
    return digest.hexdigest()[:16]


def _exchange(new: Path, target: Path) -> None:
    """Put a finished folder in place of what is there."""
    old = new.with_name(f"{new.name}.old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _content(folder: Path) -> tuple[str, list[Tile]]:
    file = folder / _CONTENT
    if not file.is_file():
        raise MapFormatError(
            f"there is no map at {folder}: a place is a folder with {_CONTENT} and its tiles, "
            "as 'crossfire train' makes it"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data["place_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MapFormatError(f"{file} cannot be read: it is damaged") from error
    if version != PLACE_VERSION:
        raise MapFormatError(
            f"place {folder} has format version {one_line(version)}, this program reads "
            f"{PLACE_VERSION}: train it again, or use the program that made it"
        )
    try:
        tiles = [Tile.from_json(tile) for tile in data["tiles"]]
        frame_id, digest = str(data["frame_id"]), str(data["index_sha256"])
        if not tiles:
            raise ValueError("there are no tiles")
    except (KeyError, TypeError, ValueError, AttributeError, CrossfireError) as error:
        raise MapFormatError(f"{file} is not valid: {one_line(error)}") from error
    _check_bytes(folder, _INDEX, digest)
    return frame_id, tiles


def _check_bytes(folder: Path, name: str, digest: str) -> None:
    """Hold a file against its checksum.

    Raises:
        MapFormatError: missing, damaged, or of another place.
    """
    path = folder / name
    if not path.is_file():
        raise MapFormatError(f"place {folder} lacks {name}: copy the whole folder again")
    try:
        with path.open("rb") as file:
            found = _digest(file)
    except OSError as error:
        raise MapFormatError(f"cannot read {path}: {error.strerror or error}") from error
    if found != digest:
        raise MapFormatError(
            f"{path} is not the file that this place was made with: it is damaged or of another "
            "place, copy the whole folder again"
        )


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _checked(folder: Path, tile: Tile) -> MapHeader:
    _check_bytes(folder, tile.file, tile.sha256)
    return read_map_header(folder / tile.file)


def _read_index(
    folder: Path, tiles: Sequence[Tile], headers: Sequence[MapHeader]
) -> list[TileIndex]:
    try:
        with safe_open(folder / _INDEX, framework="pt") as file:
            return [
                _tile_index(file, tile, header) for tile, header in zip(tiles, headers, strict=True)
            ]
    except (SafetensorError, OSError, ValueError) as error:
        raise MapFormatError(
            f"{folder / _INDEX} does not fit its place: {one_line(error)}"
        ) from error


def _tile_index(file: Any, tile: Tile, header: MapHeader) -> TileIndex:
    part = {
        name: file.get_tensor(f"{tile.file}.{name}")
        for name in ("signatures", "points", "point_view", "descriptors")
    }
    words, view = file.get_tensor(f"words.{tile.network}").float(), part["point_view"].long()
    signatures = part["signatures"].float()
    count, size = len(part["points"]), header.field.descriptor_size
    fits = (
        words.shape[1:] == (size,)
        and signatures.shape == (len(header.views), len(words))
        and part["points"].shape == (count, 3)
        and view.shape == (count,)
        and part["descriptors"].shape == (count, size)
        and (count == 0 or (int(view.min()) >= 0 and int(view.max()) < len(header.views)))
    )
    if not fits:
        raise ValueError(f"the arrays of {tile.file} have the wrong shapes")
    return TileIndex(words, signatures, part["points"], view, part["descriptors"])
