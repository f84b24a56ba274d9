"""How far a tensor's values are from the source's, where they are not a rearrangement of them.

Rounded, shifted, quantised, changed by a matrix of low rank, close everywhere: each has another
cause, and none of them means that the tensor was not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES

ROUNDINGS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
LIKENESS = 0.7
"""Correlation from which values are a copy that was trained on; unrelated ones have about 0."""
_FEW = 16
"""Elements below which a correlation says nothing."""
_VALUES = 8
"""Different values from which an equality after rounding is not a coincidence."""
_LEVELS = {16: "4 bits", 256: "8 bits"}
_GROUPS = (32, 64, 128)
"""Sizes of the groups of a row that share a scale, in common schemes of quantisation."""
_MOST_RANK = 64
CLOSE = "is close to the source's everywhere, not equal"


def degree(left: Array, right: Array) -> tuple[str, str] | None:
    """Return (how the right tensor differs from the left, remedy); None if it is unrelated."""
    x, y = left.astype(np.float64), right.astype(np.float64)
    for found in _degrees(x, y):
        return found
    return None


def rounded(left: Array, right: Array) -> tuple[str, str] | None:
    """Return the element type to which one side's values are the other's, rounded."""
    for name in ROUNDINGS:
        if _is_rounded(left, right, name):
            return (
                f"is rounded to {name}",
                "keep the source's element type, or round the source alike before comparing",
            )
        if _is_rounded(right, left, name):
            return f"is not rounded to {name} as the source's is", "compare files of one rounding"
    return None


def _is_rounded(exact: Array, other: Array, name: str) -> bool:
    """Whether a tensor is another one, rounded; many near 1 that all become 1 do not show it."""
    if not _same(_through(exact.ravel()[:64], name), other.ravel()[:64]):
        return False
    values = _through(exact, name)
    return _same(values, other) and len(np.unique(values)) >= min(_VALUES, values.size) > 1


def distance(left: Array, right: Array) -> float:
    """Return the norm of the difference by that of the left tensor; infinite for one of zeros."""
    x, y = (array.astype(np.float64).ravel() for array in (left, right))
    norm = float(np.linalg.norm(x))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(y - x)) / norm if norm else float("inf")


def _degrees(x: Array, y: Array) -> Iterator[tuple[str, str]]:
    if (shift := _shift(x, y)) is not None:
        yield f"is the source's plus {shift:.6g}", _shift_remedy(shift)
    if _likeness(x, y) < LIKENESS:
        return
    if (levels := _quantised(y)) and not _quantised(x):
        yield (
            f"is quantised: at most {levels} values in a group that shares a scale",
            f"compare with the unquantised checkpoint; {_LEVELS[levels]} are left of each value",
        )
    if (rank := _rank(y - x)) is not None:
        yield (
            f"differs by a matrix of rank {rank}",
            "a low-rank adapter (LoRA) is merged into one side only: merge it into both or neither",
        )
    if np.count_nonzero(x != y) >= x.size / 2:
        yield CLOSE, "it comes from another checkpoint of the same training: EMA, or fine-tuned"


def _through(array: Array, name: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(DTYPES[name].numpy).astype(np.float64)


def _same(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other.astype(np.float64), equal_nan=True))


def _shift(x: Array, y: Array) -> float | None:
    difference = y - x
    shift = float(difference.mean())
    noise = 1e-6 * float(np.abs(y).max(initial=0.0))
    if x.size < 2 or abs(shift) <= 10 * noise or float(np.ptp(x)) <= noise:
        return None
    return shift if float(np.abs(difference - shift).max()) <= noise else None


def _shift_remedy(shift: float) -> str:
    if abs(abs(shift) - 1) < 1e-6:
        side = "source" if shift > 0 else "target"
        return f"the {side}'s norm multiplies by 1 + weight: convert between the two conventions"
    return "do not shift it"


def _likeness(x: Array, y: Array) -> float:
    """Return the correlation of two tensors; of few elements, of the values as they are."""
    a, b = x.ravel(), y.ravel()
    if a.size >= _FEW:
        a, b = a - a.mean(), b - b.mean()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def _quantised(values: Array) -> int:
    """Return 16 or 256 if the rows, or the groups of each, have no more values; else 0."""
    rows = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
    for levels in _LEVELS:
        for size in (*_GROUPS, rows.shape[1]):
            if size <= 1.5 * levels or rows.shape[1] % size:
                continue
            groups = np.sort(rows.reshape(-1, size), axis=1)
            if int((np.diff(groups, axis=1) != 0).sum(axis=1).max()) < levels:
                return levels
    return 256 if _on_a_grid(rows) else 0


def _on_a_grid(rows: Array) -> bool:
    """Whether the values of each row are whole multiples of one step, 127 at most."""
    if rows.shape[1] < _FEW:
        return False
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    if not peaks.all():
        return False
    for most in (127.0, 128.0, 127.5):
        units = rows / peaks * most
        if float(np.abs(units - np.rint(units)).max()) < 1e-3:
            return True
    return False


def _rank(difference: Array) -> int | None:
    """Return the rank of a matrix, or of a kernel as one, if it is low; None if it is not.

    The matrix is projected on few random directions: a low rank shows in them, and the rest of
    the matrix is then zero.
    """
    if difference.ndim < 2:
        return None
    matrix = difference.reshape(len(difference), -1)
    most = min(_MOST_RANK, min(matrix.shape) // 4)
    if most < 1:
        return None
    directions = np.random.default_rng(0).standard_normal((matrix.shape[1], most + 8))
    basis, sizes, _ = np.linalg.svd(matrix @ directions, full_matrices=False)
    rank = int((sizes > 1e-4 * sizes[0]).sum()) if len(sizes) and sizes[0] else 0
    if not 1 <= rank <= most:
        return None
    kept = basis[:, :rank]
    rest = matrix - kept @ (kept.T @ matrix)
    return rank if np.linalg.norm(rest) <= 1e-3 * np.linalg.norm(matrix) else None
