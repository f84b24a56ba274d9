"""The evidence for a port in one table: for a pull request, a terminal, a machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from porter.errors import UsageError, json_escaped
from porter.report import accuracy, machine
from porter.report.cells import code, table
from porter.report.cells import text as plain_text
from porter.report.figures import file_of, number, origin_lines, share, side_line
from porter.verification.accuracy.evidence import Evidence, Row

_MARKS = {"passed": "✅ passed", "failed": "❌ failed"}


def rendered(made: Evidence, path: str | os.PathLike[str]) -> str:
    """Return the evidence as Markdown or JSON, by a file's suffix."""
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        return json_escaped(json.dumps(as_dict(made), indent=1, ensure_ascii=False)) + "\n"
    if suffix == ".md":
        return markdown(made)
    raise UsageError("several variants and accuracies are reported as .md or .json", path)


def as_dict(made: Evidence) -> dict[str, Any]:
    """Return the evidence as plain values."""
    return {
        "schema": "porter.evidence/1",
        "passed": made.passed,
        "asked": made.asked,
        "command": made.command,
        "rows": [
            {
                "verdict": machine.as_dict(row.verdict),
                "figures": None if row.figures is None else asdict(row.figures),
                "evaluation": None if row.evaluation is None else accuracy.as_dict(row.evaluation),
            }
            for row in made.rows
        ],
    }


def names(made: Evidence) -> tuple[str, ...]:
    """Return the columns of the table."""
    asked = f" (asked: < {made.asked:g})" if made.asked is not None else ""
    columns = ("variant", "verdict", f"max difference{asked}", "mean", "source's own", "top-1 same")
    return columns + (_ACCURACY if any(row.evaluation for row in made.rows) else ())


_ACCURACY = ("top-1 source", "top-1 port", "published", "top-5 source", "top-5 port")


def cells(made: Evidence) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    extended = any(row.evaluation for row in made.rows)
    return [(*_cells(row), *(_accuracy(row) if extended else ())) for row in made.rows]


def _cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    if figures is None:
        return row.verdict.architecture, row.verdict.status, "–", "–", "–", "–"
    return (
        row.verdict.architecture, row.verdict.status, number(figures.max_abs),
        number(figures.mean_abs), number(figures.own), f"{share(figures.top1)} of {figures.rows}",
    )  # fmt: skip


def _accuracy(row: Row) -> tuple[str, ...]:
    made = row.evaluation
    if made is None:
        return ("–",) * len(_ACCURACY)
    left, right = made.rows
    published = "–" if made.published is None else f"{made.published:g}%"
    top1, top5 = ([f"{x.top1:.2%}" for x in made.rows], [f"{x.top5:.2%}" for x in (left, right)])
    return (*top1, published, *top5)


def notes(made: Evidence) -> list[str]:
    """Return how the figures are to be read: inputs, TF32, judgement."""
    first = made.rows[0].verdict
    figures = next((row.figures for row in made.rows if row.figures is not None), None)
    lines = []
    if figures is not None:
        lines.append(
            f"Differences are of the two float32 runs, over {figures.cases} batches"
            f" ({figures.rows} inputs) for each variant"
        )
    lines += [note for note in first.notes if "TF32" in note]
    lines.append(
        "Judged by the source's own error: a port passes if it is as near to the source's float64"
        " run as rounding lets the source itself be; absolute figures are printed, not judged"
    )
    over = [
        row.verdict.architecture for row in made.rows
        if row.verdict.passed and row.figures is not None and made.asked is not None
        and row.figures.max_abs >= made.asked
    ]  # fmt: skip
    if over:
        lines.append(
            f"{', '.join(over)}: over {made.asked:g} and sound, since the source in float32 differs"
            " from itself in float64 by as much"
        )
    return lines


def markdown(made: Evidence) -> str:
    """Return the table, how to read it, and each variant's inputs, files and versions."""
    rows = [
        (code(row[0]), _MARKS.get(row[1], "⚠️ not made"), *map(plain_text, row[2:]))
        for row in cells(made)
    ]
    parts = [
        f"## {'✅' if made.passed else '❌'} Evidence for the port",
        table(names(made), rows),
        "\n".join(f"- {plain_text(note)}" for note in notes(made)),
        *(_variant(row) for row in made.rows),
    ]
    if made.command:
        parts.append(f"_Made by_ {code(made.command)}")
    return "\n\n".join(parts) + "\n"


def _variant(row: Row) -> str:
    """Return the details of a variant, folded away."""
    verdict = row.verdict
    lines = [f"<details><summary>{plain_text(verdict.architecture)}</summary>"]
    lines += [plain_text(verdict.reason)] if verdict.reason else []
    lines += [f"- {plain_text(finding)}" for finding in verdict.findings]
    if row.checks:
        rows = [
            (
                code(f"{check.output} of {check.case}"), number(check.direct.max_abs),
                number(check.direct.mean_abs), number(check.left.max_abs),
                share(check.direct.top1), number(check.right.error), number(check.limit),
            )
            for check in row.checks
            if check.direct is not None and check.left is not None
        ]  # fmt: skip
        columns = ("output", "max difference", "mean", "source's own", "top-1 same", "error",
                   "limit")  # fmt: skip
        lines.append(table(columns, rows))
    lines.append("\n".join(
        f"- {name}: {code(file_of(side, whole=False))}, {plain_text(side_line(side))}"
        for name, side in (("source", verdict.left), ("port", verdict.right))
    ))  # fmt: skip
    lines.append("\n".join(f"- {plain_text(line)}" for line in origin_lines(verdict)))
    if row.evaluation is not None:
        lines.append(f"#{accuracy.markdown(row.evaluation).strip()}")
    return "\n\n".join([*(line for line in lines if line), "</details>"])
