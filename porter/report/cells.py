"""Tables and cells of Markdown, in which no character of a name is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from porter.errors import visible


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are escaped already."""
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def text(value: object) -> str:
    """Return a value as plain text on one line."""
    plain = " ".join(visible(value).split()).replace("\\", "\\\\")
    for character in "|<*_`[]~#":
        plain = plain.replace(character, f"\\{character}")
    return plain


def code(value: str) -> str:
    """Return a value as code on one line."""
    return "`" + " ".join(visible(value).split()).replace("`", "'").replace("|", "¦") + "`"
