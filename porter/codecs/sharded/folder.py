"""The folder of a sharded output: shards are finished in a hidden folder next to the target."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from porter.codecs.sharded import index as sharded
from porter.errors import PorterError, SystemFault
from porter.storage import atomic_output
from porter.storage.atomic_output import Input, Written
from porter.storage.file_digest import is_intact
from porter.storage.input_file import InputFile, read_small
from porter.storage.lock import hidden
from porter.storage.options import WriteOptions
from porter.storage.tasks import Row

JOURNAL = "journal.json"
_LARGEST = 1 << 30


class Folder:
    """Where shards of an output on this machine are; a `porter.storage.tasks.ShardPlace`."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._index = base + sharded.SUFFIX
        self.parts = hidden(os.path.realpath(base), "parts")
        """The hidden folder."""
        self._home = os.path.dirname(os.path.realpath(base))

    def check(
        self, paths: Sequence[str], inputs: Sequence[Input], force: bool, ours: Collection[str]
    ) -> None:
        """Raise `UsageError` when a file that must stay is there."""
        for path in paths:
            atomic_output.resolve(path, inputs, force or os.path.basename(path) in ours)

    def prepare(self) -> None:
        """Make the hidden folder."""
        try:
            # Private: the shards in it get the permissions of those that they replace.
            os.makedirs(self.parts, mode=0o700, exist_ok=True)
        except OSError as fault:
            raise SystemFault(f"cannot be written: {fault.strerror}", self._base) from fault

    def load(self) -> bytes:
        """Return the journal, b"" when there is none."""
        try:
            return read_small(os.path.join(self.parts, JOURNAL), _LARGEST)
        except PorterError:
            return b""

    def save(self, journal: bytes) -> None:
        """Replace the journal."""
        path = os.path.join(self.parts, JOURNAL)
        atomic_output.publish(path, [journal], WriteOptions(force=True), lock=False)

    def listed(self) -> set[str]:
        """Return the shards of the checkpoint that is replaced, as far as their names say so."""
        with suppress(PorterError), InputFile(self._index) as file:
            return shards_of(file)
        return set()

    def has(self, name: str, row: Row) -> bool:
        """Whether a shard has the size and the digest that it had."""
        for folder in (self.parts, self._home):
            with suppress(PorterError):
                if is_intact(os.path.join(folder, name), row["bytes"], row["digest"]):
                    return True
        return False

    def begin(self, name: str) -> str:
        """Return the path of a shard in the hidden folder."""
        return os.path.join(self.parts, name)

    def like(self, name: str, replaced: Collection[str]) -> str:
        """Return a file that a shard replaces, or the index of such files."""
        paths = [os.path.join(self._home, known) for known in (name, *sorted(replaced))]
        return next((path for path in paths if os.path.exists(path)), self._index)

    def send(self, path: str) -> Row:
        """Leave a shard where it is."""
        return {}

    def where(self, name: str) -> str:
        """Return where a complete shard is: an earlier run may have given it its name already."""
        path = os.path.join(self.parts, name)
        return path if os.path.exists(path) else os.path.join(self._home, name)

    def publish(self, rows: Mapping[str, Row]) -> None:
        """Give the shards their names, without an index."""
        waiting = [name for name in rows if os.path.exists(os.path.join(self.parts, name))]
        if waiting:
            with suppress(FileNotFoundError):
                os.unlink(self._index)
        for name in waiting:
            os.replace(os.path.join(self.parts, name), os.path.join(self._home, name))
        atomic_output.sync_folder(self._home, self._index)

    def finish(self, written: Written, rows: Mapping[str, Row], stale: Collection[str]) -> Written:
        """Remove stale shards; the other files are written to where they belong."""
        for name in stale:
            with suppress(OSError):
                os.unlink(os.path.join(self._home, name))
        return written

    def remove(self) -> None:
        """Remove the hidden folder with what is in it, the journal last."""
        with suppress(OSError):
            for name in sorted(os.listdir(self.parts), key=lambda name: name == JOURNAL):
                os.unlink(os.path.join(self.parts, name))
            os.rmdir(self.parts)

    def discard(self) -> None:
        """Remove the hidden folder: no shard has its name before all are complete."""
        self.remove()


def shard_names(index: str) -> re.Pattern[str]:
    """Return the pattern of the names of an index's shards."""
    stem = os.path.splitext(os.path.basename(index.removesuffix(sharded.SUFFIX)))[0]
    return re.compile(re.escape(stem) + r"-\d+-of-\d+\.\w+")


def shards_of(index: InputFile) -> set[str]:
    """Return the files that an index lists whose names are those of its shards."""
    names = set(sharded.read_index(index).files.values())
    return set(filter(shard_names(index.path).fullmatch, names))
