"""All settings of the node; needs no ROS.

``localization.*``, ``tracking.*`` and ``export.*`` are the core's own; the rest is
:class:`NodeConfig`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from crossfire_core.config import (
    ExportConfig,
    LocalizationConfig,
    TrackingConfig,
    option,
    replace_from,
)
from crossfire_core.errors import ConfigError
from crossfire_core.registry import BACKENDS

NODE_NAME = "crossfire_localization"
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")
_MOST_CAMERAS = 8


@dataclass(frozen=True)
class NodeConfig:
    """What the node needs beyond the core's settings."""

    map: str = option(
        "",
        "file of the neural map, made with `crossfire train`; another one takes its place as soon "
        "as it is loaded",
        live=True,
    )
    device: str = option("auto", "where the map is computed: auto, cpu, cuda or cuda:N")
    backend: str = option("auto", "what evaluates the hash grids", registry=BACKENDS)
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
    cameras: tuple[str, ...] = option(
        (),
        "names of the robot's cameras, such as [front, left]: each has its topics under its name, "
        "`front/image` and `front/camera_info`; empty is one camera, on `image` and `camera_info`",
    )
    camera_sync: float = option(
        0.005,
        "images of several cameras are solved together if their stamps are no further apart than "
        "this, seconds; others each by itself",
        min=0.0,
        max=1.0,
    )
    calibration: str = option(
        "",
        "file with the camera's calibration, which then takes the place of `camera_info`: YAML of "
        "ROS, OpenCV or kalibr, or COLMAP's cameras.txt; {camera} stands for the name of each of "
        "several cameras",
    )
    mask: str = option(
        "",
        "image whose black pixels are left out of every image (the robot's body, the border of "
        "the lens); any size of the images' shape; {camera} as above",
    )
    rectified: str = option(
        "auto",
        "whether the images are rectified, so that P of the calibration holds instead of K and D; "
        "auto goes by the topic's name (image_rect or image_raw)",
        choices=("auto", "true", "false"),
    )
    use_odometry: bool = option(
        True, "follow the odometry between images and publish map to odom; otherwise map to base"
    )
    odometry_source: str = option(
        "topic",
        "where the odometry comes from: topic (`odom`) or tf (odom_frame to base_frame, for "
        "robots whose filter corrects it)",
        choices=("topic", "tf"),
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
    max_rate: float = option(
        0.0,
        "images are looked at no more often than this, Hz; 0 takes all that there is time for",
        min=0.0,
        max=1000.0,
        live=True,
    )
    min_motion_m: float = option(
        0.0,
        "a localized robot that has moved by less, by its odometry, since its last fix looks only "
        "as often as it must to stay localized, metres; 0 takes every image",
        min=0.0,
        max=10.0,
        live=True,
    )
    min_motion_deg: float = option(
        3.0, "and that has turned by less, degrees", min=0.0, max=180.0, live=True
    )
    pose_file: str = option(
        "", "where the last pose is kept from one run to the next; empty keeps none"
    )
    pose_file_period: float = option(
        5.0, "how often it is written while localized, seconds", min=0.1, max=3600.0, live=True
    )
    set_initial_pose: bool = option(
        False, "begin at initial_pose, unless a pose not older than a minute was kept"
    )
    path_length: int = option(2000, "most poses on `~/path`", min=2, max=1_000_000, live=True)
    publish_map: bool = option(
        False, "make an occupancy grid of the map and publish it on `~/map`; see export.*"
    )
    publish_cloud: bool = option(
        False, "make a cloud of the map's surfaces and publish it on `~/map_cloud`; see export.*"
    )
    bond: bool = option(
        True, "keep a bond with Nav2's lifecycle manager, where bondpy is installed"
    )
    autostart: bool = option(False, "configure and activate on start, without a lifecycle manager")

    def __post_init__(self) -> None:
        """Refuse names of cameras that make no topics."""
        for name in self.cameras:
            if not isinstance(name, str) or not _CAMERA_NAME.fullmatch(name):
                raise ConfigError(
                    f"cameras has {name!r}: a camera's name begins with a letter, and letters, "
                    "digits, _ and / follow"
                )
        if len(set(self.cameras)) < len(self.cameras) or len(self.cameras) > _MOST_CAMERAS:
            raise ConfigError(
                f"cameras is {list(self.cameras)}: name each once, and {_MOST_CAMERAS} at most"
            )

    @property
    def is_rectified(self) -> bool | None:
        """What ``rectified`` says, None for auto."""
        return None if self.rectified == "auto" else self.rectified == "true"


@dataclass(frozen=True)
class InitialPose:
    """Where the robot stands at the start, with :attr:`NodeConfig.set_initial_pose`."""

    x: float = option(0.0, "of the base in the map, metres", min=-1e6, max=1e6)
    y: float = option(0.0, "of the base in the map, metres", min=-1e6, max=1e6)
    z: float = option(0.0, "of the base in the map, metres", min=-1e6, max=1e6)
    yaw: float = option(0.0, "around the map's z axis, radians", min=-7.0, max=7.0)
    sigma_m: float = option(0.5, "how uncertain that is, metres", min=0.01, max=10.0)
    sigma_deg: float = option(15.0, "and in orientation, degrees", min=0.1, max=180.0)


@dataclass(frozen=True)
class Settings:
    """All parameters of the node.

    Attributes:
        node: the node's own.
        initial_pose: where to begin.
        localization: of a single image.
        tracking: of the stream.
        export: of the grid and the cloud.
    """

    node: NodeConfig = field(default_factory=NodeConfig)
    initial_pose: InitialPose = field(default_factory=InitialPose)
    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


PREFIXES = {
    "": NodeConfig,
    "initial_pose.": InitialPose,
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
            known = [f"{prefix}*" for prefix in PREFIXES if prefix]
            known += [f.name for f in fields(NodeConfig)]
            raise ConfigError(f"unknown setting {full_name}: known are {', '.join(known)}")
        rooms[room + dot][name] = value
    settings = Settings(
        replace_from(base.node, rooms[""]),
        replace_from(base.initial_pose, rooms["initial_pose."], "initial_pose."),
        replace_from(base.localization, rooms["localization."], "localization."),
        replace_from(base.tracking, rooms["tracking."], "tracking."),
        replace_from(base.export, rooms["export."], "export."),
    )
    check_frames(settings.node, settings.node.map_frame)
    return settings


def check_frames(node: NodeConfig, map_frame: str) -> None:
    """Refuse names of frames that make no tree.

    Args:
        node: with the names of the others.
        map_frame: in force; empty where it is not known yet.

    Raises:
        ConfigError: two of them are the same, one is missing, or begins with a slash.
    """
    names = {"base_frame": node.base_frame, "map_frame": map_frame}
    names |= {"odom_frame": node.odom_frame} if node.use_odometry else {}
    for role, name in names.items():
        if not name and role != "map_frame":
            raise ConfigError(f"{role} is empty: name the frame")
        if name.startswith("/"):
            raise ConfigError(f"{role} is {name!r}: tf2 knows it as {name.lstrip('/')!r}")
        twins = [other for other, n in names.items() if n == name and other != role]
        if twins and name:
            raise ConfigError(
                f"{role} and {twins[0]} are both {name!r}: each frame needs a name of its own"
            )
