"""Run the sides of a verdict in the behaviour that was not judged: canonical or their dialects'.

Two implementations can hold the same tensors and compute different outputs. The verdict is on one
behaviour; this says how far the other is from it, and whether a side that cannot be run anew, a
trace or an ONNX model, computes as a dialect's code does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from porter.frameworks import exchange
from porter.mapping.table import Behaviour
from porter.planning.behaviour import CHOICES, behaviour_of, settings
from porter.tensors.blocks import Array
from porter.verification.checks import EXACT, Deviation
from porter.verification.compare import Figures, compare
from porter.verification.diagnose.finding import WHOLE, Finding
from porter.verification.sides.pair import Pair
from porter.verification.sides.side import Can, Side
from porter.verification.verdict import Verdict

_Outputs = Mapping[str, Array]


def with_behaviour(verdict: Verdict, pair: Pair, diagnose: bool) -> Verdict:
    """Add how far the behaviour that was not judged is; the sides' processes keep its model.

    If the verdict fails and `diagnose` is set, the behaviours of all dialects of the family are
    tried on a checkpoint, against a side that cannot be run anew.
    """
    failed = not all(check.passed for check in verdict.checks)
    if failed and diagnose:
        verdict = replace(verdict, findings=(*_named(verdict, pair), *verdict.findings))
    sides = {"left": pair.left, "right": pair.right}
    concerned = {n: s for n, s in sides.items() if _can_differ(s)}
    if not concerned:
        return verdict
    pair.steps.begin("the other behaviour")
    other = next(choice for choice in CHOICES if choice != verdict.behaviour)
    judged = {name: _exact(side, pair.case) for name, side in sides.items()}
    again = dict(judged)
    found = []
    for name, side in concerned.items():
        rows = side.prepared.behaviour
        chosen = settings(rows) if other == "dialect" else {}
        again[name] = _run(pair, side, chosen, f"{name}-{other}")
        about = tuple(f"{row.about}, {row.seen}" for row in rows)
        figures = _worst(again[name], judged[name])
        found.append(Deviation(name, other, about, settings(rows), figures))
    if again["right"]:
        figures = _worst(again["right"], again["left"])
        found.append(Deviation("both", other, (), {}, figures))
    return replace(verdict, deviations=tuple(found))


def _can_differ(side: Side) -> bool:
    return Can.WEIGHTS in side.can and bool(side.prepared.behaviour)


def _exact(side: Side, case: str) -> _Outputs:
    """Return the float64 outputs of one case; nothing where a side has no such run."""
    outputs = side.trace.outputs.get(EXACT, {})
    return {key: array for key, array in outputs.items() if key.rpartition("/")[0] == case}


def _run(pair: Pair, side: Side, chosen: Mapping[str, bool | float], name: str) -> _Outputs:
    """Return the float64 outputs of a checkpoint for one case, with other settings."""
    prepared = side.prepared
    request = {**prepared.request, "config": dict(chosen)}
    folder = pair.folder / name
    folder.mkdir(exist_ok=True)
    arrays, _ = exchange.load(pair.inputs, {pair.case})
    exchange.save(folder / "inputs.safetensors", arrays, {})
    again = side.loaded_with(replace(prepared, request=request), folder)
    again.rounded = side.rounded
    again.compute(folder / "inputs.safetensors", (EXACT,))
    return pair.compared(side, _exact(again, pair.case))


def _worst(found: _Outputs, reference: _Outputs) -> Figures:
    figures = [compare(found.get(key), reference.get(key)) for key in reference]
    return max(figures, key=lambda one: (bool(one.problem), one.error))


def _named(verdict: Verdict, pair: Pair) -> Iterator[Finding]:
    """Yield the behaviour of a dialect that makes the checkpoint agree with the other side."""
    runnable = [side for side in (pair.left, pair.right) if Can.WEIGHTS in side.can]
    if len(runnable) != 1:
        return
    (side,) = runnable
    other = pair.right if side is pair.left else pair.left
    precision = EXACT if EXACT in other.trace.outputs else pair.precision
    wanted = {
        key: array
        for key, array in other.trace.outputs[precision].items()
        if key.rpartition("/")[0] == pair.case
    }
    limit = max(check.limit for check in verdict.checks if check.precision == precision)
    before = _worst(_exact(side, pair.case), wanted).error
    for dialect, rows in _behaviours(side):
        chosen = settings(rows)
        if chosen == side.report.behaviour:
            continue
        after = _worst(_run(pair, side, chosen, f"as-{dialect}"), wanted).error
        if after <= max(limit, 1e-3 * before):
            what = "; ".join(row.about for row in rows)
            yield Finding(
                WHOLE, f"computes as {dialect}, whose code {what}",
                f"compare with --behaviour dialect and the dialect {dialect}", before, after,
            )  # fmt: skip
            return


def _behaviours(side: Side) -> Iterator[tuple[str, tuple[Behaviour, ...]]]:
    """Yield the dialects of the family that compute otherwise, each behaviour once."""
    variant = side.prepared.architecture
    seen: list[dict[str, bool | int | float]] = []
    for dialect in variant.dialects:
        rows = behaviour_of(variant, dialect)
        if rows and settings(rows) not in seen:
            seen.append(settings(rows))
            yield dialect, rows
