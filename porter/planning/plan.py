"""Match a checkpoint with a variant and say, before a byte is read, where each tensor goes.

    read    the checkpoint's names, in its dialect, to canonical names
    write   canonical names to the target's dialect

A plan is total or it is an error: every tensor of the source is used or left out for a reason,
every tensor of the target is filled, every shape agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.errors import MappingError, UsageError, listed, printable
from porter.mapping.constants import constants
from porter.mapping.fold import fold
from porter.mapping.link import Link, Linked, link_dialect
from porter.tensors import operations
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.skeleton import Bound, Dim

Shapes = Mapping[str, tuple[str, Shape]]
"""{name: (dtype name, shape)}"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversion will do; printable, and a pure function of names, dtypes and shapes."""

    architecture: Architecture
    source: Linked
    target: Linked
    num_classes: int
    image_size: int
    features: tuple[str, ...]
    canonical: Bound
    """{canonical name: (dtype, shape)} of this checkpoint, constants included, in order."""
    dropped: Mapping[str, str]
    """Tensors of the source that are left out, each with the reason."""
    filled: Mapping[str, float]
    """Canonical tensors that the source does not have and the value written for them."""
    computed: tuple[str, ...]
    """Canonical tensors that the architecture computes."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Canonical tensors that the target does not have, each with the reason."""

    def read(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the canonical state dict, still unread."""
        found: dict[str, LazyTensor] = {}
        for made in self.source.links:
            if not made.constant and all(name in state for name in made.dialect):
                parts = [state[name] for name in made.dialect]
                found.update(zip(made.canonical, made.to_canonical(parts), strict=True))
        for name, value in self.filled.items():
            dtype, shape = self.canonical[name]
            found[name] = LazyTensor.of(np.full(shape, value, DTYPES[dtype].numpy))
        made_here = self.constants()
        found.update({name: LazyTensor.of(made_here[name]) for name in self.computed})
        return StateDict({name: found[name] for name in self.canonical})

    def write(self, canonical: Mapping[str, LazyTensor]) -> StateDict:
        """Return the target's state dict, still unread."""
        found: dict[str, LazyTensor] = {}
        for made in self.target.links:
            parts = [canonical[name] for name in made.canonical]
            found.update(zip(made.dialect, made.to_dialect(parts), strict=True))
        return StateDict(found)

    def apply(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the target's state dict for the source's, still unread."""
        return self.write(self.read(state))

    def back(self, state: Mapping[str, LazyTensor]) -> StateDict:
        """Return the source's state dict for the target's: what has no place is not there."""
        canonical: dict[str, LazyTensor] = {}
        for made in self.target.links:
            parts = [state[name] for name in made.dialect]
            canonical.update(zip(made.canonical, made.to_canonical(parts), strict=True))
        found: dict[str, LazyTensor] = {}
        for made in self.source.links:
            if all(name in canonical for name in made.canonical) and not made.constant:
                parts = [canonical[name] for name in made.canonical]
                found.update(zip(made.dialect, made.to_dialect(parts), strict=True))
        return StateDict(found)

    def constants(self) -> dict[str, Array]:
        """Return what the architecture computes at this image size, under canonical names."""
        table = self.architecture.table
        return constants(table.constants, self.architecture.config, self.image_size)


def plan(
    architecture: Architecture,
    source: Shapes,
    source_dialect: str,
    target_dialect: str,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    drop: Sequence[str] = (),
    fill: Mapping[str, float] | None = None,
    path: str | None = None,
) -> Plan:
    """Plan a conversion of `source`, {name: (dtype name, shape)}.

    Classes, image size and optional parts are taken from the source unless they are given;
    given values that the source contradicts are an error. `drop` names unexpected tensors to
    leave out, `fill` canonical tensors to write with one value where the source has none.
    `MappingError` lists everything that is missing, unexpected or misshapen, layers folded.
    """
    fill = dict(fill or {})
    features = _features(architecture, source, source_dialect)
    read = link_variant(architecture, source_dialect, features)
    skeleton = architecture.skeleton()
    entries = {e.name: e for e in skeleton.entries}
    symbols, problems = _infer(read, source, {n: e.dims for n, e in entries.items()})
    if num_classes is not None:
        _agree(symbols, "classes", num_classes, "classes", path)
    size = _image_size(architecture, symbols, source, read, image_size, path)
    bound = skeleton.bind({**architecture.symbols(None, size), **symbols}, features)
    made_here = constants(architecture.table.constants, architecture.config, size)
    canonical = _with_constants(bound, made_here, list(entries))
    if set(made_here) - set(entries):  # another image size has other constants
        read = link_variant(architecture, source_dialect, features, list(canonical))

    dropped, filled, computed = {}, {}, []
    missing = []
    for gap in read.gaps:
        if gap.constant:
            computed.append(gap.canonical)
        elif gap.canonical in fill:
            filled[gap.canonical] = fill.pop(gap.canonical)
        elif gap.fill is not None:
            filled[gap.canonical] = gap.fill
        else:
            missing.append(gap.canonical)
    for made in read.links:
        absent = [name for name in made.dialect if name not in source]
        if made.constant:
            computed += made.canonical
            present = [name for name in made.dialect if name in source]
            dropped.update(dict.fromkeys(present, "computed by the architecture"))
        elif not absent:
            problems += _misfits(made.dialect, made.canonical, made, source, canonical)
        elif all(name in fill for name in made.canonical):
            filled.update({name: fill.pop(name) for name in made.canonical})
        elif made.optional and made.fill is not None and len(absent) == len(made.dialect):
            filled.update(dict.fromkeys(made.canonical, made.fill))
        else:
            missing += absent
    unexpected = []
    for name in source:
        if name in read.by_dialect:
            continue
        reason = "dropped as asked" if name in drop else read.extra(name)
        if reason is None and _is_constant(name, read):
            reason = "computed by the architecture"
        if reason is None:
            unexpected.append(name)
        else:
            dropped[name] = reason
    unknown = [name for name in (*drop, *fill) if name not in source and name not in canonical]
    if unknown:
        raise UsageError(f"--drop or --fill names no tensor: {listed(unknown)}", path)
    computed = [name for name in computed if name in made_here]
    if missing or unexpected or problems:
        raise _refusal(architecture, source_dialect, missing, unexpected, problems, path)
    write = link_variant(architecture, target_dialect, features, list(canonical))
    problems = _unwritable(write, canonical)
    if problems:
        said = f"does not fit {architecture.name} ({target_dialect})"
        raise MappingError(f"{said}: {'; '.join(problems[:6])}", path, problems)
    lost = {gap.canonical: gap.reason for gap in write.gaps}
    return Plan(
        architecture, read, write, symbols.get("classes", architecture.num_classes), size,
        features, canonical, dropped, filled, tuple(computed), lost,
    )  # fmt: skip


def link_variant(
    architecture: Architecture,
    dialect: str,
    features: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Linked:
    """Link a variant's canonical names (its skeleton's unless given) to a dialect."""
    chosen = {"", *features}
    if names is None:
        entries = architecture.skeleton().entries
        names = [e.name for e in entries if e.feature in chosen]
    return link_dialect(architecture.table, dialect, names, architecture.sizes)


def _features(architecture: Architecture, source: Shapes, dialect: str) -> tuple[str, ...]:
    """Return the optional parts of which the source has a tensor."""
    found = []
    for feature, entries in architecture.skeleton().features.items():
        linked = link_variant(architecture, dialect, names=[e.name for e in entries])
        if any(name in source for name in linked.by_dialect):
            found.append(feature)
    return tuple(found)


def _infer(
    read: Linked, source: Shapes, dims: Mapping[str, tuple[Dim, ...]]
) -> tuple[dict[str, int], list[str]]:
    """Return what the skeleton's symbols are in this source, and contradictions."""
    symbols: dict[str, int] = {}
    where: dict[str, str] = {}
    problems = []
    for made in read.links:
        wanted = [dims.get(name, ()) for name in made.canonical]
        if not any(isinstance(d, str) for shape in wanted for d in shape):
            continue
        if not all(name in source for name in made.dialect):
            continue
        try:
            shapes = made.canonical_shapes([source[name][1] for name in made.dialect])
        except operations.ShapeError:
            continue  # reported with its shape below
        for name, shape, expected in zip(made.dialect[:1], shapes, wanted, strict=False):
            for dim, size in zip(expected, shape, strict=False):
                if isinstance(dim, str) and symbols.setdefault(dim, size) != size:
                    problems.append(
                        f"{name} has {size} {dim} where {where[dim]} has {symbols[dim]}"
                    )
                elif isinstance(dim, str):
                    where.setdefault(dim, name)
    return symbols, problems


def _agree(symbols: Mapping[str, int], key: str, asked: int, what: str, path: str | None) -> None:
    if symbols.get(key, asked) != asked:
        raise UsageError(
            f"{asked} {what} asked for, the checkpoint has {symbols[key]}; leave the option out"
            " to keep them, or pass --adapt to change them",
            path,
        )


def _image_size(
    architecture: Architecture,
    symbols: Mapping[str, int],
    source: Shapes,
    read: Linked,
    asked: int | None,
    path: str | None,
) -> int:
    """Return the image size (pixels): what the source says, what was asked for, or the default."""
    positions = architecture.positions
    said = None
    if positions is not None:
        count = symbols.get("positions")
        made = read.by_canonical.get(positions.tensor)
        if count is None and made is not None and made.dialect[0] in source:
            shape = source[made.dialect[0]][1]
            count = shape[positions.axis] if positions.axis < len(shape) else None
        said = None if count is None else positions.image_size(count)
        if count is not None and said is None and "positions" in symbols:
            raise MappingError(f"{count} positions are not those of a square image", path)
        if said is not None and said == positions.image_size(
            positions.count(architecture.image_size)
        ):
            said = architecture.image_size
        if asked is not None and said is not None and positions.count(asked) != count:
            raise UsageError(
                f"image size {asked} asked for, the checkpoint has the positions of {said};"
                " leave the option out to keep it, or pass --adapt to change it",
                path,
            )
    return asked or said or architecture.image_size


def _with_constants(bound: Bound, made_here: Mapping[str, Array], order: list[str]) -> Bound:
    both: Bound = {}
    for name in order:
        if name in bound:
            both[name] = bound[name]
        elif name in made_here:
            both[name] = (made_here[name].dtype.name, made_here[name].shape)
    for name, array in made_here.items():
        both.setdefault(name, (array.dtype.name, array.shape))
    return both


def _misfits(
    names: Sequence[str],
    canonical_names: Sequence[str],
    made: Link,
    source: Shapes,
    canonical: Bound,
) -> list[str]:
    wanted = made.dialect_shapes([canonical[name][1] for name in canonical_names])
    problems = []
    for name, shape in zip(names, wanted, strict=True):
        dtype, found = source[name]
        if found != shape:
            problems.append(f"{printable(name)} is {list(found)}, not {list(shape)}")
        whole = DTYPES[canonical[canonical_names[0]][0]].is_float
        if DTYPES[dtype].is_float != whole:
            problems.append(f"{printable(name)} is {dtype}, not {'a float' if whole else 'whole'}")
    return problems


def _unwritable(write: Linked, canonical: Bound) -> list[str]:
    """Return which links to the target cannot be made: a part missing, a shape that does not fit.

    A variant that porter ships has none (its table is proven); a table of the user's own may.
    """
    problems = []
    for made in write.links:
        missing = [name for name in made.canonical if name not in canonical]
        if missing:
            problems.append(f"{listed(missing)} is missing for {listed(made.dialect)}")
            continue
        try:
            made.dialect_shapes([canonical[name][1] for name in made.canonical])
        except operations.ShapeError as error:
            shapes = ", ".join(str(list(canonical[name][1])) for name in made.canonical)
            problems.append(f"{listed(made.canonical)} {shapes}: {made.how}: {error}")
    return problems


def _is_constant(name: str, read: Linked) -> bool:
    """Whether a tensor of the source is a constant that this image size does not have."""
    last = name.rpartition(read.dialect.convention.separator)[2]
    return any(made.constant and made.dialect[0].rpartition(".")[2] == last for made in read.links)


def _refusal(
    architecture: Architecture,
    dialect: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    problems: Sequence[str],
    path: str | None,
) -> MappingError:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing: {listed(fold(missing), 12)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {listed(fold(unexpected), 12)}")
    if problems:
        parts.append(f"{len(problems)} misshapen: {'; '.join(problems[:6])}")
    everything = [
        *(f"missing {name}" for name in fold(missing)),
        *(f"unexpected {name}" for name in fold(unexpected)),
        *(f"misshapen {line}" for line in problems),
    ]
    return MappingError(
        f"does not fit {architecture.name} ({dialect}): {'; '.join(parts)}", path, everything
    )
