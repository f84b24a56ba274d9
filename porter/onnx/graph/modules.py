"""The modules of a network in its ONNX graph, by what exporters note of them.

Exporters note the module of each node in its name (`/blocks.0/attn/qkv/MatMul`) or in the node's
metadata. What a module returns is the output of the last node inside it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from porter.onnx.graph import wire
from porter.onnx.graph.values import Graph, Node


@dataclass(frozen=True, slots=True)
class Mark:
    """A value inside a graph that is the output of a module."""

    value: str
    kind: str
    """The operation that makes it."""


def module_of(name: str, scope: str = "") -> str:
    """Return the path of the module that a node belongs to, empty if unknown.

    `scope` is what torch's dynamo exporter notes in the node's metadata.
    """
    if scope:
        try:
            scopes = [str(part) for part in ast.literal_eval(scope)[:-1] if part]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            scopes = []
        if scopes:
            return scopes[-1]
    if not name.startswith("/"):
        return ""
    path = ""
    for step in name.split("/")[1:-1]:
        last = path.rpartition(".")[2]
        inner = last and step.startswith(f"{last}.")  # a Sequential is called, then its child
        path = path.removesuffix(last) + step if inner else f"{path}.{step}" if path else step
    return path


def outputs_of_modules(graph: Graph) -> dict[str, Mark]:
    """Return {module: its output}, in the order in which the modules finish."""
    found: dict[str, Mark] = {}
    for node in graph.nodes:
        path = module_of(node.name, node.scope)
        while path:
            found.pop(path, None)
            found[path] = _mark(node)
            path = path.rpartition(".")[0]
    return found


def common_values(one: Graph, other: Graph) -> dict[str, Mark]:
    """Return the values that two graphs have under one name, in the first one's order."""
    known = {name for node in other.nodes for name in node.outputs}
    return {
        node.outputs[0]: _mark(node)
        for node in one.nodes
        if node.op != "Constant" and node.outputs and node.outputs[0] in known
    }


def _mark(node: Node) -> Mark:
    return Mark(node.outputs[0], node.op)


_CLOSING = ("Softmax", "Sigmoid")
_SAME = ("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


def before_closing(graph: Graph) -> tuple[str, str]:
    """Return (operation, its input) of the Softmax or Sigmoid that a graph ends in, else ("", "").

    Where it saturates, differences do not show after it.
    """
    producers = graph.producers()
    node = producers.get(graph.outputs[0].name) if graph.outputs else None
    while node is not None and node.op in _SAME:
        node = producers.get(node.inputs[0])
    if node is None or node.op not in _CLOSING:
        return "", ""
    return node.op, node.inputs[0]


def as_outputs(graph: Graph, names: Sequence[str]) -> bytes:
    """Return what makes values outputs of a graph when it follows the bytes of its file.

    Protobuf merges two fields of one message: the outputs are added to those of the file.
    """
    known = {value.name for value in graph.outputs}
    added = (name for name in dict.fromkeys(names) if name not in known)
    return wire.blob(7, b"".join(wire.blob(12, wire.text(1, name)) for name in added))
