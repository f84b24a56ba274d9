"""The pairs found between two files so far, and the tensors that have none yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from math import prod

from porter.infer.evidence import Print, Relation, orders, relation
from porter.infer.tensor_file import Pair, TensorFile
from porter.tensors.lazy import Shape


class Pairs:
    """Two files, their pairs in the order in which they were found, and their free tensors."""

    def __init__(self, left: TensorFile, right: TensorFile) -> None:
        self.left, self.right = left, right
        self.found: list[Pair] = []
        self.free_left = dict.fromkeys(left.state)
        self.free_right = dict.fromkeys(right.state)
        self.kinds: Mapping[str, str] | None = None
        """Kinds of the left's modules, where they are known by their types."""
        self.reasons: dict[str, str] = {}
        """Why tensors of one side have no partner, where that is known."""
        self.copies: dict[str, str] = {}
        """Tensors of the right that are others of the right under a second name."""
        self.shared: dict[str, str] = {}
        """The same of the left."""

    def add(self, lefts: Sequence[str], rights: Sequence[str], how: Relation, doubt: str) -> None:
        """Record a pair; its tensors are no longer free."""
        self.found.append(Pair(tuple(lefts), tuple(rights), how, doubt))
        for name in lefts:
            del self.free_left[name]
        for name in rights:
            del self.free_right[name]

    def free(self, file: TensorFile) -> dict[str, None]:
        """Return the free tensors of one of the files."""
        return self.free_left if file is self.left else self.free_right

    def relate(self, lefts: Sequence[str], rights: Sequence[str]) -> Relation | None:
        """Compare the values of tensors of both files."""
        return relation(
            [self.left.state[name] for name in lefts], [self.right.state[name] for name in rights]
        )

    def relate_shapes(
        self, lefts: Sequence[str], rights: Sequence[str], join: str
    ) -> Relation | None:
        """Return the orders of the axes that the shapes allow, where the values differ."""
        left = [self.left.prints[name].shape for name in lefts]
        right = [self.right.prints[name].shape for name in rights]
        if len(left) == len(right) == 1:
            chains = tuple(orders(left[0], right[0]))
            return Relation("", chains) if chains else None
        if not all(left) or not all(right):
            return None
        sizes, whole, many = _lengths(left, right)
        if sum(sizes) != whole[0] or not join.startswith("concat"):
            return None
        parts = right if len(left) == 1 else [right[0]]
        shapes: list[Shape] = [(size, *whole[1:]) for size in sizes] if many else [whole]
        possible = [set(orders(s, p)) for s, p in zip_longest(shapes, parts, fillvalue=())]
        chains = tuple(
            chain for chain in orders(shapes[0], parts[0]) if all(chain in one for one in possible)
        )
        suffix = "" if len(set(sizes)) == 1 else f" sizes {','.join(map(str, sizes))}"
        return Relation(f"concat 0{suffix}", chains) if chains else None


def _lengths(left: Sequence[Shape], right: Sequence[Shape]) -> tuple[list[int], Shape, bool]:
    """Return the sizes of the parts along the first axis, the whole's shape, whether it splits."""
    if len(left) == 1:
        row = prod(left[0][1:]) or 1
        return [prod(shape) // row for shape in right], left[0], True
    sizes = [shape[0] for shape in left]
    return sizes, (sum(sizes), *left[0][1:]), False


def sibling_groups(file: TensorFile, free: Iterable[str]) -> Iterator[list[str]]:
    """Yield tensors of one leaf whose modules have one parent, in order, where they are several."""

    def family(name: str) -> Hashable:
        place = file.place(name)
        return file.parents(place.path)[0], place.leaf

    for names in grouped(free, family).values():
        if len(names) > 1:
            yield sorted(names, key=file.order.__getitem__)


def grouped(names: Iterable[str], key: Callable[[str], Hashable]) -> dict[Hashable, list[str]]:
    """Return the names of each key, in order."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def fits_together(whole: Print, parts: Sequence[Print]) -> bool:
    """Whether a tensor has the size and number of axes of several together."""
    size = sum(part.size for part in parts)
    return whole.size == size and len(whole.shape) == len(parts[0].shape)
