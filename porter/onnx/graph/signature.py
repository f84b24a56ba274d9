"""What an ONNX model of pictures takes and gives: classes, image size, batch, floating type."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from porter.errors import UsageError, listed, printable
from porter.onnx.graph.constants import weights as weights_of
from porter.onnx.graph.parse import parse
from porter.onnx.graph.values import Graph
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives."""

    num_classes: int
    image_size: int
    """Pixels."""
    batch: int | None
    """None: any."""
    dtype: str
    """Element type of most of the weights' bytes."""
    names: tuple[str, ...]
    """Names of its weights."""

    def features(self, architecture: Architecture) -> tuple[str, ...]:
        """Return the optional parts of which it has a weight."""
        known = architecture.skeleton().features
        return tuple(f for f, rows in known.items() if any(e.name in self.names for e in rows))


def signature(path: str | os.PathLike[str], image_size: int) -> Signature:
    """Return what an ONNX file takes and gives; `UsageError` unless it is pictures and scores.

    `image_size`, in pixels, is that of a graph which leaves it open.
    """
    name = os.fspath(path)
    with InputFile(name) as file:
        graph = parse(file).graph
    return signature_of(graph, weights_of(name), name, image_size)


def signature_of(graph: Graph, weights: StateDict, path: str, image_size: int) -> Signature:
    """Return the same of a graph and the weights in its file."""
    images = [value for value in graph.inputs if value.name not in weights]
    if len(images) != 1 or len(images[0].dims) != 4:
        names = listed(value.name for value in images)
        raise UsageError(f"takes {names or 'nothing'}, not one picture", path)
    batch, _, *sides = images[0].dims
    height, width = (side if isinstance(side, int) and side > 0 else image_size for side in sides)
    if height != width:
        raise UsageError(f"takes pictures of {height} × {width}, not of one square size", path)
    dims = graph.outputs[0].dims if graph.outputs else ()
    if len(dims) != 2 or not isinstance(dims[1], int):
        shown = printable(list(dims))
        raise UsageError(f"gives {shown}, not scores of a known number of classes", path)
    sizes: Counter[str] = Counter()
    for tensor in weights.values():
        if tensor.dtype.is_float:
            sizes[tensor.dtype.name] += tensor.nbytes
    frozen = batch if isinstance(batch, int) and batch > 0 else None
    dtype = sizes.most_common(1)[0][0] if sizes else "float32"
    return Signature(dims[1], height, frozen, dtype, tuple(weights))
