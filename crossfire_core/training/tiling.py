"""How a place is cut into tiles, each small enough for one map.

A map's tables resolve a share of its box, and so many mapping views see so much of it. Where a
recording goes further, the place is cut in two again and again, across its longest side and where
the fewest views stand near the cut, until each part is small enough. Where the views leave a gap,
as between two floors, it is cut there first. A part's *core* is the space that is its own; its
tile also learns from the views within a margin around the core, so that each view lies in a tile
together with all views that stand around it and see what it sees.

Sizes are stated in the median distance of surfaces from the cameras, because a recording's unit
need not be a metre.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crossfire_core.maps.place import beyond
from crossfire_core.recordings import Recording
from crossfire_core.training.views import View, view_of
from crossfire_core.vision.adjustment import match_pairs
from crossfire_core.vision.local_features import detect
from crossfire_core.vision.triangulation import View as Sight
from crossfire_core.vision.triangulation import triangulate

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MARGIN = 0.75  # distances around a core whose views a tile learns from, too
_LARGEST = 7.0  # distances that the views of a core may be apart along an axis
_GAP = 1.0  # distances without a view between two of them: they hardly see the same
_FEWEST = 24  # views that make a tile of their own
_SLACK = 0.1  # of a side, by which a cut may be elsewhere than where parts are alike
_CUTS = 41  # places that are looked at for the cut
_STOPS, _STEPS = 12, (1, 2, 4, 8)  # where surfaces are looked at, and how many frames apart
_FINE = 1000  # frames, spread over the recording, among which these steps are
_SIDE, _FEATURES = 480, 600  # of the images that are looked at
_LEAST_PARALLAX = 0.03  # baseline by distance of a point that counts
_LEAST_POINTS = 50  # fewer give no distance of surfaces


@dataclass(frozen=True)
class Part:
    """One tile's share of a recording.

    Attributes:
        low: ``[3]`` corner of the core, metres.
        high: ``[3]`` the opposite corner.
        views: positions of the views that the tile learns from, rising: those in the core and
            those within the margin around it.
    """

    low: FloatArray
    high: FloatArray
    views: IntArray


def parts_of(recording: Recording) -> list[Part]:
    """The tiles that a recording needs; views are positions in its list of frames.

    Returns:
        One part where it is of a room, or where its images do not say how far surfaces are.
    """
    posed = [i for i, f in enumerate(recording.infos) if f.world_from_camera is not None]
    centres = np.array([recording.infos[i].world_from_camera.translation for i in posed])  # type: ignore[union-attr]
    distance = surface_distance(recording, posed) if len(posed) > 2 else None
    if distance is None:
        return [_whole(centres.reshape(-1, 3), np.arange(len(recording)))]
    found = cut(centres, distance)
    if len(found) == 1:  # frames without a pose, too: as if nobody had looked
        return [_whole(centres, np.arange(len(recording)))]
    found.sort(key=lambda part: -len(part.views))  # the first one trains the image network
    return [Part(part.low, part.high, np.array(posed)[part.views]) for part in found]


def _whole(centres: FloatArray, views: IntArray) -> Part:
    low = centres.min(axis=0) if len(centres) else np.zeros(3)
    return Part(low, centres.max(axis=0) if len(centres) else np.zeros(3), views)


def surface_distance(recording: Recording, posed: list[int]) -> float | None:
    """Median distance of surfaces from the cameras, from points that some pairs of images share.

    Args:
        recording: with poses.
        posed: positions of the frames that have one.

    Returns:
        Metres; None where images share too little to say.
    """
    fine = np.unique(np.linspace(0, len(posed) - 1, min(len(posed), _FINE)).round().astype(int))
    stops = np.unique(np.linspace(0, len(fine) - 2, _STOPS).round().astype(int))
    pairs = [
        (posed[fine[i]], posed[fine[i + step]])
        for i in stops
        for step in _STEPS
        if i + step < len(fine)
    ]
    wanted = sorted({i for pair in pairs for i in pair})
    views = {
        i: view_of(frame, _SIDE)
        for i, frame in zip(wanted, recording.frames(wanted), strict=True)
    }  # fmt: skip
    distances = _distances(views, pairs)
    return float(np.median(distances)) if len(distances) >= _LEAST_POINTS else None


def _distances(views: dict[int, View], pairs: list[tuple[int, int]]) -> FloatArray:
    """Of points triangulated in pairs of views, from both of them, ``[n]``."""
    number = {i: n for n, i in enumerate(views)}
    every = list(views.values())
    features = [detect(view.image, _FEATURES, view.camera) for view in every]
    matches = match_pairs(
        features, [view.camera for view in every], [(number[a], number[b]) for a, b in pairs]
    )
    found = [np.zeros(0)]
    for (a, b), matched in matches.items():
        sights = [
            Sight.of(every[n].camera, every[n].map_from_camera, features[n].pixels.astype(float))
            for n in (a, b)
        ]
        tracks = triangulate(sights, [(0, 1, matched.astype(np.int64))], pixels=2.0)
        centres = [every[n].map_from_camera.translation for n in (a, b)]
        away = [np.linalg.norm(tracks.points - centre, axis=1) for centre in centres]
        clear = np.linalg.norm(centres[0] - centres[1]) > _LEAST_PARALLAX * np.maximum(*away)
        found += [distance[clear] for distance in away]
    return np.concatenate(found)


def cut(centres: FloatArray, distance: float) -> list[Part]:
    """Cut a place into parts.

    Args:
        centres: ``[n, 3]`` where the mapping views stand, metres.
        distance: median distance of surfaces from them, metres.

    Returns:
        One part where the place is small; each view lies in the core of exactly one.
    """
    groups = [np.arange(len(centres))]
    if np.ptp(centres, axis=0).max() > _LARGEST * distance:
        groups = _cut(centres, groups[0], distance)
    found = []
    for group in groups:
        low, high = centres[group].min(axis=0), centres[group].max(axis=0)
        near = beyond(low, high, centres) <= MARGIN * distance
        found.append(Part(low, high, np.flatnonzero(near)))
    return found


def _cut(centres: FloatArray, group: IntArray, distance: float) -> list[IntArray]:
    """Groups of views that stand together and are not too far apart."""
    mine = centres[group]
    at = _gap(mine, distance)
    if at is None:
        extent = np.ptp(mine, axis=0)
        axis = int(extent.argmax())
        pieces = int(np.ceil(extent[axis] / (_LARGEST * distance)))
        if pieces < 2:
            return [group]
        at = axis, _best_cut(mine[:, axis], (pieces // 2) / pieces, MARGIN * distance)
    below = mine[:, at[0]] < at[1]
    return [
        *_cut(centres, group[below], distance),
        *_cut(centres, group[~below], distance),
    ]


def _gap(centres: FloatArray, distance: float) -> tuple[int, float] | None:
    """(axis, middle) of the widest gap between enough views on either side, if it is wide."""
    widest, found = _GAP * distance, None
    for axis in range(3):
        along = np.sort(centres[:, axis])
        for number, (a, b) in enumerate(pairwise(along), 1):
            if b - a > widest and min(number, len(along) - number) >= _FEWEST:
                widest, found = float(b - a), (axis, float(0.5 * (a + b)))
    return found


def _best_cut(along: FloatArray, share: float, margin: float) -> float:
    """Where along an axis the fewest views are near, about a share of the way."""
    first, last = along.min(), along.max()
    shares = share + _SLACK * np.linspace(-1.0, 1.0, _CUTS)
    places = first + shares * (last - first)
    near = (np.abs(along[None] - places[:, None]) <= margin).sum(axis=1)
    # of places alike, the one nearest to where it should be
    return float(places[np.lexsort([np.abs(shares - share), near])[0]])
