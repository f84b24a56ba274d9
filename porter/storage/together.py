"""Small new outputs that get their names together, and are brought to the disk together.

Each of their files is written under a hidden name, and compared there, while the output is locked.
Those that are to be on the disk are brought there while others are written. When all of them are
there every file gets its name, and the folders follow. Unlike `atomic_output.publish` it asks for
no room before it writes: that there is none shows before a file has its name, and nothing large was
read for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from porter.errors import InputError, PorterError
from porter.storage.atomic_output import (
    OpenFile,
    appear,
    create,
    left_at_first,
    not_written,
    sync_folder,
)
from porter.storage.input_file import Identity, now
from porter.storage.lock import Series
from porter.storage.positional import read_into, write_at

_MOST_THREADS = 4
"""Files that are waited for at a time: the file system takes one turn of the disk for them."""


class _File(NamedTuple):
    open: OpenFile
    path: str
    nbytes: int

    def remove(self) -> None:
        """Close it, and remove its hidden name."""
        self.open.close()
        with suppress(OSError):
            os.unlink(self.open.name)

    def refused(self, fault: OSError) -> PorterError:
        """Return the error to report."""
        return not_written(self.path, self.nbytes, fault)


class Draft:
    """An output whose files have no names yet; the first of them appears first."""

    def __init__(self, source: str, known: Identity, sync: bool) -> None:
        self._source, self._known = source, known
        self.sync = sync
        self.files: list[_File] = []

    def write(self, path: str, data: bytes | bytearray) -> None:
        """Write a file; raises `SystemFault`."""
        try:
            self.files.append(_File(create(path, 0o666), path, len(data)))
            write_at(self.files[-1].open.fd, data, 0)
        except OSError as fault:
            raise not_written(path, len(data), fault) from fault

    def read_back(self, into: bytearray) -> bool:
        """Fill a buffer with the file that was just written; whether it has that many bytes."""
        file = self.files[-1]
        view, done = memoryview(into), 0
        try:
            while done < len(view) and (n := read_into(file.open.fd, view[done:], done)):
                done += n
            return done == os.fstat(file.open.fd).st_size
        except OSError as fault:
            raise file.refused(fault) from fault

    def remove(self) -> None:
        """Give up what has no name yet."""
        while self.files:
            self.files.pop().remove()

    def publish(self) -> PorterError | None:
        """Give the files their names; after an error, none of the rest. Return the error."""
        try:
            if now(self._source) != self._known:
                return InputError("changed while it was being read", self._source)
            for file in self.files:
                try:
                    file.open.close()  # Not every system renames an open file.
                    appear(file.open.name, file.path, file.path)
                except OSError as fault:
                    return file.refused(fault)
        except PorterError as error:
            return error
        finally:
            self.remove()
        return None


class Together:
    """Outputs that wait for their names."""

    def __init__(self) -> None:
        self._drafts: list[Draft] = []
        self._locks = Series()

    def begin(self, path: str, source: str, known: Identity, sync: bool) -> Draft | None:
        """Lock an output and begin to write it; None where that is not simple.

        `known` is what its source was when it was opened: it must still be that at the end.
        It is not where a writer has been killed, or for a name that is not UTF-8, which a record
        could not state.
        """
        try:
            os.path.basename(path).encode()
        except UnicodeEncodeError:
            return None
        if left_at_first(path) or not self._locks.take(path):
            return None
        return Draft(source, known, sync)

    def add(self, draft: Draft) -> None:
        """Have a written output wait for the others."""
        self._drafts.append(draft)
        if draft.sync and hasattr(os, "posix_fadvise"):
            for file in draft.files:  # Of pages that are not on the disk this begins the writing.
                os.posix_fadvise(file.open.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def publish(self) -> list[PorterError | None]:
        """Give all outputs their names; return what went wrong with each, None for those that are
        there and, if they are to be, on the disk."""
        drafts, self._drafts = self._drafts, []
        files = [file for draft in drafts if draft.sync for file in draft.files]
        fault = _brought(files)
        folders = {os.path.dirname(file.path): file.path for file in files}
        errors = [_published(draft, fault) for draft in drafts]
        for folder, path in folders.items():
            try:
                sync_folder(folder, path)
            except PorterError as error:
                errors = [known or error for known in errors]
        self._locks.close()
        return errors


def _published(draft: Draft, fault: OSError | None) -> PorterError | None:
    if fault is None or not draft.sync:
        return draft.publish()
    error = draft.files[0].refused(fault)
    draft.remove()
    return error


def _brought(files: Sequence[_File]) -> OSError | None:
    """Bring files to the disk; return the first error."""
    faults = list[OSError]()

    def work(number: int) -> None:
        try:
            for file in files[number::_MOST_THREADS]:
                os.fsync(file.open.fd)
        except OSError as fault:
            faults.append(fault)

    count = min(len(files), _MOST_THREADS)
    threads = [threading.Thread(target=work, args=(n,), name="porter-sync") for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults[0] if faults else None
