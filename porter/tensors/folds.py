"""Folds: what a model has in several parts that are one layer when it infers.

A fold computes, so it has no inverse: float64, rounded once to the source's dtype. With
s = γ / √(σ² + 1e-5) of a batch norm γ, β, μ, σ², and the convolutions' kernels as they are stored:

    rep_dw             b₂(b₁(K∗x) + k₁·x + x), depthwise:
                       K' = s₂·(s₁·K + (k₁ + 1) at the centre),  b' = β₂ + s₂·(β₁ − μ₁·s₁ − μ₂)
    dilated k          the sum of a depthwise k × k convolution and its dilated branches, each with
                       a norm: K' = Σ s·K, each branch spread by its dilation,  b' = Σ (β − μ·s)
    dilated_dense k    that one (D, d), then a 1 × 1 convolution P, then a norm:
                       K'[o,i] = s_o·P[o,i]·D[i],  b' = β + s·(P·d − μ)
    scaled L S [1]     S·(W x + b) of a linear layer L, S one factor an output, or one with `1`:
                       W' = S·W,  b' = S·b
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from porter.errors import TableError, printable
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.operations import ShapeError

EPSILON = 1e-5
"""Of every batch norm that is folded."""
NORM = ("weight", "bias", "_mean", "_variance")
"""γ, β, μ, σ² as Paddle calls them."""
BRANCHES: Mapping[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
}
"""{kernel of the origin: (kernel, dilation) of its branches}"""
_Parts = Mapping[str, Array]


class Fold(NamedTuple):
    """A fold: the tensors below a module that become one layer's weight and bias."""

    text: str
    parts: tuple[str, ...]
    """Names of its tensors, below the module."""
    shapes: Callable[[Shape], tuple[Shape, ...]]
    """The parts' shapes for the weight's."""
    weight_shape: Callable[[Mapping[str, Shape]], Shape]
    compute: Callable[[_Parts], tuple[Array, Array]]
    """Weight (out, in / groups, k, k), or (out, in), and bias (out) in float64."""
    rank: int = 4
    """Axes of the weight."""

    def part_shapes(self, weight: Shape) -> list[Shape]:
        """Return the parts' shapes for the weight's; `ShapeError` where it has another rank."""
        if len(weight) != self.rank:
            raise ShapeError(f"{self.rank} axes expected")
        return list(self.shapes(weight))

    def shapes_of(self, parts: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of weight and bias; `ShapeError` where the parts do not fit."""
        weight = self.weight_shape(dict(zip(self.parts, parts, strict=True)))
        expected = self.part_shapes(weight)
        for name, shape, wanted in zip(self.parts, parts, expected, strict=True):
            if shape != wanted:
                raise ShapeError(f"{name} must be {list(wanted)}, not {list(shape)}")
        return [weight, weight[:1]]

    def apply(self, tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
        """Return weight and bias, still unread; each read computes both."""
        dtype = tensors[0].dtype
        shapes = self.shapes_of([tensor.shape for tensor in tensors])

        def read(index: int) -> Array:
            arrays = [tensor.read().astype(np.float64) for tensor in tensors]
            folded = self.compute(dict(zip(self.parts, arrays, strict=True)))
            return folded[index].astype(dtype.numpy)

        return [
            LazyTensor(dtype, shapes[0], lambda: read(0)),
            LazyTensor(dtype, shapes[1], lambda: read(1)),
        ]

    def __str__(self) -> str:
        return f"fold {self.text}"


def parse(text: str, sizes: Mapping[str, int]) -> Fold:
    """Read a fold as a table writes it: `rep_dw`, `dilated 7`, `scaled mlp.fc2 gamma_2`.

    The number may be one of `sizes`.
    """
    verb, *words = text.split()
    if verb == "rep_dw" and not words:
        return _REP_DW
    if verb == "scaled" and (len(words) == 2 or words[2:] == ["1"]):
        return _scaled(text, words[0], words[1], single=len(words) == 3)
    if verb in ("dilated", "dilated_dense") and len(words) == 1:
        kernel = int(words[0]) if words[0].isdecimal() else sizes.get(words[0], 0)
        if kernel not in BRANCHES:
            known = ", ".join(map(str, BRANCHES))
            raise TableError(f"fold {printable(text)!r}: the kernel must be one of {known}")
        return _dilated(text, kernel) if verb == "dilated" else _dilated_dense(text, kernel)
    raise TableError(
        f"fold {printable(text)!r} is unknown; write `rep_dw`, `dilated K`, `dilated_dense K` or"
        " `scaled LAYER SCALE`"
    )


def _norm(parts: _Parts, name: str) -> tuple[Array, Array, Array]:
    """Return s, β and μ of a batch norm."""
    gamma, beta, mean, variance = (parts[f"{name}.{leaf}"] for leaf in NORM)
    return gamma / np.sqrt(variance + EPSILON), beta, mean


def _names(conv: str, norm: str) -> tuple[str, ...]:
    return (f"{conv}.weight", *(f"{norm}.{leaf}" for leaf in NORM))


def _along(scale: Array) -> Array:
    """Return one factor an output channel, to multiply a kernel."""
    return scale[:, None, None, None]


def _rep_dw(parts: _Parts) -> tuple[Array, Array]:
    scale, beta, mean = _norm(parts, "conv.bn")
    outer, outer_beta, outer_mean = _norm(parts, "bn")
    kernel = _along(scale) * parts["conv.conv.weight"]
    centre = kernel.shape[2] // 2
    kernel[:, :, centre, centre] += parts["conv1.weight"][:, :, 0, 0] + 1
    return _along(outer) * kernel, outer_beta + outer * (beta - mean * scale - outer_mean)


_REP_DW = Fold(
    "rep_dw",
    (*_names("conv.conv", "conv.bn"), "conv1.weight", *_names("", "bn")[1:]),
    lambda weight: (
        weight, *(weight[:1],) * 4, (*weight[:2], 1, 1), *(weight[:1],) * 4
    ),
    lambda shapes: shapes["conv.conv.weight"],
    _rep_dw,
)  # fmt: skip


def _scaled(text: str, layer: str, scale: str, *, single: bool) -> Fold:
    names = (f"{layer}.weight", f"{layer}.bias", scale)

    def compute(parts: _Parts) -> tuple[Array, Array]:
        weight, bias, factors = (parts[name] for name in names)
        return factors[:, None] * weight, factors * bias

    return Fold(
        text, names,
        lambda weight: (weight, weight[:1], (1,) if single else weight[:1]),
        lambda shapes: shapes[names[0]],
        compute,
        rank=2,
    )  # fmt: skip


def _branches(kernel: int) -> list[tuple[str, str, int, int]]:
    """Return (convolution, norm, kernel, dilation) of the origin and of its branches."""
    return [
        ("lk_origin", "origin_bn", kernel, 1),
        *((f"dil_conv_k{k}_{d}", f"dil_bn_k{k}_{d}", k, d) for k, d in BRANCHES[kernel]),
    ]


def _dilated(text: str, kernel: int) -> Fold:
    branches = _branches(kernel)

    def compute(parts: _Parts) -> tuple[Array, Array]:
        folded = np.zeros(parts["lk_origin.weight"].shape)
        bias = np.zeros(len(folded))
        for conv, norm, size, dilation in branches:
            scale, beta, mean = _norm(parts, norm)
            start = kernel // 2 - dilation * (size // 2)
            taps = slice(start, start + dilation * (size - 1) + 1, dilation)
            folded[:, :, taps, taps] += _along(scale) * parts[f"{conv}.weight"]
            bias += beta - mean * scale
        return folded, bias

    def shapes(weight: Shape) -> tuple[Shape, ...]:
        if weight[2:] != (kernel, kernel):
            raise ShapeError(f"a kernel of {kernel} by {kernel} expected")
        return tuple(
            shape
            for _, _, size, _ in branches
            for shape in ((*weight[:2], size, size), *(weight[:1],) * 4)
        )

    names = tuple(name for conv, norm, _, _ in branches for name in _names(conv, norm))
    return Fold(text, names, shapes, lambda parts: parts["lk_origin.weight"], compute)


def _dilated_dense(text: str, kernel: int) -> Fold:
    depthwise = _dilated(text, kernel)

    def compute(parts: _Parts) -> tuple[Array, Array]:
        kernels, offsets = depthwise.compute({n: parts[f"dw.{n}"] for n in depthwise.parts})
        scale, beta, mean = _norm(parts, "bn")
        mixed = parts["pw.weight"][:, :, 0, 0]
        folded = (scale[:, None] * mixed)[:, :, None, None] * kernels[:, 0]
        return folded, beta + scale * (mixed @ offsets - mean)

    def shapes(weight: Shape) -> tuple[Shape, ...]:
        out, into = weight[:2]
        spread = depthwise.shapes((into, 1, *weight[2:]))
        return (*spread, (out, into, 1, 1), *((out,),) * 4)

    def weight_shape(parts: Mapping[str, Shape]) -> Shape:
        return (*parts["pw.weight"][:2], *parts["dw.lk_origin.weight"][2:])

    names = (*(f"dw.{name}" for name in depthwise.parts), *_names("pw", "bn"))
    return Fold(text, names, shapes, weight_shape, compute)
