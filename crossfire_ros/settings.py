"""All settings of the node; needs no ROS.

``localization.*``, ``tracking.*`` and ``export.*`` are the core's own; the rest is
:class:`NodeConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from crossfire_core.config import (
    BACKENDS,
    ExportConfig,
    LocalizationConfig,
    TrackingConfig,
    option,
    replace_from,
)
from crossfire_core.errors import ConfigError

NODE_NAME = "crossfire_localization"


@dataclass(frozen=True)
class NodeConfig:
    """What the node needs beyond the core's settings."""

    map: str = option("", "file of the neural map, made with `crossfire train`")
    device: str = option("auto", "where the map is computed: auto, cpu, cuda or cuda:N")
    backend: str = option("auto", "what evaluates the hash grids", choices=("auto", *BACKENDS))
    threads: int = option(
        0, "CPU threads for the computation, 0 leaves the choice to the libraries", min=0, max=1024
    )
    map_frame: str = option("", "frame of the published poses; empty takes the map file's")
    odom_frame: str = option("odom", "frame of the odometry")
    base_frame: str = option("base_link", "frame of the robot")
    extrinsics: str = option(
        "tf",
        "where the camera's place on the robot comes from: tf (base_frame to the images' frame) "
        "or map (as it was while mapping)",
        choices=("tf", "map"),
    )
    image_transport: str = option(
        "raw",
        "raw takes `image`, compressed takes `image/compressed`",
        choices=("raw", "compressed"),
    )
    calibration: str = option(
        "",
        "file with the camera's calibration, which then takes the place of `camera_info`: YAML of "
        "ROS, OpenCV or kalibr, or COLMAP's cameras.txt",
    )
    rectified: str = option(
        "auto",
        "whether the images are rectified, so that P of the calibration holds instead of K and D; "
        "auto goes by the topic's name (image_rect or image_raw)",
        choices=("auto", "true", "false"),
    )
    use_odometry: bool = option(
        True, "follow `odom` between images and publish map to odom; otherwise map to base"
    )
    tf_broadcast: bool = option(True, "whether /tf is published", live=True)
    tf_rate: float = option(
        30.0, "how often the last correction is published on /tf, Hz", min=1.0, max=1000.0
    )
    transform_tolerance: float = option(
        0.1, "how far into the future /tf is dated, seconds", min=0.0, max=10.0, live=True
    )
    max_image_age: float = option(
        1.0,
        "images whose stamps are further than this from the clock are dropped, seconds; 0 takes "
        "all",
        min=0.0,
        live=True,
    )
    pose_file: str = option(
        "", "where the last pose is kept from one run to the next; empty keeps none"
    )
    path_length: int = option(2000, "most poses on `~/path`", min=2, max=1_000_000, live=True)
    publish_map: bool = option(
        False, "make an occupancy grid of the map and publish it on `~/map`; see export.*"
    )
    publish_cloud: bool = option(
        False, "make a cloud of the map's surfaces and publish it on `~/map_cloud`; see export.*"
    )
    autostart: bool = option(False, "configure and activate on start, without a lifecycle manager")

    @property
    def is_rectified(self) -> bool | None:
        """What ``rectified`` says, None for auto."""
        return None if self.rectified == "auto" else self.rectified == "true"


@dataclass(frozen=True)
class Settings:
    """All parameters of the node.

    Attributes:
        node: the node's own.
        localization: of a single image.
        tracking: of the stream.
        export: of the grid and the cloud.
    """

    node: NodeConfig = field(default_factory=NodeConfig)
    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


PREFIXES = {
    "": NodeConfig,
    "localization.": LocalizationConfig,
    "tracking.": TrackingConfig,
    "export.": ExportConfig,
}


def settings_from(values: dict[str, Any], base: Settings | None = None) -> Settings:
    """Settings with some parameters changed.

    Args:
        values: by the parameter's full name.
        base: the others; the defaults if None.

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of its range.
    """
    base = base or Settings()
    rooms: dict[str, dict[str, Any]] = {prefix: {} for prefix in PREFIXES}
    for full_name, value in values.items():
        room, dot, name = full_name.rpartition(".")
        if room + dot not in rooms:
            raise ConfigError(
                f"unknown setting {full_name}: known are localization.*, tracking.*, export.* and "
                f"{', '.join(f.name for f in fields(NodeConfig))}"
            )
        rooms[room + dot][name] = value
    return Settings(
        replace_from(base.node, rooms[""]),
        replace_from(base.localization, rooms["localization."], "localization."),
        replace_from(base.tracking, rooms["tracking."], "tracking."),
        replace_from(base.export, rooms["export."], "export."),
    )
