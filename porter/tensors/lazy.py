"""A tensor whose dtype and shape are known and whose elements are not yet read.

Nothing here knows a file format or a framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from porter.tensors.blocks import Array, c_order_blocks, lent, merge_axes, scratch
from porter.tensors.dtypes import DType, dtype_of

Shape = tuple[int, ...]

BLOCK = 8 << 20
"""Bytes that a reader or writer holds at a time, where it can choose."""
SMALL = 1 << 15
"""Bytes of a tensor that is gathered with others: where in memory it lies does not matter."""
_FEW_PARTS = 4
_SHORT_ROW = 32 << 10
"""Bytes that are read sooner than a part of them is asked for."""
_SIFTED = 1 << 20
"""Bytes read at a time of which a part is kept: they stay in a core's own cache."""

MOST_HELD = 25 << 20
"""Bytes of a tensor that is turned that are in memory at a time."""


class ByteFile(Protocol):
    """An open file that is read by position; codecs provide it."""

    @property
    def path(self) -> str: ...
    @property
    def is_sound(self) -> bool:
        """Whether no checksum of the bytes remains to be compared."""

    @property
    def is_local(self) -> bool:
        """Whether reading it again costs little."""

    @property
    def is_mapped(self) -> bool:
        """Whether the system may read the bytes where they are: nobody can cut the file short."""

    def mapped(self, offset: int, nbytes: int) -> AbstractContextManager[memoryview | None]:
        """Return the bytes where they are, None where they must be read."""

    def fileno(self) -> int: ...
    def pread(self, offset: int, nbytes: int) -> bytes: ...
    def pread_into(self, offset: int, buffer: memoryview) -> None: ...


class Extent(NamedTuple):
    """Where a tensor's elements lie in a file as they stand: C order, little endian."""

    file: ByteFile
    offset: int
    nbytes: int


class Strided(NamedTuple):
    """Where a tensor's elements lie in a file at regular steps, little endian."""

    file: ByteFile
    offset: int
    strides: tuple[int, ...]
    """Bytes from an element to the next along each axis."""


class LazyTensor:
    """A tensor whose dtype and shape are known and whose elements are not yet read.

    `extent` tells where the bytes are when they are stored in one run, so that a writer can
    copy them without looking at them; `tie` is equal for tensors that share their memory at
    the source. `read` returns an array of `dtype.numpy` and `shape`, perhaps a strided view,
    perhaps read-only; call it once and let go.
    """

    __slots__ = ("_read", "_strided", "dtype", "extent", "nbytes", "shape", "size", "tie")

    def __init__(
        self,
        dtype: DType,
        shape: Shape,
        read: Callable[[], Array],
        *,
        extent: Extent | None = None,
        strided: Strided | None = None,
        tie: Hashable = None,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.size = prod(shape)
        """Number of elements."""
        self.nbytes = self.size * dtype.itemsize
        """Bytes of the elements in C order."""
        self.extent = extent
        self.tie = tie
        self._read = read
        self._strided = strided

    @classmethod
    def of(cls, array: Array) -> LazyTensor:
        """Wrap an array that is in memory already, of any order and byte order."""
        dtype = dtype_of(array)
        return cls(dtype, array.shape, lambda: array.astype(dtype.numpy, copy=False))

    @classmethod
    def stored(
        cls, dtype: DType, shape: Shape, extent: Extent, *, tie: Hashable = None
    ) -> LazyTensor:
        """Return the tensor whose elements are stored in a file as they are, at `extent`."""

        def read() -> Array:
            data = extent.file.pread(extent.offset, extent.nbytes)
            return np.frombuffer(data, np.uint8).view(dtype.numpy).reshape(shape)

        return cls(dtype, shape, read, extent=extent, tie=tie)

    def read(self) -> Array:
        """Return the elements, an array of shape `shape`."""
        array = self._read()
        assert array.shape == self.shape, (array.shape, self.shape)
        assert array.dtype == self.dtype.numpy, (array.dtype, self.dtype.numpy)
        return array

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the C-order little-endian bytes, at most about `limit` at a time.

        A block is valid until the next is asked for.
        """
        if 0 < self.nbytes <= min(limit, SMALL):
            yield memoryview(self.whole())
        elif self.extent is not None:
            yield from _extent_blocks(self.extent, limit)
        elif (strided := self.strided) is not None:
            yield from _gathered(self, strided, limit)
        else:
            yield from c_order_blocks(self.read(), limit)

    def whole(self) -> bytes:
        """Return the C-order little-endian bytes at once, for a tensor of at most `SMALL`."""
        extent = self.extent
        if extent is not None:
            return extent.file.pread(extent.offset, extent.nbytes)
        return self.read().tobytes()

    def read_into(self, buffer: memoryview) -> None:
        """Read the C-order little-endian bytes into `buffer`, which has `nbytes`."""
        if self.extent is not None:
            self.extent.file.pread_into(self.extent.offset, buffer)
            return
        at = 0
        for block in self.blocks():
            buffer[at : at + len(block)] = block
            at += len(block)

    @property
    def strided(self) -> Strided | None:
        """Where the elements are, if a file stores them at regular steps."""
        if self.extent is None:
            return self._strided
        strides, step = [], self.dtype.itemsize
        for length in reversed(self.shape):
            strides.append(step)
            step *= length
        return Strided(self.extent.file, self.extent.offset, tuple(reversed(strides)))

    @property
    def place(self) -> tuple[str, int] | None:
        """File and offset where reading begins, None where no file says: to read in order."""
        found = self.extent or self.strided
        return None if found is None else (found.file.path, found.offset)

    @property
    def is_read_whole(self) -> bool:
        """Whether `blocks` reads the `nbytes` at `place`, in order, before it yields the first."""
        strided = None if self.extent is not None else self.strided
        if strided is None or strided.file.is_mapped or self.nbytes <= SMALL:
            return False
        item = self.dtype.itemsize
        shape, strides = merge_axes(self.shape, strided.strides)
        if not _is_dense(item, shape, strides):
            return False
        rows, columns = shape
        height = _height(rows, columns, item, self.held)
        return height == rows or _is_sifted(rows * item, height * item)

    @property
    def held(self) -> int:
        """Bytes that `blocks` keeps in memory besides one block."""
        if self.extent is not None:
            return 0
        strided = self.strided
        if strided is not None and strided.file.is_mapped:
            return 0
        if strided is None or not strided.file.is_local:
            return self.nbytes
        return min(self.nbytes, MOST_HELD)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the elements for `np.asarray`; `copy=False` refuses a cast, as NumPy does."""
        array = self.read()
        if dtype is None or np.dtype(dtype) == array.dtype:
            return array.copy() if copy else array
        if copy is False:
            raise ValueError(f"a cast of {self.dtype.name} to {np.dtype(dtype)} needs a copy")
        return array.astype(dtype)

    def __dlpack__(self, **options: Any) -> Any:
        """Return the elements for `torch.from_dlpack`; DLPack of NumPy has no bfloat16, float8."""
        array: Any = np.require(self.read(), requirements="W")  # DLPack has no read-only arrays.
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's device: the CPU."""
        return 1, 0

    def __repr__(self) -> str:
        return f"LazyTensor({self.dtype.name}, {list(self.shape)})"


def _extent_blocks(extent: Extent, limit: int) -> Iterator[memoryview]:
    """Yield the bytes as they stand in the file, all blocks in one buffer."""
    buffer = scratch(min(limit, extent.nbytes))
    for start in range(0, extent.nbytes, limit):
        block = buffer[: extent.nbytes - start]
        extent.file.pread_into(extent.offset + start, block)
        yield block


def _gathered(tensor: LazyTensor, strided: Strided, limit: int) -> Iterator[memoryview]:
    """Yield the bytes of a tensor that is not as it lies in its file, rows of its last axis.

    As many rows as may be held are read at a time and turned in memory.
    """
    shape, strides = merge_axes(tensor.shape, strided.strides)
    item = tensor.dtype.itemsize
    dense = _is_dense(item, shape, strides) and tensor.size
    large = len(shape) == 2 and strides[0] == item and tensor.held < tensor.nbytes
    if not large and not dense:
        yield from c_order_blocks(tensor.read(), limit)
        return
    rows, columns = shape
    if dense and strided.file.is_mapped:
        with strided.file.mapped(strided.offset, tensor.nbytes) as data:
            if data is not None:
                stored = np.frombuffer(data, np.uint8).view(tensor.dtype.numpy)
                yield from c_order_blocks(stored.reshape(columns, rows).T, limit)
                return
    height = _height(rows, columns, item, tensor.held)
    nbytes = columns * height * item
    with lent(nbytes) as buffer:
        for start in range(0, rows, height):
            count = min(height, rows - start)
            part = np.frombuffer(buffer, np.uint8, columns * count * item)
            part = part.view(tensor.dtype.numpy).reshape(columns, count)
            _fill(strided, start, rows, strides[1], part)
            yield from c_order_blocks(part.T, limit)


def _is_dense(item: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether a matrix is the transpose of one that is stored in one run."""
    return len(shape) == 2 and strides == (item, shape[0] * item)


def _height(rows: int, columns: int, item: int, held: int) -> int:
    """Return how many rows of a matrix are read at a time, of `held` bytes."""
    height = max(1, min(rows, held // (columns * item)))
    return -(-rows // -(-rows // height))  # No narrow part at the end.


def _is_sifted(pitch: int, width: int) -> bool:
    """Return whether whole rows of `pitch` bytes are read for `width` bytes of each.

    Of a few parts, or of short rows, this takes less than as many calls as there are rows.
    """
    return pitch <= max(_SHORT_ROW, _FEW_PARTS * width)


def _fill(strided: Strided, start: int, rows: int, pitch: int, part: Array) -> None:
    """Read the elements from `start` on of each column of `rows`, a column a row of `part`."""
    item = part.itemsize
    if pitch == rows * item and part.shape[1] == rows:
        strided.file.pread_into(strided.offset, part.reshape(-1).view(np.uint8).data)
    elif pitch == rows * item and _is_sifted(pitch, part.shape[1] * item):
        _sift_columns(strided, start, rows, part)
    else:
        _read_columns(strided, start * item, pitch, part)


def _sift_columns(strided: Strided, start: int, pitch: int, part: Array) -> None:
    """Fill each row of `part` from a whole row of `pitch` elements: all is read, in order.

    A zip member is compared with its checksum on the way.
    """
    width = pitch * part.itemsize
    step = max(1, _SIFTED // width)
    whole = scratch(step * width)
    for top in range(0, len(part), step):
        offset = strided.offset + top * width
        data = whole[: min(step, len(part) - top) * width]
        strided.file.pread_into(offset, data)
        block = np.frombuffer(data, np.uint8).view(part.dtype).reshape(-1, pitch)
        part[top : top + step] = block[:, start : start + part.shape[1]]


def _read_columns(strided: Strided, start: int, pitch: int, part: Array) -> None:
    """Fill each row of `part` from its place in the file, `pitch` bytes after the one before."""
    fd = strided.file.fileno()  # Of a zip member: after its checksum was compared.
    offset = strided.offset + start
    width = part.shape[1] * part.itemsize
    view = part.reshape(-1).view(np.uint8).data
    vectored = hasattr(os, "preadv")  # Windows has none.
    for at in range(0, len(view), width):
        if not vectored:
            strided.file.pread_into(offset, view[at : at + width])
        elif os.preadv(fd, [view[at : at + width]], offset) != width:
            strided.file.pread(offset, width)  # Says what is wrong with the file.
        offset += pitch
    strided.file.pread(strided.offset, 1)  # The file is still the one that was opened.
