"""`mappings/*.json`: what every dialect calls its modules, what `porter list` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from porter.mapping.signature import plain
from porter.mapping.table import Dialect, Table
from porter.planning.families import described
from porter.planning.recognise import elements_of
from porter.tensors import folds
from porter.zoo.architectures import Architecture, families


def families_and_dialects() -> str:
    """Return what `porter list` prints, a family a line."""
    found = described(families())
    return _lines({name: json.dumps(family, ensure_ascii=False) for name, family in found.items()})


def signatures() -> str:
    """Return the module names of each dialect, its separator first, and each variant's elements."""
    return _lines({name: _family(variants) for name, variants in families().items()})


def _lines(rows: Mapping[str, str]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {row}" for name, row in rows.items()) + "\n}\n"


def _family(variants: list[Architecture]) -> str:
    """Return the dialects and variants of a family, a line each."""
    table, sizes = variants[0].table, variants[0].sizes
    dialects = {
        name: [dialect.convention.separator, *sorted(_modules(table, dialect, sizes))]
        for name, dialect in table.dialects.items()
    }
    elements = {v.name: [fixed, *tables] for v in variants for fixed, tables in [elements_of(v)]}
    both = {"dialects": dialects, "variants": elements}
    return _lines({key: _lines(dict(_dumped(rows))).strip() for key, rows in both.items()}).strip()


def _dumped(rows: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((name, json.dumps(row)) for name, row in rows.items())


def _modules(table: Table, dialect: Dialect, sizes: Mapping[str, int]) -> set[str]:
    """Return what a dialect calls modules and bare tensors, every number as `#`."""
    renamed = {name for row in dialect.rows for side in row.canonical for name in side.plain}
    found = {name for layer in table.layers for name in layer.path.plain} - renamed
    found |= {
        plain(f"{name}.{part}").rpartition(".")[0] if part else name
        for row in dialect.rows
        for side in row.dialect
        for name in side.plain
        for part in (folds.parse(row.fold, sizes).parts if row.fold else ("",))
    }
    found |= {name + "*" * extra.begins for extra in dialect.extra for name in extra.path.plain}
    return found.union(*(_modules(table, case.dialect, sizes) for case in dialect.cases))
