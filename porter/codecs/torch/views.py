"""A torch tensor inside a pickle: a view of a storage, strided, conjugated, shared or plain."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod

import numpy as np

from porter.codecs.pickle.ndarrays import MOST_ELEMENTS, swapped
from porter.codecs.torch.storages import Bytes, Storage
from porter.errors import InputError
from porter.tensors.blocks import Array, c_order_blocks, merge_axes
from porter.tensors.dtypes import DType
from porter.tensors.lazy import MOST_HELD, LazyTensor, Shape, Strided
from porter.tensors.streams import ChangedTensor, Stream, StreamedTensor, columns, slabs, span


class TorchTensor:
    """A view of a storage, in elements; its bounds were checked."""

    __slots__ = (
        "attributes",
        "conj",
        "dtype",
        "neg",
        "offset",
        "shape",
        "span",
        "storage",
        "stride",
    )

    problem = ""

    def __init__(
        self, storage: Storage, dtype: DType, offset: int, shape: Shape, stride: Shape
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.conj = False
        self.neg = False
        self.attributes: object = None
        """What a Parameter carries besides its values, or a tensor of which attributes were set."""
        self.span = _checked_span(shape, stride)
        """Elements from the first to the last, both counted."""
        if type(offset) is not int or offset < 0:
            raise InputError("a tensor that begins before its storage")
        end = (offset + self.span) * dtype.itemsize
        if end > storage.nbytes:
            raise InputError(f"a tensor reaches to byte {end} of a storage of {storage.nbytes}")
        storage.views += 1

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie in C order without gaps."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length != 1 and stride != step:
                return 0 in self.shape
            step *= length
        return True

    def lazy(self) -> LazyTensor:
        """Return the tensor; its storage must have been found by now."""
        tie = self._tie()
        stored = self._stored(tie)
        if self.conj or self.neg or self._swapped:
            return ChangedTensor(stored, self._change)
        return stored

    def _stored(self, tie: Hashable) -> LazyTensor:
        """Return the tensor as its bytes stand in the storage."""
        source, start = self._place()
        width = self.dtype.itemsize
        start += self.offset * width
        extent, strided = None, None
        if self.contiguous:
            extent = source.extent(start, prod(self.shape) * width)
        elif self.span == prod(self.shape) and 0 not in self.stride:
            # Close together, in another order of the axes.
            found = source.extent(start, self.span * width)
            steps = tuple(stride * width for stride in self.stride)
            strided = None if found is None else Strided(found.file, found.offset, steps)
        stream = None if extent or strided else self._stream(source, start)
        if stream is not None:
            return StreamedTensor(self.dtype, self.shape, self._whole, stream, tie=tie)
        return LazyTensor(
            self.dtype, self.shape, self._whole, extent=extent, strided=strided, tie=tie
        )

    def _stream(self, source: Bytes, start: int) -> Stream | None:
        """Return what yields the elements without holding all of them, where that is possible."""
        width = self.dtype.itemsize
        if self.contiguous:
            return lambda limit: source.blocks(start, prod(self.shape) * width, limit)
        most = MOST_HELD // width
        if not source.seekable:
            return None
        if slabs(self.shape, self.stride, most) is None:
            shape, stride = merge_axes(self.shape, self.stride)
            if len(shape) != 2 or not 0 < stride[0] < stride[1]:
                return None

            def read(offset: int, nbytes: int) -> bytes:
                return source.read(start + offset, nbytes)

            return columns(read, self.dtype, shape, stride, most)

        def stream(limit: int) -> Iterator[memoryview]:
            for offset, shape in slabs(self.shape, self.stride, most) or ():
                stride = self.stride[len(self.shape) - len(shape) :]
                data = source.read(start + offset * width, span(shape, stride) * width)
                yield from c_order_blocks(self._view(data, shape, stride), limit)

        return stream

    @property
    def _swapped(self) -> bool:
        return self.storage.big and self.dtype.itemsize > 1

    def _place(self) -> tuple[Bytes, int]:
        """Return what the storage is read from, and where it begins there."""
        whole, start = self.storage, 0
        if whole.part_of is not None:
            whole, start = whole.part_of, whole.start
        assert whole.bytes is not None, whole.key
        return whole.bytes, start

    def _tie(self) -> Hashable:
        return (
            self.storage,
            self.dtype.name,
            self.offset,
            self.shape,
            self.stride,
            self.conj,
            self.neg,
        )

    def _whole(self) -> Array:
        source, start = self._place()
        width = self.dtype.itemsize
        data = source.read(start + self.offset * width, self.span * width)
        if self.contiguous:
            return np.frombuffer(data, self.dtype.numpy).reshape(self.shape)
        return self._view(data, self.shape, self.stride)

    def _view(self, data: bytes, shape: Shape, stride: Shape) -> Array:
        # NumPy checks these bounds once more. Its as_strided has no bfloat16.
        width = self.dtype.itemsize
        held = np.frombuffer(data, np.uint8)
        return np.ndarray(shape, self.dtype.numpy, held, 0, [step * width for step in stride])

    def _change(self, array: Array) -> Array:
        """Return a copy with what the storage does not say done to each element."""
        array = swapped(array) if self._swapped else array.copy()
        if self.conj or self.neg:
            _flip_signs(array, self.conj, self.neg)
        return array


def _checked_span(shape: Shape, stride: Shape) -> int:
    """Return the number of elements from the first to the last of a view."""
    if len(stride) != len(shape):
        raise InputError("a tensor whose shape and strides differ in length")
    if any(type(step) is not int or not 0 <= step <= MOST_ELEMENTS for step in stride):
        raise InputError("a tensor with a negative stride, or with one that is not an integer")
    return span(shape, stride)


def _flip_signs(array: Array, conj: bool, neg: bool) -> None:
    """Turn sign bits in place: arithmetic could change the payload of a NaN."""
    flat = array.reshape(-1)
    if array.dtype.kind == "c":
        parts = flat.view(f"f{array.dtype.itemsize // 2}")
        if neg:
            _flip(parts)
        if conj:
            _flip(parts[1::2])
    elif array.dtype.kind == "i":
        np.negative(flat, out=flat)
    else:
        _flip(flat)


def _flip(values: Array) -> None:
    bits = values.view(f"u{values.dtype.itemsize}")
    bits ^= np.asarray(1 << (8 * values.dtype.itemsize - 1), bits.dtype)
