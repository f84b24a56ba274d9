"""A zip file as pieces: members stored, aligned, checksummed, dated 1980-01-01.

The same input gives the same bytes. Sizes over 4 GiB and more than 65,535 members take the
zip64 records, and only then, so that small files look as every reader expects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from porter.codecs.zip.directory import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    STORED,
    UTF8_FLAG,
)
from porter.storage.digests import crc32
from porter.storage.pieces import Body, Late, Piece

ALIGNMENT = 64
_DATE = 1 << 5 | 1  # 1980-01-01, the earliest that the format knows
_TIME = 0
_PADDING = 0x4246
"""Id of the extra field that fills up to the alignment: torch's own, "FB"."""
_VERSION, _VERSION64 = 20, 45


@dataclass(slots=True, eq=False)
class Content:
    """What a member holds: some bytes, then perhaps a tensor's."""

    name: str
    head: bytes
    body: Body | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the member."""
        return len(self.head) + (self.body.nbytes if self.body else 0)

    @property
    def crc32(self) -> int:
        """The checksum, known once the body is written."""
        return self.body.crc32 if self.body else crc32(self.head)


class _Entry:
    """A member in its place; what is asked for again and again is known."""

    __slots__ = ("content", "header", "local_size", "nbytes", "raw", "wide")

    def __init__(self, content: Content, header: int) -> None:
        self.content = content
        self.raw = content.name.encode()
        self.header = header
        self.nbytes = content.nbytes
        self.wide = self.nbytes >= FULL32
        self.local_size = LOCAL.size + len(self.raw) + (20 if self.wide else 0)
        """Bytes of the local header, without its padding."""


def zip_pieces(contents: Iterable[Content], align: int = ALIGNMENT) -> Iterator[Piece]:
    """Yield the pieces of a zip; each member's bytes begin at a multiple of `align`.

    A content's body is made to compute its checksum.
    """
    at = 0
    entries: list[_Entry] = []
    for content in contents:
        entry = _Entry(content, at)
        entries.append(entry)
        padding = _padding(entry, align)
        if content.body is None:
            yield _local(entry, padding) + content.head
        else:
            content.body.checksum = True
            content.body.crc32 = crc32(content.head)
            yield from _around(entry, padding, content.body)
        at += entry.local_size + padding + entry.nbytes
    directory = sum(_central_size(entry) for entry in entries)
    yield Late(directory, lambda: b"".join(map(_central, entries)), last=True)
    yield _end(len(entries), directory, at)


def _around(entry: _Entry, padding: int, body: Body) -> Iterator[Piece]:
    size = entry.local_size + padding + len(entry.content.head)
    yield Late(size, lambda: _local(entry, padding) + entry.content.head)
    yield body


def _padding(entry: _Entry, align: int) -> int:
    """Return the length of the filling extra field: nothing, or four bytes at least."""
    short = -(entry.header + entry.local_size) % align
    return short if short == 0 or short >= 4 else short + align


def _local(entry: _Entry, padding: int) -> bytes:
    size, wide = entry.nbytes, entry.wide
    extra = struct.pack("<2H2Q", 1, 16, size, size) if wide else b""
    if padding:
        extra += struct.pack("<2H", _PADDING, padding - 4) + b"Z" * (padding - 4)
    shown = FULL32 if wide else size
    fixed = LOCAL.pack(
        LOCAL_MAGIC,
        _VERSION64 if wide else _VERSION,
        UTF8_FLAG,
        STORED,
        _TIME,
        _DATE,
        entry.content.crc32,
        shown,
        shown,
        len(entry.raw),
        len(extra),
    )
    return fixed + entry.raw + extra


def _central_size(entry: _Entry) -> int:
    return CENTRAL.size + len(entry.raw) + len(_central_extra(entry))


def _central_extra(entry: _Entry) -> bytes:
    if not entry.wide and entry.header < FULL32:
        return b""
    values = [value for value in _wide_values(entry) if value >= FULL32]
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def _wide_values(entry: _Entry) -> tuple[int, int, int]:
    return entry.nbytes, entry.nbytes, entry.header


def _central(entry: _Entry) -> bytes:
    extra = _central_extra(entry)
    version = _VERSION64 if extra else _VERSION
    size, packed, header = (min(value, FULL32) for value in _wide_values(entry))
    fixed = CENTRAL.pack(
        CENTRAL_MAGIC,
        version,
        version,
        UTF8_FLAG,
        STORED,
        _TIME,
        _DATE,
        entry.content.crc32,
        packed,
        size,
        len(entry.raw),
        len(extra),
        0,
        0,
        0,
        0,
        header,
    )
    return fixed + entry.raw + extra


def _end(count: int, size: int, start: int) -> bytes:
    records = b""
    if count >= FULL16 or size >= FULL32 or start >= FULL32:
        records = END64.pack(
            END64_MAGIC,
            END64.size - 12,
            _VERSION64,
            _VERSION64,
            0,
            0,
            count,
            count,
            size,
            start,
        ) + LOCATOR64.pack(LOCATOR64_MAGIC, 0, start + size, 1)
    shown = min(count, FULL16)
    return records + END.pack(
        END_MAGIC, 0, 0, shown, shown, min(size, FULL32), min(start, FULL32), 0
    )
