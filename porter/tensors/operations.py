"""Invertible array operations: each has a shape rule, an array rule and an exact inverse.

The set is closed: a table cannot express anything else. Operations on one tensor are
`Permute`, `Unflatten`/`Flatten`, `Reshape`, `Flip`, `Squeeze`/`Unsqueeze`,
`Interleave`/`Deinterleave`, `Regroup` and `Cut`/`Pad`; `Concat` and `Stack` join several tensors
and split them again.
No values are computed and none are lost, but by `Cut`: every other rule moves elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np

from porter.errors import TableError, printable
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.views import Concatenated, Permuted, Reshaped, sliced


class ShapeError(ValueError):
    """A shape does not fit an operation; the mapping layer says which tensor."""


@dataclass(frozen=True, slots=True)
class Permute:
    """Reorder the axes; axis `i` of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]

    def shape(self, shape: Shape) -> Shape:
        if len(shape) != len(self.axes):
            raise ShapeError(f"{len(self.axes)} axes expected")
        return tuple(shape[a] for a in self.axes)

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        self.shape(tensor.shape)
        base, axes = tensor, self.axes
        if isinstance(tensor, Permuted):
            base, axes = tensor.base, tuple(tensor.axes[a] for a in axes)
        return base if axes == tuple(range(len(axes))) else Permuted(base, axes)

    def inverse(self) -> Permute:
        return Permute(tuple(sorted(range(len(self.axes)), key=self.axes.__getitem__)))

    def __str__(self) -> str:
        return "transpose" if self.axes == (1, 0) else "permute " + " ".join(map(str, self.axes))


@dataclass(frozen=True, slots=True)
class Reshape:
    """Give the elements, in C order, another shape."""

    before: Shape
    after: Shape

    def shape(self, shape: Shape) -> Shape:
        if shape != self.before:
            raise ShapeError(f"shape {list(self.before)} expected")
        return self.after

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        return Reshaped(tensor, self.shape(tensor.shape), str(self))

    def inverse(self) -> Reshape:
        return Reshape(self.after, self.before)

    def __str__(self) -> str:
        return f"reshape {','.join(map(str, self.before))} -> {','.join(map(str, self.after))}"


@dataclass(frozen=True, slots=True)
class Unflatten:
    """Cut one axis in two: its size becomes (first, size / first)."""

    axis: int
    first: int

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape) or shape[self.axis] % self.first:
            raise ShapeError(f"axis {self.axis} must be a multiple of {self.first}")
        a = self.axis
        return (*shape[:a], self.first, shape[a] // self.first, *shape[a + 1 :])

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        return Reshaped(tensor, self.shape(tensor.shape), str(self))

    def inverse(self) -> Flatten:
        return Flatten(self.axis, self.first)

    def __str__(self) -> str:
        return f"unflatten {self.axis} {self.first}"


@dataclass(frozen=True, slots=True)
class Flatten:
    """Merge axes `axis` and `axis + 1`; the first of them must have size `first`."""

    axis: int
    first: int

    def shape(self, shape: Shape) -> Shape:
        a = self.axis
        if a + 1 >= len(shape) or shape[a] != self.first:
            raise ShapeError(f"axis {a} must be {self.first}, with one more after it")
        return (*shape[:a], shape[a] * shape[a + 1], *shape[a + 2 :])

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        return Reshaped(tensor, self.shape(tensor.shape), str(self))

    def inverse(self) -> Unflatten:
        return Unflatten(self.axis, self.first)

    def __str__(self) -> str:
        return f"flatten {self.axis} {self.first}"


@dataclass(frozen=True, slots=True)
class Unsqueeze:
    """Insert an axis of size 1."""

    axis: int

    def shape(self, shape: Shape) -> Shape:
        if self.axis > len(shape):
            raise ShapeError(f"at least {self.axis} axes expected")
        return (*shape[: self.axis], 1, *shape[self.axis :])

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        return Reshaped(tensor, self.shape(tensor.shape), str(self))

    def inverse(self) -> Squeeze:
        return Squeeze(self.axis)

    def __str__(self) -> str:
        return f"unsqueeze {self.axis}"


@dataclass(frozen=True, slots=True)
class Squeeze:
    """Remove an axis of size 1."""

    axis: int

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape) or shape[self.axis] != 1:
            raise ShapeError(f"axis {self.axis} must be 1")
        return shape[: self.axis] + shape[self.axis + 1 :]

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        return Reshaped(tensor, self.shape(tensor.shape), str(self))

    def inverse(self) -> Unsqueeze:
        return Unsqueeze(self.axis)

    def __str__(self) -> str:
        return f"squeeze {self.axis}"


@dataclass(frozen=True, slots=True)
class Flip:
    """Reverse the order along an axis."""

    axis: int

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape):
            raise ShapeError(f"more than {self.axis} axes expected")
        return shape

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        self.shape(tensor.shape)
        return LazyTensor(tensor.dtype, tensor.shape, lambda: np.flip(tensor.read(), self.axis))

    def inverse(self) -> Flip:
        return self

    def __str__(self) -> str:
        return f"flip {self.axis}"


@dataclass(frozen=True, slots=True)
class Interleave:
    """Turn `groups` runs along an axis (q…, k…, v…) into alternating entries (qkv, qkv, …)."""

    axis: int
    groups: int

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape) or shape[self.axis] % self.groups:
            raise ShapeError(f"axis {self.axis} must be a multiple of {self.groups}")
        return shape

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        shape, a = self.shape(tensor.shape), self.axis
        cut = (*shape[:a], self.groups, shape[a] // self.groups, *shape[a + 1 :])
        return LazyTensor(
            tensor.dtype,
            shape,
            lambda: tensor.read().reshape(cut).swapaxes(a, a + 1).reshape(shape),
        )

    def inverse(self) -> Deinterleave:
        return Deinterleave(self.axis, self.groups)

    def __str__(self) -> str:
        return f"interleave {self.axis} {self.groups}"


@dataclass(frozen=True, slots=True)
class Deinterleave:
    """Turn alternating entries along an axis into `groups` runs."""

    axis: int
    groups: int

    def shape(self, shape: Shape) -> Shape:
        return Interleave(self.axis, self.groups).shape(shape)

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        shape = self.shape(tensor.shape)
        return Interleave(self.axis, shape[self.axis] // self.groups or 1).apply(tensor)

    def inverse(self) -> Interleave:
        return Interleave(self.axis, self.groups)

    def __str__(self) -> str:
        return f"deinterleave {self.axis} {self.groups}"


@dataclass(frozen=True, slots=True)
class Regroup:
    """Cut one axis into factors, reorder these, and merge them again.

    Factor `i` of the result is factor `order[i]` of the input; the factor that is 0 takes what
    the others leave of the size.
    """

    axis: int
    factors: tuple[int, ...]
    order: tuple[int, ...]

    def shape(self, shape: Shape) -> Shape:
        fixed = prod(n for n in self.factors if n)
        if self.axis >= len(shape) or shape[self.axis] % fixed:
            raise ShapeError(f"axis {self.axis} must be a multiple of {fixed}")
        return shape

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        shape, a = self.shape(tensor.shape), self.axis
        rest = shape[a] // prod(n for n in self.factors if n)
        cut = (*shape[:a], *(n or rest for n in self.factors), *shape[a + 1 :])
        last = a + len(self.factors)
        axes = (*range(a), *(a + n for n in self.order), *range(last, len(cut)))
        return LazyTensor(
            tensor.dtype,
            shape,
            lambda: tensor.read().reshape(cut).transpose(axes).reshape(shape),
        )

    def inverse(self) -> Regroup:
        order = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        return Regroup(self.axis, tuple(self.factors[n] for n in self.order), order)

    def __str__(self) -> str:
        factors = ",".join(str(n or "*") for n in self.factors)
        return f"regroup {self.axis} {factors} -> {','.join(map(str, self.order))}"


@dataclass(frozen=True, slots=True)
class Cut:
    """Leave out the last entries along an axis, which another implementation does not have."""

    axis: int
    count: int

    def shape(self, shape: Shape) -> Shape:
        a = self.axis
        if a >= len(shape) or shape[a] <= self.count:
            raise ShapeError(f"axis {a} must be larger than {self.count}")
        return (*shape[:a], shape[a] - self.count, *shape[a + 1 :])

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        kept = self.shape(tensor.shape)[self.axis]
        return sliced(tensor, self.axis, 0, kept)

    def inverse(self) -> Pad:
        return Pad(self.axis, self.count)

    def __str__(self) -> str:
        return f"cut {self.axis} {self.count}"


@dataclass(frozen=True, slots=True)
class Pad:
    """Add entries of zeros at the end of an axis."""

    axis: int
    count: int

    def shape(self, shape: Shape) -> Shape:
        a = self.axis
        if a >= len(shape):
            raise ShapeError(f"more than {a} axes expected")
        return (*shape[:a], shape[a] + self.count, *shape[a + 1 :])

    def apply(self, tensor: LazyTensor) -> LazyTensor:
        shape = self.shape(tensor.shape)
        widths = [(0, self.count * (axis == self.axis)) for axis in range(len(shape))]
        return LazyTensor(tensor.dtype, shape, lambda: np.pad(tensor.read(), widths))

    def inverse(self) -> Cut:
        return Cut(self.axis, self.count)

    def __str__(self) -> str:
        return f"pad {self.axis} {self.count}"


Op = (
    Permute | Reshape | Unflatten | Flatten | Squeeze | Unsqueeze | Flip | Interleave | Deinterleave
    | Regroup | Cut | Pad
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Concat:
    """Join tensors along an axis; `sizes` are the parts' sizes, None if all are equal."""

    axis: int = 0
    sizes: tuple[int, ...] | None = None

    def join_shape(self, shapes: Sequence[Shape]) -> Shape:
        a = self.axis
        rest = {shape[:a] + shape[a + 1 :] for shape in shapes}
        if len(rest) != 1 or any(len(shape) <= a for shape in shapes):
            raise ShapeError(f"the parts must agree in all but axis {a}")
        sizes = tuple(shape[a] for shape in shapes)
        if sizes != (self.sizes or sizes[:1] * len(sizes)):
            raise ShapeError(f"parts of sizes {list(self.sizes or sizes[:1])} expected on axis {a}")
        return (*shapes[0][:a], sum(sizes), *shapes[0][a + 1 :])

    def join(self, parts: Sequence[LazyTensor]) -> LazyTensor:
        self.join_shape([part.shape for part in parts])
        if len({part.dtype.name for part in parts}) != 1:
            raise ShapeError("the parts must have one dtype")
        return Concatenated(parts, self.axis)

    def split_shapes(self, shape: Shape, count: int) -> list[Shape]:
        a = self.axis
        return [(*shape[:a], size, *shape[a + 1 :]) for size in self._sizes(shape, count)]

    def split(self, tensor: LazyTensor, count: int) -> list[LazyTensor]:
        if isinstance(tensor, Concatenated) and tensor.axis == self.axis:
            sizes = tuple(part.shape[self.axis] for part in tensor.parts)
            if sizes == self._sizes(tensor.shape, count):
                return list(tensor.parts)
        parts, start = [], 0
        for size in self._sizes(tensor.shape, count):
            parts.append(sliced(tensor, self.axis, start, size))
            start += size
        return parts

    def _sizes(self, shape: Shape, count: int) -> tuple[int, ...]:
        if self.axis >= len(shape):
            raise ShapeError(f"more than {self.axis} axes expected")
        total = shape[self.axis]
        if self.sizes is None and total % count:
            raise ShapeError(f"axis {self.axis} must be a multiple of {count}")
        sizes = self.sizes or (total // count,) * count
        if sum(sizes) != total or len(sizes) != count:
            raise ShapeError(f"axis {self.axis} must be {' + '.join(map(str, sizes))}")
        return sizes

    def __str__(self) -> str:
        sizes = "" if self.sizes is None else " sizes " + ",".join(map(str, self.sizes))
        return f"concat {self.axis}{sizes}"


@dataclass(frozen=True, slots=True)
class Stack:
    """Join tensors of one shape along a new axis."""

    axis: int = 0

    def join_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len(set(shapes)) != 1:
            raise ShapeError("the parts must have one shape")
        return (*shapes[0][: self.axis], len(shapes), *shapes[0][self.axis :])

    def join(self, parts: Sequence[LazyTensor]) -> LazyTensor:
        self.join_shape([part.shape for part in parts])
        unsqueeze = Unsqueeze(self.axis)
        return Concat(self.axis).join([unsqueeze.apply(part) for part in parts])

    def split_shapes(self, shape: Shape, count: int) -> list[Shape]:
        if self.axis >= len(shape) or shape[self.axis] != count:
            raise ShapeError(f"axis {self.axis} must be {count}")
        return [shape[: self.axis] + shape[self.axis + 1 :]] * count

    def split(self, tensor: LazyTensor, count: int) -> list[LazyTensor]:
        self.split_shapes(tensor.shape, count)
        squeeze = Squeeze(self.axis)
        return [squeeze.apply(part) for part in Concat(self.axis).split(tensor, count)]

    def __str__(self) -> str:
        return f"stack {self.axis}"


Join = Concat | Stack


def apply(ops: Sequence[Op], tensor: LazyTensor) -> LazyTensor:
    """Return the tensor after all operations, in order."""
    return reduce(lambda value, op: op.apply(value), ops, tensor)


def shape_after(ops: Sequence[Op], shape: Shape) -> Shape:
    """Return the shape after all operations; `ShapeError` where one does not fit."""
    return reduce(lambda value, op: op.shape(value), ops, shape) if ops else shape


def inverse(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Return the operations that undo these."""
    return tuple(op.inverse() for op in reversed(ops))


def parse(text: str, sizes: Mapping[str, int]) -> Op:
    """Read an operation as a table writes it: a verb and integers or names out of `sizes`.

    `transpose`, `permute 2 3 1 0`, `unflatten 1 num_heads`, `flatten 0 num_heads`, `flip 0`,
    `squeeze 0`, `unsqueeze 0`, `interleave 0 3`, `deinterleave 0 3`, `cut 0 1`,
    `reshape 64,3 -> 8,8,3`, `regroup 0 2,2,* -> 2,1,0`.
    """
    verb, *words = text.split()
    if verb == "regroup":
        return _parse_regroup(words, sizes, text)
    if verb == "reshape":
        before, arrow, after = words if len(words) == 3 else ("", "", "")
        if arrow != "->":
            raise TableError(f"operation {text!r}: write `reshape 64,3 -> 8,8,3`")
        shapes = [
            tuple(_number(w, sizes, text) for w in side.split(",")) for side in (before, after)
        ]
        if prod(shapes[0]) != prod(shapes[1]):
            raise TableError(f"operation {text!r}: the two shapes have different counts")
        return Reshape(*shapes)
    numbers = tuple(_number(word, sizes, text) for word in words)
    if verb == "transpose" and not numbers:
        return Permute((1, 0))
    if verb == "permute" and sorted(numbers) == list(range(len(numbers))) and numbers:
        return Permute(numbers)
    kinds: dict[str, tuple[type[Op], int]] = {
        "unflatten": (Unflatten, 2),
        "flatten": (Flatten, 2),
        "flip": (Flip, 1),
        "squeeze": (Squeeze, 1),
        "unsqueeze": (Unsqueeze, 1),
        "interleave": (Interleave, 2),
        "deinterleave": (Deinterleave, 2),
        "cut": (Cut, 2),
    }
    if verb in kinds and len(numbers) == kinds[verb][1]:
        return kinds[verb][0](*numbers)  # type: ignore[arg-type]
    raise TableError(f"operation {text!r} is unknown or has the wrong number of arguments")


def _parse_regroup(words: Sequence[str], sizes: Mapping[str, int], text: str) -> Regroup:
    if len(words) == 4 and words[2] == "->" and words[1].split(",").count("*") == 1:
        factors = [0 if w == "*" else _number(w, sizes, text) for w in words[1].split(",")]
        order = [_number(w, sizes, text) for w in words[3].split(",")]
        if sorted(order) == list(range(len(factors))):
            return Regroup(_number(words[0], sizes, text), tuple(factors), tuple(order))
    raise TableError(f"operation {text!r}: write `regroup 0 2,2,* -> 2,1,0`")


def parse_join(text: str, sizes: Mapping[str, int]) -> Join:
    """Read `concat AXIS`, `concat AXIS sizes a,b,c` or `stack AXIS`."""
    verb, *words = text.split()
    if verb == "stack" and len(words) == 1:
        return Stack(_number(words[0], sizes, text))
    if verb == "concat" and len(words) == 1:
        return Concat(_number(words[0], sizes, text))
    if verb == "concat" and len(words) == 3 and words[1] == "sizes":
        parts = tuple(_number(word, sizes, text) for word in words[2].split(","))
        return Concat(_number(words[0], sizes, text), parts)
    raise TableError(f"join {text!r} is not `concat AXIS [sizes a,b]` or `stack AXIS`")


def _number(word: str, sizes: Mapping[str, int], text: str) -> int:
    if "*" in word:
        return prod(_number(part, sizes, text) for part in word.split("*"))
    if word.isdecimal():
        if len(word) > 18:
            raise TableError(f"operation {printable(text)!r}: {printable(word, 20)} is too large")
        return int(word)
    if word not in sizes:
        raise TableError(f"operation {text!r}: {word!r} is not a size of this architecture")
    return sizes[word]
