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

    levels: int = option(16, "number of levels", min=1, max=32)
    features: int = option(2, "features an entry", choices=(1, 2, 4, 8))
    log2_entries: int = option(17, "log2 of the largest number of entries a level", min=4, max=24)
    base_resolution: int = option(16, "cells along an axis at the coarsest level", min=1, max=65536)
    per_level_scale: float = option(1.3819129, "growth from level to level", min=1.0, max=16.0)

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
        16, "width of the vector that colour is made from", min=16, max=128
    )
    appearance_size: int = option(16, "numbers that describe one image's light", min=1, max=128)
    descriptor_size: int = option(32, "length of a descriptor", choices=(16, 32, 64))


@dataclass(frozen=True)
class RenderConfig:
    """How rays are sampled."""

    proposal_samples: int = option(64, "proposal samples a ray", min=8, max=512)
    samples: int = option(24, "final samples a ray", min=4, max=256)


@dataclass(frozen=True)
class FeatureConfig:
    """The image network."""

    side: int = option(
        320, "images are scaled to this longer side for the network, pixels", min=64, max=2048
    )
    stem: int = option(24, "channels at full and half resolution", choices=(16, 24, 32, 48))
    trunk: int = option(64, "channels at a quarter of the resolution and below", min=16, max=512)
    network: str = option("pyramid", "the network itself", registry=NETWORKS)


@dataclass(frozen=True)
class GeometryTraining:
    """The first stage: density and colour from the images."""

    rays: int = option(1024, "random rays a step", min=1)
    patches: int = option(8, "square patches a step", min=0)
    patch_size: int = option(8, "side of a patch, pixels", min=3)
    depth_rays: int = option(384, "rays with a measured depth a step", min=0)
    grid_rate: float = option(1e-2, "learning rate of the hash grids", min=0.0)
    network_rate: float = option(5e-3, "learning rate of the networks", min=0.0)
    pose_rate: float = option(
        0.0, "learning rate of the mapping poses, metres and radians; 0 trusts them", min=0.0
    )
    pose_weight: float = option(1.0, "keeps corrections of poses small", min=0.0)
    ssim_weight: float = option(
        5e-4,
        "weight of the patches' SSIM loss; much more of it (0.05) washes colours out",
        min=0.0,
    )
    variation_weight: float = option(0.01, "weight of the depth's total variation", min=0.0)
    interlevel_weight: float = option(1.0, "weight of the proposal's loss", min=0.0)
    distortion_weight: float = option(0.002, "weight of the distortion loss", min=0.0)
    depth_weight: float = option(0.02, "weight of measured depths", min=0.0)


@dataclass(frozen=True)
class DescriptorTraining:
    """The second stage: the field's descriptors and the image network, together."""

    window_share: float = option(
        0.6, "share of an image's width and height that a step looks at", min=0.1, max=1.0
    )
    zoom: float = option(0.15, "largest zoom in or out of that window", min=0.0, max=1.0)
    turn_deg: float = option(5.0, "largest rotation of that window, degrees", min=0.0, max=180.0)
    pixels: int = option(640, "pixels of one window that are compared with each other", min=16)
    groups: int = option(2, "groups of so many pixels in a window a step", min=1)
    clustered: float = option(0.5, "share of them drawn side by side", min=0.0, max=1.0)
    clusters: int = option(8, "places of a group where they are drawn side by side", min=1)
    cluster_size: float = option(14.0, "side of such a place, pixels of the window", min=2.0)
    others: int = option(512, "points from anywhere in the scene, as negatives of a group", min=0)
    temperature: float = option(0.07, "scale of the similarities", min=1e-3)
    margin: float = option(
        0.0035, "nearer points are not negatives, as a share of the median distance", min=0.0
    )
    grid_rate: float = option(1e-2, "learning rate of the descriptor grid", min=0.0)
    network_rate: float = option(2e-3, "learning rate of the networks", min=0.0)
    brightness: float = option(0.2, "largest change of brightness and contrast", min=0.0, max=0.9)
    blur_px: float = option(4.0, "longest motion blur, pixels of the window", min=0.0, max=50.0)
    surface_nodes: int = option(96, "surface points along a view's longer side", min=16)
    start: str = option(
        "rooms",
        "first weights of the image network: learnt in generated rooms, or random; "
        "a network of other than the default size starts at random",
        choices=("rooms", "random"),
    )


@dataclass(frozen=True)
class SfmConfig:
    """Poses by structure from motion, where the recording has none (`--poses sfm`)."""

    keyframes: int = option(150, "most images of one recording, spread over its motion", min=3)
    features: int = option(2500, "SIFT keypoints an image", min=100, max=20000)
    overlap: int = option(8, "following keyframes that each one is matched with", min=1)
    loops: int = option(
        4, "keyframes that look alike, from another time, that each one is matched with", min=0
    )
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
    image_side: int = option(640, "mapping images are shrunk to this longer side, pixels", min=64)
    max_views: int = option(160, "mapping images kept, spread evenly over the path", min=2)
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
        0.4, "share of the budget for the first stage", min=0.05, max=0.95
    )
    warm_up: float = option(0.01, "share of a stage in which rates rise", min=0.0, max=0.5)
    final_rate: float = option(
        0.03, "last learning rate, as a share of the first", min=0.0, max=1.0
    )
    backend: str = option("auto", "what evaluates the hash grids", registry=BACKENDS)
    seed: int = option(0, "seed of all random choices", min=0)


@dataclass(frozen=True)
class LocalizationConfig:
    """How one image finds its pose."""

    points_along: int = option(
        96, "rendered descriptors along the image's longer side", min=8, max=640
    )
    search_along: int = option(
        48, "the same while the pose is not yet known, and where patches finish it", min=8, max=640
    )
    iterations: int = option(3, "render, match and solve at most this often", min=1, max=10)
    samples: int = option(16, "samples a ray when surfaces are rendered", min=4, max=256)
    converged_m: float = option(0.01, "stop when a step moved less than this, metres", min=0.0)
    converged_deg: float = option(0.3, "and turned less than this, degrees", min=0.0)
    candidates: int = option(4, "places tried when there is no prior", min=1, max=32)
    window_radius: int = option(
        32, "largest search window around a prior's guess, half side in cells", min=2, max=80
    )
    track_radius: int = option(
        8, "search window once a pose is found, half side in cells of 4 px at 640", min=2, max=40
    )
    min_opacity: float = option(0.6, "rendered points fainter than this take no part", min=0.0)
    max_depth_spread: float = option(
        0.06, "nor those whose depth is spread wider than this, relative", min=0.0
    )
    ransac_error_px: float = option(
        4.0, "inlier threshold of the pose solver, pixels of a 640 px wide image", min=0.1
    )
    ransac_iterations: int = option(2000, "most hypotheses of the pose solver", min=10)
    min_inliers: int = option(
        30, "fewer inliers than this is a failure; what more are worth, evidence says", min=12
    )
    min_evidence: float = option(
        6.0,
        "a pose with less evidence than this is a failure: decimal digits, 6 lets one image in a "
        "million of another place pass, as far as the map can tell",
        min=0.0,
        max=99.0,
    )
    min_spread: float = option(
        0.25, "inliers on a smaller share of the image than this are a failure", min=0.0, max=1.0
    )
    method: str = option(
        "finder+patches",
        "crossfire is the paper's way, rendered descriptors alone; finder+patches makes its poses "
        "exact on the map's patches",
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
        "finish the pose of a single image on so many of the map's patches at most, half of them "
        "of the nearest mapping images, where at least min_inliers of them fit; 0 for none",
        min=0,
    )
    track_patches: int = option(500, "the same while a robot is followed", min=0)
    tiles_mb: int = option(
        200,
        "of a place of several tiles, so much is in memory at most, megabytes; the tile in use and "
        "the next one always are",
        min=1,
    )
    covariance_inflation: float = option(
        1.0, "factor on standard deviations, for errors that matches share", min=0.1
    )
    seed: int = option(0, "seed of the random choices", min=0)


@dataclass(frozen=True)
class TrackingConfig:
    """How a stream of images and odometry becomes a stream of poses."""

    way: str = option(
        "auto",
        "how images go while a robot is followed: full renders descriptors at the prior, patches "
        "tries the map's patches first, auto does so where the full way takes more than half of "
        "the time between images",
        choices=("auto", "full", "patches"),
    )
    check_every_s: float = option(
        1.0,
        "so often at least the full way checks where the robot is, seconds",
        min=0.05,
        max=60.0,
    )
    iterations: int = option(
        1, "render, match and solve at most this often while tracking", min=1, max=10
    )
    min_inliers: int = option(
        30, "fewer inliers than this is no fix, beside localization.min_inliers", min=6
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
        0.3, "a pose whose own covariance says more than this is no fix, metres", min=0.01
    )
    covariance_scale: float = option(
        2.0, "factor on the standard deviations that the pose solver reports", min=0.1, max=100.0
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
        "largest squared Mahalanobis distance to the prediction (6 degrees of freedom: "
        "22.5 lets 99.9 % pass)",
        min=1.0,
    )
    jump_m: float = option(
        0.5,
        "a fix further than this from the prediction needs a second image, however uncertain "
        "the prediction is, metres",
        min=0.01,
    )
    jump_deg: float = option(30.0, "the same for orientation, degrees", min=0.1, max=180.0)
    coast_after_s: float = option(
        1.0,
        "without a fix for so long the state is coasting: odometry carries the pose on, and the "
        "whole map is searched beside it, seconds",
        min=0.05,
        max=1000.0,
        was="lost_after_failures",
    )
    contradicted_s: float = option(
        1.0,
        "poses that contradict the prediction for so long, none agreeing, and it is given up, "
        "seconds",
        min=0.0,
        max=1000.0,
    )
    lost_sigma_m: float = option(
        1.0,
        "a prediction less certain than this, and than twice what it began with, is given up, "
        "metres",
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
        "the robot drives on a level floor: z, roll and pitch are held, and x, y and yaw are "
        "solved under that",
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
        0.5, "odometry is not bridged over longer gaps than this, seconds", min=0.01, max=10.0
    )
    max_speed_m_per_s: float = option(
        10.0, "odometry that moves faster than this was reset", min=0.1, max=1000.0
    )
    blind_m_per_s: float = option(
        0.5, "how far the robot strays from constant velocity without odometry", min=0.0, max=100.0
    )
    blind_rad_per_s: float = option(
        0.5, "the same for orientation, radians a second", min=0.0, max=100.0
    )
    min_contrast: float = option(
        4.0, "an image whose grey levels deviate less than this shows nothing", min=0.0, max=127.0
    )
    clock_jump_s: float = option(
        1.0, "stamps that go back by more than this start a new recording, seconds", min=0.0
    )


@dataclass(frozen=True)
class ExportConfig:
    """How a map becomes an occupancy grid, a cloud or a mesh."""

    views: int = option(
        200, "mapping views looked from at most, spread evenly over the path", min=1, max=10_000
    )
    columns: int = option(128, "rays along the image's longer side", min=8, max=1024)
    reach: float = option(
        15.0, "surfaces further than this from a view are left out, metres", min=0.1
    )
    min_opacity: float = option(0.6, "fainter surfaces are left out", min=0.0, max=1.0)
    max_depth_spread: float = option(
        0.06, "as are those whose depth is spread wider than this, relative", min=0.0
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
        500_000, "most points of a cloud; their distance grows until it has no more", min=100
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
