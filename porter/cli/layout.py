"""Rows of text within the width of the terminal, broken between words.

A no-break space is printed as a space at which lines are not broken.
In a pipe a row is one line, for tools that read lines, unless `COLUMNS` gives a width.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence

import click

from porter.errors import visible

_GAP = 2
_NO_BREAK = "\xa0"
_NARROWEST = 24
"""Characters that a column needs for its text to be wrapped inside it."""


def width() -> int | None:
    """Return the characters of a line, None where lines may have any length."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or None


def say(text: str, err: bool = False) -> None:
    """Print text as one line, escaped."""
    click.echo(visible(text).replace(_NO_BREAK, " "), err=err)


def wrapped(text: str, indent: str = "", hanging: str = "") -> str:
    """Return text in lines of at most `width()`; words and names are not broken."""
    limit, text = width(), visible(text)
    if limit is None or len(indent) + len(text) <= limit:
        return (indent + text).replace(_NO_BREAK, " ")
    return "\n".join(_wrap(text, max(limit, _NARROWEST), indent, hanging))


def listing(items: Iterable[str]) -> str:
    """Return items joined by commas, to be wrapped between them."""
    return ", ".join(item.replace(" ", _NO_BREAK) for item in items)


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Return rows with their columns aligned, the last one ragged; cells are escaped.

    Where the width does not suffice, the last column is wrapped or, where it would be narrow,
    the last columns follow on a line of their own, indented.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    count = max(map(len, rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(count)]
    words = [len(word) for row in rows if len(row) == count for word in row[-1].split()]
    least = min(widths[-1], max([*words, _NARROWEST])) if rows else 0
    lines: list[str] = []
    for row in rows:
        cells = [*row, *[""] * (count - len(row))]
        lines += _lines(cells, widths, least, indent)
    return "\n".join(lines)


def _lines(cells: Sequence[str], widths: Sequence[int], least: int, indent: str) -> list[str]:
    """Return a row as lines; `least` is what the last column needs where it is wrapped."""
    limit = width()
    fitting = len(widths) if limit is None else _fitting(widths, least, limit - len(indent))
    first = "".join(
        cell.ljust(size + _GAP)
        for cell, size in zip(cells[: fitting - 1], widths[: fitting - 1], strict=True)
    )
    last = cells[fitting - 1]
    line = (indent + first + last).rstrip().replace(_NO_BREAK, " ")
    if not line.strip():
        lines = []
    elif limit is not None and len(line) > limit:
        lines = _wrap(last, limit, indent + first, " " * len(indent + first))
    else:
        lines = [line]
    if any(cells[fitting:]):
        lines += _lines(cells[fitting:], widths[fitting:], least, indent + " " * 4)
    return lines


def _fitting(widths: Sequence[int], least: int, limit: int) -> int:
    """Return how many columns go on one line."""
    used = 0
    for index, size in enumerate(widths):
        needed = least if index == len(widths) - 1 else size
        if index and used + needed > limit:
            return index
        used += size + _GAP
    return len(widths)


def _wrap(text: str, limit: int, first: str, hanging: str) -> list[str]:
    lines = textwrap.wrap(
        text, limit, initial_indent=first, subsequent_indent=hanging, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(_NO_BREAK, " ") for line in lines] or [first.rstrip()]
