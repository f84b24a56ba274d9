"""Outputs on Hugging Face's hub: any number of files come by one commit.

The hub takes the content of a large file before the commit that names it (Git LFS, Xet), from any
machine; content that it has is not sent twice. What was sent and never named by a commit is not
seen by anybody, and cannot be read back: a run that was killed begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from porter.codecs.sharded.folder import shards_of
from porter.codecs.sharded.index import SUFFIX
from porter.errors import MissingPackage, PorterError, SystemFault, UsageError
from porter.remote.address import Address
from porter.remote.fsspec_store import FsspecStore, faults
from porter.remote.place import Outbox, moved, others
from porter.remote.remote_file import RemoteFile
from porter.storage.atomic_output import Input, Written, named
from porter.storage.tasks import Row

_COMMITS = 5
"""How often a commit is tried while others come between."""
_NOT_THE_PARENT = 412
"""The status of an answer that the revision is no longer at the commit that it should be."""


class Repository(Outbox):
    """The folder of a repository that files are sent to; a `porter.storage.tasks.ShardPlace`.

    `base` is the path of one file on this machine, in whose folder files are written first;
    `home` is the address of a file in their folder there, or of the folder, with a slash.
    """

    def __init__(self, home: Address, base: str, system: Any, begun: str) -> None:
        from huggingface_hub import HfApi

        super().__init__(home, base)
        self._system = system
        self._begun = begun
        self._api = HfApi(endpoint=system.endpoint)
        with faults(home, "written"):
            self._there: Any = system.resolve_path(home.sibling(self._name).url)

    def check(
        self, paths: Sequence[str], inputs: Sequence[Input], force: bool, ours: Collection[str]
    ) -> None:
        """Raise `UsageError` for a file that is an input, or there and not to go."""
        read = set(map(named, inputs))
        for shown in map(self._shown, map(os.path.basename, paths)):
            if shown in read:
                raise UsageError("is the input itself; name another output", shown)
        names = {os.path.basename(path) for path in paths} if not force else set()
        for name in sorted(names & self._names()):
            raise UsageError("exists already; --force replaces it", self._shown(name))

    def _names(self) -> set[str]:
        """Return the names of the files in the folder."""
        with faults(self._home, "written"), suppress(FileNotFoundError):
            folder = self._home.url.rpartition("/")[0]
            rows = self._system.ls(folder, detail=True, refresh=True)
            return {row["name"].rpartition("/")[2] for row in rows}
        return set()

    def load(self) -> bytes:
        """Return b"": nothing is kept before the commit."""
        return b""

    def save(self, journal: bytes) -> None:
        """Do nothing."""

    def listed(self) -> set[str]:
        """Return the shards of the checkpoint that is replaced, as far as their names say so."""
        index = self._home.sibling(self._name + SUFFIX)
        with suppress(PorterError):
            return shards_of(RemoteFile(FsspecStore(index, self._system)))
        return set()

    def has(self, name: str, row: Row) -> bool:
        """Whether a shard was sent: what no commit names cannot be looked at."""
        return False

    def send(self, path: str) -> Row:
        """Send the content of a finished shard and remove it here; return the hub's name of it."""
        from huggingface_hub import CommitOperationAdd

        name = os.path.basename(path)
        with faults(self._home, "written", begun=True):
            file = CommitOperationAdd(self._path(name), path)
            self._api.preupload_lfs_files(
                self._there.repo_id, [file], repo_type=self._there.repo_type,
                revision=self._there.revision,
            )  # fmt: skip
        if not getattr(file, "_is_uploaded", False):
            what = "the hub takes no shard of this name before the commit: name its kind in"
            raise UsageError(f"{what} .gitattributes (git lfs track)", self._shown(name))
        os.unlink(path)
        assert file.upload_info.sha256 is not None
        return {"tag": file.upload_info.sha256.hex()}

    def publish(self, rows: Mapping[str, Row]) -> None:
        """Do nothing: the commit names all."""

    def finish(self, written: Written, rows: Mapping[str, Row], stale: Collection[str]) -> Written:
        """Make the commit: shards that were sent, the files next to them, stale shards removed."""
        from huggingface_hub import CommitOperationDelete

        paths = others(self._folder, written.path)
        sent = [_sent(self._path(name), row["tag"], row["bytes"]) for name, row in rows.items()]
        gone = [CommitOperationDelete(self._path(name)) for name in stale]
        self.commit(paths, self._name, [*sent, *gone])
        return moved(written, paths, self._shown)

    def commit(self, paths: Sequence[str], title: str, more: Sequence[Any] = ()) -> None:
        """Commit files of this machine, and `more` operations.

        Raises `SystemFault` when one of them has changed since the command began.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        files = [CommitOperationAdd(self._path(os.path.basename(path)), path) for path in paths]
        operations = [*more, *files]
        there = self._there
        about = {"repo_type": there.repo_type, "revision": there.revision}
        with faults(self._home, "written"):
            for _ in range(_COMMITS):
                head = _head(self._api, there)
                self._check_unchanged(head, [operation.path_in_repo for operation in operations])
                try:
                    self._api.create_commit(
                        there.repo_id, operations, commit_message=f"Add {title}",
                        parent_commit=head, **about,
                    )  # fmt: skip
                    return
                except HfHubHTTPError as fault:
                    # Another commit came between.
                    if getattr(fault.response, "status_code", 0) != _NOT_THE_PARENT:
                        raise
        raise SystemFault("gets commits faster than one can be added: try later", self._home.shown)

    def _check_unchanged(self, head: str, paths: list[str]) -> None:
        """Raise `SystemFault` when a commit since the beginning is of a file that is written."""
        if head == self._begun:
            return
        found = []
        for revision in (self._begun, head):
            rows = self._api.get_paths_info(
                self._there.repo_id, paths, repo_type=self._there.repo_type, revision=revision
            )
            found.append({row.path: getattr(row, "blob_id", "") for row in rows})
        before, now = found
        for path in paths:
            if before.get(path) != now.get(path):
                what = "was written by another commit meanwhile: nothing was committed"
                raise SystemFault(what, self._shown(os.path.basename(path)))

    def remove(self) -> None:
        """Do nothing: nothing was kept."""

    def discard(self) -> None:
        """Do nothing: nothing has a name."""

    def _path(self, name: str) -> str:
        return f"{os.path.dirname(self._there.path_in_repo)}/{name}".lstrip("/")


def commit_of(target: Address, system: Any) -> str:
    """Return the commit that a revision of a repository is at."""
    from huggingface_hub import HfApi

    with faults(target, "written"):
        there = system.resolve_path(target.url.rstrip("/"))
        return _head(HfApi(endpoint=system.endpoint), there)


def _head(api: Any, there: Any) -> str:
    """Return the commit that a revision is at now."""
    info = api.repo_info(there.repo_id, repo_type=there.repo_type, revision=there.revision)
    return str(info.sha)


def _sent(path: str, sha256: str, nbytes: int) -> Any:
    """Return the operation of a file whose content another process has sent.

    huggingface_hub makes such an object only in the process that sends.
    """
    from huggingface_hub import CommitOperationAdd

    file: Any = CommitOperationAdd(path, b"")
    if not (hasattr(file, "_is_uploaded") and hasattr(file, "_upload_mode")):
        raise MissingPackage("shards for hf:// need huggingface_hub 0.26 to 2.x")
    file.upload_info.sha256, file.upload_info.size = bytes.fromhex(sha256), nbytes
    file._upload_mode, file._is_uploaded = "lfs", True
    return file
