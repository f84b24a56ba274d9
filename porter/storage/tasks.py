"""The work on a sharded output, cut into tasks that other processes can do.

A task is small JSON, and so is its row: what came of it. `porter.fleet.shards` has the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

Row: TypeAlias = dict[str, Any]


class Task(NamedTuple):
    """One file to write, or one source to read for its digests."""

    kind: str
    """`shard` or `source`."""
    number: int
    """Of the shard in the index, or of the source among the inputs; from 0."""
    about: Row
    """Small JSON that whoever does it needs to know."""


class Work(NamedTuple):
    """What is to be done for one output."""

    tasks: Sequence[Task]
    do: Callable[[Task], Row]
    """Does a task; several of them at the same time in several processes."""
    done: Callable[[Task, Row], None]
    """Takes the row of a task; called by one thread at a time, in the process that asks."""


class ShardPool(Protocol):
    """Where tasks are done: one instance asks, and each of the processes has one that answers."""

    @property
    def is_worker(self) -> bool:
        """Whether this process does tasks for another, and publishes nothing."""

    def begin(self, command: str, arguments: dict[str, Any]) -> None:
        """Take note of the call of porter's that a worker makes to arrive at the same work."""

    def run(self, work: Work) -> None:
        """Do all tasks; of a worker, those that it is asked for until the asker is gone."""
