"""Faults of the code, and of weights that are not available, tried on the reference.

A module that causes a difference is run again on the left side with each fault that ports are
known for; the one that gives the right side's outputs, from the same arguments, is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from porter.tensors.blocks import Array
from porter.verification.diagnose.finding import WHOLE, Finding
from porter.verification.diagnose.isolate import Calls, error, outputs
from porter.verification.diagnose.layers import Isolated
from porter.verification.sensitivity.mutate import Mutation
from porter.verification.sides.side import Side

EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
_ACTIVATIONS = {
    "tanh": "computes GELU by the tanh approximation, not by erf",
    "quick": "computes GELU as x sigmoid(1.702 x), not by erf",
    "relu": "has ReLU where the reference has GELU",
    "silu": "has SiLU where the reference has GELU",
    "erf": "computes GELU by erf, not as the reference does",
}
_LEAVES = ("Linear", "Conv", "Norm", "Embedding")
_SETTINGS = ("eps", "num_heads", "scale")


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault to try, with the changes that give it to the reference."""

    what: str
    remedy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)


def diagnose(
    left: Side,
    calls: Calls,
    isolated: Mapping[str, Isolated],
    kinds: Mapping[str, str],
    mutations: Mapping[str, Sequence[Mutation]],
) -> list[Finding]:
    """Name the fault of each module in `isolated`, all of which cause a difference.

    `mutations` lists possible faults of the weights by module, where the right side's weights
    are not available. A module for which no fault fits is not in the result.
    """
    modules = sorted({place.partition("#")[0] for place in isolated})
    settings = left.settings(modules, _SETTINGS)
    wanted = outputs(calls)
    findings: list[Finding] = []
    for place, result in isolated.items():
        module = place.partition("#")[0]
        trials = [
            *_trials(kinds.get(place, ""), settings[module]),
            *(Trial(m.what, m.remedy, tensors=m.tensors) for m in mutations.get(module, ())),
        ]
        known = {finding.what for finding in findings}
        enough = max(result.limit, 1e-3 * result.error)
        best = _best(left, calls, place, [t for t in trials if t.what in known], wanted[place])
        if best is None or best[1] > enough:
            others = [trial for trial in trials if trial.what not in known]
            best = _best(left, calls, place, others, wanted[place]) or best
        if best is not None and best[1] <= enough:
            trial, after = best
            findings.append(Finding(place or WHOLE, trial.what, trial.remedy, result.error, after))
    return findings


def _best(
    left: Side, calls: Calls, place: str, trials: Sequence[Trial], wanted: Mapping[str, Array]
) -> tuple[Trial, float] | None:
    """Return the trial that is closest to the right side's outputs, and its error."""
    if not trials:
        return None
    values = {
        f"{index}/{name}": array
        for index, trial in enumerate(trials)
        for name, array in trial.tensors.items()
    }
    requests = [
        {
            "place": place,
            "settings": trial.settings,
            "tensors": {name: f"{index}/{name}" for name in trial.tensors},
        }
        for index, trial in enumerate(trials)
    ]
    results = left.rerun(calls.path, "float64", requests, values)
    errors = [error(wanted, outputs) for outputs in results]
    index = min(range(len(trials)), key=errors.__getitem__)
    return trials[index], errors[index]


def _trials(kind: str, settings: Mapping[str, int | float]) -> Iterator[Trial]:
    eps = settings.get("eps")
    if eps is not None:
        for value in EPS:
            if value != eps:
                yield Trial(
                    f"has eps {value:g}, not {eps:g}", f"set eps to {eps:g}", {"eps": value}
                )
    heads, scale = settings.get("num_heads"), settings.get("scale")
    if heads is not None:
        yield from _head_counts(int(heads), scale)
    if scale is not None:
        yield from _scales(scale, heads)
    if not any(leaf in kind for leaf in _LEAVES):
        for name, what in _ACTIVATIONS.items():
            yield Trial(what, "use the reference's activation", {"activation": name})


def _head_counts(heads: int, scale: float | None) -> Iterator[Trial]:
    for other in sorted({heads * k for k in (2, 3, 4)} | {heads // k for k in (2, 3, 4, 6)} | {1}):
        if other in (0, heads):
            continue
        if scale is not None and round(heads * scale**-2) % other:
            continue  # the width, heads times head_dim, is not a multiple of it
        what, remedy = f"has {other} heads, not {heads}", f"set the number of heads to {heads}"
        if scale is not None:
            new = scale * (other / heads) ** 0.5
            yield Trial(what, remedy, {"num_heads": other, "scale": new})
            what += f", scaled as for {heads}"
        yield Trial(what, remedy, {"num_heads": other})


def _scales(scale: float, heads: int | float | None) -> Iterator[Trial]:
    remedy = f"scale the scores by {scale:.6g}"
    yield Trial("does not scale the attention scores", remedy, {"scale": 1.0})
    if heads is not None:
        new = scale * float(heads) ** -0.5
        yield Trial("scales the scores by dim^-0.5, not head_dim^-0.5", remedy, {"scale": new})
