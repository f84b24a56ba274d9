"""Graphs are read and written as the onnx library reads and writes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from porter.errors import InputError
from porter.onnx.graph import wire
from porter.onnx.graph.parse import Memory, parse
from porter.onnx.graph.values import constant


def model() -> onnx.ModelProto:
    """Return a small model with an attribute of every kind that is read."""
    node = helper.make_node(
        "Odd", ["x", "w"], ["y"], name="odd", domain="d",
        number=-3, real=0.5, word="same", numbers=[1, -2], reals=[0.5, 2.0], words=["a", "b"],
        tensor=helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0]),
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_graph_is_read_as_onnx_wrote_it() -> None:
    """Nodes, attributes, inputs and opsets come out of the bytes that onnx writes."""
    found = parse(Memory(model().SerializeToString()))
    (node,) = found.graph.nodes
    assert (node.op, node.name, node.domain) == ("Odd", "odd", "d")
    assert (node.inputs, node.outputs) == (["x", "w"], ["y"])
    assert node.get("number") == -3
    assert node.get("real") == 0.5
    assert node.get("word") == b"same"
    assert node.get("numbers") == [1, -2]
    assert node.get("reals") == [0.5, 2.0]
    assert node.get("words") == [b"a", b"b"]
    np.testing.assert_array_equal(node.get("tensor"), np.float32([1, 2]))
    assert found.graph.inputs[0].dims == ("batch", 3, None)
    assert found.graph.outputs[0].elem_type == TensorProto.FLOAT16
    assert found.opsets == {"": 20}


def test_a_graph_is_written_as_onnx_reads_it() -> None:
    """What `encode` writes is the same graph to onnx, the initialisers left out."""
    made = onnx.GraphProto.FromString(parse(Memory(model().SerializeToString())).graph.encode())
    expected = model().graph
    del expected.initializer[:]
    assert made.node[0].attribute == expected.node[0].attribute
    assert made.input == expected.input
    assert made.output == expected.output
    assert made.name == expected.name


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_a_constant_holds_its_array(dtype: str) -> None:
    """A Constant node made here gives onnx the same array, of any rank."""
    for shape in ((), (3,), (2, 0), (2, 3)):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        node = onnx.NodeProto.FromString(constant("c", array).encode())
        found = onnx.numpy_helper.to_array(node.attribute[0].t)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_graph_that_is_cut_short_is_refused(cut: int) -> None:
    """Bytes that end inside a field are no protobuf."""
    with pytest.raises(InputError, match="malformed protobuf"):
        parse(Memory(model().SerializeToString()[:-cut]))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, -1, 2**63 - 1, -(2**63)])
def test_a_varint_comes_back(value: int) -> None:
    """Every int64 survives its ten bytes or fewer."""
    number, end = wire.read_varint(wire.varint(value), 0)
    assert wire.signed(number) == value
    assert end == len(wire.varint(value))
