"""Match a checkpoint with a variant and plan, before a byte is read, where each tensor goes.

    read    the checkpoint's names, in its dialect, to canonical names
    write   canonical names to the target's dialect

A plan is total or it is an error: every tensor of the source is used or left out for a reason,
every tensor of the target is filled, every shape agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.errors import MappingError, UsageError, listed
from porter.mapping.link import Linked
from porter.mapping.linking import link_dialect
from porter.planning import sizes
from porter.planning.account import DROPPED, Account, headless, replaced, unwritable
from porter.planning.sizes import Shapes, check_classes, infer_symbols
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size
from porter.zoo.skeleton import Bound


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a conversion; printable, and a pure function of names, dtypes and shapes."""

    architecture: Architecture
    source: Linked
    target: Linked
    num_classes: int
    image_size: Size
    features: tuple[str, ...]
    canonical: Bound
    """{canonical name: (dtype, shape)} of this checkpoint, constants included, in order."""
    dropped: Mapping[str, str]
    """Tensors of the source that are left out, each with the reason."""
    filled: Mapping[str, float]
    """Canonical tensors that the source does not have, each with the value written for it."""
    computed: tuple[str, ...]
    """Canonical tensors that the architecture computes."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """Canonical tensors that the source has once: each with the canonical name of the other."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Canonical tensors that the target does not have, each with the reason."""
    kept: tuple[str, ...] = ()
    """Tensors of the target that are its own."""

    def read(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the canonical state dict, still unread."""
        tensors = self.mapped(state)
        return StateDict({name: tensors[name] for name in self.canonical})

    def mapped(self, state: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """Return the canonical tensors of a state dict that may have some of the source's only."""
        tensors: dict[str, LazyTensor] = {}
        for link in self.source.links:
            if not link.constant and all(name in state for name in link.dialect):
                parts = [state[name] for name in link.dialect]
                tensors.update(zip(link.canonical, link.to_canonical(parts), strict=True))
        for name, value in self.filled.items():
            dtype, shape = self.canonical[name]
            tensors[name] = LazyTensor.of(np.full(shape, value, DTYPES[dtype].numpy))
        computed = self.constants()
        tensors.update({name: LazyTensor.of(computed[name]) for name in self.computed})
        shared = {name: other for name, other in self.copied.items() if other in tensors}
        tensors.update({name: tensors[other] for name, other in shared.items()})
        return tensors

    def write(self, canonical: Mapping[str, LazyTensor]) -> StateDict:
        """Return the target's state dict, still unread."""
        tensors: dict[str, LazyTensor] = {}
        for link in self.target.links:
            parts = [canonical[name] for name in link.canonical]
            tensors.update(zip(link.dialect, link.to_dialect(parts), strict=True))
        tensors.update(self._copies(tensors))
        return StateDict(tensors)

    def _copies(self, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """Return the tensors that the target stores a second time, under other names."""
        return {
            extra.path.format(values): tensor
            for extra in self.target.dialect.extra
            if extra.copy is not None
            for name, tensor in tensors.items()
            if (values := extra.copy.match(name)) is not None
        }

    def apply(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the target's state dict for the source's, still unread."""
        return self.write(self.read(state))

    def back(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the source's state dict for the target's, as far as it came from the source.

        Of a state dict that has some of the target's tensors only, those that need no other.
        """
        canonical: dict[str, LazyTensor] = {}
        for link in self.target.links:
            if not link.loses and all(name in state for name in link.dialect):
                parts = [state[name] for name in link.dialect]
                canonical.update(zip(link.canonical, link.to_canonical(parts), strict=True))
        for gap in self.target.gaps:
            if gap.same in canonical:
                canonical[gap.canonical] = canonical[gap.same]
        tensors: dict[str, LazyTensor] = {}
        made = self.made
        for link in self.source.links:
            new = link.constant or all(name in made for name in link.canonical)
            if all(name in canonical for name in link.canonical) and not new:
                parts = [canonical[name] for name in link.canonical]
                tensors.update(zip(link.dialect, link.to_dialect(parts), strict=True))
        return StateDict(tensors)

    @property
    def made(self) -> frozenset[str]:
        """The canonical tensors that no tensor of the source comes back from."""
        folded = (name for link in self.source.links if link.fold for name in link.canonical)
        cut = (name for link in self.target.links if link.loses for name in link.canonical)
        return frozenset((*self.filled, *self.computed, *self.copied, *folded, *cut))

    @property
    def one_way(self) -> dict[str, str]:
        """The tensors of the source that do not come back from the target, each with the reason."""
        reasons: dict[str, str] = {}
        for link in self.source.links:
            if link.fold is not None:
                reasons.update(dict.fromkeys(link.dialect, str(link.fold)))
        for link in self.target.links:
            for part in link.canonical if link.loses else ():
                read = self.source.by_canonical.get(part)
                reasons.update(dict.fromkeys(read.dialect if read else (), link.how))
        return reasons

    def constants(self) -> dict[str, Array]:
        """Return the architecture's constants at this image size, under canonical names."""
        return self.architecture.constants(self.image_size)


def plan(
    architecture: Architecture,
    source: Shapes,
    source_dialect: str,
    target_dialect: str,
    *,
    num_classes: int | None = None,
    image_size: Size | None = None,
    drop: Sequence[str] = (),
    fill: Mapping[str, float] | None = None,
    path: str | None = None,
    recorded: Size | None = None,
) -> Plan:
    """Plan a conversion of `source`, {name: (dtype name, shape)}.

    Classes, image size and optional parts are taken from the source unless they are given;
    given values that the source contradicts are an error. Without classes (0) the head is left
    out; `recorded` is the image size in the file's metadata. `drop` names tensors of the source to
    leave out, `fill` canonical tensors to write with one value, in the place of the source's.
    `MappingError` lists everything that is missing, unexpected or misshapen, layers folded.
    """
    fill = fill or {}
    if unknown := [name for name in drop if name not in source]:
        raise UsageError(f"--drop {listed(unknown)} names no tensor of the checkpoint", path)
    features = _features(architecture, source, source_dialect)
    read = link_variant(architecture, source_dialect, features)
    dims = {tensor.name: tensor.dims for tensor in architecture.skeleton().tensors}
    left_out = {
        **dict.fromkeys(drop, DROPPED),
        **(headless(read, source, dims) if num_classes == 0 else {}),
    }
    source = {name: row for name, row in source.items() if name not in left_out}
    symbols, contradictions = infer_symbols(read, source, dims)
    left_out |= replaced(read, source, fill, path)  # their sizes stay those of the source
    source = {name: row for name, row in source.items() if name not in left_out}
    if num_classes:
        check_classes(symbols, num_classes, path)
    size = sizes.image_size(architecture, symbols, source, read, image_size, path, recorded)
    further = {table.symbol: table.count(size) for table in architecture.further_positions}
    every = {**architecture.symbols(num_classes, size), **symbols, **further}
    bound = architecture.skeleton().bind(every, features)
    if num_classes == 0:
        bound = {name: row for name, row in bound.items() if "classes" not in dims[name]}
    computed = architecture.constants(size)
    canonical = _with_constants(bound, computed, list(dims))
    if set(computed) - set(dims) or num_classes == 0:  # other tensors than those of the skeleton
        read = link_variant(architecture, source_dialect, features, list(canonical))

    heads = [n for link in read.links for n in link.dialect
             if any("classes" in dims.get(part, ()) for part in link.canonical)]  # fmt: skip
    account = Account(
        read, source, canonical, heads=heads, dropped=left_out, misshapen=contradictions
    )
    account.take(fill, path)
    refusal = account.refusal(f"{architecture.name} ({source_dialect})", path)
    if refusal is not None:
        raise refusal
    write = link_variant(architecture, target_dialect, features, list(canonical))
    _refuse_folds(architecture, write, path)
    problems = unwritable(write, canonical)
    if problems:
        message = f"does not fit {architecture.name} ({target_dialect}): {'; '.join(problems[:6])}"
        raise MappingError(message, path, problems)
    return Plan(
        architecture, read, write, 0 if num_classes == 0 else every["classes"], size,
        features, canonical, account.dropped, account.filled,
        tuple(name for name in account.computed if name in computed), account.copied,
        lost={gap.canonical: gap.reason for gap in write.gaps if gap.same is None},
    )  # fmt: skip


def is_ruled_out(architecture: Architecture, source: Shapes, dialect: str) -> bool:
    """Whether a tensor that each plan needs is missing or has another shape: a quick look.

    One layer of each kind is looked at, nothing that follows the classes or the image size.
    """
    dims = {tensor.name: tensor.dims for tensor in architecture.skeleton().tensors}
    features = {"", *_features(architecture, source, dialect)}
    names = [t.name for t in architecture.skeleton().tensors if t.feature in features]
    names = architecture.table.dialect(dialect).sample(names)
    for link in link_variant(architecture, dialect, names=names).links:
        shapes = [dims.get(name, ()) for name in link.canonical]
        fixed = [tuple(dim for dim in shape if isinstance(dim, int)) for shape in shapes]
        if link.constant or link.optional or link.stack or fixed != shapes:
            continue
        found = [source[name][1] for name in link.dialect if name in source]
        if found != link.dialect_shapes(fixed):
            return True
    return False


def _refuse_folds(architecture: Architecture, write: Linked, path: str | None) -> None:
    """Raise `MappingError` where the target has branches that were folded into one tensor."""
    folded = [link for link in write.links if link.fold is not None]
    if folded:
        rows = dict.fromkeys(f"{link.row} ({link.fold})" for link in folded)
        raise MappingError(
            f"{architecture.name} cannot be written as {write.dialect.name}: {len(folded)} layers"
            f" have no way back from {listed(rows, 4)}",
            path,
        )


def link_variant(
    architecture: Architecture,
    dialect: str,
    features: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Linked:
    """Link a variant's canonical names (its skeleton's unless given) to a dialect."""
    chosen = {"", *features}
    if names is None:
        names = [t.name for t in architecture.skeleton().tensors if t.feature in chosen]
    return link_dialect(architecture.table, dialect, names, architecture.sizes)


def _features(architecture: Architecture, source: Shapes, dialect: str) -> tuple[str, ...]:
    """Return the optional parts of which the source has a tensor."""
    present = []
    for feature, tensors in architecture.skeleton().features.items():
        linked = link_variant(architecture, dialect, names=[t.name for t in tensors])
        if any(name in source for name in linked.by_dialect):
            present.append(feature)
    return tuple(present)


def _with_constants(bound: Bound, computed: Mapping[str, Array], order: list[str]) -> Bound:
    """Return bound tensors and constants in the skeleton's order, other constants last."""
    both: Bound = {}
    for name in [*order, *computed]:
        if name in bound:
            both[name] = bound[name]
        elif name in computed:
            both[name] = (computed[name].dtype.name, computed[name].shape)
    return both
