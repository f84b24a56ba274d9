"""Publish a file whole or not at all.

Everything is written to a temporary file in the target's folder, brought to the disk, read back
and compared, and only then renamed: whatever fails, the path holds the whole old file or the
whole new one. The temporary file is locked while its process lives; one that nobody locks was
left by a process that was killed, and the next writer of the same target removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from porter.errors import InputError, SystemFault, UsageError
from porter.storage import pieces as writing
from porter.storage.checksums import Imprint
from porter.storage.digests import XXH3
from porter.storage.input_file import InputFile, identity
from porter.storage.page_cache import forget, is_too_large
from porter.storage.pieces import Layout, Piece, Task
from porter.storage.progress import Advance

Input = str | os.PathLike[str] | InputFile
Check = Callable[[str, Imprint], None]
"""Given the finished file and what was written, raises when one does not give the other."""

_LONGEST_NAME = 255
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Written:
    """What was published."""

    path: str
    nbytes: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """Name of a tensor to the digest of its bytes."""
    files: tuple[str, ...] = ()
    """Every file written, the one at `path` last."""
    imprint: Imprint | None = None
    """What the bytes of the file are, when it is one file."""


@dataclass(slots=True)
class Target:
    """Where a file will stand: links followed, what is there now looked at."""

    path: str
    asked: str
    old: os.stat_result | None

    @property
    def folder(self) -> str:
        """The folder that the file stands in."""
        return os.path.dirname(self.path)


def resolve(path: str | os.PathLike[str], inputs: Iterable[Input], force: bool) -> Target:
    """Return where to write; `UsageError` when something that must stay stands there.

    A link is written through: the link stays, the file that it names is replaced.
    """
    asked = os.fspath(path)
    try:
        real = os.path.realpath(asked)
        old = os.stat(real)
    except FileNotFoundError:
        old = None
    except (OSError, ValueError) as fault:
        raise UsageError(f"cannot be written: {_reason(fault)}", asked) from fault
    if old is None:
        if not os.path.isdir(os.path.dirname(real)):
            raise UsageError("cannot be written: its folder does not exist", asked)
        return Target(real, asked, None)
    if not stat.S_ISREG(old.st_mode):
        kind = "a folder" if stat.S_ISDIR(old.st_mode) else "no regular file"
        raise UsageError(f"cannot be written: it is {kind}", asked)
    for source in inputs:
        if (old.st_dev, old.st_ino) == stamp(source)[:2]:
            raise UsageError("is the input itself; name another output", asked)
    if not force:
        raise UsageError("exists already; --force replaces it", asked)
    return Target(real, asked, old)


def publish(
    path: str | os.PathLike[str],
    pieces: Iterable[Piece],
    *,
    inputs: Iterable[Input] = (),
    force: bool = False,
    also: Iterable[Task] = (),
    check: Check | None = None,
    progress: Advance | None = None,
    sync: bool = True,
    digests: str = XXH3,
    turn: AbstractContextManager[object] | None = None,
) -> Written:
    """Write pieces to a file that appears at `path` complete, or not at all.

    `inputs` are the files that the pieces are read from: none may be the output, none may
    change meanwhile. `also` is run beside the writing, before the last pieces are made; `check`
    is called with the finished file before it appears, while it is brought to the disk. Without
    `sync` the system does that when it likes; `digests` is the method of the tensors' digests, ""
    takes none. `turn` is held while bytes are written, not while they are brought to the disk.

    Raises `UsageError` for a target that may not be replaced, `InputError` for a changed input
    and `SystemFault`, with the bytes needed, when the machine refuses.
    """
    sources = list(inputs)
    target = resolve(path, sources, force)
    before = [stamp(source) for source in sources]
    plan = writing.place(pieces)
    with _temporary(target) as (name, fd), explained(target.asked, plan.nbytes):
        with turn or nullcontext():
            _reserve(fd, target, plan.nbytes)
            writing.write(fd, plan, progress, also, digests)
        _check_complete(fd, target, plan)
        _take_over(fd, target)
        imprint = Imprint.of(plan, digests or XXH3)
        with _synced(fd) if sync else nullcontext():
            if check is not None:
                check(name, imprint)
        if sync and is_too_large(plan.nbytes):
            forget(fd)
        for source, known in zip(sources, before, strict=True):
            if stamp(source) != known:
                raise InputError("changed while it was being read", named(source))
        _rename(name, target, force)
    if sync:
        sync_folder(target.folder, target.asked)
    found = {body.name: body.digest for body in plan.bodies} if digests else {}
    return Written(target.asked, plan.nbytes, found, (target.asked,), imprint)


@contextmanager
def _synced(fd: int) -> Iterator[None]:
    """Bring a file to the disk beside what is done meanwhile: the disk is what is waited for."""
    faults: list[OSError] = []

    def sync() -> None:
        try:
            os.fsync(fd)
        except OSError as fault:
            faults.append(fault)

    thread = threading.Thread(target=sync, name="porter-sync")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if faults:
        raise faults[0]


def named(source: Input) -> str:
    """Return the path of an input."""
    return source.path if isinstance(source, InputFile) else os.fspath(source)


def stamp(source: Input) -> tuple[int, int, int, int]:
    """Return the identity of an input as it stands at its path now."""
    name = named(source)
    try:
        return identity(os.stat(name))
    except OSError as fault:
        raise InputError("vanished while it was being read", name) from fault


def _reason(fault: OSError | ValueError) -> str:
    return (fault.strerror or str(fault)) if isinstance(fault, OSError) else str(fault)


@contextmanager
def _temporary(target: Target) -> Iterator[tuple[str, int]]:
    """Open a locked file beside the target; it is removed unless it was renamed."""
    remove_stale(target.path)
    name, fd = _create(target)
    try:
        yield name, fd
    finally:
        with suppress(
            OSError
        ):  # What cannot be removed now is stale, and the next run's to remove.
            os.unlink(name)
        os.close(fd)


def _pattern(path: str) -> str:
    """Return how the names of a target's temporary files begin."""
    base = os.fsencode(os.path.basename(path))[: _LONGEST_NAME - 40]
    return f".{os.fsdecode(base)}.porter-"


def _create(target: Target) -> tuple[str, int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        unique = f"{os.getpid()}-{os.urandom(4).hex()}"
        name = os.path.join(target.folder, _pattern(target.path) + unique)
        # The content of a private file is private from its first byte.
        mode = 0o666 if target.old is None else 0o600
        try:
            fd = os.open(name, flags, mode)
        except FileExistsError:
            continue
        except OSError as fault:
            raise SystemFault(f"cannot be written: {_reason(fault)}", target.asked) from fault
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            if fault.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(fd)  # Another writer took it for stale in the instant before the lock.
                continue
        if os.fstat(fd).st_nlink:
            return name, fd
        os.close(fd)


def remove_stale(path: str) -> list[str]:
    """Remove the temporary files of `path` that no living process holds; return their names."""
    folder, begin = os.path.dirname(path), _pattern(path)
    removed = []
    try:
        names = [name for name in os.listdir(folder) if name.startswith(begin)]
    except OSError:
        return []  # A folder that may be written and not listed: what is in it stays.
    for name in names:
        stale = os.path.join(folder, name)
        try:
            fd = os.open(stale, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(stale)
            removed.append(stale)
        except OSError:
            continue  # Its writer lives.
        finally:
            os.close(fd)
    return removed


@contextmanager
def explained(asked: str, nbytes: int) -> Iterator[None]:
    """Turn what the system says about the output into one line with the bytes needed."""
    try:
        yield
    except OSError as fault:
        why = _reason(fault)
        if fault.errno in _FULL:
            why += f"; {nbytes:,} bytes are needed"
        raise SystemFault(f"cannot be written: {why}", asked) from fault


def _reserve(fd: int, target: Target, nbytes: int) -> None:
    """Make sure that there is room before the first byte is read."""
    system = os.fstatvfs(fd)
    free = system.f_bavail * system.f_frsize
    if nbytes > free:
        room = f"{nbytes:,} bytes are needed, {free:,} are free"
        raise SystemFault(f"cannot be written: no space left on the disk; {room}", target.asked)
    if nbytes:
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as fault:
            if fault.errno not in _NO_FALLOCATE:
                raise


def _check_complete(fd: int, target: Target, plan: Layout) -> None:
    size = os.fstat(fd).st_size
    if size != plan.nbytes:
        raise SystemFault(f"{plan.nbytes:,} bytes were written, {size:,} are there", target.asked)


def _take_over(fd: int, target: Target) -> None:
    """Give the new file the old one's permissions and, where that is allowed, its owner."""
    if target.old is not None:
        with suppress(PermissionError):
            os.fchown(fd, target.old.st_uid, target.old.st_gid)
        with suppress(PermissionError):
            os.fchmod(fd, stat.S_IMODE(target.old.st_mode))


def _rename(name: str, target: Target, force: bool) -> None:
    if force:
        os.rename(name, target.path)
        return
    try:
        # A link, unlike a rename, does not replace what another process put there meanwhile.
        os.link(name, target.path)
    except FileExistsError as fault:
        raise UsageError("came into being meanwhile; --force replaces it", target.asked) from fault
    except OSError:
        # The file system has no hard links.
        if os.path.lexists(target.path):
            raise UsageError("came into being meanwhile", target.asked) from None
        os.rename(name, target.path)


def sync_folder(folder: str, asked: str) -> None:
    """Bring the new name to the disk as well."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as fault:
        if fault.errno == errno.EINVAL:  # The file system has no such call for folders.
            return
        why = f"is written, but may not survive a power cut: {_reason(fault)}"
        raise SystemFault(why, asked) from fault
