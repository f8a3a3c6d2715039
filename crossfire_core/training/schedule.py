"""How long a stage lasts, what its learning rate is by then, and how a step is shared out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from crossfire_core.config import TrainingConfig
from crossfire_core.field.threads import thread_count


@dataclass(frozen=True)
class Course:
    """How one training goes; what it learns is in :class:`~crossfire_core.config.TrainingConfig`.

    Attributes:
        steps: length in steps of both stages together, of all tiles of a place.
        minutes: or in minutes, preparation included; None for both takes the default.
        holdout_every: every n-th frame is not trained on.
        use_depth: supervise with the recording's depth images.
        resume: go on from the checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: overrides the configured seed.
        log_dir: where TensorBoard's files go, or None.
    """

    steps: int | None = None
    minutes: float | None = None
    holdout_every: int = 0
    use_depth: bool = False
    resume: bool = False
    device: str = "auto"
    seed: int | None = None
    log_dir: Path | None = None

    def lasting(self, minutes: float) -> Course:
        """The same, so many minutes long unless something else was said."""
        return self if self.steps or self.minutes else replace(self, minutes=minutes)

    def seeded(self, config: TrainingConfig) -> TrainingConfig:
        """Settings with the seed that was asked for."""
        return config if self.seed is None else replace(config, seed=self.seed)


USUAL = Course()


@dataclass
class Budget:
    """Steps or seconds for one stage, whichever was asked for.

    Attributes:
        steps: number of steps, or None.
        seconds: wall-clock time, or None; exactly one of the two is given.
        done: steps made so far.
        spent: seconds spent so far, across restarts.
    """

    steps: int | None
    seconds: float | None
    done: int = 0
    spent: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _since: float | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin to count time."""
        self._since = self.clock() - self.spent

    def advance(self) -> None:
        """One more step is done."""
        self.done += 1
        if self._since is not None:
            self.spent = self.clock() - self._since

    @property
    def fraction(self) -> float:
        """How much of the stage is over, 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.done / max(1, self.steps))
        return min(1.0, self.spent / max(1e-9, self.seconds or 0.0))

    @property
    def over(self) -> bool:
        """Whether the stage has ended."""
        return self.fraction >= 1.0

    @property
    def seconds_left(self) -> float:
        """An estimate from the pace so far; 0 before the first step of a step budget."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.spent)
        left = (self.steps or 0) - self.done
        return left * self.spent / self.done if self.done else 0.0


def rate_factor(fraction: float, warm_up: float, final: float) -> float:
    """Linear rise over ``warm_up``, then exponential decay to ``final``."""
    rising = min(1.0, (fraction + 1e-3) / warm_up) if warm_up > 0 else 1.0
    return float(rising * final**fraction)


def share_count(device: torch.device) -> int:
    """Into how many shares, computed side by side, a step is split: one a thread on the CPU."""
    return min(4, thread_count()) if device.type == "cpu" else 1


@contextmanager
def one_torch_thread_a_share(device: torch.device) -> Iterator[None]:
    """While shares run side by side, torch itself stays in the thread that calls it."""
    before = torch.get_num_threads()
    if share_count(device) > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_seeds(count: int, rng: torch.Generator) -> list[int]:
    """Seeds for the shares of a step; ``rng`` lives on the host, so nothing is waited for."""
    return [int(seed) for seed in torch.randint(2**62, (count,), generator=rng).tolist()]


def generator(device: torch.device, seed: int) -> torch.Generator:
    """A seeded source of random numbers on a device."""
    return torch.Generator(device).manual_seed(seed)


def sum_of(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Sum of the gradients that exist, in order, so that it is the same every time."""
    total = None
    for part in parts:
        total = part if total is None else total if part is None else total.add_(part)
    return total
