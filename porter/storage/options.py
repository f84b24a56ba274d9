"""How an output is written: one frozen value, from the command line down to the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from porter.storage.digests import XXH3, check_method
from porter.storage.progress import Advance, Progress
from porter.storage.tasks import ShardPlaces, ShardPool


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How an output is written."""

    force: bool = False
    """Replace an existing file."""
    sync: bool = True
    """Bring the file to the disk before it gets its name."""
    read_back: bool = True
    """Read the finished file and compare it with what was to be written."""
    digests: bool = True
    """Take digests of sources, tensors and files."""
    digest: str = XXH3
    """How digests are taken: xxh3 or sha256."""
    record: bool = True
    """Write `OUTPUT.porter.json`, with provenance and digests."""
    max_shard_size: str | int | None = None
    """Bytes, or a text like "5GB": larger outputs are cut into shards."""
    progress: Progress | None = None
    """Called with what is done, the bytes done and the bytes in all."""
    pool: ShardPool | None = None
    """Processes that write the shards; None: this one does."""
    places: ShardPlaces | None = None
    """Where shards go; None: into the folder of the output."""

    def __post_init__(self) -> None:
        check_method(self.digest)

    @property
    def method(self) -> str:
        """The method of the digests, "" for none."""
        return self.digest if self.digests else ""

    @property
    def left_out(self) -> str:
        """What was not done, for the provenance; empty when all was."""
        care = {"read back": self.read_back, "sync": self.sync, "digests": self.digests}
        return ", ".join(what for what, done in care.items() if not done)

    def advance(self, what: str) -> Advance | None:
        """Return how one step reports its progress."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(what, done, total)


class WriteFields(TypedDict, total=False):
    """The fields of `WriteOptions`, as keyword arguments."""

    force: bool
    sync: bool
    read_back: bool
    digests: bool
    digest: str
    record: bool
    max_shard_size: str | int | None
    progress: Progress | None
    pool: ShardPool | None
    places: ShardPlaces | None
