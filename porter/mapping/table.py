"""The values of a mapping table: layers, rows, dialects; `porter.mapping.reader` reads them.

A table lists the kind of each layer of a family and the names that each dialect gives it.
`conventions.toml` states how a kind is stored in a framework; `porter.mapping.linking` applies a
table to a variant's tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from porter.errors import MappingError, TableError, listed
from porter.mapping.conventions import Convention
from porter.mapping.pattern import Pattern
from porter.mapping.signature import plain

CANONICAL = "torch"
PADDLE = "paddle"
"""The dialect that every table has: canonical names, Paddle's conventions."""
BARE = ("parameter", "constant")
"""Kinds of `[tensors]`: the path is the tensor's whole name."""


class Layer(NamedTuple):
    """A row of `[layers]` or `[tensors]`: canonical path and kind."""

    path: Pattern
    kind: str


class Row(NamedTuple):
    """A row of a dialect: canonical module paths and the dialect's.

    One to one is a renaming. One to many splits, many to one joins, by `join`, in PyTorch's
    layout; `ops` then act on each of the dialect's tensors, before the kind's own operations
    are undone or after they are done. `leaves` renames parameters.
    """

    canonical: tuple[Pattern, ...]
    dialect: tuple[Pattern, ...]
    join: str = "concat 0"
    ops: Mapping[str, tuple[str, ...]] = {}
    leaves: Mapping[str, str] = {}
    first: tuple[str, ...] = ()
    """Operations on the one canonical tensor before it is split."""
    fold: str = ""
    """How the dialect's tensors below the path become the layer's weight and bias: one way."""
    stack: str = ""
    """The placeholder, of the canonical paths only, that numbers the layers of a stack (experts):
    what the row makes of each is one entry along a new first axis of the dialect's tensors."""

    def __str__(self) -> str:
        sides = (" + ".join(p.text for p in side) for side in (self.canonical, self.dialect))
        return " = ".join(sides)

    def parts(self) -> Iterator[Row]:
        """Yield a row for each choice of the words that its placeholders list."""
        words = {name: words for path in self.canonical for name, words in path.words.items()}
        for choice in product(*words.values()):
            values = dict(zip(words, choice, strict=True))
            yield self._replace(
                canonical=tuple(path.fixed(values) for path in self.canonical),
                dialect=tuple(path.fixed(values) for path in self.dialect),
            )


class Absent(NamedTuple):
    """Canonical tensors that a dialect does not have, and the value written on the way back."""

    path: Pattern
    reason: str
    fill: float | None = None
    same: Pattern | None = None
    """The canonical tensor that this one shares its values with."""
    optional: bool = False
    """Whether a file may have it, and is then read."""


class Extra(NamedTuple):
    """Tensors that only the dialect has: left out, for a reason.

    One that is a `copy` of another tensor of the dialect is written with it.
    """

    path: Pattern
    reason: str
    copy: Pattern | None = None
    begins: bool = False
    """Whether names that begin with the path are meant (`head.aux.*`)."""

    def match(self, name: str) -> bool:
        """Whether a tensor of the dialect is one of these."""
        if self.begins:
            return name.startswith(self.path.text)
        return self.path.match(name) is not None


class Behaviour(NamedTuple):
    """A setting in which the code of a dialect computes otherwise than the canonical model."""

    setting: str
    """Keyword argument of the reference models."""
    value: bool | float
    canonical: bool | float
    """Value of the canonical model."""
    about: str
    """What that code does, as a clause: `shifts the windows of the last stage`."""
    seen: str
    """Where it was seen: source and version."""
    size: float
    """Largest difference of the logits on seeded weights, relative to their rms."""
    config: str = ""
    """Key of `config.json` that states the value, where a checkpoint has that file."""


class Case(NamedTuple):
    """The form of a dialect for variants that have a certain canonical tensor."""

    when: Pattern
    dialect: Dialect


class Dialect(NamedTuple):
    """One naming of a family: a framework's conventions and the names that differ."""

    name: str
    convention: Convention
    rows: tuple[Row, ...] = ()
    absent: tuple[Absent, ...] = ()
    extra: tuple[Extra, ...] = ()
    about: str = ""
    container: str = ""
    cases: tuple[Case, ...] = ()
    also: str = ""
    """Another dialect of the table: what is read as this one may have its names instead."""
    behaviour: tuple[Behaviour, ...] = ()
    only: Pattern | None = None
    """A canonical tensor: variants without it have no such naming."""

    @property
    def folds(self) -> bool:
        """Whether some of its tensors are folded into others, so that it cannot be written."""
        return any(row.fold for form in self.forms for row in form.rows)

    def names(self, tensors: Iterable[str]) -> bool:
        """Whether a variant with these canonical names has this naming."""
        return self.only is None or _is_in(self.only, tensors)

    @property
    def forms(self) -> tuple[Dialect, ...]:
        """Its cases, then the form of variants for which none applies."""
        return (*(case.dialect for case in self.cases), self)

    def of(self, names: Iterable[str]) -> Dialect:
        """Return the form for a variant with these canonical names: the first case that applies.

        `MappingError` is raised for a variant that does not have this naming.
        """
        if self.cases or self.only:
            names = list(names)
        if not self.names(names):
            assert self.only is not None
            raise MappingError(f"{self.name} names only variants that have {self.only.text}")
        for case in self.cases:
            if _is_in(case.when, names):
                return case.dialect
        return self

    def sample(self, names: Sequence[str]) -> list[str]:
        """Return the names of one layer of each kind, and those that choose the form."""
        paths = [name.rpartition(".")[0] for name in names]
        chosen = {*{plain(path): path for path in reversed(paths)}.values()}
        choosing = [*([self.only] if self.only else []), *(case.when for case in self.cases)]
        return [
            name
            for name, path in zip(names, paths, strict=True)
            if path in chosen or any(_is_in(wanted, [name]) for wanted in choosing)
        ]


def _is_in(wanted: Pattern, tensors: Iterable[str]) -> bool:
    """Whether a bare tensor, or a module that has one of the tensors, has that path."""
    paths = (path for name in tensors for path in (name, name.rpartition(".")[0]))
    return any(wanted.match(path) is not None for path in paths)


class Table(NamedTuple):
    """A family's table, checked."""

    family: str
    layers: tuple[Layer, ...]
    dialects: Mapping[str, Dialect]
    aliases: Mapping[str, str]
    constants: str
    digest: str
    """XXH3-128 of the file and of the tables that it refers to, in hex."""
    source: str
    models: Mapping[str, str] = {}
    """{dialect: model of a provider that has its names}."""
    unproven: Mapping[str, str] = {}
    """{name in a row: why nothing proves the row}."""

    def dialect(self, name: str) -> Dialect:
        """Return a dialect by its name or alias; unknown ones are a `TableError`."""
        dialect = self.dialects.get(self.aliases.get(name, name))
        if dialect is None:
            known = sorted([*self.dialects, *self.aliases])
            raise TableError(f"{self.family} has no dialect {name!r}; it has {listed(known, 20)}")
        return dialect
