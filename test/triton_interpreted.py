"""Run by test_encoding.py with TRITON_INTERPRET=1: the Triton kernels on the CPU.

Prints, for every layout, the largest differences from the reference: values, and gradients in
the table and in the positions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crossfire_core.config import GridConfig
from crossfire_core.field import encoding_torch, encoding_triton
from crossfire_core.field.layout import GridLayout

GRIDS = {
    **{f"dense {f}": GridConfig(2, f, 16, 4, 1.5) for f in (1, 2, 4, 8)},
    "hashed": GridConfig(2, 2, 6, 8, 1.9),
    "both": GridConfig(4, 2, 10, 4, 1.6),
}


def outcome(module: object, layout: GridLayout) -> list[torch.Tensor]:
    """Values and gradients of one backend."""
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(layout.parameters, generator=rng).requires_grad_()
    inside = torch.rand(300, 3, generator=rng)  # more than one block, the second not full
    points = torch.cat([inside, torch.zeros(1, 3), torch.ones(1, 3)]).requires_grad_()
    out = module.encode(table, points, layout)  # type: ignore[attr-defined]
    upstream = torch.randn(out.shape, generator=rng)
    return [out.detach(), *torch.autograd.grad(out, (table, points), upstream)]


def main() -> None:
    """Compare all layouts."""
    errors = {}
    for name, config in GRIDS.items():
        layout = GridLayout.of(config)
        pairs = zip(outcome(encoding_triton, layout), outcome(encoding_torch, layout), strict=True)
        names = ("values", "table", "positions")
        errors[name] = {
            k: float((a - b).abs().max()) for k, (a, b) in zip(names, pairs, strict=True)
        }
    layout = GridLayout.of(GRIDS["both"])
    table, nothing = torch.zeros(layout.parameters), torch.zeros(0, 3)
    assert encoding_triton.encode(table, nothing, layout).shape == (0, layout.width)
    fixed = encoding_triton.encode(table.requires_grad_(), torch.rand(5, 3), layout)
    fixed.sum().backward()
    assert table.grad is not None
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
