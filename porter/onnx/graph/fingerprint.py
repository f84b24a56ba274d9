"""A digest of what a graph computes: equal for two files exactly when they compute alike.

Names of nodes, doc strings, shapes noted inside the graph and where weights are stored are not
part of it, so a file that was only saved again, or given external data, keeps its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from porter.onnx.graph.attributes import attribute_value
from porter.onnx.graph.values import Graph, Node, Value
from porter.storage.digests import digest_of


def fingerprint(graph: Graph, opsets: Mapping[str, int]) -> str:
    """Return the digest of a graph: operator sets, inputs, outputs, nodes and their attributes.

    The values of weights are not part of it, only the names that the nodes use.
    """
    return digest_of("\n".join(_lines(graph, opsets)).encode())


def _lines(graph: Graph, opsets: Mapping[str, int]) -> Iterator[str]:
    yield repr(sorted((domain or "ai.onnx", version) for domain, version in opsets.items()))
    yield repr([_value(value) for value in graph.inputs])
    yield repr([_value(value) for value in graph.outputs])
    for node in graph.nodes:
        yield repr(_node(node))


def _value(value: Value) -> tuple[object, ...]:
    return value.name, value.elem_type, value.dims, value.is_ranked


def _node(node: Node) -> tuple[object, ...]:
    inputs = list(node.inputs)
    while inputs and not inputs[-1]:  # an optional input that is left out, spelled or not
        inputs.pop()
    attributes = [(name, _attribute(data)) for name, data in sorted(node.attributes.items())]
    return node.domain or "ai.onnx", node.op, inputs, node.outputs, attributes


def _attribute(data: bytes) -> object:
    """Return an attribute's value however it is serialised; of a subgraph its bytes."""
    value = attribute_value(data)
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, digest_of(np.ascontiguousarray(value).tobytes())
    return digest_of(data) if value is None else (type(value).__name__, value)
