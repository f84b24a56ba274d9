"""Weights in Constant nodes, where paddle2onnx stores all of them."""

from __future__ import annotations

from collections.abc import Iterator

from porter.codecs.onnx import weights as onnx_weights
from porter.codecs.onnx.elements import locate
from porter.codecs.protobuf import BYTES, Span, Walker
from porter.storage.input_file import InputFile
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

_LONGEST_TEXT = 1 << 20


def weights(path: str) -> StateDict:
    """Return a model's initialisers and, by the names of the values that they make, the
    floating tensors of more than one element in its Constant nodes."""
    file = InputFile(path)
    found = onnx_weights.initializers(file)
    both = dict(found)
    for name, tensor in _constants(file):
        if tensor.dtype.is_float and tensor.size > 1:
            both.setdefault(name, tensor)
    return StateDict(both, found.origin)


def _constants(file: InputFile) -> Iterator[tuple[str, LazyTensor]]:
    walker = Walker(file)
    for top in walker.fields(Span(0, file.size)):
        if top.number == 7:
            for part in walker.fields(top.span):
                if part.number == 1:
                    yield from _constant(walker, part.span)


def _constant(walker: Walker, span: Span) -> Iterator[tuple[str, LazyTensor]]:
    """Yield the tensor of a node, if it is a Constant node with one."""
    name = op = ""
    attributes: list[Span] = []
    for part in walker.fields(span):
        if part.number == 2:
            name = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 4:
            op = walker.text(part.span, _LONGEST_TEXT)
        elif part.number == 5 and part.kind == BYTES:
            attributes.append(part.span)
    if op != "Constant":
        return
    for attribute in attributes:
        for part in walker.fields(attribute):
            if part.number == 5 and part.kind == BYTES:
                tensor = onnx_weights.parse_tensor(walker, part.span)
                yield name, locate(walker, tensor, {})
