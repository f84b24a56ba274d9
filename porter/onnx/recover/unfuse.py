"""Take fused linear layers apart: one `qkv` becomes the three layers that others write.

A graph with q, k and v as separate layers, as in transformers, then matches the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from porter.onnx.graph.flow import Data, Flow, Layer, Part
from porter.onnx.graph.steps import Static, Take


def apart(flow: Flow) -> Flow:
    """Return the flow with each linear layer cut into the equal parts that are read of it.

    That the parts are runs of its outputs is an assumption: what is recovered by it is proven.
    """
    cuts = {index: many for index in range(len(flow.layers)) if (many := _parts(flow, index)) > 1}
    layers: list[Layer] = []
    places: dict[int, int] = {}
    for index, layer in enumerate(flow.layers):
        places[index] = len(layers)
        operands = [_moved(data, places, cuts) for data in layer.operands]
        many = cuts.get(index, 1)
        for number in range(many):
            slots = {r: _cut(s, number, many) for r, s in layer.slots.items()}
            layers.append(replace(layer, label=_label(layer, many), operands=operands, slots=slots))
    norms = [replace(norm, data=_moved(norm.data, places, cuts)) for norm in flow.norms]
    return Flow(layers, norms, flow.scalars)


def _parts(flow: Flow, index: int) -> int:
    """Return into how many equal parts all readers of a linear layer cut it, 1 if they do not."""
    layer = flow.layers[index]
    if layer.label[0] != "linear":
        return 1
    read = [d.parts for user in flow.layers for d in user.operands if d.layer == index]
    first = {parts[0] if parts else None for parts in read}
    return len(first) if first == set(_equal_parts(len(first))) else 1


def _equal_parts(many: int) -> Sequence[Part]:
    return [(Fraction(number, many), Fraction(1, many), 1) for number in range(many)]


def _moved(data: Data, places: dict[int, int], cuts: dict[int, int]) -> Data:
    """Return where an operand is now."""
    many, place = cuts.get(data.layer, 1), places[data.layer]
    if many == 1:
        return replace(data, layer=place)
    return Data(place + int(data.parts[0][0] * many), data.parts[1:])


def _label(layer: Layer, many: int) -> tuple[object, ...]:
    if many == 1:
        return layer.label
    return "linear", _cut(layer.slots["weight"], 0, many).shape


def _cut(slot: Static, number: int, many: int) -> Static:
    """Return one of the equal parts of a weight or bias, along its outputs."""
    axis = len(slot.shape) - 1
    size = slot.shape[axis] // many
    if many == 1:
        return slot
    rows = np.arange(number * size, (number + 1) * size)
    return slot.then(Take(axis, rows, slot.shape[axis]))
