"""The module names of every built-in dialect, and which dialects a checkpoint resembles.

They are in `mappings/signatures.json`, generated from tables and variants by `make docs`, so that
none of them is read to look at a checkpoint of an unknown architecture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set
from functools import cache
from typing import Any, NamedTuple

from porter.mapping.prefix import likely_prefixes, without_words
from porter.mappings import FOLDER

_DECIMAL = re.compile("[0-9]+")
NEAR = 0.4
"""Share of names in common from which a dialect is reported as near."""


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
    plain_names = {plain(name) for name in names}
    for family, dialects in _names().items():
        for dialect, (separator, known, left_out) in dialects.items():
            relevant = plain_names
            if left_out:
                relevant = {name for name in plain_names if not name.startswith(left_out)}
            covered, common = _overlap(relevant, known, separator)
            yield Likeness(family, dialect, covered == len(relevant), common)


def resembles_any(names: Iterable[str]) -> bool:
    """Whether a checkpoint may be, or nearly be, an architecture that porter knows."""
    plain_names, _ = without_words(list(names))
    return any(
        one.complete or one.common > NEAR
        for prefix in ("", *likely_prefixes(plain_names))
        for one in likenesses(n[len(prefix) :] for n in plain_names if n.startswith(prefix))
    )


def _overlap(names: Set[str], known: Set[str], separator: str) -> tuple[int, float]:
    """Return how many of a checkpoint's names a dialect knows, and the share in common."""
    modules = {}
    for name in names:
        module = name.rpartition(separator)[0]
        modules[name] = name if name in known or module not in known else module
    shared = {module for module in modules.values() if module in known}
    covered = sum(module in known for module in modules.values())
    return covered, len(shared) / len({*modules.values(), *known}) if names else 0.0


class Elements(NamedTuple):
    """How many elements a variant has."""

    fixed: int
    """Whatever its classes and positions are."""
    tables: tuple[int, ...]
    """Of each tensor of classes or positions, or of an optional part, at most."""


def elements(family: str) -> dict[str, Elements]:
    """Return the elements of each built-in variant of a family."""
    rows = _signatures().get(family, {"variants": {}})["variants"]
    return {name: Elements(fixed, tuple(tables)) for name, (fixed, *tables) in rows.items()}


@cache
def _signatures() -> dict[str, Any]:
    """Read {family: {"dialects": {dialect: names}, "variants": {variant: elements}}}."""
    read: dict[str, Any] = json.loads((FOLDER / "signatures.json").read_bytes())
    return read


@cache
def _names() -> dict[str, dict[str, tuple[str, frozenset[str], tuple[str, ...]]]]:
    """Return {family: {dialect: (separator, names, beginnings of names that are left out)}}."""
    return {
        family: {d: _row(row) for d, row in found["dialects"].items()}
        for family, found in _signatures().items()
    }


def _row(row: list[str]) -> tuple[str, frozenset[str], tuple[str, ...]]:
    left_out = tuple(name[:-1] for name in row[1:] if name.endswith("*"))
    return row[0], frozenset(name for name in row[1:] if not name.endswith("*")), left_out
