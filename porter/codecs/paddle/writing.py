"""Paddle's `.pdparams` as pieces: what `paddle.save(layer.state_dict())` writes by protocol 4."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator, Mapping

from porter.codecs.paddle.reading import NAMES, SLICES
from porter.codecs.pickle.writing import Pickling
from porter.errors import UsageError, printable
from porter.storage.pieces import Body, Piece
from porter.tensors.dtypes import DType
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

_BATCH = 1000
_MODULE = "numpy.core.multiarray"
"""NumPy 2 still answers to this name, NumPy 1 knows no other."""


def pieces(state: StateDict, metadata: Mapping[str, str]) -> Iterator[Piece]:
    """Yield the pieces of what `paddle.save(layer.state_dict())` would write by protocol 4.

    `paddle.load` gives Tensors because of the name table, which calls each by its own name.
    Tensors with one tie are one array. The format has no place for `metadata`.
    """
    for name, tensor in state.items():
        _check(name, tensor)
    out = Pickling(4)
    out.raw(b"}").memoize()
    names = list(state)
    shared: set[Hashable] = set()
    for start in range(0, len(names), _BATCH):
        out.raw(b"(")
        for name in names[start : start + _BATCH]:
            yield from _array(out, name, state[name], shared)
        out.raw(b"u")
    _name_table(out, names)
    yield out.raw(b".").take()


def _check(name: str, tensor: LazyTensor) -> None:
    if tensor.dtype.paddle is None:
        hint = "; --dtype fp32 casts it" if tensor.dtype.is_float else ""
        dtype = tensor.dtype.name
        raise UsageError(f"Paddle cannot store {printable(name)}: its dtype is {dtype}{hint}")
    if name in (NAMES, SLICES):
        raise UsageError(f"Paddle keeps the name {name} for itself")


def _array(out: Pickling, name: str, tensor: LazyTensor, shared: set[Hashable]) -> Iterator[Piece]:
    out.text(name, ("name", name))
    tie = None if tensor.tie is None else ("tie", tensor.tie, tensor.dtype.name, tensor.shape)
    if tie in shared:
        out.recall(tie)
        return
    out.again("array", _new_array).raw(b"\x87R").memoize(tie)
    if tie is not None:
        shared.add(tie)
    out.raw(b"(").integer(1).integers(tensor.shape)
    _dtype(out, tensor.dtype)
    out.boolean(False).raw(_bytes_opcode(tensor.nbytes))
    yield out.take()
    yield Body(name, tensor)
    out.memoize().raw(b"t").memoize().raw(b"b")


def _new_array(out: Pickling) -> None:
    out.name(_MODULE, "_reconstruct").name("numpy", "ndarray")
    out.once("zero", lambda: out.raw(b"K\x00\x85")).once("b", lambda: out.raw(b"C\x01b"))


def _dtype(out: Pickling, dtype: DType) -> None:
    order = "<" if dtype.itemsize > 1 else "|"
    code = str(dtype.paddle)

    def make() -> None:
        out.name("numpy", "dtype").text(code).boolean(False).boolean(True).raw(b"\x87R")
        out.raw(b"(").integer(3).text(order).raw(b"NNN").integer(-1).integer(-1).integer(0)
        out.raw(b"tb")

    out.once(("dtype", code), make)


def _bytes_opcode(nbytes: int) -> bytes:
    if nbytes < 1 << 8:
        return b"C" + bytes([nbytes])
    if nbytes < 1 << 32:
        return b"B" + struct.pack("<I", nbytes)
    return b"\x8e" + struct.pack("<Q", nbytes)


def _name_table(out: Pickling, names: list[str]) -> None:
    out.raw(b"").fresh_text(NAMES).raw(b"}").memoize()
    for start in range(0, len(names), _BATCH):
        out.raw(b"(")
        for name in names[start : start + _BATCH]:
            out.recall(("name", name))
            out.recall(("name", name))
        out.raw(b"u")
    out.raw(b"s")
