"""One of the two files that a table is to link: its tensors, their fingerprints, their modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from porter.infer.evidence import Print, Relation, fingerprint
from porter.mapping.conventions import Convention
from porter.tensors.state_dict import StateDict

_WORDS = {
    "before": 0, "after": 1, "pre": 0, "post": 1, "first": 0, "second": 1, "in": 0, "out": 1,
    "q": 0, "k": 1, "v": 2, "query": 0, "key": 1, "value": 2, "intermediate": 0, "output": 1,
}  # fmt: skip
"""Words that express an order, for files whose names are sorted alphabetically."""
_DEEPEST = 16
"""Paths above a tensor that are looked at."""
_QKV = re.compile(r"(?:to_|w)?(q|k|v|query|key|value)(?:_proj|_lin|_linear)?")


PART = "@"
"""What is before the number of a tensor that is a part of another one (`porter.infer.stacks`)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's module and PyTorch's leaf; a bare tensor has no leaf."""

    path: str
    leaf: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Tensors of the left that are tensors of the right, and how sure that is."""

    lefts: tuple[str, ...]
    rights: tuple[str, ...]
    relation: Relation
    doubt: str = ""
    """Why it is not proven; empty when it is."""


@dataclass
class TensorFile:
    """One file: its tensors, their fingerprints, and the order in which modules are compared."""

    state: StateDict
    convention: Convention
    prints: Mapping[str, Print] = field(default_factory=dict)
    _parents: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prints = {name: fingerprint(tensor) for name, tensor in self.state.items()}
        self.leaves = {
            rule.name: leaf
            for kind in self.convention.kinds.values()
            for leaf, rule in kind.items()
            if rule.name
        }
        self.order = {name: index for index, name in enumerate(_sensible(self.state))}

    def place(self, name: str) -> Place:
        """Return the module and leaf of a tensor."""
        path, _, end = name.rpartition(self.convention.separator)
        leaf = self.leaves.get(end)
        return Place(name, "") if leaf is None or not path else Place(path, leaf)

    def ends(self, leaf: str) -> list[str]:
        """Return the last parts of names that PyTorch's leaf may have here, sorted."""
        return sorted(end for end, known in self.leaves.items() if known == leaf)

    def last(self, path: str) -> str:
        """Return the last part of a path."""
        return path.rpartition(self.convention.separator)[2]

    def parents(self, name: str) -> list[str]:
        """Return the paths above a tensor, the nearest first, the whole file ("") last."""
        known = self._parents.get(name)
        if known is None:
            parts = name.split(self.convention.separator, _DEEPEST)[:-1]
            joined = self.convention.separator.join
            known = [joined(parts[:count]) for count in range(len(parts), -1, -1)]
            self._parents[name] = known
        return known

    def depth(self, path: str) -> int:
        """Return how many paths are above a path."""
        return path.count(self.convention.separator)


def letter(file: TensorFile, name: str) -> str:
    """Return q, k or v where a tensor's module, or the tensor, is called so."""
    place = file.place(name)
    last = place.path.rpartition(file.convention.separator)[2]
    match = _QKV.fullmatch(last if place.leaf else re.sub(r"_(weight|bias)$", "", last))
    return match[1][0] if match else ""


def _sensible(names: Iterable[str]) -> list[str]:
    """Return names in the file's order, or by numbers and words where that is alphabetical."""
    ordered = list(names)
    if ordered != sorted(ordered):
        return ordered

    def rank(name: str) -> list[tuple[int, int, str]]:
        words = re.findall(r"[0-9]{1,18}|[^0-9._/]+", name.replace("_", "."))
        return [
            (0, int(w), "") if w.isdecimal() else (1, _WORDS[w], "") if w in _WORDS else (2, 0, w)
            for w in words
        ]

    return sorted(ordered, key=rank)
