"""Everything about a map that is not a parameter, as the JSON at the head of its file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crossfire_core.config import (
    FeatureConfig,
    FieldConfig,
    RenderConfig,
    replace_from,
    to_dict,
)
from crossfire_core.errors import CrossfireError, MapFormatError
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.geometry import Camera, Pose
from crossfire_core.maps.chance import Chance
from crossfire_core.rendering.sampling import Spacing

FORMAT_VERSION = 3
_MAX_HEADER_BYTES = 32 << 20
_UNMEASURED = {"matches": 0.2, "patches": 0.2}  # a map that was not measured asks for more
_MAX_SIDE = 16384  # of the mapping camera's image, pixels


@dataclass(frozen=True)
class RigCamera:
    """One of several cameras of the robot that mapped.

    Attributes:
        name: as the recording has it.
        camera: at its recorded size.
        base_from_camera: where it sat on the robot.
    """

    name: str
    camera: Camera
    base_from_camera: Pose

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        mount = self.base_from_camera.to_json()
        return {"name": self.name, "camera": self.camera.to_json(), "base_from_camera": mount}

    @staticmethod
    def from_json(data: dict[str, Any]) -> RigCamera:
        """The inverse of :meth:`to_json`."""
        mount = Pose.from_json(data["base_from_camera"])
        return RigCamera(str(data["name"]), _camera(data["camera"]), mount)


def each_camera_once(*rigs: Sequence[RigCamera]) -> tuple[RigCamera, ...]:
    """The cameras of several rigs, each as the first that has one of its name knows it."""
    found: dict[str, RigCamera] = {}
    for each in chain.from_iterable(rigs):
        found.setdefault(each.name, each)
    return tuple(found.values())


@dataclass(frozen=True)
class MappingView:
    """One image that the map was made from.

    Attributes:
        name: the frame's name in its recording.
        stamp_ns: its stamp.
        map_from_camera: its pose, after any correction before or during training.
        recorded: its pose as the recording has it; None where that is the same.
        rig_camera: name of the rig's camera that took it; empty where there was one camera.
    """

    name: str
    stamp_ns: int
    map_from_camera: Pose
    recorded: Pose | None = None
    rig_camera: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        plain = {"name": self.name, "stamp_ns": self.stamp_ns, **self.map_from_camera.to_json()}
        plain |= {"rig_camera": self.rig_camera} if self.rig_camera else {}
        return {**plain, "recorded": self.recorded.to_json()} if self.recorded else plain

    @staticmethod
    def from_json(data: dict[str, Any]) -> MappingView:
        """The inverse of :meth:`to_json`."""
        recorded = Pose.from_json(data["recorded"]) if "recorded" in data else None
        return MappingView(
            str(data["name"]), int(data["stamp_ns"]), Pose.from_json(data), recorded,
            str(data.get("rig_camera", "")),
        )  # fmt: skip


@dataclass(frozen=True)
class MapHeader:
    """Everything about a map that is not a parameter.

    Attributes:
        frame_id: name of the map's frame, for ROS.
        camera: of the mapping images, at their recorded size; of a rig, the first one.
        base_from_camera: where the camera sat on the mapping robot; of a rig, the first one.
        box: the scene's inner box.
        spacing: how samples spread along rays.
        field: sizes of the field.
        render: numbers of samples a ray.
        features: sizes of the image network.
        views: the mapping views.
        provenance: recording, version, seed, steps: where the map comes from.
        covariance_factor: on all covariances (not on standard deviations), which made them right
            on frames not trained on.
        image_side: longer side of the images that training and patches saw, pixels, unless they
            were smaller.
        chance: how much of an image of another place agrees with this map.
        origin: ``[3]`` where in the map's frame the field has its zero, metres. Single precision
            holds a room, not a country's grid: far from its frame's origin a map has one of its
            own. Poses in the header are the map's; points and box are about this origin.
        base_frame: what that robot's frame was called; empty where it is not known.
        rig: the cameras of a robot that mapped with several; empty where there was one.
    """

    frame_id: str
    camera: Camera
    base_from_camera: Pose
    box: SceneBox
    spacing: Spacing
    field: FieldConfig
    render: RenderConfig
    features: FeatureConfig
    views: tuple[MappingView, ...]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    covariance_factor: float = 1.0
    image_side: int = 640
    chance: Chance = dataclasses.field(default_factory=Chance)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    base_frame: str = ""
    rig: tuple[RigCamera, ...] = ()

    @property
    def mounts(self) -> dict[str, Pose]:
        """``base_from_camera`` of each camera of a rig, by name."""
        return {each.name: each.base_from_camera for each in self.rig}

    def camera_of(self, view: MappingView) -> Camera:
        """The camera that took a mapping view, at its recorded size."""
        of_rig = (each.camera for each in self.rig if each.name == view.rig_camera)
        return next(of_rig, self.camera)

    @property
    def trained_on(self) -> frozenset[str]:
        """Names of all frames that the map has learnt from, also before it was extended."""
        earlier = self.provenance.get("earlier_views", ())
        return frozenset((*(view.name for view in self.views), *map(str, earlier)))

    @property
    def field_poses(self) -> list[Pose]:
        """Poses of the mapping views about :attr:`origin`."""
        return [view.map_from_camera.shifted(-np.array(self.origin)) for view in self.views]

    @property
    def cell_m(self) -> float:
        """Side of the finest cells that descriptors are told apart by, metres."""
        grid = self.field.descriptor
        finest = grid.base_resolution * grid.per_level_scale ** (grid.levels - 1)
        return 4.0 * self.box.half_size / finest  # the box takes the middle half of an axis

    @property
    def moved(self) -> tuple[float, float]:
        """By how much training moved the recording's poses, medians in metres and radians."""
        pairs = [(view.map_from_camera, view.recorded) for view in self.views]
        moves = [a.distance(b) if b is not None else (0.0, 0.0) for a, b in pairs]
        metres, radians = np.median(moves, axis=0)
        return float(metres), float(radians)

    def summary(self) -> dict[str, Any]:
        """What ``crossfire info`` says of files and of places, as plain types."""
        centres = np.stack([view.map_from_camera.translation for view in self.views])
        return {
            "frame_id": self.frame_id,
            "camera": self.camera.to_json(),
            "rig": [each.name for each in self.rig],
            "mapping_views": len(self.views),
            "path_extent_m": np.ptp(centres, axis=0).round(3).tolist(),
        }

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "format_version": FORMAT_VERSION,
            "frame_id": self.frame_id,
            "camera": self.camera.to_json(),
            "base_from_camera": self.base_from_camera.to_json(),
            "box": {"centre": list(self.box.centre), "half_size": self.box.half_size},
            "spacing": vars(self.spacing),
            "field": to_dict(self.field),
            "render": to_dict(self.render),
            "features": to_dict(self.features),
            "views": [view.to_json() for view in self.views],
            "provenance": self.provenance,
            "covariance_factor": self.covariance_factor,
            "image_side": self.image_side,
            "chance_cells": vars(self.chance),
            "origin": list(self.origin),
            "base_frame": self.base_frame,
            "rig": [each.to_json() for each in self.rig],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> MapHeader:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        views = [MappingView.from_json(view) for view in data["views"]]
        x, y, z = (float(c) for c in data["box"]["centre"])
        box = SceneBox((x, y, z), float(data["box"]["half_size"]))
        spacing = Spacing(**{k: float(v) for k, v in data["spacing"].items()})
        numbers = (*box.centre, box.half_size, spacing.near, spacing.far, spacing.knee)
        if not np.isfinite(numbers).all() or box.half_size <= 0 or spacing.knee <= 0:
            raise ValueError("box or spacing out of range")
        if not 0 < spacing.near < spacing.far:
            raise ValueError("near and far are no range")
        if not views:
            raise ValueError("there are no mapping views")
        factor = float(data.get("covariance_factor", 1.0))  # older maps have none
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError("the factor on covariances is out of range")
        side = int(data.get("image_side", 640))
        if not 1 <= side <= _MAX_SIDE:
            raise ValueError("the side of the mapping images is out of range")
        measured = data.get("chance_cells", _UNMEASURED)
        chance = Chance(**{k: float(v) for k, v in measured.items()})
        if not (0.0 < chance.matches < 1.0 and 0.0 < chance.patches < 1.0):
            raise ValueError("chances of agreement are out of range")
        east, north, up = (float(c) for c in data.get("origin", (0.0, 0.0, 0.0)))
        if not np.isfinite((east, north, up)).all():
            raise ValueError("the origin is out of range")
        return MapHeader(
            str(data["frame_id"]),
            _camera(data["camera"]),
            Pose.from_json(data["base_from_camera"]),
            box,
            spacing,
            replace_from(FieldConfig(), data["field"]),
            replace_from(RenderConfig(), data["render"]),
            replace_from(FeatureConfig(), data["features"]),
            tuple(views),
            dict(data["provenance"]),
            factor,
            side,
            chance,
            (east, north, up),
            str(data.get("base_frame", "")),
            tuple(RigCamera.from_json(each) for each in data.get("rig", ())),
        )


def _camera(data: dict[str, Any]) -> Camera:
    camera = Camera.from_json(data)
    if not all(isinstance(n, int) for n in camera.size):
        raise ValueError("the camera's size is not in whole pixels")
    if max(camera.size) > _MAX_SIDE:
        raise ValueError("the camera is larger than any")
    return camera


def one_line(error: object) -> str:
    """A message of any origin as one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def read_header(path: Path, text: str) -> MapHeader:
    """The header of a map file.

    Args:
        path: of the file, for messages.
        text: its JSON.

    Raises:
        MapFormatError: damaged, of another version, or out of range.
    """
    if len(text) > _MAX_HEADER_BYTES:
        raise MapFormatError(f"the header of {path} is too large to be a map's")
    try:
        data = json.loads(text)
        version = data["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MapFormatError(f"the header of {path} cannot be read: the file is damaged") from error
    if version != FORMAT_VERSION:
        raise MapFormatError(
            f"map {path} has format version {one_line(version)}, "
            f"this program reads {FORMAT_VERSION}: train it again, or use the program that made it"
        )
    try:
        return MapHeader.from_json(data)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise MapFormatError(f"the header of {path} is not valid: {one_line(error)}") from error
    except CrossfireError as error:
        raise MapFormatError(f"the header of {path} is not valid: {one_line(error)}") from error
