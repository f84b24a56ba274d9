"""Apply a table to a variant's tensors: one `Link` for each row and tensor of a dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from porter.errors import MappingError, TableError, listed
from porter.mapping.conventions import Leaf
from porter.mapping.fold import fold
from porter.mapping.layers import Instance, instances
from porter.mapping.link import Gap, Link, Linked
from porter.mapping.table import BARE, Absent, Dialect, Layer, Row, Table
from porter.tensors import folds
from porter.tensors import operations as ops
from porter.tensors.operations import Join, Op

_Key = tuple[Table, str, tuple[str, ...], Mapping[str, int]]
_latest: list[tuple[_Key, Linked]] = []
"""A plan and its checks link the same names several times."""
_MOST_KEPT = 4


def link_dialect(
    table: Table, dialect: str, names: Iterable[str], sizes: Mapping[str, int]
) -> Linked:
    """Link every canonical name to a dialect; `TableError` lists names that no row covers.

    `sizes` are the whole numbers of the variant's configuration that operations may name.
    """
    names = tuple(names)
    for (for_table, *key), linked in _latest:
        if for_table is table and key == [dialect, names, sizes]:
            return linked
    linked = _linked(table, dialect, names, sizes)
    _latest[_MOST_KEPT - 1 :] = []
    _latest.insert(0, ((table, dialect, names, dict(sizes)), linked))
    return linked


def _linked(table: Table, dialect: str, names: tuple[str, ...], sizes: Mapping[str, int]) -> Linked:
    form = table.dialect(dialect).of(names)
    links: dict[tuple[str, ...], Link] = {}
    gaps: list[Gap] = []
    stacks: dict[tuple[str, ...], dict[int, Link]] = {}
    recipes: dict[tuple[int, int, str], _Recipe] = {}
    for instance in instances(table, names):
        row, values = _row(form, instance.path)
        if row is not None and row.fold:
            link = _folded(table, form, instance, row, values, sizes)
            links.setdefault(link.dialect, link)
            continue
        for leaf, name in instance.leaves.items():
            key = (id(instance.layer), id(row), leaf)
            recipe = recipes.get(key)
            if recipe is None:
                recipe = recipes[key] = _recipe(table, form, instance.layer, row, leaf, sizes)
            absent, same = _absent(form, name)
            gap = _gap(absent, same, recipe, name)
            if gap is not None:
                gaps.append(gap)
                continue
            link = recipe.link(instance.path, name, values)
            if absent is not None:
                link = link._replace(optional=True, fill=absent.fill, same=same)
            links.setdefault(link.dialect, link)
            if row is not None and row.stack:
                stacks.setdefault(link.dialect, {}).setdefault(int(values[row.stack]), link)
    for names_there, layers in stacks.items():
        links[names_there] = _stacked(layers)
    linked = Linked(form, links.values(), gaps)
    _check_once(linked, form, table)
    return linked


def _row(dialect: Dialect, path: str) -> tuple[Row | None, dict[str, str]]:
    for row in dialect.rows:
        for side in row.canonical:
            values = side.match(path)
            if values is not None:
                return row, values
    return None, {}


def _stacked(layers: Mapping[int, Link]) -> Link:
    """Return one link for all layers of a stack, given by their numbers."""
    first = next(iter(layers.values()))
    missing = [n for n in range(min(max(layers) + 1, 2 * len(layers))) if n not in layers]
    if missing:
        numbers = f"number {listed(map(str, missing))} of 0 to {max(layers)}"
        raise MappingError(f"{numbers} is missing for {listed(first.dialect)} ({first.row})")
    canonical = chain.from_iterable(layers[n].canonical for n in range(len(layers)))
    return first._replace(canonical=tuple(canonical), stack=len(layers))


def _absent(dialect: Dialect, name: str) -> tuple[Absent | None, str | None]:
    """Return the row of `absent` for a canonical tensor, and the one with the same values."""
    for absent in dialect.absent:
        values = absent.path.match(name)
        if values is not None:
            return absent, None if absent.same is None else absent.same.format(values)
    return None, None


def _gap(absent: Absent | None, same: str | None, recipe: _Recipe, name: str) -> Gap | None:
    if absent is not None:
        if absent.optional:
            return None
        return Gap(name, absent.reason, absent.fill, recipe.constant, same)
    rule = recipe.rule
    if rule.absent is None:
        return None
    return Gap(name, rule.absent, rule.fill, recipe.constant)


def _folded(
    table: Table,
    dialect: Dialect,
    instance: Instance,
    row: Row,
    values: Mapping[str, str],
    sizes: Mapping[str, int],
) -> Link:
    """Return the link of a layer that the dialect has in several parts."""
    where = f"[dialects.{dialect.name}] {row}"
    try:
        fold = folds.parse(row.fold, sizes)
    except TableError as error:
        raise TableError(f"{where}: {error.message}", table.source) from error
    if set(instance.leaves) != {"weight", "bias"}:
        raise TableError(f"{where}: {instance.path} must have a weight and a bias", table.source)
    path, separator = row.dialect[0].format(values), dialect.convention.separator
    return Link(
        (instance.leaves["weight"], instance.leaves["bias"]),
        tuple(f"{path}{separator}{part}" for part in fold.parts),
        kind=instance.layer.kind, row=str(row), fold=fold,
    )  # fmt: skip


def _leaf(dialect: Dialect, layer: Layer, leaf: str) -> Leaf:
    if layer.kind in BARE:
        return Leaf("")
    rules = dialect.convention.kinds[layer.kind]
    if leaf not in rules:
        raise TableError(f"{dialect.convention.framework} has no {leaf} for kind {layer.kind}")
    return rules[leaf]


def _recipe(
    table: Table,
    dialect: Dialect,
    layer: Layer,
    row: Row | None,
    leaf: str,
    sizes: Mapping[str, int],
) -> _Recipe:
    """Return a recipe; an error in an operation names the file and the row."""
    try:
        return _Recipe.of(dialect, layer, row, leaf, sizes)
    except TableError as error:
        row_text = layer.path.text if row is None else str(row)
        raise TableError(
            f"[dialects.{dialect.name}] {row_text}: {error.message}", table.source
        ) from error


class _Recipe(NamedTuple):
    """The link of a parameter, for every layer that one row covers."""

    layer: Layer
    row: Row | None
    leaf: str
    rule: Leaf
    ops: tuple[Op, ...]
    join: Join | None
    text: str
    separator: str
    constant: bool
    first: tuple[Op, ...]

    @classmethod
    def of(
        cls, dialect: Dialect, layer: Layer, row: Row | None, leaf: str, sizes: Mapping[str, int]
    ) -> _Recipe:
        rule = _leaf(dialect, layer, leaf)
        chains = () if row is None else (row.ops.get("", ()), row.ops.get(leaf, ()) if leaf else ())
        texts = (*(text for one in chains for text in one), *rule.ops)
        many = row is not None and (len(row.canonical) > 1 or len(row.dialect) > 1)
        return cls(
            layer, row, leaf, rule,
            ops=tuple(ops.parse(text, sizes) for text in texts),
            join=ops.parse_join(row.join, sizes) if row is not None and many else None,
            text=layer.path.text if row is None else str(row),
            separator=dialect.convention.separator,
            constant=layer.kind == "constant",
            first=() if row is None else tuple(ops.parse(text, sizes) for text in row.first),
        )  # fmt: skip

    def link(self, path: str, name: str, values: Mapping[str, str]) -> Link:
        """Return the link of one layer's parameter."""
        row, leaf, rule = self.row, self.leaf, self.rule
        if row is None:
            sources: tuple[str, ...] = (name,)
            targets: tuple[str, ...] = (self._joined(path, rule.name),)
        else:
            end = row.leaves.get(leaf, rule.name)
            paths = [pattern.format(values) for pattern in row.canonical]
            sources = tuple([f"{path}.{leaf}" for path in paths] if leaf else paths)
            targets = tuple([self._joined(p.format(values), end) for p in row.dialect])
        return Link(
            sources, targets, self.ops, self.join, self.layer.kind, self.text,
            rule.optional or self.constant, rule.fill, self.constant, self.first,
        )  # fmt: skip

    def _joined(self, path: str, leaf: str) -> str:
        return f"{path}{self.separator}{leaf}" if leaf else path


def _check_once(linked: Linked, dialect: Dialect, table: Table) -> None:
    """Raise `TableError` where two links write the same tensor, on either side."""
    sides: tuple[Callable[[Link], tuple[str, ...]], ...] = (
        lambda link: link.dialect,
        lambda link: link.canonical,
    )
    for side in sides:
        names = list(chain.from_iterable(map(side, linked.links)))
        if len(set(names)) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise TableError(
                f"[dialects.{dialect.name}] two rows lead to {listed(fold(twice))}", table.source
            )
