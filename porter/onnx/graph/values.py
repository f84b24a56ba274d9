"""An ONNX graph as values, and as the bytes that it is written in; `parse` reads it.

Only what templates and foreign files need. Weights are no part of it: initialisers are read by
the codec and written by `porter.onnx.export.model`.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from dataclasses import dataclass, field

from porter.onnx.graph import wire
from porter.onnx.graph.attributes import BY_ONNX, Attribute, attribute_value, tensor_attribute
from porter.tensors.blocks import Array

FLOAT, UINT8, FLOAT16 = 1, 2, 10
"""`TensorProto.DataType`."""


@dataclass(slots=True)
class Node:
    """One operation; `attributes` holds each AttributeProto as in the file."""

    op: str
    inputs: list[str]
    outputs: list[str]
    name: str = ""
    domain: str = ""
    attributes: dict[str, bytes] = field(default_factory=dict)
    scope: str = ""
    """The modules that it belongs to, as torch's exporter noted them; not written."""

    def get(self, name: str, default: Attribute = None) -> Attribute:
        """Return an attribute's value."""
        return attribute_value(self.attributes[name]) if name in self.attributes else default

    def encode(self) -> bytes:
        """Return the NodeProto."""
        return b"".join(
            [
                *(wire.text(1, name) for name in self.inputs),
                *(wire.text(2, name) for name in self.outputs),
                wire.text(3, self.name) if self.name else b"",
                wire.text(4, self.op),
                *(wire.blob(5, data) for data in self.attributes.values()),
                wire.text(7, self.domain) if self.domain else b"",
            ]
        )


@dataclass(slots=True)
class Value:
    """An input or output of a graph; a dimension is a size, a symbol, or None when unknown."""

    name: str
    elem_type: int
    dims: tuple[int | str | None, ...]
    doc: str = ""
    is_ranked: bool = True
    """Whether its number of dimensions is known: without one `dims` says nothing."""

    def __str__(self) -> str:
        dtype = BY_ONNX.get(self.elem_type)
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name} {dtype.name if dtype else '?'} [{dims}]"

    def encode(self) -> bytes:
        """Return the ValueInfoProto."""
        dims = b"".join(wire.blob(1, _dim(dim)) for dim in self.dims)
        tensor = wire.integer(1, self.elem_type) + wire.blob(2, dims)
        doc = wire.text(3, self.doc) if self.doc else b""
        return wire.text(1, self.name) + wire.blob(2, wire.blob(1, tensor)) + doc


def _dim(dim: int | str | None) -> bytes:
    if dim is None:
        return b""
    return wire.integer(1, dim) if isinstance(dim, int) else wire.text(2, dim)


@dataclass(slots=True)
class Graph:
    """A graph without its weights."""

    name: str
    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    doc: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    """Types and shapes of values inside the graph; not written."""

    def encode(self) -> bytes:
        """Return the GraphProto's fields but initialisers."""
        return b"".join(
            [
                *(wire.blob(1, node.encode()) for node in self.nodes),
                wire.text(2, self.name),
                wire.text(10, self.doc) if self.doc else b"",
                *(wire.blob(11, value.encode()) for value in self.inputs),
                *(wire.blob(12, value.encode()) for value in self.outputs),
            ]
        )

    def consumers(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def producers(self) -> dict[str, Node]:
        """Return the node that makes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}


@dataclass(slots=True)
class Model:
    """A graph, its operator sets and its metadata."""

    graph: Graph
    ir_version: int
    opsets: dict[str, int]
    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)


def constant(name: str, array: Array) -> Node:
    """Return a Constant node that yields an array."""
    return Node("Constant", [], [name], name, attributes={"value": tensor_attribute(array)})
