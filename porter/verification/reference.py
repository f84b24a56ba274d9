"""Compare a file's tensors with those of a reference, under the names of the file.

The reference may be in another format and naming: it is mapped to that of the file. Of a tensor
that differs, the order in which its elements may be stored is looked for
(`porter.verification.diagnose.strided_views`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from porter.errors import UsageError, listed
from porter.mapping.fold import fold
from porter.mapping.reader import load
from porter.mapping.table import CANONICAL
from porter.planning import custom_table
from porter.planning.fit import Fitted, fit
from porter.planning.pairing import dialect_of, format_of, recognised_in_both
from porter.planning.recognise import shapes_of
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.diagnose.strided_views import CAUSE, Order, named, stored_order
from porter.zoo.architectures import Architecture, find

CLOSE = 1e-5
"""Largest difference, relative to the largest value, of a tensor that was computed from several
(a folded batch norm): the other file may have rounded on the way."""


_MOST_STARTS = 64
"""Places of a first element at which a run is looked for."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The tensors of a file against a reference's."""

    through: str
    """How names were paired: `names`, or `VARIANT: DIALECT and DIALECT`."""
    equal: tuple[str, ...]
    """Tensors of the file with the reference's bytes."""
    views: Mapping[str, Order]
    """Those that have the bytes of an untransposed view, with the order in which these are."""
    cut: tuple[str, ...]
    """Those that have a run of the memory of a view that was cut in pieces: most of their values
    are nowhere in the file."""
    rounded: tuple[str, ...]
    """Those that the table computes from several tensors, equal up to rounding."""
    others: tuple[str, ...]
    """Those that differ in another way."""
    unknown: tuple[str, ...]
    """Those that the reference does not have, such as counters of batch norms."""
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.views and not self.cut and not self.others

    @property
    def lines(self) -> Iterator[str]:
        """What was found, a sentence each."""
        if self.views:
            what = named(len(self.views), [self.shapes[name] for name in self.views])
            verb = "has" if len(self.views) == 1 else "have"
            yield (
                f"{what} {verb} the bytes of an untransposed view ({CAUSE}):"
                f" {listed(fold(self.views), 8)}"
            )
        if self.cut:
            yield (
                f"{len(self.cut)} have a run of the memory of a view that was cut in pieces; their"
                f" values are not in the file, convert the source again:"
                f" {listed(fold(self.cut), 8)}"
            )
        if self.others:
            yield f"{len(self.others)} differ otherwise: {listed(fold(self.others), 8)}"
        if self.rounded:
            yield f"{len(self.rounded)} are computed, and equal up to rounding"
        if self.unknown:
            yield f"{len(self.unknown)} are not in the reference: {listed(fold(self.unknown), 4)}"


class Expected(NamedTuple):
    """What a file should have by a reference, under the names of the file."""

    tensors: Mapping[str, LazyTensor]
    computed: frozenset[str]
    """Those made from several tensors of the reference."""
    through: str
    memories: Mapping[str, LazyTensor]
    """For each that is a piece of a tensor of the reference, that tensor."""


def compared(state: StateDict, expected: Expected) -> Comparison:
    """Compare every tensor of a file with the one that the reference makes of it."""
    found: dict[str, list[str]] = {
        "equal": [], "cut": [], "rounded": [], "others": [], "unknown": [],
    }  # fmt: skip
    views: dict[str, Order] = {}
    for name, tensor in state.items():
        if name not in expected.tensors:
            found["unknown"].append(name)
            continue
        what = _relation(tensor, expected.tensors[name], name in expected.computed)
        if what == "others" and _is_run(tensor, expected.memories.get(name)):
            what = "cut"
        if isinstance(what, tuple):
            views[name] = what
        else:
            found[what].append(name)
    missing = [name for name in expected.tensors if name not in state]
    if missing or len(found["unknown"]) == len(state):
        raise UsageError(
            f"the two files do not have the same tensors: {listed(fold(missing), 8)}"
            if missing
            else "the two files have no tensor in common"
        )
    return Comparison(
        expected.through, tuple(found["equal"]), views, tuple(found["cut"]),
        tuple(found["rounded"]), tuple(found["others"]), tuple(found["unknown"]),
        {name: tensor.shape for name, tensor in state.items()},
    )  # fmt: skip


def _relation(found: LazyTensor, expected: LazyTensor, computed: bool) -> str | Order:
    """Return `equal`, `rounded`, `others`, or the order in which the elements are stored."""
    if found.shape != expected.shape:
        return "others"
    mine, theirs = np.ascontiguousarray(found.read()), np.ascontiguousarray(expected.read())
    if found.dtype is not expected.dtype:
        if not (found.dtype.is_float and expected.dtype.is_float):
            return "others"
        with np.errstate(over="ignore", invalid="ignore"):
            theirs = theirs.astype(found.dtype.numpy)
    if mine.tobytes() == theirs.tobytes():
        return "equal"
    order = stored_order(theirs, mine)
    if order is not None:
        return order
    return "rounded" if computed and _close(mine, theirs) else "others"


def _is_run(found: LazyTensor, memory: LazyTensor | None) -> bool:
    """Whether a tensor has consecutive elements of another one's memory."""
    if memory is None or found.dtype is not memory.dtype or not 0 < found.size <= memory.size:
        return False
    run = np.ascontiguousarray(found.read()).ravel()
    whole = np.ascontiguousarray(memory.read()).ravel()
    starts = np.flatnonzero(whole[: len(whole) - len(run) + 1] == run[0])[:_MOST_STARTS]
    return any(np.array_equal(whole[start : start + len(run)], run) for start in starts)


def _close(mine: Array, theirs: Array) -> bool:
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    return bool(np.abs(a - b).max(initial=0.0) <= CLOSE * np.abs(b).max(initial=0.0))


def expected_of(state: StateDict, reference: StateDict, architecture: str | None) -> Expected:
    """Return what a file should have by a reference.

    Both are paired by an architecture, a variant or the path of a table, or by the one that is
    recognised in both; files of one naming and layout by their names. `UsageError` or
    `MappingError` where neither is possible.
    """
    fitted = _fitted(state, reference, architecture)
    if fitted is None:
        return Expected(reference, frozenset(), "names", {})
    mine, theirs = fitted
    made = theirs.plan.apply(theirs.state)
    added = {*theirs.plan.filled, *theirs.plan.computed}
    skipped = {
        name
        for link in theirs.plan.target.links
        if link.constant or any(part in added for part in link.canonical)
        for name in link.dialect
    }
    several = {
        name
        for link in theirs.plan.source.links
        if len(link.dialect) > len(link.canonical)
        for name in link.canonical
    }
    computed = {
        name
        for link in theirs.plan.target.links
        if several.intersection(link.canonical)
        for name in link.dialect
    }
    names = original_names(state, mine)
    kept = {names[n]: t for n, t in made.items() if n not in skipped and n in names}
    dialects = f"{mine.plan.source.dialect.name} and {theirs.plan.source.dialect.name}"
    through = f"{mine.architecture.name}: {dialects}"
    known = frozenset(names[n] for n in computed if n in names)
    return Expected(kept, known, through, _memories(theirs, names))


def _memories(theirs: Fitted, names: Mapping[str, str]) -> dict[str, LazyTensor]:
    """Return the tensor of the reference that each tensor of the file is a piece of."""
    whole = {
        part: theirs.state[link.dialect[0]]
        for link in theirs.plan.source.links
        for part in link.canonical
        if len(link.canonical) > 1 and len(link.dialect) == 1 and link.dialect[0] in theirs.state
    }
    return {
        names[link.dialect[0]]: whole[link.canonical[0]]
        for link in theirs.plan.target.links
        if link.canonical[0] in whole and link.dialect[0] in names
    }


def original_names(state: StateDict, fitted: Fitted) -> dict[str, str]:
    """Return {name that the plan reads: name in the file}."""
    places = {id(tensor): name for name, tensor in state.items()}
    return {name: places[id(tensor)] for name, tensor in fitted.state.items()}


def _fitted(
    state: StateDict, reference: StateDict, architecture: str | None
) -> tuple[Fitted, Fitted] | None:
    """Fit both to one architecture, the reference to the naming of the file; None: by names."""
    if architecture is None:
        both = recognised_in_both(state, reference, None, None)
        if both is None:
            _check_names(state, reference)
            return None
        variant, mine, theirs = both
        return _pair(variant, variant, state, reference, mine, theirs)
    if custom_table.is_table(architecture):
        table = load(Path(architecture))
        pairs = [
            custom_table.fitting(table, shapes_of(one), None, format_of(one))
            for one in (state, reference)
        ]
        (first, mine), (second, theirs) = pairs
        return _pair(first, second, state, reference, mine, theirs)
    variant = find(architecture)
    return _pair(
        variant, variant, state, reference, dialect_of(variant, state),
        dialect_of(variant, reference),
    )  # fmt: skip


def _pair(
    first: Architecture, second: Architecture, state: StateDict, reference: StateDict,
    mine: str | None, theirs: str | None,
) -> tuple[Fitted, Fitted]:  # fmt: skip
    own = fit(first, state, mine, CANONICAL)
    dialect = own.plan.source.dialect.name
    return own, fit(second, reference, theirs, dialect)


def _check_names(state: StateDict, reference: StateDict) -> None:
    """Raise `UsageError` unless both have the same names."""
    different = sorted(set(state) ^ set(reference))
    if different:
        raise UsageError(
            "no architecture was recognised in both files, and their names differ"
            f" ({listed(fold(different), 6)}): name it with --arch"
        )
