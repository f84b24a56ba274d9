"""Every error that porter raises on purpose.

    PorterError                 exit code
    ├── InputError      2       a file, or something in it, is refused
    ├── UsageError      2       the request itself cannot be met
    ├── TableError      2       a mapping table is wrong
    ├── MappingError    2       a checkpoint does not fit a table
    ├── SystemFault     3       disk, permission, lock
    └── MissingPackage  3       something must be installed first

A failed verdict (exit code 1) is a value, not an error.
The message is one line: what was expected, what was found, what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_SHOWN = 120
_NO_BREAK = "\xa0"
_COMMAND = re.compile(r"::|##(?=\w*\[)")
"""Begins a command for GitHub (`::error::`, `##[error]`) or Azure (`##vso[`) in a build's log."""


def printable(name: object, limit: int = _SHOWN) -> str:
    """Return `name` escaped, on one line, cut at `limit` characters."""
    text = str(name)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def visible(text: object) -> str:
    """Return text as one line in which nothing acts on a terminal or on the log of a build.

    Every line that is printed and every report goes through this, at the last moment: names,
    metadata and paths are untrusted. Text that went through it before stays as it is.
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(
            c if c.isprintable() or c == _NO_BREAK else c.encode("unicode_escape").decode()
            for c in line
        )
    return _COMMAND.sub(lambda match: f"{match[0][0]}\\{match[0][1]}", line)


def html_escaped(text: object) -> str:
    """Return text for a page of HTML: as `visible`, then without the characters of its markup."""
    from html import escape

    return escape(visible(text))


def json_escaped(text: str) -> str:
    """Return JSON with `\\u` for the characters of its strings that cannot be shown or encoded."""
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Return names joined by commas, the rest counted."""
    items = [printable(name) for name in names]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that `name` may be a misspelling of, the likeliest first."""
    import difflib  # Needed after a mistake only.

    return difflib.get_close_matches(name, list(known), n=most)


class PorterError(Exception):
    """Root of the errors that a user can act on.

    `path` is the file at fault, if there is one; `str(error)` begins with it.
    """

    exit_code = 2

    def __init__(self, message: str, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else os.fspath(path)

    def __str__(self) -> str:
        return self.message if self.path is None else f"{printable(self.path, 400)}: {self.message}"


class InputError(PorterError):
    """A file, or something in it, is refused."""


class UsageError(PorterError):
    """The request cannot be met: unknown name, wrong option, contradiction."""


class TableError(PorterError):
    """A mapping table is malformed, ambiguous or not total."""


class MappingError(PorterError):
    """A checkpoint does not fit the table: missing, unexpected or misshapen tensors.

    `problems` has one line for each, layers folded.
    """

    def __init__(
        self,
        message: str,
        path: str | os.PathLike[str] | None = None,
        problems: Iterable[str] = (),
    ) -> None:
        super().__init__(message, path)
        self.problems = tuple(problems)


class SystemFault(PorterError):
    """The machine refuses: no space, no permission, a lock of another process."""

    exit_code = 3


class MissingPackage(PorterError):
    """A command needs a package that is not installed."""

    exit_code = 3
