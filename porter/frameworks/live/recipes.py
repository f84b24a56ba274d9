"""How tensors of the left model become those of a unit of the right one.

Operations are those of mapping tables, so that what was tried can be written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from porter.frameworks.live.signature import Signature
from porter.tensors import operations
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor

Ops = tuple[str, ...]
"""Operations as a table writes them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How tensors of the left give one tensor of the right."""

    left: tuple[str, ...]
    first: Ops = ()
    """On the one left tensor, before a part is cut out of it."""
    join: str = ""
    """How several left tensors are joined, or the one is cut."""
    part: tuple[int, int, int] | None = None
    """(axis, start, size) of the part."""
    ops: Ops = ()
    """After that."""

    def made(self, values: Mapping[str, Array]) -> Array:
        """Return the right tensor."""
        tensors = [LazyTensor.of(values[name]) for name in self.left]
        if len(tensors) > 1:
            tensor = operations.parse_join(self.join, {}).join(tensors)
        else:
            tensor = _applied(self.first, tensors[0])
        if self.part is not None:
            axis, start, size = self.part
            index = (slice(None),) * axis + (slice(start, start + size),)
            tensor = LazyTensor.of(tensor.read()[index])
        return _applied(self.ops, tensor).read()


def _applied(chain: Ops, tensor: LazyTensor) -> LazyTensor:
    return operations.apply([operations.parse(text, {}) for text in chain], tensor)


@dataclass(frozen=True, slots=True)
class Option:
    """One way to fill a unit of the right."""

    left: tuple[str, ...]
    """Keys of units of the left."""
    recipes: Mapping[str, Recipe]
    """{tensor of the right: recipe}."""
    expects: Signature | None
    """The input that the unit must then have; None where it is not known."""
    layout: str = ""
    """How parts are arranged in what is cut or joined."""
    spans: tuple[tuple[str, int, int], ...] = ()
    """Which outputs of the left units are used: (unit, start, stop)."""
    variant: str = ""

    def conflicts(self, other: Option) -> bool:
        """Whether two options use the same part of a unit, or cut it in two ways."""
        for key, start, stop in self.spans:
            for key2, start2, stop2 in other.spans:
                if key == key2 and (
                    self.layout != other.layout or (start < stop2 and start2 < stop)
                ):
                    return True
        return False
