"""Time and memory of localization as a place grows, on a place that exists.

    python tools/place_growth.py building.map building/query_bag --tiles 1,2,4,8,24

The place is made smaller by leaving tiles out and larger by putting copies of all of it beside
each other, 1 km apart. Each size runs in a process of its own; the same images, those that lie in
the first tile, are localized from the truth and from nothing, and then one image of every tile, so
that all tiles have been in memory once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import Search
from crossfire_core.localization.place import PlaceLocalizer
from crossfire_core.maps.place import NewTile, Place, is_place, tile_of, write_place
from crossfire_core.recordings import Recording, open_recording
from crossfire_core.recordings.frame import Frame

APART = 1000.0  # metres


def grown(place: Place, count: int, folder: Path) -> Path:
    """A place of so many tiles, made of those of another one."""
    tiles: list[NewTile] = []
    while len(tiles) < count:
        away = Pose(np.eye(3), np.array([APART * (len(tiles) // len(place.tiles)), 0.0, 0.0]))
        tiles += place.as_new(away)
    write_place(folder / f"{count}.map", place.frame_id, tiles[:count])
    return folder / f"{count}.map"


def inside(place: Place, source: Recording, number: int, most: int) -> list[Frame]:
    """Some frames that lie in a tile's core."""
    tile, found = place.tiles[number], []
    for index, info in enumerate(source.infos):
        pose = info.world_from_camera
        if pose is not None and tile.outside(pose.translation) == 0.0:
            found.append(index)
    return list(source.frames(found[:most]))


def run(path: Path, recording: Path, original: Path, images: int) -> dict[str, Any]:
    """Figures of one size; processor times, which a busy machine changes least."""
    place, source = Place.open(original), open_recording(recording)
    localizer = PlaceLocalizer(Place.open(path))
    localizer.warm_up()
    frames = inside(place, source, 0, images)
    times: dict[str, list[float]] = {"prior": [], "nothing": []}
    for repeat in range(2):  # the first round fills what is kept
        for frame in frames:
            for kind, prior in (("prior", frame.world_from_camera), ("nothing", None)):
                sigma = (0.05, 0.02) if prior else None
                began = time.process_time()
                localizer.localize(frame.image, frame.camera, prior, search=Search(sigma))
                if repeat:
                    times[kind].append(1e3 * (time.process_time() - began))
    for tile in range(len(localizer.place.tiles)):
        move = (APART * (tile // len(place.tiles)), 0.0, 0.0)
        for frame in inside(place, source, tile % len(place.tiles), 1):
            there = frame.world_from_camera and frame.world_from_camera.shifted(move)
            localizer.localize(frame.image, frame.camera, there, search=Search((0.05, 0.02)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "tiles": len(localizer.place.tiles),
        "images": len(frames),
        "prior_cpu_ms": float(np.median(times["prior"])),
        "nothing_cpu_ms": float(np.median(times["nothing"])),
        "in_memory": len(localizer.loaded),
        "peak_mb": round(peak),
    }


def main() -> None:
    """Print a line of JSON a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="or a map of one tile")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--tiles", default="1,2,4,8,24")
    parser.add_argument("--images", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not is_place(given.place):
            given.place = write_place(Path(folder) / "one", "map", tile_of(given.place)).folder
        place = Place.open(given.place)
        for count in map(int, given.tiles.split(",")):
            path = grown(place, count, Path(folder))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                what = (path, given.recording, given.place, given.images)
                print(json.dumps(pool.apply(run, what)), flush=True)


if __name__ == "__main__":
    main()
