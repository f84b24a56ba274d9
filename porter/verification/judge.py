"""Judge what two sides computed against the float64 run of the left one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, Check
from porter.verification.compare import Figures, compare
from porter.verification.diagnose.layers import describe
from porter.verification.trace import Trace
from porter.verification.verdict import FAILED, PASSED, Verdict


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
