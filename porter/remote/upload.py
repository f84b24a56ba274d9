"""Outputs at addresses: written and checked on this machine, then sent, whole or not at all.

An output in shards needs the room of one shard here (`places`): each is sent when it is finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from porter.errors import UsageError
from porter.remote.address import Address, address
from porter.remote.bucket import Bucket
from porter.remote.fsspec_store import check_count, faults, file_system
from porter.remote.hub import Repository, commit_of
from porter.remote.lock import AddressLock
from porter.storage.lock import is_own
from porter.storage.progress import Progress
from porter.storage.tasks import ShardPlace

_PREFIX = "porter-upload-"
_KEPT = {".gitattributes", "README.md", "LICENSE"}
"""Files of a repository that say nothing about whether a checkpoint is there."""


class Upload:
    """An output that will be sent to an address."""

    def __init__(self, target: Address, folder: str, force: bool, writes: bool) -> None:
        self.shown = target.shown
        last = target.url.rstrip("/").rpartition("/")[2]
        if last in ("", ".", ".."):
            raise UsageError("is not the address of a file or folder", target.shown)
        self.path = os.path.join(folder, last)
        """Where it is written first."""
        self._target = target
        self._force = force
        self._system = file_system(target)
        self._buckets: list[Bucket] = []
        self._lock = AddressLock(target, self._system) if writes and not self._is_hub else None
        self._begun = commit_of(target, self._system) if writes and self._is_hub else ""

    @property
    def _is_hub(self) -> bool:
        return self._target.scheme == "hf"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from writing it; to a hub, whose commits are whole, they may."""
        if self._lock is None:
            yield
            return
        self._lock.take()
        try:
            yield
        finally:
            self._lock.release()

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def refuse_existing(self) -> None:
        """Raise `UsageError` when there is a file at the address, or a folder with files."""
        if self._force:
            return
        with faults(self._target, "written"):
            url = self._target.url.rstrip("/")
            is_there = self._system.isfile(url)
            if not is_there and self._system.isdir(url):
                check_count(self._target, self._system)
                names = {row.rpartition("/")[2] for row in self._system.ls(url, detail=False)}
                # A run that was killed goes on: it refuses what is not its own.
                begun = any(name.startswith(".") and "porter-parts" in name for name in names)
                names -= _KEPT | {name for name in names if is_own(name)}
                is_there = bool(names) and not begun
        if is_there:
            raise UsageError("exists already; --force replaces it", self.shown)

    def place(self, base: str) -> ShardPlace:
        """Return where the shards of an output go whose path here would be `base`."""
        inside = os.path.dirname(base) != os.path.dirname(self.path)
        home = self._folder if inside else self._target
        if self._is_hub:
            return Repository(home, base, self._system, self._begun)
        self._buckets.append(Bucket(home, base, self._system, self._check_lock))
        return self._buckets[-1]

    @property
    def _folder(self) -> Address:
        """The address as that of a folder."""
        return address(f"{self._target.url.rstrip('/')}/")

    def send(self, files: Sequence[str], progress: Progress | None) -> tuple[str, ...]:
        """Send files in the order in which they were written; return their addresses.

        To a hub all of them go by one commit. A bucket has each file whole or not at all; those
        that were new are removed again when a later one cannot be sent.
        """
        ordered = list(dict.fromkeys(files))
        home = self._folder if os.path.isdir(self.path) else self._target
        targets = [home.sibling(os.path.basename(path)) for path in ordered]
        total = sum(os.path.getsize(path) for path in ordered)
        if progress is not None:
            progress("uploading", 0, total)
        if self._is_hub:
            there = Repository(home, self.path, self._system, self._begun)
            there.commit(ordered, os.path.basename(self.path))
        else:
            self._check_lock()
            with faults(self._target, "written"):
                self._put(ordered, targets, total, progress)
        if progress is not None:
            progress("uploading", total, total)
        return tuple(target.shown for target in targets)

    def _put(
        self, paths: list[str], targets: list[Address], total: int, progress: Progress | None
    ) -> None:
        new: list[str] = []
        done = 0
        try:
            for path, target in zip(paths, targets, strict=True):
                if not self._system.exists(target.url):
                    new.append(target.url)
                elif not self._force and path == paths[-1]:
                    raise UsageError("came into being meanwhile; --force replaces it", target.shown)
                self._system.put_file(path, target.url)
                done += os.path.getsize(path)
                if progress is not None:
                    progress("uploading", done, total)
        except BaseException:
            for url in new:
                if self._system.exists(url):
                    self._system.rm_file(url)
            raise

    def abort(self) -> None:
        """Give up what workers that were ended have begun to send."""
        for bucket in self._buckets:
            bucket.abort()


@contextmanager
def outgoing(url: str, force: bool, *, writes: bool = True) -> Iterator[Upload]:
    """Give a place on this machine for an output at an address; it is removed afterwards.

    The output is locked, unless another process has locked it or nothing `writes` to it. Raises
    `UsageError` for an address that cannot be written to, `SystemFault` for one that is locked.
    """
    target = address(url)
    if target.is_web:
        raise UsageError(f"cannot be written: {target.scheme} addresses are read", target.shown)
    if target.sha256 is not None:
        raise UsageError("#sha256= is of a file that is read", target.shown)
    with _working_folder() as folder:
        upload = Upload(target, folder, force, writes)
        with upload.locked():
            try:
                yield upload
            finally:
                upload.abort()


@contextmanager
def _working_folder() -> Iterator[str]:
    """Make a folder that is locked while it is used, and remove those that killed runs left."""
    from filelock import FileLock, Timeout

    base = tempfile.gettempdir()

    def sweep() -> None:
        for name in os.listdir(base):
            if name.startswith(_PREFIX) and name.endswith(".lock"):
                with suppress(Timeout, OSError), FileLock(os.path.join(base, name), timeout=0):
                    shutil.rmtree(os.path.join(base, name[:-5]), ignore_errors=True)
                    os.unlink(os.path.join(base, name))

    sweep()
    folder = os.path.join(base, f"{_PREFIX}{os.urandom(6).hex()}")
    try:
        with FileLock(f"{folder}.lock"):
            os.mkdir(folder, 0o700)
            yield folder
    finally:
        sweep()  # Also those of workers that were ended.
