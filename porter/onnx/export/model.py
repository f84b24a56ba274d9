"""A model file from first byte to last: a graph, its weights and what is said about it.

    ModelProto   ir_version, producer, doc_string, opset_import, metadata_props, graph
    GraphProto   nodes, name, inputs, outputs, then one initializer for each weight
    TensorProto  dims, data_type, name, raw_data, or where it lies in the file of external data

The metadata stand before the graph, so that they are read without walking over the weights.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from porter import __version__
from porter.errors import UsageError, printable
from porter.onnx.graph import wire
from porter.onnx.graph.attributes import tensor_header
from porter.onnx.graph.values import Graph
from porter.storage.digests import unknown
from porter.storage.pieces import Body, Late, Piece
from porter.tensors.lazy import LazyTensor
from porter.tensors.shared_tensors import compact
from porter.tensors.state_dict import StateDict

TENSORS = "porter.tensors"
"""Metadata key of {name of a weight: digest of its bytes}, as JSON."""
LARGEST = (1 << 31) - 1
"""Bytes of the largest message that protobuf reads."""
_PAGE, _LINE = 4096, 64
"""Where tensors of a page and more begin, so that they can be mapped, and where others do."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A model without its weights."""

    graph: Graph
    """Its inputs are the image alone."""
    ir_version: int
    opsets: Mapping[str, int]
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Outside:
    """Where tensors lie in a file of external data."""

    location: str
    offsets: Mapping[str, int]


def pieces(
    sheet: Sheet,
    state: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    *,
    outside: Outside | None = None,
    method: str = "",
) -> Iterator[Piece]:
    """Yield the pieces of a model file; with `outside` the weights are not in it.

    `method` is that of the digests of the weights in its metadata, "" for none. `UsageError` when
    it is larger than protobuf reads.
    """
    heads = {name: _initializer(name, tensor, outside) for name, tensor in state.items()}
    bodies = {} if outside else {name: Body(name, tensor) for name, tensor in state.items()}
    graph = sheet.graph.encode()
    size = len(graph) + sum(len(head) for head in heads.values())
    size += sum(body.nbytes for body in bodies.values())
    start = _head(sheet) + _metadata(metadata)
    late = [_digests(bodies, method)] if bodies and method else []
    middle = wire.header(7, size) + graph
    total = len(start) + sum(piece.nbytes for piece in late) + len(middle) - len(graph) + size
    if total > LARGEST:
        raise UsageError(
            f"a model of {total:,} bytes; protobuf reads {LARGEST:,}: pass --external-data"
        )
    yield start
    yield from late
    yield middle
    for name, head in heads.items():
        yield head
        if name in bodies:
            yield bodies[name]


def _digests(bodies: Mapping[str, Body], method: str) -> Late:
    """Return the note of the weights' digests, which are known when they are written."""

    def note(digests: Mapping[str, str]) -> bytes:
        return _metadata({TENSORS: compact(digests)})

    return Late(
        len(note(dict.fromkeys(bodies, unknown(method)))),
        lambda: note({name: body.digest for name, body in bodies.items()}),
        last=True,
    )


def _head(sheet: Sheet) -> bytes:
    opsets = b"".join(
        wire.blob(8, (wire.text(1, domain) if domain else b"") + wire.integer(2, version))
        for domain, version in sheet.opsets.items()
    )
    doc = wire.text(6, sheet.doc) if sheet.doc else b""
    said = wire.integer(1, sheet.ir_version) + wire.text(2, "porter") + wire.text(3, __version__)
    return said + doc + opsets


def _metadata(metadata: Mapping[str, str]) -> bytes:
    return b"".join(
        wire.blob(14, wire.text(1, key) + wire.text(2, value))
        for key, value in sorted(metadata.items())
    )


def _initializer(name: str, tensor: LazyTensor, outside: Outside | None) -> bytes:
    """Return what stands before a weight's bytes, or all of it where they are outside."""
    code = tensor.dtype.onnx
    if code is None:
        raise UsageError(f"onnx has no {tensor.dtype.name}, which {printable(name)} is")
    said = tensor_header(code, tensor.shape, name)
    if outside is None:
        rest = wire.header(9, tensor.nbytes)
        return wire.header(5, len(said) + len(rest) + tensor.nbytes) + said + rest
    place = {
        "location": outside.location,
        "offset": str(outside.offsets[name]),
        "length": str(tensor.nbytes),
    }
    entries = b"".join(
        wire.blob(13, wire.text(1, key) + wire.text(2, value)) for key, value in place.items()
    )
    return wire.blob(5, said + entries + wire.integer(14, 1))


def external(state: StateDict) -> tuple[list[Piece], dict[str, int]]:
    """Return what stands in a file of external data, and where each tensor begins."""
    found: list[Piece] = []
    offsets: dict[str, int] = {}
    at = 0
    for name, tensor in state.items():
        step = _PAGE if tensor.nbytes >= _PAGE else _LINE
        if gap := -at % step:
            found.append(bytes(gap))
        at += gap
        offsets[name] = at
        found.append(Body(name, tensor))
        at += tensor.nbytes
    return found, offsets


def size_of(sheet: Sheet, state: Mapping[str, LazyTensor]) -> int:
    """Return about how many bytes a model file with its weights inside has."""
    heads = sum(len(name) + 64 for name in state)
    return len(sheet.graph.encode()) + heads + sum(t.nbytes for t in state.values())
