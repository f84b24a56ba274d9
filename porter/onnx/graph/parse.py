"""Read an ONNX graph from a file or from memory; its weights are stepped over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from porter.errors import InputError
from porter.onnx.graph import wire
from porter.onnx.graph.values import Graph, Model, Node, Value

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node belongs to."""


class Source(Protocol):
    """Bytes that are read by position: a file, or `Memory`."""

    @property
    def size(self) -> int: ...
    def pread(self, offset: int, nbytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """A source that is in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.data)

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return `nbytes` from `offset` on."""
        return self.data[offset : offset + nbytes]


_INITIALIZERS = (5, 15)
"""Fields of a GraphProto for weights: they are not read here."""
_LARGEST_NODE = 64 << 20
_MOST = 500_000
"""Nodes and values of the largest graph; the largest of the zoo has some thousands."""


def parse(source: Source) -> Model:
    """Read a ModelProto, its initialisers left out; `InputError` when it is none."""
    try:
        return _model(source)
    except InputError as error:
        path = error.path or getattr(source, "path", None)
        raise InputError(error.message, path) from error


def _model(source: Source) -> Model:
    model = Model(Graph("", [], [], []), 0, {})
    for number, value, start, size in _walk(source, 0, source.size):
        if number == 1:
            model.ir_version = value
        elif number == 2:
            model.producer = wire.string(_content(source, start, size))
        elif number == 7:
            _parse_graph(source, start, size, model.graph)
        elif number == 8:
            domain, version = _pair(_content(source, start, size), 1, 2)
            model.opsets[str(domain or "")] = int(version or 0)
        elif number == 14:
            key, text = _pair(_content(source, start, size), 1, 2)
            model.metadata[str(key or "")] = str(text or "")
        elif number == 25:
            model.functions.append(str(_pair(_content(source, start, size), 1, 1)[0]))
    return model


def _walk(source: Source, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, value, offset, size) of a message's fields; contents are not read."""
    while start < end:
        head = source.pread(start, min(20, end - start))
        key, at = wire.read_varint(head, 0)
        kind, value, size = key & 7, 0, 0
        if kind == wire.VARINT:
            value, at = wire.read_varint(head, at)
        elif kind == wire.BYTES:
            size, at = wire.read_varint(head, at)
        elif kind in (wire.FIXED32, wire.FIXED64):
            size = 4 if kind == wire.FIXED32 else 8
        else:
            raise InputError(f"malformed protobuf: a field of kind {kind}")
        if size > end - start - at:
            raise InputError("malformed protobuf: a field is longer than its message")
        yield key >> 3, wire.signed(value), start + at, size
        start += at + size


def _content(source: Source, start: int, size: int) -> memoryview:
    if size > _LARGEST_NODE:
        raise InputError(f"a node or text of {size} bytes in the graph")
    return memoryview(source.pread(start, size))


def _pair(data: memoryview, one: int, other: int) -> tuple[int | str | None, int | str | None]:
    """Return two fields of a small message."""
    found: dict[int, int | str] = {}
    for number, _, value in wire.fields(data):
        if number in (one, other):
            found[number] = wire.signed(value) if isinstance(value, int) else wire.string(value)
    return found.get(one), found.get(other)


def _parse_graph(source: Source, start: int, size: int, graph: Graph) -> None:
    entries = 0
    for number, _, at, length in _walk(source, start, start + size):
        entries += 1
        if entries > _MOST:
            raise InputError(f"a graph of more than {_MOST:,} nodes, values and weights")
        if number in _INITIALIZERS or number not in (1, 2, 10, 11, 12, 13):
            continue
        data = _content(source, at, length)
        if number == 1:
            graph.nodes.append(_parse_node(data))
        elif number == 2:
            graph.name = wire.string(data)
        elif number == 10:
            graph.doc = wire.string(data)
        elif number == 13:
            value = _parse_value(data)
            graph.values[value.name] = value
        else:
            (graph.inputs if number == 11 else graph.outputs).append(_parse_value(data))


def _parse_node(data: memoryview) -> Node:
    node = Node("", [], [])
    for number, _, value in wire.fields(data):
        if number == 1:
            node.inputs.append(wire.string(value))
        elif number == 2:
            node.outputs.append(wire.string(value))
        elif number == 3:
            node.name = wire.string(value)
        elif number == 4:
            node.op = wire.string(value)
        elif number == 5 and isinstance(value, memoryview):
            node.attributes[_name_of(value)] = bytes(value)
        elif number == 7:
            node.domain = wire.string(value)
        elif number == 9 and isinstance(value, memoryview):
            key, text = _pair(value, 1, 2)
            if key == SCOPES:
                node.scope = str(text)
    return node


def _name_of(attribute: memoryview) -> str:
    return next((wire.string(v) for n, _, v in wire.fields(attribute) if n == 1), "")


def _parse_value(data: memoryview) -> Value:
    value = Value("", 0, (), is_ranked=False)
    for number, _, part in wire.fields(data):
        if number == 1:
            value.name = wire.string(part)
        elif number == 3:
            value.doc = wire.string(part)
        elif number == 2 and isinstance(part, memoryview):
            for kind, _, tensor in wire.fields(part):
                if kind == 1 and isinstance(tensor, memoryview):
                    _parse_tensor_type(tensor, value)
    return value


def _parse_tensor_type(data: memoryview, value: Value) -> None:
    for number, _, part in wire.fields(data):
        if number == 1 and isinstance(part, int):
            value.elem_type = part
        elif number == 2 and isinstance(part, memoryview):
            dims = [_pair(dim, 1, 2) for n, _, dim in wire.fields(part) if n == 1
                    and isinstance(dim, memoryview)]  # fmt: skip
            value.dims = tuple(symbol if size is None else size for size, symbol in dims)
            value.is_ranked = True
