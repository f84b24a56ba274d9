"""Check a table of the gallery against the tensors that the models of its pairs have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from porter.errors import MappingError, PorterError, listed
from porter.mapping import gallery
from porter.mapping.fold import fold
from porter.mapping.gallery import Side
from porter.mapping.table import Table
from porter.planning.check import Proof, check
from porter.planning.custom_table import custom_architecture
from porter.planning.plan import plan
from porter.planning.target import Target, mismatches
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict


def proofs(table: Table, name: str, sides: Mapping[str, Side]) -> Iterator[Proof]:
    """Yield for each of two dialects whether all its tensors are made of the other's, and exactly.

    `sides` are the tensors of both models, by dialect.
    """
    for source, target in (tuple(sides), tuple(sides)[::-1]):
        problems: tuple[str, ...]
        try:
            problems = tuple(_problems(table, sides, source, target))
        except PorterError as error:
            problems = (error.message,)
        yield Proof(name, target, len(sides[target].tensors), problems)


def _problems(table: Table, sides: Mapping[str, Side], source: str, target: str) -> Iterator[str]:
    """Yield what is missing, unexpected, misshapen or not exact from one side to the other."""
    given = dict(sides[source].tensors)
    architecture = custom_architecture(table, given, source)
    found = plan(architecture, given, source, target)
    converted = found.apply(StateDict({n: tensor(*row) for n, row in given.items()}))
    yield from mismatches(converted, model(target, sides[target]), found.target)
    for proof in check([architecture]):
        yield from proof.problems


def model(name: str, side: Side) -> Target:
    """Return the tensors that a checkpoint of a model has, without its values."""
    own = {tensor_name: tensor(*row) for tensor_name, row in side.tensors.items()}
    return Target(name, own, own.keys() - side.constants, side.aliases)


def tensor(dtype: str, shape: tuple[int, ...]) -> LazyTensor:
    """Return a tensor of zeros that takes no memory."""
    return LazyTensor.of(np.broadcast_to(np.zeros((), DTYPES[dtype].numpy), shape))


def checked(name: str | None, states: Mapping[str, Mapping[str, LazyTensor]]) -> tuple[str, ...]:
    """Compare the names of checkpoints, by dialect, with those of the models of a pair.

    This is what remains where the models cannot be built; sizes may be others, such as that of a
    classifier. Returns a note on what only the last model has; nothing where `name` is not a pair
    of the gallery. `MappingError` names what is missing or unexpected.
    """
    if name is None or not gallery.is_entry(name):
        return ()
    sides = gallery.sides(name)
    models = gallery.entries()[name].models[name.removeprefix(gallery.PREFIX)]
    left_out: list[str] = []
    for dialect, state in states.items():
        side = sides[dialect]
        whole = model(f"the model {models[dialect]}", side)
        target = replace(whole, state={n: state.get(n, t) for n, t in whole.state.items()})
        problems = mismatches(state, target)
        if problems:
            raise MappingError(f"does not fit {target.name}: {'; '.join(problems)}")
        left_out = [n for n in side.tensors if n not in state and n in side.constants]
    if not left_out:
        return ()
    return (f"not written, since only the model has them: {listed(fold(left_out), 8)}",)
