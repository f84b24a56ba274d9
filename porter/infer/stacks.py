"""Tensors of one file that stack tensors of the other along a new first axis: experts, layers.

The fingerprint of a stack is the sum of those of its parts. A stack is looked at part by part,
under names with a number, `experts.down@3`; the row that covers them is then one with `stack`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

from porter.infer.draft import Body, Draft
from porter.infer.generalise import Wide
from porter.infer.tensor_file import PART, TensorFile
from porter.tensors import operations
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

_NUMBERED = re.compile(r"(?<=\.)(?:0|[1-9][0-9]{0,5})(?=\.|$)")
_COUNTED = re.compile(rf"{PART}\{{(\w+)\}}")
_FUSED = 3
"""Tensors of each layer that may be one in the stack: gate and up, or q, k and v."""
_MOST_SIBLINGS = 8
_WORD = 1 << 64
_Key = tuple[str, int, int, int]
"""Type, parts, elements and fingerprint of a stack."""


class NotAStackError(Exception):
    """Some of the parts do not follow the rule of the others."""


def apart(left: TensorFile, right: TensorFile, *, mark: str = PART) -> StateDict | None:
    """Return the right's tensors, each stack of tensors of the left part by part.

    `mark` is before the number of a part. None where there is no stack.
    """
    if any(PART in name for name in right.state):
        return None
    wanted = _stacks(left)
    result: dict[str, LazyTensor] = {}
    for name, tensor in right.state.items():
        shape, one = tensor.shape, right.prints[name]
        count = shape[0] if shape else 0
        if (one.dtype, count, one.size, one.total) not in wanted:
            result[name] = tensor
            continue
        parts = operations.Stack(0).split(tensor, count)
        names = [_part(right, name, mark, number) for number in range(count)]
        if any(part in right.state for part in names):
            return None
        result |= zip(names, parts, strict=True)
    return None if len(result) == len(right.state) else StateDict(result, right.state.origin)


def _part(file: TensorFile, name: str, mark: str, number: int) -> str:
    place, separator = file.place(name), file.convention.separator
    end = name.rpartition(separator)[2]
    path = f"{place.path}{mark}{number}"
    return f"{path}{separator}{end}" if place.leaf else path


def _stacks(file: TensorFile) -> set[_Key]:
    """Return what stacks of a file's tensors would look like."""
    groups: dict[str, dict[int, str]] = {}
    for name in file.state:
        for match in _NUMBERED.finditer(name):
            rule = f"{name[: match.start()]}#{name[match.end() :]}"
            groups.setdefault(rule, {})[int(match[0])] = name
    siblings: dict[tuple[str, int, str], list[_Key]] = {}
    for rule, numbered in groups.items():
        count = len(numbered)
        if count > 1 and set(numbered) == set(range(count)):
            above, _, below = rule.partition("#")
            leaf = below.rpartition(".")[2]
            siblings.setdefault((above, count, leaf), []).append(_sum(file, numbered.values()))
    return {key for keys in siblings.values() for key in _fused(keys)}


def _sum(file: TensorFile, names: Iterable[str]) -> _Key:
    prints = [file.prints[name] for name in names]
    total = sum(one.total for one in prints) % _WORD
    return prints[0].dtype, len(prints), sum(one.size for one in prints), total


def _fused(keys: list[_Key]) -> Iterable[_Key]:
    """Yield what one tensor of each layer, or several together, give when they are stacked."""
    yield from keys
    if len(keys) > _MOST_SIBLINGS:
        return
    for width in range(2, _FUSED + 1):
        for some in combinations(keys, width):
            size, total = sum(key[2] for key in some), sum(key[3] for key in some)
            yield some[0][0], some[0][1], size, total % _WORD


def whole(name: str) -> str:
    """Return the name of the tensor that a part is of."""
    return re.sub(rf"{PART}\d+", "", name)


def joined(draft: Draft) -> Draft:
    """Return a draft whose rows of parts are rows with `stack`.

    Raises `NotAStackError` where a stack would not be covered as a whole.
    """
    rows = tuple(_stacked(wide, body) for wide, body in draft.rows)
    if any(PART in name for name in (*draft.extra, *draft.copies)):
        raise NotAStackError
    return replace(draft, rows=rows)


def _stacked(wide: Wide, body: Body) -> tuple[Wide, Body]:
    found = {_COUNTED.search(name) for name in wide.dialect}
    if not any(PART in name for name in wide.dialect):
        return wide, body
    letters = {match[1] if match else "" for match in found}
    names = tuple(_COUNTED.sub("", name) for name in wide.dialect)
    (letter,) = letters if len(letters) == 1 else ("",)
    if not letter or any(f"{{{letter}}}" not in name for name in wide.canonical):
        raise NotAStackError
    if any(PART in name or f"{{{letter}" in name for name in names):
        raise NotAStackError
    return replace(wide, dialect=names), replace(body, stack=letter)
