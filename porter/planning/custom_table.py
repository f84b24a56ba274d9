"""A custom table, without a reference model: the variant's tensors are those of the checkpoint.

Tensors that a file lacks cannot be seen without a skeleton; everything else is checked as for a
built-in variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from porter.errors import MappingError, TableError, listed
from porter.mapping import gallery
from porter.mapping.fold import fold
from porter.mapping.layers import instances, place_of
from porter.mapping.linking import link_dialect
from porter.mapping.pattern import Pattern
from porter.mapping.table import BARE, CANONICAL, Dialect, Row, Table
from porter.planning.sizes import Shapes
from porter.tensors import folds, operations
from porter.tensors.lazy import Shape
from porter.zoo.architectures import Architecture
from porter.zoo.preprocessing import Preprocessing
from porter.zoo.skeleton import Skeleton, SkeletonTensor

if TYPE_CHECKING:
    from porter.planning.check import Proof

NAMES_UNCHECKED = "total and exact; names of the target not checked"
"""What a check of a custom table shows for one checkpoint."""
_MOST_STACKED = 1 << 16
"""Layers of one stack: a shape may say anything."""
_NEUTRAL = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic", 1.0)
_NO_TABLE = Table("", (), {}, {}, "", "", "")


@dataclass(frozen=True)
class CustomArchitecture(Architecture):
    """What is known of a model from its table and one checkpoint."""

    custom_table: Table = field(default=_NO_TABLE)
    derived: Skeleton = field(default=Skeleton(()))

    @property
    def table(self) -> Table:
        """The custom table."""
        return self.custom_table

    def skeleton(self, framework: str = CANONICAL) -> Skeleton:
        """Return the tensors of the checkpoint, under canonical names."""
        return self.derived


def is_table(name: str) -> bool:
    """Whether an ARCH argument is the path of a table, or a pair of the gallery."""
    return name.endswith(".toml") or gallery.is_entry(name)


def custom_architecture(
    table: Table, source: Shapes | None = None, dialect: str = CANONICAL, *, hint: bool = True
) -> CustomArchitecture:
    """Return the architecture that a custom table describes, for one checkpoint."""
    skeleton = Skeleton(()) if source is None else derive(table, source, dialect, hint=hint)
    return CustomArchitecture(
        name=Path(table.source).stem, family=table.family, title=table.family, paper="",
        source=table.source,
        module="", model="", config={}, image_size=0, num_classes=0, parameters=0,
        preprocessing=_NEUTRAL, custom_table=table, derived=skeleton,
    )  # fmt: skip


def check_against(
    table: Table, source: Shapes, dialect: str | None = None, container: str = ""
) -> Iterator[Proof]:
    """Prove each dialect of a table for one checkpoint, whose dialect `fitting` recognises."""
    from porter.planning.check import check

    yield from check([fitting(table, source, dialect, container)[0]])


def fitting(
    table: Table, source: Shapes, dialect: str | None = None, container: str = ""
) -> tuple[CustomArchitecture, str]:
    """Return a checkpoint's architecture by a table, and its dialect.

    Without `dialect`, the first is taken whose rows cover the checkpoint. Those that are usually
    stored in its `container` are tried first: names do not show whether a matrix is transposed.
    """
    usual = sorted(table.dialects, key=lambda name: table.dialects[name].container != container)
    for name in [table.dialect(dialect).name] if dialect is not None else usual:
        try:
            return custom_architecture(table, source, name, hint=dialect is not None), name
        except MappingError:
            if dialect is not None:
                raise
    raise MappingError(f"fits none of the dialects {listed(table.dialects, 20)}")


def unknown_operations(table: Table) -> list[str]:
    """Return what is wrong with the operations of a table that has no architecture.

    They cannot name sizes of a configuration, since there is none.
    """
    problems = []
    for dialect in table.dialects.values():
        for form in dialect.forms:
            for row in form.rows:
                try:
                    operations.parse_join(row.join, {})
                    if row.fold:
                        folds.parse(row.fold, {})
                    for text in (*row.first, *(t for chain in row.ops.values() for t in chain)):
                        operations.parse(text, {})
                except TableError as error:
                    problems.append(f"[dialects.{dialect.name}] {row}: {error.message}")
    return list(dict.fromkeys(problems))


def unwritten(table: Table, source: str, target: str) -> list[str]:
    """Return a note on each tensor that is not written because only a model knows its shape.

    The source's dialect does not have them, the target's does; for a built-in variant they would
    be filled or computed.
    """
    gone, kept = table.dialect(source), table.dialect(target)
    absent_there = [absent.path for absent in kept.absent]
    return [
        f"{absent.path.text} is not written: {gone.name} does not have it ({absent.reason}),"
        " and without a model its shape is unknown"
        for absent in gone.absent
        if absent.path not in absent_there
    ]


def derive(table: Table, source: Shapes, dialect: str, *, hint: bool = True) -> Skeleton:
    """Return the canonical tensors of a checkpoint in a dialect, by the table only.

    `MappingError` names the tensors that no row covers and, with `hint`, what to do.
    """
    chosen = table.dialect(dialect)
    misfits = []
    for form in chosen.forms:
        names, unknown = _canonical_names(table, form, source)
        if not unknown and chosen.of(names) is form:
            return Skeleton(tuple(_tensors(table, form, source, names)))
        misfits.append(unknown)
    nearest = min(filter(None, misfits), key=len, default=list(source))
    raise MappingError(
        f"no row of {table.source} covers {listed(fold(nearest))} in dialect {dialect}"
        + (_hint(table, chosen, source, nearest) if hint else ""),
        problems=[f"unexpected {name}" for name in fold(nearest)],
    )


def _hint(table: Table, chosen: Dialect, source: Shapes, unknown: Sequence[str]) -> str:
    """Return what is wrong with names that no row covers, and what to do; empty if unknown.

    They may be those of another dialect, or have a part twice, as a writer leaves them that undoes
    a renaming which was not done.
    """
    for other in table.dialects.values():
        forms = other.forms if other is not chosen else ()
        if any(not _canonical_names(table, form, source)[1] for form in forms):
            return f"; they are the names of the dialect {other.name}: read them as that one"
    once = {name: _once(name, chosen.convention.separator) for name in unknown}
    shorter = {name: source[old] for old, name in once.items() if name is not None}
    if len(shorter) == len(once) and any(
        not _canonical_names(table, form, shorter)[1] for form in chosen.forms
    ):
        old, new = next(iter(once.items()))
        return (
            f"; each has a part twice, as a renaming that is undone twice leaves it: write {new}"
            f" for {old}"
        )
    return ""


def _once(name: str, separator: str) -> str | None:
    """Return a name without a part that follows itself; None if it has none."""
    parts = name.split(separator)
    for index in range(1, len(parts)):
        if parts[index] == parts[index - 1]:
            return separator.join([*parts[:index], *parts[index + 1 :]])
    return None


def _canonical_names(table: Table, dialect: Dialect, source: Shapes) -> tuple[list[str], list[str]]:
    """Return the canonical names of a checkpoint's tensors, and the tensors that have none."""
    names: dict[str, None] = {}
    unknown = []
    sides = [side for row in dialect.rows for side in row.canonical]
    for name, (_, shape) in source.items():
        canonical = list(_canonical(table, dialect, sides, name, shape))
        if not canonical and not any(extra.match(name) for extra in dialect.extra):
            unknown.append(name)
        names.update(dict.fromkeys(canonical))
    return list(names), unknown


def _tensors(
    table: Table, dialect: Dialect, source: Shapes, names: list[str]
) -> Iterator[SkeletonTensor]:
    """Yield the canonical tensors with these names; `MappingError` where one has no shape."""
    linked = link_dialect(table, dialect.name, names, {})
    for link in linked.links:
        missing = [name for name in link.dialect if name not in source]
        if missing:
            raise MappingError(f"{listed(missing)} is missing for the row {link.row}")
        try:
            shapes = link.canonical_shapes([source[name][1] for name in link.dialect])
        except operations.ShapeError as error:
            raise MappingError(f"{listed(link.dialect)}: {error}") from error
        for name, shape in zip(link.canonical, shapes, strict=True):
            yield SkeletonTensor(name, source[link.dialect[0]][0], shape)
    for name in _counters(table, dialect, names):
        yield SkeletonTensor(name, "int64", ())


def _counters(table: Table, dialect: Dialect, names: list[str]) -> Iterator[str]:
    """Yield the scalars that PyTorch stores for a layer and the dialect does not."""
    for instance in instances(table, names):
        if instance.layer.kind in BARE:
            continue
        for leaf, rule in dialect.convention.kinds[instance.layer.kind].items():
            if rule.absent is not None and rule.fill is not None and leaf not in instance.leaves:
                yield f"{instance.path}.{leaf}"


def _canonical(
    table: Table, dialect: Dialect, sides: Sequence[Pattern], name: str, shape: Shape
) -> Iterator[str]:
    """Yield the canonical names of the elements of a tensor of the dialect.

    `sides` are the canonical paths of the dialect's rows; the `shape` says how many layers a stack
    has.
    """
    separator = dialect.convention.separator
    path, _, end = name.rpartition(separator)
    for row in dialect.rows:
        for side in row.dialect:
            if row.fold:
                for part in folds.parse(row.fold, {}).parts:
                    paths = _paths(row, side, name.removesuffix(f".{part}"))
                    if name.endswith(f".{part}") and paths:
                        yield from (f"{paths[0]}.weight", f"{paths[0]}.bias")
                        return
                continue
            paths = _paths(row, side, name, shape)
            if paths and all(_is_bare(table, bare) for bare in paths):
                yield from paths
                return
            for found, last in ((paths, ""), (_paths(row, side, path, shape), end)):
                for leaf in _leaves(table, dialect, found[0], last, row.leaves) if found else ():
                    yield from (f"{canonical}.{leaf}" for canonical in found)
                    return
    if any(side.match(path) is not None or side.match(name) is not None for side in sides):
        return  # the dialect has another name for this layer
    if _is_bare(table, name):
        yield name
        return
    for leaf in _leaves(table, dialect, path, end, {}):
        yield f"{path}.{leaf}"
        return


def _paths(row: Row, side: Pattern, name: str, shape: Shape = ()) -> list[str]:
    """Return the row's canonical paths where one of its dialect's paths fits a name.

    Those of a stack are repeated for each of its layers, which are the first axis of the `shape`.
    """
    values = side.match(name)
    if values is None:
        return []
    count = 1
    if row.stack:
        values[row.stack] = "0"
        count = shape[0] if shape else 0
        if count > _MOST_STACKED:
            raise MappingError(f"{name} has {count:,} layers, more than {_MOST_STACKED:,}")
    paths = [canonical.format(values) for canonical in row.canonical]
    # A number moved by the row may be one that its canonical side does not take.
    fits = zip(row.canonical, paths, strict=True)
    if not all(canonical.match(path) is not None for canonical, path in fits):
        return []
    for n in range(1, count):
        values[row.stack] = str(n)
        paths += [canonical.format(values) for canonical in row.canonical]
    return paths if count else []


def _is_bare(table: Table, name: str) -> bool:
    place = place_of(table, name)
    return place is not None and place[2] == ""


def _leaves(
    table: Table, dialect: Dialect, path: str, end: str, renamed: Mapping[str, str]
) -> Iterator[str]:
    """Yield PyTorch's name of the parameter that the dialect calls `end`."""
    for layer in table.layers:
        if layer.path.match(path) is None or layer.kind not in dialect.convention.kinds:
            continue
        for leaf, rule in dialect.convention.kinds[layer.kind].items():
            if renamed.get(leaf, rule.name) == end and rule.absent is None:
                yield leaf
