"""`mappings/names.json`: what every dialect calls its modules."""

from __future__ import annotations

import json
from collections.abc import Mapping

from porter.mapping.signature import plain
from porter.mapping.table import Dialect, Table
from porter.tensors import folds
from porter.zoo.architectures import families


def module_names() -> str:
    """Return what every dialect calls its modules, a dialect a line, its separator first."""
    parts = []
    for family, variants in families().items():
        table, sizes = variants[0].table, variants[0].sizes
        rows = [
            f" {json.dumps(name)}: {json.dumps([dialect.convention.separator, *found])}"
            for name, dialect in table.dialects.items()
            for found in [sorted(_modules(table, dialect, sizes))]
        ]
        parts.append(f'"{family}": {{\n' + ",\n".join(rows) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


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
