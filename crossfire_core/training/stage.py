"""What both stages of a training have in common: steps of Adam, shared out among threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crossfire_core.field.threads import side_by_side
from crossfire_core.training.schedule import draw_seeds, share_count, sum_of


class Stage(ABC):
    """Improves parameters step by step.

    Attributes:
        parameters: what is learned.
        shares: in how many parts a step is computed at a time.
    """

    def __init__(self, groups: list[dict[str, Any]], device: torch.device) -> None:
        """Prepare the optimiser.

        Args:
            groups: parameters with their learning rates, as PyTorch's optimisers take them.
            device: where they lie.
        """
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.shares = share_count(device)

    def step(self, rate_factor: float, rng: torch.Generator) -> dict[str, Tensor]:
        """Improve once; the host waits for nothing that happens on a GPU.

        Args:
            rate_factor: scales all learning rates.
            rng: source of all random choices, on the host.

        Returns:
            Figures of the step, one number each, on the device; ``loss`` is one of them.
        """
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor
        shares = [partial(self._share, seed) for seed in draw_seeds(self.shares, rng)]
        gradients, figures = zip(*side_by_side(shares), strict=True)
        for parameter, *parts in zip(self.parameters, *gradients, strict=True):
            parameter.grad = sum_of(parts)
        self.optimizer.step()
        return self._named(torch.stack(figures).mean(dim=0))

    @abstractmethod
    def _share(self, seed: int) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of one share of a step, by parameter, and its figures ``[k]``."""

    @abstractmethod
    def _named(self, figures: Tensor) -> dict[str, Tensor]:
        """A step's figures ``[k]`` by their names."""
