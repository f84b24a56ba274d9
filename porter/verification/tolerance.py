"""How large an error may be: floors of the element types, limits, presets.

The derivation is in docs/verification.md.
"""

from __future__ import annotations

from dataclasses import dataclass

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Largest relative error of one rounding to nearest."""

GAIN = 32.0
"""Units of roundoff that a sound network may show at its output; see the derivation."""

FACTOR = 8.0
"""How many times the source's error the target's may be."""

COARSE = ("tf32", "float16", "bfloat16")
"""Precisions whose sums are kept in float32: only operands and results are rounded."""

COARSE_GAIN = 16.0
COARSE_FACTOR = 2.0
"""The same for coarse precisions: in units of roundoff, their errors are smaller than float32's."""


FLOAT32_CONSTANTS = 2.0**-38
"""Error of a float64 run from constants that a framework keeps in float32.

Paddle's kernels take eps as a float32 (off by 2^-24); it enters a norm as eps / 2(var + eps), at
most 2^-14 for eps 1e-5 and variances above 0.08.
"""


def roundoff(dtype: str) -> float:
    """Return the largest relative error of rounding to an element type, by its name."""
    return UNIT_ROUNDOFF[dtype] if dtype in UNIT_ROUNDOFF else 2.0 ** -(_mantissa(dtype) + 1)


def _mantissa(dtype: str) -> int:
    """Return the stored bits of a float8's mantissa, from its name: `float8_e4m3fn`."""
    return int(dtype.partition("_e")[2].partition("m")[2][:1])


def floor(precision: str) -> float:
    """Return the error below which two correct ports cannot be distinguished."""
    return (COARSE_GAIN if precision in COARSE else GAIN) * UNIT_ROUNDOFF[precision]


def limit(precision: str, own_error: float) -> float:
    """Return the largest error that passes at a precision.

    `own_error` is the source's in float32: it measures how much the network amplifies rounding,
    and scales with the unit roundoff of the precision.
    """
    ratio = UNIT_ROUNDOFF[precision] / UNIT_ROUNDOFF["float32"]
    own = own_error * ratio if own_error == own_error else 0.0  # NaN fails elsewhere
    return (COARSE_FACTOR if precision in COARSE else FACTOR) * max(own, floor(precision))


def limit_exact(own_error: float) -> float:
    """Return the largest difference of two float64 runs that passes."""
    return max(limit("float64", own_error), FACTOR * GAIN * FLOAT32_CONSTANTS)


def limit_isolated(precision: str, own_error: float) -> float:
    """Return the largest error of one module that is run with the other side's arguments.

    A single module rounds only a few times, so its float32 error is nearly the whole error.
    """
    ratio = UNIT_ROUNDOFF[precision] / UNIT_ROUNDOFF["float32"]
    return FACTOR * max(own_error * ratio, 2 * UNIT_ROUNDOFF[precision])


LIMIT_DERIVED = limit("float32", 0.0)
"""Largest difference of float64 gradients: frameworks multiply them by float32 constants.

Paddle's backward pass of adaptive pooling, for one, scales by a float32 1/9.
"""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named protocol: the inputs, and what its readers ask for."""

    name: str
    seeds: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    asked: float | None = None
    """Largest difference of the float32 runs that is asked for: printed, not judged.

    A sound port of a network with large activations exceeds it, as does the source in float32.
    """


PRESETS = {
    "default": Preset("default", (0,), (1, 2)),
    "strict": Preset("strict", tuple(range(5)), (1, 4)),
    "paddleclas": Preset("paddleclas", tuple(range(5)), (1, 4), asked=1e-4),
}
