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
_SLOTS = ("name", "source", "digest of source", "output", "digest")
"""What differs between records; the digests of the tensors follow."""


class RecordForm:
    """A record without the names of its files and without digests.

    Raises `KeyError` for a record of which not all places are known.
    """

    def __init__(self, text: bytes, method: str) -> None:
        record: Any = json.loads(text)
        self._method = method
        named, source, of_source, output, digest = map(_place, range(len(_SLOTS)))
        record["metadata"]["porter.source"] = named
        if record["sources"]:
            (_,) = record["sources"].values()
            record["sources"] = {source: of_source}
        self.names: list[str] = list(record["tensors"])
        """The tensors, in the order of their digests."""
        for number, row in enumerate(record["tensors"].values(), len(_SLOTS)):
            row[2] = _place(number) if row[2] else ""
        if record["files"]:
            (file,) = record["files"].values()
            file["digest"] = digest if file["digest"] else ""
            record["files"] = {output: file}
        record["digest"] = unknown(method)
        if _OPEN in text.decode():
            raise KeyError(_OPEN)
        parts = re.split(f"{_OPEN}(.*?){_CLOSE}", lines(record) + "\n")
        self._format = "%s".join(part.replace("%", "%%") for part in parts[::2])
        self._order = [*map(int, parts[1::2])]

    def text(
        self, source: str, output: str, of_source: str, digests: Sequence[str], digest: str
    ) -> bytes:
        """Return the record of an output; `digests` are those of its tensors."""
        base = os.path.basename(source)
        name, shown = _inner(printable(base, 400)), _inner(printable(base))
        values = (name, shown, of_source, _inner(os.path.basename(output)), digest, *digests)
        filled = self._format % tuple([values[number] for number in self._order])
        return sealed(filled.encode(), self._method)


def _place(number: int) -> str:
    return f"{_OPEN}{number}{_CLOSE}"


def _inner(text: str) -> str:
    """Return a text as it is between quotes."""
    return _quoted(text)[1:-1]
