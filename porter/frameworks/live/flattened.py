"""Matrices that see a whole feature map: a Linear after flattening, a convolution of its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from porter.frameworks.live.recipes import Ops, Option, Recipe
from porter.frameworks.live.units import Unit
from porter.tensors.lazy import Shape

_MOST = 6
"""Numbers of channels that a flattened input may have had."""


def channel_counts(units: Sequence[Unit]) -> list[int]:
    """Return how many channels a feature map of a model may have, those of the last layer first."""
    counts = (
        unit.shapes["weight"][0] for unit in reversed(units)
        if unit.kind in ("conv", "batchnorm") and "weight" in unit.shapes
    )  # fmt: skip
    return list(dict.fromkeys(counts))[:_MOST]


def flattened(left: Unit, right: Unit, channels: Sequence[int]) -> Iterator[Option]:
    """Yield the options of matrices that see whole feature maps.

    Columns are by channel and place, or by place and channel; `channels` are the numbers of them
    that there may be.
    """
    size = _columns(left)
    if size is None or size != _columns(right) or set(left.roles) != set(right.roles):
        return
    before, after = (("transpose",) if unit.flipped else () for unit in (left, right))
    if left.kind == right.kind == "linear":
        chains = list(_reordered(size[1], channels))
    elif left.kind == right.kind:
        return
    else:
        chains = _reshaped(left.shapes["weight"], right.shapes["weight"], size)
    names = {role: (left.roles[role], right.roles[role]) for role in right.roles}
    for place, chain in enumerate(chains):
        recipes = {
            made: Recipe((given,), ops=(*before, *chain, *after) if role == "weight" else ())
            for role, (given, made) in names.items()
        }
        yield Option(
            (left.key,), recipes, left.inputs[0] if left.inputs else None,
            spans=((left.key, 0, size[0]),), variant=f"map {place}",
        )  # fmt: skip


def _columns(unit: Unit) -> tuple[int, int] | None:
    """Return (out, columns) of a matrix whose columns may be those of a map; None for others."""
    shape = unit.shapes.get("weight", ())
    if set(unit.roles) - {"weight", "bias"}:
        return None
    if unit.kind == "conv" and len(shape) > 2 and prod(shape[2:]) > 1:
        return shape[0], prod(shape[1:])
    return (
        None if unit.kind != "linear" or unit.matrix is None else (unit.matrix[0], unit.matrix[1])
    )


def _reordered(columns: int, channels: Sequence[int]) -> Iterator[Ops]:
    """Yield what makes columns by place of columns by channel, and the other way round."""
    for count in channels:
        if 1 < count < columns and columns % count == 0:
            yield from ((f"regroup 1 {n},* -> 1,0",) for n in (count, columns // count))


def _reshaped(source: Shape, target: Shape, size: tuple[int, int]) -> list[Ops]:
    """Return what makes a matrix (out, columns) of a kernel, or a kernel of a matrix."""
    out, channels, *window = source if len(source) > 2 else target
    axes = range(2, 2 + len(window))
    flat = ",".join(map(str, size))
    plain, moved = (",".join(map(str, s)) for s in
                    ((out, channels, *window), (out, *window, channels)))  # fmt: skip
    if len(source) > 2:
        last = f"permute 0 {' '.join(map(str, axes))} 1"
        return [(f"reshape {plain} -> {flat}",), (last, f"reshape {moved} -> {flat}")]
    first = f"permute 0 {1 + len(window)} {' '.join(str(a - 1) for a in axes)}"
    return [(f"reshape {flat} -> {plain}",), (f"reshape {flat} -> {moved}", first)]
