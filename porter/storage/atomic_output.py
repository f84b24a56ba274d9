"""Publish a file whole or not at all.

Everything is written to a temporary file in the target's folder, brought to the disk, read back
and compared, and only then renamed: whatever fails, the path has the whole old file or the
whole new one. An output is locked while it is written, so a temporary file that a writer finds
was left by a process that was killed: it is removed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from porter.errors import InputError, SystemFault, UsageError
from porter.storage import pieces as writing
from porter.storage.input_file import InputFile, now, registered
from porter.storage.lock import after_kill, hidden, is_left, locked
from porter.storage.options import WriteOptions
from porter.storage.page_cache import forget, is_too_large
from porter.storage.pieces import Follower, Layout, Piece
from porter.storage.positional import OUTPUT, reserve

if TYPE_CHECKING:
    from porter.storage.read_back import Returned

Input = str | os.PathLike[str] | InputFile
Check = Callable[[str, Layout], str]
"""Given the finished file and what was written, returns the digest of the whole file.

Raises when one does not fit the other."""

_ACCESS_LIST = "system.posix_acl_access"
_HIDDEN = ".porter-"
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
    digest: str = ""
    """Of the whole file; empty when it was not read back."""
    record: str = ""
    """Path of the record, empty without one."""
    returned: Returned | None = None
    """What was read of the source and, mapped back, of the output."""


@dataclass(slots=True)
class Target:
    """Where a file will be: links followed, the file that is there now looked at."""

    path: str
    asked: str
    old: os.stat_result | None
    like: str = ""
    """The file whose permissions the new one gets, at its path or of another name."""

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return os.path.dirname(self.path)


def resolve(path: str | os.PathLike[str], inputs: Iterable[Input], force: bool) -> Target:
    """Return where to write; `UsageError` when a file that must stay is there.

    A link is written through: the link stays, the file that it names is replaced.
    """
    asked = os.fspath(path)
    _check_name(asked)
    try:
        real = followed(asked)
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
        kind = "a folder" if stat.S_ISDIR(old.st_mode) else "not a regular file"
        raise UsageError(f"cannot be written: it is {kind}", asked)
    for source in inputs:
        if (old.st_dev, old.st_ino) == stamp(source)[:2]:
            raise UsageError("is the input itself; name another output", asked)
    if not force:
        raise UsageError("exists already; --force replaces it", asked)
    return Target(real, asked, old, real)


def followed(path: str) -> str:
    """Return the whole path of a file, of a link that of what it names.

    Links among its folders stay: the same file is there, next to the same others.
    """
    whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    return os.path.realpath(whole) if os.path.islink(whole) else whole


def _check_name(path: str) -> None:
    """Raise `UsageError` for a name that cannot be an output's.

    The record, an index of shards and external data state it, in UTF-8.
    """
    if path == "-":
        raise UsageError("is not written: an output is a file; ./- is one of that name", path)
    try:
        os.path.basename(path).encode()
    except UnicodeEncodeError as fault:
        raise UsageError("cannot be written: its name is not UTF-8", path) from fault


def publish(
    path: str | os.PathLike[str],
    pieces: Iterable[Piece],
    options: WriteOptions | None = None,
    *,
    inputs: Iterable[Input] = (),
    also: Iterable[Follower] = (),
    check: Check | None = None,
    lock: bool = True,
    like: str = "",
    replacing: Callable[[], None] | None = None,
) -> Written:
    """Write pieces to a file that appears at `path` complete, or not at all.

    `inputs` are the files that the pieces are read from: none may be the output, none may
    change meanwhile. `also` reads files while writing, before the last pieces are made; `check`
    is called with the finished file before it appears, while it is brought to the disk.
    Without `lock`, the caller has locked the output that the file is part of. A new file gets the
    permissions of the one at `like`, if there is one: it replaces it under another name.
    `replacing` is called when all is well, right before the file appears.

    Raises `UsageError` for a target that may not be replaced, `InputError` for a changed input
    and `SystemFault`, with the bytes needed, when the machine refuses.
    """
    options = options or WriteOptions()
    sources = list(inputs)
    target = resolve(path, sources, options.force)
    if target.old is None and like:
        with suppress(OSError):
            target.old, target.like = os.stat(like), like
    with locked(target.path, target.asked) if lock else nullcontext():
        return _publish(target, writing.place(pieces), options, sources, also, check, replacing)


def _publish(
    target: Target,
    plan: Layout,
    options: WriteOptions,
    sources: list[Input],
    also: Iterable[Follower],
    check: Check | None,
    replacing: Callable[[], None] | None,
) -> Written:
    digest = ""
    with written(target, plan, options, sources, also, replacing) as file:
        with _synced(file.fd) if options.sync else nullcontext():
            if check is not None:
                digest = check(file.name, plan)
        if options.sync and is_too_large(plan.nbytes):
            forget(file.fd)
    if options.sync:
        sync_folder(target.folder, target.asked)
    digests = {body.name: body.digest for body in plan.bodies} if options.digests else {}
    return Written(target.asked, plan.nbytes, digests, (target.asked,), digest)


@contextmanager
def written(
    target: Target,
    plan: Layout,
    options: WriteOptions,
    sources: list[Input],
    also: Iterable[Follower] = (),
    replacing: Callable[[], None] | None = None,
) -> Iterator[OpenFile]:
    """Write a file under a hidden name; at the end of a `with` statement it gets its own.

    Bringing it to the disk is left to the caller. If the statement fails, the file is removed.
    """
    before = [stamp(source) for source in sources]
    for source in sources:
        if (remote := registered(named(source))) is not None:
            remote.stream()
    with _temporary(target) as file, explained(target.asked, plan.nbytes):
        _reserve(file.fd, target, plan.nbytes)
        writing.write(file.fd, plan, options.advance("writing"), also, options.method)
        _check_complete(file.fd, target, plan)
        if target.old is not None:
            take_over(file.fd, target.like, target.old)
        yield file
        for source, known in zip(sources, before, strict=True):
            if stamp(source) != known:
                raise InputError("changed while it was being read", named(source))
        file.close()  # Not every system renames an open file.
        if replacing is not None:
            replacing()
        _rename(file.name, target, options.force)


@contextmanager
def _synced(fd: int) -> Iterator[None]:
    """Bring a file to the disk in the background: what is done meanwhile costs no time."""
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
    """Return the identity of the input that is at its path now."""
    return source.now() if isinstance(source, InputFile) else now(os.fspath(source))


def _reason(fault: OSError | ValueError) -> str:
    return (fault.strerror or str(fault)) if isinstance(fault, OSError) else str(fault)


@dataclass(slots=True)
class OpenFile:
    """A file that is being written, under a hidden name."""

    name: str
    fd: int

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def _temporary(target: Target) -> Iterator[OpenFile]:
    """Open a file next to the target; it is removed unless it was renamed."""
    _remove_left(target.path)
    file = _create(target)
    try:
        yield file
    finally:
        file.close()
        # A file that cannot be removed now is removed by the next run.
        with suppress(OSError):
            os.unlink(file.name)


def _create(target: Target) -> OpenFile:
    # The content of a private file is private from its first byte.
    try:
        return create(target.path, 0o666 if target.old is None else 0o600)
    except OSError as fault:
        raise SystemFault(f"cannot be written: {_reason(fault)}", target.asked) from fault


def create(path: str, mode: int) -> OpenFile:
    """Open a new file under a hidden name next to `path`; raises `OSError`."""
    while True:
        name = hidden(path, f"{os.getpid()}-{os.urandom(4).hex()}")
        try:
            return OpenFile(name, os.open(name, OUTPUT, mode))
        except FileExistsError:
            continue


_first: dict[str, dict[str, list[str]]] = {}
"""Folder to how hidden names in it begin, and to those names, when this process first wrote there.
"""


def _remove_left(path: str) -> None:
    """Remove what a writer of `path` that was killed has left.

    Where its lock shows that none was killed since, the names of the beginning are enough.
    """
    if after_kill.get():
        remove_stale(path)
    elif names := left_at_first(path):
        remove_stale(path, names)


def left_at_first(path: str) -> list[str]:
    """Return the hidden names of a file that were there when this process first wrote next to it.

    To list a folder for each of very many files takes longer than to write them.
    """
    folder = os.path.dirname(path)
    known = _first.get(folder)
    if known is None:
        known = _first[folder] = {}
        for name in _listed(folder):
            base, mark, _ = name.rpartition(_HIDDEN)
            if mark:
                known.setdefault(base + mark, []).append(name)
    return known.get(os.path.basename(hidden(path, "")), []) if known else []


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # A folder that may be written and not listed: what is in it stays.


def remove_stale(path: str, names: Iterable[str] | None = None) -> list[str]:
    """Remove the temporary files of `path`, which the caller has locked; return their names.

    `names` are those in its folder.
    """
    folder, begin = os.path.split(hidden(path, ""))
    removed = []
    for name in _listed(folder) if names is None else names:
        stale = os.path.join(folder, name)
        if name.startswith(begin) and is_left(name.removeprefix(begin)):
            with suppress(OSError):
                os.unlink(stale)
                removed.append(stale)
    return removed


@contextmanager
def explained(asked: str, nbytes: int) -> Iterator[None]:
    """Report a fault of the system as one line with the bytes needed."""
    try:
        yield
    except OSError as fault:
        raise not_written(asked, nbytes, fault) from fault


def not_written(asked: str, nbytes: int, fault: OSError) -> SystemFault:
    """Return an error that states why a file cannot be written, and the bytes that it needs."""
    why = _reason(fault)
    if fault.errno in _FULL:
        why += f"; {nbytes:,} bytes are needed"
    return SystemFault(f"cannot be written: {why}", asked)


def _reserve(fd: int, target: Target, nbytes: int) -> None:
    """Make sure that there is room before the first byte is read."""
    free = shutil.disk_usage(target.folder).free
    if nbytes > free:
        room = f"{nbytes:,} bytes are needed, {free:,} are free"
        raise SystemFault(f"cannot be written: no space left on the disk; {room}", target.asked)
    reserve(fd, nbytes)


def _check_complete(fd: int, target: Target, plan: Layout) -> None:
    size = os.fstat(fd).st_size
    if size != plan.nbytes:
        raise SystemFault(f"{plan.nbytes:,} bytes were written, {size:,} are there", target.asked)


def take_over(fd: int, path: str, old: os.stat_result) -> None:
    """Give a new file the permissions and, where that is allowed, the owner of the one at `path`.

    With an access list, the bits of the group are its mask: they are never set without the list,
    neither that of the old file nor one that the folder gives to new files.
    """
    if not hasattr(os, "fchown") or not hasattr(os, "fchmod"):
        return
    mode = stat.S_IMODE(old.st_mode)
    if not _same_group(fd, old):
        mode &= ~0o070 | (mode & 0o007) << 3  # Another group may do no more than everybody.
    with suppress(PermissionError):
        if not _copy_access_list(fd, path):
            mode &= 0o707
        os.fchmod(fd, mode)


def _same_group(fd: int, old: os.stat_result) -> bool:
    """Give a file its owner and group, or its group only; return whether it has the group."""
    for owner in (old.st_uid, -1):
        with suppress(PermissionError):
            os.fchown(fd, owner, old.st_gid)
            return True
    return os.fstat(fd).st_gid == old.st_gid


def _copy_access_list(fd: int, path: str) -> bool:
    """Make the access list of a file that of the one at `path`; return whether it is."""
    if not hasattr(os, "getxattr"):
        return True
    try:
        rights = os.getxattr(path, _ACCESS_LIST)
    except OSError:  # It has none, or the file system has none.
        rights = b""
    try:
        if rights:
            os.setxattr(fd, _ACCESS_LIST, rights)
        else:
            os.removexattr(fd, _ACCESS_LIST)
    except OSError as fault:
        return not rights and fault.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)
    return True


def _rename(name: str, target: Target, force: bool) -> None:
    if force:
        os.replace(name, target.path)
    else:
        appear(name, target.path, target.asked)


def appear(name: str, path: str, asked: str) -> None:
    """Give a file the name `path` too; `UsageError` for a file that is there, or raises `OSError`.

    The first name may be there still.
    """
    try:
        # A link, unlike a rename, does not replace what another process put there meanwhile.
        os.link(name, path)
    except FileExistsError as fault:
        raise UsageError("came into being meanwhile; --force replaces it", asked) from fault
    except (AttributeError, OSError):
        # The file system has no hard links, or the system has no such call.
        if os.path.lexists(path):
            raise UsageError("came into being meanwhile", asked) from None
        os.rename(name, path)


def sync_folder(folder: str, asked: str) -> None:
    """Bring the new name to the disk as well, where folders can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as fault:
        if fault.errno == errno.EINVAL:  # The file system has no such call for folders.
            return
        why = f"is written, but may not survive a power cut: {_reason(fault)}"
        raise SystemFault(why, asked) from fault
