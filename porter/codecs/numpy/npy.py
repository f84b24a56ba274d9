"""One NumPy array: a magic, a header in the form of a Python dictionary, the elements.

    "\\x93NUMPY"  version (2 bytes)  length of the header (2 bytes, from version 2 on 4)
    {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   and spaces up to a newline

The header is matched against this one form and never evaluated.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from porter.codecs.flat import flat
from porter.codecs.pickle.ndarrays import fortran_strides, swapped
from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import InputFile
from porter.storage.pieces import Body, Piece
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import ByteFile, Extent, LazyTensor, Shape, Strided
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import ChangedTensor, Stream, StreamedTensor

MAGIC = b"\x93NUMPY"
LARGEST_HEADER = 64 << 10
MOST_BYTES = 1 << 48
MOST_DIMENSIONS = 64
_ALIGNMENT = 64
_GROWTH = 21
"""Digits that NumPy leaves room for, so that the first axis can grow in place."""

_NATIVE = {d.numpy.str[1:]: d for d in DTYPES.values() if d.numpy.isbuiltin == 1}
"""The dtypes that NumPy itself has, by kind and width."""
_WHY = {
    "O": "an object array, which is a pickle: it is never executed",
    "V": "raw bytes without a type: NumPy stores bfloat16 and float8 so, and the type is lost",
    "U": "text",
    "S": "text",
    "M": "a date",
    "m": "a span of time",
}
_HEADER = re.compile(r"\{(?P<fields>[^{}]*)\}")
_FIELD = re.compile(
    r"\s*(['\"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"
    r"(?:(['\"])(?P<descr>[^'\"\\]{1,40})\3|(?P<flag>True|False)|\((?P<shape>[0-9L, \t]{0,1200})\))"
    r"\s*(?:,\s*|\Z)"
)
_LENGTH = re.compile(r"\s*(0|[1-9][0-9]{0,18})L?\s*")


class Header(NamedTuple):
    """What stands before the elements."""

    dtype: DType
    big: bool
    """Whether the bytes of each element stand in the other order."""
    fortran: bool
    shape: Shape
    size: int
    """Bytes from the magic to the first element."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize


class Bytes(Protocol):
    """Something that holds an array from its first byte to its last."""

    def read(self, offset: int, nbytes: int) -> bytes: ...


def parse(source: Bytes, size: int, label: str) -> Header:
    """Read the header of an array that takes `size` bytes in all; `InputError` if it lies."""
    try:
        header = _parsed(source, size)
    except InputError as error:
        raise InputError(f"{label}{error.message}", error.path) from error
    if header.size + header.nbytes != size:
        need, have = header.nbytes, size - header.size
        what = f"{header.dtype.name} {list(header.shape)} takes {need} bytes, there are {have}"
        raise InputError(f"{label}{'truncated: ' if need > have else ''}{what}")
    return header


def _parsed(source: Bytes, size: int) -> Header:
    head = source.read(0, min(8, size))
    if head[:6] != MAGIC or len(head) < 8:
        raise InputError("is not a NumPy array")
    version = (head[6], head[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise InputError(f"NumPy format {version[0]}.{version[1]}, which nobody has described")
    width = 2 if version == (1, 0) else 4
    if size < 8 + width:
        raise InputError("truncated: no header")
    length = int.from_bytes(source.read(8, width), "little")
    if length > LARGEST_HEADER or length > size - 8 - width:
        raise InputError(f"a header of {length} bytes")
    raw = source.read(8 + width, length)
    try:
        text = raw.decode("utf-8" if version == (3, 0) else "latin-1")
    except UnicodeDecodeError as fault:
        raise InputError("the header is not UTF-8") from fault
    return _described(text, 8 + width + length)


def _described(text: str, size: int) -> Header:
    whole = _HEADER.fullmatch(text.lstrip(" \t").rstrip(" \t\n"))
    fields: dict[str, re.Match[str]] = {}
    rest = whole["fields"] if whole else ""
    at = 0
    while match := _FIELD.match(rest, at):
        if match["key"] in fields:
            raise InputError(f"the header states {match['key']} twice")
        fields[match["key"]] = match
        at = match.end()
    if at != len(rest) or len(fields) != 3:
        raise InputError(f"a header that NumPy does not write: {printable(text.strip())}")
    descr, flag = fields["descr"]["descr"], fields["fortran_order"]["flag"]
    shape = fields["shape"]["shape"]
    if descr is None or flag is None or shape is None:
        raise InputError(f"a header that NumPy does not write: {printable(text.strip())}")
    dtype, big = _dtype(descr)
    return Header(dtype, big, flag == "True", _shape(shape), size)


def _dtype(descr: str) -> tuple[DType, bool]:
    match = re.fullmatch(r"([<>|=]?)([a-zA-Z?])([0-9]{0,4})", descr)
    if match is None:
        raise InputError(f"dtype {printable(descr)} is not a dtype of weights")
    order, kind, width = match.groups()
    found = _NATIVE.get(kind + width)
    if found is None:
        why = _WHY.get(kind, "unknown to other formats")
        raise InputError(f"dtype {printable(descr)} is {why}")
    return found, order == ">" and found.itemsize > 1


def _shape(text: str) -> Shape:
    parts = text.strip().removesuffix(",").split(",") if text.strip() else []
    lengths = [_LENGTH.fullmatch(part) for part in parts]
    # One length without a comma is a number in brackets, not a tuple.
    alone = len(parts) == 1 and not text.strip().endswith(",")
    if alone or len(parts) > MOST_DIMENSIONS or not all(lengths):
        raise InputError(f"shape ({printable(text, 40)}) is malformed")
    shape = tuple(int(found[1]) for found in lengths if found is not None)
    if prod(max(n, 1) for n in shape) > MOST_BYTES:
        raise InputError(f"shape {list(shape)} has more elements than any file")
    return shape


def tensor(
    header: Header,
    source: Bytes,
    place: tuple[ByteFile, int] | None,
    stream: Stream | None = None,
) -> LazyTensor:
    """Return the array.

    `place` is (file, offset of the magic) where it stands in a file; elsewhere `stream` yields
    the bytes of its elements.
    """
    dtype, shape = header.dtype, header.shape
    fortran = header.fortran and sum(length > 1 for length in shape) > 1

    def read() -> Array:
        flat = np.frombuffer(source.read(header.size, header.nbytes), np.uint8)
        array: Array = flat.view(dtype.numpy)
        return array.reshape(shape, order="F" if fortran else "C")

    stored: LazyTensor | None = None
    if place is not None:
        file, start = place[0], place[1] + header.size
        if fortran:
            strided = Strided(file, start, fortran_strides(shape, dtype.itemsize))
            stored = LazyTensor(dtype, shape, read, strided=strided)
        else:
            stored = LazyTensor.stored(dtype, shape, Extent(file, start, header.nbytes))
    elif stream is not None and not fortran:
        stored = StreamedTensor(dtype, shape, read, stream)
    if stored is None:
        stored = LazyTensor(dtype, shape, read)
    return ChangedTensor(stored, swapped) if header.big else stored


class _Whole:
    """A file that is an array."""

    def __init__(self, file: InputFile) -> None:
        self._file = file

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._file.pread(offset, nbytes)


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the one array of a `.npy` file, which has no name: it stands under ""."""
    source = _Whole(file)
    try:
        header = parse(source, file.size, "")
    except InputError as error:
        raise InputError(error.message, file.path) from error
    found = {"": tensor(header, source, (file, 0))}
    return flat(found, Origin(file.path, "npy", (file.path,)), key=key, strip=False)


def header_of(tensor: LazyTensor) -> bytes:
    """Return the header that `numpy.save` writes for the array in C order."""
    fields = f"{{'descr': {tensor.dtype.numpy.str!r}, 'fortran_order': False, "
    text = f"{fields}'shape': {tensor.shape!r}, }}"
    if tensor.shape:
        text += " " * (_GROWTH - len(repr(tensor.shape[0])))
    # The newline counts; NumPy adds a whole 64 where nothing is missing.
    padding = _ALIGNMENT - (10 + len(text) + 1) % _ALIGNMENT
    text += " " * padding + "\n"
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def check_dtype(name: str, tensor: LazyTensor) -> None:
    """Raise `UsageError` for a dtype that NumPy itself does not have."""
    if tensor.dtype.numpy.isbuiltin != 1:
        dtype = tensor.dtype.name
        hint = "--dtype fp32 casts it"
        raise UsageError(f"NumPy has no {dtype}, which {printable(name)} is: {hint}")


def pieces(state: StateDict, metadata: Mapping[str, str]) -> Iterator[Piece]:
    """Yield the pieces of a `.npy` file; the format has no place for a name or `metadata`."""
    if len(state) != 1:
        raise UsageError(f"a .npy file has one array, not {len(state)}: write .npz")
    ((name, only),) = state.items()
    if name:
        raise UsageError(f"a .npy file has no place for the name {printable(name)}: write .npz")
    check_dtype(name, only)
    yield header_of(only)
    yield Body(name, only)
