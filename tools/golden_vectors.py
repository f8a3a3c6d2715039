"""Write what this machine's backends make of one fixed input, to compare other machines with.

The file holds the input (table, positions, upstream gradient) and for every backend that runs
here its values and gradients. Put it at test/golden/encoding.npz and the tests of the encoding
hold every machine against it.

Usage: python tools/golden_vectors.py encoding.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crossfire_core.config import GridConfig
from crossfire_core.field.backends import available, encoder, resolve_device
from crossfire_core.field.layout import GridLayout

GRID = GridConfig(levels=6, features=2, log2_entries=10, base_resolution=4, per_level_scale=1.6)


def main(path: Path) -> None:
    """Evaluate every backend and write the file."""
    layout = GridLayout.of(GRID)
    rng = np.random.default_rng(0)
    # numbers that half precision holds exactly, so that no backend rounds its input
    table = rng.uniform(-1, 1, layout.parameters).astype(np.float16).astype(np.float32)
    positions = np.concatenate([rng.random((120, 3)), np.eye(3), np.zeros((1, 3)), np.ones((1, 3))])
    upstream = rng.uniform(-1, 1, (len(positions), layout.width)).astype(np.float32)
    arrays = {"table": table, "positions": positions.astype(np.float32), "upstream": upstream}
    device = resolve_device("auto")
    for name, reason in available(device).items():
        if reason:
            print(f"{name}: left out, {reason}")
            continue
        encode = encoder(name, device)
        tensors = [torch.tensor(arrays[k], device=device) for k in ("table", "positions")]
        learned, where = (t.requires_grad_() for t in tensors)
        out = encode(learned, where, layout)
        gradients = torch.autograd.grad(out, (learned, where), torch.tensor(upstream).to(device))
        made = {"values": out, "of_table": gradients[0], "of_positions": gradients[1]}
        for what, value in made.items():
            arrays[f"{name}.{what}"] = value.detach().float().cpu().numpy()
        print(f"{name}: written")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, device=np.array(_device_name(device)), **arrays)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/golden_vectors.py encoding.npz")
    main(Path(sys.argv[1]))
