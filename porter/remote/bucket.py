"""Shards in a bucket: each is sent when it is finished, whole or not at all; the index is last.

Shards get their own names at once, unless the output replaces a checkpoint: they then wait in
`.NAME.porter-parts/`, and are renamed by the store, so that the old one stays whole until all of
the new one is there. The journal of a run is there as well; the same run again, on any machine,
keeps the shards that are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from porter.codecs.sharded.folder import JOURNAL, shards_of
from porter.codecs.sharded.index import SUFFIX
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.remote.address import Address, address
from porter.remote.fsspec_store import FsspecStore, faults, tag_of
from porter.remote.place import Outbox, moved, others
from porter.remote.remote_file import RemoteFile
from porter.storage.atomic_output import Input, Written, named
from porter.storage.file_digest import is_intact
from porter.storage.tasks import Row

_REQUESTS = 16
"""Questions to the store at a time."""


class Bucket(Outbox):
    """The folder that shards are sent to; a `porter.storage.tasks.ShardPlace`.

    `base` is the path of one file on this machine, in whose folder files are written first;
    `home` is the address of a file in their folder there, or of the folder, with a slash.
    """

    def __init__(
        self, home: Address, base: str, system: Any, check_lock: Callable[[], None]
    ) -> None:
        super().__init__(home, base)
        self._system = system
        self._check_lock = check_lock
        system.invalidate_cache()
        with faults(home, "written"):
            self._names: list[str] = []
        self._replaces = bool(system.exists(self._url(self._name + SUFFIX)))

    def check(
        self, paths: Sequence[str], inputs: Sequence[Input], force: bool, ours: Collection[str]
    ) -> None:
        """Raise `UsageError` for a file that is an input, or there and neither to go nor ours.

        The index is the last of the paths.
        """
        names = [os.path.basename(path) for path in paths]
        self._names = names
        read = set(map(named, inputs))
        for name in names:
            if self._shown(name) in read:
                raise UsageError("is the input itself; name another output", self._shown(name))
        # A journal is there before the first shard: all were this run's, noted or not.
        left = names[-1:] if ours or self.load() else names
        asked = [] if force else [name for name in left if name not in ours]
        with self._faults(), ThreadPoolExecutor(_REQUESTS) as pool:
            there = list(pool.map(lambda name: self._system.exists(self._url(name)), asked))
        for name in (name for name, is_there in zip(asked, there, strict=True) if is_there):
            raise UsageError("exists already; --force replaces it", self._shown(name))

    def load(self) -> bytes:
        """Return the journal, b"" when there is none."""
        with self._faults(), suppress(FileNotFoundError):
            return bytes(self._system.cat_file(self._part(JOURNAL)))
        return b""

    def save(self, journal: bytes) -> None:
        """Replace the journal."""
        with self._faults():
            self._system.pipe_file(self._part(JOURNAL), journal)

    def listed(self) -> set[str]:
        """Return the shards of the checkpoint that is replaced, as far as their names say so."""
        if not self._replaces:
            return set()
        with suppress(PorterError):
            return shards_of(self._file(self._url(self._name + SUFFIX)))
        return set()

    def has(self, name: str, row: Row) -> bool:
        """Whether a shard is there as it was sent.

        It has its size and the store's tag of its content, or, where the store has another tag
        for it now, which the row then has, the digest of what was sent.
        """
        return any(self._is_sent(url, row) for url in (self._part(name), self._url(name)))

    def _is_sent(self, url: str, row: Row) -> bool:
        self._system.invalidate_cache()
        try:
            with self._faults():
                info = self._system.info(url)
            if info.get("size") != row["bytes"]:
                return False
            tag = row.get("tag")
            if tag and tag == tag_of(info):
                return True
            file = self._file(url)
            if not row["digest"] or not is_intact(file.path, row["bytes"], row["digest"]):
                return False
            row["tag"] = tag_of(info)
            return True
        except InputError:
            return False

    def send(self, path: str) -> Row:
        """Send a finished shard and remove it here; return the tag that the store gives it."""
        name, size = os.path.basename(path), os.path.getsize(path)
        url = self._part(name) if self._replaces else self._url(name)
        self._abort([url])  # What a worker that was killed has left of it.
        try:
            with self._faults():
                self._system.put_file(path, url)
                self._system.invalidate_cache()
                info = self._system.info(url)
        except BaseException:
            self._abort([url])
            raise
        if info.get("size") != size:
            what = f"has {info.get('size')} bytes after {size} were sent"
            raise SystemFault(what, self._shown(name))
        os.unlink(path)
        return {"tag": tag_of(info)}

    def abort(self) -> None:
        """Give up what other processes had begun to send when they were ended."""
        urls = [self._part(name) for name in self._names] + [*map(self._url, self._names)]
        self._abort(urls)

    def _abort(self, urls: Sequence[str]) -> None:
        """Give up what was begun to be sent and not completed: S3 keeps it, and has it paid."""
        if self._home.scheme != "s3" or not urls:
            return
        system, stem = self._system, os.path.splitext(self._name)[0]
        keys = {tuple(system.split_path(url)[:2]) for url in urls}
        with suppress(PorterError), self._faults():
            for bucket, folder in {(bucket, os.path.dirname(key)) for bucket, key in keys}:
                asked = {"Bucket": bucket, "Prefix": f"{folder}/{stem}".lstrip("/")}
                for row in system.call_s3("list_multipart_uploads", **asked).get("Uploads", []):
                    if (bucket, row["Key"]) in keys:
                        upload = {"Key": row["Key"], "UploadId": row["UploadId"]}
                        system.call_s3("abort_multipart_upload", Bucket=bucket, **upload)

    def publish(self, rows: Mapping[str, Row]) -> None:
        """Give shards that wait their names; the old index goes before."""
        self._check_lock()
        system, waiting = self._system, set[str]()
        with self._faults(), ThreadPoolExecutor(_REQUESTS) as pool:
            system.invalidate_cache()
            with suppress(FileNotFoundError):
                found = system.ls(self._part("").rstrip("/"), detail=False)
                waiting = {row.rpartition("/")[2] for row in found}.intersection(rows)
            urls = {name: (self._part if name in waiting else self._url)(name) for name in rows}
            list(pool.map(lambda name: self._compare(urls[name], rows[name]), rows))
            if waiting:
                self._remove(self._url(self._name + SUFFIX))
            list(pool.map(lambda name: system.mv(self._part(name), self._url(name)), waiting))

    def _compare(self, url: str, row: Row) -> None:
        """Raise `SystemFault` unless a shard still is what was sent.

        One that has its name already was renamed by an earlier run: it may have another tag.
        """
        info = self._system.info(url)
        is_renamed = self._replaces and url != self._part(os.path.basename(url))
        if info.get("size") != row["bytes"] or (not is_renamed and row.get("tag") != tag_of(info)):
            what = "was replaced by another program after it was sent: repeat the command"
            raise SystemFault(what, address(url).shown)

    def finish(self, written: Written, rows: Mapping[str, Row], stale: Collection[str]) -> Written:
        """Send the other files, the index last; remove stale shards."""
        self._check_lock()
        with self._faults():
            for path in others(self._folder, written.path):
                self._system.put_file(path, self._url(os.path.basename(path)))
            for name in stale:
                self._remove(self._url(name))
        return moved(written, others(self._folder, written.path), self._shown)

    def remove(self) -> None:
        """Remove the journal, and shards that have no name yet."""
        with suppress(PorterError), self._faults(), suppress(FileNotFoundError):
            self._system.invalidate_cache()
            self._system.rm(self._part(""), recursive=True)

    def discard(self) -> None:
        """Remove the journal and what was sent."""
        self.abort()
        with suppress(PorterError), self._faults():
            for name in () if self._replaces else self._names[:-1]:
                self._remove(self._url(name))
        self.remove()

    def _remove(self, url: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(url)

    def _file(self, url: str) -> RemoteFile:
        return RemoteFile(FsspecStore(address(url), self._system))

    def _url(self, name: str) -> str:
        return self._home.sibling(name).url

    def _part(self, name: str) -> str:
        return self._home.sibling(f"{self._parts}/{name}").url

    @contextmanager
    def _faults(self) -> Iterator[None]:
        with faults(self._home, "written", begun=True):
            yield
