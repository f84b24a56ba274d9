"""Skeletons: the names, dtypes and shapes of a variant's tensors, without a framework.

A skeleton file has one line for each tensor, in the order of the model's state dict:

    head.weight float32 classes 512
    block1.{0..1}:                       a body that repeats, for each number
      norm1.weight float32 64
    layers.0.blocks.1.attn_mask constant
    +pre_logits pre_logits.fc.weight float32 768 768

`classes` and `positions` are sizes that a checkpoint may choose, `classes+1` is one that follows
from such a size. `constant` marks buffers that
the architecture computes; `+name` marks tensors of an optional part of the model.
`make skeletons` generates the files from the reference models; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

Dim = int | str
Bound = dict[str, tuple[str, tuple[int, ...]]]
"""{name: (dtype name, shape)} with no symbol left."""


class SkeletonTensor(NamedTuple):
    """One tensor of a skeleton; `dims` are sizes and symbols."""

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

    tensors: tuple[SkeletonTensor, ...]

    def bind(self, symbols: Mapping[str, int], features: Iterable[str] = ()) -> Bound:
        """Return {name: (dtype, shape)} of everything except constants."""
        chosen = {"", *features}
        return {
            t.name: (t.dtype, tuple(size_of(d, symbols) for d in t.dims))
            for t in self.tensors
            if not t.constant and t.feature in chosen
        }

    @property
    def symbols(self) -> set[str]:
        """The sizes that a checkpoint may choose."""
        return {symbol_of(d)[0] for t in self.tensors for d in t.dims if isinstance(d, str)}

    @property
    def features(self) -> dict[str, list[SkeletonTensor]]:
        """The tensors of each optional part."""
        groups: dict[str, list[SkeletonTensor]] = {}
        for tensor in self.tensors:
            if tensor.feature:
                groups.setdefault(tensor.feature, []).append(tensor)
        return groups


def symbol_of(dim: str) -> tuple[str, int]:
    """Return the symbol of a size and what is added to it: `classes+1` is ("classes", 1)."""
    symbol, _, more = dim.partition("+")
    return symbol, int(more or 0)


def size_of(dim: Dim, symbols: Mapping[str, int]) -> int:
    """Return a size for these values of the symbols."""
    if isinstance(dim, int):
        return dim
    symbol, more = symbol_of(dim)
    return symbols[symbol] + more


def parse(text: str) -> Skeleton:
    """Read a skeleton file; `ValueError` names the malformed line."""
    tensors: list[SkeletonTensor] = []
    prefix, numbers, body = "", range(0), list[SkeletonTensor]()
    for line in [*text.splitlines(), "end:"]:
        if line.startswith("  ") and prefix:
            body.append(_tensor(line))
            continue
        for number in numbers:
            tensors += (_moved(tensor, f"{prefix}{number}.") for tensor in body)
        prefix, numbers, body = "", range(0), []
        head = re.fullmatch(r"(\S*)\{(\d+)\.\.(\d+)\}:", line)
        if head:
            prefix, numbers = head[1], range(int(head[2]), int(head[3]) + 1)
        elif line.strip() and not line.startswith("#") and line != "end:":
            tensors.append(_tensor(line))
    return Skeleton(tuple(tensors))


def _tensor(line: str) -> SkeletonTensor:
    feature, words = "", line.split()
    if words[0].startswith("+"):
        feature, words = words[0][1:], words[1:]
    if len(words) < 2:
        raise ValueError(f"skeleton line {line!r}: name and dtype expected")
    if words[1] == "constant":
        return SkeletonTensor(words[0], constant=True, feature=feature)
    dims = tuple(int(w) if w.isdecimal() else w for w in words[2:])
    return SkeletonTensor(words[0], words[1], dims, feature=feature)


def _moved(tensor: SkeletonTensor, prefix: str) -> SkeletonTensor:
    return tensor._replace(name=prefix + tensor.name)


def render(skeleton: Skeleton, comment: str) -> str:
    """Write a skeleton file: bodies that repeat number after number are folded."""
    lines = [f"# {comment}"]
    for prefix, group in _runs(skeleton.tensors):
        if not prefix:
            lines += [tensor.line() for tensor in group[0][1]]
            continue
        numbers = [number for number, _ in group]
        lines.append(f"{prefix}{{{numbers[0]}..{numbers[-1]}}}:")
        lines += [f"  {line}" for line in _body(prefix, *group[0])]
    return "\n".join(lines) + "\n"


_Group = list[tuple[int, list[SkeletonTensor]]]


def _runs(tensors: Iterable[SkeletonTensor]) -> Iterator[tuple[str, _Group]]:
    """Yield ("", [(0, tensors)]) for plain tensors, (prefix, [(number, body), …]) for repeats."""
    bodies: list[tuple[str, int, list[SkeletonTensor]]] = []
    for tensor in tensors:
        match = re.match(r"(.*?)(?<![0-9])(0|[1-9][0-9]*)\.", tensor.name)
        deepest = _innermost(tensor.name)
        prefix, number = deepest if deepest and match else ("", 0)
        if bodies and bodies[-1][:2] == (prefix, number):
            bodies[-1][2].append(tensor)
        else:
            bodies.append((prefix, number, [tensor]))
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


def _body(prefix: str, number: int, body: list[SkeletonTensor]) -> list[str]:
    return [tensor.line(tensor.name[len(f"{prefix}{number}.") :]) for tensor in body]
