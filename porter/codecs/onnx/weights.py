"""The initialisers of an ONNX file, and of the files of external data that it names.

The graph is walked and not interpreted. The tensors in its nodes are read or named
(`porter.codecs.onnx.nodes`). Every field that is not known is refused,
as are two fields where the format has one: protobuf readers would merge two models in silence.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod

from porter.codecs.flat import flat
from porter.codecs.onnx.elements import Tensor, locate
from porter.codecs.onnx.nodes import Constant, Inner
from porter.codecs.protobuf import BYTES, FIXED32, FIXED64, VARINT, Span, Walker, signed, unpacked
from porter.errors import InputError, listed, printable
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import Origin, StateDict

MOST_TENSORS = 1_000_000
MOST_ELEMENTS = 1 << 48
_LONGEST_TEXT = 1 << 20
_LONGEST_NOTE = 256 << 20
_MOST_NOTES = 100_000

# Number to kind of the fields that may come, and those of them that may come once.
_MODEL = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES}
_MODEL |= {14: BYTES, 20: BYTES, 25: BYTES, 26: BYTES}
_MODEL_ONCE = {1, 2, 3, 4, 5, 6, 7}
_GRAPH = dict.fromkeys((1, 2, 5, 10, 11, 12, 13, 14, 15, 16), BYTES)
_GRAPH_ONCE = {2, 10}
_NODES, _NAME, _INITIALIZERS, _SPARSE = 1, 2, 5, 15

_BY_CODE: dict[int, DType] = {d.onnx: d for d in DTYPES.values() if d.onnx is not None}
_UNFIT = {0: "undefined", 8: "text", 21: "of 4 bits", 22: "of 4 bits", 23: "of 4 bits"}


@dataclass(slots=True)
class _Found:
    """What a walk over the model has met."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    """Tensors inside of nodes."""
    metadata: dict[str, str] = field(default_factory=dict)
    training: bool = False


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the weights of a model: its initialisers, and the floating arrays of its Constant
    nodes by the names of their outputs. `InputError` where a rule is broken."""
    found = initializers(file)
    if not found or not any(note.startswith("porter.") for note in _origin(found).metadata):
        found = weights(file)
    if not found:
        inner = listed(_origin(found).skipped)
        where = f"; it has {inner}" if inner else ""
        raise InputError(f"an ONNX model without initialisers or constants{where}", file.path)
    return flat(dict(found), _origin(found), key=key, strip=strip)


def _origin(state: StateDict) -> Origin:
    assert state.origin is not None
    return state.origin


def initializers(file: InputFile) -> StateDict:
    """Return the initialisers of a model, perhaps none: all weights of a model by porter."""
    walker = Walker(file)
    found = _model(walker)
    found.inner.keep_constants()
    return _located(walker, found)


def weights(file: InputFile) -> StateDict:
    """Return the weights of a model, perhaps none, under the names that they have."""
    walker = Walker(file)
    return _located(walker, _model(walker))


def _located(walker: Walker, found: _Found) -> StateDict:
    file = walker.file
    files: dict[str, InputFile] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in found.tensors.items():
        tensors[name] = locate(walker, tensor, files)
    for name, constant in found.inner.constants.items():
        if name in tensors:
            raise walker.broken(f"{printable(name)} is an initialiser and the output of a node")
        tensors[name] = _constant(walker, name, constant, files)
    skipped = found.inner.named()
    if found.training:
        skipped.append("training_info, which belongs to the training")
    paths = (file.path, *(other.path for other in files.values()))
    origin = Origin(file.path, "onnx", paths, skipped=tuple(skipped), metadata=found.metadata)
    return StateDict(tensors, origin)


def _model(walker: Walker) -> _Found:
    found = _Found()
    graph: Span | None = None
    seen: set[int] = set()
    for part in walker.fields(Span(0, walker.file.size)):
        _expect(walker, "model", part.number, part.kind, _MODEL)
        _once(walker, "model", part.number, seen, _MODEL_ONCE)
        if part.number == 7:
            graph = part.span
        elif part.number == 14:
            _note(walker, part.span, found.metadata)
        elif part.number == 20:
            found.training = True
        elif part.number == 25:
            found.inner.function(walker, part.span)
    if graph is None:
        raise InputError("an ONNX model without a graph", walker.file.path)
    _graph(walker, graph, found)
    return found


def _expect(walker: Walker, where: str, number: int, kind: int, known: dict[int, int]) -> None:
    if known.get(number) != kind:
        raise walker.broken(f"field {number} of a {where}, which the format does not have")


def _once(walker: Walker, where: str, number: int, seen: set[int], single: set[int]) -> None:
    if number in single and number in seen:
        raise walker.broken(f"field {number} of a {where} twice: two files, one after the other?")
    seen.add(number)


def _note(walker: Walker, span: Span, metadata: dict[str, str]) -> None:
    texts = {1: "", 2: ""}
    seen: set[int] = set()
    for part in walker.fields(span):
        _expect(walker, "note", part.number, part.kind, {1: BYTES, 2: BYTES})
        _once(walker, "note", part.number, seen, {1, 2})
        texts[part.number] = walker.text(part.span, _LONGEST_NOTE)
    if texts[1] in metadata:
        raise walker.broken(f"the note {printable(texts[1])} is there twice")
    if len(metadata) >= _MOST_NOTES:
        raise walker.broken(f"more than {_MOST_NOTES} notes")
    metadata[texts[1]] = texts[2]


def _graph(walker: Walker, span: Span, found: _Found) -> None:
    seen: set[int] = set()
    for part in walker.fields(span):
        _expect(walker, "graph", part.number, part.kind, _GRAPH)
        _once(walker, "graph", part.number, seen, _GRAPH_ONCE)
        if part.number == _SPARSE:
            raise InputError("a sparse initialiser, which no other format has", walker.file.path)
        if part.number == _NODES:
            found.inner.node(walker, part.span)
        elif part.number == _INITIALIZERS:
            tensor = parse_tensor(walker, part.span)
            if not tensor.name:
                raise walker.broken("an initialiser without a name")
            if tensor.name in found.tensors:
                raise walker.broken(f"two initialisers are called {printable(tensor.name)}")
            if len(found.tensors) == MOST_TENSORS:
                raise walker.broken(f"more than {MOST_TENSORS} initialisers")
            found.tensors[tensor.name] = tensor


def _constant(
    walker: Walker, name: str, constant: Constant, files: dict[str, InputFile]
) -> LazyTensor:
    """Return what a Constant node makes, which may have a field of its own for few numbers."""
    if constant.array is not None:
        return LazyTensor.of(constant.array)
    assert constant.span is not None
    tensor = parse_tensor(walker, constant.span)
    tensor.name = name
    return locate(walker, tensor, files)


_TENSOR = {2: VARINT, 3: BYTES, 6: BYTES, 8: BYTES, 9: BYTES, 12: BYTES, 13: BYTES}
_TENSOR |= {14: VARINT, 16: BYTES}
# Packed, or one by one: a reader of protobuf passes over a field of another kind in silence.
_REPEATED = {1: (BYTES, VARINT), 4: (BYTES, FIXED32), 5: (BYTES, VARINT), 7: (BYTES, VARINT)}
_REPEATED |= {10: (BYTES, FIXED64), 11: (BYTES, VARINT)}
_TENSOR_ONCE = {2, 8, 9, 12, 14}


def parse_tensor(walker: Walker, span: Span) -> Tensor:
    """Return the TensorProto that fills `span`."""
    tensor = Tensor()
    dims: list[int] = []
    code = 0
    seen: set[int] = set()
    for part in walker.fields(span):
        if part.kind not in _REPEATED.get(part.number, ()):
            _expect(walker, "tensor", part.number, part.kind, _TENSOR)
        _once(walker, "tensor", part.number, seen, _TENSOR_ONCE)
        if part.number == 1:
            packed = walker.bytes(part.span, 4096)  # A single number has no span.
            dims += map(signed, unpacked(packed) if part.kind == BYTES else (part.value,))
            if len(dims) > 64:
                raise walker.broken("a tensor of more than 64 dimensions")
        elif part.number == 2:
            code = part.value
        elif part.number in (3, 6):
            what = "in segments" if part.number == 3 else "of text"
            raise InputError(f"an initialiser {what}, which porter does not read", walker.file.path)
        elif part.number == 8:
            tensor.name = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 9 or part.number in _REPEATED:
            tensor.data.append((part.number, part))
        elif part.number == 13:
            _entry(walker, part.span, tensor)
        elif part.number == 14:
            tensor.outside = bool(part.value)
    _describe(walker, tensor, code, dims)
    return tensor


def _describe(walker: Walker, tensor: Tensor, code: int, dims: list[int]) -> None:
    name = printable(tensor.name)
    if code not in _BY_CODE:
        why = _UNFIT.get(code, f"of type {code}")
        raise InputError(f"{name} is {why}, which porter does not read", walker.file.path)
    if any(n < 0 for n in dims) or prod(max(n, 1) for n in dims) > MOST_ELEMENTS:
        raise walker.broken(f"{name} has the shape {dims}")
    tensor.dtype, tensor.shape = _BY_CODE[code], tuple(dims)


def _entry(walker: Walker, span: Span, tensor: Tensor) -> None:
    """Note one entry of external_data; only those that the format describes may come."""
    entry: dict[str, str] = {}
    _note(walker, span, entry)
    ((key, value),) = entry.items()
    if key in tensor.place:
        raise walker.broken(f"{key} of external data is there twice")
    if key not in ("location", "offset", "length", "checksum"):
        raise walker.broken(f"external data has no {printable(key)}")
    tensor.place[key] = os.fspath(value)
