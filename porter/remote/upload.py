"""Outputs at addresses: written and checked on this machine, then sent, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from porter.errors import UsageError
from porter.remote.address import Address, address
from porter.remote.fsspec_store import faults, file_system
from porter.storage.progress import Progress


class Upload:
    """An output that will be sent to an address."""

    def __init__(self, target: Address, folder: str) -> None:
        self.shown = target.shown
        self.path = os.path.join(folder, target.name)
        """Where it is written first."""
        self._target = target
        self._system = file_system(target)

    def refuse_existing(self) -> None:
        """Raise `UsageError` when there is a file at the address."""
        with faults(self._target, "written"):
            if self._system.exists(self._target.url):
                raise UsageError("exists already; --force replaces it", self.shown)

    def send(self, files: Sequence[str], progress: Progress | None) -> tuple[str, ...]:
        """Send files in the order in which they were written; return their addresses.

        To a hub all of them go by one commit. A bucket has each file whole or not at all; those
        that were new are removed again when a later one cannot be sent.
        """
        ordered = list(dict.fromkeys(files))
        targets = [self._target.sibling(os.path.basename(path)) for path in ordered]
        total = sum(os.path.getsize(path) for path in ordered)
        if progress is not None:
            progress("uploading", 0, total)
        with faults(self._target, "written"):
            if self._target.scheme == "hf":
                self._commit(ordered)
            else:
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
                self._system.put_file(path, target.url)
                done += os.path.getsize(path)
                if progress is not None:
                    progress("uploading", done, total)
        except BaseException:
            for url in new:
                if self._system.exists(url):
                    self._system.rm_file(url)
            raise

    def _commit(self, paths: list[str]) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        place: Any = self._system.resolve_path(self._target.url)
        folder = os.path.dirname(place.path_in_repo)
        HfApi(endpoint=self._system.endpoint).create_commit(
            repo_id=place.repo_id,
            repo_type=place.repo_type,
            revision=place.revision,
            operations=[
                CommitOperationAdd(f"{folder}/{os.path.basename(path)}".lstrip("/"), path)
                for path in paths
            ],
            commit_message=f"Add {os.path.basename(self.path)}",
        )


@contextmanager
def outgoing(url: str, force: bool) -> Iterator[Upload]:
    """Give a place on this machine for an output at an address; it is removed afterwards.

    Raises `UsageError` for an address that cannot be written to, or that has a file already.
    """
    target = address(url)
    if target.is_web:
        raise UsageError(f"cannot be written: {target.scheme} addresses are read", target.shown)
    if target.sha256 is not None:
        raise UsageError("#sha256= is of a file that is read", target.shown)
    with tempfile.TemporaryDirectory(prefix="porter-upload-") as folder:
        upload = Upload(target, folder)
        if not force:
            upload.refuse_existing()
        yield upload
