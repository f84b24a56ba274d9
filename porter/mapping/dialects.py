"""Read `[dialects]`: rows, what is derived by `like`, cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from porter.errors import TableError, listed
from porter.mapping.conventions import Convention, conventions
from porter.mapping.like import derived, prefixed
from porter.mapping.pattern import Pattern
from porter.mapping.table import (
    BARE,
    CANONICAL,
    PADDLE,
    Absent,
    Behaviour,
    Case,
    Dialect,
    Extra,
    Layer,
    Row,
    Table,
)


@dataclass
class Dialects:
    """The dialects of one table, each read when it is first needed: one may be like another."""

    entries: Mapping[str, dict[str, Any]]
    layers: Sequence[Layer]
    family: Callable[[str], Table]
    """Returns the built-in table of another family."""
    shipped: bool = False
    """Whether it is a table of porter, whose rows the tests check."""
    families: dict[str, Table] = field(default_factory=dict)
    """Other families that this table refers to."""
    done: dict[str, Dialect] = field(default_factory=dict)

    def all(self) -> tuple[dict[str, Dialect], dict[str, str]]:
        """Return the dialects, canonical names and Paddle's first, and {alias: dialect}."""
        if CANONICAL in self.entries:
            raise TableError(f"[dialects.{CANONICAL}] are the canonical names: choose another name")
        aliases = {name: entry["alias"] for name, entry in self.entries.items() if "alias" in entry}
        names = dict.fromkeys([CANONICAL, PADDLE, *self.entries])
        dialects = {name: self.named(name) for name in names if name not in aliases}
        for name, target in aliases.items():
            if target not in dialects:
                raise TableError(
                    f"[dialects.{name}] is an alias of {target!r}, which is not a dialect of this"
                    f" table; it has {listed(dialects, 20)}"
                )
        for name, dialect in dialects.items():
            if dialect.also and dialect.also not in dialects:
                raise TableError(
                    f"[dialects.{name}] also {dialect.also!r}: this table has"
                    f" {listed(dialects, 20)}"
                )
        return dialects, aliases

    def named(self, name: str, trail: tuple[str, ...] = ()) -> Dialect:
        """Return a dialect; `trail` are those that are like it."""
        if name in trail:
            raise TableError(f"[dialects.{name}] is like itself: {' → '.join([*trail, name])}")
        if name not in self.done:
            self.done[name] = self._read(name, (*trail, name))
        return self.done[name]

    def _read(self, name: str, trail: tuple[str, ...]) -> Dialect:
        where = f"[dialects.{name}]"
        if name == CANONICAL:
            return Dialect(name, conventions()[name], about="canonical names")
        if name not in self.entries:
            return Dialect(name, conventions()[name], container=conventions()[name].container)
        entry = self.entries[name]
        dialect = self._form(name, entry, None, where, trail)
        cases = []
        for index, body in enumerate(entry.get("cases", ())):
            place = f"[[dialects.{name}.cases]] #{index + 1}"
            when = Pattern(body["when"])
            self._check_known(when, f"{place} when")
            cases.append(Case(when, self._form(name, body, dialect, place, trail)))
        dialect = dialect._replace(cases=(*cases, *dialect.cases), only=self._only(entry, where))
        return self._checked(dialect, where)

    def _only(self, entry: dict[str, Any], where: str) -> Pattern | None:
        if "only" not in entry:
            return None
        only = Pattern(entry["only"])
        self._check_known(only, f"{where} only")
        return only

    def _check_known(self, tensor: Pattern, where: str) -> None:
        if not any(layer.path.overlaps(tensor) for layer in self.layers):
            raise TableError(f"{where} {tensor.text!r}: not in [tensors] or [layers]")

    def _form(
        self,
        name: str,
        entry: dict[str, Any],
        base: Dialect | None,
        where: str,
        trail: tuple[str, ...],
    ) -> Dialect:
        """Read the keys that a dialect and a case have in common; a case is like its dialect."""
        if "like" in entry:
            base = self._like(entry["like"], where, trail)
        elif base is not None:
            base = base._replace(cases=())
        if base is None and "framework" not in entry:
            frameworks = ", ".join(conventions())
            raise TableError(f"{where} needs `framework` ({frameworks}) or `like`, another dialect")
        if base is None and "prefix" in entry:
            raise TableError(f"{where} prefix needs `like`, the dialect whose names begin so")
        own = self._own(name, entry, base, where)
        if base is None:
            return own
        base = prefixed(base, entry.get("prefix", {}), where)
        return self._checked(derived(base, own, self.layers, where), where)

    def _like(self, text: str, where: str, trail: tuple[str, ...]) -> Dialect:
        family, colon, name = text.rpartition(":")
        if colon:
            table = self.families[family] = self.family(family)
            return table.dialect(name)
        known = [n for n, entry in self.entries.items() if "alias" not in entry]
        if text not in (CANONICAL, PADDLE, *known):
            raise TableError(f"{where} like {text!r}: this table has {listed(known, 20)}")
        return self.named(text, trail)

    def _own(self, name: str, entry: dict[str, Any], base: Dialect | None, where: str) -> Dialect:
        """Read the rows that the entry gives."""
        convention, container = _framework(entry, base)
        missing = {layer.kind for layer in self.layers} - set(BARE) - set(convention.kinds)
        if missing:
            kinds = listed(sorted(missing))
            raise TableError(f"{where} {convention.framework} has no convention for {kinds}")
        rows = tuple(_rows(entry, where))
        for row in () if self.shipped else rows:
            check_row(row, self.layers, where)
        absent = tuple(_absent(k, v) for k, v in entry.get("absent", {}).items())
        extra = tuple(_extra(k, v, where) for k, v in entry.get("extra", {}).items())
        about = entry.get("about", "")
        also = entry.get("also", "")
        behaviour = tuple(Behaviour(k, **v) for k, v in entry.get("behaviour", {}).items())
        return Dialect(
            name, convention, rows, absent, extra, about, container, also=also, behaviour=behaviour
        )

    def _checked(self, dialect: Dialect, where: str) -> Dialect:
        if self.shipped:
            return dialect
        rows = dialect.rows
        no_overlap([path for row in rows for path in row.canonical], f"{where} canonical names")
        # Of a fold the path is what its parts are below; they are compared when they are linked.
        paths = [path for row in rows if not row.fold for path in row.dialect]
        no_overlap(paths, f"{where} names of the dialect")
        return dialect


def _framework(entry: dict[str, Any], base: Dialect | None) -> tuple[Convention, str]:
    """Return the conventions and the container of a dialect: its own or those of its base."""
    if "framework" in entry:
        convention = conventions()[entry["framework"]]
        return convention, entry.get("container", convention.container)
    assert base is not None
    return base.convention, entry.get("container", base.container)


def _rows(entry: dict[str, Any], where: str) -> Iterator[Row]:
    """Yield the rows of `names`, each a name, names to split into or a table, and of `rows`."""
    for canonical, value in entry.get("names", {}).items():
        body = value if isinstance(value, dict) else {"path": value}
        yield _row({**body, "canonical": canonical})
    for value in entry.get("rows", ()):
        yield _row(value)


def _row(value: dict[str, Any]) -> Row:
    canonical, dialect = (
        tuple(Pattern(name) for name in ([names] if isinstance(names, str) else names))
        for names in (value["canonical"], value["path"])
    )
    words = {name: words for path in canonical for name, words in path.words.items()}
    ops = value.get("ops", {})
    ops = {"": ops} if isinstance(ops, list) else ops
    return Row(
        canonical,
        tuple(path.limited(words) for path in dialect),
        value.get("join", "concat 0"),
        {leaf: tuple(chain) for leaf, chain in ops.items()},
        dict(value.get("leaves", {})),
        tuple(value.get("first", ())),
        value.get("fold", ""),
        value.get("stack", ""),
    )


def check_row(row: Row, layers: Sequence[Layer], where: str) -> None:
    """Raise `TableError` where a row cannot be applied to any layer of the table."""
    if len(row.canonical) > 1 and len(row.dialect) > 1:
        raise TableError(f"{where} {row}: one side of a row must be a single name")
    if row.fold and (len(row.canonical) + len(row.dialect) > 2 or row.ops or row.leaves):
        raise TableError(f"{where} {row}: `fold` takes one layer and one path, nothing else")
    names = [set(path.placeholders) for path in (*row.canonical, *row.dialect)]
    if row.stack:
        _check_stack(row, where)
        names = [one - {row.stack} for one in names]
    if any(one != names[0] for one in names):
        raise TableError(f"{where} {row}: both sides must have the same placeholders")
    if row.first and (len(row.canonical) > 1 or len(row.dialect) == 1):
        raise TableError(f"{where} {row}: `first` is for one name that is split into several")
    leaves: set[str] = set()
    for path in row.canonical:
        kinds = {layer.kind for layer in layers if layer.path.overlaps(path)}
        if not kinds:
            raise TableError(f"{where} {path.text!r} is not in [tensors] or [layers]: add it there")
        for kind in kinds - set(BARE):
            leaves.update(conventions()[CANONICAL].kinds[kind])
    unknown = {leaf for leaf in (*row.ops, *row.leaves) if leaf} - leaves
    if unknown:
        has = f"its parameters are {listed(sorted(leaves))}" if leaves else "it is a bare tensor"
        raise TableError(f"{where} {row}: unknown parameter {listed(sorted(unknown))}; {has}")


def _check_stack(row: Row, where: str) -> None:
    """Raise `TableError` where the placeholder of a stack is not one number of each layer."""
    if row.fold:
        raise TableError(f"{where} {row}: `fold` and `stack` cannot be together")
    found = [path.placeholders.get(row.stack) for path in row.canonical]
    if not all(one is not None and not one.words for one in found):
        raise TableError(f"{where} {row}: stack {row.stack!r} needs {{{row.stack}}} in each name")
    if any(row.stack in path.placeholders for path in row.dialect):
        raise TableError(f"{where} {row}: the stacked tensor has no {{{row.stack}}}")


def _absent(path: str, value: str | dict[str, Any]) -> Absent:
    body: dict[str, Any] = {"reason": value} if isinstance(value, str) else dict(value)
    if "same" in body:
        body["same"] = Pattern(body["same"])
    return Absent(Pattern(path), **body)


def _extra(path: str, value: str | dict[str, Any], where: str) -> Extra:
    body = {"reason": value} if isinstance(value, str) else value
    pattern = Pattern(path.removesuffix("*"))
    copy = Pattern(body["copy"]) if "copy" in body else None
    if copy is not None and set(copy.placeholders) != set(pattern.placeholders):
        raise TableError(f"extra {path!r} and its copy {copy.text!r} have other placeholders")
    if path.endswith("*") and (pattern.placeholders or copy):
        raise TableError(f"{where} extra {path!r}: a name that ends in * takes no placeholders")
    return Extra(pattern, body["reason"], copy, path.endswith("*"))


def no_overlap(patterns: Sequence[Pattern], where: str) -> None:
    """Raise `TableError` where one name could match two patterns."""
    for index, one in enumerate(patterns):
        for earlier in patterns[:index]:
            if one.overlaps(earlier):
                raise TableError(
                    f"{where}: {earlier.text!r} and {one.text!r} match the same name; limit one"
                    " by words such as {n:0,3}"
                )
