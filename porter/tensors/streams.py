"""Tensors whose bytes no file has as they are: made a block at a time, never held whole.

Deflated, written as text, cut into slices, of the other byte order, with a sign to be turned:
whatever stands between a file and the elements is done to one block after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from math import prod

import numpy as np

from porter.tensors.blocks import Array, as_bytes, c_order_blocks
from porter.tensors.dtypes import DType
from porter.tensors.lazy import BLOCK, LazyTensor, Shape

_AGAIN = 4
"""A storage may be read so many times over rather than be held."""

Stream = Callable[[int], Iterator[bytes] | Iterator[memoryview]]
"""Yields the elements in C order, blocks of about so many bytes."""


class StreamedTensor(LazyTensor):
    """A tensor whose blocks come from `stream`, which holds `held` bytes beside one of them."""

    __slots__ = ("_held", "_stream")

    def __init__(
        self,
        dtype: DType,
        shape: Shape,
        read: Callable[[], Array],
        stream: Stream,
        *,
        held: int = 0,
        tie: Hashable = None,
    ) -> None:
        super().__init__(dtype, shape, read, tie=tie)
        self._stream = stream
        self._held = held

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the C-order bytes."""
        for block in self._stream(limit):
            yield memoryview(block)

    @property
    def held(self) -> int:
        """Bytes that `blocks` holds beside one block."""
        return self._held


class ChangedTensor(LazyTensor):
    """`base`, each element changed by itself: its bytes reversed, or its sign turned.

    `change` gets arrays of one axis, perhaps read-only, and returns others.
    """

    __slots__ = ("_base", "_change")

    def __init__(
        self,
        base: LazyTensor,
        change: Callable[[Array], Array],
    ) -> None:
        super().__init__(base.dtype, base.shape, self._whole, tie=base.tie)
        self._base = base
        self._change = change

    def _whole(self) -> Array:
        flat = np.asarray(self._base.read(), order="C").reshape(-1)
        return self._change(flat).reshape(self.shape)

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the C-order bytes, changed block by block."""
        numpy = self.dtype.numpy
        limit = max(limit // numpy.itemsize, 1) * numpy.itemsize
        for block in whole_elements(self._base.blocks(limit), numpy.itemsize):
            yield as_bytes(self._change(np.frombuffer(block, np.uint8).view(numpy)))

    @property
    def place(self) -> tuple[str, int] | None:
        """Where reading begins."""
        return self._base.place

    @property
    def held(self) -> int:
        """Bytes that `blocks` holds beside one block: those of the base."""
        return self._base.held


def whole_elements(blocks: Iterator[memoryview], itemsize: int) -> Iterator[memoryview]:
    """Yield the same bytes in blocks that no element is cut by."""
    left = b""
    for block in blocks:
        data = memoryview(left + bytes(block)) if left else block
        odd = len(data) % itemsize
        left = bytes(data[len(data) - odd :])
        if len(data) > odd:
            yield data[: len(data) - odd]
    assert not left


def joined(parts: Sequence[LazyTensor]) -> Stream:
    """Return the stream of tensors one behind the other."""

    def stream(limit: int) -> Iterator[memoryview]:
        for part in parts:
            yield from part.blocks(limit)

    return stream


def cut(blocks: Iterator[bytes], start: int, nbytes: int) -> Iterator[memoryview]:
    """Yield `nbytes` from `start` on of what `blocks` yields, and take all of it."""
    for block in blocks:
        if start < len(block) and nbytes > 0:
            part = memoryview(block)[max(start, 0) :][:nbytes]
            nbytes -= len(part)
            yield part
        start = max(start - len(block), 0)


def slabs(shape: Shape, strides: Shape, most: int) -> Iterator[tuple[int, Shape]] | None:
    """Return (start, shape) of the parts of a strided view, in C order, that span `most` each.

    Counted in elements, one at least. None where they would be read many times over, because its
    last axis steps widest.
    """
    axis, inner = 0, shape
    while span(shape[axis + 1 :], strides[axis + 1 :]) > most:
        axis += 1
    inner = shape[axis + 1 :]
    reach = span(inner, strides[axis + 1 :])
    height = min(shape[axis], (most - reach) // max(strides[axis], 1) + 1)
    rounds = prod(shape[:axis]) * -(-shape[axis] // height)
    if rounds * ((height - 1) * strides[axis] + reach) > _AGAIN * max(
        span(shape, strides), prod(shape)
    ):
        return None

    def parts() -> Iterator[tuple[int, Shape]]:
        for index in np.ndindex(shape[:axis]):
            start = sum(i * step for i, step in zip(index, strides, strict=False))
            for row in range(0, shape[axis], height):
                rows = min(height, shape[axis] - row)
                yield start + row * strides[axis], (rows, *inner)

    return parts()


def columns(
    read: Callable[[int, int], bytes], dtype: DType, shape: Shape, strides: Shape, most: int
) -> Stream:
    """Return the stream of a matrix whose rows step least, its columns read piece by piece.

    `read` takes an offset and a length in bytes; `shape` and `strides` count elements, of which
    `most` are held.
    """
    (rows, width), (step, pitch), item = shape, strides, dtype.itemsize
    height = max(1, most // width)

    def stream(limit: int) -> Iterator[memoryview]:
        for top in range(0, rows, height):
            count = min(height, rows - top)
            reach = (count - 1) * step + 1
            part = np.empty((width, count), dtype.numpy)
            for column in range(width):
                data = read((column * pitch + top * step) * item, reach * item)
                part[column] = np.frombuffer(data, np.uint8).view(dtype.numpy)[::step]
            yield from c_order_blocks(part.T, limit)

    return stream


def span(shape: Shape, strides: Shape) -> int:
    """Return the number of elements from the first to the last of a view."""
    if 0 in shape:
        return 0
    return sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
