"""The digest of a whole source file, taken beside the conversion that reads it.

The file is hashed in portions, each as a job that is due just before the tensors in it: what it
has read is still in the page cache, or in a core's own, when they are, and the disk is read once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from porter.storage.digests import XXH3, Digest
from porter.storage.input_file import InputFile
from porter.storage.pieces import WRITE_BLOCK, Task
from porter.tensors.blocks import room

_PORTION = 8 * WRITE_BLOCK


class SourceDigest:
    """The digest of one file, in as many jobs as it has portions."""

    def __init__(self, path: str, done: Callable[[str], None], method: str = XXH3) -> None:
        self._path = path
        self._size = InputFile(path).size
        self._file: InputFile | None = None  # Opened in its turn: there may be very many.
        self._done = done
        self._digest = Digest(method)
        self._reached = 0
        self._failed = False
        self._turn = threading.Condition()

    def jobs(self) -> list[Task]:
        """Return the jobs; each waits for the one before, which must have been begun."""
        starts = range(0, max(self._size, 1), _PORTION)
        return [Task((self._path, start), partial(self._take, start)) for start in starts]

    def _take(self, start: int) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._reached == start or self._failed)
        if self._failed:
            return  # The job that failed says why.
        try:
            file = self._file = self._file or InputFile(self._path)
            end = min(start + _PORTION, self._size)
            buffer = room(min(WRITE_BLOCK, end - start), start)
            for offset in range(start, end, WRITE_BLOCK):
                block = buffer[: end - offset]
                file.pread_into(offset, block)
                self._digest.update(block)
        except BaseException:
            self._failed = True
            raise
        finally:
            with self._turn:
                self._reached = start + _PORTION
                self._turn.notify_all()
        if end == self._size:
            file.close()
            self._done(self._digest.text())
