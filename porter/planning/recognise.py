"""Recognise by names and shapes which variant and dialect a checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import prod
from operator import itemgetter
from typing import NamedTuple

from porter.errors import PorterError
from porter.mapping.prefix import likely_prefixes, without_words
from porter.mapping.signature import NEAR, Elements, Likeness, elements, likenesses, plain
from porter.mapping.table import CANONICAL, Extra
from porter.planning.plan import Plan, is_ruled_out, link_variant, plan
from porter.planning.sizes import Shapes
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find, of_family
from porter.zoo.image_size import Size
from porter.zoo.skeleton import Dim, symbol_of

_SLACK = 0.9
_MOST_CLASSES = 30_000
_MOST_POSITIONS = 20_000
_SPLIT = 4
"""How many tensors a dialect may split a table of classes or positions into."""


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
    variants = of_family if among is None else _grouped(among)
    found = _recognised(source, variants)
    if found and found[0].exact:
        return found
    names, _ = without_words(source)
    below = []
    for prefix in ("", *likely_prefixes(names)):
        part = {n[len(prefix) :]: source[old] for n, old in names.items() if n.startswith(prefix)}
        matches = _recognised(part, variants)
        below += [match._replace(prefix=prefix) for match in matches if match.exact]
    return below or found


def _recognised(source: Shapes, variants: Callable[[str], list[Architecture]]) -> list[Match]:
    """Return the variants, of those of each family, that names as they are fit."""
    exact: list[Match] = []
    near: Likeness | None = None
    for one in likenesses(source):
        if one.complete:
            exact += _exact(source, variants(one.family), one.dialect, one.common)
        nearer = near is None or one.common > near.common
        if nearer and one.common > NEAR and variants(one.family):
            near = one
    if exact:
        order = [
            (m.architecture.study, -round(m.overlap, 1), -_natural(m), -m.overlap) for m in exact
        ]
        return [match for _, match in sorted(zip(order, exact, strict=True), key=itemgetter(0))]
    if near is None:
        return []
    return [Match(variants(near.family)[0], near.dialect, False, near.common)]


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
    variants = tuple(variants)
    sizes = _sizes(source, variants[0].table.dialect(dialect).extra if variants else ())
    number, largest = sum(sizes), _SPLIT * max(sizes, default=0)
    for architecture in variants:
        known = elements(architecture.family).get(architecture.name) or elements_of(architecture)
        # The double leaves room for buffers and for tensors that only a dialect has.
        if number > 2 * (known.fixed + sum(min(table, largest) for table in known.tables)):
            continue
        if number < _SLACK * known.fixed and not architecture.table.dialect(dialect).folds:
            continue
        fits = _planned(architecture, source, dialect)
        if fits is not None:
            match = Match(architecture, dialect, True, common, fits.num_classes, fits.image_size)
            matches.append(match)
    return matches


def _sizes(source: Shapes, extra: Sequence[Extra]) -> list[int]:
    """Return the elements of each tensor of a checkpoint, those aside that only training has.

    A recogniser's second head may be ten times as large as the model.
    """
    return [
        prod(shape)
        for name, (dtype, shape) in source.items()
        if DTYPES[dtype].is_float and not any(one.match(name) for one in extra)
    ]


def _planned(architecture: Architecture, source: Shapes, dialect: str) -> Plan | None:
    """Return the plan of a checkpoint, perhaps of one without classifier; None if none fits."""
    for num_classes in (None, 0):
        try:
            if num_classes is None and is_ruled_out(architecture, source, dialect):
                return None
            return plan(architecture, source, dialect, CANONICAL, num_classes=num_classes)
        except PorterError:
            continue
    return None


def elements_of(architecture: Architecture) -> Elements:
    """Count the elements of a variant; those of built-in variants are counted already."""
    skeleton = architecture.skeleton()
    tensors = [t for t in skeleton.tensors if not t.constant]
    most = {**dict.fromkeys(skeleton.symbols, _MOST_POSITIONS), "classes": _MOST_CLASSES}
    always = {t.name: 0 if t.feature else _size(t.dims, {}) for t in tensors}
    tables = tuple(_size(t.dims, most) for t in tensors if not always[t.name])
    return Elements(sum(always.values()), tables)


def _size(dims: tuple[Dim, ...], symbols: Mapping[str, int]) -> int:
    """Return the elements of a shape; none where a symbol has no size."""
    return prod(d if isinstance(d, int) else symbols.get(symbol_of(d)[0], 0) for d in dims)


def _natural(match: Match) -> int:
    """Return how many of image size (which counts double) and classes are the variant's."""
    variant = match.architecture
    same_size = match.image_size == variant.image_size
    return 2 * same_size + (match.num_classes == variant.num_classes)


def _grouped(variants: Iterable[Architecture]) -> Callable[[str], list[Architecture]]:
    groups: dict[str, list[Architecture]] = {}
    for architecture in variants:
        groups.setdefault(architecture.family, []).append(architecture)
    return lambda family: groups.get(family, [])


@cache
def _signature(variant: str, dialect: str) -> frozenset[str]:
    return frozenset(map(plain, link_variant(find(variant), dialect).by_dialect))
