"""Which tensors of two files belong together: by their values, then by what lies around them.

Nothing found by names, shapes or order alone is called proven.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations, zip_longest
from math import prod

from porter.infer.anchors import Anchors, Module
from porter.infer.evidence import Print, Relation, orders, relation
from porter.infer.side import Side, Tie, letter
from porter.tensors.lazy import Shape

_Key = Callable[[Side, Mapping[str, str]], Hashable]
_OTHER_VALUES = "by shape and order, the files hold other values"
_SAME_VALUES = "its values alone do not tell it from others"
_SAME_NAME = "by name alone, the files hold other values"
_BY_NAME = "by the names of q, k and v, the files hold other values"
_MOST_PARTS = 4
_MOST_SIBLINGS = 8


class Pairing:
    """The ties between two files, found step by step; `free` holds what has none yet."""

    def __init__(self, left: Side, right: Side) -> None:
        self.left, self.right = left, right
        self.ties: list[Tie] = []
        self.free_left = dict.fromkeys(left.state)
        self.free_right = dict.fromkeys(right.state)

    def run(self) -> None:
        """Tie all that can be tied, the surest first.

        Where most values are the same, one that is not has no partner: shapes are not asked.
        """
        self._unique()
        self._parts()
        self._siblings()
        self._same_names(_values, "")
        self._alike(_values, _SAME_VALUES)
        self._siblings()
        if len(self.free_left) > len(self.left.state) / 2:
            self._same_names(_shapes, _SAME_NAME)
            self._alike(_shapes, _OTHER_VALUES)
            self._fused()
            self._siblings()
            self._alike(_shapes, _OTHER_VALUES)
            self._siblings()

    def tie(self, lefts: Sequence[str], rights: Sequence[str], how: Relation, doubt: str) -> None:
        """Record a tie; its tensors are no longer free."""
        self.ties.append(Tie(tuple(lefts), tuple(rights), how, doubt))
        for name in lefts:
            del self.free_left[name]
        for name in rights:
            del self.free_right[name]

    def relate(self, lefts: Sequence[str], rights: Sequence[str]) -> Relation | None:
        """Compare the values of tensors of both sides."""
        return relation(
            [self.left.state[name] for name in lefts], [self.right.state[name] for name in rights]
        )

    # By values

    def _unique(self) -> None:
        """Tie tensors whose elements stand nowhere else."""
        theirs = _grouped(self.free_right, lambda name: self.right.prints[name].key)
        for key, lefts in _grouped(self.free_left, lambda name: self.left.prints[name].key).items():
            rights = theirs.get(key, [])
            if len(lefts) == len(rights) == 1 and not self.left.prints[lefts[0]].flat:
                how = self.relate(lefts, rights)
                if how is not None:
                    self.tie(lefts, rights, how, "")

    def _parts(self) -> None:
        """Tie one tensor with several whose elements it holds, on either side."""
        for swap in (False, True):
            whole, parts = (self.right, self.left) if swap else (self.left, self.right)
            free = self._free(whole)
            wholes = _grouped(
                (name for name in free if not whole.prints[name].flat),
                lambda name, side=whole: side.prints[name].key,  # type: ignore[misc]
            )
            for siblings in list(self._sibling_groups(parts, self._free(parts))):
                for chosen in _subsets(siblings):
                    if all(part in self._free(parts) for part in chosen):
                        self._whole(chosen, parts, wholes, swap)

    def _free(self, side: Side) -> dict[str, None]:
        return self.free_left if side is self.left else self.free_right

    def _whole(
        self, parts: Sequence[str], side: Side, wholes: Mapping[Hashable, list[str]], swap: bool
    ) -> None:
        prints = [side.prints[part] for part in parts]
        total = sum(p.total for p in prints) % (1 << 64)
        found = wholes.get((prints[0].dtype, sum(p.size for p in prints), total), [])
        if len(found) != 1 or found[0] not in (self.free_right if swap else self.free_left):
            return
        for ordered in permutations(parts):
            lefts, rights = (ordered, found) if swap else (found, ordered)
            how = self.relate(lefts, rights)
            if how is not None:
                self.tie(lefts, rights, how, "")
                return

    @staticmethod
    def _sibling_groups(side: Side, free: Iterable[str]) -> Iterator[list[str]]:
        def family(name: str) -> Hashable:
            place = side.place(name)
            return side.parents(place.path)[0], place.leaf

        for names in _grouped(free, family).values():
            if len(names) > 1:
                yield sorted(names, key=side.order.__getitem__)

    # By what lies around

    def _siblings(self) -> None:
        """Tie the other parameters of modules one of whose parameters is tied already."""
        for tie in list(self.ties):
            places = [self.left.place(name) for name in tie.lefts]
            leaf = places[0].leaf
            if not leaf or any(place.leaf != leaf for place in places):
                continue
            for other in self.left.convention.kinds["batchnorm"]:
                lefts = [self._named(self.left, p.path, other) for p in places]
                if all(name in self.free_left for name in lefts):
                    self._sibling(tie, leaf, other, lefts)

    def _sibling(self, tie: Tie, leaf: str, other: str, lefts: Sequence[str]) -> None:
        for rights in self._beside(tie, leaf, other):
            if not all(name in self.free_right for name in rights):
                continue
            how = self.relate(lefts, rights)
            if how is None and tie.doubt:
                how = self._by_shape(lefts, rights, tie.relation.join)
            if how is not None:
                self.tie(lefts, rights, how, tie.doubt)
                return

    def _beside(self, tie: Tie, leaf: str, other: str) -> Iterator[list[str]]:
        """Yield what the right side may call another parameter of a tie's modules."""
        places = [self.right.place(name) for name in tie.rights]
        ends = {end for end, own in self.right.leaves.items() if own == other}
        for end in sorted(ends):
            if all(place.leaf for place in places):
                yield [f"{p.path}{self.right.convention.separator}{end}" for p in places]
            else:
                yield [re.sub(rf"{leaf}$", end, name) for name in tie.rights]

    @staticmethod
    def _named(side: Side, path: str, leaf: str) -> str:
        ends = [end for end, own in side.leaves.items() if own == leaf]
        names = [f"{path}{side.convention.separator}{end}" for end in ends]
        return next((name for name in names if name in side.state), "")

    # By likeness

    def _same_names(self, key: _Key, doubt: str) -> None:
        """Tie modules that look the same and are called the same."""
        theirs = {m.path: (kind, m) for kind, found in self._modules(self.right, key).items()
                  for m in found}  # fmt: skip
        for kind, mine in self._modules(self.left, key).items():
            pairs = [(m, theirs[m.path][1]) for m in mine if theirs.get(m.path, ("",))[0] == kind]
            self._tie_modules(pairs, doubt)

    def _alike(self, key: _Key, doubt: str) -> None:
        """Tie modules that look the same by what is tied around them, then by their order."""
        while self._near(key, doubt) or self._in_order(key, doubt):
            pass

    def _near(self, key: _Key, doubt: str) -> bool:
        """Tie modules under paths that are known to belong together; false if none was."""
        before = len(self.ties)
        proven = [tie for tie in self.ties if not tie.doubt]
        for ties in (proven, self.ties):
            anchors = Anchors(self.left, self.right, ties)
            rights = self._modules(self.right, key)
            for kind, mine in self._modules(self.left, key).items():
                for pairs, only in anchors.near(mine, rights.get(kind, [])):
                    sure = only and ties is proven and key is _values
                    if sure or ties is self.ties:
                        self._tie_modules(pairs, "" if sure else doubt)
        return len(self.ties) > before

    def _in_order(self, key: _Key, doubt: str) -> bool:
        """Tie the modules of one look that are fewest, in order; false if there are none."""
        anchors = Anchors(self.left, self.right, self.ties)
        lefts, rights = self._modules(self.left, key), self._modules(self.right, key)
        for kind in sorted(lefts, key=lambda kind: (_ways(lefts[kind]), len(lefts[kind]))):
            before = len(self.ties)
            self._tie_modules(anchors.ordered(lefts[kind], rights.get(kind, [])), doubt)
            if len(self.ties) > before:
                return True
        return False

    def _modules(self, side: Side, key: _Key) -> dict[Hashable, list[Module]]:
        """Return the modules that are free, by their look, in order."""
        free = self.free_left if side is self.left else self.free_right
        modules: dict[str, dict[str, str]] = {}
        for name in sorted(free, key=side.order.__getitem__):
            place = side.place(name)
            if place.leaf != "num_batches_tracked":  # only PyTorch counts them
                modules.setdefault(place.path, {})[place.leaf] = name
        found: dict[Hashable, list[Module]] = {}
        for path, names in modules.items():
            found.setdefault(key(side, names), []).append(Module(path, names))
        return found

    def _tie_modules(self, pairs: Iterable[tuple[Module, Module]], doubt: str) -> None:
        for one, other in pairs:
            for leaf, name in one.names.items():
                there = other.names[leaf]
                how = self.relate([name], [there]) or self._by_shape([name], [there], "")
                if how is not None:
                    self.tie([name], [there], how, doubt)

    def _by_shape(self, lefts: Sequence[str], rights: Sequence[str], join: str) -> Relation | None:
        """Return which orders of the axes the shapes allow, where the values say nothing."""
        one = [self.left.prints[name].shape for name in lefts]
        other = [self.right.prints[name].shape for name in rights]
        if len(one) == len(other) == 1:
            chains = tuple(orders(one[0], other[0]))
            return Relation("", chains) if chains else None
        if not all(one) or not all(other):
            return None
        sizes, whole, many = _lengths(one, other)
        if sum(sizes) != whole[0] or not join.startswith("concat"):
            return None
        parts = other if len(one) == 1 else [other[0]]
        shapes: list[Shape] = [(size, *whole[1:]) for size in sizes] if many else [whole]
        found = [set(orders(s, p)) for s, p in zip_longest(shapes, parts, fillvalue=())]
        chains = tuple(c for c in orders(shapes[0], parts[0]) if all(c in own for own in found))
        said = "" if len(set(sizes)) == 1 else f" sizes {','.join(map(str, sizes))}"
        return Relation(f"concat 0{said}", chains) if chains else None

    def _fused(self) -> None:
        """Tie q, k and v with what holds the three, by their names and sizes."""
        anchors = Anchors(self.left, self.right, self.ties)
        for swap in (False, True):
            whole, many = (self.right, self.left) if swap else (self.left, self.right)
            for siblings in list(self._sibling_groups(many, self._free(many))):
                parts = [name for name in siblings if letter(many, name)]
                parts.sort(key=lambda name, side=many: "qkv".index(letter(side, name)))  # type: ignore[misc]
                if len({letter(many, name) for name in parts}) < max(len(parts), 2):
                    continue
                fitting = [
                    name
                    for name in self._free(whole)
                    if _holds(whole.prints[name], [many.prints[part] for part in parts])
                    and anchors.agree(*((parts[0], name) if swap else (name, parts[0])))
                ]
                lefts, rights = (parts, fitting) if swap else (fitting, parts)
                how = self._by_shape(lefts, rights, "concat 0") if len(fitting) == 1 else None
                if how is not None:
                    self.tie(lefts, rights, how, _BY_NAME)


def _holds(whole: Print, parts: Sequence[Print]) -> bool:
    """Whether a tensor has the size and number of axes of several together."""
    size = sum(part.size for part in parts)
    return whole.size == size and len(whole.shape) == len(parts[0].shape)


def _values(side: Side, names: Mapping[str, str]) -> Hashable:
    """Return a module's look by its values."""
    return tuple(sorted((leaf, side.prints[name].key) for leaf, name in names.items()))


def _shapes(side: Side, names: Mapping[str, str]) -> Hashable:
    """Return a module's look by its shapes, whatever the order of the axes."""
    return tuple(sorted((leaf, tuple(sorted(side.prints[n].shape))) for leaf, n in names.items()))


def _ways(modules: Iterable[Module]) -> int:
    """Return how many modules there are when numbers do not count."""
    return len({re.sub("[0-9]+", "#", module.path) for module in modules})


def _lengths(one: Sequence[Shape], other: Sequence[Shape]) -> tuple[list[int], Shape, bool]:
    """Return the sizes of the parts along the first axis, the whole's shape, whether it splits."""
    if len(one) == 1:
        row = prod(one[0][1:]) or 1
        return [prod(shape) // row for shape in other], one[0], True
    sizes = [shape[0] for shape in one]
    return sizes, (sum(sizes), *one[0][1:]), False


def _grouped(names: Iterable[str], key: Callable[[str], Hashable]) -> dict[Hashable, list[str]]:
    found: dict[Hashable, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the sets of two to four siblings, neighbours first; only neighbours of many."""
    for size in range(_MOST_PARTS, 1, -1):
        runs = [tuple(names[start : start + size]) for start in range(len(names) - size + 1)]
        yield from runs
        if len(names) <= _MOST_SIBLINGS:
            yield from (s for s in combinations(names, size) if s not in runs)
