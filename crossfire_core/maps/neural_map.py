"""A neural map: one self-describing file, read without running anything that it holds.

The file is safetensors: a JSON header and flat arrays. Networks are stored in half precision,
hash grids in eight bits (:mod:`crossfire_core.maps.storage`), in the layout of
:mod:`crossfire_core.field.layout`; every setting that is needed to rebuild the field lies in the
header, ``per_level_scale`` exactly as it was trained with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossfire_core.errors import ConfigError, CrossfireError, MapFormatError
from crossfire_core.features.network import image_network
from crossfire_core.field import encoding_torch
from crossfire_core.field.backends import encoder, resolve_device
from crossfire_core.field.scene_field import SceneField
from crossfire_core.files import write_bytes
from crossfire_core.maps import storage
from crossfire_core.maps.header import FORMAT_VERSION, MapHeader, one_line, read_header
from crossfire_core.maps.patches import Patches, pack_pictures, unpack_pictures
from crossfire_core.maps.places import Places

_HEADER_KEY = "crossfire_map"
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


class NeuralMap:
    """A trained field with its image network."""

    def __init__(
        self,
        header: MapHeader,
        field: SceneField,
        network: nn.Module,
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
        return {
            "format_version": FORMAT_VERSION,
            "map_bytes": self.file_bytes,
            **h.summary(),
            "poses_moved_m": round(h.moved[0], 5),
            "poses_moved_deg": round(float(np.degrees(h.moved[1])), 3),
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


def round_as_stored(field: SceneField, network: nn.Module) -> None:
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


def read_map_header(path: Path) -> MapHeader:
    """What a map file says about itself; its arrays are not read.

    Raises:
        MapFormatError: no such file, of another version, or not a map.
    """
    return _read(path, arrays=False)[0]


def _read(path: Path, arrays: bool = True) -> tuple[MapHeader, dict[str, Tensor]]:
    if not path.is_file():
        raise MapFormatError(f"there is no map at {path}: make one with 'crossfire train'")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY)
            if text is None:
                raise MapFormatError(f"{path} is not a crossfire map")
            header = read_header(path, text)
            if not arrays:
                return header, {}
            _check_arrays(path, file, header)  # before any of them is read
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ConfigError as error:
        raise MapFormatError(f"the header of {path} is not valid: {one_line(error)}") from error
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise MapFormatError(
            f"{path} is not a crossfire map, or it is cut short: {one_line(error)}"
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


def _empty(header: MapHeader) -> tuple[SceneField, nn.Module]:
    """The parts that a header describes, as shapes without memory."""
    with torch.device("meta"), _Unfilled():
        field = SceneField(header.field, header.box, len(header.views), encoding_torch.encode)
        return field, image_network(header.features, header.field.descriptor_size)


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
            raise MapFormatError(f"map {path} holds an unknown array: {one_line(name)}")
        shape, kind = found[name].get_shape(), found[name].get_dtype()
        if shape != wanted.get(name, shape) or kind not in kinds.get(name, _FLOATS):
            raise MapFormatError(
                f"array {name} of map {path} is {kind} {shape}, which does not fit its header: "
                "the file is damaged, train the map again"
            )


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
    """The inverse of :func:`_packed_patches`; an older map has none."""
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
