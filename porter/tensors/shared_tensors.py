"""Tensors that share their memory, noted in a format that cannot share and restored from it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping

from porter.errors import InputError, listed
from porter.tensors.lazy import BLOCK, LazyTensor
from porter.tensors.state_dict import StateDict

_LONGEST_NOTE = 16 << 20


def compact(value: object) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def aliases(state: Mapping[str, LazyTensor]) -> dict[str, str]:
    """Return {name: first name} of tensors that are one and the same memory, seen in one way."""
    first: dict[Hashable, str] = {}
    found = {}
    for name, tensor in state.items():
        if tensor.tie is None:
            continue
        key = (tensor.tie, tensor.dtype.name, tensor.shape)
        if key in first:
            found[name] = first[key]
        else:
            first[key] = name
    return found


def note(state: StateDict) -> str:
    """Return the ties as text for a format's metadata, empty when there are none."""
    found = aliases(state)
    return compact(found) if found else ""


def restore(tensors: dict[str, LazyTensor], text: str | None, path: str) -> tuple[str, ...]:
    """Tie again what the metadata calls tied and is still equal; return what is not, as notes.

    `tensors` is changed in place. Another program may have altered one of the two since.
    """
    if text is None:
        return ()
    broken = []
    for alias, name in _parsed(text, path).items():
        if alias not in tensors or name not in tensors:
            continue  # Another program took one of the two out.
        if equal(tensors[alias], tensors[name]):
            tensors[name].tie = tensors[alias].tie = ("tied", name)
        else:
            broken.append(alias)
    if not broken:
        return ()
    return (f"was shared when written and is not any more: {listed(broken)}",)


def _parsed(text: str, path: str) -> dict[str, str]:
    if len(text) > _LONGEST_NOTE:
        raise InputError(f"a note of shared tensors of {len(text)} characters", path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError("the note of shared tensors is not JSON", path) from fault
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise InputError("the note of shared tensors is not a table of names", path)
    return found


def equal(left: LazyTensor, right: LazyTensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return all(a == b for a, b in zip(left.blocks(BLOCK), right.blocks(BLOCK), strict=True))
