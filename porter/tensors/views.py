"""Tensors made of others without a copy: other axes, another shape, a part, several in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from porter.tensors.blocks import Array
from porter.tensors.lazy import BLOCK, Extent, LazyTensor, Shape, Strided


class Permuted(LazyTensor):
    """`base` with its axes in another order; two that cancel give the base back."""

    __slots__ = ("axes", "base")

    def __init__(self, base: LazyTensor, axes: tuple[int, ...]) -> None:
        shape = tuple(base.shape[a] for a in axes)
        super().__init__(
            base.dtype,
            shape,
            lambda: base.read().transpose(axes),
            tie=_tie(base, ("permute", axes)),
        )
        self.base = base
        self.axes = axes

    @property
    def strided(self) -> Strided | None:
        """Where the elements lie: where those of `base` do, the axes in the other order."""
        found = self.base.strided
        if found is None:
            return None
        return Strided(found.file, found.offset, tuple(found.strides[a] for a in self.axes))


class Concatenated(LazyTensor):
    """Several tensors one behind the other along `axis`."""

    __slots__ = ("axis", "parts")

    def __init__(self, parts: Sequence[LazyTensor], axis: int) -> None:
        first = parts[0]
        shape = list(first.shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        super().__init__(
            first.dtype,
            tuple(shape),
            lambda: np.concatenate([part.read() for part in parts], axis),
            extent=_adjacent(parts) if axis == 0 else None,
        )
        self.parts = tuple(parts)
        self.axis = axis

    @property
    def place(self) -> tuple[str, int] | None:
        """Where reading begins: with the first part."""
        return self.parts[0].place

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the parts one after the other where that is the order of the bytes."""
        if self.axis == 0 and self.extent is None:
            for part in self.parts:
                yield from part.blocks(limit)
        else:
            yield from super().blocks(limit)

    @property
    def held(self) -> int:
        """Bytes that `blocks` holds beside one block: those of the largest part."""
        if self.axis == 0 and self.extent is None:
            return max(part.held for part in self.parts)
        return super().held


def _tie(base: LazyTensor, view: object) -> object:
    return None if base.tie is None else (base.tie, view)


def _adjacent(parts: Sequence[LazyTensor]) -> Extent | None:
    """Return the one extent that the parts fill in order, if they do."""
    extents = [part.extent for part in parts]
    first = extents[0]
    if first is None:
        return None
    end = first.offset
    for extent in extents:
        if extent is None or extent.file is not first.file or extent.offset != end:
            return None
        end += extent.nbytes
    return Extent(first.file, first.offset, end - first.offset)


class Reshaped(LazyTensor):
    """`base` with another shape: the same bytes in the same order."""

    __slots__ = ("base",)

    def __init__(self, base: LazyTensor, shape: Shape, view: object) -> None:
        inner: LazyTensor = base
        if isinstance(base, Reshaped):
            inner, view = base.base, (view, base.shape)
        super().__init__(
            inner.dtype,
            shape,
            lambda: inner.read().reshape(shape),
            extent=inner.extent,
            tie=_tie(inner, view),
        )
        self.base: LazyTensor = inner

    def blocks(self, limit: int = BLOCK) -> Iterator[memoryview]:
        """Yield the bytes of `base`."""
        yield from self.base.blocks(limit)

    @property
    def place(self) -> tuple[str, int] | None:
        """Where reading begins."""
        return self.base.place

    @property
    def is_read_whole(self) -> bool:
        """Whether `base` is."""
        return self.base.is_read_whole

    @property
    def held(self) -> int:
        """Bytes that `blocks` holds beside one block: those of `base`."""
        return self.base.held


def sliced(tensor: LazyTensor, axis: int, start: int, size: int) -> LazyTensor:
    """Return `size` entries from `start` along `axis`; bytes stay in the file where they can."""
    shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    index = (slice(None),) * axis + (slice(start, start + size),)
    extent = None
    if tensor.extent is not None and prod(tensor.shape[:axis]) == 1:
        row = prod(tensor.shape[axis + 1 :]) * tensor.dtype.itemsize
        extent = Extent(tensor.extent.file, tensor.extent.offset + start * row, size * row)

    def read() -> Array:
        if extent is None:
            return tensor.read()[index]
        return (
            np.frombuffer(extent.file.pread(extent.offset, extent.nbytes), np.uint8)
            .view(tensor.dtype.numpy)
            .reshape(shape)
        )

    return LazyTensor(tensor.dtype, shape, read, extent=extent, tie=_tie(tensor, (axis, start)))
