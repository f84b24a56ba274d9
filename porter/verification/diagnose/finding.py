"""Likely faults, each with the place, the remedy and what proves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from porter.mapping.fold import fold
from porter.verification.diagnose.strided_views import VIEW, VIEWS

WHOLE = "the model"
"""The place of a fault between modules."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One likely fault."""

    place: str
    """Canonical name of a tensor or path of a module, layers folded; `the model` as a whole."""
    what: str
    """The fault, as a clause: `matches when transposed`, `has eps 1e-05, not 1e-06`."""
    remedy: str
    before: float | None = None
    """Error of the module as it is; None where values were compared, not outputs."""
    after: float | None = None
    """Error once the reference is given the same fault: what proves the finding."""
    count: int = 1
    """Number of tensors or modules with this fault."""

    def __str__(self) -> str:
        proof = ""
        if self.before is not None and self.after is not None:
            proof = f" (with it the reference agrees: {self.before:.1e} becomes {self.after:.1e})"
        return f"{self.place} {self.what}{proof}: {self.remedy}"


def folded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Merge findings of the same fault; the errors are those of the first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.what, finding.remedy), []).append(finding)
    merged = []
    for group in groups.values():
        places = fold(f.place for f in group)
        shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        what = group[0].what
        if what == VIEW and len(group) > 1:
            shown, what = f"{len(group)} Linear weights ({shown})", VIEWS
        merged.append(replace(group[0], place=shown, what=what, count=len(group)))
    return tuple(merged)
