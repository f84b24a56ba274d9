"""Protobuf on the wire, as much of it as ONNX needs: varints and length-delimited fields.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from porter.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int, int | memoryview]
"""(number, kind, value): a number, or the content of a length-delimited field."""


def varint(value: int) -> bytes:
    """Return a number as a varint; a negative one takes ten bytes, as int64 does."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def header(number: int, size: int) -> bytes:
    """Return the bytes before `size` bytes of a length-delimited field."""
    return varint(number << 3 | BYTES) + varint(size)


def blob(number: int, data: bytes) -> bytes:
    """Return a length-delimited field."""
    return header(number, len(data)) + data


def text(number: int, value: str) -> bytes:
    """Return a string field."""
    return blob(number, value.encode())


def integer(number: int, value: int) -> bytes:
    """Return an integer field."""
    return varint(number << 3 | VARINT) + varint(value)


def real(number: int, value: float) -> bytes:
    """Return a float field."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)


def packed(number: int, values: Iterable[int]) -> bytes:
    """Return a field of packed integers; nothing when there are none."""
    data = b"".join(map(varint, values))
    return blob(number, data) if data else b""


def fields(data: bytes | memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order; `InputError` when it is none."""
    view = memoryview(data)
    at, end = 0, len(view)
    while at < end:
        key, at = read_varint(view, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = read_varint(view, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = read_varint(view, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise InputError(f"malformed protobuf: a field of kind {kind}")
        if number == 0 or size > end - at:
            raise InputError("malformed protobuf: a field is longer than its message")
        part = view[at : at + size]
        at += size
        yield number, kind, part if kind == BYTES else int.from_bytes(part, "little")


def read_varint(view: memoryview | bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and where it ends."""
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise InputError("malformed protobuf: a number does not end")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7


def signed(value: int) -> int:
    """Return a varint's value as an int64."""
    return value - (1 << 64) if value >> 63 else value


def unpacked(value: int | memoryview, kind: int) -> list[int]:
    """Return the integers of a repeated field, packed or not."""
    if kind != BYTES:
        assert isinstance(value, int)
        return [signed(value)]
    assert isinstance(value, memoryview)
    found, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        found.append(signed(number))
    return found


def string(value: int | memoryview) -> str:
    """Return a string field's value; `InputError` when it is not UTF-8."""
    if not isinstance(value, memoryview):
        raise InputError("malformed protobuf: a text expected")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError("malformed protobuf: a text that is not UTF-8") from fault
