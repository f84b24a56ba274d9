"""Prove on fuzzed weights what the outputs of a checkpoint do not show.

A fault in a tensor that moves no output (a branch scaled by a LayerScale of 1e-5) passes every
limit on outputs. Both sides' rows for it are tried on weights in which every tensor matters: the
seeded ones, mapped to each side's naming and from there to its framework by the same table.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from porter import codecs
from porter.frameworks import exchange
from porter.mapping.table import CANONICAL
from porter.planning.plan import Plan, plan
from porter.planning.recognise import shapes_of
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.verification import tolerance
from porter.verification.blind import unseen
from porter.verification.checks import CAUSES, EXACT, ON_FUZZED, SINGLE, UNPROVEN, Blind
from porter.verification.comparisons import with_layers
from porter.verification.diagnose import gradients as derivatives
from porter.verification.diagnose.causes import diagnosed
from porter.verification.diagnose.finding import WHOLE, Finding, folded
from porter.verification.inputs import noise
from porter.verification.judge import judge
from porter.verification.sensitivity.prove import smallest
from porter.verification.sides.pair import Pair
from porter.verification.sides.prepare import Prepared
from porter.verification.sides.side import Can, Side, float64_weights
from porter.verification.verdict import Verdict
from porter.zoo.image_size import sides_of
from porter.zoo.seeded import seeded

SEED = 0


def prove_unseen(verdict: Verdict, pair: Pair, diagnose: bool) -> Verdict:
    """Name the parameters that the outputs do not show and prove their rows on fuzzed weights.

    The processes have the fuzzed weights loaded afterwards, no longer the user's.
    """
    if not _passes(verdict):
        return _skipped(verdict, "what the outputs do not show: they differ as it is")
    if Can.GRADIENTS not in pair.left.can:
        return _skipped(verdict, "what the outputs do not show: the left side is a trace")
    pair.steps.begin("looking for tensors that the outputs do not show")
    if not verdict.blind:
        verdict = replace(verdict, blind=_of_checkpoint(verdict, pair))
    names = {blind.name for blind in verdict.blind if not blind.part}
    if not names:  # Keys' parts of biases move no output on any weights.
        return verdict
    reason = _hindrance(pair)
    if reason:
        return _skipped(verdict, f"fuzzed weights for what the outputs do not show: {reason}")
    fuzzed, hidden = _fuzzed(pair, names)
    if fuzzed is None:
        return verdict
    checks = judge(fuzzed.left.trace, fuzzed.right.trace, EXACT)
    proof = ON_FUZZED if all(check.passed for check in checks) else UNPROVEN
    blind = (b if b.part or b.name in hidden else replace(b, proof=proof) for b in verdict.blind)
    verdict = replace(verdict, fuzzed=checks, blind=tuple(blind))
    if diagnose and proof == UNPROVEN:
        verdict = replace(verdict, findings=(*verdict.findings, *_findings(verdict, fuzzed)))
    return verdict


def _findings(verdict: Verdict, fuzzed: Pair) -> tuple[Finding, ...]:
    """Name the fault, or at least the layers that cause the difference."""
    # Without `tensors` the diagnosis tries the faults that a table may give to weights.
    blank = replace(verdict, tensors=(), layers=(), findings=())
    found = diagnosed(with_layers(blank, fuzzed), fuzzed)
    remedy = "look at its row of the table, then at its code"
    causes = [
        Finding(c.place or WHOLE, "differs", remedy) for c in found.layers if c.role == CAUSES
    ]
    findings = found.findings or folded(causes)
    return tuple(replace(f, what=f"{f.what} (on fuzzed weights)") for f in findings)


def _passes(verdict: Verdict) -> bool:
    outputs, layers = (*verdict.checks, *verdict.gradients), verdict.layers
    whole = all(c.passed for c in outputs) and all(c.passed for c in layers)
    return whole and all(check.passed for check in verdict.tensors)


def _skipped(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, skipped=(*verdict.skipped, reason))


def _hindrance(pair: Pair) -> str:
    if Can.WEIGHTS not in pair.both_can:
        return "the right side is a trace or an ONNX model"
    if pair.left.report.framework == pair.right.report.framework:
        return "both sides run in one framework, where a table's fault cancels"
    return ""


def _of_checkpoint(verdict: Verdict, pair: Pair) -> tuple[Blind, ...]:
    """Look at the smallest case, with the sharpest limit by which it was judged."""
    arrays, _ = exchange.load(pair.inputs)
    case = min(arrays, key=lambda name: len(arrays[name]))
    limits = [check.limit for check in verdict.checks if check.case == case]
    logits = pair.left.trace.outputs[EXACT][f"{case}/logits"]
    return _unseen(pair.left, arrays[case], logits, min(limits, default=tolerance.limit_exact(0.0)))


def _unseen(side: Side, inputs: Array, logits: Array, limit: float) -> tuple[Blind, ...]:
    gradients = side.gradients(derivatives.task(inputs, logits.shape), EXACT)
    rms = float(np.sqrt(np.mean(np.square(logits))))
    return unseen(gradients, float64_weights(side), rms, limit)


def _fuzzed(pair: Pair, names: set[str]) -> tuple[Pair | None, set[str]]:
    """Run both sides on fuzzed weights and one picture of noise, in float64.

    Also returns which of `names` no output shows on these weights either (a bias that softmax
    cancels); where that is all of them, nothing is run and the pair is None.
    """
    pair.steps.begin("fuzzed weights")
    prepared = pair.left.prepared
    variant, features = prepared.architecture, prepared.plan.features
    classes = pair.left.num_classes
    size = min(*sides_of(smallest(variant)), *sides_of(pair.left.image_size))
    weights = StateDict.of(
        seeded(variant, seed=SEED, num_classes=classes, image_size=size, features=features).arrays()
    )
    folder = pair.folder / "fuzzed"
    folder.mkdir()
    ((name, array),) = noise([SEED], [1], variant.sides(size)).items()
    case, inputs = f"fuzzed.{name}", folder / "inputs.safetensors"
    exchange.save(inputs, {case: array}, {})
    left = _loaded(pair.left, weights, size, folder / "left")
    left.compute(inputs, (EXACT, SINGLE))
    logits = left.trace.outputs[EXACT][f"{case}/logits"]
    found = _unseen(left, array, logits, tolerance.limit_exact(0.0))
    hidden = names & {blind.name for blind in found if not blind.part}
    if hidden == names:
        return None, hidden
    right = _loaded(pair.right, weights, size, folder / "right")
    right.compute(inputs, (EXACT,))
    return Pair(pair.architecture, left, right, folder, EXACT, case, pair.steps), hidden


def _loaded(side: Side, weights: StateDict, size: int, folder: Path) -> Side:
    """Map canonical weights to the side's naming and on to its framework, as its file was."""
    prepared, report = side.prepared, side.report
    folder.mkdir()
    there = _planned(prepared, weights, CANONICAL, report.dialect, size)
    written = there.apply(weights)
    back = _planned(prepared, written, report.dialect, report.framework, size)
    path = os.fspath(folder / "weights.safetensors")
    codecs.write(back.apply(written), path, "safetensors", read_back=False)
    request = {
        "architecture": prepared.architecture.name, "num_classes": side.num_classes,
        "image_size": size, "features": prepared.plan.features, "weights": path,
    }  # fmt: skip
    loaded = replace(prepared, plan=back, state=written, request=request)
    return side.loaded_with(loaded, folder)


def _planned(prepared: Prepared, state: StateDict, source: str, target: str, size: int) -> Plan:
    return plan(
        prepared.architecture, shapes_of(state), source, target,
        num_classes=prepared.plan.num_classes, image_size=size,
    )  # fmt: skip
