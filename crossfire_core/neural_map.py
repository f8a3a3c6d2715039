"""A neural map: one self-describing file, read without running anything that it holds.

The file is safetensors: a JSON header and flat arrays. Networks are stored in half precision,
hash grids in eight bits (:mod:`crossfire_core.field.storage`), in the layout of
:mod:`crossfire_core.field.layout`; every setting that is needed to rebuild the field lies in the
header, ``per_level_scale`` exactly as it was trained with.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crossfire_core.config import (
    FeatureConfig,
    FieldConfig,
    RenderConfig,
    replace_from,
    to_dict,
)
from crossfire_core.errors import ConfigError, CrossfireError, MapFormatError
from crossfire_core.features.network import ImageNetwork
from crossfire_core.field import encoding_torch, storage
from crossfire_core.field.backends import encoder, resolve_device
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.field.scene_field import SceneField
from crossfire_core.files import write_bytes
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.evidence import Chance
from crossfire_core.localization.patches import Patches, pack_pictures, unpack_pictures
from crossfire_core.rendering.sampling import Spacing

FORMAT_VERSION = 3
_HEADER_KEY = "crossfire_map"
_MAX_HEADER_BYTES = 32 << 20
_MAX_SIDE = 16384  # of the mapping camera's image, pixels
_FLOATS = ("F16", "F32")
_GRID, _SCALE = ".grid", ".grid_scale"  # endings of a packed grid's two arrays
_PLACES = {  # arrays whose shapes are free, with their types
    "places.words": _FLOATS,
    "places.signatures": _FLOATS,
    "places.points": _FLOATS,
    "places.point_view": ("I32",),
}
_OPTIONAL = {  # arrays that not every map has
    "places.shifts": _FLOATS,  # of older maps, no longer used
    "patches.points": _FLOATS,
    "patches.normals": ("I8",),
    "patches.spacing": _FLOATS,
    "patches.view": ("I32",),
    "patches.pictures": ("U8",),
}


@dataclass(frozen=True)
class MappingView:
    """One image that the map was made from.

    Attributes:
        name: the frame's name in its recording.
        stamp_ns: its stamp.
        map_from_camera: its pose, after any correction before or during training.
        recorded: its pose as the recording has it; None where that is the same.
    """

    name: str
    stamp_ns: int
    map_from_camera: Pose
    recorded: Pose | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        plain = {"name": self.name, "stamp_ns": self.stamp_ns, **self.map_from_camera.to_json()}
        return {**plain, "recorded": self.recorded.to_json()} if self.recorded else plain

    @staticmethod
    def from_json(data: dict[str, Any]) -> MappingView:
        """The inverse of :meth:`to_json`."""
        recorded = Pose.from_json(data["recorded"]) if "recorded" in data else None
        return MappingView(str(data["name"]), int(data["stamp_ns"]), Pose.from_json(data), recorded)


@dataclass(frozen=True)
class MapHeader:
    """Everything about a map that is not a parameter.

    Attributes:
        frame_id: name of the map's frame, for ROS.
        camera: of the mapping images, at their recorded size.
        base_from_camera: where the camera sat on the mapping robot.
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
    def moved(self) -> tuple[float, float]:
        """By how much training moved the recording's poses, medians in metres and radians."""
        pairs = [(view.map_from_camera, view.recorded) for view in self.views]
        moves = [a.distance(b) if b is not None else (0.0, 0.0) for a, b in pairs]
        metres, radians = np.median(moves, axis=0)
        return float(metres), float(radians)

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
            "chance": vars(self.chance),
            "origin": list(self.origin),
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
        factor = float(data.get("covariance_factor", 1.0))  # maps of before have none
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError("the factor on covariances is out of range")
        side = int(data.get("image_side", 640))
        if not 1 <= side <= _MAX_SIDE:
            raise ValueError("the side of the mapping images is out of range")
        chance = Chance(**{k: float(v) for k, v in data.get("chance", {}).items()})
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
        )


@dataclass(frozen=True)
class Places:
    """What the mapping images say: finds a place without a prior.

    Attributes:
        words: ``[k, d]`` unit descriptors spread over the scene.
        signatures: ``[views, k]`` unit: how strongly each view shows each word.
        points: ``[n, 3]`` surface points seen by the mapping views, metres.
        point_view: ``[n]`` int64, which view saw each.
    """

    words: Tensor
    signatures: Tensor
    points: Tensor
    point_view: Tensor


class NeuralMap:
    """A trained field with its image network."""

    def __init__(
        self,
        header: MapHeader,
        field: SceneField,
        network: ImageNetwork,
        places: Places,
        patches: Patches | None = None,
    ) -> None:
        """Put the parts together; use :meth:`load` for a file."""
        self.header, self.field, self.network, self.places = header, field, network, places
        self.patches = patches or Patches.none()
        self.file_bytes: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.field.colour.device

    def save(self, path: str | Path) -> None:
        """Write the map; an existing file is replaced only once the new one is complete."""
        tensors = _packed({f"field.{k}": v for k, v in self.field.state_dict().items()})
        tensors |= {f"network.{k}": v.half() for k, v in self.network.state_dict().items()}
        tensors["places.words"] = self.places.words.half()
        tensors["places.signatures"] = self.places.signatures.half()
        tensors["places.points"] = self.places.points.float()
        tensors["places.point_view"] = self.places.point_view.to(torch.int32)
        if len(self.patches):
            tensors |= {f"patches.{k}": v for k, v in _packed_patches(self.patches).items()}
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        header = json.dumps(self.header.to_json(), sort_keys=True, allow_nan=False)
        data = to_bytes(plain, metadata={_HEADER_KEY: header})
        write_atomically(Path(path), data)
        self.file_bytes = len(data)

    @staticmethod
    def load(path: str | Path, device: str = "auto", backend: str = "auto") -> NeuralMap:
        """Read a map.

        Args:
            path: file made by :meth:`save`.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            backend: what evaluates the hash grids.

        Raises:
            MapFormatError: no such file, cut short, of another version, or not a map.
            BackendError: the device or backend is not there.
        """
        where = resolve_device(device)
        encode = encoder(backend, where)
        path = Path(path)
        header, tensors = _read(path)
        field, network = _empty(header)
        field.set_encoder(encode)
        try:
            field.load_state_dict(_part(_unpacked(tensors), "field."), assign=True)
            network.load_state_dict(_part(tensors, "network."), assign=True)
            places = _places(_part(tensors, "places."), header)
            patches = _patches(_part(tensors, "patches."), header)
        except (RuntimeError, KeyError, ValueError, MemoryError) as error:
            raise MapFormatError(
                f"map {path} does not fit its own header: it is damaged, train it again"
            ) from error
        network.eval().requires_grad_(False).to(where)
        loaded = NeuralMap(header, field.requires_grad_(False).to(where), network, places, patches)
        loaded.file_bytes = path.stat().st_size
        return loaded

    def summary(self) -> dict[str, Any]:
        """For ``crossfire info``: plain types, sizes in their units."""
        h = self.header
        centres = np.stack([v.map_from_camera.translation for v in h.views])
        return {
            "format_version": FORMAT_VERSION,
            "frame_id": h.frame_id,
            "map_bytes": self.file_bytes,
            "camera": h.camera.to_json(),
            "mapping_views": len(h.views),
            "poses_moved_m": round(h.moved[0], 5),
            "poses_moved_deg": round(float(np.degrees(h.moved[1])), 3),
            "path_extent_m": np.ptp(centres, axis=0).round(3).tolist(),
            "box_centre_m": list(h.box.centre),
            "box_half_size_m": h.box.half_size,
            "depth_range_m": [h.spacing.near, h.spacing.far],
            "field_parameters": sum(p.numel() for p in self.field.parameters()),
            "network_parameters": sum(p.numel() for p in self.network.parameters()),
            "descriptor_size": h.field.descriptor_size,
            "base_from_camera": h.base_from_camera.to_json(),
            "patches": len(self.patches),
            "covariance_factor": h.covariance_factor,
            "provenance": h.provenance,
        }


def round_as_stored(field: SceneField, network: ImageNetwork) -> None:
    """Give all parameters the values that a reader of the saved map will see."""
    for name, parameter in (*field.named_parameters(), *network.named_parameters()):
        values = parameter.data
        grid = name.endswith(_GRID)
        parameter.data = storage.as_stored(values) if grid else values.half().float()


def _packed(field: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arrays of a field as they are stored."""
    stored: dict[str, Tensor] = {}
    for name, values in field.items():
        if name.endswith(_GRID):
            stored[name], stored[name.removesuffix(_GRID) + _SCALE] = storage.pack(values)
        else:
            stored[name] = values.half()
    return stored


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`_packed`; arrays that are no grids stay as they are."""
    plain = {k: v for k, v in tensors.items() if not k.endswith(_SCALE)}
    for name in [n for n in plain if n.endswith(_GRID)]:
        plain[name] = storage.unpack(plain[name], tensors[name.removesuffix(_GRID) + _SCALE])
    return plain


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        CrossfireError: the folder cannot be written or the disk is full; what was there stays.
    """
    try:
        write_bytes(path, data)
    except OSError as error:
        raise CrossfireError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose another place"
        ) from error


def _read(path: Path) -> tuple[MapHeader, dict[str, Tensor]]:
    if not path.is_file():
        raise MapFormatError(f"there is no map at {path}: make one with 'crossfire train'")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY)
            if text is None:
                raise MapFormatError(f"{path} is not a crossfire map")
            header = _header(path, text)
            _check_arrays(path, file, header)  # before any of them is read
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ConfigError as error:
        raise MapFormatError(f"the header of {path} is not valid: {_line(error)}") from error
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise MapFormatError(
            f"{path} is not a crossfire map, or it is cut short: {_line(error)}"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise MapFormatError(f"map {path} holds numbers that are not finite, in {name}")
    return header, tensors


class _Unfilled(TorchFunctionMode):
    """Computes no values.

    Tensors without memory have none, and torch would load its compiler to work out the shape of
    a product: a hundred megabytes and seconds, each time a map is opened.
    """

    _SAME_SHAPE = (Tensor.uniform_, Tensor.normal_, Tensor.mul, Tensor.sub)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Give back tensors as they are where initial values would be drawn or scaled."""
        if func in self._SAME_SHAPE:
            return args[0]
        if func is torch.rand:
            return torch.empty(*args)
        if func is torch.cat:  # of flat parameters
            return torch.empty(sum(part.numel() for part in args[0]))
        return func(*args, **(kwargs or {}))


def _empty(header: MapHeader) -> tuple[SceneField, ImageNetwork]:
    """The parts that a header describes, as shapes without memory."""
    with torch.device("meta"), _Unfilled():
        field = SceneField(header.field, header.box, len(header.views), encoding_torch.encode)
        return field, ImageNetwork(header.features, header.field.descriptor_size)


def _check_arrays(path: Path, file: Any, header: MapHeader) -> None:
    """Hold the file's arrays against what its header asks for, whatever that would take."""
    field, network = _empty(header)
    wanted = {f"field.{k}": list(v.shape) for k, v in field.state_dict().items()}
    grids = {k: v for k, v in wanted.items() if k.endswith(_GRID)}
    for name, (length,) in grids.items():
        wanted[name.removesuffix(_GRID) + _SCALE] = [-(-length // storage.BLOCK)]
    wanted |= {f"network.{k}": list(v.shape) for k, v in network.state_dict().items()}
    kinds = _PLACES | _OPTIONAL | dict.fromkeys(grids, ("I8",))
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    for name in sorted(wanted.keys() | _PLACES.keys() | found.keys()):
        if name not in found:
            raise MapFormatError(f"map {path} lacks the array {name}: it is damaged")
        if name not in wanted and name not in _PLACES | _OPTIONAL:
            raise MapFormatError(f"map {path} holds an unknown array: {_line(name)}")
        shape, kind = found[name].get_shape(), found[name].get_dtype()
        if shape != wanted.get(name, shape) or kind not in kinds.get(name, _FLOATS):
            raise MapFormatError(
                f"array {name} of map {path} is {kind} {shape}, which does not fit its header: "
                "the file is damaged, train the map again"
            )


def _camera(data: dict[str, Any]) -> Camera:
    camera = Camera.from_json(data)
    if not all(isinstance(n, int) for n in camera.size):
        raise ValueError("the camera's size is not in whole pixels")
    if max(camera.size) > _MAX_SIDE:
        raise ValueError("the camera is larger than any")
    return camera


def _line(error: object) -> str:
    """A message of any origin as one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def _header(path: Path, text: str) -> MapHeader:
    if len(text) > _MAX_HEADER_BYTES:
        raise MapFormatError(f"the header of {path} is too large to be a map's")
    try:
        data = json.loads(text)
        version = data["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MapFormatError(f"the header of {path} cannot be read: the file is damaged") from error
    if version != FORMAT_VERSION:
        raise MapFormatError(
            f"map {path} has format version {_line(version)}, this program reads {FORMAT_VERSION}: "
            "train it again, or use the program that made it"
        )
    try:
        return MapHeader.from_json(data)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise MapFormatError(f"the header of {path} is not valid: {_line(error)}") from error
    except CrossfireError as error:
        raise MapFormatError(f"the header of {path} is not valid: {_line(error)}") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def _places(part: dict[str, Tensor], header: MapHeader) -> Places:
    words, signatures = part["words"], part["signatures"]
    points, view = part["points"], part["point_view"].long()
    count = len(header.views)
    fits = (
        words.ndim == 2
        and words.shape[1] == header.field.descriptor_size
        and signatures.shape == (count, len(words))
        and points.ndim == 2
        and points.shape == (len(view), 3)
        and (len(view) == 0 or (int(view.min()) >= 0 and int(view.max()) < count))
    )
    if not fits:
        raise ValueError("places have the wrong shapes")
    return Places(words, signatures, points, view)


def _packed_patches(patches: Patches) -> dict[str, Tensor]:
    """Patches as they are stored."""
    return {
        "points": torch.from_numpy(patches.points).float(),
        "normals": torch.from_numpy(np.round(127.0 * patches.normals)).to(torch.int8),
        "spacing": torch.from_numpy(patches.spacing).half(),
        "view": torch.from_numpy(patches.view).to(torch.int32),
        "pictures": torch.from_numpy(pack_pictures(patches.grey)),
    }


def _patches(part: dict[str, Tensor], header: MapHeader) -> Patches:
    """The inverse of :func:`_packed_patches`; a map of before has none."""
    if not part:
        return Patches.none()
    points, normals, spacing = (
        part[name].double().numpy() for name in ("points", "normals", "spacing")
    )
    view = part["view"].long().numpy()
    fits = (
        points.ndim == 2
        and view.ndim == 1
        and points.shape == normals.shape == (len(view), 3)
        and spacing.shape == view.shape
        and ((view >= 0) & (view < len(header.views))).all()
        and (spacing > 0.0).all()
        and part["pictures"].ndim == 1
    )
    if not fits:
        raise ValueError("patches have the wrong shapes")
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    grey = unpack_pictures(part["pictures"].numpy(), len(view))
    return Patches(points, normals, spacing, view, grey)
