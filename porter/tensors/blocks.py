"""The bytes of an array in C order, a block at a time, at the speed of memory.

A transpose read element by element misses the cache at nearly every one: 0.3 to 1 GB/s. Here the
tiles of a panel are first packed, so that each is contiguous (rows of 4,096 floats all fall
into the same few cache lines otherwise), then transposed in place, then put in their places:
three calls of NumPy, 3 to 5 GB/s on one core. Tile by tile, two threads would hand the
interpreter's lock to each other after every few kilobytes, and be no faster than one.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_TILE = 16 << 10
"""Bytes of a tile: two of them fit a core's first cache."""
_PACKED = 1 << 20
"""Bytes of the tiles that are packed at a time."""
_FEWEST_ROWS = 16
"""Rows of a panel, however long they are."""
_WIDEST_PANEL = 4 << 20
"""Bytes of a panel whose rows are long: whole tiles are worth more than a core's own cache."""


_matrices: list[Array] = []
_panels: list[Array] = []
"""Buffers that are not in use: the system clears the pages of each new one."""


@contextmanager
def lent(nbytes: int, kept: list[Array] = _matrices) -> Iterator[memoryview]:
    """Lend a large buffer, one that was used before if there is one."""
    try:
        buffer = kept.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    if len(buffer) < nbytes:
        buffer = _mapped(nbytes)
    try:
        yield buffer[:nbytes].data
    finally:
        kept.append(buffer)


def _mapped(nbytes: int) -> Array:
    """Return a large buffer that the system has back as soon as it is let go.

    What `malloc` gave once it keeps, for each thread that there was.
    """
    if hasattr(mmap, "MAP_PRIVATE"):
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:  # Windows
        pages = mmap.mmap(-1, nbytes)
    with suppress(AttributeError, OSError):  # Not every system has huge pages.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def free_lent() -> None:
    """Free the buffers that are not in use."""
    _matrices.clear()
    _panels.clear()


def scratch(nbytes: int) -> memoryview:
    """Return a buffer whose bytes are not set."""
    view: memoryview = np.empty(nbytes, np.uint8).data
    return view


def c_order_blocks(array: Array, limit: int) -> Iterator[memoryview]:
    """Yield an array's elements in C order as bytes, about `limit` at a time.

    A block is valid until the next is asked for; a strided array needs one block of memory more.
    """
    if array.size == 0:
        return
    if not array.flags.c_contiguous:
        array = _merged(array)
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(flat), limit):
            yield flat[start : start + limit]
    elif array.ndim == 2 and abs(array.strides[0]) < abs(array.strides[1]):
        yield from _transposed(array, limit)
    elif array.ndim > 2 and array[0].nbytes > 1 << 16:
        for part in array:
            yield from c_order_blocks(part, limit)
    else:
        row = array[0].nbytes
        rows = max(1, limit // row)
        for start in range(0, array.shape[0], rows):
            yield as_bytes(np.ascontiguousarray(array[start : start + rows]))


def as_bytes(array: Array) -> memoryview:
    """Return the bytes of a contiguous array."""
    view: memoryview = array.reshape(-1).view(np.uint8).data
    return view


def _merged(array: Array) -> Array:
    """Return the same bytes in the same order, with as few axes as hold them."""
    if array.dtype.isbuiltin != 1:  # NumPy's as_strided does not know float8_e5m2.
        array = array.view(f"u{array.itemsize}")
    shape, strides = merge_axes(array.shape, array.strides)
    return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)


def merge_axes(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shape and strides of the same elements in the same order, one axis at least.

    An axis of length 1 goes; two neighbours that step as one become one.
    """
    lengths: list[int] = []
    steps: list[int] = []
    for length, step in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if lengths and steps[-1] == length * step:
            lengths[-1] *= length
            steps[-1] = step
        else:
            lengths.append(length)
            steps.append(step)
    return (tuple(lengths), tuple(steps)) if lengths else ((1,), (0,))


def _transposed(array: Array, limit: int) -> Iterator[memoryview]:
    """Yield the rows of a matrix whose columns are contiguous, some rows at a time."""
    # A cache line of a narrow type holds more elements: wider tiles use all of it.
    width = 128 if array.itemsize <= 2 else 64
    depth = max(1, _TILE // (width * array.itemsize))
    rows, columns = array.shape
    row = columns * array.itemsize
    height = limit // row // width * width or min(width, max(_FEWEST_ROWS, _WIDEST_PANEL // row))
    height = min(rows, height, _PACKED // (depth * array.itemsize))
    with lent(2 * _PACKED + height * row, _panels) as buffer:
        tiles, whole = np.split(np.frombuffer(buffer, np.uint8), [2 * _PACKED])
        packing = tiles.view(array.dtype).reshape(2, -1)
        for start in range(0, rows, height):
            shape = (min(height, rows - start), columns)
            block = whole[: shape[0] * row]
            panel = block.view(array.dtype).reshape(shape)
            _transpose(array[start : start + height], panel, (width, depth), packing)
            yield block.data


def _transpose(source: Array, panel: Array, tile: tuple[int, int], packing: Array) -> None:
    """Fill `panel` with `source`, both of one shape, in tiles of so many rows and columns."""
    (rows, columns), (width, depth) = panel.shape, tile
    tall, wide = rows - rows % width, columns - columns % depth
    for top, bottom, high in ((0, tall, width), (tall, rows, rows - tall)):
        for left, right, deep in ((0, wide, depth), (wide, columns, columns - wide)):
            if top < bottom and left < right:
                part = (slice(top, bottom), slice(left, right))
                _transpose_tiles(source[part], panel[part], (high, deep), packing)


def _transpose_tiles(source: Array, panel: Array, tile: tuple[int, int], packing: Array) -> None:
    """Fill `panel` with `source`, both cut into tiles without rest.

    As many of them are worked on at a time as fit a row of `packing`, which has two.
    """
    (rows, columns), (high, deep) = panel.shape, tile
    across = packing.shape[1] // (rows * deep) * deep
    for left in range(0, columns, across):
        part = slice(left, left + across)
        out = _tiles(panel[:, part], tile)
        packed = packing[0, : out.size].reshape(*out.shape[:2], deep, high)
        transposed = packing[1, : out.size].reshape(out.shape)
        _pack(source[:, part], packed)
        transposed[...] = packed.swapaxes(2, 3)
        out[...] = transposed


def _pack(source: Array, packed: Array) -> None:
    """Copy each tile of a matrix to one place, transposed: its columns are the rows of `packed`."""
    deep, high = packed.shape[2:]
    if source.flags.aligned or source.strides[0] != source.itemsize:
        packed[...] = _tiles(source, (high, deep)).swapaxes(2, 3)
    else:  # NumPy copies elements at odd addresses one by one, bytes by the run.
        tiles = _tiles(source.T.view(np.uint8), (deep, high * source.itemsize))
        packed.view(np.uint8)[...] = tiles.swapaxes(0, 1)


def _tiles(array: Array, tile: tuple[int, int]) -> Array:
    """Return a view of a matrix as (tiles down, tiles across, rows, columns of a tile)."""
    (rows, columns), (high, deep), (down, across) = array.shape, tile, array.strides
    return np.lib.stride_tricks.as_strided(
        array,
        (rows // high, columns // deep, high, deep),
        (high * down, deep * across, down, across),
    )
