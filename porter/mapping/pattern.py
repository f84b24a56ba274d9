"""Names with placeholders: `block{stage}.{i}.attn.q`.

`{i}` is one number, `{n:0,3,6}` or `{n:fc1,fc2}` one of the words listed, and, on a dialect's
side, `{i+1}` is a number moved by a constant, `{3i+1}` three times that number and 1; in
`{i+1:0,3}` it was one of those listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from itertools import product
from math import prod

from porter.errors import TableError, printable
from porter.mapping.matching import Placeholder, ambiguous, find, meet
from porter.mapping.signature import plain

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_INSIDE = re.compile(
    r"(?P<step>[2-9]|[1-9][0-9]{1,3})?(?P<name>[a-z_]+)(?P<shift>[+-][0-9]{1,9})?"
    r"(?::(?P<words>[^{}+]+))?"
)
_MOST_CHOICES = 10_000
"""Choices of the words of one name."""


class Pattern:
    """A name with placeholders: matches names, and formats them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = _parse(text)
        if prod(len(one.words) or 1 for one in self.placeholders.values()) > _MOST_CHOICES:
            raise TableError(f"name {printable(text)!r} lists too many combinations of words")

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        """Compiled when first needed: of most tables few rows are used."""
        return re.compile(_expression(self.parts))

    @cached_property
    def _is_ambiguous(self) -> bool:
        """Whether a regular expression could try very many ways to match a name."""
        return ambiguous(self.parts) > 1

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The names that it formats when every number is `#`."""
        words = [(part,) if isinstance(part, str) else part.texts or ("#",) for part in self.parts]
        return tuple(dict.fromkeys(plain("".join(choice)) for choice in product(*words)))

    @cached_property
    def placeholders(self) -> dict[str, Placeholder]:
        """Its placeholders by name."""
        return {part.name: part for part in self.parts if isinstance(part, Placeholder)}

    @cached_property
    def _moved(self) -> dict[str, Placeholder]:
        """Those of its placeholders that move their numbers."""
        return {name: one for name, one in self.placeholders.items() if one.moves}

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The words of each placeholder that lists some."""
        return {name: one.words for name, one in self.placeholders.items() if one.words}

    def match(self, name: str) -> dict[str, str] | None:
        """Return the values of the placeholders if `name` fits, else None."""
        if self._is_ambiguous:
            found = find(self.parts, name)
        else:
            match = self._regex.fullmatch(name)
            found = match and match.groupdict()
        if found is None:
            return None
        if not self._moved:
            return found
        values = {}
        for key, text in found.items():
            value = self._moved[key].read(text) if key in self._moved else text
            if value is None:
                return None
            values[key] = value
        return values

    def format(self, values: Mapping[str, str]) -> str:
        """Return the name with these values for its placeholders."""
        return "".join(
            part if isinstance(part, str) else part.written(values[part.name])
            for part in self.parts
        )

    def limited(self, words: Mapping[str, tuple[str, ...]]) -> Pattern:
        """Return it with each plain placeholder named in `words` limited to those."""
        parts = [
            part
            if isinstance(part, str) or part.words or (part.moves and not _are_numbers(words, part))
            else part._replace(words=words.get(part.name, ()))
            for part in self.parts
        ]
        return self if tuple(parts) == self.parts else Pattern("".join(map(str, parts)))

    def fixed(self, values: Mapping[str, str]) -> Pattern:
        """Return it with values for some of its placeholders."""
        parts = [
            part.written(values[part.name])
            if isinstance(part, Placeholder) and part.name in values
            else str(part)
            for part in self.parts
        ]
        return Pattern("".join(parts))

    def overlaps(self, other: Pattern) -> bool:
        """Whether some name fits both."""
        ends = ((0, str.startswith), (-1, str.endswith))
        for end, agrees in ends:  # what is literal decides nearly always
            mine, theirs = (p[end] if p else "" for p in (self.parts, other.parts))
            if isinstance(mine, str) and isinstance(theirs, str):
                short, long = sorted((mine, theirs), key=len)
                if not agrees(long, short):
                    return False
        return meet(self.parts, other.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _parse(text: str) -> tuple[str | Placeholder, ...]:
    parts: list[str | Placeholder] = []
    for index, piece in enumerate(_PLACEHOLDER.split(text)):
        if index % 2 == 0:
            if "{" in piece or "}" in piece:
                raise TableError(f"name {printable(text)!r} has an unmatched brace")
            if piece:
                parts.append(piece)
            continue
        inside = _INSIDE.fullmatch(piece)
        if inside is None:
            raise TableError(
                f"name {printable(text)!r}: {{{printable(piece)}}} is malformed;"
                " write {i}, {n:0,3}, {i+1} or {3i}"
            )
        words = tuple(word.strip() for word in (inside["words"] or "").split(",") if word.strip())
        shift, step = int(inside["shift"] or 0), int(inside["step"] or 1)
        if (shift or step > 1) and not all(word.isdecimal() for word in words):
            raise TableError(f"name {printable(text)!r}: only numbers can be moved by {shift:+d}")
        if parts and isinstance(parts[-1], Placeholder):
            raise TableError(
                f"name {printable(text)!r} has two placeholders with nothing between them"
            )
        parts.append(Placeholder(inside["name"], words, shift, step))
    return tuple(parts)


def _are_numbers(words: Mapping[str, tuple[str, ...]], part: Placeholder) -> bool:
    return all(word.isdecimal() for word in words.get(part.name, ()))


def _expression(parts: tuple[str | Placeholder, ...]) -> str:
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
