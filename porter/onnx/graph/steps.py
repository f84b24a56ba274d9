"""What a graph does to a weight before it is used, and the exact inverse of it.

An exporter may have folded such steps into the weight or left them in the graph; the template
has them in the graph. So a weight of one file becomes that of another: forward through its own
steps, back through the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from porter.errors import InputError
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape


@dataclass(frozen=True, slots=True)
class Permute:
    """Axis `i` of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]

    def forward(self, array: Array) -> Array:
        return array.transpose(self.axes)

    def back(self, array: Array) -> Array:
        return array.transpose(sorted(range(len(self.axes)), key=self.axes.__getitem__))

    def shape(self, shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in C order."""

    before: Shape
    after: Shape

    def forward(self, array: Array) -> Array:
        return array.reshape(self.after)

    def back(self, array: Array) -> Array:
        return array.reshape(self.before)

    def shape(self, shape: Shape) -> Shape:
        return self.after


@dataclass(frozen=True, slots=True)
class Take:
    """Entries along an axis, chosen by an array of indices of any rank, some of them twice."""

    axis: int
    indices: Array = field(compare=False)
    size: int
    """Entries of the input."""

    def forward(self, array: Array) -> Array:
        return np.take(array, self.indices, self.axis)

    def back(self, array: Array) -> Array:
        """Put the entries back; `InputError` when some are missing or two of one differ."""
        flat = np.moveaxis(array, range(self.axis, self.axis + self.indices.ndim),
                           range(self.indices.ndim))  # fmt: skip
        flat = flat.reshape(self.indices.size, *flat.shape[self.indices.ndim :])
        chosen = self.indices.ravel() % self.size
        rows, first = np.unique(chosen, return_index=True)
        if len(rows) != self.size:
            raise InputError(f"only {len(rows)} of its {self.size} entries are in the file")
        found = flat[first]
        if not np.array_equal(_bits(found[chosen]), _bits(flat)):
            raise InputError("entries that must be equal differ")
        return np.moveaxis(found, 0, self.axis)

    @property
    def is_partial(self) -> bool:
        """Whether some entries are left out."""
        return len(np.unique(self.indices % self.size)) < self.size

    def shape(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], *self.indices.shape, *shape[self.axis + 1 :])


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@dataclass(frozen=True, slots=True)
class Expand:
    """Copies along axes of size 1."""

    before: Shape
    after: Shape

    def forward(self, array: Array) -> Array:
        return np.broadcast_to(array, self.after)

    def back(self, array: Array) -> Array:
        extra = len(self.after) - len(self.before)
        padded = (*(1,) * extra, *self.before)
        index = tuple(
            slice(0, 1) if small == 1 else slice(None)
            for small, _ in zip(padded, self.after, strict=True)
        )
        return array[index].reshape(self.before)

    def shape(self, shape: Shape) -> Shape:
        return self.after


@dataclass(frozen=True, slots=True)
class Standardise:
    """Mean 0 and variance 1 over all axes from one on, which loses what they were."""

    axis: int
    epsilon: float

    def forward(self, array: Array) -> Array:
        wide = array.astype(np.float64)
        axes = tuple(range(self.axis, array.ndim))
        scale = np.sqrt(wide.var(axes, keepdims=True) + self.epsilon)
        return np.asarray((wide - wide.mean(axes, keepdims=True)) / scale, array.dtype)

    def back(self, array: Array) -> Array:
        """Return the standardised array: one that gives itself, but for epsilon."""
        return array

    def shape(self, shape: Shape) -> Shape:
        return shape


Step = Permute | Reshape | Take | Expand | Standardise


@dataclass(frozen=True, slots=True)
class Static:
    """A weight as an operation sees it: the tensor of that name after some steps."""

    root: str
    shape: Shape
    steps: tuple[Step, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether the operation sees only some of the tensor's elements."""
        return any(isinstance(step, Take) and step.is_partial for step in self.steps)

    @property
    def is_standardised(self) -> bool:
        """Whether the operation sees it with mean 0 and variance 1."""
        return any(isinstance(step, Standardise) for step in self.steps)

    def then(self, step: Step) -> Static:
        """Return it after one more step."""
        return Static(self.root, step.shape(self.shape), (*self.steps, step))

    def seen(self, array: Array) -> Array:
        """Return what the operation sees when the tensor is `array`."""
        for step in self.steps:
            array = step.forward(array)
        return array

    def unseen(self, array: Array) -> Array:
        """Return the tensor of which the operation sees `array`."""
        for step in reversed(self.steps):
            array = step.back(array)
        return array


def same_elements(one: Shape, other: Shape) -> bool:
    """Whether two shapes differ only by axes of size 1."""
    return squeezed(one) == squeezed(other)


def squeezed(shape: Sequence[int]) -> Shape:
    """Return a shape without its axes of size 1."""
    return tuple(size for size in shape if size != 1)


def reshaped(static: Static, shape: Shape) -> Static:
    """Return a weight in another shape of as many elements."""
    assert prod(shape) == prod(static.shape), (shape, static.shape)
    return static if static.shape == shape else static.then(Reshape(static.shape, shape))
