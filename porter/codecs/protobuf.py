"""Protobuf in a file, walked by position: what is long stays where it is.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from porter.errors import InputError
from porter.storage.input_file import InputFile

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WINDOW = 64 << 10


class Span(NamedTuple):
    """A run of a file."""

    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its length."""
        return self.end - self.start


class Field(NamedTuple):
    """One field of a message."""

    number: int
    kind: int
    value: int
    """A varint's value."""
    span: Span
    """The content, where it is no varint."""


class Walker:
    """Reads the messages of a file through a small window."""

    def __init__(self, file: InputFile, what: str = "ONNX file") -> None:
        self.file = file
        self._what = what
        self._at = 0
        self._held = b""

    def fields(self, span: Span) -> Iterator[Field]:
        """Yield the fields of the message that fills `span`; `InputError` when none does."""
        at = span.start
        while at < span.end:
            key, at = self.varint(at, span.end)
            number, kind = key >> 3, key & 7
            if not number or kind not in (VARINT, FIXED64, BYTES, FIXED32):
                raise self.broken(f"a field {number} of kind {kind} at byte {at}")
            if kind == VARINT:
                value, at = self.varint(at, span.end)
                yield Field(number, kind, value, Span(at, at))
                continue
            size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == BYTES:
                size, at = self.varint(at, span.end)
            if size > span.end - at:
                raise self.broken(f"truncated: {size} bytes wanted at byte {at}")
            yield Field(number, kind, 0, Span(at, at + size))
            at += size

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at `at` and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise self.broken("truncated inside a number")
            byte = self._byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
        raise self.broken(f"a number that does not end at byte {at}")

    def bytes(self, span: Span, limit: int) -> bytes:
        """Return the bytes of a span that may have `limit` at most."""
        if span.nbytes > limit:
            raise self.broken(f"a field of {span.nbytes} bytes; {limit} is the limit")
        return self.file.pread(span.start, span.nbytes)

    def text(self, span: Span, limit: int) -> str:
        """Return a text field."""
        try:
            return self.bytes(span, limit).decode("utf-8")
        except UnicodeDecodeError as fault:
            raise self.broken("a text that is not UTF-8") from fault

    def broken(self, what: str) -> InputError:
        """Return the error of a file that is no sound message."""
        return InputError(f"no sound {self._what}: {what}", self.file.path)

    def _byte(self, at: int) -> int:
        index = at - self._at
        if not 0 <= index < len(self._held):
            self._held = self.file.pread(at, min(_WINDOW, self.file.size - at))
            self._at, index = at, 0
        return self._held[index]


def signed(value: int) -> int:
    """Return a varint's value as an int64."""
    return value - (1 << 64) if value >> 63 else value


def unpacked(data: bytes) -> Iterator[int]:
    """Yield the numbers of a packed field, unsigned; `InputError` when one does not end."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value & 0xFFFFFFFFFFFFFFFF
            value = shift = 0
        elif shift > 63:
            raise InputError("a number that does not end")
    if shift:
        raise InputError("truncated inside a number")
