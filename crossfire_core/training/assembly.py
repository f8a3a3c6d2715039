"""What a finished training becomes: header, mapping views, places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crossfire_core import __version__
from crossfire_core.config import to_dict
from crossfire_core.maps.header import MapHeader, MappingView, RigCamera
from crossfire_core.maps.places import Places, signature
from crossfire_core.recordings.lazy import FrameInfo

if TYPE_CHECKING:
    from crossfire_core.training.trainer import Trainer

_POINTS_A_VIEW = 96  # retrieval compares an image with so many of each view


def map_header(t: Trainer) -> MapHeader:
    """What the map says about itself."""
    c = t.config
    provenance = {
        "recording": t.recording.name,
        "frames": len(t.recording),
        "pose_source": t.recording.pose_source,
        "holdout_every": t.course.holdout_every,
        "steps": [t.geometry_budget.done, t.descriptor_budget.done],
        "seed": c.seed,
        "first_weights": t.first_weights,
        "program": f"crossfire {__version__}",
        "training": {k: to_dict(getattr(c, k)) for k in ("geometry", "descriptor")},
    }
    east, north, up = (float(each) for each in t.origin)
    return MapHeader(
        t.recording.world_frame, t.base_camera, t.recording.base_from_camera,
        t.survey.box, t.survey.spacing, c.field, c.render, c.features,
        _mapping_views(t), provenance, image_side=c.image_side, origin=(east, north, up),
        base_frame=t.recording.base_frame, rig=t.rig,
    )  # fmt: skip


def _mapping_views(t: Trainer) -> tuple[MappingView, ...]:
    # who lets poses be learned does not trust the recording's: then what came out counts
    learned = t.geometry.corrects_poses
    views = []
    for view, pose in zip(t.views, t.recorded, strict=True):
        same = learned or pose is view.map_from_camera
        recorded = None if same else pose.shifted(t.origin)
        trained = view.map_from_camera.shifted(t.origin)
        views.append(MappingView(view.name, view.stamp_ns, trained, recorded, view.rig_camera))
    return tuple(views)


@torch.no_grad()
def places_of(t: Trainer) -> Places:
    """What an image is compared with where nothing says where it was taken."""
    assert t.surfaces is not None and t.descriptors is not None
    rng = np.random.default_rng(t.config.seed)
    points, view = (each.cpu() for each in t.surfaces.clear())
    order = torch.from_numpy(rng.permutation(len(points)))
    rank = _rank_within(view[order])
    chosen = order[rank < _POINTS_A_VIEW].sort().values
    points, view = points[chosen].to(t.device), view[chosen]
    words = t.words(points)
    signatures = [
        signature(t.network(image.to(t.device).float() / 255.0)[0], words)
        for image, _ in t.descriptors.images
    ]
    return Places(words.cpu(), torch.stack(signatures).cpu(), points.cpu(), view)


def rig_of(infos: Sequence[FrameInfo]) -> tuple[RigCamera, ...]:
    """The cameras that frames of a rig are of, in the order of their first ones."""
    found: dict[str, RigCamera] = {}
    for info in infos:
        if info.mount is not None and info.mount.camera not in found:
            mount = info.mount
            found[mount.camera] = RigCamera(mount.camera, info.camera, mount.base_from_camera)
    return tuple(found.values())


def _rank_within(group: Tensor) -> Tensor:
    """Of each element, how many before it are of the same group, ``[n]``."""
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group)
    first = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group)) - first
    return rank
