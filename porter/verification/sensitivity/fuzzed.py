"""Prove on fuzzed weights what the outputs of a checkpoint do not show.

A fault in a tensor that moves no output (a branch behind LayerScale at 1e-5) passes every bar on
outputs. Both sides' rows for it are tried on weights in which every tensor matters: the seeded
ones, brought to each side's naming and from there to its framework by the same table.
"""

from __future__ import annotations

import os
from dataclasses import replace

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
from porter.verification.diagnose import gradients as derivatives
from porter.verification.diagnose.deep import Pair, canonical_values, diagnosed
from porter.verification.diagnose.finding import WHOLE, Finding, folded
from porter.verification.inputs import noise
from porter.verification.judge import judge
from porter.verification.live import Live
from porter.verification.sensitivity.prove import smallest
from porter.verification.sides import Prepared
from porter.verification.tolerance import PRESETS
from porter.verification.verdict import Verdict
from porter.zoo.seeded import seeded

SEED = 0


def prove_unseen(verdict: Verdict, pair: Pair, diagnose: bool) -> Verdict:
    """Name the parameters that the outputs do not show and prove their rows on fuzzed weights.

    The processes hold the fuzzed weights afterwards: nothing can be asked of the user's again.
    """
    if not _passes(verdict):
        return _skipped(verdict, "what the outputs do not show: they differ as it is")
    if pair.left_live is None:
        return _skipped(verdict, "what the outputs do not show: the left side is a trace")
    if not verdict.blind:
        verdict = replace(verdict, blind=_of_checkpoint(verdict, pair, pair.left_live))
    if not verdict.blind:
        return verdict
    reason = _hindrance(pair)
    if reason:
        return _skipped(verdict, f"fuzzed weights for what the outputs do not show: {reason}")
    fuzzed, hidden = _fuzzed(pair, {blind.name for blind in verdict.blind})
    if fuzzed is None:
        return verdict
    checks = judge(fuzzed.left, fuzzed.right, EXACT, PRESETS["default"])
    proof = ON_FUZZED if all(check.passed for check in checks) else UNPROVEN
    blind = (b if b.name in hidden else replace(b, proof=proof) for b in verdict.blind)
    verdict = replace(verdict, fuzzed=checks, blind=tuple(blind))
    if diagnose and proof == UNPROVEN:
        verdict = replace(verdict, findings=(*verdict.findings, *_findings(verdict, fuzzed)))
    return verdict


def _findings(verdict: Verdict, fuzzed: Pair) -> tuple[Finding, ...]:
    """Name the fault, or at least the layers that cause the difference."""
    # With `tensors` empty the diagnosis tries what a table may have done to the weights.
    found = diagnosed(replace(verdict, tensors=(), layers=(), findings=()), fuzzed)
    remedy = "look at its row of the table, then at its code"
    causes = [
        Finding(c.place or WHOLE, "differs", remedy) for c in found.layers if c.role == CAUSES
    ]
    told = found.findings or folded(causes)
    return tuple(replace(f, what=f"{f.what} (on fuzzed weights)") for f in told)


def _passes(verdict: Verdict) -> bool:
    outputs, layers = (*verdict.checks, *verdict.gradients), verdict.layers
    whole = all(c.passed for c in outputs) and all(c.passed for c in layers)
    return whole and all(check.passed for check in verdict.tensors)


def _skipped(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, skipped=(*verdict.skipped, reason))


def _hindrance(pair: Pair) -> str:
    left, right = pair.left_live, pair.right_live
    if left is None or right is None:
        return "the right side is a trace or an ONNX model"
    if left.side.report.framework == right.side.report.framework:
        return "both sides run in one framework, and what a table does twice shows nothing"
    return ""


def _of_checkpoint(verdict: Verdict, pair: Pair, left: Live) -> tuple[Blind, ...]:
    """Look at the smallest case, the bar being the sharpest limit that it was judged by."""
    arrays, _ = exchange.load(pair.inputs)
    case = min(arrays, key=lambda name: len(arrays[name]))
    limits = [check.limit for check in verdict.checks if check.case == case]
    logits = pair.left.outputs[EXACT][f"{case}/logits"]
    return _unseen(left, arrays[case], logits, min(limits, default=tolerance.limit_exact(0.0)))


def _unseen(live: Live, inputs: Array, logits: Array, limit: float) -> tuple[Blind, ...]:
    gradients = live.gradients(derivatives.task(inputs, live.side.num_classes), EXACT)
    rms = float(np.sqrt(np.mean(np.square(logits))))
    return unseen(gradients, canonical_values(live), rms, limit)


def _fuzzed(pair: Pair, names: set[str]) -> tuple[Pair | None, set[str]]:
    """Run both sides on fuzzed weights and one picture of noise, in float64.

    Also returns which of `names` no output shows on these weights either (a bias that softmax
    cancels); None stands for the runs where that is all of them.
    """
    assert pair.left_live is not None
    assert pair.right_live is not None
    side = pair.left_live.side
    size = min(smallest(side.architecture), side.image_size)
    weights = StateDict.of(
        seeded(
            side.architecture, seed=SEED, num_classes=side.num_classes, image_size=size,
            features=side.plan.features,
        ).arrays()
    )  # fmt: skip
    folder = pair.folder / "fuzzed"
    folder.mkdir()
    ((name, array),) = noise([SEED], [1], size).items()
    case, inputs = f"fuzzed.{name}", folder / "inputs.safetensors"
    exchange.save(inputs, {case: array}, {})
    left = _loaded(pair.left_live, weights, size)
    one = left.run(inputs, (EXACT, SINGLE))
    limit = tolerance.limit_exact(0.0)
    found = _unseen(left, array, one.outputs[EXACT][f"{case}/logits"], limit)
    hidden = names & {blind.name for blind in found}
    if hidden == names:
        return None, hidden
    right = _loaded(pair.right_live, weights, size)
    other = right.run(inputs, (EXACT,))
    made = Pair(pair.architecture, left, right, one, other, folder, EXACT, case)
    return made, hidden


def _loaded(live: Live, weights: StateDict, size: int) -> Live:
    """Map canonical weights to the side's naming and on to its framework, as its file was."""
    side, folder = live.side, live.folder / "fuzzed"
    folder.mkdir()
    there = _planned(side, weights, CANONICAL, side.report.dialect, size)
    written = there.apply(weights)
    back = _planned(side, written, side.report.dialect, side.report.framework, size)
    path = os.fspath(folder / "weights.safetensors")
    codecs.write(back.apply(written), path, "safetensors", read_back=False)
    request = {
        "architecture": side.architecture.name, "num_classes": side.num_classes,
        "image_size": size, "features": side.plan.features, "weights": path,
    }  # fmt: skip
    live.worker.request("load", **request)
    held = replace(side, plan=back, state=written, request=request)
    return replace(live, side=held, folder=folder, rounded=None)


def _planned(side: Prepared, state: StateDict, source: str, target: str, size: int) -> Plan:
    return plan(
        side.architecture, shapes_of(state), source, target, num_classes=side.num_classes,
        image_size=size,
    )  # fmt: skip
