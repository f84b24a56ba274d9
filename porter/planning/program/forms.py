"""The forms of a variant's program: as it is trained, or merged for deployment.

Deployment folds a batch norm into the convolution before it, and PP-LCNetV3's parallel branches
into one convolution. What was merged cannot be taken apart; it has a place in the first of the
tensors that it was merged from, and the others are set so that they change nothing.

SLANeXt's and PP-FormulaNet's norms of maps are written out in PaddleOCR's code, and one
operation in that of PaddleX; the table models have a head besides, which PaddleX's classes lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from porter.codecs.paddle.wiring import Step
from porter.zoo.wiring import CONSTANT

_BRANCHES = ("identity", "conv_symmetric", "conv_small_symmetric")
"""The modules of PP-LCNetV3 whose results are added, below one module."""
_NORM = "batch_norm:"


@dataclass(frozen=True, slots=True)
class Form:
    """Steps, and what is not in them."""

    steps: Sequence[Step]
    filled: dict[str, float] = field(default_factory=dict)
    """Values of the tensors that were merged into others."""
    merged: tuple[str, ...] = ()
    """The modules that were merged."""


def forms(steps: Sequence[Step]) -> Iterator[Form]:
    """Yield the form of the authors' code, then those of deployment and of PaddleX's code."""
    for form in _deployed(Form(steps)):
        found = [form]
        for change in (_with_norms, _without_constants):
            found += [other for other in map(change, found) if other not in found]
        yield from found


def _with_norms(form: Form) -> Form:
    """Return the form in which a norm that is written out is one operation."""
    chains: dict[tuple[int, ...], _Chain] = {}
    for at, step in enumerate(form.steps[:-1]):
        after = form.steps[at + 1]
        if (step.label, after.label, after.before) == ("multiply", "add", (at,)):
            names = (step.parameters[0], after.parameters[0])
            if names[0].removesuffix("weight") == names[1].removesuffix("bias"):
                chains[at, at + 1] = (("layer_norm", names),)
    return replace(form, steps=_collapsed(form.steps, chains)) if chains else form


def _without_constants(form: Form) -> Form:
    """Return the form without the operations at the end that are not of the model."""
    left = list(form.steps)
    while left and all(name.startswith(CONSTANT) for name in left[-1].parameters):
        left.pop()
    return form if len(left) == len(form.steps) else replace(form, steps=left)


def _deployed(plain: Form) -> Iterator[Form]:
    """Yield a form, and those in which norms and branches are merged."""
    yield plain
    branches = _merged(plain)
    if branches.merged:
        yield branches
    for form in (plain, branches) if branches.merged else (plain,):
        folded = _folded(form)
        if folded.merged != form.merged:
            yield folded


def _merged(form: Form) -> Form:
    """Return the form in which parallel branches are one convolution."""
    groups: dict[str, list[int]] = {}
    for at, step in enumerate(form.steps):
        module = _branch_of(step.parameters[0])
        if module:
            groups.setdefault(module, []).append(at)
    filled, chains = dict(form.filled), {}
    for module, members in groups.items():
        first = f"{module}.conv_symmetric.0"
        weight, bias = f"{first}.convolution.weight", f"{first}.normalization.bias"
        names = [name for at in members for name in form.steps[at].parameters]
        filled |= {name: _neutral(name) for name in names if name not in (weight, bias)}
        norm = next(form.steps[at].label for at in members if bias in form.steps[at].parameters)
        filled[f"{first}.normalization._variance"] = 1 - float(norm.removeprefix(_NORM))
        label = next(form.steps[at].label for at in members if weight in form.steps[at].parameters)
        chains[tuple(members)] = ((label, (weight,)), ("add", (bias,)))
    return Form(_collapsed(form.steps, chains), filled, (*form.merged, *groups))


def _branch_of(name: str) -> str:
    """Return the module of whose branches a tensor is part, empty if it is of none."""
    words = name.split(".")
    places = [at for at, word in enumerate(words) if word in _BRANCHES]
    return ".".join(words[: places[0]]) if places else ""


def _neutral(name: str) -> float:
    """Return the value with which a branch adds nothing."""
    *_, module, leaf = name.split(".")
    passes = leaf == "weight" and module in ("convolution", "identity")
    return 0.0 if passes or leaf in ("bias", "_mean") else 1.0


def _folded(form: Form) -> Form:
    """Return the form in which each batch norm after a convolution is part of it."""
    readers: dict[int, list[int]] = {}
    for at, step in enumerate(form.steps):
        for place in step.before:
            readers.setdefault(place, []).append(at)
    filled, chains = dict(form.filled), {}
    modules = []
    for at, norm in enumerate(form.steps):
        run = _convolution(form.steps, at, readers) if norm.label.startswith(_NORM) else []
        if not run:
            continue
        mean, variance, weight, bias = norm.parameters
        filled |= {mean: 0.0, weight: 1.0, variance: 1 - float(norm.label.removeprefix(_NORM))}
        filled |= {name: 0.0 for place in run[1:] for name in form.steps[place].parameters}
        first = form.steps[run[0]]
        chains[(*run, at)] = ((first.label, first.parameters[:1]), ("add", (bias,)))
        modules.append(bias.rpartition(".")[0])
    return Form(_collapsed(form.steps, chains), filled, (*form.merged, *modules))


def _convolution(steps: Sequence[Step], norm: int, readers: dict[int, list[int]]) -> list[int]:
    """Return the convolution that only a norm reads, with the step that adds its bias."""
    run: list[int] = []
    at = norm
    while len(steps[at].before) == 1 and readers[steps[at].before[0]] == [at]:
        at = steps[at].before[0]
        run.insert(0, at)
        if steps[at].label.startswith("conv"):
            return run
        if steps[at].label != "add" or len(run) > 1:
            return []
    return []


_Chain = tuple[tuple[str, tuple[str, ...]], ...]
"""Steps one after the other: (label, parameters)."""


def _collapsed(steps: Sequence[Step], chains: Mapping[tuple[int, ...], _Chain]) -> list[Step]:
    """Return the steps with each group of them replaced by a chain, at the place of its first."""
    group_of = {at: group for group in chains for at in group}
    found: list[Step] = []
    places: dict[int, int] = {}
    for at, step in enumerate(steps):
        group = group_of.get(at)
        if group is None:
            found.append(replace(step, before=_moved(step.before, places)))
            places[at] = len(found) - 1
        elif at == group[0]:
            outside = {b for member in group for b in steps[member].before if b not in group}
            before = _moved(outside, places)
            for label, names in chains[group]:
                found.append(Step(label, names, before))
                before = (len(found) - 1,)
            places.update(dict.fromkeys(group, len(found) - 1))
    return found


def _moved(before: Sequence[int] | set[int], places: dict[int, int]) -> tuple[int, ...]:
    return tuple(sorted({places[at] for at in before}))
