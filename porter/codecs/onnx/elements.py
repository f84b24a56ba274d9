"""Where the elements of an ONNX initialiser are: in `raw_data`, in a typed field, in a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod

import numpy as np

from porter.codecs.protobuf import BYTES, Field, Walker, unpacked
from porter.errors import InputError, printable
from porter.storage.input_file import InputFile, open_beside
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import Extent, LazyTensor, Shape

RAW, FLOATS, INT32S, INT64S, DOUBLES, UINT64S = 9, 4, 5, 7, 10, 11

_FIELDS = {
    **dict.fromkeys(("float32", "complex64"), FLOATS),
    **dict.fromkeys(("float64", "complex128"), DOUBLES),
    **dict.fromkeys(("uint32", "uint64"), UINT64S),
    "int64": INT64S,
}
"""Which typed field holds a dtype; all others are in int32_data."""


@dataclass(slots=True)
class Tensor:
    """A TensorProto."""

    name: str = ""
    dtype: DType = DTYPES["float32"]
    shape: Shape = ()
    data: list[tuple[int, Field]] = field(default_factory=list)
    """The fields that hold elements."""
    outside: bool = False
    place: dict[str, str] = field(default_factory=dict)
    """The entries of external_data."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize


def locate(walker: Walker, tensor: Tensor, files: dict[str, InputFile]) -> LazyTensor:
    """Return the tensor; `files` collects the files of external data.

    `InputError` when there are more or fewer elements than the shape says, or in two places.
    """
    numbers = {number for number, _ in tensor.data}
    if len(numbers) > 1:
        raise walker.broken(f"{printable(tensor.name)} has its elements in two fields")
    if tensor.outside or tensor.place:
        if numbers or not tensor.outside:
            raise walker.broken(f"{printable(tensor.name)} is both inside and outside of the file")
        return _outside(walker, tensor, files)
    if not numbers:
        if tensor.nbytes:
            raise walker.broken(f"{printable(tensor.name)} has no elements")
        return LazyTensor.of(np.empty(tensor.shape, tensor.dtype.numpy))
    number = numbers.pop()
    if number not in (RAW, _FIELDS.get(tensor.dtype.name, INT32S)):
        raise walker.broken(f"{printable(tensor.name)} has its elements in the field of others")
    parts = [part for _, part in tensor.data]
    if number in (RAW, FLOATS, DOUBLES):
        return _plain(walker, tensor, parts)
    return _numbers(walker, tensor, parts)


def _plain(walker: Walker, tensor: Tensor, parts: list[Field]) -> LazyTensor:
    """Return a tensor whose bytes stand in the file as they are, in one run or in several."""
    have = sum(part.span.nbytes for part in parts)
    if have != tensor.nbytes:
        raise _mismatch(walker, tensor, have)
    if len(parts) == 1:
        extent = Extent(walker.file, parts[0].span.start, have)
        return LazyTensor.stored(tensor.dtype, tensor.shape, extent)

    def read() -> Array:
        runs = (walker.file.pread(part.span.start, part.span.nbytes) for part in parts)
        data = np.frombuffer(b"".join(runs), np.uint8)
        return data.view(tensor.dtype.numpy).reshape(tensor.shape)

    return LazyTensor(tensor.dtype, tensor.shape, read)


def _numbers(walker: Walker, tensor: Tensor, parts: list[Field]) -> LazyTensor:
    """Return a tensor whose elements are varints: small numbers, or the bits of small floats."""
    size = prod(tensor.shape)
    have = sum(part.span.nbytes if part.kind == BYTES else 10 for part in parts)
    if not size <= have <= 10 * size:
        raise _mismatch(walker, tensor, have)

    def read() -> Array:
        found: list[int] = []
        for part in parts:
            if part.kind == BYTES:
                found += unpacked(walker.file.pread(part.span.start, part.span.nbytes))
            else:
                found.append(part.value)
        if len(found) != size:
            what = f"{printable(tensor.name)} {list(tensor.shape)} has {len(found)} elements"
            raise walker.broken(what)
        return _narrowed(walker, tensor, found)

    return LazyTensor(tensor.dtype, tensor.shape, read)


def _narrowed(walker: Walker, tensor: Tensor, values: list[int]) -> Array:
    """Return varints as the dtype; a number that it cannot hold is refused."""
    bits = 1 if tensor.dtype.name == "bool" else 8 * tensor.dtype.itemsize
    signed = tensor.dtype.name.startswith("int")
    wide = np.array(values, np.uint64)
    above = (1 << (bits - 1 if signed else bits)) - 1
    shown = wide.view(np.int64) if signed else wide
    # ~above is the smallest number of a signed dtype; the others have none below zero.
    if shown.size and (int(shown.min()) < ~above or int(shown.max()) > above):
        raise walker.broken(
            f"{printable(tensor.name)} has numbers that {tensor.dtype.name} has not"
        )
    narrow = wide.astype(f"u{tensor.dtype.itemsize}")
    return narrow.view(tensor.dtype.numpy).reshape(tensor.shape)


def _mismatch(walker: Walker, tensor: Tensor, have: int) -> InputError:
    what = f"{printable(tensor.name)} is {tensor.dtype.name} {list(tensor.shape)}"
    return walker.broken(f"{what}, which does not fill its {have} bytes")


def _outside(walker: Walker, tensor: Tensor, files: dict[str, InputFile]) -> LazyTensor:
    name, place = printable(tensor.name), tensor.place
    if "location" not in place:
        raise walker.broken(f"{name} is external, and there is no location")
    file = files.get(place["location"])
    if file is None:
        file = _opened(walker, place)
        files[place["location"]] = file
    offset = _decimal(walker, place.get("offset", "0"))
    length = _decimal(walker, place["length"]) if "length" in place else file.size - offset
    if length != tensor.nbytes:
        raise _mismatch(walker, tensor, length)
    if offset + length > file.size:
        what = f"{name} wants {length} bytes at byte {offset} of"
        told = printable(place["location"])
        raise InputError(f"truncated: {what} {told}, which has {file.size}", walker.file.path)
    tie = ("external", file.identity, offset)
    extent = Extent(file, offset, length)
    return LazyTensor.stored(tensor.dtype, tensor.shape, extent, tie=tie)


def _opened(walker: Walker, place: dict[str, str]) -> InputFile:
    # Any file can pose as raw weights, so one that has a second name elsewhere is refused.
    file = open_beside(walker.file.path, place["location"], hard_links=False)
    if os.path.samestat(os.fstat(file.fileno()), os.fstat(walker.file.fileno())):
        raise walker.broken("the external data is the model file itself")
    if "checksum" in place:
        import hashlib  # Seldom needed, and slow to load.

        digest = hashlib.sha1(usedforsecurity=False)
        for start in range(0, file.size, 1 << 20):
            digest.update(file.pread(start, min(1 << 20, file.size - start)))
        if digest.hexdigest() != place["checksum"].lower():
            raise InputError("differs from the checksum in the model", file.path)
    return file


def _decimal(walker: Walker, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise walker.broken(f"external data at {printable(text)!r}, which is not a number")
    return int(text)
