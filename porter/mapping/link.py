"""Which tensors of a dialect have the elements of which canonical ones, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

from porter.errors import MappingError, listed
from porter.mapping.table import Dialect
from porter.tensors import operations as ops
from porter.tensors.folds import Fold
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.operations import Cut, Join, Op, Stack

T = TypeVar("T")
_STACK = Stack(0)


class Link(NamedTuple):
    """Canonical tensors and the dialect's tensors with the same elements.

    One side is a single tensor. Canonical tensors are joined by `join` if there are several;
    the result is split by `join` if the dialect has several; `ops` then act on each of those.
    A `fold` makes several canonical tensors of several of the dialect's, and has no way back.
    Of a `stack` of so many equal layers all this is done for each, whose canonical tensors follow
    those of the layer before; the dialect's tensors have them along a new first axis.
    """

    canonical: tuple[str, ...]
    dialect: tuple[str, ...]
    ops: tuple[Op, ...] = ()
    join: Join | None = None
    kind: str = ""
    row: str = ""
    optional: bool = False
    """The dialect may leave it out; `fill` is then used, or the constant computed."""
    fill: float | None = None
    constant: bool = False
    """A buffer that the architecture computes: never taken from a file."""
    first: tuple[Op, ...] = ()
    """Operations on the one canonical tensor before it is split."""
    fold: Fold | None = None
    same: str | None = None
    """The canonical tensor whose values are used where the dialect leaves this one out."""
    stack: int = 0

    @property
    def loses(self) -> bool:
        """Whether entries are left out on the way to the dialect."""
        return any(isinstance(op, Cut) for op in self.ops)

    def dialect_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the dialect's shapes for canonical ones; `ShapeError` if they do not fit."""
        if self.fold is not None:
            return self.fold.part_shapes(shapes[0])
        if self.stack:
            one = self._one_of(shapes)
            return [(self.stack, *shape) for shape in self._layer.dialect_shapes(one)]
        shapes = [ops.shape_after(self.first, s) for s in shapes]
        return [ops.shape_after(self.ops, s) for s in self._fan(shapes, self.dialect)]

    def canonical_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the canonical shapes for the dialect's; `ShapeError` if they do not fit."""
        if self.fold is not None:
            return self.fold.shapes_of(shapes)
        if self.stack:
            one = [_STACK.split_shapes(shape, self.stack)[0] for shape in shapes]
            return self._layer.canonical_shapes(one) * self.stack
        undone = [ops.shape_after(ops.inverse(self.ops), s) for s in shapes]
        fanned = self._fan(undone, self.canonical)
        return [ops.shape_after(ops.inverse(self.first), s) for s in fanned]

    @property
    def _layer(self) -> Link:
        """What is done for each layer of the stack."""
        return self._replace(stack=0, canonical=self.canonical[: self._width])

    @property
    def _width(self) -> int:
        return len(self.canonical) // self.stack

    def _layers(self, values: Sequence[T]) -> list[Sequence[T]]:
        """Return what belongs to each layer of the stack."""
        return [values[at : at + self._width] for at in range(0, len(values), self._width)]

    def _one_of(self, shapes: Sequence[Shape]) -> Sequence[Shape]:
        """Return the shapes of one layer, which must be those of all; `ShapeError` otherwise."""
        first, *others = self._layers(shapes)
        for number, other in enumerate(others, 1):
            if other != first:
                raise ops.ShapeError(
                    "all layers of a stack must have the same shapes: number"
                    f" {number} has {_text(other)}, number 0 {_text(first)}"
                )
        return first

    def _stacked(self, tensors: Sequence[LazyTensor]) -> LazyTensor:
        try:
            return _STACK.join(tensors)
        except ops.ShapeError as error:  # shapes were planned, dtypes were not
            raise MappingError(f"{self.row}: {error} to become {listed(self.dialect)}") from error

    def _fan(self, shapes: Sequence[Shape], names: Sequence[str]) -> list[Shape]:
        if self.join is None:
            return list(shapes)
        shape = self.join.join_shape(shapes) if len(shapes) > 1 else shapes[0]
        return self.join.split_shapes(shape, len(names)) if len(names) > 1 else [shape]

    def to_dialect(self, tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
        """Return the dialect's tensors, still unread; plans with a fold never ask for them."""
        assert self.fold is None, self.row
        if self.stack:
            each = [self._layer.to_dialect(some) for some in self._layers(tensors)]
            return [self._stacked(some) for some in zip(*each, strict=True)]
        tensors = [ops.apply(self.first, t) for t in tensors]
        return [ops.apply(self.ops, t) for t in self._fan_tensors(tensors, self.dialect)]

    def to_canonical(self, tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
        """Return the canonical tensors, still unread."""
        if self.fold is not None:
            return self.fold.apply(tensors)
        if self.stack:
            apart = zip(*(_STACK.split(tensor, self.stack) for tensor in tensors), strict=True)
            return [one for parts in apart for one in self._layer.to_canonical(parts)]
        undone = [ops.apply(ops.inverse(self.ops), t) for t in tensors]
        fanned = self._fan_tensors(undone, self.canonical)
        return [ops.apply(ops.inverse(self.first), t) for t in fanned]

    def _fan_tensors(self, tensors: Sequence[LazyTensor], names: Sequence[str]) -> list[LazyTensor]:
        if self.join is None:
            return list(tensors)
        try:
            tensor = self.join.join(tensors) if len(tensors) > 1 else tensors[0]
        except ops.ShapeError as error:  # shapes were planned, dtypes were not
            raise MappingError(f"{self.row}: {error} to become {listed(names)}") from error
        return self.join.split(tensor, len(names)) if len(names) > 1 else [tensor]

    @property
    def how(self) -> str:
        """The operations on the way to the dialect, in words."""
        if self.fold is not None:
            return f"no way back from {self.fold}"
        words = [*map(str, self.first), *self._join_words(len(self.dialect) > 1)]
        stacked = [f"stack {self.stack}"] if self.stack else []
        return ", ".join([*words, *map(str, self.ops), *stacked])

    @property
    def how_back(self) -> str:
        """The operations on the way from the dialect, in words."""
        if self.fold is not None:
            return str(self.fold)
        undone = map(str, ops.inverse(self.ops))
        parts = self._width if self.stack else len(self.canonical)
        apart = [f"unstack {self.stack}"] if self.stack else []
        words = [*apart, *undone, *self._join_words(parts > 1)]
        return ", ".join([*words, *map(str, ops.inverse(self.first))])

    def _join_words(self, splits: bool) -> list[str]:
        return [] if self.join is None else [f"split {self.join}" if splits else str(self.join)]


def _text(shapes: Iterable[Shape]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


class Gap(NamedTuple):
    """A canonical tensor that the dialect does not have."""

    canonical: str
    reason: str
    fill: float | None
    constant: bool = False
    same: str | None = None
    """The canonical tensor with the same values."""


class Linked:
    """A dialect of one variant, linked tensor by tensor."""

    def __init__(self, dialect: Dialect, links: Iterable[Link], gaps: Iterable[Gap]) -> None:
        self.dialect = dialect
        self.links = tuple(links)
        self.gaps = tuple(gaps)

    @cached_property
    def by_dialect(self) -> dict[str, Link]:
        """The link of each tensor of the dialect."""
        return {name: link for link in self.links for name in link.dialect}

    @cached_property
    def by_canonical(self) -> dict[str, Link]:
        """The link of each canonical tensor."""
        return {name: link for link in self.links for name in link.canonical}

    def extra(self, name: str) -> str | None:
        """Return why a tensor that only the dialect has is left out, None if it is unknown."""
        for extra in self.dialect.extra:
            if extra.match(name):
                return extra.reason
        return None
