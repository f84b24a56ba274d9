"""Which paths of one file correspond to which of the other, by the pairs under them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from porter.infer.tensor_file import Pair, TensorFile

_SURE = 0.5
"""Two paths belong together when more than this share of the pairs under either is under both."""


@dataclass(frozen=True)
class Module:
    """Tensors of one module that are not paired yet; a bare tensor counts as a module."""

    path: str
    names: Mapping[str, str]
    """{PyTorch's leaf: name}."""

    def __hash__(self) -> int:
        return hash(self.path)


ModulePairs = list[tuple[Module, Module]]


class Anchors:
    """{path of the left: path of the right}, the top ("") being one."""

    def __init__(self, left: TensorFile, right: TensorFile, pairs: Iterable[Pair]) -> None:
        self.left, self.right = left, right
        both: Counter[tuple[str, str]] = Counter()
        under_left: Counter[str] = Counter()
        under_right: Counter[str] = Counter()
        for pair in pairs:
            above = left.parents(pair.lefts[0]), right.parents(pair.rights[0])
            under_left.update(above[0])
            under_right.update(above[1])
            both.update((a, b) for a in above[0] for b in above[1])
        scores = (
            (count / (under_left[a] + under_right[b] - count), a, b)
            for (a, b), count in both.items()
        )
        ranked = sorted(
            ((_rank(a, b, score), a, b) for score, a, b in scores if score > _SURE), reverse=True
        )
        self.best = {"": ""}
        self.certain = set[str]()
        """Paths all of whose pairs are under the other's path, and the other way round."""
        for (score, *_), a, b in ranked:
            if self.best.setdefault(a, b) == b and score == 1:
                self.certain.add(a)
        deepest = sorted(self.best, key=left.depth, reverse=True)
        self._place = {path: place for place, path in enumerate(deepest)}

    def agree(self, left: str, right: str) -> bool:
        """Whether the nearest known path above the left tensor is above the right one too."""
        for path in self.left.parents(left):
            if path in self.best:
                return self.best[path] in self.right.parents(right)
        return True

    def near(
        self, lefts: Sequence[Module], rights: Sequence[Module]
    ) -> Iterator[tuple[ModulePairs, bool]]:
        """Yield the modules that belong together under known paths, the deepest paths first.

        The flag is true where there is no other choice under a path that is certain.
        """
        under_left, under_right = _under(self.left, lefts), _under(self.right, rights)
        paths = [path for path in under_left if path in self._place and path]
        paired: set[int] = set()
        for path in sorted(paths, key=self._place.__getitem__):
            below = [m for m in under_left[path] if id(m) not in paired]
            opposite = [m for m in under_right.get(self.best[path], ()) if id(m) not in paired]
            pairs = self.ordered(below, opposite)
            if pairs:
                yield pairs, len(below) == len(opposite) == 1 and path in self.certain
                paired.update(id(module) for pair in pairs for module in pair)

    def ordered(self, lefts: Sequence[Module], rights: Sequence[Module]) -> ModulePairs:
        """Pair modules of one name, then the rest in order where both sides have as many."""
        counts = [
            Counter(side.last(m.path) for m in modules)
            for side, modules in ((self.left, lefts), (self.right, rights))
        ]
        by_name = {self.right.last(m.path): m for m in rights}
        named = [
            (module, by_name[last])
            for module, last in ((m, self.left.last(m.path)) for m in lefts)
            if counts[0][last] == counts[1][last] == 1
        ]
        paired = {id(module) for pair in named for module in pair}
        left = [m for m in lefts if id(m) not in paired]
        right = [m for m in rights if id(m) not in paired]
        return named + (list(zip(left, right, strict=True)) if len(left) == len(right) else [])


def _under(file: TensorFile, modules: Iterable[Module]) -> dict[str, list[Module]]:
    """Return the modules under each path."""
    under: dict[str, list[Module]] = {}
    for module in modules:
        for path in file.parents(module.path):
            under.setdefault(path, []).append(module)
    return under


def _rank(left: str, right: str, score: float) -> tuple[float, bool, int]:
    """Order candidates: the surest, then those with as many numbers, then the shortest."""
    return score, _numbers(left) == _numbers(right), -len(right)


@lru_cache(1 << 16)
def _numbers(path: str) -> int:
    """Return how many numbers a path has."""
    return len(re.findall(r"[0-9]+", path))
