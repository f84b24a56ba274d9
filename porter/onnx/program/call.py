"""One operation of a Paddle program while it is written as nodes of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.codecs.paddle.operations import Plain
from porter.codecs.paddle.program import BY_CODE
from porter.onnx.graph.attributes import attribute, tensor_attribute
from porter.onnx.graph.values import Node
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import Shape


class Unreadable(Exception):
    """An operation has a form that has no counterpart here; the message says which."""


@dataclass(slots=True)
class Nodes:
    """The nodes written so far, and the constants among their values."""

    nodes: list[Node] = field(default_factory=list)
    known: dict[str, Array] = field(default_factory=dict)

    def add(
        self, op: str, inputs: Sequence[str], many: int, options: Mapping[str, object]
    ) -> list[str]:
        """Add a node; returns the names of its `many` outputs, which no parameter has."""
        at = len(self.nodes)
        outputs = [f"%{at}" if many == 1 else f"%{at}.{number}" for number in range(many)]
        written = {name: attribute(name, value) for name, value in options.items()}
        self.nodes.append(Node(op, list(inputs), outputs, f"%{at}", attributes=written))
        return outputs

    def constant(self, array: Array) -> str:
        """Add a constant; returns its name."""
        (name,) = self.add("Constant", [], 1, {})
        self.nodes[-1].attributes["value"] = tensor_attribute(array)
        self.known[name] = array
        return name


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, its operands by name, and where its nodes go."""

    operands: Mapping[str, Sequence[str]]
    """Names of ONNX values; an operand that is not given is not here."""
    attributes: Mapping[str, Plain]
    shapes: Mapping[str, Shape]
    """{operand: declared shape}"""
    to: Nodes

    def node(self, op: str, inputs: Sequence[str], **options: object) -> str:
        """Add a node of one output; returns its name."""
        return self.to.add(op, inputs, 1, options)[0]

    def nodes(self, op: str, inputs: Sequence[str], many: int, **options: object) -> list[str]:
        """Add a node of several outputs; returns their names."""
        return self.to.add(op, inputs, many, options)

    def one(self, operand: str) -> str:
        """Return an operand that is one value; `Unreadable` where it is missing."""
        (name,) = self.many(operand)
        return name

    def maybe(self, operand: str) -> str | None:
        """Return an operand that is one value, None where it is not given."""
        return self.one(operand) if self.operands.get(operand) else None

    def many(self, operand: str) -> Sequence[str]:
        """Return the values of an operand that is a list."""
        if not self.operands.get(operand):
            raise Unreadable(f"an operand {operand} is missing")
        return self.operands[operand]

    def dims(self, operand: str) -> Shape:
        """Return the declared shape of an operand; an open size is -1."""
        return self.shapes.get(operand, ())

    def constant(self, value: Array | Sequence[int] | int) -> str:
        """Add a constant, of int64 unless it is an array."""
        if isinstance(value, np.ndarray):
            return self.to.constant(value)
        return self.to.constant(np.array(value, np.int64))

    def scalar(self, value: float) -> str:
        """Add a number of float32."""
        return self.to.constant(np.array(value, np.float32))

    def shape(self, name: str, least: int | None = None) -> str:
        """Return a list of sizes or places as a value of int64: an operand, or an attribute.

        What is below `least` becomes it. Several operands are joined to one.
        """
        given = list(self.operands.get(name, ()))
        if all(value in self.to.known for value in given):
            sizes = self.integers(name)
            return self.constant(sizes if least is None else [max(n, least) for n in sizes])
        flat = [
            self.node("Reshape", [self.node("Cast", [value], to=7), self.constant([-1])])
            for value in given
        ]
        joined = flat[0] if len(flat) == 1 else self.node("Concat", flat, axis=0)
        return joined if least is None else self.node("Max", [joined, self.constant([least])])

    def integers(self, name: str, default: list[int] | None = None) -> list[int]:
        """Return whole numbers: a constant operand, or an attribute; `Unreadable` for others."""
        given = self.operands.get(name)
        if given:
            if any(value not in self.to.known for value in given):
                raise Unreadable(f"its {name} depends on the image")
            return [int(n) for value in given for n in self.to.known[value].reshape(-1)]
        value = self.attributes.get(name)
        if value in (None, ""):
            if default is None:
                raise Unreadable(f"it has no {name}")
            return default
        return [int(n) for n in (value if isinstance(value, list) else [value])]

    def integer(self, name: str, default: int | None = None) -> int:
        """Return one whole number, likewise."""
        found = self.integers(name, None if default is None else [default])
        if len(found) != 1:
            raise Unreadable(f"its {name} is {found}")
        return found[0]

    def number(self, name: str, default: float) -> float:
        """Return a number, likewise."""
        given = self.operands.get(name)
        if given:
            if given[0] not in self.to.known:
                raise Unreadable(f"its {name} depends on the image")
            return float(self.to.known[given[0]].reshape(-1)[0])
        value = self.attributes.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an attribute that is true or false."""
        return bool(self.attributes.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """Return an attribute that is a text."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, str) else default

    def need_channels_first(self) -> None:
        """Raise `Unreadable` for another layout of the image than NCHW."""
        layout = self.text("data_format", "NCHW")
        if layout not in ("NCHW", "AnyLayout"):
            raise Unreadable(f"images laid out as {layout}")

    def dtype(self) -> np.dtype[np.generic]:
        """Return the element type that the attribute `dtype` names; sizes are int64."""
        found = self._dtype()
        is_whole = found.name in ("int32", "int64")
        return np.dtype(np.int64) if is_whole else found.numpy

    def element_type(self) -> int:
        """Return the same as a code of ONNX."""
        found = self._dtype()
        if found.onnx is None:
            raise Unreadable(f"numbers of {found.name}")
        return 7 if found.name == "int32" else found.onnx

    def _dtype(self) -> DType:
        value = self.attributes.get("dtype", "float32")
        code = {0: "bool", 2: "int32", 3: "int64"}.get(value) if isinstance(value, int) else value
        found = DTYPES.get(str(code)) or (BY_CODE.get(value) if isinstance(value, int) else None)
        if found is None:
            raise Unreadable(f"numbers of type {value}")
        return found
