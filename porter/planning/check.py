"""Prove a table: total, unambiguous and exact, for every variant and dialect, both ways.

Only names and shapes are read: the skeletons are used in place of checkpoints.
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
    """The outcome for one variant and dialect; `problems` is empty when it is proven."""

    variant: str
    dialect: str
    tensors: int
    problems: tuple[str, ...] = ()
    words: str = "total and exact"
    """What is shown where nothing is wrong."""

    @property
    def holds(self) -> bool:
        """Whether the table is proven for this variant and dialect."""
        return not self.problems


def check(variants: Iterable[Architecture]) -> Iterator[Proof]:
    """Yield one proof for each dialect of each variant."""
    for architecture in variants:
        for dialect in architecture.dialects:
            yield prove(architecture, dialect)


def prove(architecture: Architecture, dialect: str) -> Proof:
    """Prove one dialect of one variant: shapes agree, both directions are total and inverse."""
    features = tuple(architecture.skeleton().features)
    problems: list[str] = []
    count = 0
    for chosen in ((), features) if features else ((),):
        try:
            tensors = dialect_tensors(architecture, dialect, chosen)
            count = max(count, len(tensors))
            problems += _against_model(architecture, dialect, chosen, tensors)
            forth = plan(architecture, tensors, dialect, CANONICAL)
            problems += _inverse(forth.source, forth.canonical)
            if not forth.source.dialect.folds:
                back = plan(architecture, forth.canonical, CANONICAL, dialect)
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
    tensors: Bound = {}
    for link in linked.links:
        if link.constant and link.canonical[0] not in canonical:
            continue
        missing = [name for name in link.canonical if name not in canonical]
        if missing:  # a custom table, and a checkpoint that has a part of a row
            raise MappingError(f"{listed(missing)} is missing for {listed(link.dialect)}")
        dtype = canonical[link.canonical[0]][0]
        shapes = link.dialect_shapes([canonical[name][1] for name in link.canonical])
        tensors.update(
            {name: (dtype, shape) for name, shape in zip(link.dialect, shapes, strict=True)}
        )
    return tensors


def _against_model(
    architecture: Architecture, dialect: str, features: tuple[str, ...], tensors: Bound
) -> list[str]:
    """Compare the table's tensors with those of the reference model, where there is one."""
    if dialect not in ("torch", "paddle") or not architecture.module:
        return []
    skeleton = architecture.skeleton(dialect)
    model = skeleton.bind(architecture.symbols(), features)
    constants = {tensor.name for tensor in skeleton.tensors if tensor.constant}
    mapped = {name: value for name, value in tensors.items() if name not in constants}
    problems = [f"the model has {name}" for name in fold(set(model) - set(mapped))]
    problems += [f"the model has no {name}" for name in fold(set(mapped) - set(model))]
    problems += [
        f"{name}: {list(mapped[name][1])} by the table, the model has {list(shape)}"
        for name, (_, shape) in model.items()
        if name in mapped and mapped[name][1] != shape
    ]
    return [f"{dialect}: {problem}" for problem in problems]


def _inverse(linked: Linked, canonical: Bound) -> list[str]:
    """Return the links whose shape rules do not undo each other."""
    problems = []
    for link in linked.links:
        if link.canonical[0] not in canonical:
            continue
        shapes = [canonical[name][1] for name in link.canonical]
        try:
            if link.canonical_shapes(link.dialect_shapes(shapes)) != shapes:
                problems.append(f"{link.canonical[0]} does not come back")
        except operations.ShapeError as error:
            problems.append(f"{link.canonical[0]} {list(shapes[0])}: {error}")
    return problems
