"""Every default of training, localization and tracking, in one place.

Those of reading a recording are in ``recordings/options.py``, the node's in
``crossfire_ros/settings.py``.

Frozen dataclasses, one a room. A field's ``metadata`` holds its explanation (``help``, with the
unit) and its range (``min``, ``max`` or ``choices``), from which the YAML check, the ROS
parameters and the reference in ``docs/`` are made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from crossfire_core.errors import ConfigError
from crossfire_core.registry import BACKENDS, MATCHERS, NETWORKS, SOLVERS, Registry

T = TypeVar("T")


def option(default: Any, help: str, registry: Registry | None = None, **more: Any) -> Any:
    """A dataclass field with its explanation and limits (``min``, ``max``, ``choices``).

    With a ``registry`` the choices are its names, those of installed packages too.
    ``internal=True`` marks what no user sets, but a command's own options; ``was`` is the name of
    a setting that this one took the place of.
    """
    if registry is not None:
        own = () if default in registry.own else (default,)
        more |= {"registry": registry, "choices": (*own, *registry.own)}
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class GridConfig:
    """One multiresolution hash grid, in tiny-cuda-nn's layout.

    The sizes that a map has are in :class:`FieldConfig`; these are a grid by itself.
    """

    levels: int = option(16, "levels of the hash grid, coarse to fine", min=1, max=32)
    features: int = option(2, "numbers stored in each entry", choices=(1, 2, 4, 8))
    log2_entries: int = option(
        17, "log2 of the most entries in one level; one more doubles its memory", min=4, max=24
    )
    base_resolution: int = option(16, "cells along an axis of the coarsest level", min=1, max=65536)
    per_level_scale: float = option(
        1.3819129, "how much finer each level is than the one before", min=1.0, max=16.0
    )

    @property
    def width(self) -> int:
        """Length of the encoded vector."""
        return self.levels * self.features


@dataclass(frozen=True)
class FieldConfig:
    """The neural field: one grid to propose samples, one for geometry, one for descriptors."""

    proposal: GridConfig = GridConfig(5, 2, 16, 16, 1.6817928)
    geometry: GridConfig = GridConfig(8, 4, 16, 16, 2.0)
    descriptor: GridConfig = GridConfig(8, 4, 18, 16, 1.8114473)
    proposal_width: int = option(16, "hidden width of the proposal network", choices=(16, 32, 64))
    hidden_width: int = option(64, "hidden width of the other networks", choices=(16, 32, 64, 128))
    geometry_features: int = option(
        16, "length of the vector that colour is computed from", min=16, max=128
    )
    appearance_size: int = option(
        16, "length of the vector that describes one mapping image's light", min=1, max=128
    )
    descriptor_size: int = option(32, "length of a descriptor", choices=(16, 32, 64))


@dataclass(frozen=True)
class RenderConfig:
    """How rays are sampled."""

    proposal_samples: int = option(
        64, "samples along a ray that look for the surface", min=8, max=512
    )
    samples: int = option(
        24, "samples along a ray near the surface, from which it is rendered", min=4, max=256
    )


@dataclass(frozen=True)
class FeatureConfig:
    """The image network."""

    side: int = option(320, "longer side of the image network's input, pixels", min=64, max=2048)
    stem: int = option(24, "channels at full and half resolution", choices=(16, 24, 32, 48))
    trunk: int = option(64, "channels at a quarter of the resolution and below", min=16, max=512)
    network: str = option("pyramid", "which image network", registry=NETWORKS)


@dataclass(frozen=True)
class GeometryTraining:
    """The first stage: density and colour from the images."""

    rays: int = option(1024, "random rays in a training step", min=1)
    patches: int = option(8, "square patches of neighbouring rays in a training step", min=0)
    patch_size: int = option(8, "side of a patch, pixels", min=3)
    depth_rays: int = option(384, "rays with a measured depth in a training step", min=0)
    grid_rate: float = option(1e-2, "learning rate of the hash grids", min=0.0)
    network_rate: float = option(5e-3, "learning rate of the networks", min=0.0)
    pose_rate: float = option(
        0.0,
        "learning rate of the mapping poses, metres and radians; 0 leaves them as they are",
        min=0.0,
    )
    pose_weight: float = option(1.0, "penalty on corrections of the poses", min=0.0)
    ssim_weight: float = option(
        5e-4,
        "weight of the SSIM loss on patches; 0.05 washes colours out",
        min=0.0,
    )
    variation_weight: float = option(
        0.01, "weight of smooth depth on patches (total variation)", min=0.0
    )
    interlevel_weight: float = option(
        1.0, "weight of the loss that trains the proposal network", min=0.0
    )
    distortion_weight: float = option(
        0.002, "weight of the loss that pulls density to one surface along a ray", min=0.0
    )
    depth_weight: float = option(0.02, "weight of the loss on measured depths", min=0.0)


@dataclass(frozen=True)
class DescriptorTraining:
    """The second stage: the field's descriptors and the image network, together."""

    window_share: float = option(
        0.6, "share of an image, in width and height, that one training step sees", min=0.1, max=1.0
    )
    zoom: float = option(0.15, "random zoom of that window, largest", min=0.0, max=1.0)
    turn_deg: float = option(
        5.0, "random rotation of that window, largest, degrees", min=0.0, max=180.0
    )
    pixels: int = option(640, "pixels of a window that are compared with each other", min=16)
    groups: int = option(2, "such sets of pixels in a training step", min=1)
    clustered: float = option(
        0.5,
        "share of these pixels that are drawn in clusters, to tell neighbours apart",
        min=0.0,
        max=1.0,
    )
    clusters: int = option(8, "clusters in a set", min=1)
    cluster_size: float = option(14.0, "side of a cluster, pixels of the window", min=2.0)
    others: int = option(
        512, "points from the rest of the scene that a set must differ from", min=0
    )
    temperature: float = option(0.07, "temperature of the contrastive loss", min=1e-3)
    margin: float = option(
        0.0035,
        "points nearer than this to each other need not differ, as a share of the median distance",
        min=0.0,
    )
    grid_rate: float = option(1e-2, "learning rate of the descriptor grid", min=0.0)
    network_rate: float = option(2e-3, "learning rate of the networks", min=0.0)
    brightness: float = option(
        0.2, "random change of brightness and contrast, largest", min=0.0, max=0.9
    )
    blur_px: float = option(
        4.0, "random motion blur, longest, pixels of the window", min=0.0, max=50.0
    )
    surface_nodes: int = option(
        96, "surface points measured along a mapping image's longer side", min=16
    )
    start: str = option(
        "rooms",
        "first weights of the image network: learnt in generated rooms, or random; "
        "a network of other than the default size starts at random",
        choices=("rooms", "random"),
    )


@dataclass(frozen=True)
class SfmConfig:
    """Poses by structure from motion, where the recording has none (`--poses sfm`)."""

    keyframes: int = option(150, "most images used of one recording, spread over its motion", min=3)
    features: int = option(2500, "SIFT keypoints an image", min=100, max=20000)
    overlap: int = option(8, "each keyframe is matched with so many that follow it", min=1)
    loops: int = option(4, "and with so many that look alike but were taken at another time", min=0)
    refine_calibration: bool = option(
        False, "improve focal length and distortion too; they then differ from camera_info's"
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that `crossfire train` decides."""

    field: FieldConfig = FieldConfig()
    render: RenderConfig = RenderConfig()
    features: FeatureConfig = FeatureConfig()
    geometry: GeometryTraining = GeometryTraining()
    descriptor: DescriptorTraining = DescriptorTraining()
    sfm: SfmConfig = SfmConfig()
    image_side: int = option(640, "longer side that mapping images are shrunk to, pixels", min=64)
    max_views: int = option(160, "most mapping images used, spread evenly over the path", min=2)
    correct_poses: bool = option(
        True,
        "make the mapping images agree with each other before training, by moving given poses a "
        "little; localization still answers in the frame of the given ones",
    )
    patches: int = option(
        8000,
        "small pictures of surfaces kept with the map, of all mapping images together, on which "
        "localization finishes; 65 bytes each; 0 for none",
        min=0,
        max=100_000,
    )
    geometry_share: float = option(
        0.4,
        "share of the training time for geometry; the rest is for descriptors",
        min=0.05,
        max=0.95,
    )
    warm_up: float = option(
        0.01, "share of each stage in which the learning rates rise", min=0.0, max=0.5
    )
    final_rate: float = option(
        0.03, "learning rates at the end, as a share of the first", min=0.0, max=1.0
    )
    backend: str = option("auto", "what evaluates the hash grids", registry=BACKENDS)
    seed: int = option(
        0, "seed of all random choices; the same seed gives the same map on a CPU", min=0
    )


@dataclass(frozen=True)
class LocalizationConfig:
    """How one image finds its pose."""

    points_along: int = option(
        96, "points of the map that are rendered along the image's longer side", min=8, max=640
    )
    search_along: int = option(
        48, "the same while the pose is not known yet, or where patches finish it", min=8, max=640
    )
    iterations: int = option(3, "most rounds of rendering, matching and solving", min=1, max=10)
    samples: int = option(
        16, "samples along a ray when the map is rendered for matching", min=4, max=256
    )
    converged_m: float = option(
        0.01, "stop when a round moves the pose by less than this, metres", min=0.0
    )
    converged_deg: float = option(0.3, "and turns it by less than this, degrees", min=0.0)
    candidates: int = option(4, "places that are tried when there is no prior", min=1, max=32)
    window_radius: int = option(
        32,
        "largest search window around a prior, half its side, in cells of 4 pixels at 640",
        min=2,
        max=80,
    )
    track_radius: int = option(
        8, "search window once a pose is found, half its side, in the same cells", min=2, max=40
    )
    min_opacity: float = option(
        0.6, "rendered points less opaque than this are not matched", min=0.0
    )
    max_depth_spread: float = option(
        0.06, "nor those whose depth is less certain than this, relative", min=0.0
    )
    ransac_error_px: float = option(
        4.0, "inlier threshold of the pose solver, pixels of an image 640 wide", min=0.1
    )
    ransac_iterations: int = option(2000, "most RANSAC iterations of the pose solver", min=10)
    min_inliers: int = option(30, "a pose with fewer inliers than this is refused", min=12)
    min_evidence: float = option(
        6.0,
        "a pose with less evidence than this is refused: decimal digits; with 6, one image "
        "in a million of another place passes, as far as the map can tell",
        min=0.0,
        max=99.0,
    )
    min_spread: float = option(
        0.25,
        "a pose whose inliers cover less of the image than this share is refused",
        min=0.0,
        max=1.0,
    )
    method: str = option(
        "finder+patches",
        "crossfire is the paper's way, rendered descriptors alone; finder+patches refines "
        "its poses on the map's patches",
        choices=("finder+patches", "crossfire"),
    )
    matcher: str = option(
        "nearest", "finds the map's rendered points in the image", registry=MATCHERS
    )
    solver: str = option(
        "ransac",
        "makes a pose of these matches: PoseLib's LO-RANSAC, or OpenCV's where PoseLib has no "
        "wheel; opencv takes that everywhere",
        registry=SOLVERS,
    )
    patches: int = option(
        2500,
        "refine the pose of a single image on so many of the map's patches at most, half of "
        "them of the nearest mapping images; 0 for none",
        min=0,
    )
    track_patches: int = option(500, "the same while a robot is tracked", min=0)
    tiles_mb: int = option(
        200,
        "memory for the tiles of a large place, megabytes; the tile in use and the next one "
        "are always kept",
        min=1,
    )
    covariance_inflation: float = option(
        1.0,
        "factor on the standard deviations of a pose, for errors that its matches share",
        min=0.1,
    )
    seed: int = option(0, "seed of the random choices", min=0)


@dataclass(frozen=True)
class TrackingConfig:
    """How a stream of images and odometry becomes a stream of poses."""

    way: str = option(
        "auto",
        "how a tracked robot is followed: full renders the map at the prior, patches tries "
        "its patches first, auto does so where full takes more than half of the time "
        "between images",
        choices=("auto", "full", "patches"),
    )
    check_every_s: float = option(
        1.0,
        "with patches, the full way checks at least this often, seconds",
        min=0.05,
        max=60.0,
    )
    iterations: int = option(
        1, "most rounds of rendering, matching and solving while tracking", min=1, max=10
    )
    min_inliers: int = option(
        30, "a fix with fewer inliers than this is refused, beside localization.min_inliers", min=6
    )
    min_spread: float = option(
        0.2,
        "share of a 4x4 grid over the image in which inliers must lie, beside "
        "localization.min_spread",
        min=0.0,
        max=1.0,
    )
    max_residual_px: float = option(
        4.0, "largest median reprojection error of a fix, pixels of a 640 px wide image", min=0.1
    )
    max_sigma_m: float = option(
        0.3, "a fix whose own standard deviation is larger than this is refused, metres", min=0.01
    )
    covariance_scale: float = option(
        2.0, "factor on the standard deviations of fixes", min=0.1, max=100.0
    )
    smooth: bool = option(
        False,
        "weigh each fix against odometry, so that the pose and map -> odom do not step with the "
        "scatter of fixes; their covariances stay those of the fixes",
    )
    floor_m: float = option(
        0.01, "smallest standard deviation of a position, metres", min=0.0, max=1.0
    )
    floor_deg: float = option(
        0.3, "smallest standard deviation of an orientation, degrees", min=0.0, max=45.0
    )
    gate: float = option(
        22.5,
        "largest squared Mahalanobis distance of a fix to the prediction; 22.5 lets 99.9 % "
        "pass (6 degrees of freedom)",
        min=1.0,
    )
    jump_m: float = option(
        0.5,
        "a fix further than this from the prediction needs a second image that agrees, metres",
        min=0.01,
    )
    jump_deg: float = option(30.0, "the same for orientation, degrees", min=0.1, max=180.0)
    coast_after_s: float = option(
        1.0,
        "without a fix for this long the state is coasting: odometry carries the pose on "
        "and the whole map is searched, seconds",
        min=0.05,
        max=1000.0,
        was="lost_after_failures",
    )
    contradicted_s: float = option(
        1.0,
        "fixes that contradict the prediction for this long, and none that agrees, end "
        "tracking, seconds",
        min=0.0,
        max=1000.0,
    )
    lost_sigma_m: float = option(
        1.0,
        "a prediction with a larger standard deviation than this, and than twice its first "
        "one, is lost, metres",
        min=0.01,
    )
    confirmations: int = option(
        1, "further images that must agree before a new place is believed", min=1, max=10
    )
    new_place_evidence: float = option(
        12.0,
        "so much evidence must each of these images have, beside localization.min_evidence, "
        "decimal digits; with less the place may only look alike, however often it is seen",
        min=0.0,
        max=99.0,
    )
    two_d: bool = option(
        False,
        "the robot drives on a level floor: only x, y and yaw are solved",
    )
    floor_z: float = option(
        0.0, "with two_d, the height of the base frame on the floor, in the map's frame, metres"
    )
    auto_global: bool = option(
        True, "search the whole map at the start and after resets, without being asked"
    )
    odometry_m_per_m: float = option(
        0.05, "odometry's error in position, metres a metre travelled", min=0.0, max=1.0
    )
    odometry_rad_per_rad: float = option(
        0.05, "odometry's error in orientation, radians a radian turned", min=0.0, max=1.0
    )
    odometry_rad_per_m: float = option(
        0.02, "odometry's error in orientation, radians a metre travelled", min=0.0, max=1.0
    )
    odometry_m_per_s: float = option(
        0.01, "odometry's error in position while standing, metres a second", min=0.0, max=10.0
    )
    odometry_max_gap_s: float = option(
        0.5, "longer gaps in the odometry are not bridged, seconds", min=0.01, max=10.0
    )
    max_speed_m_per_s: float = option(
        10.0, "odometry faster than this was reset, metres a second", min=0.1, max=1000.0
    )
    blind_m_per_s: float = option(
        0.5,
        "without odometry, how far the robot strays from constant velocity, metres a second",
        min=0.0,
        max=100.0,
    )
    blind_rad_per_s: float = option(
        0.5, "the same for orientation, radians a second", min=0.0, max=100.0
    )
    min_contrast: float = option(
        4.0,
        "an image whose grey levels deviate less than this is taken for blank",
        min=0.0,
        max=127.0,
    )
    clock_jump_s: float = option(
        1.0, "stamps that go back by more than this start a new recording, seconds", min=0.0
    )


@dataclass(frozen=True)
class ExportConfig:
    """How a map becomes an occupancy grid, a cloud or a mesh."""

    views: int = option(
        200, "most mapping views that surfaces are looked at from", min=1, max=10_000
    )
    columns: int = option(128, "rays along a view's longer side", min=8, max=1024)
    reach: float = option(
        15.0, "surfaces further than this from a view are left out, metres", min=0.1
    )
    min_opacity: float = option(
        0.6, "surfaces less opaque than this are left out", min=0.0, max=1.0
    )
    max_depth_spread: float = option(
        0.06, "as are those whose depth is less certain than this, relative", min=0.0
    )
    least_views: int = option(
        2, "views that must see a surface, or look through a cell, before it counts", min=1
    )
    resolution: float = option(0.05, "side of the grid's cells, metres", min=0.005, max=10.0)
    lowest: float = option(
        0.1, "what is lower than this above the floor is driven over, metres", min=0.0, max=1000.0
    )
    highest: float = option(
        1.5,
        "what is higher than this above the floor is driven under, metres",
        min=0.01,
        max=1000.0,
    )
    find_floor: bool = option(True, "look for the floor; otherwise it is at `floor`")
    floor: float = option(
        0.0, "height of the floor along the map's up axis, metres", min=-1e4, max=1e4
    )
    voxel: float = option(0.02, "distance between points of the cloud, metres", min=0.001, max=10.0)
    max_points: int = option(
        500_000, "most points of a cloud; it becomes coarser until it has no more", min=100
    )


def replace_from(base: T, values: dict[str, Any], where: str = "") -> T:
    """A copy of a config with some fields changed, nested mappings included.

    Args:
        base: a config dataclass.
        values: field names and new values, as read from YAML.
        where: prefix of the names in error messages.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value out of its range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"setting {where.rstrip('.') or 'file'} must be a mapping")
    hints = get_type_hints(type(base))
    known = {f.name: f for f in fields(base)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(_unknown(f"{where}{name}", name, list(known.values())))
        current = getattr(base, name)
        if is_dataclass(current) and not isinstance(current, type):
            changes[name] = replace_from(current, value, f"{where}{name}.")
        else:
            changes[name] = checked(value, hints[name], dict(known[name].metadata), where + name)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _unknown(full_name: str, name: Any, known: list[dataclasses.Field[Any]]) -> str:
    for f in known:
        if f.metadata.get("was") == name:
            return f"setting {full_name} is no more: set {f.name} instead ({f.metadata['help']})"
    return f"unknown setting {full_name}: known are {', '.join(sorted(f.name for f in known))}"


def checked(value: Any, kind: Any, limits: dict[str, Any], name: str) -> Any:
    """The value, converted to its type and held against its limits, or a ConfigError."""
    if kind is float:
        value = _number(value)
    if kind is str and isinstance(value, bool) and str(value).lower() in limits.get("choices", ()):
        value = str(value).lower()  # what YAML makes of the words true and false
    origin = getattr(kind, "__origin__", kind)
    if origin is tuple and isinstance(value, list):
        value = tuple(value)
    if isinstance(origin, type) and (
        not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool)
    ):
        raise ConfigError(
            f"setting {name} is {value!r}, expected {getattr(kind, '__name__', kind)}"
        )
    if isinstance(value, float) and value != value:
        raise ConfigError(f"setting {name} is NaN")
    low, high, choices = limits.get("min"), limits.get("max"), limits.get("choices")
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = [f"at least {low}"] if low is not None else []
        allowed += [f"at most {high}"] if high is not None else []
        raise ConfigError(f"setting {name} is {value}, allowed is {' and '.join(allowed)}")
    if choices is not None and value not in choices:
        if registry := limits.get("registry"):
            choices = dict.fromkeys((*choices, *registry.names()))
            if value in choices:
                return value
        raise ConfigError(
            f"setting {name} is {value!r}, choose from {', '.join(map(str, choices))}"
        )
    return value


def _number(value: Any) -> Any:
    """A whole number, or one written as 5e-4, which YAML takes for a word, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain types, tuples as lists, for YAML and JSON."""
    plain = dataclasses.asdict(config)
    return {k: _listed(v) for k, v in plain.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, (list, tuple)) else value


def load_yaml(base: T, path: Path) -> T:
    """Read a YAML file over a config.

    Raises:
        ConfigError: the file is missing, not YAML, or holds a bad setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read settings from {path}: {str(error).splitlines()[0]}"
        ) from error
    return replace_from(base, values or {})


def dump_yaml(config: Any) -> str:
    """A config as YAML that :func:`load_yaml` reads back to the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)
