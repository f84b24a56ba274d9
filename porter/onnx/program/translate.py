"""A Paddle inference model as an ONNX model: the same operations, the same weights.

It is written to a folder of its own for a moment, to be read as any foreign model is; it serves no
other purpose, and only the operations that image classifiers use are known.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from porter.codecs.paddle.inference import pair
from porter.codecs.paddle.operations import Operation, Program, program
from porter.errors import InputError, printable
from porter.onnx.export import model
from porter.onnx.graph.values import FLOAT, Graph, Value
from porter.onnx.program.call import Call, Nodes, Unreadable
from porter.onnx.program.legacy import LEGACY, Legacy
from porter.onnx.program.rules import RULES, Results, Rule
from porter.storage.input_file import InputFile
from porter.storage.pieces import Body
from porter.tensors.lazy import Shape
from porter.tensors.state_dict import StateDict

OPSET, _IR = 20, 9
IMAGE = "%image"
NOTHING = "%0"
"""PIR's number of an operand that is not given."""


@dataclass(slots=True)
class Translation:
    """What has been written of a program."""

    parameters: Sequence[str]
    to: Nodes = field(default_factory=Nodes)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """{value of the program: its names in the graph}, several for a list"""
    images: list[Value] = field(default_factory=list)
    scores: list[Value] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before_softmax: dict[str, str] = field(default_factory=dict)

    def graph(self) -> Graph:
        """Return the graph."""
        return Graph("program", self.to.nodes, self.images, self.scores)


def translated(source: Program, parameters: Sequence[str], path: str) -> Translation:
    """Return a program as a graph; `parameters` are the names of its weights.

    `InputError` names an operation that is not known, and one of a form that is not.
    """
    if source.branches:
        what = f"the program branches ({printable(source.branches)}), and is not made a graph"
        raise InputError(what, path)
    made = Translation(parameters)
    clash = [name for name in parameters if name.startswith("%")]
    if clash:
        raise InputError(f"a parameter is called {printable(clash[0])}", path)
    if not source.is_pir:
        made.names.update((name, (name,)) for name in parameters)
    for operation in source.operations:
        try:
            _take(made, source, operation)
        except Unreadable as reason:
            what = f"{printable(operation.kind)}: {printable(reason)}"
            raise InputError(f"an operation that porter does not read, {what}", path) from reason
        except (LookupError, TypeError, ArithmeticError, ValueError, struct.error) as fault:
            what = f"the {printable(operation.kind)} is malformed"
            raise InputError(f"malformed Paddle program: {what}", path) from fault
    return made


def _take(made: Translation, source: Program, operation: Operation) -> None:
    """Write one operation."""
    operands, legacy = dict(operation.inputs), None
    if not source.is_pir:
        legacy = LEGACY.get(operation.kind)
        if legacy is None:
            raise Unreadable("it is not known")
    kind = operation.kind if legacy is None else legacy.kind
    outputs = operation.outputs.get("0" if legacy is None else legacy.result, ())
    if kind == "parameter":
        made.names[outputs[0]] = operands["0"]
    elif kind == "data":
        made.names[outputs[0]] = (IMAGE,)
        made.images.append(Value(IMAGE, FLOAT, _dims(source.dims.get(outputs[0], ()))))
    elif kind == "fetch":
        (value,) = operands["0" if legacy is None else "X"]
        _fetch(made, made.names[value][0], source.dims.get(value, ()))
    elif kind.startswith("builtin."):
        _regroup(made, operation, kind)
    else:
        call = _call(made, source, operation, legacy)
        _set(made, operation, outputs, _rule(kind)[1](call))
        if kind == "softmax":
            made.before_softmax[made.names[outputs[0]][0]] = call.one("x")


def _rule(kind: str) -> tuple[str, Rule]:
    """Return the rule of an operation, or of the one that it does in place."""
    found = RULES.get(kind) or RULES.get(kind.removesuffix("_"))
    if found is None:
        raise Unreadable("it is not known")
    return found


def _dims(shape: Shape) -> tuple[int | str | None, ...]:
    """Return a declared shape as ONNX has it: the batch may be open."""
    batch = ("batch" if size < 0 else size for size in shape[:1])
    return (*batch, *(None if size < 0 else size for size in shape[1:]))


def _fetch(made: Translation, name: str, shape: Shape) -> None:
    """Note a result; scores that went through a softmax are taken before it."""
    if name in made.before_softmax and len(shape) == 2:
        name = made.before_softmax[name]
        made.notes.append("the program ends in a softmax, which no weight belongs to: left out")
    made.scores.append(Value(name, FLOAT, _dims(shape)))


def _regroup(made: Translation, operation: Operation, kind: str) -> None:
    """Make a list of values, or take one apart: nothing is computed."""
    read = [made.names[value] for values in operation.inputs.values() for value in values]
    outputs = [value for values in operation.outputs.values() for value in values]
    if kind == "builtin.combine":
        made.names[outputs[0]] = tuple(name for (name,) in read)
    elif kind == "builtin.split":
        made.names.update(zip(outputs, ((name,) for name in read[0]), strict=True))
    elif kind == "builtin.slice":
        at = operation.attributes["index"]
        made.names[outputs[0]] = (read[0][int(at)],)  # type: ignore[arg-type]
    else:
        raise Unreadable("it is not known")


def _call(made: Translation, source: Program, operation: Operation, legacy: Legacy | None) -> Call:
    """Return an operation with its operands by name."""
    slots: dict[str, tuple[str, ...]] = {}
    if legacy is None:
        order = _rule(operation.kind)[0].split()
        for place, values in operation.inputs.items():
            if values != (NOTHING,):
                slots[order[int(place)]] = values
    else:
        for slot, values in operation.inputs.items():
            if values and not legacy.operand(slot):
                raise Unreadable(f"its {slot} is given")
            if values:
                slots[legacy.operand(slot)] = values
    attributes = operation.attributes
    if legacy is not None:
        attributes = {legacy.attribute(name): value for name, value in attributes.items()}
    return Call(
        {
            slot: [n for value in values for n in made.names[value]]
            for slot, values in slots.items()
        },
        attributes,
        {slot: source.dims.get(values[0], ()) for slot, values in slots.items()},
        made.to,
    )


def _set(made: Translation, operation: Operation, outputs: Sequence[str], results: Results) -> None:
    """Note the names of an operation's results."""
    if isinstance(results, str):
        made.names[outputs[0]] = (results,)
    elif len(outputs) == 1:  # PIR: one value that is a list
        made.names[outputs[0]] = tuple(results)
    else:
        made.names.update(zip(outputs, ((name,) for name in results), strict=True))


def write(file: InputFile, state: StateDict, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Write `model.onnx`, its weights in a file next to it; returns its path, and notes."""
    path = pair(file)[0]
    made = translated(program(path), list(state), path.path)
    parts, offsets = model.external(state)
    with open(folder / "weights", "wb") as weights:
        for part in parts:
            if isinstance(part, Body):
                weights.writelines(part.tensor.blocks())
            elif isinstance(part, bytes):
                weights.write(part)
    sheet = model.Sheet(made.graph(), _IR, {"": OPSET})
    outside = model.Outside("weights", offsets)
    pieces = model.pieces(sheet, state, {}, outside=outside)
    target = folder / "model.onnx"
    target.write_bytes(b"".join(piece for piece in pieces if isinstance(piece, bytes)))
    return os.fspath(target), tuple(made.notes)
