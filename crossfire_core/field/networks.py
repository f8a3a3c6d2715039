"""The small bias-free networks behind the grids, over one flat parameter vector."""

from __future__ import annotations

import torch
from torch import Tensor

from crossfire_core.field.layout import NetworkLayout
from crossfire_core.field.precision import short_products


def initial_parameters(layout: NetworkLayout, generator: torch.Generator) -> Tensor:
    """Xavier-uniform with the padded widths, ``[layout.parameters]``."""
    parts = []
    for rows, columns in layout.shapes:
        bound = (6.0 / (rows + columns)) ** 0.5
        parts.append((torch.rand(rows * columns, generator=generator) * 2 - 1) * bound)
    return torch.cat(parts)


def matrices(parameters: Tensor, layout: NetworkLayout) -> list[Tensor]:
    """Views of the weight matrices ``[out, in]``, the last one without its padded rows."""
    sizes = [rows * columns for rows, columns in layout.shapes]
    parts = parameters.split(sizes)
    views = [p.view(shape) for p, shape in zip(parts, layout.shapes, strict=True)]
    views[-1] = views[-1][: layout.outputs]
    return views


def evaluate(parameters: Tensor, inputs: Tensor, layout: NetworkLayout) -> Tensor:
    """ReLU network without an output activation: ``[n, inputs]`` -> ``[n, outputs]``.

    Inputs narrower than the padded width are filled with ones, which makes the padded columns
    an implicit bias, as in tiny-cuda-nn's ``Network``. Its ``NetworkWithInputEncoding`` fills
    up with zeros behind a grid, and has no such bias.
    """
    *hidden, last = matrices(parameters, layout)
    missing = hidden[0].shape[1] - inputs.shape[1]
    x = torch.nn.functional.pad(inputs, (0, missing), value=1.0) if missing else inputs
    with short_products(inputs.device):
        for weight in hidden:
            x = torch.relu(x @ weight.T)
        return (x @ last.T).float()
