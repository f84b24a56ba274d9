"""What lies behind a verdict: weights, layers, causes, gradients, and what inputs cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from porter.frameworks import exchange
from porter.planning.plan import Plan
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.verification import tolerance
from porter.verification.blind import unseen
from porter.verification.checks import CAUSES, EXACT, Check, LayerCheck, TensorCheck
from porter.verification.diagnose import gradients as derivatives
from porter.verification.diagnose import hypotheses, isolate
from porter.verification.diagnose.finding import WHOLE, Finding, folded
from porter.verification.diagnose.layers import Alone, compare_layers, describe, inside, roles
from porter.verification.diagnose.tensors import compare_tensors
from porter.verification.diagnose.tokens import token_order
from porter.verification.live import Live, together
from porter.verification.notes import noted
from porter.verification.sensitivity.mutate import Mutation, mutations
from porter.verification.trace import Trace
from porter.verification.verdict import Verdict
from porter.zoo.architectures import Architecture


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides while their processes run; a side that is a trace has none."""

    architecture: Architecture
    left_live: Live | None
    right_live: Live | None
    left: Trace
    right: Trace
    folder: Path
    precision: str
    case: str
    """The input in which layers are watched."""

    @property
    def inputs(self) -> Path:
        """File of the inputs."""
        return self.folder / "inputs.safetensors"


def deepen(
    verdict: Verdict, pair: Pair, per_layer: bool, grad: bool, train_step: bool, diagnose: bool
) -> Verdict:
    """Add to a verdict whatever was asked for, and the diagnosis if it fails."""
    verdict = noted(verdict, pair)
    verdict = _with_tensors(verdict, pair)
    if grad or train_step:
        verdict = _with_gradients(verdict, pair, grad, train_step)
    wrong: list[Check | TensorCheck] = [*verdict.checks, *verdict.tensors, *verdict.gradients]
    failed = not all(check.passed for check in wrong)
    if per_layer or (failed and diagnose):
        verdict = _with_layers(verdict, pair)
        failed = failed or not all(c.passed for c in verdict.layers)
    if failed and diagnose:
        verdict = _with_diagnosis(verdict, pair)
    return verdict


def _state(live: Live) -> tuple[Plan, Mapping[str, LazyTensor]]:
    """Return a side's plan and its checkpoint as it stands in the file."""
    return live.side.plan, live.side.state


def _with_tensors(verdict: Verdict, pair: Pair) -> Verdict:
    if pair.left_live is None or pair.right_live is None:
        reason = "weights tensor by tensor: a side is a trace or an ONNX model"
        return replace(verdict, skipped=(*verdict.skipped, reason))
    found = compare_tensors(_state(pair.left_live), _state(pair.right_live), pair.left_live.rounded)
    return replace(verdict, tensors=found)


def _with_gradients(verdict: Verdict, pair: Pair, grad: bool, train_step: bool) -> Verdict:
    if pair.left_live is None or pair.right_live is None:
        reason = "gradients: a side is a trace or an ONNX model"
        return replace(verdict, skipped=(*verdict.skipped, reason))
    arrays, _ = exchange.load(pair.inputs)
    case = max(arrays, key=lambda name: len(arrays[name]))
    task = derivatives.task(arrays[case], verdict.num_classes)
    lives = (pair.left_live, pair.right_live)
    checks: list[Check] = []
    if grad:
        left, right = _both(lives, task, None)
        checks += derivatives.judge_gradients(left, right)
        verdict = _with_blind(verdict, pair, case, left)
    if train_step:
        left, right = _both(lives, task, derivatives.RATE)
        checks += derivatives.judge_step(canonical_values(lives[0]), left, right)
    return replace(verdict, gradients=tuple(checks))


def _with_blind(verdict: Verdict, pair: Pair, case: str, gradients: Mapping[str, Array]) -> Verdict:
    """Name the parameters whose loss these inputs would not show on these weights."""
    assert pair.left_live is not None
    logits = np.asarray(pair.left.outputs[EXACT][f"{case}/logits"])
    limit = tolerance.limit_exact(0.0)
    rms = float(np.sqrt(np.mean(logits**2)))
    found = unseen(gradients, canonical_values(pair.left_live), rms, limit)
    return replace(verdict, blind=found)


def _both(
    lives: Sequence[Live], task: Mapping[str, Array], rate: float | None
) -> list[dict[str, Array]]:
    def derive(live: Live) -> Callable[[], dict[str, Array]]:
        return lambda: live.gradients(task, EXACT, rate)

    return together([derive(live) for live in lives])


def _canonical(live: Live) -> Mapping[str, LazyTensor]:
    plan, state = _state(live)
    return plan.read(state)


def canonical_values(live: Live) -> dict[str, Array]:
    """Return a side's weights in float64, by canonical name."""
    return {n: np.asarray(t.read(), np.float64) for n, t in _canonical(live).items()}


def diagnosed(verdict: Verdict, pair: Pair) -> Verdict:
    """Compare layer by layer and name the likely faults."""
    return _with_diagnosis(_with_layers(verdict, pair), pair)


def _with_layers(verdict: Verdict, pair: Pair) -> Verdict:
    """Compare layer by layer, running the sides again if their layers were not watched."""
    left, right = pair.left, pair.right
    runs = []
    if not left.layers and pair.left_live is not None:
        runs.append(_watched(pair.left_live, pair, (EXACT, "float32")))
    if not right.layers and pair.right_live is not None:
        runs.append(_watched(pair.right_live, pair, tuple(right.outputs)))
    for trace in together(runs):
        if pair.left_live is not None and trace.report is pair.left_live.report:
            left = trace
        else:
            right = trace
    if not left.layers or not right.layers:
        reason = "layers: a trace was recorded without them, and an ONNX model has none"
        return replace(verdict, skipped=(*verdict.skipped, reason))
    checks = compare_layers(left, right, pair.precision)
    return replace(verdict, layers=checks, story=describe(checks))


def _watched(live: Live, pair: Pair, precisions: Sequence[str]) -> Callable[[], Trace]:
    return lambda: live.run(pair.inputs, precisions, layers=pair.case)


def _with_diagnosis(verdict: Verdict, pair: Pair) -> Verdict:
    """Tell causes from what they propagate to and name the likely faults."""
    found = [
        Finding(check.name, check.problem, check.remedy)
        for check in verdict.tensors
        if not check.passed
    ]
    layers = verdict.layers
    if pair.left_live is not None and layers:
        explained = {name.rpartition(".")[0] or name for name in _names(verdict.tensors)}
        layers, more = _causes(verdict, pair, pair.left_live, explained)
        found += more
    return replace(verdict, layers=layers, findings=folded(found))


def _names(tensors: Sequence[TensorCheck]) -> Iterator[str]:
    return (check.name for check in tensors if not check.passed)


def _causes(
    verdict: Verdict, pair: Pair, left: Live, explained: set[str]
) -> tuple[tuple[LayerCheck, ...], list[Finding]]:
    layers = verdict.layers
    alone: dict[str, Alone] = {}
    findings: list[Finding] = []
    kinds = {check.place: check.kind for check in layers}
    chunks = []
    for calls in isolate.calls_of(layers, pair.right, pair.right_live, pair.inputs):
        alone |= isolate.alone(left, calls)
        chunks.append(calls)
    layers = roles(layers, alone)
    guilty = [c.place for c in layers if c.role == CAUSES and not _explained(c.place, explained)]
    for calls in chunks:
        mine = {place: alone[place] for place in guilty if place in calls.places}
        suspects = {} if verdict.tensors else _mutations(pair, left, mine)
        findings += hypotheses.diagnose(left, calls, mine, kinds, suspects)
    known = {finding.place for finding in findings}
    for place in [place for place in guilty if (place or WHOLE) not in known][:3]:
        findings += _between(place, layers, pair, left)
    return layers, findings


def _explained(place: str, modules: set[str]) -> bool:
    """Whether a module, or one inside it, holds a tensor that is known to be wrong."""
    module = place.partition("#")[0]
    return any(m == module or m.startswith(f"{module}.") or not module for m in modules)


def _mutations(pair: Pair, left: Live, places: Mapping[str, object]) -> dict[str, list[Mutation]]:
    """Return what the weights of modules may have suffered, in the left framework's naming."""
    state = _canonical(left)
    found: dict[str, list[Mutation]] = {}
    config = pair.architecture.config.get("num_heads", ())
    heads = (config,) if isinstance(config, int) else tuple(dict.fromkeys(config))
    for module in {place.partition("#")[0] for place in places}:
        own = [n for n in state if n.rpartition(".")[0] == module]
        for name in own:
            siblings = _siblings(name, state)
            arrays = {n: np.array(state[n].read()) for n in (name, *siblings)}
            for made in mutations(pair.architecture.table, name, arrays, heads, siblings):
                if made.kind != "scaled":
                    kept = {n: a for n, a in made.tensors.items() if n == name}
                    tensors = _to_framework(left, kept)
                    found.setdefault(module, []).append(replace(made, tensors=tensors))
    return found


def _siblings(name: str, state: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    shape, leaf = state[name].shape, name.rpartition(".")[2]
    same = [n for n, t in state.items() if t.shape == shape and n != name and n.endswith(leaf)]
    return tuple(same[:24])


def _to_framework(live: Live, arrays: Mapping[str, Array]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for link in live.side.plan.target.links:
        if all(name in arrays for name in link.canonical):
            parts = link.to_dialect([LazyTensor.of(arrays[name]) for name in link.canonical])
            found.update({n: np.array(t.read()) for n, t in zip(link.dialect, parts, strict=True)})
    return found


def _between(place: str, layers: Sequence[LayerCheck], pair: Pair, left: Live) -> list[Finding]:
    """Look at what the first module that differs inside `place` was called with."""
    first = next((c.place for c in layers if not c.passed and inside(c.place, place)), None)
    if first is None:
        return []
    module = first.partition("#")[0].partition("@")[0]
    if pair.right_live is not None:
        theirs = pair.right_live.keep_calls(pair.inputs, pair.case, EXACT, [module], "between")
    elif pair.right.calls:
        theirs = pair.right.calls
    else:
        return []
    mine = left.keep_calls(pair.inputs, pair.case, EXACT, [module], "between")
    positions = pair.architecture.positions
    table = None
    if positions is not None and not place:
        table = np.asarray(_canonical(left)[positions.tensor].read())
    found = token_order(module, mine, theirs, table)
    return [] if found is None else [replace(found, place=place or WHOLE)]
