"""Tensors that have the bytes of an untransposed view.

A writer that ignores strides stores the memory of a transposed view as it is, under the shape of
the view. `safetensors.numpy.save_file` does so up to 0.8 at least
(https://github.com/huggingface/safetensors/issues/825), and PaddleX's converter passes it the
transposed weight of every Linear (https://github.com/PaddlePaddle/PaddleX/issues/5202): names,
dtypes and shapes are right, and the file loads without a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor

VIEW = "has the bytes of an untransposed view"
VIEWS = "have the bytes of an untransposed view"
CAUSE = "the writer ignored strides, as safetensors#825 does"
REMEDY = f"{CAUSE}: `porter repair` restores it from the same bytes"
_MOST_AXES = 5
"""Of a tensor whose orders are tried: 119 besides its own."""
_FEW = 64
"""Elements that are compared before all are."""

Order = tuple[int, ...]
"""The axes of a tensor in the order in which its elements are stored, (1, 0) for a matrix."""


def stored_order(expected: Array, found: Array) -> Order | None:
    """Return the order of axes in which `found` stores the elements of `expected`.

    Both have the same shape and element type; elements are compared as bytes. None if it is no
    order but the right one, or none at all.
    """
    if expected.shape != found.shape or not 2 <= expected.ndim <= _MOST_AXES:
        return None
    word = np.dtype(f"u{expected.dtype.itemsize}")
    right, stored = expected.view(word), np.ascontiguousarray(found).view(word).ravel()
    few = stored[:_FEW]
    for order in list(permutations(range(expected.ndim)))[1:]:
        turned = right.transpose(order)
        if np.array_equal(turned.flat[:_FEW], few) and np.array_equal(turned.ravel(), stored):
            return order
    return None


def restored(tensor: LazyTensor, order: Order) -> LazyTensor:
    """Return the tensor whose elements are stored in another order of axes, still unread."""

    def read() -> Array:
        stored = tensor.read().reshape([tensor.shape[axis] for axis in order])
        return stored.transpose(np.argsort(order))

    return LazyTensor(tensor.dtype, tensor.shape, read)


def named(count: int, shapes: Sequence[Sequence[int]]) -> str:
    """Return what a number of such tensors is called: `48 Linear weights`."""
    kind = "Linear weight" if all(len(shape) == 2 for shape in shapes) else "tensor"
    return f"{count} {kind}" if count == 1 else f"{count} {kind}s"
