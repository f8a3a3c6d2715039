"""Golden vectors of the hash encoding: inputs with the values and gradients that belong to them.

    python tools/golden_vectors.py write test/golden/encoding.npz
    python tools/golden_vectors.py compare test/golden/encoding.npz [FIGURES.json]

``write`` asks the reference, in plain torch; ``compare`` says how far every backend that runs here,
on the GPU if there is one, is from a file of this program or of tiny-cuda-nn itself.

Of each grid ``NAME`` a file holds ``NAME.positions [n, 3]``, ``.upstream [n, width]``,
``.f32.values [n, width]``, ``.f32.grad_positions [n, 3]``, ``.f32.grad_params_index`` and
``_value`` (those that are not zero), ``.scale [levels]`` and ``.offsets [levels + 1]``, and in
``meta`` its settings as JSON. Parameters follow from their seed: uniform in -1 to 1, rounded to
half precision, so that no backend rounds its input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crossfire_core.config import GridConfig
from crossfire_core.field import encoding_torch
from crossfire_core.field.backends import Encoder, available, encoder, resolve_device
from crossfire_core.field.layout import GridLayout

GRIDS = {
    "dense, 8 features": GridConfig(3, 8, 16, 4, 1.5),
    "hashed, 1 feature": GridConfig(4, 1, 6, 8, 1.9),
    "dense and hashed": GridConfig(6, 2, 10, 4, 1.6),
    "odd base": GridConfig(8, 2, 11, 5, 1.7),
}
SETTINGS = ("levels", "features", "log2_entries", "base_resolution", "per_level_scale")
CPU = torch.device("cpu")
Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_POINTS = 64


@dataclass(frozen=True)
class Case:
    """One grid of a file, at those of its points that lie in the unit cube.

    Attributes:
        name: what it is for.
        layout: of the grid, as this program computes it.
        offsets: ``[levels + 1]`` first entries of the levels, and the end, as the file has them.
        scale: ``[levels]`` as the file has them: they may differ in the last bit.
        inputs: parameters ``[layout.parameters]``, positions ``[n, 3]``, upstream ``[n, width]``.
        expected: values, and the gradients in the parameters and in the positions.
    """

    name: str
    layout: GridLayout
    offsets: NDArray[np.uint32]
    scale: NDArray[np.float32]
    inputs: Arrays
    expected: Arrays


def read(path: Path) -> Iterator[Case]:
    """The grids of a file."""
    with np.load(path, allow_pickle=False) as file:
        for key, about in json.loads(str(file["meta"])).items():
            if isinstance(about, dict):
                start = f"{key}."
                part = {k.removeprefix(start): file[k] for k in file.files if k.startswith(start)}
                yield _case(about, part)


def _case(about: dict[str, Any], part: dict[str, NDArray[Any]]) -> Case:
    layout = GridLayout.of(GridConfig(*(about[name] for name in SETTINGS)))
    parameters = _parameters(about["param_seed"], about["params"])
    positions, upstream = part["positions"], part["upstream"].astype(np.float32)
    n = about["inside"]
    of_parameters = np.zeros_like(parameters)
    of_parameters[part["f32.grad_params_index"]] = part["f32.grad_params_value"]
    if n < len(positions):  # the share of those outside, which no backend is asked for
        outside = (parameters, positions[n:], upstream[n:])
        same = replace(layout, scale=part["scale"])
        of_parameters -= outcome(encoding_torch.encode, same, outside, CPU)[1]
    return Case(
        about["name"], layout, part["offsets"], part["scale"],
        (parameters, positions[:n], upstream[:n]),
        (part["f32.values"][:n], of_parameters, part["f32.grad_positions"][:n]),
    )  # fmt: skip


def _parameters(seed: int, count: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).uniform(-1, 1, count)
    return drawn.astype(np.float16).astype(np.float32)


def outcome(encode: Encoder, layout: GridLayout, inputs: Arrays, device: torch.device) -> Arrays:
    """Values, and the gradients in the parameters and in the positions."""
    parameters, positions, upstream = (torch.tensor(a, device=device) for a in inputs)
    learned = (parameters.requires_grad_(), positions.requires_grad_())
    out = encode(*learned, layout)
    made = (out, *torch.autograd.grad(out, learned, upstream))
    values, of_parameters, of_positions = (t.detach().float().cpu().numpy() for t in made)
    return values, of_parameters, of_positions


def differences(
    encode: Encoder, case: Case, layout: GridLayout, device: torch.device
) -> list[float]:
    """The largest ones of values and both gradients, as shares of the largest expected number."""
    found = outcome(encode, layout, case.inputs, device)
    pairs = zip(found, case.expected, strict=True)
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]


def write(path: Path) -> None:
    """What the reference makes of GRIDS."""
    about: dict[str, Any] = {"source": "crossfire_core.field.encoding_torch, float32"}
    arrays: dict[str, NDArray[Any]] = {}
    for number, (name, config) in enumerate(GRIDS.items()):
        key, seed, layout = f"c{number:02}", 2000 + number, GridLayout.of(config)
        rng = np.random.default_rng(seed + 1000)
        corners = np.stack(np.meshgrid(*3 * [[0.0, 1.0]]), axis=-1).reshape(-1, 3)
        positions = np.concatenate([rng.random((_POINTS, 3)), corners]).astype(np.float32)
        upstream = rng.uniform(-1, 1, (len(positions), layout.width)).astype(np.float16)
        inputs = (_parameters(seed, layout.parameters), positions, upstream.astype(np.float32))
        values, of_parameters, of_positions = outcome(encoding_torch.encode, layout, inputs, CPU)
        index = np.flatnonzero(of_parameters)
        made = {
            "positions": positions, "upstream": upstream, "scale": layout.scale,
            "offsets": np.append(layout.offset, layout.entries.sum()).astype(np.uint32),
            "f32.values": values, "f32.grad_positions": of_positions,
            "f32.grad_params_index": index.astype(np.uint32),
            "f32.grad_params_value": of_parameters[index],
        }  # fmt: skip
        arrays |= {f"{key}.{k}": v for k, v in made.items()}
        settings = {s: getattr(config, s) for s in SETTINGS}
        about[key] = {
            "name": name, **settings, "params": layout.parameters, "param_seed": seed,
            "inside": len(positions),
        }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, meta=np.array(json.dumps(about)), **arrays)


def compare(path: Path, figures: Path | None) -> None:
    """Print how far every backend that runs here is from a file."""
    device = resolve_device("auto")
    cases = list(read(path))
    found: dict[str, Any] = {}
    for name, reason in available(device).items():
        if reason:
            print(f"{name}: left out, {reason}")
            continue
        encode = encoder(name, device)
        found[name] = {c.name: differences(encode, c, c.layout, device) for c in cases}
        worst = [max(column) for column in zip(*found[name].values(), strict=True)]
        print(f"{name}: values {worst[0]:.1e}, gradients {worst[1]:.1e} and {worst[2]:.1e}")
    if figures is not None:
        figures.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", file]:
            write(Path(file))
        case ["compare", file]:
            compare(Path(file), None)
        case ["compare", file, output]:
            compare(Path(file), Path(output))
        case _:
            sys.exit("usage: golden_vectors.py write FILE | compare FILE [FIGURES.json]")
