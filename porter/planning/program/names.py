"""The names of a Paddle inference model's tensors: by where its operations read them.

The names of a program (`conv2d_17.w_0`) say nothing. Its steps are compared with those that are
recorded of each variant: two steps are the same when they are of one kind and so is everything
above and below them. Steps that nothing tells apart, such as parallel branches whose results are
added, are taken in the order of the program; which is which makes no difference to the outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from porter.codecs.paddle import inference, wiring
from porter.codecs.paddle.operations import program
from porter.codecs.paddle.wiring import Step
from porter.errors import MappingError, listed
from porter.mapping.fold import fold
from porter.mapping.table import CANONICAL
from porter.planning.plan import Plan, link_variant, plan
from porter.planning.program.forms import Form, forms
from porter.planning.recognise import shapes_of
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, all_variants
from porter.zoo.wiring import CONSTANT, wiring_of

DIALECT = "paddle"
"""The naming of what is recorded."""


@dataclass(frozen=True, slots=True)
class Named:
    """The names of a program's tensors."""

    architecture: Architecture
    form: Form
    names: dict[str, str]
    """{name in the program: name in the dialect}"""


def steps_of(state: StateDict) -> list[Step]:
    """Return the steps of the inference model that a state dict was read from."""
    assert state.origin is not None
    return wiring.steps(program(inference.pair(InputFile(state.origin.path))[0]), list(state))


def fitting(state: StateDict) -> list[tuple[Named, Plan]]:
    """Return the variants that an inference model is of; several differ in labels only."""
    steps, found = steps_of(state), []
    for architecture in all_variants().values():
        named = named_as(architecture, steps)
        if named is None:
            continue
        try:
            found.append((named, planned(named, state)[0]))
        except MappingError:  # of another width
            continue
    return found


def named_as(architecture: Architecture, steps: Sequence[Step]) -> Named | None:
    """Return the names of the parameters that steps of a variant read; None if they are others."""
    known = wiring_of(architecture)
    if len(known) < len(steps):  # other forms have fewer
        return None
    for form in forms(known):
        names = _aligned(steps, form.steps)
        if names is not None:
            return Named(architecture, form, names)
    return None


def _aligned(given: Sequence[Step], known: Sequence[Step]) -> dict[str, str] | None:
    """Return {parameter of the first: parameter of the second} where the steps are the same."""
    if not known or Counter(s.label for s in given) != Counter(s.label for s in known):
        return None
    numbers: dict[tuple[object, ...], int] = {}
    places: dict[int, list[int]] = {}
    for at, kind in enumerate(_kinds(known, numbers)):
        places.setdefault(kind, []).append(at)
    paired: list[int] = []
    for kind in _kinds(given, numbers):
        if not places.get(kind):
            return None
        paired.append(places[kind].pop(0))
    names: dict[str, str] = {}
    for step, at in zip(given, paired, strict=True):
        other = known[at]
        if {paired[b] for b in step.before} != set(other.before):
            return None
        for mine, theirs in zip(step.parameters, other.parameters, strict=True):
            if names.setdefault(mine, theirs) != theirs:
                return None
    return names if len(set(names.values())) == len(names) else None


def _kinds(steps: Sequence[Step], numbers: dict[tuple[object, ...], int]) -> list[int]:
    """Return a number for each step: the same for steps of one kind above and below."""

    def number(*key: object) -> int:
        return numbers.setdefault(key, len(numbers))

    down: list[int] = []
    for step in steps:
        above = sorted(down[place] for place in step.before)
        down.append(number(step.label, len(step.parameters), *above))
    below: list[list[int]] = [[] for _ in steps]
    up = [0] * len(steps)
    for at in reversed(range(len(steps))):
        up[at] = number("up", steps[at].label, *sorted(below[at]))
        for place in steps[at].before:
            below[place].append(up[at])
    return [number("both", *both) for both in zip(down, up, strict=True)]


def planned(named: Named, state: StateDict) -> tuple[Plan, StateDict, list[str]]:
    """Return the plan of a program's tensors, those under the dialect's names, and which it lacks.

    `MappingError` where the sizes are not the variant's.
    """
    tensors = StateDict(
        {
            one: state[name]
            for name, shared in named.names.items()
            for one in shared.split("=")
            if not one.startswith(CONSTANT)
        },
        state.origin,
    )
    fill: dict[str, float] = {}
    unread: list[str] = []
    for name, link in link_variant(named.architecture, DIALECT).by_dialect.items():
        has_default = link.optional and not (link.fill is None and link.same is None)
        if name in tensors or link.constant or has_default:
            continue
        value = named.form.filled.get(name)
        if value is None:
            unread.append(name)
            value = float(name.endswith(("scale", "_variance")))
        fill |= dict.fromkeys(link.canonical, value)
    path = None if state.origin is None else state.origin.path
    found = plan(named.architecture, shapes_of(tensors), DIALECT, CANONICAL, fill=fill, path=path)
    return found, tensors, unread


def canonical(named: Named, state: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """Return the canonical state dict of a program's tensors, and notes on how it was obtained."""
    found, tensors, unread = planned(named, state)
    notes = [f"{len(tensors)} tensors placed by what the program does with them"]
    if named.form.merged:
        notes.append(f"merged for deployment, one way: {listed(fold(named.form.merged), 6)}")
    if unread:
        notes.append(f"not in the program, neutral values: {listed(fold(unread), 6)}")
    left = [name for name in state if named.names.get(name, CONSTANT).startswith(CONSTANT)]
    if left:
        notes.append(f"left out, not of the model: {listed(left, 6)}")
    return StateDict(found.read(tensors), state.origin), tuple(notes)
