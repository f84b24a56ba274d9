"""Let go of the page cache behind a very large conversion.

A file that does not fit into memory pushes everything else out of it, for pages that nobody
will ask for again. What was written is handed to the disk early, and both files' pages are let
go some way behind. A conversion that fits leaves its files in the cache, for who reads them next.
"""

from __future__ import annotations

import os
import threading
from collections import deque

_BEHIND = 256 << 20
"""Bytes that stay in the cache: what is near is still being read, hashed or written."""


def is_too_large(nbytes: int) -> bool:
    """Whether an output of so many bytes, and a source like it, would fill half of the memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return False
    return hasattr(os, "posix_fadvise") and 2 * nbytes > memory // 2


class Wake:
    """The ranges that were done, let go when enough others were done after them."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self._ranges: deque[tuple[int, int, int]] = deque()
        self._pending = 0
        self._lock = threading.Lock()

    def done(self, fd: int, start: int, nbytes: int) -> None:
        """Note that a range of a file was read or written."""
        if not self.active:
            return
        with self._lock:
            self._ranges.append((fd, start, nbytes))
            self._pending += nbytes
        self.let_go(_BEHIND)

    def let_go(self, keep: int = 0) -> None:
        """Let the oldest ranges go until only about `keep` bytes are left."""
        while True:
            with self._lock:
                if self._pending <= keep or not self._ranges:
                    return
                fd, start, nbytes = self._ranges.popleft()
                self._pending -= nbytes
            # Of pages not yet on the disk this begins the writing; they go the next time.
            os.posix_fadvise(fd, start, nbytes, os.POSIX_FADV_DONTNEED)


def forget(fd: int) -> None:
    """Let all pages of a file go."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
