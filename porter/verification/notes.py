"""What a verdict says of how its sides ran: kernels, rounding, runs that there were none of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from porter.verification.checks import EXACT
from porter.verification.verdict import Verdict

if TYPE_CHECKING:
    from porter.verification.diagnose.deep import Pair


def noted(verdict: Verdict, pair: Pair) -> Verdict:
    """Add what was asked of kernels and weights, and which run there was none of."""
    notes, skipped = list(verdict.notes), list(verdict.skipped)
    rounded = pair.left_live.rounded if pair.left_live is not None else None
    if rounded is not None:
        notes.append(
            f"the left side's weights were rounded to {rounded}, as the right side's are:"
            " what is judged is the port, not the rounding"
        )
    notes.append(_kernels(pair))
    if EXACT not in pair.right.outputs:
        skipped.append("float64 against float64: the right side has no run in float64")
    return replace(verdict, notes=tuple(notes), skipped=tuple(skipped))


def _kernels(pair: Pair) -> str:
    """Say what was asked of the kernels, and of which side that cannot be said."""
    tf32 = "off"
    if pair.precision == "tf32":
        tf32 = "on in the right side's run in tf32 and off in every other"
    said = f"TF32 is {tf32}; kernels are deterministic"
    # A live model of the user's own, which has no dialect, ran in a process of his own.
    foreign = [
        who for who, side in (("left", pair.left.report), ("right", pair.right.report))
        if side.recorded and not side.dialect
    ]  # fmt: skip
    return said + (f" (not known of the {foreign[0]} side, a model of your own)" if foreign else "")
