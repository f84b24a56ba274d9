"""Write a template's graph, which is of opset 20, in another operator set: 11 to 23.

Later sets take the operations of a template as they are. For an earlier one, each operation that
is newer is replaced by one that computes the same, or taken to pieces in the form that ONNX
Runtime fuses again. Which version of an operator came with which set:
https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from porter.errors import UsageError, printable
from porter.onnx.graph.attributes import integer_attribute, integers_attribute
from porter.onnx.graph.values import FLOAT, FLOAT16, Graph, Node, constant
from porter.tensors.blocks import Array

OPSETS = range(11, 24)
LOWEST_IR = {11: 6, 12: 7, 13: 7, 14: 7, **dict.fromkeys(range(15, 19), 8), 19: 9, 20: 9, 21: 10,
             22: 10, 23: 11}  # fmt: skip
"""{operator set: the oldest version of the file format that it may be stored in}

A runtime refuses a file whose version is newer than itself, whatever is in it.
https://github.com/onnx/onnx/blob/main/docs/Versioning.md
"""


def check(opset: int) -> None:
    """Raise `UsageError` for an operator set that is not one of `OPSETS`."""
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}")


def written_in(graph: Graph, opset: int, elem_type: int) -> Graph:
    """Return a template's graph in an operator set.

    `elem_type` is the floating type of the graph, `FLOAT` or `FLOAT16`.
    """
    values = {node.outputs[0]: node.get("value") for node in graph.nodes if node.op == "Constant"}
    known = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    nodes: list[Node] = []
    for node in graph.nodes:
        before, rule = RULES.get(node.op, (0, None))
        if rule is not None and opset < before:
            nodes += rule(_Place(node, known, elem_type))
        else:
            nodes.append(node)
    return replace(graph, nodes=_used(nodes, graph))


@dataclass(frozen=True, slots=True)
class _Place:
    """A node that must be replaced, and what makes others in its place."""

    node: Node
    constants: Mapping[str, Array]
    elem_type: int

    def make(
        self, op: str, inputs: Sequence[str], part: str = "", **attributes: int | Sequence[int]
    ) -> Node:
        """Return a node whose output is the result, or the value called `part` of it."""
        output = self.value(part) if part else self.node.outputs[0]
        encoded = {
            name: integer_attribute(name, value)
            if isinstance(value, int)
            else integers_attribute(name, value)
            for name, value in attributes.items()
        }
        name = f"{self.node.name}/{part}" if part else self.node.name
        return Node(op, list(inputs), [output], name, attributes=encoded)

    def value(self, part: str) -> str:
        """Return the name of a value on the way to the result."""
        return f"{self.node.outputs[0]}_{part}"

    def number(self, part: str, value: float, elem_type: int | None = None) -> Node:
        """Return a Constant node of one floating number."""
        half = (elem_type or self.elem_type) == FLOAT16
        return constant(self.value(part), np.array(value, np.float16 if half else np.float32))

    def without(self, *names: str, inputs: int | None = None) -> Node:
        """Return the node without some attributes, and with its first `inputs` inputs only."""
        kept = {name: data for name, data in self.node.attributes.items() if name not in names}
        return replace(self.node, inputs=self.node.inputs[:inputs], attributes=kept)

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        value = self.node.get(name, default)
        assert isinstance(value, int)
        return value


def _gelu(place: _Place) -> Iterator[Node]:
    """Yield x / √2, Erf, + 1, · x, · ½."""
    (x,) = place.node.inputs
    assert place.node.get("approximate", b"none") == b"none", place.node.name
    for name, number in (("root", sqrt(2)), ("one", 1.0), ("half", 0.5)):
        yield place.number(name, number)
    yield place.make("Div", [x, place.value("root")], "scaled")
    yield place.make("Erf", [place.value("scaled")], "erf")
    yield place.make("Add", [place.value("erf"), place.value("one")], "raised")
    yield place.make("Mul", [x, place.value("raised")], "double")
    yield place.make("Mul", [place.value("double"), place.value("half")])


def _layer_norm(place: _Place) -> Iterator[Node]:
    """Yield the mean, the deviation from it, its variance, and what is done with them.

    A float16 graph computes them in float32, as `stash_type` asks for.
    """
    x, scale, *bias = place.node.inputs
    axes = range(place.integer("axis", -1), 0)
    assert axes, place.node.name
    epsilon = place.node.get("epsilon", 1e-5)
    assert isinstance(epsilon, float)
    half = place.elem_type == FLOAT16
    if half:
        yield place.make("Cast", [x], "wide", to=FLOAT)
        x = place.value("wide")
    yield place.number("two", 2.0, FLOAT)
    yield place.number("epsilon", epsilon, FLOAT)
    yield place.make("ReduceMean", [x], "mean", axes=axes, keepdims=1)
    yield place.make("Sub", [x, place.value("mean")], "centred")
    yield place.make("Pow", [place.value("centred"), place.value("two")], "square")
    yield place.make("ReduceMean", [place.value("square")], "variance", axes=axes, keepdims=1)
    yield place.make("Add", [place.value("variance"), place.value("epsilon")], "raised")
    yield place.make("Sqrt", [place.value("raised")], "deviation")
    yield place.make("Div", [place.value("centred"), place.value("deviation")], "normal")
    normal = place.value("normal")
    if half:
        yield place.make("Cast", [normal], "narrow", to=FLOAT16)
        normal = place.value("narrow")
    yield place.make("Mul", [normal, scale], "scaled" if bias else "")
    if bias:
        yield place.make("Add", [place.value("scaled"), *bias])


def _axes_as_attribute(place: _Place) -> Iterator[Node]:
    """Yield the operation with its axes in an attribute, where they were before an input."""
    node = place.without("noop_with_empty_axes", inputs=1)
    axes = place.constants.get(place.node.inputs[1])
    assert axes is not None, place.node.name
    axes_attribute = integers_attribute("axes", axes.ravel().tolist())
    yield replace(node, attributes={**node.attributes, "axes": axes_attribute})


def _shape(place: _Place) -> Iterator[Node]:
    """Yield the whole shape, and a Slice of it where only some sizes are asked for."""
    start, end = place.integer("start", 0), place.node.get("end")
    if start == 0 and end is None:
        yield place.without("start")
        return
    stop = end if isinstance(end, int) else np.iinfo(np.int64).max
    yield place.make("Shape", place.node.inputs, "whole")
    yield constant(place.value("start"), np.array([start], np.int64))
    yield constant(place.value("end"), np.array([stop], np.int64))
    yield place.make("Slice", [place.value(part) for part in ("whole", "start", "end")])


def _softmax(place: _Place) -> Iterator[Node]:
    """Yield a Softmax over the last axis; over another one, which meant another thing before
    opset 13, its pieces."""
    axis = place.integer("axis", -1)
    if axis == -1:
        yield place.node
        return
    yield place.make("ReduceMax", place.node.inputs, "largest", axes=[axis], keepdims=1)
    yield place.make("Sub", [*place.node.inputs, place.value("largest")], "lowered")
    yield place.make("Exp", [place.value("lowered")], "exp")
    yield place.make("ReduceSum", [place.value("exp")], "sum", axes=[axis], keepdims=1)
    yield place.make("Div", [place.value("exp"), place.value("sum")])


def _reshape(place: _Place) -> Iterator[Node]:
    """Yield a Reshape in which a size of zero means "as it was", of which there is none."""
    sizes = place.constants.get(place.node.inputs[1])
    if place.node.get("allowzero", 0) and sizes is not None and 0 in sizes:
        raise UsageError(f"{printable(place.node.name)} makes an empty tensor; opset 14 can")
    yield place.without("allowzero")


def _hard_swish(place: _Place) -> Iterator[Node]:
    """Yield x / 6, + ½, cut to [0, 1], · x."""
    (x,) = place.node.inputs
    for name, number in (("sixth", 1 / 6), ("half", 0.5), ("zero", 0.0), ("one", 1.0)):
        yield place.number(name, number)
    yield place.make("Mul", [x, place.value("sixth")], "scaled")
    yield place.make("Add", [place.value("scaled"), place.value("half")], "raised")
    yield place.make("Clip", [place.value(part) for part in ("raised", "zero", "one")], "gate")
    yield place.make("Mul", [x, place.value("gate")])


def _resize(place: _Place) -> Iterator[Node]:
    """Yield a Resize with a region of interest, empty as it is not used: before opset 13 it is
    not optional."""
    x, _, *scales = place.node.inputs
    yield constant(place.value("roi"), np.zeros(0, np.float32))
    node = place.without("antialias", "keep_aspect_ratio_policy")
    yield replace(node, inputs=[x, place.value("roi"), *scales])


def _gather(place: _Place) -> Iterator[Node]:
    assert place.integer("batch_dims", 0) == 0, place.node.name
    yield place.without("batch_dims")


def _split(place: _Place) -> Iterator[Node]:
    """Yield a Split into as many equal parts as it has outputs."""
    yield place.without("num_outputs")


Rule = Callable[[_Place], Iterator[Node]]
RULES: Mapping[str, tuple[int, Rule]] = {
    "Gelu": (20, _gelu),
    "Resize": (18, _resize),
    "ReduceMean": (18, _axes_as_attribute),
    "Split": (18, _split),
    "LayerNormalization": (17, _layer_norm),
    "Shape": (15, _shape),
    "Reshape": (14, _reshape),
    "HardSwish": (14, _hard_swish),
    "ReduceSum": (13, _axes_as_attribute),
    "Softmax": (13, _softmax),
    "Squeeze": (13, _axes_as_attribute),
    "Unsqueeze": (13, _axes_as_attribute),
    "GatherND": (12, _gather),
}
"""{operation: (the first set in which it is as in a template, how to write it before that)}"""


def _used(nodes: Sequence[Node], graph: Graph) -> list[Node]:
    """Return the nodes without the constants that none reads any more."""
    read = {name for node in nodes for name in node.inputs}
    read.update(value.name for value in graph.outputs)
    return [node for node in nodes if node.op != "Constant" or node.outputs[0] in read]
