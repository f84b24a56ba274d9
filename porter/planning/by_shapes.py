"""The variants whose tensors have the shapes that a file has, whatever its names are.

A program of Paddle has names of its own. Which tensor is which follows from its graph, once the
variant is known; the variant follows from how many tensors of each shape there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture, all_variants
from porter.zoo.skeleton import Dim

_Key = tuple[int, ...]


def variants_of(shapes: Iterable[Shape]) -> list[Architecture]:
    """Return the variants that have tensors of these shapes, transposed or not.

    `shapes` are those of the floating tensors. Variants whose usual image size is the file's come
    alone, if there are any.
    """
    given = Counter(map(_key, shapes))
    for usual in (True, False):
        fitting = [v for v in all_variants().values() if _fits(v, given, usual)]
        if fitting:
            return [v for v in fitting if not v.study] or fitting
    return []


def _key(shape: Shape) -> _Key:
    return tuple(sorted(size for size in shape if size != 1))


def _fits(variant: Architecture, given: Counter[_Key], usual: bool) -> bool:
    """Whether every tensor of a variant has a counterpart, and what is left can be explained."""
    tensors = variant.skeleton().tensors
    optional = sum(tensor.constant or bool(tensor.feature) for tensor in tensors)
    needed = [
        tensor.dims
        for tensor in tensors
        if not tensor.constant and not tensor.feature and DTYPES[tensor.dtype].is_float
    ]
    fixed = [dims for dims in needed if not any(isinstance(size, str) for size in dims)]
    if not _counted(fixed, {}) <= given:
        return False
    for symbols in _sizes(variant, given, usual):
        wanted = _counted(needed, symbols)
        if wanted <= given and (given - wanted).total() <= optional:
            return True
    return False


def _counted(dims: Iterable[tuple[Dim, ...]], symbols: Mapping[str, int]) -> Counter[_Key]:
    """Return how many tensors there are of each shape."""
    return Counter(
        _key(tuple(symbols[size] if isinstance(size, str) else size for size in shape))
        for shape in dims
    )


def _sizes(variant: Architecture, given: Counter[_Key], usual: bool) -> Iterator[dict[str, int]]:
    """Yield the sizes that the symbols of a skeleton may have in a file."""
    known, places = variant.skeleton().symbols, variant.positions
    positions: Iterable[int] = [0]
    if places is not None and "positions" in known:
        positions = {size for key in given for size in key}
        positions = [places.count(variant.image_size)] if usual else sorted(positions)
    alone = sorted(key[0] for key in given if len(key) == 1)
    for classes in alone if "classes" in known else [0]:
        for count in positions:
            yield {**dict.fromkeys(known, 0), "classes": classes, "positions": count}
