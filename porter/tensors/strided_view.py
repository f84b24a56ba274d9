"""State a transpose instead of doing it: a torch tensor has strides, a NumPy array may be Fortran.

With `layout="view"` a tensor whose elements stand together in a source, in another order of its
axes, is copied as it stands, and the file says how to look at it. Writing costs what copying
costs; whoever loads the file turns the elements then, every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from porter.errors import UsageError, listed
from porter.tensors.lazy import Extent, LazyTensor, Shape

LAYOUTS = ("contiguous", "view")
FORMATS = ("torch", "paddle")
"""Formats that can state a transpose."""


class View(NamedTuple):
    """The bytes of a tensor as they stand in its source, and how to look at them."""

    stored: LazyTensor
    strides: Shape
    """Elements from one to the next along each axis of the tensor."""

    shape: Shape
    """The tensor's own."""
    order: tuple[int, ...]
    """Its axes, the slowest in the file first."""

    @property
    def is_fortran(self) -> bool:
        """Whether the axes are those of C order in the opposite order."""
        steps = [s for s, n in zip(self.strides, self.shape, strict=True) if n != 1]
        return steps == sorted(steps)


def view_of(tensor: LazyTensor, format: str) -> View | None:
    """Return how a format looks at a tensor's bytes as they stand; None if they must be turned.

    None also if there is nothing to turn. A NumPy array, which Paddle's files hold, knows C
    order and the opposite alone.
    """
    view = _view_of(tensor)
    return None if view is None or (format == "paddle" and not view.is_fortran) else view


def _view_of(tensor: LazyTensor) -> View | None:
    found = tensor.strided
    if found is None or tensor.extent is not None or not tensor.size:
        return None
    width = tensor.dtype.itemsize
    order = sorted(range(len(tensor.shape)), key=lambda axis: -found.strides[axis])
    step = 1
    for axis in reversed(order):
        if found.strides[axis] != step * width:
            return None
        step *= tensor.shape[axis]
    extent = Extent(found.file, found.offset, tensor.nbytes)
    shape = tuple(tensor.shape[axis] for axis in order)
    stored = LazyTensor.stored(tensor.dtype, shape, extent, tie=tensor.tie)
    strides = tuple(stride // width for stride in found.strides)
    return View(stored, strides, tensor.shape, tuple(order))


def as_stored(
    expected: Mapping[str, LazyTensor], found: Mapping[str, LazyTensor], format: str
) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """Return what was written and what was read back, views in the order of their bytes."""
    expected, found = dict(expected), dict(found)
    for name, tensor in expected.items():
        view = view_of(tensor, format)
        if view is not None:
            expected[name] = view.stored
            if name in found and found[name].shape == tensor.shape:
                found[name] = _turned(found[name], view.order, format)
    return expected, found


def _turned(tensor: LazyTensor, order: tuple[int, ...], format: str) -> LazyTensor:
    """Return a tensor with its axes in another order, its bytes as they stand where they do."""
    view = view_of(tensor, format)
    if view is not None and view.order == order:
        return view.stored
    shape = tuple(tensor.shape[axis] for axis in order)
    return LazyTensor(tensor.dtype, shape, lambda: tensor.read().transpose(order))


def check(layout: str, format: str) -> None:
    """Raise `UsageError` for a layout that there is not, or not in this format."""
    if layout not in LAYOUTS:
        raise UsageError(f"no layout is called {layout!r}; there are {listed(LAYOUTS)}")
    if layout == "view" and format not in FORMATS:
        raise UsageError(f"{format} files state no transpose; {listed(FORMATS)} files do")
