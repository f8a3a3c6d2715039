"""How a training goes: to a progress bar, and to TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfire_core.errors import TrainingError

_PERIOD_S = 0.5  # a bar looks alive, and the host rarely waits for a GPU
Count = tuple[int, int, "float | None"]


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows.

    Attributes:
        stage: what is being done.
        step: of ``total_steps``; with a time budget both count seconds.
        total_steps: 0 while unknown.
        loss: smoothed.
        psnr: smoothed, dB.
        held_out: error on frames that are not trained on, when newly measured.
        seconds: since the start, across restarts.
        seconds_left: estimate, None while unknown.
    """

    stage: str
    step: int
    total_steps: int
    loss: float
    psnr: float
    held_out: dict[str, float] | None
    seconds: float
    seconds_left: float | None


class Reporter:
    """Collects the figures of steps, and tells them now and then."""

    def __init__(self) -> None:
        """Tell nobody yet."""
        self._on_progress: Callable[[Progress], None] = lambda progress: None
        self._log: Any = None
        self._smooth: dict[str, float] = {}
        self._unread: list[dict[str, Tensor]] = []
        self._told = 0.0

    def observe(self, on_progress: Callable[[Progress], None], log_dir: Path | None) -> None:
        """Report to a callback and to TensorBoard."""
        self._on_progress = on_progress
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._log = SummaryWriter(str(log_dir))

    def keep(self, figures: dict[str, Tensor]) -> None:
        """Figures of a step, which may still be under way on a GPU."""
        self._unread.append(figures)

    def read(self) -> None:
        """Take the steps' figures over; only here does the host wait for a GPU.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        for name in self._unread[0] if self._unread else ():
            values = torch.stack([figures[name] for figures in self._unread]).tolist()
            if not np.isfinite(values).all():
                raise TrainingError(
                    "the loss is no longer a number: lower the learning rates, or check the poses"
                )
            for value in values:
                self._smooth[name] = 0.97 * self._smooth.get(name, value) + 0.03 * value
        self._unread.clear()

    def tell(
        self,
        stage: str,
        count: Callable[[], Count],
        seconds: float,
        held_out: dict[str, float] | None,
        force: bool,
    ) -> None:
        """Tell the progress bar and TensorBoard, not more often than twice a second.

        Args:
            stage: what is being done.
            count: gives what is done, of how much, and seconds that are left.
            seconds: since the start.
            held_out: error on frames that are not trained on, when newly measured.
            force: whether it is told in any case.
        """
        now = time.monotonic()
        if not force and now - self._told < _PERIOD_S:
            return
        self._told = now
        done, total, left = count()
        smooth = self._smooth
        loss, psnr = (smooth.get(name, float("nan")) for name in ("loss", "psnr"))
        self._on_progress(Progress(stage, done, total, loss, psnr, held_out, seconds, left))
        if self._log is not None and smooth:
            for name, value in {**smooth, **(held_out or {})}.items():
                self._log.add_scalar(f"{stage}/{name}", value, done)
