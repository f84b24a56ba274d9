"""Everything that a verdict compares besides outputs: weights, gradients, layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from porter.frameworks import exchange
from porter.frameworks.parallel import together
from porter.tensors.blocks import Array
from porter.verification import tolerance
from porter.verification.blind import unseen
from porter.verification.checks import EXACT, Check, LayerCheck, TensorCheck
from porter.verification.diagnose import gradients as derivatives
from porter.verification.diagnose.causes import diagnosed
from porter.verification.diagnose.layers import compare_layers, describe
from porter.verification.diagnose.tensors import compare_tensors
from porter.verification.sides.pair import Pair
from porter.verification.sides.side import Can, Side, float64_weights
from porter.verification.verdict import Verdict


def with_comparisons(
    verdict: Verdict,
    pair: Pair,
    *,
    per_layer: bool,
    grad: bool,
    train_step: bool,
    diagnose: bool,
    proven: bool = False,
) -> Verdict:
    """Add to a verdict on outputs whatever was asked for, and the diagnosis if it fails.

    Weights that are `proven` already are compared only for the diagnosis.
    """
    if proven:
        note = "the weights were compared when the output was read back"
        verdict = replace(verdict, notes=(*verdict.notes, note))
    else:
        verdict = _with_tensors(verdict, pair)
    if grad or train_step:
        verdict = _with_gradients(verdict, pair, grad, train_step)
    checks: list[Check | TensorCheck] = [*verdict.checks, *verdict.tensors, *verdict.gradients]
    failed = not all(check.passed for check in checks)
    if per_layer or (failed and diagnose):
        verdict = with_layers(verdict, pair)
        failed = failed or not all(c.passed for c in verdict.layers)
    if failed and diagnose:
        verdict = _with_tensors(verdict, pair) if proven else verdict
        pair.steps.begin("looking for the fault")
        verdict = diagnosed(verdict, pair)
    return verdict


def _skipped(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, skipped=(*verdict.skipped, reason))


def _with_tensors(verdict: Verdict, pair: Pair) -> Verdict:
    if Can.WEIGHTS not in pair.both_can:
        return _skipped(verdict, "weights tensor by tensor: a side is a trace or an ONNX model")
    pair.steps.begin("comparing the weights")
    left, right = ((side.prepared.plan, side.prepared.state) for side in (pair.left, pair.right))
    return replace(verdict, tensors=compare_tensors(left, right, pair.left.rounded))


def _with_gradients(verdict: Verdict, pair: Pair, grad: bool, train_step: bool) -> Verdict:
    if Can.GRADIENTS not in pair.both_can:
        return _skipped(verdict, "gradients: a side is a trace or an ONNX model")
    pair.steps.begin("gradients")
    arrays, _ = exchange.load(pair.inputs)
    case = max(arrays, key=lambda name: len(arrays[name]))
    logits = pair.left.trace.outputs[EXACT][f"{case}/logits"]
    task = derivatives.task(arrays[case], logits.shape)
    checks: list[Check] = []
    if grad:
        left, right = _derivatives(pair, task, None)
        checks += derivatives.judge_gradients(left, right)
        verdict = _with_blind(verdict, pair, case, left)
    if train_step:
        left, right = _derivatives(pair, task, derivatives.RATE)
        checks += derivatives.judge_step(float64_weights(pair.left), left, right)
    return replace(verdict, gradients=tuple(checks))


def _with_blind(verdict: Verdict, pair: Pair, case: str, gradients: Mapping[str, Array]) -> Verdict:
    """Name the parameters whose loss these inputs would not show on these weights."""
    logits = np.asarray(pair.left.trace.outputs[EXACT][f"{case}/logits"])
    limit = tolerance.limit_exact(0.0)
    rms = float(np.sqrt(np.mean(logits**2)))
    return replace(verdict, blind=unseen(gradients, float64_weights(pair.left), rms, limit))


def _derivatives(
    pair: Pair, task: Mapping[str, Array], rate: float | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    def derive(side: Side) -> Callable[[], dict[str, Array]]:
        return lambda: side.gradients(task, EXACT, rate)

    left, right = together([derive(pair.left), derive(pair.right)])
    return left, right


def with_layers(verdict: Verdict, pair: Pair) -> Verdict:
    """Compare layer by layer, running the sides again if their layers were not watched."""
    if Can.LAYERS not in pair.both_can:
        return _skipped(verdict, "layers: a trace was recorded without them")
    again = tuple(side for side in (pair.left, pair.right) if not side.trace.layers)
    if again:
        pair.steps.begin("layers")
        pair.compute(layers=True, sides=again)
    checks = compare_layers(pair.left.trace, pair.right.trace, pair.precision)
    if Can.MODULES not in pair.both_can and pair.has_graph:
        verdict, checks = _of_modules(verdict, checks)
    return replace(verdict, layers=checks, story=describe(checks))


def _of_modules(
    verdict: Verdict, checks: tuple[LayerCheck, ...]
) -> tuple[Verdict, tuple[LayerCheck, ...]]:
    """Return the layers whose values in an ONNX model are those of the module.

    An exporter may compute the last step of a module later, or a module twice: such values have
    another shape, or differ while the outputs are equal.
    """
    twice = {check.place.partition("#")[0] for check in checks if "#" in check.place}
    equal = all(check.passed for check in verdict.checks)
    found = tuple(
        check
        for check in checks
        if check.place.partition("#")[0] not in twice
        and (check.passed or not (equal or check.problem.startswith("shape ")))
    )
    note = f"layers: {len(found)} modules, found by the names in the ONNX model"
    if len(found) < len(checks):
        note += f"; {len(checks) - len(found)} more have no value there to compare"
    return replace(verdict, notes=(*verdict.notes, note)), found
