"""The file that an output replaces, until it is known that the new one stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape, glob

from porter.storage.lock import hidden, old_name
from porter.storage.sidecar import SUFFIX


class Replaced:
    """Second names of files that are about to be replaced; `restore` gives them their own back."""

    def __init__(self) -> None:
        self._links: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Give a file a second name, where the file system can."""
        link = hidden(path, old_name())
        with suppress(OSError):
            os.link(path, link)
            self._links[path] = link

    def restore(self) -> list[str]:
        """Put the files back; return their names."""
        back = []
        for path, link in self._links.items():
            with suppress(OSError):
                os.replace(link, path)
                back.append(path)
        self._links.clear()
        return back

    def forget(self) -> None:
        """Let the replaced files go."""
        for link in self._links.values():
            with suppress(OSError):
                os.unlink(link)
        self._links.clear()


@contextmanager
def replaced(*outputs: str) -> Iterator[Replaced]:
    """Keep outputs of one file each, with their records and data, while something is done."""
    old = Replaced()
    try:
        for output in filter(os.path.isfile, map(os.path.realpath, outputs)):
            for path in (output, output + SUFFIX, *glob(f"{escape(output)}.*.data")):
                old.add(path)
        yield old
    finally:
        old.forget()
