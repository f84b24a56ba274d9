"""Matching names with placeholders, in bounded time: against a name, and against one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from porter.errors import TableError, printable

NUMBER = "(?:0|[1-9][0-9]{0,17})"
_DIGITS_AT = re.compile(NUMBER)
_MOST_STEPS = 20_000
"""Steps of matching one name."""
_MOST_PAIRS = 1_000_000
"""Pairs of places at which two patterns are compared."""


class Placeholder(NamedTuple):
    """One placeholder: its name, its words (none: a number), and where the number is then.

    In a name is `step` times the number, moved by `shift`.
    """

    name: str
    words: tuple[str, ...] = ()
    shift: int = 0
    step: int = 1

    @property
    def moves(self) -> bool:
        """Whether the number in a name is another one than the placeholder's."""
        return self.shift != 0 or self.step != 1

    def written(self, value: str) -> str:
        """Return how a value is written in a name."""
        return str(int(value) * self.step + self.shift) if self.moves else value

    def read(self, text: str) -> str | None:
        """Return the value that is written in a name, None where none is written so."""
        if not self.moves:
            return text
        value, rest = divmod(int(text) - self.shift, self.step)
        return None if rest or value < 0 else str(value)

    @property
    def expression(self) -> str:
        """The regular expression of its values."""
        return "|".join(map(re.escape, self.texts)) if self.words else NUMBER

    @property
    def texts(self) -> tuple[str, ...]:
        """Its words as they are in a name: numbers that are moved."""
        return tuple(map(self.written, self.words))

    def __str__(self) -> str:
        words = ":" + ",".join(self.words) if self.words else ""
        step, shift = self.step if self.step > 1 else "", f"{self.shift:+d}" if self.shift else ""
        return f"{{{step}{self.name}{shift}{words}}}"


Parts = tuple[str | Placeholder, ...]


def ambiguous(parts: Parts) -> int:
    """Return how many placeholders may take more or less of a name and still go on."""
    count, seen = 0, set()
    for place, part in enumerate(parts):
        if isinstance(part, str) or part.name in seen:
            continue
        seen.add(part.name)
        after = parts[place + 1] if place + 1 < len(parts) else ""
        if part.words:
            ordered = sorted(part.texts)
            count += any(b.startswith(a) for a, b in pairwise(ordered))
        else:
            count += not isinstance(after, str) or after[:1].isdecimal()
    return count


def find(parts: Parts, name: str) -> dict[str, str] | None:
    """Return the values of the placeholders, as a regular expression finds them, None for none.

    Raises `TableError` when the ways to match are too many.
    """
    repeated = [p.name for p in parts if isinstance(p, Placeholder)]
    repeated = [p for p in dict.fromkeys(repeated) if repeated.count(p) > 1]
    tried: set[tuple[object, ...]] = set()
    stack: list[Iterator[tuple[int, dict[str, str]]]] = [iter([(0, {})])]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        at, values = step
        if len(stack) > len(parts):
            if at == len(name):
                return values
            continue
        state = (len(stack), at, *(values.get(key) for key in repeated))
        if state in tried:
            continue
        tried.add(state)
        if len(tried) > _MOST_STEPS:
            raise TableError(
                f"the placeholders of a name are ambiguous: {printable(name)} can be matched in"
                " too many ways; separate them, or list their words ({i:0,1,2})"
            )
        stack.append(_steps(parts[len(stack) - 1], name, at, values))
    return None


def _steps(
    part: str | Placeholder, name: str, at: int, values: dict[str, str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield where a part of a pattern may end, and the values so far."""
    if isinstance(part, str) or part.name in values:
        text = part if isinstance(part, str) else values[part.name]
        if name.startswith(text, at):
            yield at + len(text), values
    elif part.words:
        for word in part.texts:
            if name.startswith(word, at):
                yield at + len(word), {**values, part.name: word}
    elif match := _DIGITS_AT.match(name, at):
        for end in range(match.end(), at, -1):
            yield end, {**values, part.name: name[at:end]}


# The automaton of a pattern: for each state what may follow, a character or any digit, and the
# state after it. The last state is the end.
_DIGIT = "\0digit"
_Arrows = list[list[tuple[str, int]]]


def meet(left: Parts, right: Parts) -> bool:
    """Whether some name fits both patterns, whatever their placeholders are called."""
    a, b = _arrows(left), _arrows(right)
    end = (len(a) - 1, len(b) - 1)
    waiting, seen = [(0, 0)], {(0, 0)}
    while waiting:
        state = waiting.pop()
        if state == end:
            return True
        for x, i in a[state[0]]:
            for y, j in b[state[1]]:
                if (i, j) not in seen and _agree(x, y):
                    seen.add((i, j))
                    waiting.append((i, j))
        if len(seen) > _MOST_PAIRS:
            raise TableError("two names of the table are too long to be compared")
    return False


def _agree(x: str, y: str) -> bool:
    if x == y:
        return True
    return (x == _DIGIT and y.isdecimal()) or (y == _DIGIT and x.isdecimal())


@lru_cache(4096)
def _arrows(parts: Parts) -> _Arrows:
    """Return the automaton of a pattern."""
    out: _Arrows = [[]]
    for part in parts:
        start = len(out) - 1
        words = [part] if isinstance(part, str) else list(part.texts)
        if not words:
            out.append([])
            # Another digit, or what follows the number: that is the state's other arrows.
            out[start].append((_DIGIT, start + 1))
            out[start + 1].append((_DIGIT, start + 1))
            continue
        middles = sum(len(word) - 1 for word in words)
        end = start + middles + 1
        out += [[] for _ in range(end - start)]
        at = start
        for word in words:
            before = start
            for character in word[:-1]:
                at += 1
                out[before].append((character, at))
                before = at
            out[before].append((word[-1], end))
    return out
