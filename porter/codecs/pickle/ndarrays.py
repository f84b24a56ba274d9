"""NumPy arrays inside a pickle: `_reconstruct`, `dtype` and their states, as records.

The states: `array_reduce` and `arraydescr_reduce` in NumPy's `multiarray`. Only plain numbers
are tensors; object, text, date and structured arrays are kept as what they are, to be refused
by name if they turn out to be weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from porter.codecs.pickle.names import latin1
from porter.codecs.pickle.values import Blob, Global, HeldBytes, Text
from porter.errors import InputError, printable
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import BLOCK, Extent, LazyTensor, Shape, Strided
from porter.tensors.streams import ChangedTensor, StreamedTensor

MOST_ELEMENTS = 1 << 60
MOST_DIMENSIONS = 32

_ML_NAMES = tuple(name for name, dtype in DTYPES.items() if dtype.is_ml)
_BY_CODE = {
    f"{dtype.numpy.kind}{dtype.itemsize}": dtype for dtype in DTYPES.values() if not dtype.is_ml
}
_BIG, _LITTLE = ">", ("<", "|", "=")


class Dtype:
    """A pickled `numpy.dtype`; `dtype` is None for what no tensor holds."""

    __slots__ = ("big", "code", "dtype", "used")

    def __init__(self, code: str, dtype: DType | None) -> None:
        self.code = code
        self.dtype = dtype
        self.big = False
        self.used = False
        """Whether an array has it: what is shared must not change afterwards."""

    def build(self, state: object) -> None:
        """Take byte order and structure: `(3, "<", None, None, None, -1, -1, 0)`."""
        if type(state) is not tuple or len(state) not in (8, 9):
            raise InputError("a NumPy dtype whose state is malformed")
        if self.used:
            raise InputError("a NumPy dtype that changes after an array has used it")
        order, subarray, names, fields = state[1:5]
        if order not in (_BIG, *_LITTLE):
            raise InputError("a NumPy dtype of unknown byte order")
        self.big = order == _BIG
        if any(part is not None for part in (subarray, names, fields)):
            self.code, self.dtype = "structured", None


def make_dtype(arguments: tuple[Any, ...]) -> Dtype:
    """Stand for `numpy.dtype("f4", False, True)`."""
    code = arguments[0] if arguments else None
    if type(code) is Global:
        return Dtype(code.name, DTYPES.get(code.name) if code.module == "ml_dtypes" else None)
    if type(code) is not str:
        raise InputError("a NumPy dtype without a type code")
    return Dtype(code, _BY_CODE.get(code))


class NdArray:
    """A pickled `numpy.ndarray`: what its state says, checked against the bytes that are there."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    attributes = None

    def __init__(self) -> None:
        self.shape: Shape = (0,)
        self.dtype: Dtype | None = None
        self.fortran = False
        self.data: object = b""

    def build(self, state: object) -> None:
        """Take `(version, shape, dtype, is_fortran, data)`; version may be missing."""
        if type(state) is not tuple or len(state) not in (4, 5) or self.dtype is not None:
            raise InputError("a NumPy array whose state is malformed")
        self.fill(*state[-4:])

    def fill(self, shape: object, dtype: object, fortran: object, data: object) -> None:
        """Set everything; `InputError` when shape and bytes disagree."""
        if type(dtype) is not Dtype:
            raise InputError("a NumPy array without a dtype")
        self.shape = checked_shape(shape)
        self.dtype = dtype
        dtype.used = True
        self.fortran = bool(fortran)
        self.data = data
        if dtype.dtype is not None:
            self._check_size(dtype.dtype)

    def _check_size(self, dtype: DType) -> None:
        need = prod(self.shape) * dtype.itemsize
        data = self.data
        if type(data) is str:
            latin1(data)
        if type(data) is Text:
            # latin-1 as UTF-8: one or two bytes for each. The rest is checked when it is read.
            fits = data.nbytes <= 2 * need <= 2 * data.nbytes
            has = f"{data.nbytes} bytes of text"
        elif type(data) is Blob:
            fits, has = data.nbytes == need, f"{data.nbytes}"
        elif type(data) in (bytes, str):
            fits, has = len(data) == need, f"{len(data)}"  # type: ignore[arg-type]
        else:
            raise InputError("a NumPy array whose data are not bytes")
        if not fits:
            raise InputError(
                f"an array of shape {list(self.shape)} needs {need} bytes, {has} are there"
            )

    @property
    def problem(self) -> str:
        """Why this is no tensor; empty when it is one."""
        if self.dtype is None:
            return "a NumPy array that was never filled"
        return "" if self.dtype.dtype else f"a NumPy array of dtype {printable(self.dtype.code)}"

    def lazy(self, dtype: DType | None = None) -> LazyTensor:
        """Return the tensor, its bits taken as `dtype` where one is given."""
        assert self.dtype is not None
        assert self.dtype.dtype is not None
        dtype = dtype or self.dtype.dtype
        swap = self.dtype.big
        order = self.fortran and sum(length != 1 for length in self.shape) > 1
        extent = None
        if type(self.data) is Blob and not order and _has_descriptor(self.data):
            extent = Extent(self.data.source, self.data.offset, self.data.nbytes)  # type: ignore[arg-type]
        strided = None
        if type(self.data) is Blob and order and _has_descriptor(self.data):
            strides = fortran_strides(self.shape, dtype.itemsize)
            strided = Strided(self.data.source, self.data.offset, strides)  # type: ignore[arg-type]

        def read() -> Array:
            flat = np.frombuffer(self._bytes(), dtype.numpy)
            return flat.reshape(self.shape, order="F" if order else "C")

        stored = LazyTensor(dtype, self.shape, read, extent=extent, strided=strided, tie=self)
        if type(self.data) is Text and not order:
            text = self.data
            stored = StreamedTensor(
                dtype, self.shape, read, lambda limit: _decoded(text, self, limit), tie=self
            )
        return ChangedTensor(stored, swapped) if swap else stored

    def _bytes(self) -> bytes:
        data = self.data
        if type(data) is Text:
            return b"".join(_decoded(data, self, BLOCK))
        if type(data) is Blob:
            return data.read()
        return latin1(data) if type(data) is str else data  # type: ignore[return-value]


def fortran_strides(shape: Shape, itemsize: int) -> Shape:
    """Return the bytes from an element to the next along each axis of a Fortran array."""
    strides, step = [], itemsize
    for length in shape:
        strides.append(step)
        step *= length
    return tuple(strides)


def _has_descriptor(blob: Blob) -> bool:
    return type(blob.source) is not HeldBytes


def _decoded(text: Text, array: NdArray, limit: int) -> Iterator[bytes]:
    """Yield the bytes of a long latin-1 text, decoded a block at a time."""
    assert array.dtype is not None
    assert array.dtype.dtype is not None
    need = prod(array.shape) * array.dtype.dtype.itemsize
    found, held = 0, b""
    for start in range(0, text.nbytes, limit):
        size = min(limit, text.nbytes - start)
        piece = held + text.source.pread(text.offset + start, size)
        cut = len(piece) - (piece[-1] >= 0xC0)  # the first half of a pair waits for the other
        held = piece[cut:]
        block = _transcoded(piece[:cut], text.source.path)
        found += len(block)
        yield block
    if held or found != need:
        raise InputError(f"an array of {need} bytes is written as {found}", text.source.path)


def _transcoded(piece: bytes, path: str) -> bytes:
    try:
        return piece.decode("utf-8").encode("latin-1")
    except UnicodeError as error:
        raise InputError("an array written as text has other characters", path) from error


def swapped(array: Array) -> Array:
    """Return the array with the bytes of each element (of each half, if complex) reversed."""
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    return array.view(f"u{width}").byteswap().view(array.dtype)


def checked_shape(shape: object) -> Shape:
    """Return a shape that is a tuple of sane integers."""
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS:
        raise InputError("a shape that is not a tuple, or too long")
    if any(type(length) is not int or length < 0 for length in shape):
        raise InputError(
            "a shape with a negative length, or with an element that is not an integer"
        )
    if prod(max(length, 1) for length in shape) > MOST_ELEMENTS:
        raise InputError("a shape with more elements than any file has")
    return shape


def _reconstruct(arguments: tuple[Any, ...]) -> NdArray:
    if len(arguments) != 3 or type(arguments[0]) is not Global or arguments[0].name != "ndarray":
        raise InputError("an array that is not a plain numpy.ndarray")
    return NdArray()


def _from_buffer(arguments: tuple[Any, ...]) -> NdArray:
    """Stand for protocol 5's `_frombuffer(buffer, dtype, shape, order)`."""
    if len(arguments) != 4 or arguments[3] not in ("C", "F"):
        raise InputError("a NumPy array whose state is malformed")
    data, dtype, shape, order = arguments
    array = NdArray()
    array.fill(shape, dtype, order == "F", data)
    return array


def _in_both(name: str, place: str, make: Any) -> dict[tuple[str, str], Global]:
    """Rows for NumPy 1 (`numpy.core`) and NumPy 2 (`numpy._core`)."""
    modules = (f"numpy.core.{place}", f"numpy._core.{place}")
    return {(module, name): Global(module, name, make) for module in modules}


NUMPY: dict[tuple[str, str], Global] = {
    ("numpy", "ndarray"): Global("numpy", "ndarray"),
    ("numpy", "dtype"): Global("numpy", "dtype", make_dtype),
    **_in_both("_reconstruct", "multiarray", _reconstruct),
    **_in_both("_frombuffer", "numeric", _from_buffer),
    **_in_both("scalar", "multiarray", None),
    **{("ml_dtypes", name): Global("ml_dtypes", name) for name in _ML_NAMES},
}
"""Rows of the name table; a NumPy scalar is inert."""
