"""Follow weights and constants through what a graph does to them before they meet data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from porter.errors import InputError, printable
from porter.onnx.graph.flow import Data
from porter.onnx.graph.steps import Expand, Permute, Reshape, Standardise, Static, Take
from porter.onnx.graph.values import Node
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape

Seen = Data | Static | Array | None
"""What is known of a value: data, a weight, a constant; None: numbers about shapes."""
VIEWS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Dropout",
         "Expand", "CastLike"}  # fmt: skip
"""Operations that compute nothing."""


def follow_constant(node: Node, seen: Sequence[Seen], after: Shape | None) -> Seen:
    """Return a known constant after an operation that changes only its shape."""
    if node.op in VIEWS and isinstance(seen[0], np.ndarray) and after is not None:
        if node.op == "Transpose":
            return seen[0].transpose(node.get("perm"))  # type: ignore[arg-type]
        is_copied = node.op == "Expand"
        return np.broadcast_to(seen[0], after) if is_copied else seen[0].reshape(after)
    return None


def follow_weight(node: Node, seen: Sequence[Seen], after: Shape | None) -> Seen:
    """Return a weight after one more operation, None if the operation cannot be undone.

    `after` is the shape of the result, where it is known. `InputError` when it is scaled.
    """
    static = next(value for value in seen if isinstance(value, Static))
    if node.op == "Transpose":
        axes = node.get("perm") or list(range(len(static.shape)))[::-1]
        return static.then(Permute(tuple(axes)))  # type: ignore[arg-type]
    if node.op in ("Identity", "Cast", "CastLike"):
        return static
    if node.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten") and after is not None:
        return static.then(Reshape(static.shape, after))
    if node.op == "Expand":
        return static if after is None else static.then(Expand(static.shape, after))
    if node.op in ("Gather", "GatherND") and isinstance(seen[1], np.ndarray):
        return _gathered(node, static, seen[1])
    if node.op == "Slice":
        return _sliced(node, static, seen)
    if node.op == "Concat":
        return _joined(node, [value for value in seen if isinstance(value, Static)], len(seen))
    if node.op == "LayerNormalization" and seen[0] is static:
        axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
        assert isinstance(axis, int)
        assert isinstance(epsilon, float)
        return static.then(Standardise(axis % len(static.shape), epsilon))
    if node.op in ("Mul", "Add", "Div", "Sub") and all(
        value is static or is_scalar(value) for value in seen
    ):
        where = printable(node.outputs[0])
        raise InputError(f"{printable(static.root)} is scaled in the graph, at {where}")
    return None


def _joined(node: Node, parts: Sequence[Static], many: int) -> Seen:
    """Return a weight that was cut along an axis and is joined again, None for another Concat."""
    axis = node.get("axis", 0)
    assert isinstance(axis, int)
    axis %= len(parts[0].shape)
    cuts = [part.steps[-1] for part in parts if part.steps]
    before = {(part.root, part.steps[:-1]) for part in parts}
    if len(cuts) < many or len(before) != 1:
        return None
    takes = [cut for cut in cuts if isinstance(cut, Take) and cut.axis == axis]
    if len(takes) < many or any(take.indices.ndim != 1 for take in takes):
        return None
    indices, size = np.concatenate([take.indices for take in takes]), takes[0].size
    shape = (*parts[0].shape[:axis], size, *parts[0].shape[axis + 1 :])
    whole = Static(parts[0].root, shape, parts[0].steps[:-1])
    is_whole = np.array_equal(indices, np.arange(size))
    return whole if is_whole else whole.then(Take(axis, indices, size))


def _sliced(node: Node, static: Static, seen: Sequence[Seen]) -> Seen:
    found = static
    for axis, begin, end, step in slices(node, seen, static.shape):
        indices = np.arange(begin, end, step)
        if len(indices) != found.shape[axis]:
            found = found.then(Take(axis, indices, found.shape[axis]))
    return found


def is_scalar(value: Seen) -> bool:
    """Whether a value is a constant of one element."""
    return isinstance(value, np.ndarray) and value.size == 1


def constant_of(node: Node) -> Seen:
    """Return the value of a Constant node."""
    value = node.get("value")
    if isinstance(value, np.ndarray):
        return value
    for name in ("value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            return np.array(node.get(name))
    return None


def _gathered(node: Node, static: Static, indices: Array) -> Seen:
    if node.op == "Gather":
        axis = node.get("axis", 0)
        assert isinstance(axis, int)
        axis %= len(static.shape)
        return static.then(Take(axis, indices, static.shape[axis]))
    if node.get("batch_dims", 0) == 0 and indices.shape[-1:] == (1,):
        return static.then(Take(0, indices[..., 0], static.shape[0]))
    return None


def slices(node: Node, seen: Sequence[Seen], shape: Shape) -> list[tuple[int, int, int, int]]:
    """Return (axis, begin, end, step) of a Slice, as Python's `slice` would have them."""
    given = [value.tolist() if isinstance(value, np.ndarray) else None for value in seen[1:]]
    before = [node.get(name) for name in ("starts", "ends", "axes")]  # until opset 10
    starts, ends, axes = (
        value if value is not None else other
        for value, other in zip((*given, None, None, None)[:3], before, strict=True)
    )
    if not isinstance(starts, list) or not isinstance(ends, list):
        raise InputError(f"{printable(node.name or 'Slice')} cuts at places that are not constant")
    axes = axes if isinstance(axes, list) else list(range(len(starts)))
    steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    found = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        found.append((axis % len(shape), *slice(start, end, step).indices(size)))
    return found
