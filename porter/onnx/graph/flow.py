"""What computes in a graph: layers with their weights, and how they feed each other.

Two exporters write the same network differently: Linear as MatMul or Gemm, bias inside or after it,
GELU and LayerNorm whole or in pieces, weights transposed. Reduced, they are alike:

    layer     an operation on data: linear, conv, norm, matmul, add, Softmax, …
    slot      the place of a weight in it: `weight`, `bias`
    operand   which layer's output it reads, and which part of it (q of qkv, the class token)

Views (reshape, transpose), scalars (a scale before or after a product) and batch norms, which
exporters fold into what precedes them, are no layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from porter.onnx.graph.steps import Static
from porter.tensors.blocks import Array

Part = tuple[Fraction, Fraction, int]
"""(begin, length, step) of what is read of an axis, as shares of its size."""


@dataclass(frozen=True, slots=True)
class Data:
    """The output of a layer, or a part of it."""

    layer: int
    parts: tuple[Part, ...] = ()


@dataclass(slots=True)
class Layer:
    """One operation on data."""

    label: tuple[object, ...]
    operands: list[Data]
    slots: dict[str, Static] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    """Names of the nodes that it was made of."""
    ordered: bool = True
    epsilon: float | None = None
    """What a norm adds to the variance, where it is known."""


@dataclass(slots=True)
class Norm:
    """A batch norm after a layer."""

    data: Data
    slots: dict[str, Static]
    epsilon: float


@dataclass(slots=True)
class Flow:
    """A graph, reduced; layer 0 is the image."""

    layers: list[Layer]
    norms: list[Norm]
    scalars: dict[str, Array] = field(default_factory=dict)
    """Weights of one element, which a graph has as constants: {name: (1,)}."""

    def alive(self, results: Sequence[int]) -> Flow:
        """Return it without the layers that no result follows from.

        The nodes that a recognised pattern replaced are unused.
        """
        used, waiting = {0}, [*results, *(norm.data.layer for norm in self.norms)]
        while waiting:
            index = waiting.pop()
            if index not in used:
                used.add(index)
                waiting += [data.layer for data in self.layers[index].operands]
        place = {old: new for new, old in enumerate(sorted(used))}
        layers = [self.layers[old] for old in sorted(used)]
        for layer in layers:
            layer.operands = [replace(d, layer=place[d.layer]) for d in layer.operands]
        norms = [replace(n, data=replace(n.data, layer=place[n.data.layer])) for n in self.norms]
        return Flow(layers, norms, self.scalars)

    def above(self) -> list[str]:
        """Return for each layer what it computes, from the image on, as a digest."""
        found: list[str] = []
        for layer in self.layers:
            read = [f"{found[d.layer]}{d.parts}" for d in layer.operands]
            found.append(_digest(layer.label, read if layer.ordered else sorted(read)))
        return found

    def below(self) -> list[str]:
        """Return for each layer what becomes of its output, as a digest."""
        uses: list[list[tuple[int, str]]] = [[] for _ in self.layers]
        for index, layer in enumerate(self.layers):
            for place, data in enumerate(layer.operands):
                uses[data.layer].append((index, f"{place if layer.ordered else ''}{data.parts}"))
        found = [""] * len(self.layers)
        for index in range(len(self.layers) - 1, -1, -1):
            read = sorted(f"{found[user]}{how}" for user, how in uses[index])
            found[index] = _digest(self.layers[index].label, read)
        return found


def _digest(label: tuple[object, ...], read: list[str]) -> str:
    return hashlib.sha256(repr((label, read)).encode()).hexdigest()


def part_of(data: Data, begin: int, size: int, step: int, total: int) -> Data:
    """Return `size` of the `total` entries of an axis of `data`."""
    if size == total and step == 1:
        return data
    return Data(data.layer, (*data.parts, (Fraction(begin, total), Fraction(size, total), step)))


def common_parts(parts: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
    """Return what several readers of one layer have in common, before they part."""
    found: list[Part] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) != 1:
            break
        found.append(level[0])
    return tuple(found)
