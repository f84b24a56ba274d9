"""Place a foreign graph's weights by what they compute: layer by layer against the template.

Layers are matched by everything above them, down from the image, and everything below,
up from the output; one of the two is enough where it leaves no choice. No name has a part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, prod

import numpy as np

from porter.errors import InputError, printable
from porter.onnx.graph.flow import Flow, Layer, Norm
from porter.onnx.graph.steps import Static, Take, same_elements
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor, Shape

_ROUNDED = 0.1
"""How far an epsilon may be off by being stored in float16."""
IDENTITY = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0}
"""A batch norm that does nothing, but for its variance, which makes up for epsilon."""


@dataclass(slots=True)
class Alignment:
    """Where each tensor of the template is found in a foreign file."""

    found: dict[str, tuple[Static, Static]] = field(default_factory=dict)
    """{canonical name: (as the template's graph sees it, as the file's graph sees it)}"""
    pieces: dict[str, list[tuple[Static, Static]]] = field(default_factory=dict)
    """The same for tensors of which the file has the parts."""
    lost: list[str] = field(default_factory=list)
    """Canonical names for which the graph has no place."""
    neutral: dict[str, float] = field(default_factory=dict)
    """Canonical names that the file lacks because they did nothing: {name: value}."""
    folded: dict[str, float] = field(default_factory=dict)
    """Tensors of folded batch norms: {name: what makes the norm do nothing}."""
    into: dict[str, str] = field(default_factory=dict)
    """{folded batch norm: the module that it was folded into}"""
    standardised: list[str] = field(default_factory=list)
    """Tensors of which the file has what the graph made of them: mean 0, variance 1."""
    epsilons: dict[str, tuple[float, float]] = field(default_factory=dict)
    """{norm: its epsilon in the template and in the file}, where they differ"""


def align(template: Flow, foreign: Flow) -> Alignment:
    """Return where the template's weights are in the foreign graph."""
    pairs = _pairs(template, foreign)
    made = Alignment()
    for index, layer in enumerate(template.layers):
        other = foreign.layers[pairs[index]] if index in pairs else None
        for role, slot in layer.slots.items():
            if slot.root not in template.scalars:
                _place(made, role, slot, other)
        if other is not None:
            _compare_epsilons(made, layer.slots, layer.epsilon, other.epsilon)
    norms = {norm.data.layer: norm for norm in foreign.norms}
    for norm in template.norms:
        index = norm.data.layer
        other = foreign.layers[pairs[index]] if index in pairs else None
        _place_norm(made, norm, norms.get(pairs.get(index, -1)), template.layers[index], other)
    return made


def _place(made: Alignment, role: str, slot: Static, other: Layer | None) -> None:
    if other is None:
        made.lost.append(slot.root)
        return
    found = other.slots.get(role)
    if found is not None and same_elements(slot.shape, found.shape) and slot.is_part:
        made.pieces.setdefault(slot.root, []).append((slot, found))
    elif found is not None and same_elements(slot.shape, found.shape):
        made.found[slot.root] = (slot, found)
        if slot.is_standardised and not found.is_standardised:
            made.standardised.append(slot.root)
    elif found is None and role in ("bias", "weight") and other.slots.keys() <= {"weight"}:
        made.neutral[slot.root] = 0.0 if role == "bias" else 1.0
    else:
        made.lost.append(slot.root)


def _place_norm(
    made: Alignment, norm: Norm, found: Norm | None, layer: Layer, other: Layer | None
) -> None:
    if other is None:
        made.lost += [slot.root for slot in norm.slots.values()]
        return
    if found is not None:
        for role, slot in norm.slots.items():
            _place(made, role, slot, Layer(("norm",), [], found.slots))
        _compare_epsilons(made, norm.slots, norm.epsilon, found.epsilon)
        return
    identity = {**IDENTITY, "running_var": 1.0 - norm.epsilon}
    made.folded.update({slot.root: identity[role] for role, slot in norm.slots.items()})
    module = norm.slots["weight"].root.rpartition(".")[0]
    made.into[module] = layer.slots["weight"].root.rpartition(".")[0]
    if "bias" in other.slots and "bias" not in layer.slots:
        # the convolution had no bias: what was folded becomes that of the norm
        bias = norm.slots["bias"]
        made.found[bias.root] = (bias, other.slots["bias"])
        del made.folded[bias.root]


def _compare_epsilons(
    made: Alignment, slots: Mapping[str, Static], mine: float | None, theirs: float | None
) -> None:
    if mine is None or theirs is None or isclose(mine, theirs, rel_tol=_ROUNDED):
        return
    name = next((slot.root for slot in slots.values()), "")
    made.epsilons[name.rpartition(".")[0] or "a norm without weights"] = (mine, theirs)


def _pairs(template: Flow, foreign: Flow) -> dict[int, int]:
    """Return the foreign layer of each layer of the template, where it is unambiguous."""
    above = template.above(), foreign.above()
    below = template.below(), foreign.below()
    both = [list(zip(a, b, strict=True)) for a, b in zip(above, below, strict=True)]
    stages: list[tuple[Sequence[object], Sequence[object]]] = [(both[0], both[1]), above, below]
    pairs: dict[int, int] = {}
    for mine, theirs in stages:
        groups = _groups(mine, pairs.keys()), _groups(theirs, pairs.values())
        for key, indices in groups[0].items():
            others = groups[1].get(key, [])
            if len(indices) == len(others):  # equal in all they do: any order is right
                pairs.update(zip(indices, others, strict=True))
    return pairs


def _groups(keys: Sequence[object], taken: Iterable[int]) -> dict[object, list[int]]:
    found: dict[object, list[int]] = {}
    done = set(taken)
    for index, key in enumerate(keys):
        if index not in done:
            found.setdefault(key, []).append(index)
    return found


def moved(slots: tuple[Static, Static], tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """Return the canonical tensor, of `shape`, that the foreign `tensor` contains."""
    mine, theirs = slots
    if (
        mine.steps == theirs.steps
        and tensor.shape == shape
        and not any(isinstance(step, Take) for step in mine.steps)
    ):
        return tensor

    def read() -> Array:
        try:
            seen = theirs.seen(tensor.read()).reshape(mine.shape)
            return np.ascontiguousarray(mine.unseen(seen)).reshape(shape)
        except InputError as error:
            raise InputError(f"{printable(mine.root)}: {error.message}") from error

    return LazyTensor(tensor.dtype, shape, read)


def joined(
    slots: Sequence[tuple[Static, Static]], weights: Mapping[str, LazyTensor], shape: Shape
) -> LazyTensor:
    """Return the canonical tensor, of `shape`, whose parts are the foreign tensors."""
    dtype = weights[slots[0][1].root].dtype

    def read() -> Array:
        places = np.arange(prod(shape)).reshape(shape)
        found = np.empty(prod(shape), dtype.numpy)
        missing = np.ones(prod(shape), bool)
        for mine, theirs in slots:
            where = mine.seen(places)
            found[where] = theirs.seen(weights[theirs.root].read()).reshape(mine.shape)
            missing[where] = False
        if missing.any():
            raise InputError(
                f"{printable(slots[0][0].root)}: some of its parts are not in the file"
            )
        return found.reshape(shape)

    return LazyTensor(dtype, shape, read)


def placed(
    made: Alignment, weights: Mapping[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, LazyTensor]:
    """Return the canonical tensors that were found, and those that were filled in."""
    found = {
        name: moved(slots, weights[slots[1].root], shapes[name])
        for name, slots in made.found.items()
    }
    for name, slots in made.pieces.items():
        found[name] = joined(slots, weights, shapes[name])
    for name, value in {**made.neutral, **made.folded}.items():
        if name not in found:
            found[name] = LazyTensor.of(np.full(shapes[name], value, np.float32))
    return found
