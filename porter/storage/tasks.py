"""The work on a sharded output, cut into tasks that other processes can do.

A task is small JSON, and so is its row: what came of it. `porter.fleet.shards` has the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from porter.storage.atomic_output import Input, Written

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


class ShardPlace(Protocol):
    """Where the files of a sharded output are: its folder, or an address.

    Files are named as in the folder; `rows` and `ours` are by the names of shards.
    """

    def check(
        self, paths: Sequence[str], inputs: Sequence[Input], force: bool, ours: Collection[str]
    ) -> None:
        """Raise `UsageError` when a file must stay: an input, or not of `ours`.

        The index is the last of the paths.
        """

    def prepare(self) -> None:
        """Make what shards are written into."""

    def load(self) -> bytes:
        """Return the journal of a run that was killed, b"" when there is none."""

    def save(self, journal: bytes) -> None:
        """Keep the journal until `remove`."""

    def listed(self) -> set[str]:
        """Return the shards of the checkpoint that is replaced, as far as their names say so."""

    def has(self, name: str, row: Row) -> bool:
        """Whether a complete shard is there, as the row of it says."""

    def begin(self, name: str) -> str:
        """Return the path by which a shard is written."""

    def like(self, name: str, replaced: Collection[str]) -> str:
        """Return a file that a shard replaces, for its permissions; "" where there are none."""

    def send(self, path: str) -> Row:
        """Take a finished shard; return what its row needs to tell that it is the same."""

    def where(self, name: str) -> str:
        """Return the path by which a complete shard is read; "" where that would be to fetch it."""

    def publish(self, rows: Mapping[str, Row]) -> None:
        """Give the shards their names; the index of an old checkpoint is removed before."""

    def finish(self, written: Written, rows: Mapping[str, Row], stale: Collection[str]) -> Written:
        """Bring the files next to the shards, the index last; remove stale shards."""

    def remove(self) -> None:
        """Remove the journal, and shards that have no name yet."""

    def discard(self) -> None:
        """Remove all of a run that cannot succeed: the journal and its shards."""


ShardPlaces: TypeAlias = Callable[[str], ShardPlace]
"""Given the path of one file, of which those of the shards are made: where they go."""
