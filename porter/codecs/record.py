"""The record of an output, `OUTPUT.porter.json`: where it came from, and digests of all of it.

The digests show damage: a bit that flipped on a disk or on the way. They are not a signature,
because anyone who can alter the file can alter the record with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring as _quoted
from typing import Any

from porter.errors import printable
from porter.storage.digests import XXH3, digest_of, unknown
from porter.storage.file_digest import FileDigest
from porter.storage.read_back import Place, runs_in
from porter.storage.sidecar import SCHEMA
from porter.tensors import shared_tensors
from porter.tensors.lazy import LazyTensor


class Sources:
    """The files that an output is made of; their digests are taken while it is written.

    With `tensors`, digests of those that are stored in one run are taken in the same pass.
    """

    def __init__(
        self,
        paths: Iterable[str],
        method: str = XXH3,
        tensors: Mapping[str, LazyTensor] | None = None,
    ) -> None:
        self._method = method
        self._tensors = tensors or {}
        self.paths = list(dict.fromkeys(paths)) if method else []
        """The files."""
        self._unread = list(self.paths)
        self._files: dict[str, FileDigest] = {}

    def unread(self) -> list[FileDigest]:
        """Return what reads the sources; a second call returns nothing."""
        unread, self._unread = self._unread, []
        for path in unread:
            self._files[path] = self._digest(path)
        return [self._files[path] for path in unread]

    def leave(self) -> None:
        """Leave it to others to read the files."""
        self._unread = []

    def _digest(self, path: str) -> FileDigest:
        return FileDigest(path, self._method, runs_in(path, self._tensors.values()))

    def row(self, number: int) -> dict[str, Any]:
        """Read one of the files through; return its digest and those of the runs in it, as JSON."""
        file = self._digest(self.paths[number])
        for job in file.jobs():
            job.run()
        return {"digest": file.digest, "runs": [[*run, text] for run, text in file.runs.items()]}

    def take(self, number: int, row: Mapping[str, Any]) -> None:
        """Take what `row` of another process has returned."""
        path = self.paths[number]
        file = self._files[path] = FileDigest(path, self._method)
        file.digest = row["digest"]
        file.runs = {(offset, nbytes): text for offset, nbytes, text in row["runs"]}
        self._unread = [name for name in self._unread if name != path]

    def known(self) -> dict[Place, str]:
        """Return the digests of the tensors that are stored in one run."""
        return {place: text for file in self._files.values() for place, text in file.places()}

    def digests(self) -> dict[str, str]:
        """Return {file name: digest}; the name is the whole path where two would be the same."""
        names = [os.path.basename(path) for path in self.paths]
        shown = names if len(set(names)) == len(names) else self.paths
        return {
            printable(name): self._files[path].digest
            for name, path in zip(shown, self.paths, strict=True)
        }


def text_of(
    metadata: Mapping[str, str],
    sources: Mapping[str, str],
    state: Mapping[str, LazyTensor],
    digests: Mapping[str, str],
    files: Mapping[str, tuple[int, str]],
    method: str,
) -> bytes:
    """Return the record of an output made of `files`, {name: (bytes, digest)}."""
    record = {
        "schema": SCHEMA,
        "metadata": dict(sorted(metadata.items())),
        "sources": dict(sources),
        "tensors": {n: [t.dtype.name, list(t.shape), digests.get(n, "")] for n, t in state.items()},
        "shared": shared_tensors.aliases(state),
        "files": {name: {"bytes": size, "digest": digest} for name, (size, digest) in files.items()}
        if method
        else {},
        "digest": unknown(method or XXH3),
    }
    return sealed(lines(record).encode("utf-8") + b"\n", method or XXH3)


def sealed(text: bytes, method: str) -> bytes:
    """Return a record with its own digest in the place of the hyphens at its end."""
    head, hyphens, tail = text.rpartition(unknown(method).encode())
    assert hyphens
    return head + digest_of(text, method).encode() + tail


def lines(value: object, depth: int = 3, indent: str = "") -> str:
    """Return JSON with an entry a line, `depth` mappings deep.

    `json.dumps(indent=1)` puts every number on a line, and is written in Python.
    """
    if type(value) is str:
        return _quoted(value)
    if type(value) is int:
        return str(value)
    if type(value) is list:
        return f"[{', '.join([lines(item, -1) for item in value])}]"
    if depth < 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    deeper = indent + " "
    rows = [
        f"{deeper}{_quoted(key)}: {lines(below, depth - 1, deeper)}" for key, below in value.items()
    ]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
