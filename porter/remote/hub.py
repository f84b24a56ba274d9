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
from porter.errors import MissingPackage, PorterError, UsageError
from porter.remote.address import Address
from porter.remote.bucket import moved, others
from porter.remote.fsspec_store import FsspecStore, faults
from porter.remote.remote_file import RemoteFile
from porter.storage.atomic_output import Input, Written, named
from porter.storage.lock import hidden
from porter.storage.tasks import Row


class Repository:
    """The folder of a repository that files are sent to; a `porter.storage.tasks.ShardPlace`.

    `base` is the path of one file on this machine, in whose folder files are written first;
    `home` is the address of a file in their folder there, or of the folder, with a slash.
    """

    def __init__(self, home: Address, base: str, system: Any) -> None:
        from huggingface_hub import HfApi

        self._home = home
        self._folder, self._name = os.path.split(base)
        self._system = system
        self._parts = os.path.basename(hidden(base, "parts"))
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

    def prepare(self) -> None:
        """Do nothing: the folder comes by the commit."""

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

    def begin(self, name: str) -> str:
        """Return the path at which a shard is written before it is sent."""
        folder = os.path.join(self._folder, self._parts)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.path.join(folder, name)

    def like(self, name: str, replaced: Collection[str]) -> str:
        """Return "": a repository has no permissions of single files."""
        return ""

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

    def where(self, name: str) -> str:
        """Return "": a shard that was sent cannot be read before the commit."""
        return ""

    def publish(self, names: Sequence[str]) -> None:
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
        """Commit files of this machine, and `more` operations."""
        from huggingface_hub import CommitOperationAdd

        with faults(self._home, "written"):
            self._api.create_commit(
                self._there.repo_id,
                [*more, *(CommitOperationAdd(self._path(os.path.basename(p)), p) for p in paths)],
                commit_message=f"Add {title}",
                repo_type=self._there.repo_type,
                revision=self._there.revision,
            )

    def remove(self) -> None:
        """Do nothing: nothing was kept."""

    def discard(self) -> None:
        """Do nothing: nothing has a name."""

    def _path(self, name: str) -> str:
        return f"{os.path.dirname(self._there.path_in_repo)}/{name}".lstrip("/")

    def _shown(self, name: str) -> str:
        return self._home.sibling(name).shown


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
