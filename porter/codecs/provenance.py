"""Where a file came from, and the digests that show whether it is still what was written.

safetensors and ONNX carry it in their own metadata; beside any other file stands
`OUTPUT.porter.json`. The digests tell damage: a bit that flipped on a disk or on the way. They
are no signature, for whoever alters the file can alter the record with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from json.encoder import encode_basestring as _quoted

from porter.errors import printable
from porter.storage.checksums import Imprint
from porter.storage.digests import XXH3, digest_of, unknown
from porter.storage.pieces import Body, Task
from porter.storage.sidecar import SCHEMA
from porter.storage.source_digest import SourceDigest
from porter.tensors import shared_tensors
from porter.tensors.state_dict import StateDict

DIGESTS = "porter.digests"
"""Metadata key: {name: digest of the tensor's C-order little-endian bytes}, as JSON."""
SOURCES = "porter.source_digests"
"""Metadata key: {file name: digest of all its bytes}, as JSON."""


class Record:
    """The provenance of one output; the digests of the sources are taken while it is written."""

    def __init__(
        self, metadata: Mapping[str, str], sources: Iterable[str] = (), method: str = XXH3
    ) -> None:
        self.metadata = dict(metadata)
        self.method = method
        self._sources = list(dict.fromkeys(sources))
        self._unread = list(self._sources)
        self._digests: dict[str, str] = {}

    def jobs(self) -> Iterator[Task]:
        """Yield what must be run before `late` is final: the sources, in portions.

        The first file of an output that writes has them; who asks later gets none.
        """
        unread, self._unread = self._unread, []
        for path in unread:
            yield from self._source(path).jobs()

    def _source(self, path: str) -> SourceDigest:
        return SourceDigest(path, partial(self._digests.__setitem__, path), self.method)

    def late(self, bodies: Sequence[Body]) -> dict[str, str]:
        """Return the digests as metadata, of the same length before and after they are known."""
        known = {body.name: body.digest or unknown(self.method) for body in bodies}
        found = {DIGESTS: shared_tensors.compact(known)}
        if self._sources:
            found[SOURCES] = shared_tensors.compact(self.sources())
        return found

    def sources(self) -> dict[str, str]:
        """Return {file name: digest}; the name is the whole path where two would be the same."""
        names = [os.path.basename(path) for path in self._sources]
        shown = names if len(set(names)) == len(names) else self._sources
        return {
            printable(name): self._digests.get(path, unknown(self.method))
            for name, path in zip(shown, self._sources, strict=True)
        }

    def text(self, state: StateDict, files: Mapping[str, Imprint]) -> bytes:
        """Return what stands beside an output without metadata of its own, made of `files`."""
        record = {
            "schema": SCHEMA,
            "metadata": dict(sorted(self.metadata.items())),
            "sources": self.sources(),
            "tensors": {n: [t.dtype.name, list(t.shape)] for n, t in state.items()},
            "ties": shared_tensors.aliases(state),
            "files": {name: imprint.as_dict() for name, imprint in files.items()},
            "seal": unknown(self.method),
        }
        return _sealed(_lines(record).encode("utf-8") + b"\n", self.method)


def _sealed(text: bytes, method: str) -> bytes:
    """Return a record with its own digest in the place of the hyphens at its end."""
    head, hyphens, tail = text.rpartition(unknown(method).encode())
    assert hyphens
    return head + digest_of(text, method).encode() + tail


def _lines(value: object, depth: int = 3, indent: str = "") -> str:
    """Return JSON with an entry a line, `depth` mappings deep.

    `json.dumps(indent=1)` puts every number on a line of its own, and is written in Python.
    """
    if type(value) is str:
        return _quoted(value)
    if type(value) is int:
        return str(value)
    if type(value) is list:
        return f"[{', '.join([_lines(item, -1) for item in value])}]"
    if depth < 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    deeper = indent + " "
    rows = [
        f"{deeper}{_quoted(key)}: {_lines(below, depth - 1, deeper)}"
        for key, below in value.items()
    ]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
