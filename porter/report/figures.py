"""Figures and phrases that all reports share."""

from __future__ import annotations

import os
from math import isfinite

from porter.errors import listed
from porter.mapping.fold import fold
from porter.verification.checks import BY_BYTES, ON_FUZZED, UNPROVEN, Check, LayerCheck
from porter.verification.sides.report import SideReport
from porter.verification.verdict import FAILED, PASSED, Verdict
from porter.zoo.image_size import pixels as in_pixels


def headline(verdict: Verdict) -> str:
    """Return the outcome in a sentence."""
    if verdict.limits and verdict.status in (PASSED, FAILED):
        met = "agree" if verdict.status == PASSED else "do not agree"
        return f"the two sides {met} within {verdict.limits}"
    return {
        PASSED: "the two sides compute the same",
        FAILED: "the two sides do not compute the same",
    }.get(verdict.status, "the forward proof was not made")


def number(value: float | None) -> str:
    """Return an error with two digits; NaN, None and a limit that is not there as a dash."""
    return "–" if value is None or not isfinite(value) else f"{value:.1e}"


def decimal(value: float, digits: int) -> str:
    """Return a figure with so many digits after the point; NaN as a dash, infinity as its sign."""
    if value != value:
        return "–"
    return f"{value:.{digits}f}".replace("inf", "∞")


def share(value: float | None) -> str:
    """Return a share as a percentage, None as a dash."""
    return "–" if value is None else f"{value:.1%}".replace(".0%", "%")


def side_line(side: SideReport) -> str:
    """Return the framework with its version and device, and how the weights were read."""
    version = side.versions.get(side.framework, "")
    how = "recorded" if side.recorded else "the file itself" if side.direct else "through the table"
    return f"{side.label} {version}, {side.device or 'not run'}, {how}".replace("  ", " ")


def file_of(side: SideReport, *, whole: bool = True) -> str:
    """Return the file of a side, whole or its name only, and the state dict in it."""
    path = side.file if whole else os.path.basename(side.file)
    return f"{path or 'given weights'}{f' ({side.key})' if side.key else ''}"


def origin_lines(verdict: Verdict) -> list[str]:
    """Return when and how the verdict was made, and the digests of the files."""
    made = [verdict.date, f"{verdict.seconds:.1f} s" if verdict.seconds else "", verdict.command]
    lines = [", ".join(part for part in made if part)]
    for name, side in (("left", verdict.left), ("right", verdict.right)):
        if side.digest:
            lines.append(f"{name}: {file_of(side, whole=False)} is {side.digest}")
    return [line for line in lines if line]


def pixels(verdict: Verdict) -> str:
    """Return the size of the inputs; empty where they are not pictures."""
    return f" of {in_pixels(verdict.image_size)}" if verdict.image_size else ""


def worst_checks(verdict: Verdict) -> list[Check]:
    """Return, for each output and precision, the check nearest to its limit."""
    found: dict[tuple[str, str], Check] = {}
    for check in verdict.checks:
        key = (check.output, check.precision)
        if key not in found or _nearness(check) > _nearness(found[key]):
            found[key] = check
    return list(found.values())


def _nearness(check: Check) -> float:
    error = check.right.error
    return float("inf") if check.problem and error != error else error / check.limit


def worst_layers(verdict: Verdict, most: int = 12) -> list[LayerCheck]:
    """Return the layers that cause a difference first, then those nearest to their limits."""

    def key(check: LayerCheck) -> tuple[bool, bool, float]:
        error = check.judged.error if check.judged is not None else 0.0
        error = float("inf") if error != error else error
        return check.role != "causes", check.passed, -error / check.limit

    return sorted(verdict.layers, key=key)[:most]


def behaviour_lines(verdict: Verdict) -> list[str]:
    """Return a line on each comparison with the behaviour that was not judged."""
    judged = "the canonical model" if verdict.behaviour == "canonical" else "its dialect"
    lines = []
    for one in verdict.deviations:
        other = "its dialect's code" if one.behaviour == "dialect" else "the canonical model"
        error = one.figures.problem or number(one.figures.error)
        same = one.figures.top1
        top1 = "" if same is None else f", top-1 agreement {share(same)}"
        if one.side == "both":
            lines.append(f"both sides, each as {other} computes: they differ by {error}{top1}")
        else:
            side = verdict.left if one.side == "left" else verdict.right
            lines.append(
                f"{one.side} as {other} computes ({side.label} {'; '.join(one.about)}):"
                f" differs by {error} from itself as {judged} computes, which was judged{top1}"
            )
    return lines


_PROOFS = {
    ON_FUZZED: "rows of the table proven by outputs of fuzzed weights, values in the file by bytes",
    BY_BYTES: "no outputs show the row; values in the file are proven by bytes",
    UNPROVEN: "outputs of fuzzed weights differ: a row of the table, or the code, is wrong",
}


_NOTHING = "nothing proves them: a side has no weights to compare"


def blind_lines(verdict: Verdict) -> dict[str, str]:
    """Return a line on the tensors that the outputs do not show, by kind of proof."""
    lines = {}
    for proof, reason in _PROOFS.items():
        names = [b.name for b in verdict.blind if b.proof == proof and not b.part]
        if names and proof == BY_BYTES and not verdict.tensors:
            reason = _NOTHING
        if names:
            count = f"{len(names)} tensors" if len(names) > 1 else "1 tensor"
            lines[proof] = f"{count} not shown by the outputs; {reason}: {listed(fold(names))}"
    if keys := [blind.name for blind in verdict.blind if blind.part]:
        how = "proven by bytes" if verdict.tensors else _NOTHING
        line = f"the keys' part of {len(keys)} biases moves no output under softmax; {how}"
        lines[BY_BYTES] = "; ".join(
            [*filter(None, [lines.get(BY_BYTES)]), f"{line}: {listed(fold(keys))}"]
        )
    return lines


def sameness(verdict: Verdict) -> str:
    """Return how the tensors of both sides are the same: the files may differ in element types."""
    left, right = (", ".join(side.weights) for side in (verdict.left, verdict.right))
    return (
        "bit for bit" if left == right else f"equal but for the element types: {left} and {right}"
    )
