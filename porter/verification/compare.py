"""How far an array is from its reference, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.tensors.blocks import Array
from porter.tensors.lazy import Shape

_ALL_ZEROS = "the reference is all zeros: nothing to compare"
_SMALL = 1e-3
"""Elements below this share of the reference's rms are relative to that share (`max_rel`)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One array against its float64 reference; with a `problem` the numbers are NaN."""

    shape: Shape
    error: float = float("nan")
    """max |x - ref| / rms(ref): the figure that is judged."""
    max_abs: float = float("nan")
    mean_abs: float = float("nan")
    max_rel: float = float("nan")
    cosine: float = float("nan")
    snr_db: float = float("nan")
    """Signal to noise: 20 log10(rms(ref) / rms(x - ref)), infinite when they are equal."""
    top1: float | None = None
    """Share of rows with the same largest entry; None where rows are not class scores."""
    top5: float | None = None
    """Mean share of the reference's five largest entries that are among x's five largest."""
    problem: str = ""
    zero_reference: bool = False
    """Whether the problem is that the reference is all zeros, so that no error is defined."""


def compare(array: Array | None, reference: Array | None) -> Figures:
    """Compare two arrays; missing, empty, misshapen or NaN ones have a problem."""
    if array is None:
        return Figures((), problem="missing")
    if reference is None:
        return Figures(array.shape, problem="the reference lacks this output")
    if array.shape != reference.shape:
        return Figures(
            array.shape, problem=f"shape {list(array.shape)}, not {list(reference.shape)}"
        )
    if not array.size:
        return Figures(array.shape, problem="empty")
    x, ref = array.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    for values, prefix in ((ref, "the reference is"), (x, "")):
        if not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinite"
            return Figures(array.shape, problem=f"{prefix} {kind}".strip())
    rms = _rms(ref)
    if rms == 0:
        return Figures(array.shape, problem=_ALL_ZEROS, zero_reference=True)
    return _figures(x, ref, rms, array.shape)


def _figures(x: Array, ref: Array, rms: float, shape: Shape) -> Figures:
    difference = np.abs(x - ref)
    noise = _rms(difference)
    scale = np.maximum(np.abs(ref), _SMALL * rms)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(ref))
    rows = x.reshape(shape), ref.reshape(shape)
    scores = len(shape) == 2 and shape[1] > 1
    return Figures(
        shape=shape,
        error=float(difference.max() / rms),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        max_rel=float((difference / scale).max()),
        cosine=float(x @ ref / lengths) if lengths else 0.0,
        snr_db=float(20 * np.log10(rms / noise)) if noise else float("inf"),
        top1=float((rows[0].argmax(1) == rows[1].argmax(1)).mean()) if scores else None,
        top5=_top(5, *rows) if scores and shape[1] > 5 else None,
    )


def _rms(values: Array) -> float:
    peak = float(np.abs(values).max())
    return peak * float(np.sqrt(np.mean((values / peak) ** 2))) if peak else 0.0


def _top(count: int, x: Array, ref: Array) -> float:
    best = [np.argpartition(-values, count - 1, axis=1)[:, :count] for values in (x, ref)]
    return float(
        np.mean([len(set(a) & set(b)) / count for a, b in zip(best[0], best[1], strict=True)])
    )
