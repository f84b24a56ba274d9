"""From names to rows with placeholders: `blocks.0.q = layers.0.wq`, … becomes `blocks.{i}.q`.

A row is widened only as far as it still covers exactly the names that it comes from: one that
would match another row's names is limited to its own numbers (`conv.{i:0,3,6}`), or cut. Numbers
that follow by steps are multiplied: `net.{3i:0,1,2}` and `stages.{4i+1}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import gcd
from typing import Any

from porter.mapping.matching import Placeholder
from porter.mapping.pattern import Pattern

_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,17})(?![0-9])")
_LETTERS = "ijklmnpqrst"
_Numbers = tuple[int, ...]
_Steps = Mapping[int, tuple[int, int]]
"""{place of a number: (step, shift) of what is counted there}."""
_CUTS = 2
"""Ways to cut items into rows that are compared."""
_PERIODS = range(2, 9)
"""Places after which a flat list may begin again."""
_STEEPEST = 1000
"""Steps of a rule are smaller than this."""
_LEAST = 3
"""Items of a row whose numbers follow by steps: any two numbers are on a line."""


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
    """A row: its names with placeholders, and the items that it covers."""

    items: tuple[Item, ...]
    canonical: tuple[str, ...]
    dialect: tuple[str, ...]
    words: frozenset[int] = frozenset()
    """Which numbers of the first name are limited to those that its items have."""


def generalise(items: Iterable[Item]) -> list[Wide]:
    """Return rows that cover all items and nothing else, in the order of the items."""
    ordered = list(items)
    place = {item: index for index, item in enumerate(ordered)}
    groups: dict[object, list[Item]] = {}
    for item in ordered:
        groups.setdefault((item.key, *map(template, item.names)), []).append(item)
    wide = [row for group in groups.values() for row in _widened(group)]
    wide = _apart(wide)
    return sorted(wide, key=lambda row: min(place[item] for item in row.items))


def template(name: str) -> str:
    """Return a name with `#` for each number."""
    return _NUMBER.sub("#", name)


def _numbers(name: str) -> _Numbers:
    return tuple(int(number) for number in _NUMBER.findall(name))


def _widened(group: Sequence[Item]) -> list[Wide]:
    """Return one row for items of one template, or several where their numbers follow no rule."""
    row = _row(tuple(group))
    if row is not None:
        return [row]
    slots = _slots(group)
    cuts = [_cut(group, slot) for slot in slots]
    cuts += [_cut(group, slot, step) for slot in slots if slot[0] == 0 for step in _PERIODS]
    cuts = [cut for cut in cuts if 1 < len(cut) < len(group)]
    cuts.sort(key=lambda cut: sum(1 if _row(tuple(part)) else len(part) for part in cut))
    choices = [[row for part in cut for row in _widened(part)] for cut in cuts[:_CUTS]]
    return min([*choices, _runs(group)], key=len)


def _runs(group: Sequence[Item]) -> list[Wide]:
    """Return rows for neighbours that follow one rule, each as long as it can be."""
    ordered = sorted(group, key=lambda item: _numbers(item.names[0]))
    rows: list[Wide] = []
    while ordered:
        count = 1
        while count < len(ordered) and (
            count + 1 < _LEAST or _row(tuple(ordered[: count + 1])) is not None
        ):
            count += 1
        row = _row(tuple(ordered[:count]))
        while row is None:
            count -= 1
            row = _row(tuple(ordered[:count]))
        rows.append(row)
        ordered = ordered[count:]
    return rows


def _slots(group: Sequence[Item]) -> list[tuple[int, int]]:
    """Return which numbers of which names differ, (name, place), those with few values first."""
    columns = {
        (name, place): {numbers[place] for numbers in numbered}
        for name in range(len(group[0].names))
        for numbered in [[_numbers(item.names[name]) for item in group]]
        for place in range(len(numbered[0]))
    }
    slots = [slot for slot, distinct in columns.items() if len(distinct) > 1]
    return sorted(slots, key=lambda slot: len(columns[slot]))


def _varying(group: Sequence[Item]) -> list[int]:
    """Return which numbers of the first name differ, the one with the fewest values first."""
    base = [_numbers(item.names[0]) for item in group]
    values = [{numbers[slot] for numbers in base} for slot in range(len(base[0]))]
    slots = [slot for slot, distinct in enumerate(values) if len(distinct) > 1]
    return sorted(slots, key=lambda slot: len(values[slot]))


def _cut(group: Sequence[Item], slot: tuple[int, int], step: int | None = None) -> list[list[Item]]:
    """Return the items of each value of one number, or of each rest of it by `step`."""
    parts: dict[int, list[Item]] = {}
    for item in group:
        value = _numbers(item.names[slot[0]])[slot[1]]
        parts.setdefault(value if step is None else value % step, []).append(item)
    return list(parts.values())


def _row(group: tuple[Item, ...], words: frozenset[int] = frozenset()) -> Wide | None:
    """Return the one row of items whose numbers all follow those of their first name.

    `words` are the numbers of that name (by place) whose placeholders are limited to their values.
    """
    if len(group) == 1:
        return Wide(group, group[0].canonical, group[0].dialect)
    base = [_numbers(item.names[0]) for item in group]
    varying = sorted(_varying(group))
    if len(varying) > len(_LETTERS):
        return None
    letters = dict(zip(varying, _LETTERS, strict=False))
    if not letters or len(set(base)) < len(base):
        return None
    plain = dict.fromkeys(varying, (1, 0))
    for steps in (plain, _counted(base, varying)) if len(group) >= _LEAST else (plain,):
        row = _filled(group, base, letters, words, steps)
        if row is not None:
            return row
    return None


def _counted(base: Sequence[_Numbers], varying: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return the step and the first of the numbers at each place that differs."""
    found = {}
    for slot in varying:
        values = sorted({numbers[slot] for numbers in base})
        step = gcd(*(value - values[0] for value in values))
        found[slot] = (step, values[0] % step)
    return found


def _filled(
    group: tuple[Item, ...], base: Sequence[_Numbers], letters: Mapping[int, str],
    words: frozenset[int], steps: _Steps,
) -> Wide | None:  # fmt: skip
    """Return the row whose placeholders count by `steps` in the first name."""
    counts = [
        tuple((n - steps[s][1]) // steps[s][0] if s in steps else n for s, n in enumerate(numbers))
        for numbers in base
    ]
    stepping = {slot for slot, (step, _) in steps.items() if step > 1}
    limits = {slot: sorted({one[slot] for one in counts}) for slot in words | stepping}
    texts = []
    for place in range(len(group[0].names)):
        text = _named([item.names[place] for item in group], counts, letters, limits)
        if text is None:
            return None
        texts.append(text)
    many = len(group[0].canonical)
    return Wide(group, tuple(texts[:many]), tuple(texts[many:]), words)


def _named(
    names: Sequence[str],
    base: Sequence[_Numbers],
    letters: Mapping[int, str],
    limits: Mapping[int, Sequence[int]],
) -> str | None:
    """Return one name of a row with its placeholders, None where its numbers follow no rule."""
    numbers = [_numbers(name) for name in names]
    pieces, used = [], set()
    for place in range(len(numbers[0])):
        values = [one[place] for one in numbers]
        if len(set(values)) == 1:
            pieces.append(str(values[0]))
            continue
        source = _source(values, place, base, letters)
        if source is None:
            return None
        slot, step, shift = source
        used.add(slot)
        listed = limits.get(slot, ())
        one = Placeholder(letters[slot], tuple(map(str, listed)), shift, step)
        pieces.append(str(one))
    rest = iter(pieces)
    return _NUMBER.sub(lambda _: next(rest), names[0]) if used == set(letters) else None


def _source(
    values: Sequence[int], place: int, base: Sequence[_Numbers], letters: Iterable[int]
) -> tuple[int, int, int] | None:
    """Return which number of the first name these follow, by which step, and moved by how much."""
    candidates = []
    for slot in letters:
        counts = [one[slot] for one in base]
        first = min(range(len(counts)), key=counts.__getitem__)
        last = max(range(len(counts)), key=counts.__getitem__)
        step, rest = divmod(values[last] - values[first], (counts[last] - counts[first]) or 1)
        shifts = {value - step * count for value, count in zip(values, counts, strict=True)}
        steps = step == 1 or (1 < step < _STEEPEST and len(base) >= _LEAST)
        if not rest and len(shifts) == 1 and steps:
            shift = shifts.pop()
            candidates.append((step, abs(shift), slot != place, slot, shift))
    if not candidates:
        return None
    step, _, _, slot, shift = min(candidates)
    return slot, step, shift


def _apart(rows: list[Wide]) -> list[Wide]:
    """Limit or cut rows until no two can match one name, on either side."""
    rows = list(rows)
    index = 0
    while index < len(rows):
        row = rows[index]
        earlier = next((one for one in rows[:index] if _meet(row, one)), None)
        if earlier is None:
            index += 1
            continue
        one, two = _separated(earlier, row)
        rows = [r for r in rows if r is not earlier and r is not row] + one + two
        index -= 1  # The rows before are still apart.
    return rows


def _separated(left: Wide, right: Wide) -> tuple[list[Wide], list[Wide]]:
    """Return both rows narrowed as little as keeps them apart."""
    choices = product(enumerate(_narrower(left)), enumerate(_narrower(right)))
    for (_, lefts), (_, rights) in sorted(choices, key=lambda pair: pair[0][0] + pair[1][0]):
        if not any(_meet(a, b) for a in lefts for b in rights):
            return lefts, rights
    raise AssertionError(f"names that are the same: {left.canonical}, {right.canonical}")


def _narrower(row: Wide) -> list[list[Wide]]:
    """Return ever narrower rows for the same items: as it is, limited, cut, name by name."""
    choices = [[row]]
    if len(row.items) == 1:
        return choices
    slots = _varying(row.items)
    for words in [*({slot} for slot in slots), set(slots)]:
        limited = _row(row.items, row.words | words)
        if limited is not None and limited.words > row.words:
            choices.append([limited])
    choices += [
        [one for part in _cut(row.items, (0, slot)) for one in _widened(part)] for slot in slots
    ]
    return [*choices, [Wide((item,), item.canonical, item.dialect) for item in row.items]]


def _meet(left: Wide, right: Wide) -> bool:
    sides = ((left.canonical, right.canonical), (left.dialect, right.dialect))
    return any(
        _pattern(a).overlaps(_pattern(b)) for ones, others in sides for a in ones for b in others
    )


@cache
def _pattern(text: str) -> Pattern:
    return Pattern(text)
