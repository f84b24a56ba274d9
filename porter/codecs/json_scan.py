"""JSON of a known form, read from left to right.

A JSON library builds whatever a hostile text of 100 MB asks for, and takes `NaN`, lone
surrogates and a key twice. Here the caller asks for what may come next, and nothing else may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import NoReturn

from porter.errors import InputError, printable

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(
    r"(-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,3})?)|true|false|null"
)

DEEPEST = 32
"""Levels of values that nobody asks for."""


class Scanner:
    """A position in a text; every method moves it or raises `InputError`."""

    def __init__(self, text: str, path: str, label: str) -> None:
        self.text = text
        self.at = 0
        self._path = path
        self._label = label

    def entries(self) -> Iterator[str]:
        """Yield the keys of the object that begins here; the caller reads each value.

        No key may come twice.
        """
        self.expect("{")
        self.skip()
        if self.peek() == "}":
            self.at += 1
            return
        seen: set[str] = set()
        while True:
            key = self.string()
            if key in seen:
                self.refuse(f"{printable(key)} is there twice")
            seen.add(key)
            self.expect(":")
            yield key
            self.skip()
            mark = self.peek()
            if mark not in ("}", ","):
                self.refuse(f"no JSON object: a comma is missing at character {self.at}")
            self.at += 1
            if mark == "}":
                return

    def string(self) -> str:
        """Return the text that stands here."""
        self.expect('"')
        begin = self.at - 1
        try:
            text, self.at = scanstring(self.text, self.at, True)
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.refuse(f"a lone surrogate in the text that begins at character {begin}")
        except ValueError:
            self.refuse(f"a text that is not JSON begins at character {begin}")
        return str(text)

    def scalar(self) -> str | float | None:
        """Return the text or number that stands here; `true`, `false` and `null` give None."""
        self.skip()
        if self.peek() == '"':
            return self.string()
        match = _SCALAR.match(self.text, self.at)
        if match is None:
            self.refuse(f"neither a text nor a number at character {self.at}")
        self.at = match.end()
        return None if match[1] is None else float(match[1])

    def null(self) -> bool:
        """Go over `null` if it comes next, and say whether it did."""
        self.skip()
        if not self.text.startswith("null", self.at):
            return False
        self.at += 4
        return True

    def pass_over(self, depth: int = 0) -> None:
        """Go over a value of any kind, which nobody asks for."""
        self.skip()
        if self.peek() not in ("{", "["):
            self.scalar()
            return
        if depth == DEEPEST:
            self.refuse(f"values are nested deeper than {DEEPEST}")
        if self.peek() == "{":
            for _ in self.entries():
                self.pass_over(depth + 1)
            return
        self.at += 1
        self.skip()
        more = self.peek() != "]"
        while more:
            self.pass_over(depth + 1)
            self.skip()
            more = self.peek() == ","
            self.at += more
        self.expect("]")

    def skip(self) -> None:
        """Go over white space."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def peek(self) -> str:
        """Return the next character, "" at the end."""
        return self.text[self.at : self.at + 1]

    def expect(self, mark: str) -> None:
        """Go over white space and `mark`."""
        if self.text.startswith(mark, self.at):
            self.at += 1
            return
        self.skip()
        if self.peek() != mark:
            self.refuse(f"no JSON object: {mark} expected at character {self.at}")
        self.at += 1

    def finish(self) -> None:
        """Refuse anything but white space from here on."""
        self.skip()
        if self.at != len(self.text):
            self.refuse(f"more than one JSON object, from character {self.at}")

    def refuse(self, what: str) -> NoReturn:
        """Raise `InputError`."""
        raise InputError(f"{self._label}: {what}", self._path)
