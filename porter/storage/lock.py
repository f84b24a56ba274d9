"""One writer at a time for each output, so that its data and its record belong together."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, partial

from porter.errors import SystemFault

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_FLAGS = os.O_RDWR | os.O_CREAT
if hasattr(os, "O_CLOEXEC"):
    _FLAGS |= os.O_CLOEXEC
if hasattr(os, "O_NOFOLLOW"):
    _FLAGS |= os.O_NOFOLLOW
_LONGEST_NAME = 255
_SHORT_NAME = (_LONGEST_NAME - 40) // 4
"""Characters that are never too many bytes."""
after_kill = ContextVar("after_kill", default=True)
"""Whether the process that last locked the output may have been killed while it wrote it."""


def hidden(path: str, what: str) -> str:
    """Return how the names of porter's own files next to `path` begin, for one purpose."""
    return _hidden(path) + what


@lru_cache(maxsize=256)
def _hidden(path: str) -> str:
    folder, base = os.path.split(path)
    if len(base) > _SHORT_NAME:
        base = os.fsdecode(os.fsencode(base)[: _LONGEST_NAME - 40])
    return os.path.join(folder, f".{base}.porter-")


def is_own(name: str) -> bool:
    """Whether a name is that of one of porter's own files next to an output."""
    return name.startswith(".") and ".porter-" in name


def old_name() -> str:
    """Return the purpose of the names by which this process keeps what an output replaces."""
    return f"old-{os.getpid()}"


def is_left(what: str) -> bool:
    """Whether a hidden name's purpose is that of a file which a killed process has left.

    The lock is not, nor a folder of shards, nor what this process keeps.
    """
    return what[:1].isdigit() or (what.startswith("old-") and what != old_name())


@contextmanager
def locked(
    path: str, asked: str = "", busy: str = "is being written by another process"
) -> Iterator[None]:
    """Lock the output at `path`, its links followed; `SystemFault` when another writer has it.

    A lock file that a killed process left behind is not locked, and removed by the next writer.
    """
    name = hidden(path, "lock")
    try:
        release, was_left = _taken(name)
    except BlockingIOError as fault:
        raise SystemFault(busy, asked or path) from fault
    except OSError as fault:
        if fault.errno in _NO_LOCKS:
            yield
            return
        why = fault.strerror or str(fault)
        raise SystemFault(f"cannot be written: {why}", asked or path) from fault
    before = after_kill.set(was_left)
    try:
        yield
    finally:
        after_kill.reset(before)
        # Removed while it is locked: a writer that waits for it finds out and makes another.
        with suppress(OSError):
            os.unlink(name)
        release()


def _taken(name: str) -> tuple[Callable[[], None], bool]:
    """Lock a file, made with its folder; return what lets it go, and whether it was there before.

    Raises `BlockingIOError` when another writer has it, `OSError` with an errno of `_NO_LOCKS`
    where the file system has no locks.
    """
    if not hasattr(fcntl, "flock"):
        return _taken_elsewhere(name)
    was_left = False
    while True:
        try:
            fd = os.open(name, _FLAGS | os.O_EXCL, 0o644)
        except FileExistsError:
            was_left, fd = True, os.open(name, _FLAGS, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(name), exist_ok=True)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(name, fd):
                if os.fstat(fd).st_nlink == 1:
                    return partial(os.close, fd), was_left
                os.unlink(name)  # Of a `Series` that was killed: another output's lock, too.
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # Its writer removed it after it was opened here.


def _is_at(name: str, fd: int) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.stat(name, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _taken_elsewhere(name: str) -> tuple[Callable[[], None], bool]:
    """Do what `_taken` does by filelock, which has the calls of systems without `flock`."""
    from filelock import FileLock, Timeout  # Takes longer to load than most files to be read.

    lock = FileLock(name, thread_local=False)
    was_left = os.path.lexists(name)
    try:
        lock.acquire(timeout=0)
    except Timeout as fault:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked", name) from fault
    except NotImplementedError as fault:
        raise OSError(errno.ENOSYS, "no locks", name) from fault
    return lock.release, was_left


class Series:
    """Locks on several outputs by one file under their lock's names.

    To make a file and to remove it takes ext4 longer than all else that is done for a small output:
    it passes over what was removed in the last seconds when it looks for a free inode.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._release: Callable[[], None] | None = None

    def take(self, path: str) -> bool:
        """Lock an output until `close`.

        Returns False, with nothing locked, where that is not simple: `locked` says what it is.
        """
        name = hidden(path, "lock")
        try:
            if self._release is not None:
                os.link(self._names[-1], name)
            else:
                release, was_left = _taken(name)
                if was_left:
                    release()
                    return False
                self._release = release
        except OSError:
            return False
        self._names.append(name)
        return True

    def close(self) -> None:
        """Let the outputs go."""
        for name in self._names:
            with suppress(OSError):
                os.unlink(name)
        self._names.clear()
        if self._release is not None:
            self._release()
            self._release = None
