"""The map file as the node wants it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossfire_core.errors import ConfigError
from crossfire_core.export.geometry import MapGeometry, map_geometry
from crossfire_core.field.threads import THREADS
from crossfire_core.geometry import Pose
from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_ros.settings import Settings


@dataclass(frozen=True)
class LoadedMap:
    """A map that is ready to localize in.

    Attributes:
        localizer: of single images.
        frame_id: frame of its poses.
        base_from_camera: of the robot that mapped.
        name: for people.
        mapping_views: ``map_from_camera`` of the images it was made from.
        geometry: grid and cloud for others, where the settings ask for them.
    """

    localizer: ImageLocalizer
    frame_id: str = "map"
    base_from_camera: Pose = field(default_factory=Pose.identity)
    name: str = ""
    mapping_views: Sequence[Pose] = ()
    geometry: MapGeometry = field(default_factory=MapGeometry)


MapLoader = Callable[[Settings], LoadedMap]


def load_map(settings: Settings) -> LoadedMap:
    """Read the map file and warm up the computation, so that the first image is not slow.

    Raises:
        ConfigError: no file is named.
        MapFormatError: the file is missing, broken, or of another version.
        BackendError: the device or backend does not run here.
        ExportError: no grid or cloud that is asked for can be made.
    """
    if not settings.node.map:
        raise ConfigError("no map: set the parameter `map` to a file made with `crossfire train`")
    import torch

    from crossfire_core.localization.localizer import Localizer
    from crossfire_core.neural_map import NeuralMap

    if settings.node.threads:
        torch.set_num_threads(settings.node.threads)
        os.environ[THREADS] = str(settings.node.threads)  # for the compiled kernels
    path = Path(settings.node.map).expanduser()
    neural_map = NeuralMap.load(path, settings.node.device, settings.node.backend)
    localizer = Localizer(neural_map, settings.localization)
    localizer.warm_up()
    header = neural_map.header
    return LoadedMap(
        localizer,
        header.frame_id,
        header.base_from_camera,
        path.name,
        [view.map_from_camera for view in header.views],
        map_geometry(
            neural_map,
            settings.export,
            grid=settings.node.publish_map,
            points=settings.node.publish_cloud,
        ),
    )
