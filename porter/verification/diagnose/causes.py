"""Find the modules that cause a difference, and name their likely faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from porter.tensors.lazy import LazyTensor
from porter.verification.checks import CAUSES, EXACT, LayerCheck, TensorCheck
from porter.verification.diagnose import hypotheses, isolate
from porter.verification.diagnose.degree import CLOSE
from porter.verification.diagnose.files import origins
from porter.verification.diagnose.finding import WHOLE, Finding, folded
from porter.verification.diagnose.layers import Isolated, inside, roles
from porter.verification.diagnose.outputs import relations
from porter.verification.diagnose.tensors import UNRELATED
from porter.verification.diagnose.tokens import token_order
from porter.verification.sensitivity.mutate import Mutation, mutations
from porter.verification.sides.naming import to_framework
from porter.verification.sides.pair import Pair
from porter.verification.sides.side import Can
from porter.verification.verdict import Verdict


def diagnosed(verdict: Verdict, pair: Pair) -> Verdict:
    """Add the role of each layer that differs, and the likely faults."""
    findings = [*relations(verdict.checks, pair), *origins(verdict.tensors, pair)]
    findings += of_tensors(verdict.tensors)
    layers = verdict.layers
    if layers and Can.MODULES in pair.left.can:
        explained = {name.rpartition(".")[0] or name for name in _names(verdict.tensors)}
        layers, more = _causes(verdict, pair, explained)
        findings += more
    return replace(verdict, layers=layers, findings=folded(findings))


def of_tensors(tensors: Sequence[TensorCheck]) -> list[Finding]:
    """Return the fault of each tensor; of those that are close, how far they are."""
    wrong = [check for check in tensors if not check.passed]
    unrelated = sum(check.problem == UNRELATED for check in wrong)
    if len(wrong) == len(tensors) > 1 and unrelated > 1:
        return [
            Finding(
                WHOLE, "has none of the source's tensors",
                "nothing was loaded (a load that is not strict skips names that it does not"
                " know), or the weights are another checkpoint's",
            )
        ]  # fmt: skip
    far = [check.distance for check in wrong if check.problem == CLOSE]
    close = f"{CLOSE}: {min(far):.2g} to {max(far):.2g} of its norm off" if far else ""
    return [
        Finding(check.name, close if check.problem == CLOSE else check.problem, check.remedy)
        for check in wrong
    ]


def _names(tensors: Sequence[TensorCheck]) -> Iterator[str]:
    return (check.name for check in tensors if not check.passed)


def _causes(
    verdict: Verdict, pair: Pair, explained: set[str]
) -> tuple[tuple[LayerCheck, ...], list[Finding]]:
    layers = verdict.layers
    isolated: dict[str, Isolated] = {}
    findings: list[Finding] = []
    kinds = {check.place: check.kind for check in layers}
    chunks = []
    for calls in isolate.calls_of(layers, pair.right, pair.inputs):
        isolated |= isolate.isolated(pair.left, calls)
        chunks.append(calls)
    layers = roles(layers, isolated)
    guilty = [c.place for c in layers if c.role == CAUSES and not _explained(c.place, explained)]
    for calls in chunks:
        mine = {place: isolated[place] for place in guilty if place in calls.places}
        compared = verdict.tensors or Can.WEIGHTS not in pair.left.can
        suspects = {} if compared else _mutations(pair, mine)
        findings += hypotheses.diagnose(pair.left, calls, mine, kinds, suspects)
    known = {finding.place for finding in findings}
    for place in [place for place in guilty if (place or WHOLE) not in known][:3]:
        findings += _between(place, layers, pair)
    return layers, findings


def _explained(place: str, modules: set[str]) -> bool:
    """Whether a tensor of a module, or of one inside it, is known to be wrong."""
    module = place.partition("#")[0]
    return any(m == module or m.startswith(f"{module}.") or not module for m in modules)


def _mutations(pair: Pair, places: Mapping[str, object]) -> dict[str, list[Mutation]]:
    """Return possible faults of the weights of modules, in the left framework's naming."""
    state, target = pair.left.weights(), pair.left.prepared.plan.target
    suspects: dict[str, list[Mutation]] = {}
    config = pair.architecture.config.get("num_heads", ())
    heads = (config,) if isinstance(config, int) else tuple(dict.fromkeys(config))
    for module in {place.partition("#")[0] for place in places}:
        for name in [n for n in state if n.rpartition(".")[0] == module]:
            siblings = _siblings(name, state)
            arrays = {n: np.array(state[n].read()) for n in (name, *siblings)}
            for mutation in mutations(pair.architecture.table, name, arrays, heads, siblings):
                if mutation.kind != "scaled":
                    kept = {n: a for n, a in mutation.tensors.items() if n == name}
                    tensors = to_framework(target, kept)
                    suspects.setdefault(module, []).append(replace(mutation, tensors=tensors))
    return suspects


def _siblings(name: str, state: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    shape, leaf = state[name].shape, name.rpartition(".")[2]
    same = [n for n, t in state.items() if t.shape == shape and n != name and n.endswith(leaf)]
    return tuple(same[:24])


def _between(place: str, layers: Sequence[LayerCheck], pair: Pair) -> list[Finding]:
    """Compare the arguments of the first module inside `place` that differs."""
    first = next((c.place for c in layers if not c.passed and inside(c.place, place)), None)
    if first is None:
        return []
    module = first.partition("#")[0].partition("@")[0]
    theirs = pair.right.calls(pair.inputs, pair.case, EXACT, [module], "between")
    if not theirs:
        return []
    mine = pair.left.calls(pair.inputs, pair.case, EXACT, [module], "between")
    positions = pair.architecture.positions
    table = None
    if positions is not None and not place:
        table = np.asarray(pair.left.weights()[positions.tensor].read())
    finding = token_order(module, mine, theirs, table)
    return [] if finding is None else [replace(finding, place=place or WHOLE)]
