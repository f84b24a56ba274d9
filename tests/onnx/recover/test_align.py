"""Graphs that are written differently and compute the same are reduced to the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.errors import InputError
from porter.onnx.graph.flow import Flow
from porter.onnx.graph.parse import Memory, parse
from porter.onnx.graph.reduce import reduce
from porter.onnx.recover.align import align

SHAPES = {"image": [1, 4], "one": [4, 4], "two": [4, 4], "a": [4], "b": [4]}


def flow(
    nodes: list,
    values: dict[str, list[int]] | None = None,
    constants: dict | None = None,
    *,
    scalars: bool = False,
) -> Flow:
    """Reduce a graph over `image` whose other inputs are weights."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in SHAPES.items()]
    inner = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
             for n, s in (values or {}).items()]  # fmt: skip
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], value_info=inner)
    made = parse(Memory(helper.make_model(graph).SerializeToString())).graph
    return reduce(made, constants, scalars=scalars)


def node(op: str, inputs: str, output: str, **attributes: object):
    """Return a node."""
    return helper.make_node(op, inputs.split(), [output], name=f"{op} {output}", **attributes)


def number(name: str, value: float):
    """Return a Constant node."""
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.float32(value))
    )


def places(template: Flow, foreign: Flow) -> dict[str, str]:
    """Return {weight of the one: weight of the other}."""
    made = align(template, foreign)
    assert made.lost == []
    return {name: theirs.root for name, (_, theirs) in made.found.items()}


def test_siblings_are_told_by_what_becomes_of_them() -> None:
    """Two layers of one shape on one input differ by their use, whatever their order."""
    use = [node("Softmax", "k", "s"), node("Sub", "s v", "y")]
    mine = [node("MatMul", "image one", "k"), node("MatMul", "image two", "v"), *use]
    other = [node("MatMul", "image one", "v"), node("MatMul", "image two", "k"), *use]
    assert places(flow(mine), flow(other)) == {"one": "two", "two": "one"}


def test_a_linear_layer_is_one_however_it_is_written() -> None:
    """MatMul of a transposed weight with its bias behind it, and Gemm, are the same layer."""
    apart = [
        node("Transpose", "one", "t", perm=[1, 0]), node("MatMul", "image t", "m"),
        node("Add", "a m", "y"),
    ]  # fmt: skip
    whole = [node("Gemm", "image two b", "y", transB=1)]
    assert places(flow(apart), flow(whole)) == {"one": "two", "a": "b"}


def test_gelu_in_pieces_is_whole() -> None:
    """x · (1 + erf(x / √2)) / 2, in any order of its factors, is GELU."""
    whole = [node("MatMul", "image one", "x"), node("Gelu", "x", "g"), node("MatMul", "g two", "y")]
    pieces = [
        number("root", 1.414), number("unit", 1.0), number("half", 0.5),
        node("MatMul", "image one", "x"), node("Div", "x root", "d"), node("Erf", "d", "e"),
        node("Add", "e unit", "f"), node("Mul", "x f", "h"), node("Mul", "h half", "g"),
        node("MatMul", "g two", "y"),
    ]  # fmt: skip
    assert places(flow(whole), flow(pieces)) == {"one": "one", "two": "two"}


def test_layer_norm_in_pieces_is_whole() -> None:
    """What an exporter writes before opset 17 is the LayerNormalization of later ones."""
    whole = [node("LayerNormalization", "image a b", "y", axis=-1)]
    pieces = [
        number("square", 2.0), number("eps", 1e-6),
        node("ReduceMean", "image", "mean"), node("Sub", "image mean", "c"),
        node("Pow", "c square", "p"), node("ReduceMean", "p", "v"), node("Add", "v eps", "w"),
        node("Sqrt", "w", "s"), node("Div", "c s", "n"), node("Mul", "n a", "m"),
        node("Add", "m b", "y"),
    ]  # fmt: skip
    assert places(flow(whole), flow(pieces)) == {"a": "a", "b": "b"}


def test_padding_by_nothing_is_no_layer() -> None:
    """An exporter that writes a Pad of zeros where the size fits already adds no layer."""
    pads = helper.make_node("Constant", [], ["p"], value=numpy_helper.from_array(np.int64([0] * 4)))
    mine = [node("MatMul", "image one", "y")]
    other = [pads, node("Pad", "image p", "x"), node("MatMul", "x two", "y")]
    assert places(flow(mine), flow(other)) == {"one": "two"}


def test_what_leads_nowhere_is_no_layer() -> None:
    """Nodes from which no output follows do not hide what the others do."""
    mine = [node("MatMul", "image one", "x"), node("Relu", "x", "y")]
    other = [node("MatMul", "image two", "x"), node("Erf", "x", "dead"), node("Relu", "x", "y")]
    found = flow(other)
    assert [layer.label[0] for layer in found.layers] == ["image", "linear", "Relu"]
    assert found.below() == flow(mine).below()


@pytest.mark.parametrize(
    "wrong",
    [
        node("Split", "image", "y", axis=1, split=[1, 3]), node("Gather", "image", "y"),
        node("Transpose", "one", "t", perm=[0, 5]), node("BatchNormalization", "image", "y"),
    ],
    ids=lambda wrong: wrong.op_type,
)  # fmt: skip
def test_a_node_that_makes_no_sense_is_named(wrong: onnx.NodeProto) -> None:
    """A stranger's graph is refused in a line, whatever its nodes lack."""
    with pytest.raises(InputError, match=rf"the {wrong.op_type} .* is malformed"):
        flow([wrong])


def test_a_mask_that_counts_for_nothing_is_no_layer() -> None:
    """What the architecture computes can be left out of the template's flow."""
    nodes = [node("MatMul", "image one", "x"), node("Add", "x two", "y")]
    labels = [layer.label[0] for layer in flow(nodes, constants={"two": None}).layers]
    assert labels == ["image", "linear"]
    assert [layer.label[0] for layer in flow(nodes).layers] == ["image", "linear", "Add"]


def test_a_bias_that_is_not_there_stands_for_zero() -> None:
    """An exporter that drops a bias of zeros leaves a place that is filled."""
    mine = flow([node("Gemm", "image one a", "y")])
    made = align(mine, flow([node("Gemm", "image one", "y")]))
    assert made.neutral == {"a": 0.0}
    assert made.lost == []


def test_another_function_finds_no_place() -> None:
    """A layer that the other graph does not have is lost, what lies below it is still found."""
    mine = flow(
        [node("MatMul", "image one", "x"), node("Relu", "x", "r"), node("MatMul", "r two", "y")]
    )
    other = flow([node("Relu", "image", "r"), node("MatMul", "r one", "y")])
    made = align(mine, other)
    assert made.lost == ["one"]
    assert made.found["two"][1].root == "one"


def test_a_scaled_weight_is_refused() -> None:
    """A weight that the graph scales before it is used is not what the model holds."""
    with pytest.raises(InputError, match="one is scaled"):
        flow([number("c", 2.0), node("Mul", "one c", "t"), node("MatMul", "image t", "y")])


def whole(name: str, values: list[int]):
    """Return a Constant node of whole numbers."""
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64))
    )


def test_a_weight_that_is_cut_and_joined_again_is_whole() -> None:
    """As positions whose class token stays while the others are resized."""
    cuts = [
        whole("0", [0]), whole("1", [1]), whole("4", [4]),
        node("Slice", "a 0 1", "first"), node("Slice", "a 1 4", "rest"),
    ]  # fmt: skip
    plain = flow([node("Add", "image a", "y")])
    parts = [node("Concat", "first rest", "w", axis=0), node("Add", "image w", "y")]
    assert places(plain, flow([*cuts, *parts])) == {"a": "a"}
    swapped = [node("Concat", "rest first", "w", axis=0), node("Add", "image w", "y")]
    made = align(plain, flow([*cuts, *swapped]))
    _, theirs = made.found["a"]
    np.testing.assert_array_equal(theirs.seen(np.arange(4)), [1, 2, 3, 0])


def test_numbers_are_layers_only_where_weights_have_one_element() -> None:
    """What a gate multiplies by and adds before it is cut to 0 and 1 is part of the gate."""
    nodes = [
        number("c", 3.0), node("Mul", "image c", "x"), number("sixth", 1 / 6),
        node("Mul", "x sixth", "z"), number("half", 0.5), node("Add", "z half", "g"),
        node("Clip", "g", "y"),
    ]  # fmt: skip
    labels = [layer.label for layer in flow(nodes).layers]
    assert labels == [("image",), ("HardSigmoid",)]
    counted = flow(nodes, scalars=True)
    assert [layer.label for layer in counted.layers] == [("image",), ("Mul", ()), ("HardSigmoid",)]
    assert counted.scalars["c"] == np.float32(3)
