"""The map file: what comes back, and what is refused without a trace of harm."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossfire_core.cli.mapping import tell_moved
from crossfire_core.config import FeatureConfig, FieldConfig, GridConfig, RenderConfig
from crossfire_core.errors import CrossfireError, MapFormatError
from crossfire_core.features.network import ImageNetwork
from crossfire_core.field import encoding_numba
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.field.scene_field import SceneField
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.localizer import Localizer
from crossfire_core.maps.header import MapHeader, MappingView
from crossfire_core.maps.neural_map import NeuralMap, round_as_stored
from crossfire_core.maps.patches import SIDE, Patches
from crossfire_core.maps.places import Places
from crossfire_core.rendering.renderer import Renderer
from crossfire_core.rendering.sampling import Spacing

GRID = GridConfig(2, 2, 8, 4, 1.3819129)
KEY = "crossfire_map"
Edit = Callable[[dict[str, Any]], Any]


def tiny_map() -> NeuralMap:
    config = FieldConfig(GRID, GRID, GRID, 16, 16, descriptor_size=16)
    box = SceneBox((0.1, -0.2, 0.3), 1.7)
    field = SceneField(config, box, 3, encoding_numba.encode, seed=1)
    torch.manual_seed(0)
    features = FeatureConfig(side=64, stem=16, trunk=16)
    network = ImageNetwork(features, 16)
    round_as_stored(field, network)
    rng = np.random.default_rng(0)
    views = tuple(
        MappingView(
            f"frame-{i}",
            10**18 + i,
            Pose.exp(rng.normal(0, 1, 6)),
            Pose.exp(rng.normal(0, 1, 6)) if i else None,
        )
        for i in range(3)
    )
    header = MapHeader(
        "map", Camera(64, 48, 50.0, 51.0, 32.0, 24.0, "radtan", (-0.2, 0.05, 0.0, 0.001)),
        Pose.exp(rng.normal(0, 1, 6)), box, Spacing(0.1, 9.0, 1.3), config, RenderConfig(16, 8),
        features, views, {"recording": "a bag", "steps": [1, 2]}, covariance_factor=2.5,
        image_side=512, base_frame="base_footprint",
    )  # fmt: skip
    words = torch.nn.functional.normalize(torch.randn(5, 16), dim=1).half().float()
    signatures = torch.nn.functional.normalize(torch.rand(3, 5), dim=1).half().float()
    places = Places(words, signatures, torch.randn(20, 3), torch.arange(20) % 3)
    normals = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    grey = np.broadcast_to(np.arange(0, 240, 15, dtype=np.uint8), (3, SIDE, SIDE)).copy()
    patches = Patches(
        rng.normal(0, 1, (3, 3)), normals, np.array([0.25, 0.5, 1.0]), np.array([0, 2, 2]), grey
    )
    return NeuralMap(header, field.requires_grad_(False), network.eval(), places, patches)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "tiny.map"
    tiny_map().save(path)
    return path


def test_opening_a_map_does_not_load_torchs_compiler(saved: Path) -> None:
    """It takes a hundred megabytes and seconds, on a robot each time the node is configured."""
    code = (
        "import sys; from pathlib import Path\n"
        "from crossfire_core.maps.neural_map import NeuralMap\n"
        f"NeuralMap.load(Path({str(saved)!r}), 'cpu'); print('torch._dynamo' in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()[KEY]), arrays


def refuse(path: Path) -> str:
    """Loading must fail as a damaged map does: one line, and nothing else."""
    with pytest.raises(MapFormatError) as caught:
        NeuralMap.load(path, device="cpu")
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 600
    return message


def without_poses(header: MapHeader) -> dict[str, Any]:
    """Poses are stored as quaternions, which may change their last digit."""
    left_out = ("views", "base_from_camera")
    return {k: v for k, v in header.to_json().items() if k not in left_out}


# -- there and back ----------------------------------------------------------------------------


@torch.no_grad()
def test_a_map_comes_back_as_it_was(saved: Path) -> None:
    made, loaded = tiny_map(), NeuralMap.load(saved, device="cpu")
    assert without_poses(loaded.header) == without_poses(made.header)
    for a, b in zip(loaded.header.views, made.header.views, strict=True):
        assert (a.name, a.stamp_ns) == (b.name, b.stamp_ns)
        assert max(a.map_from_camera.distance(b.map_from_camera)) < 1e-12
        assert (a.recorded is None) == (b.recorded is None)
        if a.recorded and b.recorded:
            assert max(a.recorded.distance(b.recorded)) < 1e-12
    assert max(loaded.header.base_from_camera.distance(made.header.base_from_camera)) < 1e-12
    assert loaded.header.field.geometry.per_level_scale == 1.3819129
    assert loaded.header.views[0].stamp_ns == 10**18
    before, after = made.field.state_dict(), loaded.field.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before | after)
    image = torch.rand(1, 3, 48, 64)
    assert torch.equal(made.network(image), loaded.network(image))
    for name in ("words", "signatures", "points", "point_view"):
        assert torch.equal(getattr(made.places, name), getattr(loaded.places, name))
    for name in ("normals", "spacing", "view"):
        np.testing.assert_array_equal(getattr(made.patches, name), getattr(loaded.patches, name))
    np.testing.assert_allclose(made.patches.points, loaded.patches.points, rtol=1e-6)
    assert np.abs(made.patches.grey.astype(int) - loaded.patches.grey).max() < 6
    camera, pose = made.header.camera.resized(16, 12), made.header.views[1].map_from_camera
    spacing, config = made.header.spacing, made.header.render
    a, b = (Renderer(m.field, spacing, config).render(camera, pose) for m in (made, loaded))
    np.testing.assert_array_equal(a.colour, b.colour)
    np.testing.assert_array_equal(a.z_depth, b.z_depth)
    assert not any(p.requires_grad for p in loaded.field.parameters())


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    tiny_map().save(tmp_path / "again.map")
    assert (tmp_path / "again.map").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_every_backend_reads_the_same_file(saved: Path, backend: str) -> None:
    loaded = NeuralMap.load(saved, device="cpu", backend=backend)
    density = loaded.field.proposal_density(torch.zeros(4, 3))
    torch.testing.assert_close(density, tiny_map().field.proposal_density(torch.zeros(4, 3)))


def test_the_summary_is_plain_and_complete(saved: Path) -> None:
    summary = NeuralMap.load(saved, device="cpu").summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["mapping_views"] == 3
    assert summary["map_bytes"] == saved.stat().st_size
    assert summary["provenance"]["recording"] == "a bag"


@pytest.mark.parametrize(
    ("metres", "degrees", "said"),
    [(0.0, 0.0, ""), (0.008, 0.4, ""), (0.03, 0.1, "3.0 cm and 0.1"), (0.0, 2.0, "0.0 cm and 2.0")],
)
def test_poses_that_the_images_contradict_are_said(
    metres: float, degrees: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny_map()
    off = Pose.exp((metres, 0, 0, 0, 0, 0)) @ Pose.exp((0, 0, 0, 0, np.radians(degrees), 0))
    views = [replace(v, recorded=v.map_from_camera @ off) for v in made.header.views]
    made.header = replace(made.header, views=tuple(views))
    assert made.header.moved == pytest.approx((metres, np.radians(degrees)), abs=1e-7)
    tell_moved(made, can_refine=True)
    heard = " ".join(capsys.readouterr().err.split())
    assert said in heard and bool(heard) == bool(said) == ("--refine-poses" in heard)
    tell_moved(made, can_refine=False)
    assert "--refine-poses" not in capsys.readouterr().err


def test_a_loaded_map_can_be_asked_for_a_pose(saved: Path) -> None:
    localizer = Localizer(NeuralMap.load(saved, device="cpu"))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    found = localizer.localize(image, localizer.neural_map.header.camera)
    assert not found.ok and found.reason  # untrained: it must say so


# -- damaged files -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.05, 0.3, 0.7, 0.99, 0.9999])
def test_a_map_cut_short_is_refused(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    path = tmp_path / "cut.map"
    path.write_bytes(content[: int(len(content) * share)])
    assert "cut short" in refuse(path)


def test_bytes_that_are_no_map(tmp_path: Path) -> None:
    path = tmp_path / "x.map"
    for content in (
        b"hello\n" * 100,
        bytes(4096),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}" * 50,
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 2000) + b"[" * 2000,
    ):
        path.write_bytes(content)
        assert "not a crossfire map" in refuse(path)


def test_other_safetensors_are_no_map(tmp_path: Path) -> None:
    path = tmp_path / "x.map"
    save_file({"a": torch.zeros(3)}, path)
    assert "not a crossfire map" in refuse(path)


def test_no_file_and_no_access(tmp_path: Path) -> None:
    assert "crossfire train" in refuse(tmp_path / "none.map")
    assert "there is no map" in refuse(tmp_path)


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "pickle.map"
    path.write_bytes(pickle.dumps(_Trap(sprung)))
    refuse(path)
    torch.save({"field": _Trap(sprung)}, path)
    refuse(path)
    assert not sprung.exists()


# -- hostile headers ---------------------------------------------------------------------------


def write(path: Path, header: Any, arrays: dict[str, Tensor]) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(arrays, path, metadata={KEY: text})
    return path


@pytest.mark.parametrize("version", [0, 1, 2.5, "1", None, [1], {"x": 1}, 10**50, "a\nb" * 9999])
def test_another_version_is_named(saved: Path, tmp_path: Path, version: Any) -> None:
    header, arrays = parts(saved)
    message = refuse(write(tmp_path / "v.map", {**header, "format_version": version}, arrays))
    assert "format version" in message


def at(*path: str) -> Callable[[Any], Edit]:
    """An edit that puts a value where the path leads."""

    def edit(value: Any) -> Edit:
        def apply(header: dict[str, Any]) -> None:
            inner: Any = header
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value

        return apply

    return edit


HUGE: dict[str, Edit] = {
    "levels": at("field", "geometry", "levels")(10**9),
    "no levels": at("field", "geometry", "levels")(0),
    "negative levels": at("field", "proposal", "levels")(-3),
    "more levels": at("field", "geometry", "levels")(32),
    "table": at("field", "descriptor", "log2_entries")(4),
    "table of 2^63": at("field", "descriptor", "log2_entries")(63),
    "entries": at("field", "geometry", "features")(8),
    "odd entries": at("field", "geometry", "features")(3),
    "growth": at("field", "geometry", "per_level_scale")(1e300),
    "infinite growth": at("field", "geometry", "per_level_scale")(float("inf")),
    "growth beyond single precision": at("field", "geometry")(
        {"levels": 32, "features": 2, "log2_entries": 8, "base_resolution": 65536,
         "per_level_scale": 16.0}
    ),
    "base resolution": at("field", "geometry", "base_resolution")(2**62),
    "features for colour": at("field", "geometry_features")(10**9),
    "appearance": at("field", "appearance_size")(10**12),
    "descriptors": at("field", "descriptor_size")(64),
    "trunk": at("features", "trunk")(10**9),
    "input size": at("features", "side")(10**9),
    "samples": at("render", "samples")(10**9),
    "camera": at("camera", "width")(10**6),
    "large camera": at("camera")(
        {"width": 30000, "height": 30000, "fx": 1.0, "fy": 1.0, "cx": 1.0, "cy": 1.0,
         "distortion": "none", "coefficients": []}
    ),
}  # fmt: skip

WRONG: dict[str, Edit] = {
    **{f"no {key}": lambda h, key=key: h.pop(key) for key in (  # type: ignore[misc]
        "frame_id", "camera", "base_from_camera", "box", "spacing", "field", "render",
        "features", "views", "provenance")},
    "unknown setting": at("field", "surprise\n\nsurprise")(1),
    "unknown spacing": at("spacing", "surprise")(1),
    "text for a number": at("field", "hidden_width")("64"),
    "list for a number": at("render", "samples")([8]),
    "number for a mapping": at("field")(7),
    "text for a mapping": at("features")("x"),
    "null grid": at("field", "geometry")(None),
    "true for a number": at("render", "samples")(True),
    "NaN scale": at("field", "geometry", "per_level_scale")(float("nan")),
    "NaN box": at("box", "half_size")(float("nan")),
    "infinite box": at("box", "centre")([0, 0, float("inf")]),
    "negative box": at("box", "half_size")(-1.0),
    "flat box": at("box", "centre")([0, 0]),
    "text box": at("box")("large"),
    "huge integer": at("box", "half_size")(10**400),
    "reversed range": at("spacing")({"near": 5.0, "far": 1.0, "knee": 1.0}),
    "no knee": at("spacing", "knee")(0.0),
    "zero focal length": at("camera", "fx")(0.0),
    "NaN focal length": at("camera", "fx")(float("nan")),
    "text focal length": at("camera", "fx")("500"),
    "half a pixel": at("camera", "width")(64.5),
    "unknown lens": at("camera", "distortion")("mirror"),
    "list for a lens": at("camera", "distortion")(["none"]),
    "too few coefficients": at("camera", "coefficients")([0.1]),
    "no coefficients": at("camera", "coefficients")(None),
    "unknown camera field": at("camera", "shutter")(1),
    "no views": at("views")([]),
    "views are text": at("views")("abc"),
    "views are numbers": at("views")([1, 2, 3]),
    "one view more": lambda h: h["views"].append(h["views"][0]),
    "NaN pose": lambda h: h["views"][0].update(translation=[0.0, float("nan"), 0.0]),
    "zero quaternion": lambda h: h["views"][0].update(quaternion_xyzw=[0, 0, 0, 0]),
    "short quaternion": lambda h: h["views"][0].update(quaternion_xyzw=[0, 0, 1]),
    "nested pose": lambda h: h["views"][0].update(translation=[[[0, 0, 0]]]),
    "recorded pose is text": lambda h: h["views"][1].update(recorded="abc"),
    "recorded pose is nothing": lambda h: h["views"][1].update(recorded=None),
    "covariance factor is zero": at("covariance_factor")(0.0),
    "covariance factor is no number": at("covariance_factor")(float("nan")),
    "covariance factor is text": at("covariance_factor")("wide"),
    "infinite stamp": lambda h: h["views"][0].update(stamp_ns=float("inf")),
    "text provenance": at("provenance")("mine"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*HUGE, *WRONG])
def test_a_hostile_header_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    header, arrays = parts(saved)
    (HUGE | WRONG)[name](header)
    refuse(write(tmp_path / "x.map", header, arrays))


NO_HEADER = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "open": "{",
    "infinite": "1e999",
    "deep": "[" * 200_000,
    "only version": '{"format_version": 1}',
    "long text": '"' + "x" * 10**6 + '"',
}


@pytest.mark.parametrize("text", NO_HEADER.values(), ids=NO_HEADER)
def test_a_header_that_is_no_header(saved: Path, tmp_path: Path, text: str) -> None:
    _, arrays = parts(saved)
    refuse(write(tmp_path / "x.map", text, arrays))


def test_nothing_large_is_made_for_a_header_that_asks_for_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three grids of 2^24 entries, 8 features and 32 levels would take 50 GB."""
    header, arrays = parts(saved)
    for grid in ("proposal", "geometry", "descriptor"):
        header["field"][grid] = {
            "levels": 32, "features": 8, "log2_entries": 24, "base_resolution": 512,
            "per_level_scale": 1.2,
        }  # fmt: skip
    path = write(tmp_path / "x.map", header, arrays)
    real, largest = torch.rand, [0]

    def rand(*size: Any, **options: Any) -> Tensor:
        out = real(*size, **options)
        largest[0] = max(largest[0], 0 if out.is_meta else out.numel())
        return out

    monkeypatch.setattr(torch, "rand", rand)
    assert "does not fit its header" in refuse(path)
    assert largest[0] < 10_000


# -- hostile arrays ----------------------------------------------------------------------------


ARRAYS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "missing": lambda a: a.pop("field.geometry.grid"),
    "missing places": lambda a: a.pop("places.words"),
    "unknown": lambda a: a.update({"field.backdoor\nx": torch.zeros(2)}),
    "short": lambda a: a.update({"field.geometry.grid": a["field.geometry.grid"][:-2].clone()}),
    "bent": lambda a: a.update({"field.colour": a["field.colour"][None].clone()}),
    "integers": lambda a: a.update({"field.colour": a["field.colour"].int()}),
    "bytes": lambda a: a.update({"network.head.bias": a["network.head.bias"].to(torch.uint8)}),
    "NaN": lambda a: a["field.geometry.network"].__setitem__(3, float("nan")),
    "infinite": lambda a: a["network.head.bias"].__setitem__(0, float("inf")),
    "NaN places": lambda a: a["places.points"].__setitem__((0, 0), float("nan")),
    "view that is not": lambda a: a["places.point_view"].__setitem__(0, 3),
    "negative view": lambda a: a["places.point_view"].__setitem__(0, -1),
    "real views": lambda a: a.update({"places.point_view": a["places.point_view"].float()}),
    "flat points": lambda a: a.update({"places.points": a["places.points"][:, :2].clone()}),
    "wide words": lambda a: a.update({"places.words": torch.zeros(5, 17).half()}),
    "scalar words": lambda a: a.update({"places.words": torch.tensor(1.0)}),
    "more words": lambda a: a.update({"places.words": torch.zeros(6, 16).half()}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    header, arrays = parts(saved)
    ARRAYS[name](arrays)
    refuse(write(tmp_path / "x.map", header, arrays))


# -- a full disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "mkstemp"])
def test_a_full_disk_leaves_the_old_map(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "kept.map"
    path.write_bytes(saved.read_bytes())
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: Any, **__: Any) -> Any:
        raise full

    owner = {"fsync": "os.fsync", "replace": "pathlib.Path.replace", "mkstemp": "tempfile.mkstemp"}
    with monkeypatch.context() as patch:
        patch.setattr(owner[call], fail)
        with pytest.raises(CrossfireError) as caught:
            tiny_map().save(path)
    message = str(caught.value)
    assert "No space left" in message and "free some space" in message and "\n" not in message
    assert path.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.map"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_while_writing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file is the one device that is always full."""
    path = tmp_path / "kept.map"
    path.write_bytes(saved.read_bytes())
    monkeypatch.setattr(
        "tempfile.mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "t"))
    )
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    with pytest.raises(CrossfireError, match="No space left"):
        tiny_map().save(path)
    assert path.read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("name", ["points", "normals", "spacing", "view", "pictures"])
def test_patches_that_are_not_whole_are_refused(saved: Path, tmp_path: Path, name: str) -> None:
    header, arrays = parts(saved)
    lacking = {k: v for k, v in arrays.items() if k != f"patches.{name}"}
    assert "damaged" in refuse(write(tmp_path / "lacking.map", header, lacking))
    short = {**arrays, f"patches.{name}": arrays[f"patches.{name}"][:1].clone()}
    assert "damaged" in refuse(write(tmp_path / "short.map", header, short))


def test_a_picture_that_announces_more_than_its_patches_is_refused(
    saved: Path, tmp_path: Path
) -> None:
    header, arrays = parts(saved)
    data = arrays["patches.pictures"].numpy().tobytes()
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    arrays["patches.pictures"] = torch.frombuffer(bytearray(huge), dtype=torch.uint8)
    assert "patches" in refuse(write(tmp_path / "huge.map", header, arrays))


def test_a_map_of_before_has_no_patches(saved: Path, tmp_path: Path) -> None:
    header, arrays = parts(saved)
    older = {k: v for k, v in arrays.items() if not k.startswith("patches.")}
    assert len(NeuralMap.load(write(tmp_path / "o.map", header, older), "cpu").patches) == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CrossfireError, match="cannot write"):
        tiny_map().save(tmp_path / "file" / "x.map")


def test_an_interrupted_write_leaves_nothing_behind(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.map"
    path.write_bytes(saved.read_bytes())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny_map().save(path)
    assert path.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.map"]
