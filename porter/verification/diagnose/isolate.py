"""Run modules of the left side with the right side's arguments: who causes, who propagates.

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
from porter.verification.checks import LayerCheck
from porter.verification.compare import compare
from porter.verification.diagnose.layers import Alone
from porter.verification.live import Live
from porter.verification.trace import Trace

MOST = 600
"""Modules looked at; those of the first diverging blocks come first."""
_CHUNK = 512 << 20
"""Bytes of arguments and outputs that are kept at a time."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What the right side's modules were called with and gave, in one file."""

    path: str
    precision: str
    places: tuple[str, ...]


def calls_of(
    checks: Sequence[LayerCheck], right: Trace, live: Live | None, inputs: Path
) -> Iterator[Calls]:
    """Yield the right side's calls of every module that differs, a bounded number at a time."""
    wanted = [c for c in checks if not c.passed][:MOST]
    precision = "float64" if "float64" in right.outputs else next(iter(right.outputs))
    if live is None:
        if right.calls:
            known = exchange.about(right.calls)["calls"]
            places = tuple(c.place for c in wanted if c.place in known)
            yield Calls(right.calls, precision, places)
        return
    case = next(iter(right.inputs))
    for index, chunk in enumerate(_chunks(wanted)):
        modules = sorted({place.partition("#")[0] for place in chunk})
        path = live.keep_calls(inputs, case, precision, modules, str(index % 2))
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


def alone(left: Live, calls: Calls) -> dict[str, Alone]:
    """Run each module on the left with the right side's arguments."""
    trials = [{"place": place} for place in calls.places]
    reference = left.rerun(calls.path, "float64", trials)
    own = left.rerun(calls.path, "float32", trials) if calls.precision != "float64" else None
    found = outputs(calls)
    result = {}
    for index, place in enumerate(calls.places):
        limit = _limit(calls.precision, reference[index], own[index] if own else None)
        result[place] = Alone(error(found[place], reference[index]), limit)
    return result


def _limit(
    precision: str, reference: Mapping[str, Array], own: Mapping[str, Array] | None
) -> float:
    if own is None:
        return tolerance.limit_exact(0.0)
    return tolerance.limit_alone(precision, error(own, reference))


def outputs(calls: Calls) -> dict[str, dict[str, Array]]:
    """Return what the right side's modules gave, {place: {part: array}}."""
    arrays, _ = exchange.load(calls.path, lambda name: name.startswith("layer/"))
    found: dict[str, dict[str, Array]] = {place: {} for place in calls.places}
    prefixes = ("layer/", f"layer/{calls.precision}/")  # of a run's file, of a trace
    for name, array in arrays.items():
        for prefix in prefixes:
            place, at, part = name[len(prefix) :].partition("@")
            if name.startswith(prefix) and place in found:
                found[place][f"{at}{part}"] = array
    return found


def error(found: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Return the largest error of a module's outputs, infinite where they cannot be compared."""
    figures = [compare(found.get(part), reference.get(part)) for part in {**reference, **found}]
    return max((f.error if not f.problem else float("inf") for f in figures), default=float("inf"))
