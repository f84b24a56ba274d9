"""Tell by names and shapes which variant and dialect a checkpoint is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import prod
from typing import NamedTuple

from porter.errors import PorterError
from porter.mapping.signature import NEAR, Likeness, likenesses, plain
from porter.mapping.table import CANONICAL
from porter.planning.plan import Shapes, link_variant, plan
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, families, find
from porter.zoo.skeleton import Dim

_SLACK = 0.9
_MOST_CLASSES = 30_000
_MOST_POSITIONS = 20_000


class Match(NamedTuple):
    """A variant and dialect that a checkpoint fits, exactly or nearly."""

    architecture: Architecture
    dialect: str
    exact: bool
    overlap: float
    """Share of layers' names, numbers left out, that the two have in common (0 to 1)."""
    num_classes: int | None = None
    image_size: int | None = None


def shapes_of(state: StateDict) -> Shapes:
    """Return {name: (dtype name, shape)} of a state dict."""
    return {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}


def recognise(source: Shapes, among: Iterable[Architecture] | None = None) -> list[Match]:
    """Return the variants that a checkpoint fits, best first; inexact ones if none fits.

    Several variants may have the same tensors (ViT-B/16 and DeiT-B): all are returned, those
    whose default image size and classes are the checkpoint's own first. Names say which families
    and the number of elements which variants are worth a plan.
    """
    groups = families() if among is None else _grouped(among)
    exact: list[Match] = []
    near: Likeness | None = None
    for one in likenesses(source):
        if one.family not in groups:
            continue
        if one.complete:
            exact += _exact(source, groups[one.family], one.dialect, one.common)
        if near is None or one.common > near.common:
            near = one
    if exact:
        return sorted(exact, key=lambda m: (-_natural(m), -m.overlap))
    if near is None or near.common <= NEAR:
        return []
    return [Match(groups[near.family][0], near.dialect, False, near.common)]


def best_dialect(architecture: Architecture, source: Shapes, prefer: str) -> str:
    """Return the dialect of a variant that a checkpoint is in, `prefer` if none fits better."""
    for dialect in dict.fromkeys([prefer, *architecture.table.dialects]):
        try:
            plan(architecture, source, dialect, CANONICAL)
        except PorterError:
            continue
        return dialect
    mine = {plain(name) for name in source}
    dialects = list(architecture.table.dialects)
    shared = {d: len(mine & _signature(architecture.name, d)) for d in dialects}
    best = max(dialects, key=lambda d: shared[d])
    return best if shared[best] > shared.get(prefer, 0) else prefer


def _exact(
    source: Shapes, variants: Iterable[Architecture], dialect: str, common: float
) -> list[Match]:
    found = []
    elements = sum(prod(shape) for dtype, shape in source.values() if DTYPES[dtype].is_float)
    for architecture in variants:
        fixed, most = _elements(architecture.name)
        if not _SLACK * fixed <= elements <= most:
            continue
        try:
            made = plan(architecture, source, dialect, CANONICAL)
        except PorterError:
            continue
        found.append(Match(architecture, dialect, True, common, made.num_classes, made.image_size))
    return found


@cache
def _elements(variant: str) -> tuple[int, int]:
    """Return how many elements a variant has whatever its classes and positions, and at most.

    Twice what is counted leaves room for buffers and for what only a dialect has.
    """
    entries = [e for e in find(variant).skeleton().entries if not e.constant]
    fixed = sum(_size(e.dims, {}) for e in entries if not e.feature)
    most = {"classes": _MOST_CLASSES, "positions": _MOST_POSITIONS}
    whole = sum(_size(e.dims, most) for e in entries)
    return fixed, 2 * whole


def _size(dims: tuple[Dim, ...], symbols: Mapping[str, int]) -> int:
    """Return the elements of a shape; none where a symbol has no size."""
    return prod(d if isinstance(d, int) else symbols.get(d, 0) for d in dims)


def _natural(match: Match) -> int:
    own = match.architecture
    return 2 * (match.image_size == own.image_size) + (match.num_classes == own.num_classes)


def _grouped(variants: Iterable[Architecture]) -> dict[str, list[Architecture]]:
    found: dict[str, list[Architecture]] = {}
    for architecture in variants:
        found.setdefault(architecture.family, []).append(architecture)
    return found


@cache
def _signature(variant: str, dialect: str) -> frozenset[str]:
    return frozenset(map(plain, link_variant(find(variant), dialect).by_dialect))
