"""Run tasks at the same time, one thread each: mostly they wait for child processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run tasks in parallel, one thread each; return their results in order.

    An exception of any task, an interrupt included, is raised at once: the caller then ends the
    processes that the other threads wait for.
    """
    pool = ThreadPoolExecutor(max(len(tasks), 1))
    try:
        return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
