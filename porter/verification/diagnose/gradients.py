"""Gradients of both sides, and their weights after one optimiser step, by canonical name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape
from porter.verification import tolerance
from porter.verification.checks import Check
from porter.verification.compare import Figures, compare

RATE = 1e-3
"""Learning rate of the one AdamW step (betas 0.9 and 0.999, eps 1e-3, weight decay 0.01)."""


def task(inputs: Array, shape: Shape) -> dict[str, Array]:
    """Return the input and the fixed projection whose product with the outputs is derived.

    `shape` is that of the outputs: (batch, classes), or with positions or pixels.
    """
    drawn = np.random.default_rng(len(inputs)).standard_normal(shape)
    return {"input": inputs, "projection": drawn.astype(np.float32)}


def judge_gradients(left: Mapping[str, Array], right: Mapping[str, Array]) -> tuple[Check, ...]:
    """Compare the float64 gradients of every parameter.

    One whose gradient is zero but for rounding (a key's bias before a softmax) is compared with
    the size of the largest gradient instead of its own.
    """
    largest = max((float(np.abs(a).max(initial=0.0)) for a in left.values()), default=0.0)
    return tuple(
        _check("gradient", name, _figures(left.get(name), right.get(name), largest))
        for name in dict.fromkeys([*left, *right])
    )


def judge_step(
    before: Mapping[str, Array], left: Mapping[str, Array], right: Mapping[str, Array]
) -> tuple[Check, ...]:
    """Compare how far one optimiser step moved every parameter, in float64."""
    moved = [{n: a - before[n] for n, a in side.items() if n in before} for side in (left, right)]
    return tuple(
        _check("train step", name, _figures(moved[0].get(name), moved[1].get(name), RATE))
        for name in dict.fromkeys([*left, *right])
    )


def _figures(left: Array | None, right: Array | None, scale: float) -> Figures:
    found = compare(right, left)
    tiny = left is not None and np.abs(left).max(initial=0.0) <= _TINY * scale
    if not tiny or left is None or right is None or left.shape != right.shape or not scale:
        return found
    error = float(np.abs(right - left).max(initial=0.0) / scale)
    return Figures(left.shape, error, error * scale, error * scale, error, 1.0, 0.0)


_TINY = 1e-9


def _check(case: str, name: str, figures: Figures) -> Check:
    limit = tolerance.LIMIT_DERIVED
    problem = figures.problem
    if not problem and not figures.error <= limit:
        problem = f"error {figures.error:.1e} is over the limit {limit:.1e}"
    return Check(case, name, "float64", None, figures, limit, problem)
