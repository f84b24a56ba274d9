"""The tensors inside the nodes of an ONNX graph: which are weights, and where the others are.

A Constant node's output is named, so an array of one is read like an initialiser. All
else is reported by name: scalars and indices, which are settings of the graph; tensors of
subgraphs and functions, whose names are not unique in the file; sparse ones; those in attributes
of other nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from porter.codecs.protobuf import BYTES, FIXED32, VARINT, Field, Span, Walker
from porter.errors import listed, printable
from porter.tensors.blocks import Array

DEEPEST = 100
_MOST_CONSTANTS = 1_000_000
_LONGEST_TEXT = 1 << 20
_LONGEST_LIST = 64 << 20
_NODES, _INITIALIZERS, _SPARSE = 1, 5, 15
_WEIGHTS = (1, 2, 3, 10, 11, 14, 15, 16, 17, 18, 19, 20)
"""Codes of types that weights have, floating or of 8 bits (`TensorProto.DataType`)."""
_NUMBERS = ("value_float", "value_floats", "value_int", "value_ints")
"""Fields of a Constant node for few numbers, in place of a tensor."""
_PLAIN = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Constant:
    """What a Constant node makes: a TensorProto in the file, or an array of a few numbers."""

    span: Span | None = None
    array: Array | None = None


@dataclass(slots=True)
class _Node:
    """The fields of a NodeProto that say what it is."""

    op: str = ""
    domain: str = ""
    output: str = ""
    attributes: list[Span] = field(default_factory=list)

    @property
    def is_constant(self) -> bool:
        return self.op == "Constant" and self.domain in _PLAIN


@dataclass(slots=True)
class _Attribute:
    """The fields of an AttributeProto."""

    name: str = ""
    values: list[Field] = field(default_factory=list)


@dataclass(slots=True)
class Inner:
    """The tensors that a walk over nodes has met."""

    constants: dict[str, Constant] = field(default_factory=dict)
    """Weights, by the name of the output."""
    settings: list[str] = field(default_factory=list)
    """Scalars and indices in Constant nodes."""
    sparse: list[str] = field(default_factory=list)
    subgraphs: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    """Tensors in attributes of nodes other than Constant."""

    def named(self) -> list[str]:
        """Return a line for each kind of tensors that are not read."""
        kinds = (
            (self.settings, "settings in Constant nodes"),
            (self.sparse, "sparse tensors in Constant nodes"),
            (self.subgraphs, "tensors in subgraphs"),
            (self.functions, "tensors in functions"),
            (self.attributes, "tensors in attributes of nodes"),
        )
        return [f"{len(names)} {what} ({_names(names)})" for names, what in kinds if names]

    def keep_constants(self) -> None:
        """Take the constants for settings of the graph."""
        self.settings += self.constants
        self.constants = {}

    def node(self, walker: Walker, span: Span) -> None:
        """Take the tensors of a node of the main graph."""
        node = _parsed(walker, span)
        for part in node.attributes:
            self._attribute(walker, node, _attribute(walker, part))

    def function(self, walker: Walker, span: Span) -> None:
        """Take the tensors of a FunctionProto, whose nodes are field 7."""
        for part in walker.fields(span):
            if part.number == 7 and part.kind == BYTES:
                self._inner(walker, part.span, self.functions, 0)

    def _attribute(self, walker: Walker, node: _Node, attribute: _Attribute) -> None:
        if node.is_constant and node.output and attribute.name in _NUMBERS:
            self._numbers(walker, node.output, attribute)
            return
        for part in attribute.values:
            if part.kind != BYTES:
                continue
            if part.number == 5 and node.is_constant and node.output:
                self._constant(walker, node.output, part.span)
            elif part.number in (22, 23):
                self.sparse.append(node.output)
            elif part.number in (5, 10) or (part.number == 7 and node.domain not in _PLAIN):
                self.attributes.append(f"{node.op} {attribute.name}".strip())
            elif part.number in (6, 11):
                self._graph(walker, part.span, self.subgraphs, 1)

    def _constant(self, walker: Walker, name: str, span: Span) -> None:
        if not _is_array(walker, span):
            self.settings.append(name)
            return
        self._add(walker, name, Constant(span))

    def _add(self, walker: Walker, name: str, constant: Constant) -> None:
        if name in self.constants:
            raise walker.broken(f"two nodes make {printable(name)}")
        if len(self.constants) == _MOST_CONSTANTS:
            raise walker.broken(f"more than {_MOST_CONSTANTS} Constant nodes")
        self.constants[name] = constant

    def _numbers(self, walker: Walker, name: str, attribute: _Attribute) -> None:
        """Take `value_floats` as an array, and the other fields as settings."""
        if attribute.name != "value_floats":
            self.settings.append(name)
            return
        data = bytearray()
        for part in attribute.values:
            if part.number == 7 and part.kind in (BYTES, FIXED32):
                data += walker.bytes(part.span, _LONGEST_LIST)
        if len(data) % 4:
            raise walker.broken(f"{printable(name)} has {len(data)} bytes of floats")
        self._add(walker, name, Constant(array=np.frombuffer(bytes(data), "<f4")))

    def _inner(self, walker: Walker, span: Span, names: list[str], depth: int) -> None:
        """Name the tensors of a node that is not in the main graph."""
        if depth > DEEPEST:
            raise walker.broken(f"graphs are nested deeper than {DEEPEST}")
        node = _parsed(walker, span)
        for part in node.attributes:
            attribute = _attribute(walker, part)
            for value in attribute.values:
                if value.kind == BYTES and value.number in (5, 10, 22, 23):
                    names.append(node.output or attribute.name)
                elif value.kind == BYTES and value.number in (6, 11):
                    self._graph(walker, value.span, names, depth + 1)
            if node.is_constant and attribute.name in _NUMBERS:
                names.append(node.output)

    def _graph(self, walker: Walker, span: Span, names: list[str], depth: int) -> None:
        for part in walker.fields(span):
            if part.number == _NODES and part.kind == BYTES:
                self._inner(walker, part.span, names, depth)
            elif part.number in (_INITIALIZERS, _SPARSE):
                names.append(_text(walker, part.span, 8) if part.number == _INITIALIZERS else "")


def _names(names: list[str]) -> str:
    return listed([name or "without a name" for name in dict.fromkeys(names)])


def _parsed(walker: Walker, span: Span) -> _Node:
    node = _Node()
    for part in walker.fields(span):
        if part.kind != BYTES:
            continue
        if part.number == 2 and not node.output:
            node.output = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 4:
            node.op = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 5:
            node.attributes.append(part.span)
        elif part.number == 7:
            node.domain = walker.text(part.span, _LONGEST_TEXT)
    return node


def _attribute(walker: Walker, span: Span) -> _Attribute:
    attribute = _Attribute()
    for part in walker.fields(span):
        if part.number == 1 and part.kind == BYTES:
            attribute.name = walker.text(part.span, _LONGEST_TEXT)
        else:
            attribute.values.append(part)
    return attribute


def _is_array(walker: Walker, span: Span) -> bool:
    """Whether a TensorProto may be a weight: scalars and indices are settings of the graph."""
    axes, code = False, 0
    for part in walker.fields(span):
        axes |= part.number == 1 and (part.kind == VARINT or part.span.nbytes > 0)
        if part.number == 2 and part.kind == VARINT:
            code = part.value
    return axes and code in _WEIGHTS


def _text(walker: Walker, span: Span, number: int) -> str:
    texts = (p for p in walker.fields(span) if p.number == number and p.kind == BYTES)
    return next((walker.text(part.span, _LONGEST_TEXT) for part in texts), "")
