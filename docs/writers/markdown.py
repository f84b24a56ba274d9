"""Markdown that writers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def code(words: Iterable[str]) -> str:
    """Return words as code, between blanks."""
    return " ".join(f"`{word}`" for word in words)


def sections(*parts: str) -> str:
    """Return the parts that are not empty, an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
