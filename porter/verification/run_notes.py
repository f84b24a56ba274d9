"""The notes of a verdict on how its sides ran: kernels, rounded weights, runs left out."""

from __future__ import annotations

from dataclasses import replace

from porter.verification.checks import EXACT
from porter.verification.sides.pair import Pair
from porter.verification.sides.side import Can
from porter.verification.verdict import Verdict


def with_run_notes(verdict: Verdict, pair: Pair) -> Verdict:
    """Add the settings of kernels, the rounding of weights, and the run that was left out."""
    notes, skipped = list(verdict.notes), list(verdict.skipped)
    if pair.left.rounded is not None:
        notes.append(
            f"the left side's weights were rounded to {pair.left.rounded}, as the right side's"
            " are: the verdict is on the port, not on the rounding"
        )
    notes.append(_kernels(pair))
    if any(Can.RUN in s.can and s.prepared.probabilities for s in (pair.left, pair.right)):
        notes.append("a side gives probabilities: the other's scores were put through a softmax")
    if EXACT not in pair.right.trace.outputs:
        skipped.append("float64 against float64: the right side has no run in float64")
    return replace(verdict, notes=tuple(notes), skipped=tuple(skipped))


def _kernels(pair: Pair) -> str:
    """Return the settings of the kernels, and the side of which they are not known."""
    tf32 = "off"
    if pair.precision == "tf32":
        tf32 = "on in the right side's run in tf32 and off in every other"
    # A custom model, which has no dialect, was recorded in the user's own process.
    foreign = [
        name
        for name, side in (("left", pair.left.report), ("right", pair.right.report))
        if side.recorded and not side.dialect
    ]
    unknown = f" (unknown for the {foreign[0]} side, a custom model)" if foreign else ""
    return f"TF32 is {tf32}; kernels are deterministic{unknown}"
