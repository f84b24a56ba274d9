"""Run modules of the left side with the right side's arguments: which cause, which propagate.

The right side's arguments and outputs come from its own run, live or recorded; the left side,
whose code and weights are the reference, computes each module from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from porter.frameworks import exchange
from porter.tensors.blocks import Array
from porter.verification import tolerance
from porter.verification.checks import EXACT, SINGLE, LayerCheck
from porter.verification.compare import compare
from porter.verification.diagnose.layers import Isolated
from porter.verification.sides.side import Can, Side

MOST = 600
"""Modules that are run; those of the first diverging blocks come first."""
_CHUNK = 512 << 20
"""Bytes of arguments and outputs that are kept at a time."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The arguments and outputs of the right side's modules, in one file."""

    path: str
    precision: str
    places: tuple[str, ...]


def calls_of(checks: Sequence[LayerCheck], right: Side, inputs: Path) -> Iterator[Calls]:
    """Yield the right side's calls of every module that differs, a bounded number at a time."""
    wanted = [c for c in checks if not c.passed][:MOST]
    outputs = right.trace.outputs
    precision = EXACT if EXACT in outputs else next(iter(outputs))
    case = right.trace.cases[0]
    chunks = _chunks(wanted) if Can.RUN in right.can else [[check.place for check in wanted]]
    for index, chunk in enumerate(chunks):
        modules = sorted({place.partition("#")[0] for place in chunk})
        path = right.calls(inputs, case, precision, modules, str(index))
        if path:
            known = exchange.about(path)["calls"]
            yield Calls(path, precision, tuple(place for place in chunk if place in known))


def _chunks(checks: Sequence[LayerCheck]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for check in checks:
        nbytes = 3 * 8 * prod(check.judged.shape if check.judged is not None else ())
        if chunk and size + nbytes > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(check.place)
        size += nbytes
    if chunk:
        yield chunk


def isolated(left: Side, calls: Calls) -> dict[str, Isolated]:
    """Run each module on the left with the right side's arguments."""
    trials = [{"place": place} for place in calls.places]
    reference = left.rerun(calls.path, EXACT, trials)
    single = left.rerun(calls.path, SINGLE, trials) if calls.precision != EXACT else None
    results = outputs(calls)
    result = {}
    for index, place in enumerate(calls.places):
        limit = _limit(calls.precision, reference[index], single[index] if single else None)
        result[place] = Isolated(error(results[place], reference[index]), limit)
    return result


def _limit(
    precision: str, reference: Mapping[str, Array], single: Mapping[str, Array] | None
) -> float:
    if single is None:
        return tolerance.limit_exact(0.0)
    return tolerance.limit_isolated(precision, error(single, reference))


def outputs(calls: Calls) -> dict[str, dict[str, Array]]:
    """Return the outputs of the right side's modules, {place: {part: array}}."""
    arrays, _ = exchange.load(calls.path, lambda name: name.startswith("layer/"))
    results: dict[str, dict[str, Array]] = {place: {} for place in calls.places}
    prefixes = ("layer/", f"layer/{calls.precision}/")  # of a run's file, of a trace
    for name, array in arrays.items():
        for prefix in prefixes:
            place, at, part = name[len(prefix) :].partition("@")
            if name.startswith(prefix) and place in results:
                results[place][f"{at}{part}"] = array
    return results


def error(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Return the largest error of a module's outputs, infinite where they cannot be compared."""
    figures = [compare(outputs.get(part), reference.get(part)) for part in {**reference, **outputs}]
    return max((f.error if not f.problem else float("inf") for f in figures), default=float("inf"))
