"""What operations on shapes compute, and how others change the shapes of what they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from porter.onnx.graph.attributes import attribute_value
from porter.onnx.graph.values import Node
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape


def whole(node: Node, name: str, default: int) -> int:
    """Return an attribute that is a whole number."""
    value = node.get(name, default)
    return value if isinstance(value, int) else default


def wholes(node: Node, name: str, default: Sequence[int]) -> list[int]:
    """Return an attribute that is a list of whole numbers."""
    data = node.attributes.get(name)
    value = attribute_value(data) if data is not None else None
    return [int(v) for v in value] if isinstance(value, list) else list(default)


def _sliced(node: Node, values: Sequence[Array]) -> Array:
    data, starts, ends, *rest = values
    axes = rest[0] if rest else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut = [slice(None)] * data.ndim
        cut[int(axis)] = slice(int(start), int(end), int(step))
        data = data[tuple(cut)]
    return data


def _divided(_: Node, values: Sequence[Array]) -> Array:
    one, other = values
    # whole numbers are divided towards zero
    quotient = np.trunc(one / other) if one.dtype.kind == "i" else one / other
    return np.asarray(quotient, one.dtype)


def _after(before: Shape, target: Array) -> Shape:
    """Return the shape that Reshape makes of another; 0 keeps a size, -1 is what is left."""
    sizes = [before[i] if size == 0 else int(size) for i, size in enumerate(target.tolist())]
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(before) // -prod(sizes)
    return tuple(sizes)


VALUES: dict[str, Callable[[Node, Sequence[Array]], Array]] = {
    "Add": lambda _, v: v[0] + v[1],
    "Sub": lambda _, v: v[0] - v[1],
    "Mul": lambda _, v: v[0] * v[1],
    "Div": _divided,
    "Concat": lambda node, v: np.concatenate(v, whole(node, "axis", 0)),
    "Gather": lambda node, v: np.take(v[0], v[1], whole(node, "axis", 0)),
    "Reshape": lambda _, v: v[0].reshape(_after(v[0].shape, v[1])),
    "Unsqueeze": lambda _, v: np.expand_dims(v[0], tuple(v[1].tolist())),
    "Squeeze": lambda _, v: np.squeeze(v[0], tuple(v[1].tolist()) if len(v) > 1 else None),
    "Range": lambda _, v: np.arange(int(v[0]), int(v[1]), int(v[2])).astype(v[0].dtype),
    "Slice": _sliced,
}
"""Operations on constants that shapes and indices are made of."""

Shapes = Sequence[Shape | None]
Rule = Callable[[Node, Shapes, Sequence[Array | None]], Shapes]


def _first(_: Node, shapes: Shapes, __: Sequence[Array | None]) -> Shapes:
    return [shapes[0]]


def _broadcast(_: Node, shapes: Shapes, __: Sequence[Array | None]) -> Shapes:
    known = [shape for shape in shapes if shape is not None]
    return [np.broadcast_shapes(*known)] if len(known) == len(shapes) else [None]


def _convolved(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    image, kernel = shapes[0], shapes[1] if len(shapes) > 1 else None
    if (
        image is None
        or (node.op == "Conv" and kernel is None)
        or node.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return [None]
    channels = kernel[0] if node.op == "Conv" and kernel is not None else image[1]
    window = kernel[2:] if node.op == "Conv" and kernel is not None else ()
    window = tuple(wholes(node, "kernel_shape", window))
    many = len(window)
    pads, steps = wholes(node, "pads", [0] * 2 * many), wholes(node, "strides", [1] * many)
    spread, up = wholes(node, "dilations", [1] * many), whole(node, "ceil_mode", 0)
    sizes = []
    for axis in range(many):
        covered = spread[axis] * (window[axis] - 1) + 1
        room = image[axis + 2] + pads[axis] + pads[axis + many] - covered
        sizes.append((-(-room // steps[axis]) if up else room // steps[axis]) + 1)
    return [(image[0], channels, *sizes)]


def _reshaped(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    before, target = shapes[0], values[1]
    if before is None or target is None:
        return [None]
    return [_after(before, target)]


def _transposed(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    before = shapes[0] or ()
    order = wholes(node, "perm", list(range(len(before)))[::-1])
    return [tuple(before[axis] for axis in order)]


def _joined(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    known = [list(shape) for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return [None]
    axis = whole(node, "axis", 0)
    total = sum(shape[axis] for shape in known)
    found = known[0]
    found[axis] = total
    return [tuple(found)]


def _multiplied(_: Node, shapes: Shapes, __: Sequence[Array | None]) -> Shapes:
    one, other = shapes[0], shapes[1]
    if one is None or other is None or min(len(one), len(other)) < 2:
        return [None]
    return [(*np.broadcast_shapes(one[:-2], other[:-2]), one[-2], other[-1])]


def _resized(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    before, scales, sizes = shapes[0], values[2], values[3] if len(values) > 3 else None
    if sizes is not None:
        return [tuple(sizes.tolist())]
    if before is None or scales is None:
        return [None]
    return [tuple(int(n * scale) for n, scale in zip(before, scales.tolist(), strict=True))]


def _expanded(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    if shapes[0] is None or values[1] is None:
        return [None]
    return [np.broadcast_shapes(shapes[0], tuple(values[1].tolist()))]


def _unsqueezed(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    if shapes[0] is None or values[1] is None:
        return [None]
    return [np.expand_dims(np.empty(shapes[0], np.bool_), tuple(values[1].tolist())).shape]


def _padded(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    before, pads = shapes[0], values[1]
    if before is None or pads is None or len(pads) != 2 * len(before):
        return [None]
    many = len(before)
    return [tuple(before[i] + int(pads[i]) + int(pads[many + i]) for i in range(many))]


def _split(node: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    before, axis = shapes[0] or (), whole(node, "axis", 0)
    sizes = values[1] if len(values) > 1 else None
    if sizes is None:
        many = len(node.outputs)
        if before[axis] % many:
            return [None]
        sizes = np.full(many, before[axis] // many)
    found = []
    for size in sizes.tolist():
        after = list(before)
        after[axis] = size
        found.append(tuple(after))
    return found


def _cut(_: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    given = [value for value in values[1:] if value is not None]
    if len(given) < len(values) - 1:
        return [None]
    return [_sliced(_, [np.empty(shapes[0] or (), np.bool_), *given]).shape]


def _reduced(node: Node, shapes: Shapes, values: Sequence[Array | None]) -> Shapes:
    before, axes = shapes[0] or (), values[1] if len(values) > 1 else None
    if axes is None:
        return [None]
    keep = bool(whole(node, "keepdims", 1))
    return [np.empty(before, np.bool_).any(axis=tuple(axes.tolist()), keepdims=keep).shape]


def _gathered(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    before, index, axis = shapes[0] or (), shapes[1], whole(node, "axis", 0)
    axis %= len(before)
    return [None] if index is None else [(*before[:axis], *index, *before[axis + 1 :])]


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "Gelu", "HardSwish", "HardSigmoid", "Sigmoid", "Softmax", "Clip", "Cast",
         "LayerNormalization", "BatchNormalization", "InstanceNormalization", "Identity", "Erf",
         "Sqrt"),
        _first,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _broadcast),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _convolved),
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Concat": _joined,
    "MatMul": _multiplied,
    "Resize": _resized,
    "Expand": _expanded,
    "Unsqueeze": _unsqueezed,
    "Pad": _padded,
    "Split": _split,
    "Slice": _cut,
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "Gather": _gathered,
}  # fmt: skip
"""How operations change shapes; after others nothing is known, and nothing is computed."""
