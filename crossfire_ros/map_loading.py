"""The map file as the node wants it."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import ConfigError, CrossfireError, MapFormatError
from crossfire_core.field.threads import THREADS
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_ros.settings import Settings

if TYPE_CHECKING:
    from crossfire_core.export.geometry import MapGeometry
    from crossfire_core.maps.header import MapHeader


@dataclass(frozen=True)
class LoadedMap:
    """A map that is ready to localize in.

    Attributes:
        localizer: of single images.
        frame_id: frame of its poses.
        base_from_camera: of the robot that mapped.
        name: for people.
        mapping_views: ``map_from_camera`` of the images it was made from.
        geometry: grid and cloud for others, where the settings ask for them; None for neither.
        identity: tells it from other maps whose frames have the same name.
        mounts: ``base_from_camera`` of each camera of the robot that mapped, by name, where it
            had several.
        base_frame: what the mapping robot's frame was called; empty where it is not known.
    """

    localizer: ImageLocalizer
    frame_id: str = "map"
    base_from_camera: Pose = field(default_factory=Pose.identity)
    name: str = ""
    mapping_views: Sequence[Pose] = ()
    geometry: MapGeometry | None = None
    identity: str = ""
    mounts: Mapping[str, Pose] = field(default_factory=dict)
    base_frame: str = ""

    def mount(self, name: str) -> Pose:
        """Where a camera sat on the robot that mapped; an empty name is the only, or the first.

        Raises:
            ConfigError: it had no camera of that name.
        """
        if not name:
            return self.base_from_camera
        if name not in self.mounts:
            known = f"its cameras are {', '.join(self.mounts)}" if self.mounts else "it had one"
            raise ConfigError(
                f"the robot that mapped had no camera {name!r} ({known}): set extrinsics to tf"
            )
        return self.mounts[name]

    @property
    def upward(self) -> NDArray[np.float64] | None:
        """``[3]`` unit: the mapping robot's z axis in the map, averaged; None where not known.

        A map whose camera has no place on a robot says nothing about how a robot stands.
        """
        mount = self.base_from_camera
        if not self.mapping_views or mount.distance(Pose.identity())[1] < 1e-3:
            return None
        axes = [(view @ mount.inverse()).rotation[:, 2] for view in self.mapping_views]
        mean = np.mean(axes, axis=0)
        length = float(np.linalg.norm(mean))
        return mean / length if length > 0.5 else None


ReadMap = Callable[[], LoadedMap]
MapLoader = Callable[[Settings], ReadMap]


class Loading:
    """A map on its way, read by one thread and looked at by another.

    Attributes:
        file: where it is, as the parameter has it.
        done: whether it has ended, in one way or the other.
        result: the map, or None.
        failure: why there is none, for people.
    """

    def __init__(self, read: ReadMap, file: str = "") -> None:
        """Prepare; :meth:`run` does it."""
        self._read, self.file = read, file
        self.done = False
        self.result: LoadedMap | None = None
        self.failure = ""

    def run(self) -> None:
        """Read the map; does not raise."""
        try:
            self.result = self._read()
        except (CrossfireError, MemoryError, OSError) as error:
            self.failure = str(error) or type(error).__name__
        except Exception:  # whatever a driver of a graphics card raises
            self.failure = traceback.format_exc()
        self.done = True


def load_map(settings: Settings) -> ReadMap:
    """Look for the map file, which is quick, and return what reads it, which is not.

    Raises:
        ConfigError: no file is named.
        MapFormatError: there is no such file.
    """
    if not settings.node.map:
        raise ConfigError("no map: set the parameter `map` to a file made with `crossfire train`")
    path = Path(settings.node.map).expanduser()
    if not path.exists():
        raise MapFormatError(f"there is no map at {path}: make one with 'crossfire train'")
    return partial(_read, settings, path)


def _read(settings: Settings, path: Path) -> LoadedMap:
    """Read the file and warm the computation up, so that the first image is not slow.

    Raises:
        MapFormatError: the file is broken, or of another version.
        BackendError: the device or backend does not run here.
        ExportError: no grid or cloud that is asked for can be made.
    """
    import torch

    from crossfire_core.export.geometry import map_geometry
    from crossfire_core.localization.place import open_localizer

    if settings.node.threads:
        torch.set_num_threads(settings.node.threads)
        os.environ[THREADS] = str(settings.node.threads)  # for the compiled kernels
    node = settings.node
    localizer = open_localizer(path, settings.localization, node.device, node.backend)
    localizer.warm_up()
    header = localizer.neural_map.header
    return LoadedMap(
        localizer,
        header.frame_id,
        header.base_from_camera,
        path.name,
        [view.map_from_camera for view in header.views],
        map_geometry(
            localizer.neural_map,
            settings.export,
            grid=node.publish_map,
            points=node.publish_cloud,
        ),
        _identity(header),
        base_frame=header.base_frame,
        mounts=header.mounts,
    )


def _identity(header: MapHeader) -> str:
    text = json.dumps(header.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
