"""Run compiled kernels on all cores without a threading runtime of their own.

numba's OpenMP layer and torch's would both keep spinning threads on the same cores; a plain
thread pool waits asleep, and kernels compiled with ``nogil`` run side by side in it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
THREADS = "CROSSFIRE_THREADS"
_inside = threading.local()


def thread_count() -> int:
    """How many threads kernels use: ``CROSSFIRE_THREADS``, or the cores this process may use."""
    asked = os.environ.get(THREADS, "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable or 1)


@lru_cache(maxsize=4)
def _pool(threads: int, name: str = "kernel") -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"crossfire-{name}")


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run whole computations at once, one a thread; kernels within each stay in its thread.

    Many small operations gain more from this than from being split one by one.

    Args:
        tasks: must release the GIL most of the time.

    Returns:
        Their results, in order.
    """
    if len(tasks) == 1:
        return [tasks[0]()]

    def alone(task: Callable[[], T]) -> T:
        _inside.share = True
        try:
            return task()
        finally:
            _inside.share = False

    pending = [_pool(len(tasks) - 1, "share").submit(alone, task) for task in tasks[1:]]
    first = alone(tasks[0])
    return [first, *(future.result() for future in pending)]


def quiet_thread_pools() -> None:
    """Let torch's and BLAS's threads sleep between calls; call before torch is imported.

    By default OpenMP's threads spin for a while after each parallel loop, on the very cores
    that the kernels here, or other programs of a robot, could use. Set variables are kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(thread_count()))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def for_ranges(kernel: Callable[[int, int], None], count: int, smallest: int = 512) -> None:
    """Call ``kernel(start, stop)`` over ``range(count)``, one share a thread.

    Args:
        kernel: must release the GIL to gain anything, and write to disjoint places.
        count: items in all.
        smallest: shares are not made smaller than this.
    """
    threads = 1 if getattr(_inside, "share", False) else thread_count()
    shares = max(1, min(threads, count // max(1, smallest)))
    if shares == 1:
        kernel(0, count)
        return
    edges = [count * i // shares for i in range(shares + 1)]
    pending = [_pool(threads - 1).submit(kernel, a, b) for a, b in pairwise(edges[1:])]
    kernel(edges[0], edges[1])  # the caller works too, so a pool of threads - 1 is enough
    for future in pending:
        future.result()
