"""What the places at addresses share: files are written here first, and are then no longer here."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from porter.remote.address import Address
from porter.storage.atomic_output import Written
from porter.storage.lock import hidden


class Outbox:
    """The folder on this machine in which shards are written before they are sent.

    `base` is the path of one file there; `home` is the address of a file in their folder, or of
    the folder, with a slash.
    """

    def __init__(self, home: Address, base: str) -> None:
        self._home = home
        self._folder, self._name = os.path.split(base)
        self._parts = os.path.basename(hidden(base, "parts"))

    def prepare(self) -> None:
        """Do nothing: neither a bucket nor a repository has folders."""

    def begin(self, name: str) -> str:
        """Return the path at which a shard is written before it is sent."""
        folder = os.path.join(self._folder, self._parts)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.path.join(folder, name)

    def like(self, name: str, replaced: Collection[str]) -> str:
        """Return "": files there have no permissions that a new one could take."""
        return ""

    def where(self, name: str) -> str:
        """Return "": a shard that was sent is not fetched again."""
        return ""

    def _shown(self, name: str) -> str:
        return self._home.sibling(name).shown


def others(folder: str, last: str) -> list[str]:
    """Return the files of an output that are next to its shards: record, configuration, index."""
    paths = sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    visible = [path for path in paths if not os.path.basename(path).startswith(".")]
    return [*(path for path in visible if path != last), last]


def moved(written: Written, sent: Sequence[str], shown: Callable[[str], str]) -> Written:
    """Return what was written with the addresses of its files in the place of their paths."""

    def at(path: str) -> str:
        return shown(os.path.basename(path)) if path else ""

    paths = [*(path for path in written.files if path not in sent), *sent]
    files = tuple(map(at, paths))
    return replace(written, path=at(written.path), files=files, record=at(written.record))
