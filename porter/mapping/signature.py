"""The module names of every built-in dialect, and which dialects a checkpoint resembles.

They are in `mappings/signatures.json`, generated from tables and variants by `make docs`, so that
none of them is read to look at a checkpoint of an unknown architecture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
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
    separators, *_ = _all_names()
    modules = {s: {name: name.rpartition(s)[0] for name in plain_names} for s in separators}
    for family, dialects in _names().items():
        for dialect, (separator, known, left_out) in dialects.items():
            relevant = modules[separator]
            if left_out:
                relevant = {n: m for n, m in relevant.items() if not n.startswith(left_out)}
            covered, common = _overlap(relevant, known)
            yield Likeness(family, dialect, covered == len(relevant), common)


def resembles_any(names: Iterable[str]) -> bool:
    """Whether a checkpoint may be, or nearly be, an architecture that porter knows."""
    found, _ = without_words(list(names))
    for prefix in ("", *likely_prefixes(found)):
        part = {plain(name[len(prefix) :]) for name in found if name.startswith(prefix)}
        if _may_resemble(part) and any(
            one.complete or one.common > NEAR for one in likenesses(part)
        ):
            return True
    return False


def _may_resemble(plain_names: Set[str]) -> bool:
    """Whether all dialects together know enough of the names that one of them might."""
    separators, known, left_out = _all_names()
    strange = sum(
        name not in known
        and not name.startswith(left_out)
        and all(name.rpartition(separator)[0] not in known for separator in separators)
        for name in plain_names
    )
    return not strange or len(plain_names) - strange > NEAR * len(plain_names)


@cache
def _all_names() -> tuple[frozenset[str], frozenset[str], tuple[str, ...]]:
    """Return separators, names, and beginnings of names that are left out, of all dialects."""
    rows = [row for dialects in _names().values() for row in dialects.values()]
    names = frozenset[str]().union(*(known for _, known, _ in rows))
    return frozenset(row[0] for row in rows), names, tuple({one for row in rows for one in row[2]})


def _overlap(names: Mapping[str, str], known: Set[str]) -> tuple[int, float]:
    """Return how many of a checkpoint's names a dialect knows, and the share in common.

    `names` are {name: its module}.
    """
    if known.isdisjoint(names.values()) and known.isdisjoint(names):
        return 0, 0.0
    modules = [n if n in known or module not in known else module for n, module in names.items()]
    shared = [module for module in modules if module in known]
    return len(shared), len({*shared}) / len({*modules, *known})


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
