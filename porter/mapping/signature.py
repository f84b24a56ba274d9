"""What every built-in dialect calls its modules, and which dialects a checkpoint resembles.

The names stand in `mappings/names.json`, made from the tables by `make docs`: to look at a
checkpoint that is none of porter's architectures, no table is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set
from functools import cache
from typing import NamedTuple

from porter.mappings import FOLDER

_DECIMAL = re.compile("[0-9]+")
NEAR = 0.4
"""Share of names in common from which a checkpoint is said to be nearly something."""


def plain(name: str) -> str:
    """Return a name with every number as `#`."""
    return _DECIMAL.sub("#", name)


class Likeness(NamedTuple):
    """How much the names of a checkpoint are those of a dialect."""

    family: str
    dialect: str
    complete: bool
    """Whether the dialect knows them all."""
    common: float
    """Share of modules' names, numbers left out, that the two have in common (0 to 1)."""


def likenesses(names: Iterable[str]) -> Iterator[Likeness]:
    """Yield every dialect of every family, families in alphabetical order."""
    mine = {plain(name) for name in names}
    for family, dialects in _names().items():
        for dialect, (separator, known) in dialects.items():
            covered, common = _overlap(mine, known, separator)
            yield Likeness(family, dialect, covered == len(mine), common)


def resembles_any(names: Iterable[str]) -> bool:
    """Whether a checkpoint may be, or nearly be, an architecture that porter knows."""
    return any(one.complete or one.common > NEAR for one in likenesses(names))


def _overlap(mine: Set[str], known: Set[str], separator: str) -> tuple[int, float]:
    """Return how many of a checkpoint's names a dialect knows, and the share in common."""
    modules = {}
    for name in mine:
        module = name.rpartition(separator)[0]
        modules[name] = name if name in known or module not in known else module
    shared = {module for module in modules.values() if module in known}
    covered = sum(module in known for module in modules.values())
    return covered, len(shared) / len({*modules.values(), *known}) if mine else 0.0


@cache
def _names() -> dict[str, dict[str, tuple[str, frozenset[str]]]]:
    """Read {family: {dialect: (separator, names)}}."""
    data = (FOLDER / "names.json").read_bytes()
    return {
        family: {d: (row[0], frozenset(row[1:])) for d, row in dialects.items()}
        for family, dialects in json.loads(data).items()
    }
