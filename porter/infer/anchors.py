"""Which paths of one file stand for which of the other, by the ties found under them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from porter.infer.side import Side, Tie

_SURE = 0.5
"""Two paths belong together when more than this share of the ties under either is under both."""


@dataclass(frozen=True)
class Module:
    """Tensors of one module that are not tied yet; a bare tensor is a module of its own."""

    path: str
    names: Mapping[str, str]
    """{PyTorch's leaf: name}."""

    def __hash__(self) -> int:
        return hash(self.path)


Pairs = list[tuple[Module, Module]]


class Anchors:
    """{path of the left: path of the right}, the top ("") being one."""

    def __init__(self, left: Side, right: Side, ties: Iterable[Tie]) -> None:
        self.left, self.right = left, right
        both: Counter[tuple[str, str]] = Counter()
        one: Counter[str] = Counter()
        other: Counter[str] = Counter()
        for tie in ties:
            above, beyond = left.parents(tie.lefts[0]), right.parents(tie.rights[0])
            one.update(above)
            other.update(beyond)
            both.update((a, b) for a in above for b in beyond)
        ranked = sorted(
            (
                (_rank(a, b, count / (one[a] + other[b] - count)), a, b)
                for (a, b), count in both.items()
            ),
            reverse=True,
        )
        self.best = {"": ""}
        self.certain = set[str]()
        """Paths all of whose ties are under the other's path, and the other way round."""
        for (score, *_), a, b in ranked:
            if score > _SURE and self.best.setdefault(a, b) == b and score == 1:
                self.certain.add(a)

    def agree(self, left: str, right: str) -> bool:
        """Whether the nearest known path above the left tensor lies above the right one too."""
        for path in self.left.parents(left):
            if path in self.best:
                return self.best[path] in self.right.parents(right)
        return True

    def near(
        self, lefts: Sequence[Module], rights: Sequence[Module]
    ) -> Iterator[tuple[Pairs, bool]]:
        """Yield the modules that belong together under known paths, the deepest paths first.

        With them goes whether there is no other choice under a path that is certain.
        """
        rest, others = list(lefts), list(rights)
        for path in sorted((p for p in self.best if p), key=self._depth, reverse=True):
            mine = [m for m in rest if path in self.left.parents(m.path)]
            theirs = [m for m in others if self.best[path] in self.right.parents(m.path)]
            pairs = self.ordered(mine, theirs)
            if pairs:
                yield pairs, len(mine) == len(theirs) == 1 and path in self.certain
                rest = [m for m in rest if all(m is not one for one, _ in pairs)]
                others = [m for m in others if all(m is not other for _, other in pairs)]

    def _depth(self, path: str) -> int:
        return path.count(self.left.convention.separator)

    def ordered(self, lefts: Sequence[Module], rights: Sequence[Module]) -> Pairs:
        """Pair modules of one name, then the rest in order where both sides have as many."""
        counts = [
            Counter(side.last(m.path) for m in modules)
            for side, modules in ((self.left, lefts), (self.right, rights))
        ]
        theirs = {self.right.last(m.path): m for m in rights}
        named = [
            (one, theirs[last])
            for one, last in ((m, self.left.last(m.path)) for m in lefts)
            if counts[0][last] == counts[1][last] == 1
        ]
        left = [m for m in lefts if all(m is not one for one, _ in named)]
        right = [m for m in rights if all(m is not other for _, other in named)]
        return named + (list(zip(left, right, strict=True)) if len(left) == len(right) else [])


def _rank(left: str, right: str, score: float) -> tuple[float, bool, int]:
    """Order candidates: the surest, then those with as many numbers, then the shortest."""
    numbers = [len(re.findall(r"[0-9]+", path)) for path in (left, right)]
    return score, numbers[0] == numbers[1], -len(right)
