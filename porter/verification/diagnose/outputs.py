"""Outputs that are a function of the other side's: one side ends with a softmax, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from porter.tensors.blocks import Array
from porter.verification.checks import EXACT, Check
from porter.verification.compare import compare
from porter.verification.diagnose.finding import Finding
from porter.verification.sides.pair import Pair

_ENOUGH = 1e-3
"""Share of the error that may be left where a function explains it."""
_SHARPEST = 1e-2
"""Largest error that may be left, whatever it was before."""


def relations(checks: tuple[Check, ...], pair: Pair) -> list[Finding]:
    """Name the function of the left side's output that the right side's is, once an output."""
    findings: dict[str, Finding] = {}
    for check in checks:
        if check.passed or check.output in findings or check.right.problem:
            continue
        key = f"{check.case}/{check.output}"
        left = pair.left.trace.outputs[EXACT].get(key)
        right = pair.right.trace.outputs[check.precision].get(key)
        if left is not None and right is not None and left.shape == right.shape:
            found = relation(left.astype(np.float64), right.astype(np.float64))
            if found is not None:
                what, remedy, after = found
                place = f"output {check.output}"
                findings[check.output] = Finding(place, what, remedy, check.right.error, after)
    return list(findings.values())


def relation(left: Array, right: Array) -> tuple[str, str, float] | None:
    """Return (what the right output is, remedy, error that is left); None for no such relation."""
    before = compare(right, left).error
    limit = min(_ENOUGH * before, _SHARPEST)
    for what, remedy, one, other in _guesses(left, right):
        after = compare(one, other).error
        if after <= limit:
            return what, remedy, after
    return None


def _guesses(left: Array, right: Array) -> Iterator[tuple[str, str, Array, Array]]:
    """Yield (what, remedy, two arrays that are then the same)."""
    for name, function in _FUNCTIONS.items():
        yield (
            f"is the {name} of the left's", f"return what comes before the {name}",
            right, function(left),
        )  # fmt: skip
        yield (
            f"is what comes before a {name} that the left has",
            f"compare before the {name}, or add it",
            function(right), left,
        )  # fmt: skip
    norm = float((left * left).sum())
    factor = float((left * right).sum()) / norm if norm else 0.0
    if factor:
        yield f"is {factor:.6g} times the left's", "do not scale it", right, factor * left
    if left.ndim == 2 and left.shape[1] > 1:
        order = np.empty(left.shape[1], np.int64)
        order[np.argsort(left[0])] = np.argsort(right[0])
        if not np.array_equal(order, np.arange(len(order))):
            yield (
                "has the left's entries in another order",
                "use one order of the classes: compare the lists of labels",
                right[:, order], left,
            )  # fmt: skip


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "log-softmax": _log_softmax,
    "sigmoid": _sigmoid,
}
