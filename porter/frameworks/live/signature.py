"""Recognise an activation by figures that do not depend on the order of its elements.

(N, C, H, W) on one side is (N, H, W, C) or (N, H·W, C) on the other: the figures are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from porter.tensors.blocks import Array

Signature = tuple[float, ...]
SAME = 2e-4
"""Figures that differ by less, relative to the largest, are those of one activation."""


def signature(array: Array) -> Signature:
    """Return the number of elements, and means of powers, with and without sign, and extremes."""
    if not array.size:
        return (0.0,) * 7
    x = array.astype(np.float64, copy=False).reshape(-1)
    size = np.abs(x)
    with np.errstate(all="ignore"):
        return (
            float(x.size), float(np.sqrt(np.mean(x * x))), float(x.mean()), float(size.mean()),
            float(np.sqrt(np.abs(np.mean(x * size)))), float(x.max()), float(x.min()),
        )  # fmt: skip


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how far two signatures are apart, relative to the rms; infinite for other sizes.

    One may repeat the other: positions are given once, or once for each sequence. One may also be
    the other with zeros around it: a model may pad before its convolution.
    """
    few, many = sorted((one, other), key=lambda figures: figures[0])
    if few[0] == many[0]:
        return _apart(few, many)
    if few[0] < 2:
        return float("inf")
    ratio = many[0] / few[0]
    padded = (few[0], many[1] * ratio**0.5, many[2] * ratio, many[3] * ratio,
              many[4] * ratio**0.5, many[5], many[6])  # fmt: skip
    around = _apart((*few[:5], max(few[5], 0.0), min(few[6], 0.0)), padded)
    return min(around, _apart(few, many) if ratio.is_integer() else float("inf"))


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    scale = max(one[1], other[1], 1e-12)
    far = max(abs(a - b) for a, b in zip(one[1:5], other[1:5], strict=True)) / scale
    peak = max(abs(one[5]), abs(one[6]), scale)
    ends = max(abs(a - b) for a, b in zip(one[5:], other[5:], strict=True)) / peak
    found = max(far, ends)
    return found if found == found else float("inf")
