"""Compare two checkpoints tensor by tensor, through the table where their namings differ."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from porter.errors import MappingError, UsageError
from porter.mapping.reader import load
from porter.mapping.table import CANONICAL, Table
from porter.planning import custom_table
from porter.planning.fit import fit
from porter.planning.locate import below, option_of
from porter.planning.pairing import (
    dialect_of,
    foreign_layout,
    format_of,
    recognised_in_both,
    usual_framework,
)
from porter.planning.recognise import recognise, shapes_of
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor that differs: where it is, and by how much if both have it."""

    name: str
    what: str
    """`only left`, `only right`, `shape`, `dtype` or `values`."""
    left: str = ""
    right: str = ""
    max_error: float | None = None
    differing: int | None = None


@dataclass(frozen=True, slots=True)
class Diff:
    """All differences between two checkpoints; equal means bit for bit."""

    compared: int
    through: str
    """How names were paired: `names`, or `VARIANT: DIALECT and DIALECT`."""
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()
    """What was not compared, and why."""

    def __repr__(self) -> str:
        outcome = "equal" if self.equal else f"{len(self.differences)} differ"
        return f"Diff({self.compared} tensors by {self.through}: {outcome})"

    @property
    def equal(self) -> bool:
        """Whether both sides have the same tensors, bit for bit."""
        return not self.differences


def diff(
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    key: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    left_prefix: str | None = None,
    right_prefix: str | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Compare two checkpoints tensor by tensor, bit for bit.

    Two files in one naming are compared by their names. Where the namings differ, layouts
    included, both sides are mapped to canonical names, and constants of the architecture are left
    out.

    Parameters:
        left: Path or address of a checkpoint.
        right: Path or address of the other one.
        architecture: Variant, or path of a table, that maps the names; None to recognise it.
        left_dialect: Naming of `left`; None to recognise it.
        right_dialect: Naming of `right`; None to recognise it.
        key: Name of one of several state dicts in the files.
        left_key: The same for `left` only.
        right_key: The same for `right` only.
        left_prefix: What is before the names to compare in `left`, such as "teacher."; other
            tensors of the file are left out.
        right_prefix: The same for `right`.
        progress: Called with a step's name, the bytes done and the bytes in all.

    Returns a `Diff`: its `differences`, how names were paired, and whether all is `equal`.
    Raises `InputError`, `MappingError` or `UsageError` for files that cannot be compared.
    """
    states = [
        fetch.read(path, key=own or key, progress=progress)
        for path, own in ((left, left_key), (right, right_key))
    ]
    states = [
        state if prefix is None else below(state, prefix)
        for state, prefix in zip(states, (left_prefix, right_prefix), strict=True)
    ]
    table, variant, given = None, None, (left_dialect, right_dialect)
    if architecture is not None and custom_table.is_table(architecture):
        table = load(Path(architecture))
    elif architecture is not None:
        variant = find(architecture)
    else:
        found = recognised_in_both(states[0], states[1], left_dialect, right_dialect)
        if found is not None:
            variant, left_dialect, right_dialect = found
        elif (left_dialect or right_dialect) and not _is_known(states[0]):
            raise UsageError("a dialect needs --arch: no variant was recognised in both files")
    if table is None:
        ported = _compared_as_port(states, variant, given, progress)
        if ported is not None:
            return ported
    if variant is None and table is None:
        by_names = _compared(states[0], states[1], "names", progress)
        return by_names if by_names.equal else replace(by_names, notes=tuple(_unknown(states)))
    with option_of("left"):
        one = _canonical(states[0], table, variant, left_dialect)
    with option_of("right"):
        two = _canonical(states[1], table, variant, right_dialect)
    through = f"{one.architecture}: {one.dialect} and {two.dialect}"
    filled = one.filled | two.filled
    result = _compared(one.without(filled), two.without(filled), through, progress)
    notes = [f"{side}: {note}" for side, by in (("left", one), ("right", two)) for note in by.notes]
    return replace(result, notes=tuple(notes))


def _unknown(states: Sequence[StateDict]) -> Iterator[str]:
    """Yield that layouts were not considered, where the frameworks of two files have others."""
    if len({usual_framework(state) for state in states} - {""}) > 1:
        yield (
            "no architecture is recognised in both files: layouts, which differ between frameworks,"
            " are compared as they are"
        )


def _is_known(state: StateDict) -> bool:
    return any(match.exact for match in recognise(shapes_of(state)))


def _compared_as_port(
    states: Sequence[StateDict],
    variant: Architecture | None,
    dialects: tuple[str | None, str | None],
    progress: Progress | None,
) -> Diff | None:
    """Compare one side with what the other is in its framework, if it is in no naming of that.

    None if both are, and if both are of one framework.
    """
    frameworks = [usual_framework(state) for state in states]
    if not all(frameworks) or frameworks[0] == frameworks[1]:
        return None
    foreign = [foreign_layout(s, d, variant) for s, d in zip(states, dialects, strict=True)]
    if all(foreign) or not any(foreign):
        return None
    at = 0 if foreign[0] else 1
    match, sound = foreign[at], states[1 - at]
    assert match is not None
    fitted = fit(match.architecture, sound, dialects[1 - at], frameworks[at])
    expected = fitted.plan.apply(fitted.state)
    through = f"{match.architecture.name}: {frameworks[at]}, which one file is not"
    one, other = (states[0], expected) if at == 0 else (expected, states[1])
    return _compared(one, other, through, progress)


class _Side(NamedTuple):
    """A checkpoint under canonical names."""

    architecture: str
    dialect: str
    tensors: dict[str, LazyTensor]
    filled: frozenset[str]
    """Tensors that the checkpoint does not have and the table gives a value."""
    notes: tuple[str, ...]

    def without(self, names: frozenset[str]) -> dict[str, LazyTensor]:
        return {name: tensor for name, tensor in self.tensors.items() if name not in names}


def _canonical(
    state: StateDict, table: Table | None, variant: Architecture | None, dialect: str | None
) -> _Side:
    shapes = shapes_of(state)
    if table is not None:
        variant, dialect = custom_table.fitting(table, shapes, dialect, format_of(state))
    assert variant is not None
    dialect = dialect or dialect_of(variant, state)
    try:
        fitted = fit(variant, state, dialect, CANONICAL)
    except MappingError as error:
        try:
            fitted = fit(variant, state, dialect, CANONICAL, num_classes=0)
        except MappingError:
            raise error from None
    found = fitted.plan
    skip = {*found.computed, *found.filled}
    tensors = {name: t for name, t in found.read(fitted.state).items() if name not in skip}
    return _Side(
        variant.name, found.source.dialect.name, tensors, frozenset(found.filled), fitted.notes
    )


def _compared(
    one: Mapping[str, LazyTensor],
    other: Mapping[str, LazyTensor],
    through: str,
    progress: Progress | None,
) -> Diff:
    differences = [Difference(name, "only left") for name in one if name not in other]
    differences += [Difference(name, "only right") for name in other if name not in one]
    both = [name for name in one if name in other]
    total, done = sum(one[name].nbytes for name in both), 0
    for name in both:
        differences += _tensor(name, one[name], other[name])
        done += one[name].nbytes
        if progress is not None:
            progress("comparing", done, total)
    return Diff(len(both), through, tuple(differences))


def _tensor(name: str, one: LazyTensor, other: LazyTensor) -> Iterator[Difference]:
    if one.shape != other.shape:
        yield Difference(name, "shape", str(list(one.shape)), str(list(other.shape)))
        return
    if one.dtype is not other.dtype:
        yield Difference(name, "dtype", one.dtype.name, other.dtype.name, _error(one, other)[0])
        return
    if all(a == b for a, b in zip_longest(one.blocks(), other.blocks())):
        return
    error, count = _error(one, other)
    if count:
        yield Difference(name, "values", max_error=error, differing=count)


def _error(one: LazyTensor, other: LazyTensor) -> tuple[float, int]:
    """Return the largest difference (float64) and the number of elements with other bits."""
    a, b = np.ascontiguousarray(one.read()), np.ascontiguousarray(other.read())
    count = a.size
    if one.dtype is other.dtype:
        raw = [x.reshape(-1).view(np.uint8).reshape(a.size, -1) for x in (a, b)]
        count = int((raw[0] != raw[1]).any(axis=1).sum())
    wide = "c16" if "complex" in (one.dtype.name + other.dtype.name) else "f8"
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a.astype(wide) - b.astype(wide))
    return (float(np.nanmax(error)) if error.size else 0.0), count
