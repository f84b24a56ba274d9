"""Put one traced step of a model that is fed what it wrote into a Loop of its graph.

What does not depend on the state stays before the Loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEP = "step/"
"""Before the names of values inside the Loop."""
ENDED = "ended"
"""The state that says of which pictures nothing more is written."""


@dataclass(frozen=True, slots=True)
class State:
    """A value that one step gives the next, (batch, …)."""

    name: str
    kind: int
    """`TensorProto.DataType`."""
    dims: tuple[int, ...] = ()
    """Sizes after the batch, before the first step."""
    first: int = 0
    """What it is filled with before the first step."""


def looped(
    proto: Any, states: Sequence[State], steps: int, scans: Mapping[str, tuple[str, int]]
) -> None:
    """Put the step of a traced model into a Loop of at most `steps`, in place.

    The traced graph has an input for each state, and its next value as an output, `next_NAME`.
    `scans` are {name: (value of the step, its type)}: the Loop gives all of each, `/NAME`, which is
    (steps, batch, …). It is the last node; outputs of the graph are left to the caller.
    """
    graph = proto.graph
    names = [state.name for state in states]
    kept = [value for value in graph.input if value.name not in names]
    image, *weights = (value.name for value in kept)
    inside, outside = _split(graph.node, set(names))
    carried = _carried(inside, outside, [image])
    loop = node(
        "Loop", ["/steps", "/go", *(f"/first/{name}" for name in names), *carried],
        [*(f"/last/{name}" for name in [*names, *carried]), *(f"/{name}" for name in scans)],
        body=_body(inside, carried, states, weights, scans),
    )  # fmt: skip
    first = [constant("/steps", steps), *_first(image, states), constant("/go", True)]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*outside, *first, loop])
    graph.input.extend(kept)


def _split(nodes: Any, state: set[str]) -> tuple[list[Any], list[Any]]:
    """Return the nodes that depend on the state, with copies of their constants, and the others."""
    inside: list[Any] = []
    outside: list[Any] = []
    constants = {node.output[0]: node for node in nodes if node.op_type == "Constant"}
    depending = set(state)
    for one in nodes:
        if depending.intersection(one.input):
            depending.update(one.output)
            inside.append(one)
        else:
            outside.append(one)
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


def _body(
    inside: list[Any],
    carried: list[str],
    states: Sequence[State],
    weights: list[str],
    scans: Mapping[str, tuple[str, int]],
) -> Any:
    import onnx
    from onnx import TensorProto, helper

    for one in inside:
        one.input[:] = [n if n in weights or not n else STEP + n for n in one.input]
        one.output[:] = [STEP + name for name in one.output]
    go = [
        node("Cast", [f"{STEP}next_{ENDED}"], [f"{STEP}as_numbers"], to=TensorProto.INT32),
        node("ReduceMin", [f"{STEP}as_numbers"], [f"{STEP}all"], keepdims=0),
        node("Cast", [f"{STEP}all"], [f"{STEP}all_ended"], to=TensorProto.BOOL),
        node("Not", [f"{STEP}all_ended"], [f"{STEP}go"]),
    ]
    same = [node("Identity", [STEP + name], [f"{STEP}next_{name}"]) for name in carried]
    given = {name: STEP + value for name, (value, _) in scans.items()}
    nexts = [f"{STEP}next_{state.name}" for state in states]
    for name, value in given.items():
        if value in nexts:  # no value is two outputs
            given[name] = f"{STEP}each_{name}"
            same.append(node("Identity", [value], [given[name]]))
    typed, untyped = helper.make_tensor_value_info, onnx.ValueInfoProto
    inputs = [
        typed(f"{STEP}number", TensorProto.INT64, []),
        typed(f"{STEP}going", TensorProto.BOOL, []),
        *(typed(STEP + state.name, state.kind, None) for state in states),
        *(untyped(name=STEP + name) for name in carried),
    ]
    outputs = [
        typed(f"{STEP}go", TensorProto.BOOL, []),
        *(typed(name, one.kind, None) for name, one in zip(nexts, states, strict=True)),
        *(untyped(name=f"{STEP}next_{name}") for name in carried),
        *(typed(given[name], kind, None) for name, (_, kind) in scans.items()),
    ]
    return helper.make_graph([*inside, *go, *same], "step", inputs, outputs)


def _first(image: str, states: Sequence[State]) -> list[Any]:
    """Return the nodes that make the states before the first step."""
    from onnx import helper

    nodes = [node("Shape", [image], ["/batch"], start=0, end=1)]
    for state in states:
        size = "/batch"
        if state.dims:
            size, own = f"/size/{state.name}", f"/dims/{state.name}"
            nodes += [
                constant(own, list(state.dims)),
                node("Concat", ["/batch", own], [size], axis=0),
            ]
        value = helper.make_tensor("value", state.kind, [1], [state.first])
        nodes.append(node("ConstantOfShape", [size], [f"/first/{state.name}"], value=value))
    return nodes


def _copy(original: Any) -> Any:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(original)
    return made


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    """Return a node that is called by its last output."""
    from onnx import helper

    return helper.make_node(
        op, inputs, outputs, name=f"/{outputs[-1].strip('/')}/{op}", **attributes
    )


def constant(name: str, value: int | bool | list[int]) -> Any:
    """Return a node that yields whole numbers, or a truth value."""
    import numpy as np
    from onnx import numpy_helper

    array = np.array(value, bool if isinstance(value, bool) else np.int64)
    return node("Constant", [], [name], value=numpy_helper.from_array(array))
