"""Who trains the tiles of a place: processes of this machine, or a Ray cluster.

Tasks share a folder: results, checkpoints and what progress bars show lie in it as files. A task
whose process dies is started again and goes on from its checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from crossfire_core.errors import CrossfireError, TrainingError, optional
from crossfire_core.field.threads import THREADS, thread_count
from crossfire_core.files import write_text
from crossfire_core.training.progress import Progress
from crossfire_core.training.tiles import Tell, TileTask

_TRIES = 3  # of a task whose process dies
_LOOK_SECONDS = 0.5  # between two looks at the workers
_STOP = "stop"  # a file of this name in the tiles' folder ends all tasks
_DEATHS = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "LocalRayletDiedError")


class Workers:
    """Processes of this machine, which share its cores.

    Attributes:
        lanes: how many tiles are trained at a time.
    """

    def __init__(self, count: int) -> None:
        """Begin with none of ``count`` processes."""
        self.lanes = count

    def __call__(self, tasks: Sequence[TileTask], tell: Tell) -> None:
        """Train tiles; see :data:`.tiles.Engine`."""
        left, threads = _Left(tasks, self.lanes, tell), max(1, thread_count() // self.lanes)
        with stopping_at_the_end(tasks):
            while left.waiting():
                self._train(left, threads)

    def _train(self, left: _Left, threads: int) -> None:
        """Train what is left until all are done or a process has died, and the others with it."""
        with ProcessPoolExecutor(self.lanes, multiprocessing.get_context("spawn")) as pool:
            pending = {pool.submit(run_task, task, threads): task for task in left.waiting()}
            try:
                while pending:
                    ended, _ = wait(pending, _LOOK_SECONDS)
                    left.report()
                    for future in ended:
                        left.ended(pending.pop(future), future.exception())
            except BaseException:
                _order_to_stop(left.tasks)
                pool.shutdown(cancel_futures=True)
                raise


class Cluster:
    """A Ray cluster; recording and map lie in folders that all of it sees.

    Attributes:
        lanes: how many tiles are trained at a time, one a core.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: of the cluster's head, or ``local`` for one on this machine.

        Raises:
            MissingDependencyError: Ray is not installed.
            TrainingError: there is no cluster at the address.
        """
        ray = self._ray = optional(
            "ray", "training on a cluster needs Ray: pip install 'crossfire_ros[cluster]'"
        )
        where = {} if address == "local" else {"address": address}
        try:
            ray.init(log_to_driver=False, **where)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TrainingError(f"there is no Ray cluster at {address}: {error}") from error
        self.lanes = int(ray.cluster_resources().get("CPU", 1))

    def __call__(self, tasks: Sequence[TileTask], tell: Tell) -> None:
        """Train tiles; see :data:`.tiles.Engine`."""
        left, running = _Left(tasks, self.lanes, tell), dict[Any, TileTask]()
        remote = self._ray.remote(num_cpus=1, max_retries=0)(run_task)
        with stopping_at_the_end(tasks):
            try:
                while waiting := left.waiting():
                    begun = {task.number for task in running.values()}
                    for task in waiting:
                        if task.number not in begun:
                            running[remote.remote(task, 1)] = task
                    ended, _ = self._ray.wait(list(running), timeout=_LOOK_SECONDS)
                    left.report()
                    for reference in ended:
                        left.ended(running.pop(reference), self._failure(reference))
            except BaseException:
                _order_to_stop(left.tasks)
                self._ray.wait(list(running), num_returns=len(running), timeout=60.0)
                raise

    def _failure(self, reference: Any) -> BaseException | None:
        try:
            self._ray.get(reference)
        except Exception as error:
            return getattr(error, "cause", None) or error
        return None


@contextmanager
def stopping_at_the_end(tasks: Sequence[TileTask]) -> Iterator[None]:
    """Begin without an old order to stop, and leave none."""
    orders = {_stop_file(task) for task in tasks}
    for order in orders:
        order.unlink(missing_ok=True)
    try:
        yield
    finally:
        for order in orders:
            order.unlink(missing_ok=True)


def _order_to_stop(tasks: Sequence[TileTask]) -> None:
    _stop_file(tasks[0]).touch()


def _stop_file(task: TileTask) -> Path:
    return task.output.parent / _STOP


def run_task(task: TileTask, threads: int) -> None:
    """Train one tile wherever this is called, and leave its progress in the shared folder.

    Args:
        task: the tile.
        threads: that it may use.

    Raises:
        CrossfireError: what a training raises.
    """
    import torch

    os.environ[THREADS] = str(threads)
    torch.set_num_threads(threads)

    def tell(progress: Progress) -> None:
        plain = {name: value for name, value in asdict(progress).items() if value == value}
        write_text(_progress_file(task), json.dumps(plain))
        if _stop_file(task).exists():
            raise KeyboardInterrupt

    try:
        task.run(tell)
    except KeyboardInterrupt:  # its checkpoint is written
        return


def _progress_file(task: TileTask) -> Path:
    return task.output.with_suffix(".progress")


def _progress_of(task: TileTask) -> Progress | None:
    nothing = Progress("", 0, 0, float("nan"), float("nan"), None, 0.0, None)
    try:
        return replace(nothing, **json.loads(_progress_file(task).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class _Left:
    """Tiles that are not done, and how often each was begun in vain."""

    def __init__(self, tasks: Sequence[TileTask], lanes: int, tell: Tell) -> None:
        self.tasks, self._lanes, self._tell = list(tasks), lanes, tell
        self._tries = {task.number: 0 for task in tasks}
        self._started = time.monotonic()

    def waiting(self) -> list[TileTask]:
        return [task for task in self.tasks if not task.done]

    def ended(self, task: TileTask, error: BaseException | None) -> None:
        """Judge how a task ended; one whose process died waits again.

        Raises:
            CrossfireError: its training failed, or its process died too often.
        """
        if task.done:
            return
        if isinstance(error, CrossfireError):
            raise type(error)(f"tile {task.number + 1}: {error}") from error
        died = isinstance(error, BrokenProcessPool) or type(error).__name__ in _DEATHS
        if error is not None and not died:
            raise error
        self._tries[task.number] += _progress_file(task).exists()
        if self._tries[task.number] >= _TRIES:
            raise TrainingError(
                f"the process that trains tile {task.number + 1} died {_TRIES} times: there "
                "may be too little memory for so many at a time"
            ) from error

    def report(self) -> None:
        """Tell the progress of all tiles together."""
        done = sum(task.done for task in self.tasks)
        running = [p for t in self.waiting() if (p := _progress_of(t)) is not None]
        share = (done + sum(p.step / max(p.total_steps, 1) for p in running)) / len(self.tasks)
        whole = max((p.seconds + (p.seconds_left or 0.0) for p in running), default=0.0)
        left = max((p.seconds_left or 0.0 for p in running), default=0.0)
        rounds = -(-(len(self.tasks) - done - len(running)) // self._lanes)
        best = max(running, key=lambda p: p.step, default=None)
        unknown = float("nan")
        self._tell(
            Progress(
                f"{done} of {len(self.tasks)} further tiles", round(1000 * share), 1000,
                best.loss if best else unknown, best.psnr if best else unknown, None,
                time.monotonic() - self._started, left + rounds * whole if best else None,
            )
        )  # fmt: skip
