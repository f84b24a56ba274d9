"""Names with holes: `block{stage}.{i}.attn.q`.

`{i}` stands for one number, `{n:0,3,6}` or `{n:fc1,fc2}` for one of the words listed, and,
where a name is made from holes already known, `{i+1}` for a number moved by a constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, cached_property
from itertools import product
from typing import NamedTuple

from porter.errors import TableError
from porter.mapping.signature import plain

_HOLE = re.compile(r"\{([^{}]*)\}")
_INSIDE = re.compile(r"(?P<name>[a-z_]+)(?:(?P<shift>[+-]\d+)|:(?P<words>[^{}+]+))?")
_NUMBER = "(?:0|[1-9][0-9]*)"


class Hole(NamedTuple):
    """One hole: its name, the words it may hold (empty: a number), how far it is moved."""

    name: str
    words: tuple[str, ...] = ()
    shift: int = 0

    @property
    def expression(self) -> str:
        """What it matches, as a regular expression."""
        return "|".join(map(re.escape, self.words)) if self.words else _NUMBER

    def __str__(self) -> str:
        words = ":" + ",".join(self.words) if self.words else ""
        return f"{{{self.name}{words}{f'{self.shift:+d}' if self.shift else ''}}}"


class Pattern:
    """A name with holes, which matches names and makes them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = _parse(text)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        """Compiled when first needed: most tables are loaded and asked nothing."""
        return re.compile(_expression(self.parts))

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The names that it makes when every number is `#`."""
        words = [(part,) if isinstance(part, str) else part.words or ("#",) for part in self.parts]
        return tuple(dict.fromkeys(plain("".join(choice)) for choice in product(*words)))

    @cached_property
    def holes(self) -> dict[str, Hole]:
        """Its holes by name."""
        return {part.name: part for part in self.parts if isinstance(part, Hole)}

    def match(self, name: str) -> dict[str, str] | None:
        """Return what the holes hold if `name` fits, else None."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        holes = self.holes
        values = {
            key: str(int(value) - holes[key].shift) if holes[key].shift else value
            for key, value in found.groupdict().items()
        }
        return None if any(value.startswith("-") for value in values.values()) else values

    def format(self, values: Mapping[str, str]) -> str:
        """Return the name that the values of the holes make."""
        return "".join(
            part
            if isinstance(part, str)
            else str(int(values[part.name]) + part.shift)
            if part.shift
            else values[part.name]
            for part in self.parts
        )

    def limited(self, words: Mapping[str, tuple[str, ...]]) -> Pattern:
        """Return it with each plain hole of a name in `words` limited to those."""
        parts = [
            Hole(part.name, words[part.name])
            if isinstance(part, Hole) and not part.words and not part.shift and part.name in words
            else part
            for part in self.parts
        ]
        return self if tuple(parts) == self.parts else Pattern("".join(map(str, parts)))

    def overlaps(self, other: Pattern) -> bool:
        """Whether some name fits both."""
        ends = ((0, str.startswith), (-1, str.endswith))
        for end, agrees in ends:  # what is literal decides nearly always
            mine, theirs = (p[end] if p else "" for p in (self.parts, other.parts))
            if isinstance(mine, str) and isinstance(theirs, str):
                short, long = sorted((mine, theirs), key=len)
                if not agrees(long, short):
                    return False
        return _meet(_symbols(self.parts), _symbols(other.parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _parse(text: str) -> tuple[str | Hole, ...]:
    parts: list[str | Hole] = []
    for index, piece in enumerate(_HOLE.split(text)):
        if index % 2 == 0:
            if "{" in piece or "}" in piece:
                raise TableError(f"name {text!r} has a brace without its partner")
            if piece:
                parts.append(piece)
            continue
        inside = _INSIDE.fullmatch(piece)
        if inside is None:
            raise TableError(
                f"name {text!r}: hole {{{piece}}} is none of {{i}}, {{i:0,3}}, {{i+1}}"
            )
        words = tuple(word.strip() for word in (inside["words"] or "").split(",") if word.strip())
        if parts and isinstance(parts[-1], Hole):
            raise TableError(f"name {text!r} has two holes side by side")
        parts.append(Hole(inside["name"], words, int(inside["shift"] or 0)))
    return tuple(parts)


def _expression(parts: tuple[str | Hole, ...]) -> str:
    seen: set[str] = set()
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += re.escape(part)
        elif part.name in seen:
            text += f"(?P={part.name})"
        else:
            seen.add(part.name)
            text += f"(?P<{part.name}>{part.expression})"
    return text


# A symbol is a character, `_DIGITS` (one digit or more) or a tuple of alternative words.
_DIGITS = "\0digits"
_Symbols = tuple[str | tuple[str, ...], ...]


def _symbols(parts: tuple[str | Hole, ...]) -> _Symbols:
    out: list[str | tuple[str, ...]] = []
    for part in parts:
        if isinstance(part, str):
            out += part
        else:
            out.append(part.words or _DIGITS)
    return tuple(out)


@cache
def _meet(a: _Symbols, b: _Symbols) -> bool:
    """Whether two sequences of symbols have a string in common."""
    if not a or not b:
        return not a and not b
    x, y = a[0], b[0]
    if isinstance(x, tuple):
        return any(_meet((*word, *a[1:]), b) for word in x)
    if isinstance(y, tuple):
        return _meet(b, a)
    if x != _DIGITS and y != _DIGITS:
        return x == y and _meet(a[1:], b[1:])
    if x == _DIGITS and y == _DIGITS:
        return any(_meet(s, t) for s, t in ((a[1:], b[1:]), (a, b[1:]), (a[1:], b)))
    if y == _DIGITS:
        return _meet(b, a)
    return y.isdecimal() and (_meet(a[1:], b[1:]) or _meet(a, b[1:]))
