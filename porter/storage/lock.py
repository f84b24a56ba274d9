"""One writer at a time for each output, so that its data and its record belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from porter.errors import SystemFault

_LONGEST_NAME = 255
after_kill = ContextVar("after_kill", default=True)
"""Whether the process that last locked the output may have been killed while it wrote it."""


def hidden(path: str, what: str) -> str:
    """Return how the names of porter's own files next to `path` begin, for one purpose."""
    folder, base = os.path.split(path)
    short = os.fsdecode(os.fsencode(base)[: _LONGEST_NAME - 40])
    return os.path.join(folder, f".{short}.porter-{what}")


def old_name() -> str:
    """Return the purpose of the names by which this process keeps what an output replaces."""
    return f"old-{os.getpid()}"


def is_left(what: str) -> bool:
    """Whether a hidden name's purpose is that of a file which a killed process has left.

    The lock is not, nor a folder of shards, nor what this process keeps.
    """
    return what[:1].isdigit() or (what.startswith("old-") and what != old_name())


@contextmanager
def locked(path: str, asked: str = "") -> Iterator[None]:
    """Lock the output at `path`, its links followed; `SystemFault` when another writer has it.

    A lock file that a killed process left behind is not locked, and removed by the next writer.
    """
    from filelock import FileLock, Timeout  # Takes longer to load than most files to be read.

    name = hidden(path, "lock")
    lock = FileLock(name, thread_local=False)
    is_left = os.path.lexists(name)
    try:
        lock.acquire(timeout=0)
    except Timeout as fault:
        raise SystemFault("is being written by another process", asked or path) from fault
    except NotImplementedError:  # The file system has no locks.
        yield
        return
    except OSError as fault:
        why = fault.strerror or str(fault)
        raise SystemFault(f"cannot be written: {why}", asked or path) from fault
    before = after_kill.set(is_left)
    try:
        yield
    finally:
        after_kill.reset(before)
        # Removed while it is locked: a writer that waits for it finds out and makes another.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
