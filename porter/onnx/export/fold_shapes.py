"""Compute beforehand what follows from known sizes: shapes, indices, copies that copy nothing.

A template leaves the batch open, so its graph asks for it (`Shape`) and copies the class token
for each image (`Expand`). With a fixed batch both are known, and runtimes that take no shape
arithmetic take the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from porter.onnx.graph.attributes import attribute_value
from porter.onnx.graph.values import Graph, Node, constant
from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape

_LARGEST = 4096
"""Elements of the largest constant that is computed: larger ones are tables, not shapes."""


def folded(graph: Graph, sizes: Mapping[str, int | None]) -> Graph:
    """Return a graph with the symbols in its inputs replaced by `sizes`, and what follows from
    them computed; None keeps a symbol."""
    folder = _Folder(graph, sizes)
    nodes = [made for node in graph.nodes if (made := folder.take(node)) is not None]
    return replace(graph, nodes=_used(nodes, [value.name for value in graph.outputs]))


def _used(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """Return the nodes that an output depends on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


class _Folder:
    """Walks over the nodes in order, with the shapes and the small constants known so far."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int | None]) -> None:
        self._shapes: dict[str, Shape] = {}
        self._values: dict[str, Array] = {}
        self._same: dict[str, str] = {}
        self._outputs = {value.name for value in graph.outputs}
        for value in graph.inputs:
            dims = [sizes.get(dim) if isinstance(dim, str) else dim for dim in value.dims]
            if all(dim is not None for dim in dims):
                self._shapes[value.name] = tuple(dim for dim in dims if dim is not None)

    def take(self, node: Node) -> Node | None:
        """Return the node, a constant in its place, or None where it does nothing."""
        node = replace(node, inputs=[self._same.get(name, name) for name in node.inputs])
        value = self._computed(node)
        if value is not None and value.size <= _LARGEST:
            name = node.outputs[0]
            self._values[name], self._shapes[name] = value, value.shape
            return node if node.op == "Constant" else constant(name, value)
        self._note_shapes(node)
        if self._is_copy(node):
            self._same[node.outputs[0]] = node.inputs[0]
            return None
        return node

    def _computed(self, node: Node) -> Array | None:
        if node.op == "Constant":
            value = node.get("value")
            return value if isinstance(value, np.ndarray) else None
        if node.op == "Shape" and node.inputs[0] in self._shapes:
            shape = self._shapes[node.inputs[0]]
            chosen = slice(_whole(node, "start", 0), _whole(node, "end", len(shape)))
            return np.array(shape[chosen], np.int64)
        known = [self._values.get(name) for name in node.inputs]
        if node.op not in _VALUES or any(value is None for value in known):
            return None
        return np.asarray(_VALUES[node.op](node, [v for v in known if v is not None]))

    def _note_shapes(self, node: Node) -> None:
        shapes = [self._shapes.get(name) for name in node.inputs]
        rule = _SHAPES.get(node.op)
        if rule is None or not shapes or shapes[0] is None:
            return
        values = [self._values.get(name) for name in node.inputs]
        for name, shape in zip(node.outputs, rule(node, shapes, values), strict=False):
            if shape is not None:
                self._shapes[name] = tuple(int(size) for size in shape)

    def _is_copy(self, node: Node) -> bool:
        before = self._shapes.get(node.inputs[0]) if node.inputs else None
        after = self._shapes.get(node.outputs[0])
        is_free = node.outputs[0] not in self._outputs
        return node.op == "Expand" and before is not None and before == after and is_free


def _whole(node: Node, name: str, default: int) -> int:
    value = node.get(name, default)
    return value if isinstance(value, int) else default


def _wholes(node: Node, name: str, default: Sequence[int]) -> list[int]:
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


_VALUES: dict[str, Callable[[Node, Sequence[Array]], Array]] = {
    "Add": lambda _, v: v[0] + v[1],
    "Sub": lambda _, v: v[0] - v[1],
    "Mul": lambda _, v: v[0] * v[1],
    "Div": _divided,
    "Concat": lambda node, v: np.concatenate(v, _whole(node, "axis", 0)),
    "Gather": lambda node, v: np.take(v[0], v[1], _whole(node, "axis", 0)),
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
    window = tuple(_wholes(node, "kernel_shape", window))
    many = len(window)
    pads, steps = _wholes(node, "pads", [0] * 2 * many), _wholes(node, "strides", [1] * many)
    spread, up = _wholes(node, "dilations", [1] * many), _whole(node, "ceil_mode", 0)
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
    sizes = [before[i] if size == 0 else int(size) for i, size in enumerate(target.tolist())]
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(before) // -prod(sizes)
    return [tuple(sizes)]


def _transposed(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    before = shapes[0] or ()
    order = _wholes(node, "perm", list(range(len(before)))[::-1])
    return [tuple(before[axis] for axis in order)]


def _joined(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    known = [list(shape) for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return [None]
    axis = _whole(node, "axis", 0)
    total = sum(shape[axis] for shape in known)
    found = known[0]
    found[axis] = total
    return [tuple(found)]


def _multiplied(_: Node, shapes: Shapes, __: Sequence[Array | None]) -> Shapes:
    one, other = shapes[0], shapes[1]
    if one is None or other is None or min(len(one), len(other)) < 2:
        return [None]
    return [(*np.broadcast_shapes(one[:-2], other[:-2]), one[-2], other[-1])]


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
    before, axis = shapes[0] or (), _whole(node, "axis", 0)
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
    keep = bool(_whole(node, "keepdims", 1))
    return [np.empty(before, np.bool_).any(axis=tuple(axes.tolist()), keepdims=keep).shape]


def _gathered(node: Node, shapes: Shapes, _: Sequence[Array | None]) -> Shapes:
    before, index, axis = shapes[0] or (), shapes[1], _whole(node, "axis", 0)
    axis %= len(before)
    return [None] if index is None else [(*before[:axis], *index, *before[axis + 1 :])]


_SHAPES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "Gelu", "HardSwish", "Sigmoid", "Softmax", "LayerNormalization", "Clip", "Cast",
         "BatchNormalization", "InstanceNormalization", "Identity", "Erf", "Sqrt"),
        _first,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _broadcast),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _convolved),
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Concat": _joined,
    "MatMul": _multiplied,
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
