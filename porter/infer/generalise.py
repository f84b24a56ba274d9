"""From names to rows with holes: `blocks.0.q = layers.0.wq`, … becomes `blocks.{i}.q`.

A row is made wider only as far as it still stands for exactly what it was made of: one that
would match another row's names is limited to its own numbers (`conv.{i:0,3,6}`), or cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from porter.mapping.pattern import Pattern

_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]*)(?![0-9])")
_HOLES = "ijklmnpqrst"
_Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """Names of both sides that belong together; items of one `key` may share a row."""

    canonical: tuple[str, ...]
    dialect: tuple[str, ...]
    key: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, the canonical ones first."""
        return (*self.canonical, *self.dialect)


@dataclass(frozen=True, slots=True)
class Wide:
    """A row: its names with holes, and the items that it stands for."""

    items: tuple[Item, ...]
    canonical: tuple[str, ...]
    dialect: tuple[str, ...]
    words: frozenset[int] = frozenset()
    """Which numbers of the first name are limited to those that its items have."""


def generalise(items: Iterable[Item]) -> list[Wide]:
    """Return rows that stand for all items, none for more, in the order of the items."""
    ordered = list(items)
    place = {item: index for index, item in enumerate(ordered)}
    groups: dict[object, list[Item]] = {}
    for item in ordered:
        groups.setdefault((item.key, *map(_template, item.names)), []).append(item)
    wide = [row for group in groups.values() for row in _widened(group)]
    wide = _apart(wide)
    return sorted(wide, key=lambda row: min(place[item] for item in row.items))


def _template(name: str) -> str:
    return _NUMBER.sub("#", name)


def _numbers(name: str) -> _Numbers:
    return tuple(int(found) for found in _NUMBER.findall(name))


def _widened(group: Sequence[Item]) -> list[Wide]:
    """Return one row for items of one template, or several where their numbers follow no rule."""
    made = _row(tuple(group))
    if made is not None:
        return [made]
    return [row for part in _cut(group, _varying(group)[0]) for row in _widened(part)]


def _varying(group: Sequence[Item]) -> list[int]:
    """Return which numbers of the first name differ, the one with the fewest values first."""
    base = [_numbers(item.names[0]) for item in group]
    values = [{numbers[slot] for numbers in base} for slot in range(len(base[0]))]
    slots = [slot for slot, found in enumerate(values) if len(found) > 1]
    return sorted(slots, key=lambda slot: len(values[slot]))


def _cut(group: Sequence[Item], slot: int) -> list[list[Item]]:
    parts: dict[int, list[Item]] = {}
    for item in group:
        parts.setdefault(_numbers(item.names[0])[slot], []).append(item)
    return list(parts.values())


def _row(group: tuple[Item, ...], words: frozenset[int] = frozenset()) -> Wide | None:
    """Return the one row of items whose numbers all follow those of their first name.

    `words` are the numbers of that name (by place) whose holes are limited to what they hold.
    """
    if len(group) == 1:
        return Wide(group, group[0].canonical, group[0].dialect)
    base = [_numbers(item.names[0]) for item in group]
    holes = {slot: _HOLES[index] for index, slot in enumerate(sorted(_varying(group)))}
    if not holes or len(set(base)) < len(base):
        return None
    limits = {slot: sorted({numbers[slot] for numbers in base}) for slot in words}
    made = []
    for place in range(len(group[0].names)):
        text = _named([item.names[place] for item in group], base, holes, limits)
        if text is None:
            return None
        made.append(text)
    many = len(group[0].canonical)
    return Wide(group, tuple(made[:many]), tuple(made[many:]), words)


def _named(
    names: Sequence[str],
    base: Sequence[_Numbers],
    holes: Mapping[int, str],
    limits: Mapping[int, Sequence[int]],
) -> str | None:
    """Return one name of a row with its holes, None where its numbers follow no rule."""
    numbers = [_numbers(name) for name in names]
    pieces, used = [], set()
    for place in range(len(numbers[0])):
        values = [own[place] for own in numbers]
        if len(set(values)) == 1:
            pieces.append(str(values[0]))
            continue
        found = _source(values, place, base, holes)
        if found is None:
            return None
        slot, shift = found
        used.add(slot)
        words = ":" + ",".join(map(str, limits[slot])) if slot in limits and not shift else ""
        pieces.append(f"{{{holes[slot]}{words}{f'{shift:+d}' if shift else ''}}}")
    rest = iter(pieces)
    return _NUMBER.sub(lambda _: next(rest), names[0]) if used == set(holes) else None


def _source(
    values: Sequence[int], place: int, base: Sequence[_Numbers], holes: Iterable[int]
) -> tuple[int, int] | None:
    """Return which number of the first name these follow, and moved by how much."""
    found = []
    for slot in holes:
        shifts = {value - own[slot] for value, own in zip(values, base, strict=True)}
        if len(shifts) == 1:
            shift = shifts.pop()
            found.append((abs(shift), slot != place, slot, shift))
    return min(found)[2:] if found else None


def _apart(rows: list[Wide]) -> list[Wide]:
    """Limit or cut rows until no two can match one name, on either side."""
    rows = list(rows)
    index = 0
    while index < len(rows):
        row = rows[index]
        other = next((other for other in rows[:index] if _meet(row, other)), None)
        if other is None:
            index += 1
            continue
        one, two = _separated(other, row)
        rows = [r for r in rows if r is not other and r is not row] + one + two
        index = 0
    return rows


def _separated(one: Wide, other: Wide) -> tuple[list[Wide], list[Wide]]:
    """Return both rows narrowed as little as keeps them apart."""
    choices = product(enumerate(_narrower(one)), enumerate(_narrower(other)))
    for (_, left), (_, right) in sorted(choices, key=lambda pair: pair[0][0] + pair[1][0]):
        if not any(_meet(a, b) for a in left for b in right):
            return left, right
    raise AssertionError(f"names that are the same: {one.canonical}, {other.canonical}")


def _narrower(row: Wide) -> list[list[Wide]]:
    """Return ever narrower rows for the same items: as it is, limited, cut, name by name."""
    found = [[row]]
    if len(row.items) == 1:
        return found
    slots = _varying(row.items)
    for words in [*({slot} for slot in slots), set(slots)]:
        limited = _row(row.items, row.words | words)
        if limited is not None and limited.words > row.words:
            found.append([limited])
    found += [[made for part in _cut(row.items, slot) for made in _widened(part)] for slot in slots]
    return [*found, [Wide((item,), item.canonical, item.dialect) for item in row.items]]


def _meet(one: Wide, other: Wide) -> bool:
    sides = ((one.canonical, other.canonical), (one.dialect, other.dialect))
    return any(
        _pattern(a).overlaps(_pattern(b)) for left, right in sides for a in left for b in right
    )


@cache
def _pattern(text: str) -> Pattern:
    return Pattern(text)
