"""An evaluation as a table: Markdown, JSON, and the cells for the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from porter.errors import UsageError, json_escaped, listed
from porter.report.cells import code, table
from porter.report.cells import text as plain_text
from porter.report.figures import file_of
from porter.verification.accuracy.measure import Evaluation
from porter.zoo.image_size import pixels

SUFFIXES = (".md", ".json")
NAMES = ("checkpoint", "ran in", "top-1", "top-5", "same top-1 as the first")


def check_names(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise `UsageError` for a report whose suffix is not one of `SUFFIXES`."""
    for path in paths:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(f"is not a report: the name must end in {listed(SUFFIXES)}", path)


def rendered(made: Evaluation, path: str | os.PathLike[str]) -> str:
    """Return an evaluation in the format of a file's suffix."""
    if Path(path).suffix.lower() == ".json":
        return json_escaped(json.dumps(as_dict(made), indent=1, ensure_ascii=False)) + "\n"
    return markdown(made)


def as_dict(made: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain values."""
    return {"schema": "porter.evaluation/1", **asdict(made)}


def cells(made: Evaluation) -> list[tuple[str, ...]]:
    """Return the rows of the table, without the names of its columns."""
    return [
        (
            file_of(row.side, whole=False),
            f"{row.side.label} {row.side.versions.get(row.side.framework, '')}".strip(),
            f"{row.top1:.2%}" + (f" ({row.not_finite} not finite)" if row.not_finite else ""),
            f"{row.top5:.2%}",
            "–" if row.agreement is None else f"{row.agreement:.2%}",
        )
        for row in made.rows
    ]


def markdown(made: Evaluation) -> str:
    """Return the table, the preprocessing of each checkpoint, and how it was made."""
    published = "" if made.published is None else f" Published top-1: {made.published:g} %."
    rows = [(code(row[0]), *map(plain_text, row[1:])) for row in cells(made)]
    lines = [
        f"## {plain_text(made.architecture)}: accuracy on {made.pictures} pictures",
        f"Pictures: {code(made.data)}, {pixels(made.image_size)}.{published}",
        table(NAMES, rows),
        "\n".join(
            f"- {code(file_of(row.side, whole=False))}: {plain_text(row.preprocessing)}"
            + (f"; {plain_text(row.side.digest)}" if row.side.digest else "")
            for row in made.rows
        ),
    ]
    made_by = ", ".join(p for p in (made.date, f"{made.seconds:.1f} s", made.command) if p)
    return "\n\n".join([*lines, f"_Made:_ {plain_text(made_by)}"]) + "\n"
