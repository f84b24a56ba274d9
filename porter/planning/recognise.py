"""Recognise by names and shapes which variant and dialect a checkpoint is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import prod
from operator import itemgetter
from typing import NamedTuple

from porter.errors import PorterError
from porter.mapping.prefix import likely_prefixes, without_words
from porter.mapping.signature import NEAR, Likeness, likenesses, plain
from porter.mapping.table import CANONICAL
from porter.planning.plan import Plan, link_variant, plan
from porter.planning.sizes import Shapes
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, families, find
from porter.zoo.image_size import Size
from porter.zoo.skeleton import Dim, symbol_of

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
    image_size: Size | None = None
    prefix: str = ""
    """What is before the names of the variant's tensors."""


def shapes_of(state: StateDict) -> Shapes:
    """Return {name: (dtype name, shape)} of a state dict."""
    return {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}


def recognise(source: Shapes, among: Iterable[Architecture] | None = None) -> list[Match]:
    """Return the variants that a checkpoint fits, best first; inexact ones if none fits.

    Several variants may have the same tensors (ViT-B/16 and DeiT-B): all are returned, those
    whose default image size and classes are the checkpoint's first, and forms of which no weights
    are published last. Names select the families, the number of elements the variants that are
    worth a plan.
    """
    groups = families() if among is None else _grouped(among)
    found = _recognised(source, groups)
    if found and found[0].exact:
        return found
    names, _ = without_words(source)
    below = []
    for prefix in ("", *likely_prefixes(names)):
        part = {n[len(prefix) :]: source[old] for n, old in names.items() if n.startswith(prefix)}
        matches = _recognised(part, groups)
        below += [match._replace(prefix=prefix) for match in matches if match.exact]
    return below or found


def _recognised(source: Shapes, groups: Mapping[str, list[Architecture]]) -> list[Match]:
    """Return the variants that names as they are fit."""
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
        order = [
            (m.architecture.study, -round(m.overlap, 1), -_natural(m), -m.overlap) for m in exact
        ]
        return [match for _, match in sorted(zip(order, exact, strict=True), key=itemgetter(0))]
    if near is None or near.common <= NEAR:
        return []
    return [Match(groups[near.family][0], near.dialect, False, near.common)]


def preferred(matches: Iterable[Match], format: str) -> Match:
    """Return the match whose framework's naming is usual in a format, the first if none is."""
    framework = {"paddle": "paddle", "npz": "flax"}.get(format, "torch")
    return min(
        matches,
        key=lambda m: m.architecture.table.dialect(m.dialect).convention.framework != framework,
    )


def best_dialect(architecture: Architecture, source: Shapes, prefer: str) -> str:
    """Return the dialect of a variant that a checkpoint is in, `prefer` if none fits better."""
    for dialect in dict.fromkeys([prefer, *architecture.dialects]):
        try:
            plan(architecture, source, dialect, CANONICAL)
        except PorterError:
            continue
        return dialect
    mine = {plain(name) for name in source}
    dialects = architecture.dialects
    shared = {d: len(mine & _signature(architecture.name, d)) for d in dialects}
    best = max(dialects, key=lambda d: shared[d])
    return best if shared[best] > shared.get(prefer, 0) else prefer


def _exact(
    source: Shapes, variants: Iterable[Architecture], dialect: str, common: float
) -> list[Match]:
    matches = []
    elements = sum(prod(shape) for dtype, shape in source.values() if DTYPES[dtype].is_float)
    for architecture in variants:
        fixed, most = _elements(architecture.name)
        least = 0 if architecture.table.dialect(dialect).folds else _SLACK * fixed
        if not least <= elements <= most:
            continue
        fits = _planned(architecture, source, dialect)
        if fits is not None:
            sizes = fits.num_classes, fits.image_size
            matches.append(Match(architecture, dialect, True, common, *sizes))
    return matches


def _planned(architecture: Architecture, source: Shapes, dialect: str) -> Plan | None:
    """Return the plan of a checkpoint, perhaps of one without classifier; None if none fits."""
    for num_classes in (None, 0):
        try:
            return plan(architecture, source, dialect, CANONICAL, num_classes=num_classes)
        except PorterError:
            continue
    return None


@cache
def _elements(variant: str) -> tuple[int, int]:
    """Return how many elements a variant has whatever its classes and positions, and at most.

    The double of the count leaves room for buffers and for tensors that only a dialect has.
    """
    tensors = [t for t in find(variant).skeleton().tensors if not t.constant]
    fixed = sum(_size(t.dims, {}) for t in tensors if not t.feature)
    symbols = find(variant).skeleton().symbols
    most = {**dict.fromkeys(symbols, _MOST_POSITIONS), "classes": _MOST_CLASSES}
    whole = sum(_size(t.dims, most) for t in tensors)
    return fixed, 2 * whole


def _size(dims: tuple[Dim, ...], symbols: Mapping[str, int]) -> int:
    """Return the elements of a shape; none where a symbol has no size."""
    return prod(d if isinstance(d, int) else symbols.get(symbol_of(d)[0], 0) for d in dims)


def _natural(match: Match) -> int:
    """Return how many of image size (which counts double) and classes are the variant's."""
    variant = match.architecture
    same_size = match.image_size == variant.image_size
    return 2 * same_size + (match.num_classes == variant.num_classes)


def _grouped(variants: Iterable[Architecture]) -> dict[str, list[Architecture]]:
    groups: dict[str, list[Architecture]] = {}
    for architecture in variants:
        groups.setdefault(architecture.family, []).append(architecture)
    return groups


@cache
def _signature(variant: str, dialect: str) -> frozenset[str]:
    return frozenset(map(plain, link_variant(find(variant), dialect).by_dialect))
