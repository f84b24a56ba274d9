"""Skeletons: the names, dtypes and shapes of a variant's tensors, without a framework.

A skeleton file has one line for each tensor, in the order of the model's state dict:

    head.weight float32 classes 512
    block1.{0..1}:                       a body that repeats, for each number
      norm1.weight float32 64
    layers.0.blocks.1.attn_mask constant
    +pre_logits pre_logits.fc.weight float32 768 768

`classes` and `positions` are sizes that a checkpoint may choose. `constant` marks buffers that
the architecture computes; `+name` marks tensors of an optional part of the model.
The files are made from the reference models by `make skeletons` and held to them by a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

Dim = int | str
Bound = dict[str, tuple[str, tuple[int, ...]]]
"""{name: (dtype name, shape)} with no symbol left."""


class Entry(NamedTuple):
    """One tensor of a skeleton; `dims` holds sizes and symbols."""

    name: str
    dtype: str = ""
    dims: tuple[Dim, ...] = ()
    constant: bool = False
    feature: str = ""

    def line(self, name: str | None = None) -> str:
        """Return its line in a skeleton file, under another name if given."""
        feature = f"+{self.feature} " if self.feature else ""
        rest = "constant" if self.constant else " ".join([self.dtype, *map(str, self.dims)])
        return f"{feature}{name or self.name} {rest}"


class Skeleton(NamedTuple):
    """A variant's tensors in the order of the model's state dict."""

    entries: tuple[Entry, ...]

    def bind(self, symbols: Mapping[str, int], features: Iterable[str] = ()) -> Bound:
        """Return {name: (dtype, shape)} of everything but constants."""
        chosen = {"", *features}
        return {
            e.name: (e.dtype, tuple(d if isinstance(d, int) else symbols[d] for d in e.dims))
            for e in self.entries
            if not e.constant and e.feature in chosen
        }

    @property
    def symbols(self) -> set[str]:
        """The sizes that a checkpoint may choose."""
        return {d for e in self.entries for d in e.dims if isinstance(d, str)}

    @property
    def features(self) -> dict[str, list[Entry]]:
        """The tensors of each optional part."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.feature:
                found.setdefault(entry.feature, []).append(entry)
        return found


def parse(text: str) -> Skeleton:
    """Read a skeleton file; `ValueError` names the line that is wrong."""
    entries: list[Entry] = []
    prefix, numbers, body = "", range(0), list[Entry]()
    for line in [*text.splitlines(), "end:"]:
        if line.startswith("  ") and prefix:
            body.append(_entry(line))
            continue
        for number in numbers:
            entries += (_moved(entry, f"{prefix}{number}.") for entry in body)
        prefix, numbers, body = "", range(0), []
        head = re.fullmatch(r"(\S*)\{(\d+)\.\.(\d+)\}:", line)
        if head:
            prefix, numbers = head[1], range(int(head[2]), int(head[3]) + 1)
        elif line.strip() and not line.startswith("#") and line != "end:":
            entries.append(_entry(line))
    return Skeleton(tuple(entries))


def _entry(line: str) -> Entry:
    feature, words = "", line.split()
    if words[0].startswith("+"):
        feature, words = words[0][1:], words[1:]
    if len(words) < 2:
        raise ValueError(f"skeleton line {line!r}: name and dtype expected")
    if words[1] == "constant":
        return Entry(words[0], constant=True, feature=feature)
    dims = tuple(int(w) if w.isdecimal() else w for w in words[2:])
    return Entry(words[0], words[1], dims, feature=feature)


def _moved(entry: Entry, prefix: str) -> Entry:
    return Entry(prefix + entry.name, entry.dtype, entry.dims, entry.constant, entry.feature)


def render(skeleton: Skeleton, comment: str) -> str:
    """Write a skeleton file: bodies that repeat number after number are folded."""
    lines = [f"# {comment}"]
    for prefix, group in _runs(skeleton.entries):
        if not prefix:
            lines += [entry.line() for entry in group[0][1]]
            continue
        numbers = [number for number, _ in group]
        lines.append(f"{prefix}{{{numbers[0]}..{numbers[-1]}}}:")
        lines += [
            "  " + entry.line(entry.name[len(f"{prefix}{numbers[0]}.") :]) for entry in group[0][1]
        ]
    return "\n".join(lines) + "\n"


_Group = list[tuple[int, list[Entry]]]


def _runs(entries: Iterable[Entry]) -> Iterator[tuple[str, _Group]]:
    """Yield ("", [(0, entries)]) for plain entries, (prefix, [(number, body), …]) for repeats."""
    bodies: list[tuple[str, int, list[Entry]]] = []
    for entry in entries:
        found = re.match(r"(.*?)(?<![0-9])(0|[1-9][0-9]*)\.", entry.name)
        deepest = _innermost(entry.name)
        prefix, number = deepest if deepest and found else ("", 0)
        if bodies and bodies[-1][:2] == (prefix, number):
            bodies[-1][2].append(entry)
        else:
            bodies.append((prefix, number, [entry]))
    index = 0
    while index < len(bodies):
        prefix, number, body = bodies[index]
        group = [(number, body)]
        while prefix and index + 1 < len(bodies):
            next_prefix, next_number, next_body = bodies[index + 1]
            same = next_prefix == prefix and next_number == group[-1][0] + 1
            if not same or _body(prefix, next_number, next_body) != _body(prefix, number, body):
                break
            group.append((next_number, next_body))
            index += 1
        index += 1
        yield (prefix, group) if len(group) > 1 else ("", [(0, body)])


def _innermost(name: str) -> tuple[str, int] | None:
    """Cut `layers.0.blocks.3.attn.qkv.weight` at the number that counts blocks."""
    segments = name.split(".")
    places = [i for i, s in enumerate(segments[:-1]) if s.isdecimal()]
    if not places:
        return None
    place = places[1] if len(places) > 1 and places[1] == places[0] + 2 else places[0]
    return ".".join(segments[:place]) + ".", int(segments[place])


def _body(prefix: str, number: int, body: list[Entry]) -> list[str]:
    return [entry.line(entry.name[len(f"{prefix}{number}.") :]) for entry in body]
