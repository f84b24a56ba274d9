"""Tensors that have values of another one: mixed with it, or no longer shared with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from porter.tensors.blocks import Array

_MOST = 8
"""Other tensors of the same shape that are looked at, nearest names first."""


def mixed(
    left: Array, right: Array, siblings: Iterator[tuple[str, Array]]
) -> tuple[str, str] | None:
    """Return the tensor some of whose rows or columns are in the place of the left tensor's.

    That is what remains of two tensors that are joined and then sliced for several devices, in
    place of being sliced first.
    """
    if left.ndim < 2:
        return None
    rows = [(axis, _rows(left, axis), _rows(right, axis)) for axis in (0, 1)]
    both = [(axis, mine, found) for axis, mine, found in rows if not set(mine).isdisjoint(found)]
    if not both:
        return None
    for name, other in islice(siblings, _MOST):
        for axis, mine, found in both:
            theirs = set(_rows(other, axis)) - set(mine)
            foreign = sum(row in theirs for row in found)
            if 0 < foreign < len(found) and set(found) <= theirs | set(mine):
                entries = ("rows", "columns")[axis]
                return (
                    f"has {foreign} of its {len(found)} {entries} from {name}",
                    "the two were joined and then sliced: slice each before they are joined",
                )
    return None


def untied(
    left: Array, siblings: Iterator[tuple[str, Array]], arrived: Callable[[str, Array], bool]
) -> tuple[str, str] | None:
    """Return the tensor with which the left one is shared, where it has the same values.

    `arrived` tells whether the right side has those of that tensor.
    """
    for name, other in islice(siblings, 3 * _MOST):
        same = left.size > 1 and left.any() and np.array_equal(left, other)
        if same and arrived(name, other):
            return (
                f"has unrelated values, and is shared with {name} in the source",
                f"share it with {name} in the model, or store both: the file has one",
            )
    return None


def _rows(array: Array, axis: int) -> list[bytes]:
    return [np.ascontiguousarray(row).tobytes() for row in np.moveaxis(array, axis, 0)]
