"""Pair tensors by their values: equal elements in any order, parts of a whole, siblings."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations, permutations

from porter.infer.pairs import Pairs, grouped, sibling_groups
from porter.infer.tensor_file import Pair, TensorFile

_MOST_PARTS = 4
_MOST_SIBLINGS = 8


def pair_unique(pairs: Pairs) -> None:
    """Pair tensors whose elements occur once in each file."""
    left, right = pairs.left, pairs.right
    of_right = grouped(pairs.free_right, lambda name: right.prints[name].key)
    for key, lefts in grouped(pairs.free_left, lambda name: left.prints[name].key).items():
        rights = of_right.get(key, [])
        if len(lefts) == len(rights) == 1 and not left.prints[lefts[0]].flat:
            how = pairs.relate(lefts, rights)
            if how is not None:
                pairs.add(lefts, rights, how, "")


def pair_parts(pairs: Pairs) -> None:
    """Pair one tensor with several that have its elements, on either side."""
    for whole, parts in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
        wholes = grouped(
            (name for name in pairs.free(whole) if not whole.prints[name].flat),
            lambda name, file=whole: file.prints[name].key,  # type: ignore[misc]
        )
        for siblings in list(sibling_groups(parts, pairs.free(parts))):
            for chosen in _subsets(siblings):
                if all(part in pairs.free(parts) for part in chosen):
                    _pair_whole(pairs, chosen, parts, wholes)


def _pair_whole(
    pairs: Pairs,
    parts: Sequence[str],
    file: TensorFile,
    wholes: Mapping[Hashable, list[str]],
) -> None:
    """Pair parts with the whole that has the sum of their fingerprints, in the order that fits."""
    prints = [file.prints[part] for part in parts]
    total = sum(p.total for p in prints) % (1 << 64)
    whole = wholes.get((prints[0].dtype, sum(p.size for p in prints), total), [])
    splits = file is pairs.right
    if len(whole) != 1 or whole[0] not in (pairs.free_left if splits else pairs.free_right):
        return
    for ordered in permutations(parts):
        lefts, rights = (whole, ordered) if splits else (ordered, whole)
        how = pairs.relate(lefts, rights)
        if how is not None:
            pairs.add(lefts, rights, how, "")
            return


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the sets of two to four siblings, neighbours first; of many, neighbours only."""
    for size in range(_MOST_PARTS, 1, -1):
        runs = [tuple(names[start : start + size]) for start in range(len(names) - size + 1)]
        yield from runs
        if len(names) <= _MOST_SIBLINGS:
            yield from (s for s in combinations(names, size) if s not in runs)


def pair_siblings(pairs: Pairs) -> None:
    """Pair the other parameters of modules of which one parameter is paired already."""
    for pair in list(pairs.found):
        places = [pairs.left.place(name) for name in pair.lefts]
        leaf = places[0].leaf
        if not leaf or any(place.leaf != leaf for place in places):
            continue
        for sibling in pairs.left.convention.kinds["batchnorm"]:
            lefts = [_existing(pairs.left, place.path, sibling) for place in places]
            if all(name in pairs.free_left for name in lefts):
                _pair_sibling(pairs, pair, leaf, sibling, lefts)


def _pair_sibling(pairs: Pairs, pair: Pair, leaf: str, sibling: str, lefts: Sequence[str]) -> None:
    for rights in _candidates(pairs.right, pair, leaf, sibling):
        if not all(name in pairs.free_right for name in rights):
            continue
        how = pairs.relate(lefts, rights)
        if how is None and pair.doubt:
            how = pairs.relate_shapes(lefts, rights, pair.relation.join)
        if how is not None:
            pairs.add(lefts, rights, how, pair.doubt)
            return


def _candidates(right: TensorFile, pair: Pair, leaf: str, sibling: str) -> Iterator[list[str]]:
    """Yield the names that another parameter of a pair's modules may have on the right."""
    places = [right.place(name) for name in pair.rights]
    for end in right.ends(sibling):
        if all(place.leaf for place in places):
            yield [f"{place.path}{right.convention.separator}{end}" for place in places]
        else:
            yield [re.sub(rf"{leaf}$", end, name) for name in pair.rights]


def _existing(file: TensorFile, path: str, leaf: str) -> str:
    """Return the name of a module's parameter, "" if the file has none."""
    names = [f"{path}{file.convention.separator}{end}" for end in file.ends(leaf)]
    return next((name for name in names if name in file.state), "")
