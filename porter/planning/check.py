"""Prove a table: total, unambiguous and exact, for every variant and dialect, both ways.

Nothing is read but names and shapes: the skeletons stand for the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from porter.errors import MappingError, PorterError, listed
from porter.mapping.fold import fold
from porter.mapping.link import Linked
from porter.mapping.table import CANONICAL
from porter.planning.plan import link_variant, plan
from porter.tensors import operations
from porter.zoo.architectures import Architecture
from porter.zoo.canonical import canonical_tensors
from porter.zoo.skeleton import Bound


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome for one variant and dialect; `problems` is empty when it holds."""

    variant: str
    dialect: str
    tensors: int
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the table is proven for this variant and dialect."""
        return not self.problems


def check(variants: Iterable[Architecture]) -> Iterator[Proof]:
    """Yield one proof for each dialect of each variant."""
    for architecture in variants:
        for dialect in architecture.table.dialects:
            yield prove(architecture, dialect)


def prove(architecture: Architecture, dialect: str) -> Proof:
    """Prove one dialect of one variant: shapes agree, both directions plan, nothing is left."""
    features = tuple(architecture.skeleton().features)
    problems: list[str] = []
    count = 0
    for chosen in ((), features) if features else ((),):
        try:
            there = dialect_tensors(architecture, dialect, chosen)
            count = max(count, len(there))
            problems += _held_to_model(architecture, dialect, chosen, there)
            forth = plan(architecture, there, dialect, CANONICAL)
            back = plan(architecture, forth.canonical, CANONICAL, dialect)
            problems += _inverse(forth.source, forth.canonical)
            problems += _inverse(back.target, back.canonical)
        except (PorterError, operations.ShapeError) as error:
            problems.append(str(error))
    return Proof(architecture.name, dialect, count, tuple(dict.fromkeys(problems)))


def dialect_tensors(
    architecture: Architecture, dialect: str, features: tuple[str, ...] = ()
) -> Bound:
    """Return {name: (dtype, shape)} of a variant's default checkpoint in a dialect."""
    linked = link_variant(architecture, dialect, features)
    canonical = canonical_tensors(architecture, features)
    found: Bound = {}
    for made in linked.links:
        if made.constant and made.canonical[0] not in canonical:
            continue
        missing = [name for name in made.canonical if name not in canonical]
        if missing:  # a table of the user's own, and a checkpoint that has a part of a row
            raise MappingError(f"{listed(missing)} is missing for {listed(made.dialect)}")
        dtype = canonical[made.canonical[0]][0]
        shapes = made.dialect_shapes([canonical[name][1] for name in made.canonical])
        found.update(
            {name: (dtype, shape) for name, shape in zip(made.dialect, shapes, strict=True)}
        )
    return found


def _held_to_model(
    architecture: Architecture, dialect: str, features: tuple[str, ...], there: Bound
) -> list[str]:
    """Compare what the table makes with the reference model's own skeleton, where there is one."""
    if dialect not in ("torch", "paddle") or not architecture.module:
        return []
    skeleton = architecture.skeleton(dialect)
    wanted = skeleton.bind(architecture.symbols(), features)
    constant = {entry.name for entry in skeleton.entries if entry.constant}
    made = {name: value for name, value in there.items() if name not in constant}
    problems = [f"the model has {name}" for name in fold(set(wanted) - set(made))]
    problems += [f"the model has no {name}" for name in fold(set(made) - set(wanted))]
    problems += [
        f"{name}: the table makes {list(made[name][1])}, the model has {list(shape)}"
        for name, (_, shape) in wanted.items()
        if name in made and made[name][1] != shape
    ]
    return [f"{dialect}: {problem}" for problem in problems]


def _inverse(linked: Linked, canonical: Bound) -> list[str]:
    """Hold that each link's shape rules undo each other."""
    problems = []
    for made in linked.links:
        if made.canonical[0] not in canonical:
            continue
        shapes = [canonical[name][1] for name in made.canonical]
        try:
            if made.canonical_shapes(made.dialect_shapes(shapes)) != shapes:
                problems.append(f"{made.canonical[0]} does not come back")
        except operations.ShapeError as error:
            problems.append(f"{made.canonical[0]} {list(shapes[0])}: {error}")
    return problems
