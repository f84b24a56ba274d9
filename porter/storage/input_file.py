"""An input file, read by position and watched for change.

Tensors are read by `pread`, not through `mmap`: a file cut short under a mapping kills the
process with SIGBUS, a short `pread` is an error that names the file. Only what porter has just
written, under a name of its own, is also mapped: `porter.storage.own_file`.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Self

from porter.errors import InputError, SystemFault, printable
from porter.storage.positional import INPUT, read_at, read_into

_PAGE = 4096
_LARGEST_READ = 1 << 30
"""Linux reads at most 2 GiB less a page in one call."""
_WATCHED_READ = 1 << 20
"""Bytes that are read before they are shown: they are still in a core's own cache."""

Watch = Callable[[str, int, memoryview], None]
"""Is shown the path, the offset and the bytes of each read."""


class _Watching(threading.local):
    watch: Watch | None = None


_watching = _Watching()


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Show `watch` what this thread reads by `pread_into`, block by block, while it is warm."""
    before, _watching.watch = _watching.watch, watch
    try:
        yield
    finally:
        _watching.watch = before


Identity = tuple[int, int, int, int]
"""Device, inode, size and modification time: what must not move while a file is read."""


def identity(status: os.stat_result) -> Identity:
    """Return what tells one state of a file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class InputFile:
    """A regular file opened for reading, closed when the last tensor in it is let go.

    Raises `InputError` where there is no regular file, `SystemFault` where it may not be read.
    """

    __slots__ = ("__weakref__", "_fd", "_identity", "path", "size")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1
        self.path = os.fspath(path)
        self._fd = _open(self.path)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise InputError(f"is {_kind(status.st_mode)}, not a file", self.path)
        self._identity = identity(status)
        self.size = status.st_size

    @property
    def identity(self) -> Identity:
        """Device, inode, size and modification time at the moment of opening."""
        return self._identity

    @property
    def is_sound(self) -> bool:
        """A plain file has no checksum to compare."""
        return True

    @property
    def is_local(self) -> bool:
        """Reading it again costs little."""
        return True

    @property
    def is_mapped(self) -> bool:
        """Others may cut the file short."""
        return False

    def mapped(self, offset: int, nbytes: int) -> AbstractContextManager[memoryview | None]:
        """Return nothing: the bytes must be read."""
        return nullcontext()

    def fileno(self) -> int:
        """Return the descriptor; it stays this object's to close."""
        return self._fd

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` at `offset`; `InputError` when the file is too short."""
        self._check_range(offset, nbytes)
        if nbytes > _LARGEST_READ:
            buffer = bytearray(nbytes)
            self.pread_into(offset, buffer)
            return bytes(buffer)
        try:
            data = read_at(self._fd, nbytes, offset)
        except OSError as fault:
            raise SystemFault(f"cannot be read: {fault.strerror}", self.path) from fault
        if len(data) != nbytes:
            buffer = bytearray(nbytes)
            self.pread_into(offset, buffer)
            data = bytes(buffer)
        self.check_unchanged()
        return data

    def pread_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from `offset`; `InputError` when the file is too short."""
        view = memoryview(buffer).cast("B")
        self._check_range(offset, len(view))
        done = 0
        most = _LARGEST_READ if _watching.watch is None else _WATCHED_READ
        while done < len(view):
            part = view[done : done + most]
            try:
                count = read_into(self._fd, part, offset + done)
            except OSError as fault:
                raise SystemFault(f"cannot be read: {fault.strerror}", self.path) from fault
            if count == 0:
                self.check_unchanged()
                raise InputError(f"ends at byte {offset + done}", self.path)
            self.show(offset + done, part[:count])
            done += count
        self.check_unchanged()

    def show(self, offset: int, data: memoryview) -> None:
        """Show what was read to whoever watches this thread."""
        if _watching.watch is not None:
            _watching.watch(self.path, offset, data)

    def expect(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Take note of pieces, (offset, bytes), that will be read one after the other."""

    def stream(self) -> None:
        """Take note that all of the file will be read, from its beginning to its end."""

    def now(self) -> Identity:
        """Return what the file at the path is now; `InputError` when it is gone."""
        try:
            return identity(os.stat(self.path))
        except OSError as fault:
            raise InputError("vanished while it was being read", self.path) from fault

    def check_unchanged(self) -> None:
        """Raise `InputError` when the file is no longer what was opened."""
        if identity(os.fstat(self._fd)) != self._identity:
            raise InputError("changed while it was being read", self.path)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _check_range(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            wanted = f"{nbytes} bytes wanted at byte {offset}"
            raise InputError(f"truncated: {wanted}, the file has {self.size}", self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


_registered: weakref.WeakValueDictionary[str, InputFile] = weakref.WeakValueDictionary()


def register(file: InputFile) -> None:
    """Make a file that is not on this machine known by its `path`, while somebody keeps it."""
    _registered[file.path] = file


def registered(path: str) -> InputFile | None:
    """Return the file that is registered under a path, None where there is none."""
    return _registered.get(path)


def open_input(path: str | os.PathLike[str]) -> InputFile:
    """Open a file by its path, or return the one that is registered under it."""
    return registered(os.fspath(path)) or InputFile(path)


def now(path: str) -> Identity:
    """Return what the file at a path is now; `InputError` when it is gone."""
    if (file := registered(path)) is not None:
        return file.now()
    try:
        return identity(os.stat(path))
    except OSError as fault:
        raise InputError("vanished while it was being read", path) from fault


def read_small(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the bytes of a regular file; `InputError` when it has more than `limit`."""
    with InputFile(path) as file:
        check_size(file, limit)
        return file.pread(0, file.size)


def check_file(path: str | os.PathLike[str], limit: int) -> None:
    """Raise `InputError` unless a path names a regular file of at most `limit` bytes."""
    with InputFile(path) as file:
        check_size(file, limit)


def check_size(file: InputFile, limit: int) -> None:
    """Raise `InputError` for a file of more than `limit` bytes."""
    if file.size > limit:
        raise InputError(f"has {file.size:,} bytes; {limit:,} is the limit", file.path)


class Window:
    """Reads small pieces of a file, a page around each: small members come many to a page."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._start = 0
        self._data = b""

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` at `offset`; `InputError` when the file is too short."""
        begin = offset - self._start
        if begin < 0 or begin + nbytes > len(self._data):
            page = _PAGE if self.file.is_local else 0
            size = max(nbytes, min(page, self.file.size - offset))
            self._data, self._start, begin = self.file.pread(offset, size), offset, 0
        return self._data[begin : begin + nbytes]


def open_beside(model: str, name: str, *, hard_links: bool) -> InputFile:
    """Open a file that `model` names; `InputError` when the name leads elsewhere.

    The name is relative and stays below the folder of `model`, links followed; a `model` that is
    a link itself, as in the cache of Hugging Face, may also name what lies beside its target.
    Without `hard_links`, a file that has a second name anywhere is refused.
    """
    check_relative(model, name)
    folder = os.path.dirname(model)
    path = os.path.join(folder, name)
    if (known := registered(path)) is not None:
        return known
    real = os.path.realpath(path)
    homes = {os.path.realpath(folder), os.path.dirname(os.path.realpath(model))}
    if not any(os.path.commonpath((home, real)) == home for home in homes):
        raise InputError(f"names the file {printable(name)}, which is a link to elsewhere", model)
    file = InputFile(path)
    status = os.fstat(file.fileno())
    # The file may have been exchanged between the look at its path and the opening.
    if identity(os.stat(real, follow_symlinks=False)) != identity(status):
        raise InputError(f"names the file {printable(name)}, which moved meanwhile", model)
    if status.st_nlink > 1 and not hard_links:
        raise InputError(f"names the file {printable(name)}, which has a second name", model)
    return file


def check_relative(model: str, name: str) -> None:
    """Raise `InputError` unless `name` is a plain path downwards."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise InputError(f"names the file {printable(name)}, which is not a path below it", model)


def _open(path: str) -> int:
    try:
        return os.open(path, INPUT)
    except FileNotFoundError as fault:
        what = "is a link to nothing" if os.path.islink(path) else "no such file"
        raise InputError(what, path) from fault
    except PermissionError as fault:
        raise SystemFault("may not be read: permission denied", path) from fault
    except ValueError as fault:
        raise InputError("not a file name: it contains a NUL", path) from fault
    except OSError as fault:
        refused = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV)
        leaf = InputError if fault.errno in refused else SystemFault
        raise leaf(f"cannot be opened: {fault.strerror}", path) from fault


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
