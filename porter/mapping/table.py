"""Mapping tables: TOML in, checked rows out.

A table says of which kind each layer of a family is, and what each dialect calls it.
`conventions.toml` says how a kind looks in a framework. Loading checks everything that can be
checked without a variant; `porter.mapping.link` applies a table to a variant's tensors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from porter.errors import TableError, listed
from porter.mapping import schema
from porter.mapping.pattern import Pattern
from porter.mappings import FOLDER

CANONICAL = "torch"
WHOLE = ("parameter", "constant")
"""Kinds whose path is the tensor's whole name."""


class Leaf(NamedTuple):
    """One parameter of a kind in a framework."""

    name: str
    ops: tuple[str, ...] = ()
    absent: str | None = None
    optional: bool = False
    fill: float | None = None


class Convention(NamedTuple):
    """How one framework stores its layers: {kind: {PyTorch's leaf: Leaf}}."""

    framework: str
    separator: str
    container: str
    kinds: Mapping[str, Mapping[str, Leaf]]


class Layer(NamedTuple):
    """A row of `[layers]`: canonical module path and kind."""

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

    def __str__(self) -> str:
        sides = (" + ".join(p.text for p in side) for side in (self.canonical, self.dialect))
        return " = ".join(sides)


class Absent(NamedTuple):
    """Canonical tensors that a dialect does not have, and what the way back writes."""

    path: Pattern
    reason: str
    fill: float | None = None


class Extra(NamedTuple):
    """Tensors that only the dialect has: left out, for a reason."""

    path: Pattern
    reason: str


class Dialect(NamedTuple):
    """One naming of a family: a framework's conventions and the names that differ."""

    name: str
    convention: Convention
    rows: tuple[Row, ...] = ()
    absent: tuple[Absent, ...] = ()
    extra: tuple[Extra, ...] = ()
    about: str = ""
    container: str = ""
    requires: Pattern | None = None
    """A tensor that a variant must have; one without it speaks `otherwise` under this name."""
    otherwise: Dialect | None = None

    def of(self, names: Iterable[str]) -> Dialect:
        """Return what a variant with these canonical names speaks under this dialect's name."""
        if self.requires is None or any(self.requires.match(name) is not None for name in names):
            return self
        assert self.otherwise is not None
        return self.otherwise


class Table(NamedTuple):
    """A family's table, checked."""

    family: str
    layers: tuple[Layer, ...]
    dialects: Mapping[str, Dialect]
    aliases: Mapping[str, str]
    constants: str
    digest: str
    """XXH3-128 of the file, in hex."""
    source: str

    def dialect(self, name: str) -> Dialect:
        """Return a dialect by its name or alias; unknown ones are a `TableError`."""
        found = self.dialects.get(self.aliases.get(name, name))
        if found is None:
            known = sorted([*self.dialects, *self.aliases])
            raise TableError(f"{self.family} has no dialect {name!r}; it has {listed(known, 20)}")
        return found


def parse(text: str, source: str) -> Table:
    """Read a table from its text; `TableError` names what is wrong with it, and `source`."""
    return _checked(text.encode(), source)


def load(path: Path) -> Table:
    """Read a table of the user's own; `TableError` names what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}", path) from error
    return _checked(data, str(path))


@cache
def builtin(family: str) -> Table:
    """Read the table that porter ships for a family."""
    file = FOLDER / f"{family}.toml"
    return _checked(file.read_bytes(), f"mappings/{family}.toml")


@cache
def conventions() -> Mapping[str, Convention]:
    """Read the conventions of every framework."""
    text = (FOLDER / "conventions.toml").read_text(encoding="utf-8")
    found = {}
    for framework, body in tomllib.loads(text).items():
        kinds = {
            kind: {leaf: _leaf(value) for leaf, value in leaves.items()}
            for kind, leaves in body.items()
            if isinstance(leaves, dict)
        }
        found[framework] = Convention(framework, body["separator"], body["container"], kinds)
    return found


def _leaf(value: str | dict[str, Any]) -> Leaf:
    if isinstance(value, str):
        return Leaf(value)
    return Leaf(
        value.get("name", ""),
        tuple(value.get("ops", ())),
        value.get("absent"),
        value.get("optional", False),
        value.get("fill"),
    )


def _checked(data: bytes, source: str) -> Table:
    """Parse and check a table; every error carries the table's file."""
    try:
        return _table(data, source)
    except TableError as error:
        raise TableError(error.message, source) from error


def _table(data: bytes, source: str) -> Table:
    try:
        body = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"not TOML: {error}") from error
    schema.check(body)
    _known_keys(body, {"family", "layers", "dialects", "constants", "title"}, "the table")
    layers = tuple(_layer(path, kind) for path, kind in _mapping(body, "layers").items())
    _no_overlap([layer.path for layer in layers], "[layers]")
    aliases: dict[str, str] = {}
    dialects = {CANONICAL: Dialect(CANONICAL, conventions()[CANONICAL], about="canonical names")}
    for name, entry in _mapping(body, "dialects").items():
        if "alias" in entry:
            aliases[name] = entry["alias"]
        else:
            dialects[name] = _dialect(name, entry, layers)
    wrong = [name for name, target in aliases.items() if target not in dialects]
    if wrong:
        raise TableError(f"dialect {listed(wrong)} is an alias of a dialect that is not there")
    digest = xxhash.xxh3_128_hexdigest(data)
    family = body.get("family") or Path(source).stem
    return Table(family, layers, dialects, aliases, body.get("constants", ""), digest, source)


def _layer(path: str, kind: object) -> Layer:
    known = {*conventions()[CANONICAL].kinds, *WHOLE}
    if kind not in known:
        raise TableError(
            f"layer {path!r} is of unknown kind {kind!r}; known: {listed(sorted(known), 20)}"
        )
    pattern = Pattern(path)
    if any(hole.shift for hole in pattern.holes.values()):
        raise TableError(f"layer {path!r}: a canonical name cannot move its numbers")
    return Layer(pattern, str(kind))


def _dialect(name: str, entry: dict[str, Any], layers: tuple[Layer, ...]) -> Dialect:
    where = f"[dialects.{name}]"
    _known_keys(
        entry,
        {
            *("framework", "about", "container", "names", "rows", "absent", "extra"),
            *("requires", "otherwise"),
        },
        where,
    )
    requires = Pattern(entry["requires"]) if "requires" in entry else None
    other = _dialect(name, entry["otherwise"], layers) if "otherwise" in entry else None
    if (requires is None) != (other is None):
        raise TableError(f"{where} `requires` and `otherwise` go together")
    if requires is not None and not any(layer.path.overlaps(requires) for layer in layers):
        raise TableError(f"{where} requires {requires.text!r}, which is no layer of [layers]")
    framework = entry.get("framework")
    if not isinstance(framework, str) or framework not in conventions():
        raise TableError(
            f"{where} framework {framework!r} is none of {listed(sorted(conventions()))}"
        )
    convention = conventions()[framework]
    rows = [_named(key, value, where) for key, value in _mapping(entry, "names").items()]
    rows += [_full_row(value, where) for value in entry.get("rows", [])]
    for row in rows:
        _check_row(row, layers, where)
    _no_overlap([path for row in rows for path in row.canonical], f"{where} canonical side")
    _no_overlap([path for row in rows for path in row.dialect], f"{where} dialect side")
    absent = [
        Absent(Pattern(key), *_reason(value, where))
        for key, value in _mapping(entry, "absent").items()
    ]
    extra = [
        Extra(Pattern(key), _reason(value, where)[0])
        for key, value in _mapping(entry, "extra").items()
    ]
    kinds = {layer.kind for layer in layers} - set(WHOLE) - set(convention.kinds)
    if kinds:
        raise TableError(f"{where} {framework} has no convention for {listed(sorted(kinds))}")
    container = entry.get("container", convention.container)
    return Dialect(
        name,
        convention,
        tuple(rows),
        tuple(absent),
        tuple(extra),
        entry.get("about", ""),
        container,
        requires,
        other,
    )


def _named(canonical: str, value: object, where: str) -> Row:
    """Read a row of `[dialects.X.names]`: a path, a list to split into, or a table."""
    if isinstance(value, str | list):
        value = {"path": value}
    if not isinstance(value, dict) or "path" not in value:
        raise TableError(
            f"{where} {canonical!r} must be a name, a list of names or a table with `path`"
        )
    return _full_row({**value, "canonical": canonical}, where)


def _full_row(value: dict[str, Any], where: str) -> Row:
    _known_keys(value, {"canonical", "path", "join", "ops", "leaves"}, where)
    sides = []
    for side in ("canonical", "path"):
        names = value.get(side)
        names = [names] if isinstance(names, str) else names
        if not names or not all(isinstance(n, str) for n in names):
            raise TableError(f"{where} a row needs `canonical` and `path`: names or lists of names")
        sides.append(tuple(Pattern(n) for n in names))
    words = {n: hole.words for path in sides[0] for n, hole in path.holes.items() if hole.words}
    sides[1] = tuple(path.limited(words) for path in sides[1])
    ops = value.get("ops", {})
    ops = {"": ops} if isinstance(ops, list) else ops
    return Row(
        sides[0],
        sides[1],
        value.get("join", "concat 0"),
        {leaf: tuple(chain) for leaf, chain in ops.items()},
        dict(value.get("leaves", {})),
    )


def _check_row(row: Row, layers: tuple[Layer, ...], where: str) -> None:
    if len(row.canonical) > 1 and len(row.dialect) > 1:
        raise TableError(f"{where} {row}: one side of a row must be a single name")
    holes = [set(path.holes) for path in (*row.canonical, *row.dialect)]
    if any(names != holes[0] for names in holes):
        raise TableError(f"{where} {row}: both sides must carry the same holes")
    for path in row.canonical:
        if not any(layer.path.overlaps(path) for layer in layers):
            raise TableError(f"{where} {path.text!r} is no layer of [layers]")


def _reason(value: object, where: str) -> tuple[str, float | None]:
    if isinstance(value, str) and value:
        return value, None
    if isinstance(value, dict) and value.get("reason"):
        return str(value["reason"]), value.get("fill")
    raise TableError(f"{where} a tensor that only one side has needs its reason")


def _no_overlap(patterns: list[Pattern], where: str) -> None:
    for index, one in enumerate(patterns):
        for other in patterns[:index]:
            if one.overlaps(other):
                raise TableError(f"{where}: {other.text!r} and {one.text!r} overlap")


def _mapping(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key, {})
    if not isinstance(value, dict):
        raise TableError(f"{key} must be a table")
    return value


def _known_keys(body: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(body) - known)
    if unknown:
        raise TableError(
            f"{where} has unknown keys {listed(unknown)}; known: {listed(sorted(known))}"
        )
