"""Name the order of the entries of an axis: q, k, v permuted, interleaved, by head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from math import prod

import numpy as np

from porter.tensors.blocks import Array


def order_of(left: Array, right: Array, axis: int, parts: str, heads: Sequence[int]) -> str | None:
    """Return how `right` orders the entries of `left` along an axis; None if it has others.

    Entries are compared exactly. `parts` are the parts concatenated along the axis (`qkv`,
    `kv`, or nothing), `heads` the numbers of heads into which it may be divided.
    """
    found = permutation(left, right, axis)
    if found is None:
        return None
    for name, order in named_orders(len(found), parts, heads):
        if np.array_equal(found, order):
            return name
    for count in heads:
        size = len(found) // (count * max(len(parts), 1))
        if size > 1 and len(found) % size == 0 and _whole_blocks(found, size):
            return f"its {count} heads are in another order"
    return f"its entries along axis {axis} are in another order"


def permutation(left: Array, right: Array, axis: int) -> Array | None:
    """Return p with right[i] = left[p[i]] along an axis, None if there is only the trivial one."""
    if left.shape != right.shape or left.ndim <= axis or left.shape[axis] < 2:
        return None
    rows = [np.ascontiguousarray(np.moveaxis(a, axis, 0)) for a in (left, right)]
    if prod(rows[0].shape[1:]) == 0:
        return None
    places: dict[bytes, list[int]] = {}
    for index, row in enumerate(rows[0]):
        places.setdefault(row.tobytes(), []).append(index)
    order = []
    for row in rows[1]:
        where = places.get(row.tobytes())
        if not where:
            return None
        order.append(where.pop(0))
    found = np.array(order)
    return None if np.array_equal(found, np.arange(len(found))) else found


def named_orders(size: int, parts: str, heads: Sequence[int]) -> Iterator[tuple[str, Array]]:
    """Yield (name, order) of every known order of an axis, by `entries[order]`."""
    index = np.arange(size)
    count = len(parts)
    if count > 1 and size % count == 0:
        rows = index.reshape(count, -1)
        for order in permutations(range(count)):
            if order != tuple(range(count)):
                names = ", ".join(parts[i] for i in order)
                yield f"{', '.join(parts)} are in the order {names}", rows[list(order)].ravel()
        names = _and(parts)
        yield f"{names} are interleaved instead of concatenated", rows.T.ravel()
        for head in heads:
            if (size // count) % head == 0:
                cut = index.reshape(count, head, -1).transpose(1, 0, 2)
                yield f"{names} are interleaved head by head instead of concatenated", cut.ravel()
    each = max(count, 1)
    for head in heads:
        if size % (each * head) == 0 and 1 < head < size // each:
            cut = index.reshape(each, head, -1)
            yield f"its {head} heads are interleaved by channel", cut.transpose(0, 2, 1).ravel()
            yield f"its {head} heads are in reverse order", cut[:, ::-1].ravel()
    yield "is reversed", index[::-1]


def _and(names: str) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _whole_blocks(order: Array, size: int) -> bool:
    blocks = order.reshape(-1, size)
    return bool((blocks[:, :1] % size == 0).all() and (np.diff(blocks, axis=1) == 1).all())
