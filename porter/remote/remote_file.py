"""A file at an address, read by position.

What is read in order is fetched in chunks, a few ahead by threads; what is read here and there (the
directory of a zip, the header of a shard) is fetched to the page. Chunks are kept for a while: the
digest of a source and its conversion read the same bytes one shortly after the other.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cached_property
from typing import Protocol

from porter.storage.input_file import Identity, InputFile, identity, register

CHUNK = 4 << 20
"""Bytes of one request of a file that is read in order."""
AHEAD = 3
"""Chunks that are asked for before they are wanted."""
KEPT = 16
"""Chunks in memory of all files together, those that are awaited included."""
_PAGE = 512
_MOST_PAGES = 1 << 15
_STREAM = 512 << 10
"""Bytes of a read from which on the next one is expected to follow it."""
_NEAR = 4 << 10
"""Bytes between two pieces that one request fetches together."""
_REQUESTS = 8
"""Requests at a time for pieces that are known to be wanted."""


class Store(Protocol):
    """Where the bytes of one file come from; each call may come from another thread."""

    shown: str
    """The address, for people: without secrets."""
    size: int
    tag: str
    """What tells this state of the file from another, "" where its server says nothing."""

    def read(self, start: int, end: int) -> bytes:
        """Return exactly these bytes of the file that was opened.

        Raises `InputError` when the file changed, `SystemFault` when the network fails.
        """

    def check(self) -> None:
        """Raise `InputError` when the file is no longer the one that was opened."""


class _Chunks:
    """The chunks of all files: a checkpoint of a hundred shards keeps no more than one file."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="porter_remote")

    def get(self, file: RemoteFile, index: int, ahead: int) -> bytes | None:
        """Return a chunk; None where it is neither there nor asked for.

        With `ahead`, it and as many after it are asked for first.
        """
        key = (id(file), index)
        with self._lock:
            for wanted in range(index, index + ahead):
                if (id(file), wanted) not in self._kept:
                    job = self._pool.submit(file.fetch_chunk, wanted)
                    self._kept[id(file), wanted] = job
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)[1].cancel()
        if found is None:
            return None
        try:
            return found.result()
        except CancelledError:  # Other files took its place before it was begun.
            return file.fetch_chunk(index)
        except BaseException:
            with self._lock:
                self._kept.pop(key, None)
            raise

    def forget(self, file: int) -> None:
        """Let the chunks of a file go."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == file]:
                self._kept.pop(key).cancel()


_chunks = _Chunks()


class RemoteFile(InputFile):
    """A file at an address; `path` is the address as it is shown."""

    __slots__ = ("_all", "_ends", "_lock", "_pages", "_store")

    def __init__(self, store: Store) -> None:
        self._fd = -1
        self.path = store.shown
        self.size = store.size
        name, tag = zlib.crc32(store.shown.encode()), zlib.crc32(store.tag.encode())
        self._identity = (-1, name, store.size, tag)
        self._store = store
        self._pages: dict[int, bytes] = {}
        self._ends: deque[int] = deque(maxlen=8)
        self._all = False
        self._lock = threading.Lock()
        register(self)

    @property
    def is_local(self) -> bool:
        """Reading it again costs as much as the first time."""
        return False

    def fileno(self) -> int:
        """Return -1: it has no descriptor."""
        return -1

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` at `offset`; `InputError` when the file is too short."""
        self._check_range(offset, nbytes)
        buffer = bytearray(nbytes)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def pread_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from `offset`; `InputError` when the file is too short."""
        view = memoryview(buffer).cast("B")
        self._check_range(offset, len(view))
        self._fill(offset, view)
        self.show(offset, view)

    def expect(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Fetch pieces, (offset, bytes), that will be read: several requests at a time."""
        spans: list[list[int]] = []
        for offset, nbytes in sorted(pieces):
            start, end = max(offset, 0), min(offset + nbytes, self.size)
            if spans and start <= spans[-1][1] + _NEAR:
                spans[-1][1] = max(spans[-1][1], end)
            elif start < end:
                spans.append([start, end])
        missing = [(start, end) for start, end in spans if not self._has_pages(start, end)]
        if len(missing) > 1:
            with ThreadPoolExecutor(_REQUESTS) as pool:
                list(pool.map(lambda span: self._fetch_pages(*span), missing))

    def stream(self) -> None:
        """Fetch chunks from now on."""
        self._all = True

    def now(self) -> Identity:
        """Ask the server whether the file is still the same."""
        self._store.check()
        return self._identity

    def check_unchanged(self) -> None:
        """Do nothing: every answer was compared with the first."""

    def close(self) -> None:
        """Do nothing: other tensors may be read from the same file."""

    def __del__(self) -> None:
        _chunks.forget(id(self))

    def _fill(self, offset: int, view: memoryview) -> None:
        done, end = 0, offset + len(view)
        with self._lock:
            begins = offset % CHUNK == 0 and len(view) >= _STREAM
            in_order = self._all or begins or offset in self._ends
            if len(view) >= _STREAM or in_order:
                self._ends.append(end)
        while done < len(view):
            at = offset + done
            last = (self.size - 1) // CHUNK
            ahead = min(AHEAD, last - at // CHUNK) + 1 if in_order else 0
            if (chunk := _chunks.get(self, at // CHUNK, ahead)) is not None:
                begin = at % CHUNK
                part = chunk[begin : begin + len(view) - done]
            elif len(view) < _STREAM:
                part = self._from_pages(at, end)
            else:
                part = self._store.read(at, min(end, at - at % CHUNK + CHUNK))
            view[done : done + len(part)] = part
            done += len(part)

    def fetch_chunk(self, index: int) -> bytes:
        """Fetch a chunk."""
        return self._store.read(index * CHUNK, min((index + 1) * CHUNK, self.size))

    def _has_pages(self, start: int, end: int) -> bool:
        return all(page in self._pages for page in range(start // _PAGE, -(-end // _PAGE)))

    def _fetch_pages(self, start: int, end: int) -> None:
        first = start // _PAGE
        data = self._store.read(first * _PAGE, min(-(-end // _PAGE) * _PAGE, self.size))
        pages = {first + i // _PAGE: data[i : i + _PAGE] for i in range(0, len(data), _PAGE)}
        with self._lock:
            if len(self._pages) > _MOST_PAGES:
                self._pages.clear()
            self._pages |= pages

    def _from_pages(self, start: int, end: int) -> bytes:
        """Return the bytes of a short piece, fetched unless all its pages are there."""
        for _ in range(2):
            with self._lock:
                pages = [self._pages.get(i) for i in range(start // _PAGE, -(-end // _PAGE))]
            if None not in pages:
                begin = start % _PAGE
                return b"".join(page for page in pages if page)[begin : begin + end - start]
            self._fetch_pages(start, end)
        return self._store.read(start, end)  # Another thread has let the pages go meanwhile.


class Copy(InputFile):
    """A whole copy of a shard, known by its name next to the index."""

    __slots__ = ()

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path)
        self.path = name
        register(self)

    def now(self) -> Identity:
        """Return what the copy is."""
        return identity(os.fstat(self._fd))

    def close(self) -> None:
        """Do nothing before the last tensor is let go: it is opened by its name only once."""

    def __del__(self) -> None:
        super().close()
