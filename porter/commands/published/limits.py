"""What a verdict on the classes of two packages allows, by what is known of them."""

from __future__ import annotations

from dataclasses import replace

from porter.verification.checks import EXACT, Check
from porter.verification.judge import concluded
from porter.verification.verdict import Verdict

CLOSE = 1e-8
"""Largest error of two float64 runs of one network: at most 5e-11 was seen. SLANet had 5e-7 where a
matrix of its attention was transposed, which seeded weights hardly show."""


def judged_closely(verdict: Verdict) -> Verdict:
    """Return the verdict with the limit of two models that differ by known causes only.

    With the same behaviour on both sides what is left in float64 is the epsilon of Paddle's batch
    norms, which it keeps in float32: 1e-13 to 1e-11 of the outputs.
    """
    if not verdict.passed:
        return verdict
    return concluded(replace(verdict, checks=tuple(map(_closely, verdict.checks))))


def _closely(check: Check) -> Check:
    if check.precision != EXACT:
        return check
    error = check.right.error
    problem = f"error {error:.1e} is over the limit {CLOSE:.1e}" if error > CLOSE else ""
    return replace(check, limit=CLOSE, problem=problem)


def judged_exactly(verdict: Verdict) -> Verdict:
    """Leave out float32 where float64 was compared: of a detector, near rows change places.

    A detector takes the 300 best of its encoder's scores. In float32 scores that are closer than
    rounding change places, and with them rows of the outputs.
    """
    exact = tuple(check for check in verdict.checks if check.precision == EXACT)
    if not exact or all(check.passed for check in verdict.checks):
        return verdict
    good = all(check.passed for check in exact)
    return concluded(
        replace(
            verdict, checks=exact, story="" if good else verdict.story,
            findings=() if good else verdict.findings,
            skipped=(*verdict.skipped, "outputs in float32: near scores change places there"),
        )
    )  # fmt: skip
