"""Reading and writing at a position, and the other calls that not every system has.

Linux and macOS have all or most of them. Windows has neither `pread` nor `pwrite`: there the
position is set and used under a lock, so that threads may share a descriptor.
"""

from __future__ import annotations

import errno
import os
import threading

INPUT, OUTPUT = os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL
"""Flags for opening a file that is read, and one that is written."""
if hasattr(os, "O_BINARY"):
    INPUT, OUTPUT = INPUT | os.O_BINARY, OUTPUT | os.O_BINARY
if hasattr(os, "O_CLOEXEC"):
    INPUT, OUTPUT = INPUT | os.O_CLOEXEC, OUTPUT | os.O_CLOEXEC
if hasattr(os, "O_NONBLOCK"):
    INPUT |= os.O_NONBLOCK  # Opening a FIFO would wait for a writer.

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
_position = threading.Lock()


def read_at(fd: int, nbytes: int, offset: int) -> bytes:
    """Return up to `nbytes` from a position."""
    if hasattr(os, "pread"):
        return os.pread(fd, nbytes, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, nbytes)


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer from a position as far as one call does; return the bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    data = read_at(fd, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at a position."""
    view = memoryview(data)
    while len(view):
        count = _write(fd, view, offset)
        view = view[count:]
        offset += count


def _write(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)


def reserve(fd: int, nbytes: int) -> None:
    """Have the file system set space aside where it can."""
    if not nbytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError as fault:
        if fault.errno not in _NO_FALLOCATE:
            raise
