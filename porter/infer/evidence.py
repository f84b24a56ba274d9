"""Compare two files' values: which tensors have the same elements, and in which order.

A fingerprint is a sum over the elements, so that a transpose keeps it and the fingerprint of
`qkv` is that of q, k and v together. It only selects candidates, which are then compared element
by element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

import numpy as np

from porter.tensors import operations
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor, Shape

Chain = tuple[str, ...]
"""Operations as a table writes them."""
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GROUPS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Print:
    """A tensor's fingerprint; `flat` where all its elements are the same, which proves little."""

    dtype: str
    shape: Shape
    total: int
    flat: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def key(self) -> tuple[str, int, int]:
        """Equal for tensors that may have the same elements in another order."""
        return self.dtype, self.size, self.total


def fingerprint(tensor: LazyTensor) -> Print:
    """Read a tensor, a block at a time, and return its fingerprint."""
    word = np.dtype(f"u{min(tensor.dtype.itemsize, 8)}")
    total, first, flat = np.uint64(0), None, True
    for block in tensor.blocks():
        bits = np.frombuffer(block, word)
        first = bits[0] if first is None else first
        flat = flat and bool((bits == first).all())
        with np.errstate(over="ignore"):
            total += _mixed(bits.astype(np.uint64)).sum(dtype=np.uint64)
    return Print(tensor.dtype.name, tensor.shape, int(total), flat)


def _mixed(bits: Array) -> Array:
    bits = bits + _MIX[0]
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[1]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[2]
    mixed: Array = bits ^ (bits >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Relation:
    """How tensors of the left give those of the right: `join`, then each chain that fits."""

    join: str
    """`concat 0 …`, or empty where one tensor becomes one."""
    chains: tuple[Chain, ...]
    first: Chain = ()
    """Operations before one tensor becomes several."""


def relation(lefts: Sequence[LazyTensor], rights: Sequence[LazyTensor]) -> Relation | None:
    """Return how the left tensors give the right ones bit for bit, None if no operation does.

    On one side is a single tensor; several are joined along their first axis, in the order given.
    """
    source, target = [_bits(t) for t in lefts], [_bits(t) for t in rights]
    if len({t.dtype for t in (*lefts, *rights)}) > 1:
        return None
    if len(source) == len(target) == 1:
        chains = tuple(_chains(source[0], target[0]))
        return Relation("", chains) if chains else None
    if len(source) > 1:
        if any(a.ndim == 0 or a.shape[1:] != source[0].shape[1:] for a in source):
            return None
        chains = tuple(_chains(np.concatenate(source), target[0]))
        return Relation(_concat([len(a) for a in source]), chains) if chains else None
    return _split(source[0], target)


def _split(whole: Array, parts: Sequence[Array]) -> Relation | None:
    row = prod(whole.shape[1:])
    if whole.ndim == 0 or row == 0 or any(p.size % row for p in parts):
        return None
    sizes = [p.size // row for p in parts]
    if sum(sizes) != len(whole):
        return None
    possible: list[set[Chain]] = []
    start = 0
    for size, part in zip(sizes, parts, strict=True):
        possible.append(set(_chains(whole[start : start + size], part)))
        start += size
    first = list(_chains(whole[: sizes[0]], parts[0]))
    chains = tuple(chain for chain in first if all(chain in one for one in possible))
    return Relation(_concat(sizes), chains) if chains else None


def _concat(sizes: Sequence[int]) -> str:
    return "concat 0" if len(set(sizes)) == 1 else f"concat 0 sizes {','.join(map(str, sizes))}"


def _chains(source: Array, target: Array) -> Iterator[Chain]:
    """Yield the chains of operations that give `target` from `source`, the plainest first."""
    fits = False
    for tier in (_orders, _cuts, _mixes):
        for chain in tier(source.shape, target.shape):
            if _makes(chain, source, target):
                fits = True
                yield chain
        if fits:
            return


def _makes(chain: Chain, source: Array, target: Array) -> bool:
    tensor = LazyTensor.of(source)
    try:
        for text in chain:
            tensor = operations.parse(text, {}).apply(tensor)
    except operations.ShapeError:
        return False
    if tensor.shape != target.shape:
        return False
    result = tensor.read()
    start = tuple(slice(0, 8) for _ in result.shape)  # most wrong guesses are seen in a corner
    return bool(np.array_equal(result[start], target[start]) and np.array_equal(result, target))


def orders(source: Shape, target: Shape) -> Iterator[Chain]:
    """Yield the orders of the axes that lead from one shape to another, as chains."""
    if len(source) > 5:
        yield from [()] if source == target else []
        return
    for axes in permutations(range(len(source))):
        if tuple(source[a] for a in axes) == target:
            yield _permute(axes)


_orders = orders


def _permute(axes: Sequence[int]) -> Chain:
    if list(axes) == sorted(axes):
        return ()
    return ("transpose",) if tuple(axes) == (1, 0) else ("permute " + " ".join(map(str, axes)),)


def _cuts(source: Shape, target: Shape) -> Iterator[Chain]:
    """Yield what adds or takes an axis, an order of the axes before it, then a plain reshape."""
    transposes = [()] if len(source) != 2 else [(), ("transpose",)]
    for before in transposes:
        shape = source[::-1] if before else source
        for axis in range(len(shape)):
            if shape[axis] == 1:
                yield (*before, f"squeeze {axis}")
        for axis in range(len(target)):
            if target[axis] == 1:
                yield (*before, f"unsqueeze {axis}")
            elif axis < len(shape) and len(target) == len(shape) + 1:
                yield (*before, f"unflatten {axis} {target[axis]}")
            if axis + 1 < len(shape) and len(target) == len(shape) - 1:
                yield (*before, f"flatten {axis} {shape[axis]}")
    if source and target and 0 not in source and source != target:
        left, right = (",".join(map(str, side)) for side in (source, target))
        yield (f"reshape {left} -> {right}",)


def _mixes(source: Shape, target: Shape) -> Iterator[Chain]:
    """Yield what changes the order of the rows: packed q, k, v against interleaved ones."""
    if not source or len(source) > 2:
        return
    for groups in _GROUPS:
        if source[0] % groups == 0:
            for verb in ("interleave", "deinterleave"):
                for after in orders(source, target):
                    yield (f"{verb} 0 {groups}", *after)


def _bits(tensor: LazyTensor) -> Array:
    """Return a tensor's elements as whole numbers, so that NaN and -0 are themselves."""
    array = np.array(tensor.read(), order="C")
    if tensor.dtype.itemsize > 8:
        return array
    return array.view(np.dtype(f"u{tensor.dtype.itemsize}"))


def same(source: LazyTensor, target: LazyTensor) -> bool:
    """Whether two tensors are of one dtype and shape and have the same bits."""
    return (
        source.dtype is target.dtype
        and source.shape == target.shape
        and bool(np.array_equal(_bits(source), _bits(target)))
    )
