"""Judge what two sides computed against the float64 run of the left one.

The limit on each error follows from the source's own. Outputs of a model that was changed on
purpose, above all of a quantised one, are as far from the source's as the change made them: for
these a user gives limits such as `top1>=99,cosine>=0.999`, and all inputs are judged together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from porter.errors import UsageError, listed, printable
from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, Check
from porter.verification.compare import Figures, compare
from porter.verification.diagnose.layers import describe
from porter.verification.trace import Trace
from porter.verification.verdict import FAILED, PASSED, Verdict

QUANTISED = "top1>=99,cosine>=0.999"
"""The limits of a quantised model where none are given."""
UNRANKED = "cosine>=0.999"
"""Those of one that does not rank classes: of a detector's map, for one."""

_LEAST: Mapping[str, Callable[[Figures], float | None]] = {
    "top1": lambda figures: None if figures.top1 is None else 100 * figures.top1,
    "top5": lambda figures: None if figures.top5 is None else 100 * figures.top5,
    "cosine": lambda figures: figures.cosine,
    "snr": lambda figures: figures.snr_db,
}
"""Figures that must be large; agreement in percent, signal to noise in dB."""
_MOST: Mapping[str, Callable[[Figures], float | None]] = {
    "error": lambda figures: figures.error,
    "max_abs": lambda figures: figures.max_abs,
    "mean_abs": lambda figures: figures.mean_abs,
    "max_rel": lambda figures: figures.max_rel,
}
"""Figures that must be small."""
MEASURES = {**_LEAST, **_MOST}
_PERCENT = ("top1", "top5")
_BOUND = re.compile(r"\s*(\w+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*")


def judge(left: Trace, right: Trace, precision: str) -> tuple[Check, ...]:
    """Return every check: each output of each case, in float64 and at the precision.

    The left side's float64 run is the reference, its float32 run says how much the network
    enlarges rounding. An output that only one side has fails, as does a run without outputs.
    """
    keys = list(dict.fromkeys([*left.outputs[EXACT], *right.outputs.get(precision, {})]))
    return tuple(check for key in keys for check in _checks(left, right, key, precision))


def _checks(left: Trace, right: Trace, key: str, precision: str) -> Iterator[Check]:
    case, _, output = key.rpartition("/")
    reference = left.outputs[EXACT].get(key)
    source = compare(left.outputs[SINGLE].get(key), reference) if SINGLE in left.outputs else None
    error = source.error if source is not None else 0.0
    if EXACT in right.outputs:
        target = compare(right.outputs[EXACT].get(key), reference)
        limit = tolerance.limit_exact(error)
        yield Check(case, output, EXACT, None, target, limit, _problem(None, target, limit))
    if precision == EXACT:
        return
    target = compare(right.outputs.get(precision, {}).get(key), reference)
    limit = tolerance.limit(precision, error)
    single, own = left.outputs.get(SINGLE, {}).get(key), right.outputs.get(precision, {}).get(key)
    direct = compare(own, single) if single is not None else None
    problem = _problem(source, target, limit)
    yield Check(case, output, precision, source, target, limit, problem, direct)


def _problem(source: Figures | None, target: Figures, limit: float) -> str:
    if source is not None and source.problem:
        return f"the left side is {source.problem}"
    if target.problem:
        return target.problem
    if not target.error <= limit:
        return f"error {target.error:.1e} is over the limit {limit:.1e}"
    return ""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one figure of the outputs must at least, or may at most be."""

    measure: str
    value: float

    def __str__(self) -> str:
        return f"{self.measure}{'>=' if self.measure in _LEAST else '<='}{self.value:.12g}"

    def problem(self, figures: Figures) -> str:
        """Return why figures do not meet it, empty when they do."""
        found = MEASURES[self.measure](figures)
        if found is None:
            return f"{self.measure} is not defined: the outputs are not class scores"
        met = found >= self.value if self.measure in _LEAST else found <= self.value
        return "" if met else f"{self.measure} is {found:.6g}, {self} is required"


def bounds(text: str) -> tuple[Bound, ...]:
    """Return the limits that a text states, separated by commas; `UsageError` for another text."""
    found = {}
    for part in text.split(","):
        match = _BOUND.fullmatch(part)
        if match is None or match[1] not in MEASURES:
            known = listed(str(Bound(name, 0))[:-1] for name in MEASURES)
            raise UsageError(f"{printable(part)!r} is not a limit such as top1>=99; use {known}")
        name, sign, number = match.groups()
        try:
            bound = Bound(name, float(number))
        except ValueError:
            raise UsageError(f"{printable(number)!r} is not a number") from None
        if sign not in str(bound):
            raise UsageError(f"{name}{sign}: this figure is limited the other way, by {bound}")
        if name in _PERCENT and 0 < bound.value <= 1:
            raise UsageError(f"{bound} is in percent: write {name}>={100 * bound.value:g}")
        found[name] = bound
    return tuple(found.values())


def agreement(
    left: Trace, right: Trace, precision: str, limits: tuple[Bound, ...]
) -> tuple[Check, ...]:
    """Return one check for each output, over all cases together.

    The reference is the left side's float64 run. An output that only one side has fails.
    """
    reference, found = _pooled(left, EXACT), _pooled(right, precision)
    source = _pooled(left, SINGLE)
    inputs = len(left.cases)
    case = f"{inputs} inputs together" if inputs > 1 else left.cases[0]
    checks = []
    for output in dict.fromkeys([*reference, *found]):
        own = compare(source[output], reference.get(output)) if output in source else None
        figures = compare(found.get(output), reference.get(output))
        problems = [problem for bound in limits if (problem := bound.problem(figures))]
        problem = figures.problem or "; ".join(problems)
        checks.append(Check(case, output, precision, own, figures, float("inf"), problem))
    return tuple(checks)


def _pooled(trace: Trace, precision: str) -> dict[str, np.ndarray]:
    """Return each output of all cases, one behind the other."""
    parts: dict[str, list[np.ndarray]] = {}
    for key, array in trace.outputs.get(precision, {}).items():
        parts.setdefault(key.rpartition("/")[2], []).append(np.asarray(array))
    return {output: np.concatenate(arrays) for output, arrays in parts.items()}


def concluded(verdict: Verdict) -> Verdict:
    """Set status and reason from the checks; a verdict without any output checked fails."""
    reasons = [] if verdict.checks else ["no output was compared"]
    for what, problems in _problems(verdict).items():
        failed = [problem for problem in problems if problem]
        if failed:
            reasons.append(f"{len(failed)} of {len(problems)} {what} fail ({failed[0]})")
    return replace(
        verdict,
        status=FAILED if reasons else PASSED,
        reason="; ".join(reasons),
        story=verdict.story or describe(verdict.layers),
    )


def _problems(verdict: Verdict) -> dict[str, list[str]]:
    """Return {what was checked: problem of each check, empty if it passed}."""
    return {
        "outputs": [
            c.problem and f"{c.output} of {c.case} in {c.precision}: {c.problem}"
            for c in verdict.checks
        ],
        "tensors": [t.problem and f"{t.name} {t.problem}" for t in verdict.tensors],
        "layers": [c.problem and f"{c.place or 'the model'}: {c.problem}" for c in verdict.layers],
        "gradients": [
            c.problem and f"{c.case} of {c.output}: {c.problem}" for c in verdict.gradients
        ],
        "outputs on fuzzed weights": [
            c.problem and f"{c.output} of {c.case}: {c.problem}" for c in verdict.fuzzed
        ],
    }
