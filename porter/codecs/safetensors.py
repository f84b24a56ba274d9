"""safetensors: a length, a JSON header, and the bytes of every tensor behind it.

    8 bytes       length of the header, little endian
    header        {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
    tensors       C order, little endian, one behind the other without a gap

Reading follows the specification and is stricter where two readers could differ: no name or
field twice, no unknown field, no NUL in a name. Writing gives the bytes that the reference
implementation gives, its order of tensors included.

The format forbids two names for one range. Tied tensors are therefore written out under every
name, so that every reader finds them all, and the tie is noted in the metadata under
`porter.ties` as {"name": "name of the first"}; it holds again when the bytes are still equal.

https://github.com/huggingface/safetensors/blob/main/README.md#format
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring as _quoted
from math import prod
from typing import NamedTuple

from porter.codecs.flat import flat
from porter.codecs.json_scan import Scanner
from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import InputFile
from porter.storage.pieces import Body, Piece
from porter.tensors import shared_tensors
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import Extent, LazyTensor, Shape
from porter.tensors.state_dict import Origin, StateDict

LARGEST_HEADER = 100_000_000
"""The limit of the reference implementation."""
MOST_TENSORS = 1_000_000
MOST_BYTES = 1 << 48
_MOST_NOTES = 100_000

TIES = "porter.ties"
"""Metadata key of the ties."""

_BY_CODE = {d.safetensors: d for d in DTYPES.values() if d.safetensors is not None}
_PACKED = {"F4", "F6_E2M3", "F6_E3M2"}
_METADATA = "__metadata__"

# The reference implementation lays tensors out by dtype in this order, then by name.
# fmt: off
_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16",
    "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL",
)
# fmt: on
_RANK = {code: rank for rank, code in enumerate(_ORDER)}


class Entry(NamedTuple):
    """What the header says about one tensor; offsets count from the end of the header."""

    dtype: DType
    shape: Shape
    begin: int
    end: int


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the tensors of a file; `InputError` where the header breaks a rule."""
    start, entries, metadata = read_header(file)
    tensors = {
        name: LazyTensor.stored(
            entry.dtype, entry.shape, Extent(file, start + entry.begin, entry.end - entry.begin)
        )
        for name, entry in entries.items()
    }
    notes = shared_tensors.restore(tensors, metadata.get(TIES), file.path)
    origin = Origin(file.path, "safetensors", (file.path,), notes=notes, metadata=metadata)
    return flat(tensors, origin, key=key, strip=strip)


def read_header(file: InputFile) -> tuple[int, dict[str, Entry], dict[str, str]]:
    """Return (offset of the first tensor, entries in header order, metadata)."""
    if file.size < 8:
        raise InputError(f"truncated: {file.size} bytes are not a safetensors file", file.path)
    (length,) = struct.unpack("<Q", file.pread(0, 8))
    if length > LARGEST_HEADER:
        raise InputError(f"a header of {length} bytes; {LARGEST_HEADER} is the limit", file.path)
    if length > file.size - 8:
        raise InputError(f"truncated: a header of {length} bytes, {file.size - 8} left", file.path)
    try:
        text = file.pread(8, length).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError("the header is not UTF-8", file.path) from fault
    entries, metadata = _Header(text, file.path, "safetensors header").parse()
    _check_layout(entries, file.size - 8 - length, file.path)
    return 8 + length, entries, metadata


def _check_layout(entries: Mapping[str, Entry], available: int, path: str) -> None:
    """Refuse gaps, overlaps and bytes that belong to no tensor."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != reached:
            what = "overlaps another tensor" if entry.begin < reached else "follows a gap"
            where = f"begins at {entry.begin}, {reached} expected"
            raise InputError(f"{printable(name)} {what}: {where}", path)
        reached = entry.end
    if reached != available:
        what = "truncated: " if reached > available else ""
        raise InputError(f"{what}tensors fill {reached} bytes, the file has {available}", path)


_FIELD = re.compile(
    r'[ \t\n\r]*"(dtype|shape|data_offsets)"[ \t\n\r]*:[ \t\n\r]*'
    r'(?:"([A-Z0-9_]{1,16})"|\[([0-9, \t\n\r]{0,2000})\])[ \t\n\r]*([,}])'
)
# An entry as every writer writes it: the short way for files of very many tensors.
_PLAIN = re.compile(
    r'"dtype":"([A-Z0-9_]{1,16})","shape":\[((?:(?:0|[1-9][0-9]{0,17})(?:,(?!\])|(?=\])))*)\],'
    r'"data_offsets":\[(0|[1-9][0-9]{0,17}),(0|[1-9][0-9]{0,17})\]\}'
)
_NUMBER = re.compile(r"[ \t\n\r]*(0|[1-9][0-9]{0,18})[ \t\n\r]*")


class _Header(Scanner):
    """The header's grammar."""

    def parse(self) -> tuple[dict[str, Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] = {}
        for name in self.entries():
            if name == _METADATA:
                # The reference implementation reads null as no metadata.
                metadata = {} if self.null() else self._metadata()
            elif "\0" in name:
                self.refuse(f"the name {printable(name)} contains a NUL")
            elif len(entries) == MOST_TENSORS:
                self.refuse(f"more than {MOST_TENSORS} tensors")
            else:
                entries[name] = self._entry(name)
        self.finish()
        return entries, metadata

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key in self.entries():
            if len(found) == _MOST_NOTES:
                self.refuse(f"more than {_MOST_NOTES} entries of metadata")
            self.skip()
            if self.peek() != '"':
                self.refuse(f"the metadata of {printable(key)} is not text")
            found[key] = self.string()
        return found

    def _entry(self, name: str) -> Entry:
        self.expect("{")
        plain = _PLAIN.match(self.text, self.at)
        if plain is not None:
            self.at = plain.end()
            code, lengths, begin, end = plain.groups()
            shape = tuple(map(int, lengths.split(","))) if lengths else ()
            return self._checked(name, code, shape, (int(begin), int(end)))
        fields: dict[str, str] = {}
        while True:
            match = _FIELD.match(self.text, self.at)
            if match is None:
                near = printable(self.text[self.at : self.at + 60], 60)
                self.refuse(f"no sound dtype, shape and data_offsets for {printable(name)}: {near}")
            key, code, numbers, mark = match.groups()
            if key in fields:
                self.refuse(f"{printable(name)} states its {key} twice")
            if (key == "dtype") != (code is not None):
                self.refuse(f"the {key} of {printable(name)} is malformed")
            fields[key] = numbers if code is None else code
            self.at = match.end()
            if mark == "}":
                break
        if len(fields) != 3:
            self.refuse(f"{printable(name)} lacks its dtype, shape or data_offsets")
        shape = self._numbers(name, fields["shape"])
        offsets = self._numbers(name, fields["data_offsets"])
        return self._checked(name, fields["dtype"], shape, offsets)

    def _checked(self, name: str, code: str, shape: Shape, offsets: Shape) -> Entry:
        dtype = _BY_CODE.get(code)
        if dtype is None:
            why = "which packs elements into parts of bytes" if code in _PACKED else "unknown"
            self.refuse(f"{printable(name)} has dtype {code}, {why}")
        if len(offsets) != 2 or offsets[0] > offsets[1] or offsets[1] > MOST_BYTES:
            self.refuse(f"the data_offsets of {printable(name)} are malformed: {list(offsets)}")
        need = prod(shape) * dtype.itemsize
        have = offsets[1] - offsets[0]
        # The second condition: a zero elsewhere must not hide an absurd length.
        if need != have or prod(max(n, 1) for n in shape) > MOST_BYTES:
            what = f"{code} {list(shape)}"
            self.refuse(f"{printable(name)} is {what}, which does not fill its {have} bytes")
        return Entry(dtype, shape, *offsets)

    def _numbers(self, name: str, text: str) -> tuple[int, ...]:
        if not text.strip(" \t\n\r"):
            return ()
        found = [_NUMBER.fullmatch(part) for part in text.split(",")]
        if not all(found):
            self.refuse(f"{printable(name)} states [{printable(text, 40)}], no list of lengths")
        return tuple(int(match[1]) for match in found if match is not None)


def check(state: StateDict) -> None:
    """Raise `UsageError` for a name or dtype that the format cannot hold."""
    for name, tensor in state.items():
        if tensor.dtype.safetensors is None:
            raise UsageError(f"safetensors has no {tensor.dtype.name}, which {printable(name)} is")
        if name == _METADATA or "\0" in name:
            raise UsageError(f"safetensors has no tensor called {printable(name)}")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as fault:
            raise UsageError(f"the name {printable(name)} is not Unicode text") from fault


def ordered(state: StateDict) -> list[str]:
    """Return the names in the order of the reference implementation."""
    codes = {name: str(tensor.dtype.safetensors) for name, tensor in state.items()}
    return sorted(state, key=lambda name: (_RANK[codes[name]], name))


def pieces(state: StateDict, metadata: Mapping[str, str]) -> Iterator[Piece]:
    """Yield the pieces of a file; `UsageError` for a name or dtype that the format cannot store.

    `metadata` goes in as it is, shared tensors are noted in it.
    """
    check(state)
    bodies = [Body(name, state[name]) for name in ordered(state)]
    entries = dict(metadata)
    if found := shared_tensors.note(state):
        entries[TIES] = found
    yield _header(bodies, entries)
    yield from bodies


def _header(bodies: list[Body], metadata: Mapping[str, str]) -> bytes:
    rows = []
    if metadata:
        rows.append(f'"{_METADATA}":{shared_tensors.compact(dict(sorted(metadata.items())))}')
    begin = 0
    for body in bodies:
        tensor, end = body.tensor, begin + body.tensor.nbytes
        lengths = ",".join(map(str, tensor.shape))
        rows.append(
            f'{_quoted(body.name)}:{{"dtype":"{tensor.dtype.safetensors}","shape":[{lengths}],'
            f'"data_offsets":[{begin},{end}]}}'
        )
        begin = end
    text = f"{{{','.join(rows)}}}".encode()
    # Spaces bring the first tensor to a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise UsageError(f"a header of {len(text)} bytes; safetensors allows {LARGEST_HEADER}")
    return struct.pack("<Q", len(text)) + text
