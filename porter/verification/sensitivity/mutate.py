"""Faults that a port can give to a tensor, as the values that the target would then have.

One set of mutations serves the proof that each would be caught (`porter table check --prove`)
and the diagnosis of a port whose weights are not available.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.mapping.layers import place_of
from porter.mapping.table import Table
from porter.tensors.blocks import Array
from porter.verification.diagnose.orders import named_orders

SCALE = 1.01
"""How much a tensor's scale is perturbed."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """Canonical tensors with the values that a fault would give them."""

    name: str
    """The tensor at fault."""
    kind: str
    """`lost`, `swapped`, `transposed`, `reordered` or `scaled`."""
    what: str
    """The fault, as a clause."""
    remedy: str
    tensors: Mapping[str, Array] = field(default_factory=dict)


def mutations(
    table: Table,
    name: str,
    tensors: Mapping[str, Array],
    heads: tuple[int, ...] = (),
    siblings: tuple[str, ...] = (),
) -> Iterator[Mutation]:
    """Yield every mutation that applies to one canonical tensor.

    `siblings` are tensors of the same shape with which it may be confused.
    """
    value = tensors[name]
    place = place_of(table, name)
    kind, leaf = (place[0].kind, place[2]) if place is not None else ("parameter", "")
    yield _single(name, "lost", *_lost(leaf, kind), _default(leaf, kind, value))
    if value.ndim == 2 and value.shape[0] == value.shape[1]:
        yield _single(name, "transposed", "matches when transposed", "transpose it", value.T)
    for sibling in siblings:
        yield Mutation(
            name, "swapped", f"is swapped with {sibling}", "swap the two rows of the mapping",
            {name: tensors[sibling], sibling: value},
        )  # fmt: skip
    if value.ndim == 4 and value.shape[2] * value.shape[3] > 1:
        flipped = value[..., ::-1, ::-1]
        yield _single(name, "reordered", "matches when its kernel is flipped", "flip it", flipped)
    for what, order in _orders(name, value, heads):
        yield _single(name, "reordered", what, "reorder it as the source has it", value[order])
    yield _single(name, "scaled", f"is scaled by {SCALE}", "do not scale it", value * SCALE)


def _single(name: str, kind: str, what: str, remedy: str, value: Array) -> Mutation:
    return Mutation(name, kind, what, remedy, {name: np.array(value, order="C")})


def _lost(leaf: str, kind: str) -> tuple[str, str]:
    if leaf in ("running_mean", "running_var"):
        return "is at its default", "load the batch norm's statistics"
    return ("the bias was lost" if leaf == "bias" else "was not loaded"), "copy it from the source"


def _default(leaf: str, kind: str, value: Array) -> Array:
    """Return the values of a tensor that was not loaded; zeros stand for random weights."""
    ones = leaf == "running_var" or (leaf == "weight" and kind in ("norm", "batchnorm"))
    return np.ones_like(value) if ones else np.zeros_like(value)


def _orders(name: str, value: Array, heads: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """Yield the possible orders of q, k, v and heads."""
    if value.ndim not in (1, 2) or not re.search(r"att|lca", name, re.IGNORECASE):
        return
    module = name.split(".")[-2:-1]
    found = re.search("qkv|kv", module[0]) if module else None
    is_head_axis = bool(module) and re.fullmatch(r"(to_)?(q|k|v)\d*", module[0]) is not None
    if found is None and not is_head_axis:
        return
    for what, order in named_orders(len(value), found.group() if found else "", heads):
        if not np.array_equal(order, np.arange(len(value))):
            yield what, order
