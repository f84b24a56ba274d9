"""Which paths of one file correspond to which of the other, by the pairs under them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
        ranked = sorted(
            (
                (_rank(a, b, count / (under_left[a] + under_right[b] - count)), a, b)
                for (a, b), count in both.items()
            ),
            reverse=True,
        )
        self.best = {"": ""}
        self.certain = set[str]()
        """Paths all of whose pairs are under the other's path, and the other way round."""
        for (score, *_), a, b in ranked:
            if score > _SURE and self.best.setdefault(a, b) == b and score == 1:
                self.certain.add(a)

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
        rest, others = list(lefts), list(rights)
        for path in sorted((p for p in self.best if p), key=self._depth, reverse=True):
            below = [m for m in rest if path in self.left.parents(m.path)]
            opposite = [m for m in others if self.best[path] in self.right.parents(m.path)]
            pairs = self.ordered(below, opposite)
            if pairs:
                yield pairs, len(below) == len(opposite) == 1 and path in self.certain
                rest = [m for m in rest if all(m is not left for left, _ in pairs)]
                others = [m for m in others if all(m is not right for _, right in pairs)]

    def _depth(self, path: str) -> int:
        return path.count(self.left.convention.separator)

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
        left = [m for m in lefts if all(m is not known for known, _ in named)]
        right = [m for m in rights if all(m is not known for _, known in named)]
        return named + (list(zip(left, right, strict=True)) if len(left) == len(right) else [])


def _rank(left: str, right: str, score: float) -> tuple[float, bool, int]:
    """Order candidates: the surest, then those with as many numbers, then the shortest."""
    numbers = [len(re.findall(r"[0-9]+", path)) for path in (left, right)]
    return score, numbers[0] == numbers[1], -len(right)
