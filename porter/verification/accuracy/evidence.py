"""The evidence for a port: the verdicts of variants, and their accuracy on pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.verification.accuracy.measure import Evaluation
from porter.verification.checks import SINGLE, Check
from porter.verification.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Figures:
    """The classical figures of a verdict, the two float32 runs side against side."""

    cases: int
    rows: int
    """Inputs of all cases together."""
    max_abs: float
    mean_abs: float
    own: float
    """Largest difference of the source's float32 run from its own float64 run."""
    top1: float | None
    """Share of inputs with the same largest output; None where outputs are not class scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant; the evaluation is of the left and the right side, in this order."""

    verdict: Verdict
    evaluation: Evaluation | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks with classical figures."""
        return tuple(c for c in self.verdict.checks if c.direct is not None and c.left is not None)

    @property
    def figures(self) -> Figures | None:
        """The figures over all cases; None where the sides did not both run."""
        checks = [(c.left, c.direct) for c in self.checks]
        both = [(own, direct) for own, direct in checks if own is not None and direct is not None]
        if not both:
            return None
        sizes = [direct.shape[0] if direct.shape else 1 for _, direct in both]
        shares = [direct.top1 for _, direct in both]
        known = [share for share in shares if share is not None]
        return Figures(
            cases=len({check.case for check in self.checks}),
            rows=sum(sizes),
            max_abs=float(max(direct.max_abs for _, direct in both)),
            mean_abs=float(np.average([d.mean_abs for _, d in both], weights=sizes)),
            own=float(max(own.max_abs for own, _ in both)),
            top1=float(np.average(known, weights=sizes)) if len(known) == len(both) else None,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Variants in one table; it holds if every verdict passes."""

    rows: tuple[Row, ...]
    asked: float | None
    """Largest difference that the readers ask for; printed, not judged."""
    precision: str = SINGLE
    command: str = ""

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(row.verdict.passed for row in self.rows)

    @property
    def failed(self) -> bool:
        """Whether a verdict failed, not only could not be made."""
        return any(row.verdict.failed for row in self.rows)
