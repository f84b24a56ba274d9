"""Fold lists of tensor names: `block3.{0…11}.attn.q.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,18}(?![0-9])")


def fold(names: Iterable[str]) -> list[str]:
    """Return the names, those that differ in one number as one, in order."""
    current = list(dict.fromkeys(names))
    places = max((len(_NUMBER.findall(name)) for name in current), default=0)
    for place in reversed(range(places)):
        current = _fold_at(current, place)
    return current


def _fold_at(names: list[str], place: int) -> list[str]:
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        cut = _cut(name, place)
        groups.setdefault((name, "") if cut is None else (cut[0], cut[2]), []).append(
            -1 if cut is None else cut[1]
        )
    return [
        before if numbers == [-1] else f"{before}{_runs(numbers)}{after}"
        for (before, after), numbers in groups.items()
    ]


def _cut(name: str, place: int) -> tuple[str, int, str] | None:
    """Cut a name at its `place`-th number that is not folded already."""
    numbers = [m for m in _NUMBER.finditer(name) if "{" not in name[: m.start()].split("}")[-1]]
    if place >= len(numbers):
        return None
    number = numbers[place]
    return name[: number.start()], int(number.group()), name[number.end() :]


def _runs(numbers: list[int]) -> str:
    numbers = sorted(set(numbers))
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}…{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"
