"""What an ONNX model of pictures takes and gives: classes, image size, batch, floating type."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from porter.codecs.onnx.transposed import stored_name
from porter.errors import UsageError, listed, printable
from porter.onnx.graph.constants import weights as weights_of
from porter.onnx.graph.parse import parse
from porter.onnx.graph.values import UINT8, Graph
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import shown

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits")
"""Operations at the borders between the numbers of a quantised model and others."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives."""

    num_classes: int
    sides: tuple[int, int]
    """Height and width of the pictures, in pixels."""
    batch: int | None
    """None: any."""
    dtype: str
    """Element type of most of the weights' bytes."""
    names: tuple[str, ...]
    """Names of its weights."""
    quantised: bool = False
    """Whether it computes in 8 bits or fewer."""
    as_bytes: bool = False
    """Whether pictures are bytes, (batch, height, width, 3), not numbers (batch, 3, …)."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def check_sides(self, asked: tuple[int, int], path: str) -> None:
        """Raise `UsageError` where pictures of another height and width are asked for."""
        if asked != self.sides:
            raise UsageError(
                f"takes pictures of {shown(self.sides)} px, not of {shown(asked)}", path
            )

    def features(self, architecture: Architecture) -> tuple[str, ...]:
        """Return the optional parts of which it has a weight."""
        known = architecture.skeleton().features
        names = {*self.names, *(name.removesuffix(stored_name("")) for name in self.names)}
        return tuple(f for f, rows in known.items() if any(e.name in names for e in rows))


def signature(
    path: str | os.PathLike[str], sides: tuple[int, int], num_classes: int | None = None
) -> Signature:
    """Return what an ONNX file takes and gives; `UsageError` unless it is pictures and scores.

    `sides` are height and width (pixels) of the pictures: a graph that leaves them open takes
    these. `num_classes` is as for `signature_of`.
    """
    name = os.fspath(path)
    with InputFile(name) as file:
        model = parse(file)
    found = signature_of(model.graph, weights_of(name), name, sides, num_classes)
    return replace(found, metadata=model.metadata)


def open_sides(path: str | os.PathLike[str]) -> tuple[bool, bool]:
    """Return whether an ONNX file leaves height and width of its pictures open."""
    with InputFile(os.fspath(path)) as file:
        image = parse(file).graph.inputs[0]
    height, width = image.dims[1:3] if image.elem_type == UINT8 else image.dims[2:4]
    return not isinstance(height, int), not isinstance(width, int)


def signature_of(
    graph: Graph,
    weights: StateDict,
    path: str,
    sides: tuple[int, int],
    num_classes: int | None = None,
) -> Signature:
    """Return the same of a graph and the weights in its file.

    `num_classes` is that of a model whose weights do not depend on it; a graph may leave it open.
    """
    images = [value for value in graph.inputs if value.name not in weights]
    if len(images) != 1 or len(images[0].dims) != 4:
        names = listed(value.name for value in images)
        raise UsageError(f"takes {names or 'nothing'}, not one picture", path)
    as_bytes = images[0].elem_type == UINT8
    batch, *dims = images[0].dims
    dims = dims[:2] if as_bytes else dims[1:]
    height, width = (
        dim if isinstance(dim, int) and dim > 0 else side
        for dim, side in zip(dims, sides, strict=True)
    )
    if num_classes is None:
        num_classes = _classes(graph, path)
    sizes: Counter[str] = Counter()
    for tensor in weights.values():
        if tensor.dtype.is_float:
            sizes[tensor.dtype.name] += tensor.nbytes
    frozen = batch if isinstance(batch, int) and batch > 0 else None
    dtype = sizes.most_common(1)[0][0] if sizes else "float32"
    quantised = any(node.op in _QUANTISED for node in graph.nodes)
    size = height, width
    return Signature(num_classes, size, frozen, dtype, tuple(weights), quantised, as_bytes)


def _classes(graph: Graph, path: str) -> int:
    """Return the number of scores: (batch, classes), (batch, positions, classes) or
    (batch, classes, height, width)."""
    dims = graph.outputs[0].dims if graph.outputs else ()
    axis = {2: 1, 3: 2, 4: 1}.get(len(dims))
    count = dims[axis] if axis is not None else None
    if not isinstance(count, int):
        shown = printable(list(dims))
        raise UsageError(f"gives {shown}, not scores of a known number of classes", path)
    return count
