"""A verdict as Markdown, for a pull request or a step summary."""

from __future__ import annotations

from porter.report.cells import code as _code
from porter.report.cells import table as _table
from porter.report.cells import text as _text
from porter.report.figures import (
    behaviour_lines,
    blind_lines,
    decimal,
    file_of,
    headline,
    number,
    origin_lines,
    pixels,
    sameness,
    share,
    side_line,
    worst_checks,
    worst_layers,
)
from porter.report.machine import row_sizes
from porter.verification.checks import Check
from porter.verification.diagnose.finding import Finding
from porter.verification.verdict import FAILED, PASSED, Verdict

_MARKS = {PASSED: "✅", FAILED: "❌"}


def render(verdict: Verdict) -> str:
    """Return the report; tables are folded away where they are long."""
    mark = _MARKS.get(verdict.status, "⚠️")
    parts = [f"## {mark} {verdict.architecture}: {headline(verdict)}"]
    if verdict.reason:
        parts.append(_text(verdict.reason))
    if verdict.findings:
        faults = "\n".join(f"- {_finding(finding)}" for finding in verdict.findings)
        parts.append(f"**Likely faults**\n\n{faults}")
    parts.append(_sides(verdict))
    if verdict.checks:
        parts.append(_outputs(verdict))
    if verdict.tensors:
        parts.append(_tensors(verdict))
    if verdict.layers:
        parts.append(_layers(verdict))
    if verdict.gradients:
        wrong = sum(not check.passed for check in verdict.gradients)
        parts.append(f"{len(verdict.gradients)} gradients compared, {wrong} differ.")
    parts += [_text(line) for line in blind_lines(verdict).values()]
    parts += [f"_Behaviour:_ {_text(line)}" for line in behaviour_lines(verdict)]
    parts += [f"On fuzzed weights: {_fuzzed(check)}." for check in verdict.fuzzed]
    parts += [f"_Not made:_ {_text(reason)}" for reason in verdict.skipped]
    parts += [f"_Note:_ {_text(note)}" for note in verdict.notes]
    parts += [f"_Made:_ {_text(line)}" for line in origin_lines(verdict)]
    return "\n\n".join(parts) + "\n"


def _sides(verdict: Verdict) -> str:
    rows = [
        (
            name,
            _text(side_line(side)),
            _code(file_of(side, whole=False)),
            _text(", ".join(f"{package} {version}" for package, version in side.versions.items())),
        )
        for name, side in (("left", verdict.left), ("right", verdict.right))
    ]
    return _table(("side", "what ran", "file", "versions"), rows)


def _finding(finding: Finding) -> str:
    """Return a finding with its place as code."""
    return f"{_code(finding.place)} {_text(str(finding).removeprefix(finding.place))}"


def _outputs(verdict: Verdict) -> str:
    rows = [
        (
            "✅" if check.passed else "❌",
            _code(f"{check.output} {check.precision}"),
            number(check.right.error) if not check.right.problem else _text(check.right.problem),
            number(check.left.error if check.left is not None else None),
            number(check.limit),
            number(check.right.max_abs),
            f"{decimal(check.right.snr_db, 0)} dB",
            share(check.right.top1),
        )
        for check in worst_checks(verdict)
    ]
    names = ("", "output", "error", "source's own", "limit", "max abs", "signal/noise", "top-1")
    return _table(names, rows) + (
        f"\n\nWorst of {len(verdict.cases)} inputs{pixels(verdict)}"
        f" (preset {verdict.preset}); errors are"
        " max |x − ref| / rms(ref) against the float64 run of the left side."
    )


def _tensors(verdict: Verdict) -> str:
    wrong = sum(not check.passed for check in verdict.tensors)
    if not wrong:
        return f"{len(verdict.tensors)} tensors are the same on both sides, {sameness(verdict)}."
    rows = [
        (_code(", ".join(names[:3])), str(count), str(bad))
        for names, count, bad in row_sizes(verdict).values()
        if bad
    ]
    table = _table(("tensors", "count", "differ"), rows)
    return f"{wrong} of {len(verdict.tensors)} tensors differ:\n\n{table}"


def _layers(verdict: Verdict) -> str:
    rows = [
        (
            "✅" if check.passed else "❌",
            _code(check.place or "the model"),
            _code(check.kind),
            number(check.judged.error if check.judged is not None else None),
            number(check.limit),
            _text(check.role),
        )
        for check in worst_layers(verdict)
    ]
    table = _table(("", "layer", "kind", "error", "limit", "role"), rows)
    return (
        f"{len(verdict.layers)} layers: {_text(verdict.story)}\n\n"
        f"<details><summary>worst layers</summary>\n\n{table}\n\n</details>"
    )


def _fuzzed(check: Check) -> str:
    result = check.problem or f"error {number(check.right.error)}, limit {number(check.limit)}"
    return f"{_code(f'{check.output} {check.precision}')} {_text(result)}"
