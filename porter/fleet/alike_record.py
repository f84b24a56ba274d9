"""The record of an output as a text with places for what differs between files that are alike."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any

from porter.codecs.record import lines, sealed
from porter.errors import printable
from porter.storage.digests import unknown

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Around the name of a place: characters for private use, which a record seldom has."""


class RecordForm:
    """A record without the names of its files and without digests.

    Raises `KeyError` for a record of which not all places are known.
    """

    def __init__(self, text: bytes, method: str) -> None:
        record: Any = json.loads(text)
        self._method = method
        source, output = _place("source"), _place("output")
        record["metadata"]["porter.source"] = _place("named")
        if record["sources"]:
            (_,) = record["sources"].values()
            record["sources"] = {source: _place("digest of source")}
        self.names: list[str] = list(record["tensors"])
        """The tensors, in the order of their digests."""
        self._numbers = [*map(str, range(len(self.names)))]
        for number, row in enumerate(record["tensors"].values()):
            row[2] = _place(str(number)) if row[2] else ""
        if record["files"]:
            (file,) = record["files"].values()
            file["digest"] = _place("digest") if file["digest"] else ""
            record["files"] = {output: file}
        record["digest"] = unknown(method)
        if _OPEN in text.decode():
            raise KeyError(_OPEN)
        made = lines(record) + "\n"
        self._parts = re.split(f"{_OPEN}(.*?){_CLOSE}", made)
        self._slots = [(at, self._parts[at]) for at in range(1, len(self._parts), 2)]

    def text(
        self, source: str, output: str, of_source: str, digests: Sequence[str], digest: str
    ) -> bytes:
        """Return the record of an output; `digests` are those of its tensors."""
        base = os.path.basename(source)
        values: dict[str, str] = {
            "named": _inner(printable(base, 400)),
            "source": _inner(printable(base)),
            "output": _inner(os.path.basename(output)),
            "digest of source": of_source,
            "digest": digest,
            **dict(zip(self._numbers, digests, strict=False)),
        }
        parts = self._parts.copy()
        for at, slot in self._slots:
            parts[at] = values[slot]
        return sealed("".join(parts).encode(), self._method)


def _place(name: str) -> str:
    return f"{_OPEN}{name}{_CLOSE}"


def _inner(text: str) -> str:
    """Return a text as it is between quotes."""
    return _quoted(text)[1:-1]
