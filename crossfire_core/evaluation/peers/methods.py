"""The peers by name; :data:`crossfire_core.registry.PEERS` points here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from crossfire_core.evaluation.peers import learned
from crossfire_core.evaluation.peers.features import FeatureMethod, Features, Pairs, Sift
from crossfire_core.evaluation.peers.sparse import (
    GluedLocalizer,
    RetrievalLocalizer,
    SparseLocalizer,
    build,
    describe_places,
)
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.recordings.frame import Frame

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Peer:
    """Another method.

    Attributes:
        title: for tables.
        make: from mapping frames in order of time, and a function that is told what is being
            done, to what localizes and the size of its map in bytes.
    """

    title: str
    make: Callable[[Iterable[Frame], Tell], tuple[ImageLocalizer, int]]


def _sparse(
    kind: Callable[[], FeatureMethod],
    glue_kind: Callable[[], Callable[[Features, Features], Pairs]] | None,
    mapping: Iterable[Frame],
    tell: Tell,
) -> tuple[ImageLocalizer, int]:
    features, glue = kind(), glue_kind() if glue_kind else None
    made = build(mapping, features, lambda w, i, n: tell(f"{w} {i} of {n or '?'}"))
    size = made.file_bytes(features.bytes_a_number, with_features=glue is not None)
    if glue is not None:
        return GluedLocalizer(made, features, glue), size
    return SparseLocalizer(made, features), size


def _retrieval(mapping: Iterable[Frame], tell: Tell) -> tuple[ImageLocalizer, int]:
    features = Sift()
    places, poses = describe_places(mapping, features)
    return RetrievalLocalizer(places, features, poses), places.file_bytes(1)


SIFT = Peer("SIFT", partial(_sparse, Sift, None))
XFEAT = Peer("XFeat", partial(_sparse, learned.XFeat, None))
LIGHTERGLUE = Peer("XFeat + LighterGlue", partial(_sparse, learned.XFeat, learned.LighterGlue))
LIGHTGLUE = Peer("ALIKED + LightGlue", partial(_sparse, learned.Aliked, learned.LightGlue))
RETRIEVAL = Peer("retrieval alone", _retrieval)
