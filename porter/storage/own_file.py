"""A file that porter has just written and still keeps under a temporary name.

Nobody else knows it, so it may be mapped: a matrix is transposed from the page cache itself,
whatever its size, where a file of somebody else's is read in parts that fit memory.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from porter.storage.input_file import InputFile

_POPULATE_READ = 22
"""Linux 5.14: map the pages, and say so when one of them cannot be read."""


class OwnFile(InputFile):
    """A finished output that is read back before it gets its name."""

    __slots__ = ("_map",)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._map: mmap.mmap | None = None
        if sys.platform == "linux" and self.size:
            # A file system without mappings, a process that may have no more of them.
            with suppress(OSError, ValueError):
                self._map = mmap.mmap(self._fd, self.size, prot=mmap.PROT_READ)

    @property
    def is_mapped(self) -> bool:
        """Whether the system could map it."""
        return self._map is not None

    @contextmanager
    def mapped(self, offset: int, nbytes: int) -> Iterator[memoryview | None]:
        """Return the bytes where they are; None where the system cannot bring them to memory."""
        self._check_range(offset, nbytes)
        start = offset - offset % mmap.PAGESIZE
        length = offset + nbytes - start
        if self._map is None or not self._advised(_POPULATE_READ, start, length):
            yield None
            return
        self.check_unchanged()
        yield memoryview(self._map)[offset : offset + nbytes]
        self._advised(mmap.MADV_DONTNEED, start, length)  # They stay in the page cache.

    def _advised(self, advice: int, start: int, length: int) -> bool:
        assert self._map is not None
        try:
            self._map.madvise(advice, start, length)
        except OSError:
            return False
        return True
