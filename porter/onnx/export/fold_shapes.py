"""Compute beforehand what follows from known sizes: shapes, indices, copies that copy nothing.

A template leaves the batch open, so its graph asks for it (`Shape`) and copies the class token
for each image (`Expand`). With a fixed batch both are known, and runtimes that take no shape
arithmetic take the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from porter.onnx.export.shape_rules import SHAPES, VALUES, whole, wholes
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
    outputs = [value.name for value in graph.outputs]
    graph = replace(graph, nodes=_used(nodes, outputs))
    return replace(graph, nodes=_used(folder.without_copies(graph), outputs))


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
        self.outputs = {value.name for value in graph.outputs}
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
            chosen = slice(whole(node, "start", 0), whole(node, "end", len(shape)))
            return np.array(shape[chosen], np.int64)
        known = [self._values.get(name) for name in node.inputs]
        if node.op not in VALUES or any(value is None for value in known):
            return None
        return np.asarray(VALUES[node.op](node, [v for v in known if v is not None]))

    def _note_shapes(self, node: Node) -> None:
        shapes = [self._shapes.get(name) for name in node.inputs]
        rule = SHAPES.get(node.op)
        if rule is None or not shapes or shapes[0] is None:
            return
        values = [self._values.get(name) for name in node.inputs]
        for name, shape in zip(node.outputs, rule(node, shapes, values), strict=False):
            if shape is not None:
                self._shapes[name] = tuple(int(size) for size in shape)

    def without_copies(self, graph: Graph) -> list[Node]:
        """Return the nodes without Expand where MatMul broadcasts: a key that heads share."""
        users = graph.consumers()
        same = {
            node.outputs[0]: node.inputs[0]
            for node in graph.nodes
            if node.op == "Expand" and self._broadcasts(node.outputs[0], node, users)
        }
        return [
            replace(node, inputs=[same.get(name, name) for name in node.inputs])
            for node in graph.nodes
        ]

    def _broadcasts(self, name: str, copy: Node, users: Mapping[str, Sequence[Node]]) -> bool:
        """Whether all readers of `name`, what Expand made or its transpose, are MatMul that
        copy the same axes themselves."""
        before, after = (self._shapes.get(value) for value in (copy.inputs[0], copy.outputs[0]))
        readers = users.get(name, ())
        if before is None or after is None or len(before) != len(after) or not readers:
            return False
        copied = [axis for axis, size in enumerate(before) if size != after[axis]]
        if name in self.outputs or any(axis >= len(after) - 2 for axis in copied):
            return False
        for node in readers:
            if node.op == "Transpose":
                order = wholes(node, "perm", range(len(after))[::-1])
                moves = any(order[axis] != axis for axis in copied)
                if moves or not self._broadcasts(node.outputs[0], copy, users):
                    return False
            elif node.op != "MatMul" or not self._covers(node, name, after, copied):
                return False
        return True

    def _covers(self, node: Node, name: str, after: Shape, copied: Sequence[int]) -> bool:
        """Whether the other side of a MatMul has the sizes that Expand makes."""
        (other,) = [value for value in node.inputs if value != name] or [""]
        shape = self._shapes.get(other)
        if shape is None or len(shape) != len(after):
            return False
        return all(shape[axis] == after[axis] for axis in copied)

    def _is_copy(self, node: Node) -> bool:
        before = self._shapes.get(node.inputs[0]) if node.inputs else None
        after = self._shapes.get(node.outputs[0])
        is_free = node.outputs[0] not in self.outputs
        return node.op == "Expand" and before is not None and before == after and is_free
