"""What an export does to a template's graph: batch, classes, names, layout, floating type.

Each function returns a new graph; the template stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from porter.codecs.onnx.transposed import stored_name
from porter.errors import UsageError, listed, printable
from porter.onnx.graph.attributes import (
    Attribute,
    attribute_value,
    integer_attribute,
    integers_attribute,
    tensor_attribute,
)
from porter.onnx.graph.values import FLOAT, FLOAT16, UINT8, Graph, Node, Value, constant
from porter.tensors.blocks import Array
from porter.zoo.preprocessing import GREY, Preprocessing

WIDE = frozenset({"Softmax", "ReduceMean", "ReduceSum"})
"""Operations that are computed in float32 in an fp16 graph: they add up many numbers.

LayerNormalization needs no cast: its `stash_type` has it computed in float32.
"""


def sized(graph: Graph, sizes: Mapping[str, int | None]) -> Graph:
    """Return the graph with symbols of its inputs and outputs replaced by sizes; None keeps one."""

    def done(value: Value) -> Value:
        dims = [sizes.get(d) or d if isinstance(d, str) else d for d in value.dims]
        return replace(value, dims=tuple(dims))

    return replace(
        graph, inputs=[done(v) for v in graph.inputs], outputs=[done(v) for v in graph.outputs]
    )


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Return the graph with some of its values called otherwise; `UsageError` for a clash."""
    taken = {name for node in graph.nodes for name in node.outputs}
    taken.update(value.name for value in (*graph.inputs, *graph.outputs))
    clash = [new for old, new in names.items() if new != old and new in taken]
    if clash or len(set(names.values())) != len(names):
        raise UsageError(f"the graph has a value called {listed(clash or names.values())} already")

    def named(value: Value) -> Value:
        return replace(value, name=names.get(value.name, value.name))

    nodes = [
        replace(
            node,
            inputs=[names.get(name, name) for name in node.inputs],
            outputs=[names.get(name, name) for name in node.outputs],
        )
        for node in graph.nodes
    ]
    inputs, outputs = [named(v) for v in graph.inputs], [named(v) for v in graph.outputs]
    return replace(graph, nodes=nodes, inputs=inputs, outputs=outputs)


def transposed(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph with the weights of linear layers transposed, and their names.

    Each of them has only ever been transposed to be the right side of a MatMul. As an
    initialiser of that layout, quantisers find it, and no runtime has to transpose it.
    """
    users = graph.consumers()
    names = {value.name: _right_side(value.name, users) for value in graph.inputs[1:]}
    found = {name: result for name, result in names.items() if result}
    stored = {result: stored_name(name) for name, result in found.items()}
    nodes = [
        replace(node, inputs=[stored.get(name, name) for name in node.inputs])
        for node in graph.nodes
        if node.outputs[0] not in stored
    ]
    inputs = [
        replace(v, name=stored_name(v.name), dims=v.dims[::-1]) if v.name in found else v
        for v in graph.inputs
    ]
    return replace(graph, nodes=nodes, inputs=inputs), tuple(found)


def _right_side(weight: str, users: Mapping[str, Sequence[Node]]) -> str:
    """Return the value that is a weight transposed for MatMul, empty where there is more to it."""
    readers = users.get(weight, ())
    if len(readers) != 1 or readers[0].op != "Transpose" or readers[0].get("perm") != [1, 0]:
        return ""
    (result,) = readers[0].outputs
    matmuls = users.get(result, ())
    fits = all(node.op == "MatMul" and node.inputs.index(result) == 1 for node in matmuls)
    return result if matmuls and fits else ""


def headless(graph: Graph) -> Graph:
    """Return the graph without its classifier: it gives what the classifier reads, the features.

    Of two classifiers whose scores are averaged, it gives the average of both features, as the
    reference model does. `UsageError` where the classifier is not one linear layer of a vector.
    """
    heads = {value.name for value in graph.inputs[1:] if "classes" in value.dims}
    layers = [node for node in graph.nodes if heads.intersection(node.inputs)]
    widths = {v.dims[1] for v in graph.inputs[1:] if v.name in heads and len(v.dims) == 2}
    scores = graph.outputs[0]
    if {node.op for node in layers} != {"Gemm"} or len(widths) != 1 or len(scores.dims) != 2:
        raise UsageError(
            "--num-classes 0 writes ONNX models whose classifier is a linear layer; write a"
            " checkpoint, which has no graph"
        )
    same = {node.outputs[0]: node.inputs[0] for node in layers}
    nodes = [
        replace(node, inputs=[same.get(name, name) for name in node.inputs])
        for node in graph.nodes
        if node.outputs[0] not in same
    ]
    last = same.get(scores.name, scores.name)
    return replace(
        graph,
        nodes=nodes,
        inputs=[value for value in graph.inputs if value.name not in heads],
        outputs=[replace(scores, name=last, dims=(scores.dims[0], *widths))],
    )


def from_pixels(graph: Graph, how: Preprocessing) -> Graph:
    """Return a graph that takes RGB pictures as bytes, uint8 (N, height, width, 3).

    It normalises them, and gives the model its order of channels, or greys.
    """
    image = graph.inputs[0]
    batch, channels, height, width = image.dims
    scale = np.array([1 / (255 * std) for std in how.std], np.float32)
    shift = np.array([mean / std for mean, std in zip(how.mean, how.std, strict=True)], np.float32)
    parts = ("float", "scale", "scaled", "shift", "normal", "nchw", "normalised", "channels", "bgr",
             "grey")  # fmt: skip
    plain, by, scaled, less, normal, planes, inner, order, pixels, grey = (
        f"{image.name}_{part}" for part in parts
    )
    planes = inner if image.elem_type == FLOAT else planes
    first = []
    if how.channels != "BGR":
        pixels = image.name
    else:
        first = [
            constant(order, np.array([2, 1, 0], np.int64)),
            Node("Gather", [image.name, order], [pixels], f"/{pixels}/Gather",
                 attributes={"axis": integer_attribute("axis", 3)}),
        ]  # fmt: skip
    first.append(_cast(pixels, plain, FLOAT))
    if how.channels == "GREY":
        weights = np.repeat(np.array(GREY, np.float32)[:, None], 3, axis=1)
        first += [
            constant(order, weights),
            Node("MatMul", [plain, order], [grey], f"/{grey}/MatMul"),
        ]
        plain = grey
    first += [
        constant(by, scale),
        Node("Mul", [plain, by], [scaled], f"/{scaled}/Mul"),
        constant(less, shift),
        Node("Sub", [scaled, less], [normal], f"/{normal}/Sub"),
        Node("Transpose", [normal], [planes], f"/{planes}/Transpose",
             attributes={"perm": integers_attribute("perm", [0, 3, 1, 2])}),
    ]  # fmt: skip
    if planes != inner:
        first.append(_cast(planes, inner, image.elem_type))
    body = renamed(replace(graph, inputs=[], outputs=[]), {image.name: inner}).nodes
    given = replace(image, elem_type=UINT8, dims=(batch, height, width, channels))
    return replace(graph, nodes=[*first, *body], inputs=[given, *graph.inputs[1:]])


def to_probabilities(graph: Graph, *, keeping: bool = False) -> Graph:
    """Return a graph that ends with a softmax over classes, computed in float32.

    The scores are its second output then, with `keeping`.
    """
    scores = graph.outputs[0]
    if len(scores.dims) not in (2, 3):
        raise UsageError("--with-softmax is for models that give one score for each class")
    wide, result, last = f"{scores.name}_wide", f"{scores.name}_softmax", "probabilities"
    # The last axis: before opset 13 as after it.
    axis = {"axis": integer_attribute("axis", len(scores.dims) - 1)}
    if scores.elem_type == FLOAT:
        added = [Node("Softmax", [scores.name], [last], "/softmax", attributes=axis)]
    else:
        added = [
            _cast(scores.name, wide, FLOAT),
            Node("Softmax", [wide], [result], "/softmax", attributes=axis),
            _cast(result, last, scores.elem_type),
        ]
    others = graph.outputs if keeping else graph.outputs[1:]
    outputs = [replace(scores, name=last), *others]
    return replace(graph, nodes=[*graph.nodes, *added], outputs=outputs)


def half(graph: Graph, *, wide_ends: bool) -> Graph:
    """Return the float32 graph in float16, its weights included; `WIDE` stays in float32.

    With `wide_ends` the image and the logits stay float32, cast just inside.
    """
    image, *weights = graph.inputs
    scales = {node.inputs[2] for node in graph.nodes if node.op == "Resize"}  # float32 in any graph
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op in WIDE:
            nodes += _widened(node)
        else:
            nodes.append(node if scales.intersection(node.outputs) else _halved(node))
    small = {v.name: replace(v, elem_type=_small(v)) for v in weights}
    inputs, outputs = [image, *small.values()], list(graph.outputs)
    if not wide_ends:
        inputs[0] = replace(image, elem_type=FLOAT16)
        outputs = [replace(v, elem_type=FLOAT16) for v in outputs]
        return replace(graph, nodes=nodes, inputs=inputs, outputs=outputs)
    inner = {v.name: f"{v.name}_fp16" for v in (image, *outputs)}
    body = renamed(replace(graph, nodes=nodes, inputs=[], outputs=[]), inner).nodes
    first = _cast(image.name, inner[image.name], FLOAT16)
    last = [_cast(inner[v.name], v.name, FLOAT) for v in outputs]
    return replace(graph, nodes=[first, *body, *last], inputs=inputs)


def _small(value: Value) -> int:
    return FLOAT16 if value.elem_type == FLOAT else value.elem_type


def _cast(source: str, target: str, code: int) -> Node:
    to = integer_attribute("to", code)
    return Node("Cast", [source], [target], f"/{target}/Cast", attributes={"to": to})


def _widened(node: Node) -> Iterator[Node]:
    """Yield a node with casts around it: its first input is the floating one."""
    into, out = f"{node.inputs[0]}_fp32_{node.outputs[0]}", f"{node.outputs[0]}_fp32"
    yield _cast(node.inputs[0], into, FLOAT)
    yield replace(node, inputs=[into, *node.inputs[1:]], outputs=[out])
    yield _cast(out, node.outputs[0], FLOAT16)


def _halved(node: Node) -> Node:
    if node.op == "Cast" and node.get("to") == FLOAT:
        return replace(node, attributes={"to": integer_attribute("to", FLOAT16)})
    if node.op not in ("Constant", "ConstantOfShape"):
        return node
    array = _array(node)
    if array is None or array.dtype != np.float32:
        return node
    with np.errstate(over="ignore"):
        small = array.astype(np.float16)
    if np.isinf(small).any() and not np.isinf(array).any():
        what = f"the constant {printable(node.outputs[0])} of the graph is too large for float16;"
        what += " leave --dtype fp16 out"
        raise UsageError(what)
    if node.op == "Constant":
        return replace(constant(node.outputs[0], small), name=node.name)
    return replace(node, attributes={"value": tensor_attribute(small)})


def _array(node: Node) -> Array | None:
    """Return what a Constant holds, in whichever of its attributes."""
    for name, data in node.attributes.items():
        value: Attribute = attribute_value(data)
        if name == "value" and isinstance(value, np.ndarray):
            return value
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
    return np.zeros(1, np.float32) if node.op == "ConstantOfShape" else None


def symbols(values: Sequence[Value]) -> set[str]:
    """Return the symbols in the shapes of some values."""
    return {dim for value in values for dim in value.dims if isinstance(dim, str)}
