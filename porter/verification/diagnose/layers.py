"""Layer by layer: where two sides diverge, and whether that is rounding or a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from porter.frameworks.runner import sampled
from porter.verification import tolerance
from porter.verification.checks import CARRIES, CAUSES, EXACT, SINGLE, UNKNOWN, LayerCheck
from porter.verification.compare import Figures, compare
from porter.verification.trace import SAMPLE, Layers, Trace

_PASS_ON = {"Dropout", "DropPath", "Identity"}
"""Modules that return their input in evaluation mode: they would only be repetitions."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """A module run by the left side with the right side's arguments, against the right's output."""

    error: float
    limit: float

    @property
    def differs(self) -> bool:
        """Whether the two sides compute different outputs from the same arguments."""
        return not self.error <= self.limit


def compare_layers(left: Trace, right: Trace, precision: str) -> tuple[LayerCheck, ...]:
    """Compare every module that both sides have, in the order in which the left finished them.

    Modules that only one side has are left out: traces of other implementations have others.
    """
    if EXACT not in left.layers:
        return ()
    reference = left.layers[EXACT]
    return tuple(
        _check(place, left, right, precision)
        for place in reference.values
        if any(place in layers.values for layers in right.layers.values())
        and reference.kinds.get(place) not in _PASS_ON
    )


def _check(place: str, left: Trace, right: Trace, precision: str) -> LayerCheck:
    reference = left.layers[EXACT]
    own = _figures(place, left.layers.get(SINGLE), reference)
    exact = _figures(place, right.layers.get(EXACT), reference)
    rounded = _figures(place, right.layers.get(precision), reference)
    error = own.error if own is not None else 0.0
    limit = tolerance.limit_exact(error) if exact else tolerance.limit(precision, error)
    judged = exact or rounded
    assert judged is not None
    # A ReLU may well be dead: a layer whose reference is all zeros is not a fault.
    problem = "" if judged.zero_reference else judged.problem
    if not problem and judged.error > limit:
        problem = f"error {judged.error:.1e} is over the limit {limit:.1e}"
    kind = reference.kinds.get(place.partition("@")[0], "")
    return LayerCheck(place, kind, own, rounded, exact, limit, problem)


def _figures(place: str, found: Layers | None, reference: Layers) -> Figures | None:
    if found is None or place not in found.values:
        return None
    shapes = found.shapes[place], reference.shapes[place]
    if shapes[0] != shapes[1]:
        return Figures(shapes[0], problem=f"shape {list(shapes[0])}, not {list(shapes[1])}")
    values = (sampled(layers.values[place], SAMPLE) for layers in (found, reference))
    return replace(compare(*values), shape=shapes[0])


def first_divergence(checks: tuple[LayerCheck, ...]) -> LayerCheck | None:
    """Return the first module, in order of execution, whose output is not the left's."""
    return next((check for check in checks if not check.passed), None)


def describe(checks: tuple[LayerCheck, ...]) -> str:
    """Return in one sentence whether the layers show rounding or a fault, and where it begins."""
    first = first_divergence(checks)
    if not checks:
        return ""
    before = checks if first is None else checks[: checks.index(first)]
    errors = [c.judged.error for c in before if c.judged is not None and not c.judged.problem]
    quiet = max(errors, default=0.0)
    if first is None:
        return f"rounding only: no layer differs by more than {quiet:.1e}"
    error = first.judged.error if first.judged is not None else float("nan")
    jump = f"differs by {error:.1e}" if error == error else first.problem
    until = f"all {len(before)} layers before it by at most {quiet:.1e}" if before else "the first"
    return f"a fault, not rounding: {first.place or 'the model'} {jump}, {until}"


def roles(
    checks: tuple[LayerCheck, ...], isolated: Mapping[str, Isolated]
) -> tuple[LayerCheck, ...]:
    """Tell the layers that cause a difference from those that pass it on.

    `isolated` says how each module does when the left side runs it with the right side's arguments:
    one that then still differs causes, unless a module inside it does.
    """
    guilty = {place for place, result in isolated.items() if result.differs}
    labelled = []
    for check in checks:
        place = check.place
        if check.passed:
            labelled.append(check)
        elif place not in isolated:
            labelled.append(replace(check, role=UNKNOWN))
        else:
            inner = any(inside(other, place) for other in guilty)
            role = CAUSES if place in guilty and not inner else CARRIES
            labelled.append(replace(check, role=role, alone=isolated[place].error))
    return tuple(labelled)


def inside(place: str, outer: str) -> bool:
    """Whether a module is a part of another; all others are parts of the whole model, ""."""
    module, parent = place.partition("#")[0], outer.partition("#")[0]
    return module != parent and (parent == "" or module.startswith(parent + "."))
