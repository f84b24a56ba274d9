"""What the values of two files say about a table that was inferred from their models.

Where both files have the same weights, what the table makes of the left one is the right one: bit
for bit, after a cast, or within a tolerance. A tensor whose elements are all the same proves
nothing. Files with other weights say nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.errors import listed
from porter.mapping.fold import fold
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor

_HALVES = ("float16", "bfloat16")
_NEAR = 1e-3
"""Relative rms difference of tensors that are called close."""
_ENOUGH = 0.5
"""Share of equal tensors from which on two files are said to hold the same weights."""


@dataclass(frozen=True, slots=True)
class FileValues:
    """The tensors of the right file by what they are of those made from the left one."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    """{name: equal, "equal after a cast to …", close, flat or differs}."""

    @property
    def same(self) -> bool:
        """Whether the files have the same weights, by the tensors that are not flat."""
        told = [kind for kind in self.kinds.values() if kind != "flat"]
        return sum(kind != "differs" for kind in told) > _ENOUGH * len(told)

    def doubt(self, names: Sequence[str], doubt: str) -> str:
        """Return what is to doubt about a row that makes these tensors, `doubt` by the models."""
        found = [self.kinds.get(name, "flat") for name in names]
        if not self.same or "flat" in found:
            return doubt if not self.same or "differs" not in found else _DIFFER
        return _DIFFER if "differs" in found else ""

    def flat(self, names: Sequence[str]) -> bool:
        """Whether these tensors say nothing."""
        return all(self.kinds.get(name, "flat") == "flat" for name in names)

    @property
    def words(self) -> str:
        """How many tensors are what."""
        names: dict[str, list[str]] = {}
        for name, kind in self.kinds.items():
            names.setdefault(kind, []).append(name)
        flat = len(names.pop("flat", []))
        more = f"; {flat} are flat and prove nothing" if flat else ""
        if not self.same:
            count = len(names.get("differs", []))
            return (
                f"the files have other weights, which prove nothing: {count} tensors differ" + more
            )
        differing = names.pop("differs", [])
        counts = [f"{len(found)} {kind}" for kind, found in names.items()]
        story = f"the files have the same weights: {', '.join(counts)}" + more
        return story + (f"; these differ: {listed(fold(differing), 8)}" if differing else "")


_DIFFER = "the files have the same weights, and these tensors differ"


def compare(made: Mapping[str, LazyTensor], target: Mapping[str, LazyTensor]) -> FileValues:
    """Compare what a table makes of the left file with the right one, tensor by tensor."""
    return FileValues({
        name: _kind(tensor, target[name]) for name, tensor in made.items()
        if name in target and tensor.dtype.is_float and target[name].dtype.is_float
    })  # fmt: skip


def _kind(made: LazyTensor, target: LazyTensor) -> str:
    if made.shape != target.shape:
        return "differs"
    one, other = made.read(), target.read()
    if not other.size or (other == other.flat[0]).all():
        return "flat"
    if made.dtype is target.dtype and np.array_equal(one, other):
        return "equal"
    narrow = min((made.dtype, target.dtype), key=lambda dtype: dtype.itemsize).name
    for name in dict.fromkeys((narrow, *_HALVES)):
        if _same_after(one, other, DTYPES[name].numpy):
            return f"equal after a cast to {name}"
    a, b = one.astype(np.float64), other.astype(np.float64)
    near = np.sqrt(np.mean((a - b) ** 2)) <= _NEAR * np.sqrt(np.mean(a * a))
    return f"within {_NEAR:g}" if near else "differs"


def _same_after(one: Array, other: Array, dtype: np.dtype[Any]) -> bool:
    """Whether one array is the other in a narrower type, however it is stored."""
    with np.errstate(over="ignore"):
        a, b = one.astype(dtype), other.astype(dtype)
    narrow = any(np.array_equal(c.astype(d.dtype), d) for c, d in ((a, one), (b, other)))
    return narrow and np.array_equal(a, b)
