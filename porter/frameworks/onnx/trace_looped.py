"""Trace a model that is fed what it wrote: one step of it, put into a Loop.

SLANet and SLANeXt of transformers write the structure of a table, one part after the other. The
step is traced with its state as inputs; what does not depend on the state stays before the Loop.
Runs in a child process (`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import gzip
import os
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import need
from porter.frameworks.onnx import trace as fixed
from porter.frameworks.onnx.trace_published import _model
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

_STATE = ("features", "written", "ended")
"""What one step gives the next: hidden features, what was written, whether the table has ended."""
_SCORES = "scores"
_STEP = "step/"
"""Before the names of values inside the Loop."""


def trace(
    architecture: Architecture, path: str | os.PathLike[str], *, image_size: Size, opset: int
) -> None:
    """Write a template to `path`; its graph gives (batch, steps, parts), as the class does."""
    for package in ("torch", "onnxscript", "onnx", "transformers"):
        need(package)
    import onnx
    import torch

    model = _model(torch, architecture)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    config = model.config
    width = config.hidden_size
    model.forward = _step(torch, model)
    example = (
        torch.zeros(2, 3, *architecture.sides(image_size)),
        torch.zeros(2, width), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool),
    )  # fmt: skip
    batch = torch.export.Dim("n", min=1, max=1 << 16)
    shapes = tuple({0: batch} for _ in example)
    try:
        exported = torch.export.export(model, example, dynamic_shapes=(shapes,), strict=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"the graph of {architecture.name} cannot be traced: {error}") from error
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT, *_STATE], verbose=False,
        output_names=[_SCORES, *(f"next_{name}" for name in _STATE)],
    )  # fmt: skip
    assert program is not None
    proto = onnx.load_from_string(fixed._finish(program.model, state, architecture))
    (output,) = architecture.graph.outputs
    looped(proto, config.max_text_length + 1, width, config.out_channels, output)
    with open(path, "wb") as file:
        file.write(gzip.compress(proto.SerializeToString(deterministic=True), 9, mtime=0))


def _step(torch: Any, model: Any) -> Any:
    """Return the forward pass of one step, as the head of the class does it."""
    last = model.config.out_channels - 1

    def run(image: Any, features: Any, written: Any, ended: Any) -> Any:
        hidden = model.backbone(image).last_hidden_state
        one_hot = torch.nn.functional.one_hot(written, model.config.out_channels).float()
        features, _ = model.head.structure_attention_cell(features, hidden, one_hot)
        scores = model.head.structure_generator(features)
        written = scores.argmax(dim=1)
        return scores, features, written, ended | written.eq(last)

    return lambda *given: run(*given)


def looped(proto: Any, steps: int, width: int, parts: int, output: str) -> None:
    """Put the step of a traced model into a Loop of at most `steps`, in place."""
    graph = proto.graph
    state = {value.name: value for value in graph.input if value.name in _STATE}
    weights = [v.name for v in graph.input if v.name not in state][1:]
    inside, outside = _split(graph.node, set(state))
    carried = _carried(inside, outside, [graph.input[0].name])
    body = _body(inside, carried, list(state), weights)
    first = _first(graph.input[0].name, width)
    loop = _node(
        "Loop", ["/steps", "/go", *(f"/first/{name}" for name in _STATE), *carried],
        [*(f"/last/{name}" for name in _STATE), *(f"/last/{name}" for name in carried), "/scores"],
        body=body,
    )  # fmt: skip
    last = [
        loop, _node("Transpose", ["/scores"], ["/by_picture"], perm=[1, 0, 2]),
        _node("Softmax", ["/by_picture"], [output], axis=-1),
    ]  # fmt: skip
    kept = [value for value in graph.input if value.name not in state]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*outside, _constant("/steps", steps), *first, *last])
    graph.input.extend(kept)
    graph.output.append(_value(output, ["batch", "steps", parts]))


def _split(nodes: Any, state: set[str]) -> tuple[list[Any], list[Any]]:
    """Return the nodes that depend on the state, with copies of their constants, and the others."""
    inside: list[Any] = []
    outside: list[Any] = []
    constants = {node.output[0]: node for node in nodes if node.op_type == "Constant"}
    depending = set(state)
    for node in nodes:
        if depending.intersection(node.input):
            depending.update(node.output)
            inside.append(node)
        else:
            outside.append(node)
    read = {name for node in inside for name in node.input}
    also = [_copy(node) for name, node in constants.items() if name in read]
    used = {name for node in outside for name in node.input}
    outside = [n for n in outside if n.op_type != "Constant" or n.output[0] in used]
    return [*also, *inside], outside


def _carried(inside: list[Any], outside: list[Any], images: list[str]) -> list[str]:
    """Return the values of the graph that a step reads, in their order.

    They are passed to the Loop, not taken from around it: every tool sees then what it reads.
    """
    own = {name for node in inside for name in node.output}
    read = {name for node in inside for name in node.input} - own
    return [name for name in [*images, *(n for o in outside for n in o.output)] if name in read]


def _body(inside: list[Any], carried: list[str], state: list[str], weights: list[str]) -> Any:
    import onnx
    from onnx import TensorProto, helper

    for node in inside:
        node.input[:] = [n if n in weights or not n else _STEP + n for n in node.input]
        node.output[:] = [_STEP + name for name in node.output]
    ended = f"{_STEP}next_{_STATE[-1]}"
    go = [
        _node("Cast", [ended], [f"{_STEP}as_numbers"], to=TensorProto.INT32),
        _node("ReduceMin", [f"{_STEP}as_numbers"], [f"{_STEP}all"], keepdims=0),
        _node("Cast", [f"{_STEP}all"], [f"{_STEP}all_ended"], to=TensorProto.BOOL),
        _node("Not", [f"{_STEP}all_ended"], [f"{_STEP}go"]),
    ]
    same = [_node("Identity", [_STEP + name], [f"{_STEP}next_{name}"]) for name in carried]
    types = dict(zip(_STATE, (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL), strict=True))
    untyped = onnx.ValueInfoProto
    inputs = [
        helper.make_tensor_value_info(f"{_STEP}number", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"{_STEP}going", TensorProto.BOOL, []),
        *(helper.make_tensor_value_info(_STEP + n, types[n], None) for n in _STATE),
        *(untyped(name=_STEP + name) for name in carried),
    ]
    outputs = [
        helper.make_tensor_value_info(f"{_STEP}go", TensorProto.BOOL, []),
        *(helper.make_tensor_value_info(f"{_STEP}next_{n}", types[n], None) for n in _STATE),
        *(untyped(name=f"{_STEP}next_{name}") for name in carried),
        helper.make_tensor_value_info(_STEP + _SCORES, TensorProto.FLOAT, None),
    ]
    assert set(state) == set(_STATE)
    return helper.make_graph([*inside, *go, *same], "step", inputs, outputs)


def _first(image: str, width: int) -> list[Any]:
    """Return the nodes that make the state before the first step: zeros."""
    from onnx import TensorProto, helper

    def zeros(name: str, size: str, kind: int) -> Any:
        value = helper.make_tensor("value", kind, [1], [0])
        return _node("ConstantOfShape", [size], [f"/first/{name}"], value=value)

    return [
        _node("Shape", [image], ["/batch"], start=0, end=1),
        _constant("/width", [width]),
        _node("Concat", ["/batch", "/width"], ["/size"], axis=0),
        zeros("features", "/size", TensorProto.FLOAT),
        zeros("written", "/batch", TensorProto.INT64),
        zeros("ended", "/batch", TensorProto.BOOL),
        _constant("/go", True),
    ]


def _copy(node: Any) -> Any:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(
        op, inputs, outputs, name=f"/{outputs[-1].strip('/')}/{op}", **attributes
    )


def _constant(name: str, value: int | bool | list[int]) -> Any:
    import numpy as np
    from onnx import numpy_helper

    array = np.array(value, bool if isinstance(value, bool) else np.int64)
    return _node("Constant", [], [name], value=numpy_helper.from_array(array))


def _value(name: str, dims: list[int | str]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
