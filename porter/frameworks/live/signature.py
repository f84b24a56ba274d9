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
    """Return how far two signatures are apart, relative to the rms; infinite for other sizes."""
    if one[0] != other[0]:
        return float("inf")
    scale = max(one[1], other[1], 1e-12)
    far = max(abs(a - b) for a, b in zip(one[1:5], other[1:5], strict=True)) / scale
    peak = max(abs(one[5]), abs(one[6]), scale)
    ends = max(abs(a - b) for a, b in zip(one[5:], other[5:], strict=True)) / peak
    found = max(far, ends)
    return found if found == found else float("inf")
