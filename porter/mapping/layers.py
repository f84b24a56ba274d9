"""Which row of `[layers]` or `[tensors]` covers which canonical tensors of a variant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from porter.errors import TableError, listed
from porter.mapping.fold import fold
from porter.mapping.table import BARE, CANONICAL, Layer, Table


class Instance(NamedTuple):
    """One layer of a variant: its path, its row, its parameters by leaf."""

    path: str
    layer: Layer
    leaves: Mapping[str, str]


_latest: tuple[Table, tuple[str, ...], tuple[Instance, ...]] | None = None
"""Both sides of a plan have the same canonical names, as have a custom table's dialects."""


def instances(table: Table, names: Iterable[str]) -> tuple[Instance, ...]:
    """Group canonical names into layers; `TableError` lists names that no row covers."""
    global _latest
    names = tuple(names)
    latest = _latest
    if latest is None or latest[0] is not table or latest[1] != names:
        latest = _latest = (table, names, tuple(_instances(table, names)))
    return latest[2]


def _instances(table: Table, names: Sequence[str]) -> Iterable[Instance]:
    grouped: dict[str, Instance] = {}
    unknown = []
    kinds = table.dialects[CANONICAL].convention.kinds
    for name in names:
        path, _, leaf = name.rpartition(".")
        known = grouped.get(path)
        if known is not None and known.layer.kind not in BARE and leaf in kinds[known.layer.kind]:
            known.leaves[leaf] = name  # type: ignore[index]
            continue
        place = place_of(table, name)
        if place is None:
            unknown.append(name)
            continue
        layer, path, leaf = place
        instance = grouped.setdefault(path, Instance(path, layer, {}))
        instance.leaves[leaf] = name  # type: ignore[index]
    if unknown:
        raise TableError(
            f"no row of [layers] or [tensors] covers {listed(fold(unknown))}", table.source
        )
    return grouped.values()


def place_of(table: Table, name: str) -> tuple[Layer, str, str] | None:
    """Return (layer, module path, leaf) of a canonical name; the leaf of a bare tensor is ""."""
    path, _, leaf = name.rpartition(".")
    for layer in table.layers:
        if layer.kind in BARE:
            if layer.path.match(name) is not None:
                return layer, name, ""
        elif path and layer.path.match(path) is not None:
            kinds = table.dialects[CANONICAL].convention.kinds
            if leaf in kinds[layer.kind]:
                return layer, path, leaf
    return None
