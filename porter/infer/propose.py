"""Propose a mapping table from two files of one model with other names and layouts.

Values decide where the files have the same weights: a row is proven when every tensor that it
covers was paired by its elements, or has a sibling that was. All other rows are marked unproven in
the table and in the report. The proposal is then used as any table is, and its result compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from porter.errors import MappingError, PorterError, UsageError, listed, printable
from porter.infer import stacks
from porter.infer.draft import Draft, draft
from porter.infer.evidence import same
from porter.infer.pairing import pair
from porter.infer.pairs import Pairs
from porter.infer.render import render
from porter.infer.tensor_file import TensorFile
from porter.mapping.conventions import conventions
from porter.mapping.fold import fold
from porter.mapping.reader import parse
from porter.mapping.table import CANONICAL, Table
from porter.planning.custom_table import custom_architecture
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.remote.fetch import read
from porter.storage.progress import Progress
from porter.tensors.state_dict import StateDict

_FRAMEWORKS = {"torch": "torch", "paddle": "paddle", "numpy": "flax", "flax": "flax"}


@dataclass(frozen=True, slots=True)
class Inferred:
    """A proposed table, and how much of it is proven."""

    text: str
    """The table, TOML."""
    dialect: str
    """The name of the dialect of the file that is not canonical."""
    swapped: bool
    """Whether the right file's names became the canonical ones."""
    rows: int
    """Groups of layers that were linked."""
    unproven: tuple[str, ...]
    """Each of those that values do not prove: its names, and why."""
    unmatched: tuple[str, ...]
    """Tensors of one side only, folded, each with its side."""
    exact: bool
    """Whether the table converts all that is linked of either file to the other, bit for bit."""
    problems: tuple[str, ...]
    """Where a conversion with the table differs from the other file."""
    notes: tuple[str, ...] = ()
    """What the table's reader should know besides."""

    @property
    def proven(self) -> bool:
        """Whether values prove every row, every tensor is linked, and the result is exact."""
        return not (self.unproven or self.unmatched or self.problems)


def infer(
    left: str | os.PathLike[str] | StateDict,
    right: str | os.PathLike[str] | StateDict,
    *,
    left_framework: str | None = None,
    right_framework: str | None = None,
    dialect: str | None = None,
    family: str | None = None,
    key: str | None = None,
    progress: Progress | None = None,
) -> Inferred:
    """Propose a table whose canonical names are `left`'s, and `dialect` those of `right`.

    Frameworks (`torch`, `paddle`, `numpy`) name the layout of a file; they are recognised by
    its format, names and values when not given. Canonical names are PyTorch's, so where only the
    right file is, the sides are swapped. Raises `UsageError` where neither is, `InputError` and
    `SystemFault` as reading does.
    """
    states = [opened(left, key, progress), opened(right, key, progress)]
    asked = [_framework(left_framework), _framework(right_framework)]
    frameworks = [
        framework or _recognised(state) for framework, state in zip(asked, states, strict=True)
    ]
    swapped = frameworks[0] != CANONICAL and frameworks[1] == CANONICAL
    if swapped:
        states, asked, frameworks = states[::-1], asked[::-1], frameworks[::-1]
    if frameworks[0] != CANONICAL:
        raise UsageError(
            f"canonical names are PyTorch's, and both files look like {frameworks[0]};"
            " pass --left torch or --right torch if one of them is not"
        )
    framework = frameworks[1]
    is_guess = framework == CANONICAL
    if asked[1] is None and framework == CANONICAL and _is_transposed(*states):
        framework = "paddle"
    known = conventions()
    files = [TensorFile(states[0], known[CANONICAL]), TensorFile(states[1], known[framework])]
    if is_guess and stacks.apart(*files) is None and stacks.apart(*files[::-1]) is not None:
        # Canonical names are those of single layers.
        files = [TensorFile(states[1], known[CANONICAL]), TensorFile(states[0], known[framework])]
        swapped = not swapped
    name = dialect or ("paddle" if framework == "paddle" else "other")
    if name == CANONICAL or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(
            f"{printable(name)!r} is not a name for a dialect: use letters, digits, - and _"
        )
    left_file, right_file = files
    if (parts := stacks.apart(left_file, right_file)) is not None:
        pairs = pair(left_file, TensorFile(parts, known[framework]))
        with suppress(stacks.NotAStackError):
            table = stacks.joined(draft(pairs))
            return _finished(pairs, table, name, framework, family or "inferred", swapped, files)
    if (
        framework != CANONICAL
        and (parts := stacks.apart(right_file, left_file, mark=".")) is not None
    ):
        single = TensorFile(parts, known[CANONICAL])
        with suppress(stacks.NotAStackError):
            return _one_by_one(single, files, name, framework, family or "inferred", swapped)
    pairs = pair(left_file, right_file)
    if not pairs.found:
        raise MappingError("the two files have nothing in common, neither values nor shapes")
    table = draft(pairs)
    return _finished(pairs, table, name, framework, family or "inferred", swapped, files)


def _one_by_one(
    single: TensorFile, files: Sequence[TensorFile], dialect: str, framework: str, family: str,
    swapped: bool,
) -> Inferred:  # fmt: skip
    """Return a table of single layers, where only PyTorch's file stacks them.

    The canonical names are those of `single`, its tensors one by one; the file itself is one more
    dialect. Raises `NotAStackError` where a stack would not be covered as a whole.
    """
    whole, right = files
    own = "stacked" if dialect != "stacked" else "whole"
    parts = stacks.apart(single, whole)
    if parts is None:
        raise stacks.NotAStackError
    rows = stacks.joined(draft(pair(single, TensorFile(parts, whole.convention))))
    pairs = pair(single, right)
    found = _finished(
        pairs, draft(pairs), dialect, framework, family, swapped, (single, right), {own: rows}
    )
    problems = [*found.problems]
    for source, target, names in (
        (whole.state, single.state, (own, CANONICAL)),
        (single.state, whole.state, (CANONICAL, own)),
    ):
        result = converted(found.text, source, names)
        wrong = [n for n in target if n not in result or not same(result[n], target[n])]
        if wrong:
            problems.append(f"{names[1]}: differs from the file: {listed(fold(wrong))}")
    note = f"PyTorch's file is called torch:{own}: --from torch:{own}, or --to"
    exact = found.exact and len(problems) == len(found.problems)
    return replace(found, exact=exact, problems=tuple(problems), notes=(*found.notes, note))


def opened(
    given: str | os.PathLike[str] | StateDict, key: str | None, progress: Progress | None
) -> StateDict:
    """Return the state dict of a file, whose names a table can have."""
    state = given if isinstance(given, StateDict) else read(given, key=key, progress=progress)
    path = None if state.origin is None else state.origin.shown
    braces = [name for name in state if "{" in name or "}" in name]
    if braces:
        raise MappingError(f"a table cannot name tensors with braces: {listed(braces)}", path)
    if not state:
        raise MappingError("contains no tensor", path)
    return state


def _framework(asked: str | None) -> str | None:
    if asked is not None and asked not in _FRAMEWORKS:
        raise UsageError(f"framework {printable(asked)!r} is none of torch, paddle, numpy")
    return None if asked is None else _FRAMEWORKS[asked]


def _recognised(state: StateDict) -> str:
    """Return the framework that a file's format and names suggest."""
    ends = {name.replace("/", ".").rpartition(".")[2] for name in state}
    if (state.origin is not None and state.origin.format == "paddle") or "_variance" in ends:
        return "paddle"
    return "flax" if {"kernel", "scale"} & ends and not {"weight"} & ends else CANONICAL


def _is_transposed(left: StateDict, right: StateDict) -> bool:
    """Whether the right's matrices have the shapes that Paddle gives its linear layers."""
    shapes = [Counter(_matrices(state)) for state in (left, right)]
    flipped = Counter({shape[::-1]: count for shape, count in shapes[0].items()})
    return (shapes[1] & flipped).total() > (shapes[1] & shapes[0]).total()


def _matrices(state: StateDict) -> list[tuple[int, ...]]:
    return [t.shape for t in state.values() if len(t.shape) == 2 and t.shape[0] != t.shape[1]]


def _finished(
    pairs: Pairs, table: Draft, dialect: str, framework: str, family: str, swapped: bool,
    files: Sequence[TensorFile], also: Mapping[str, Draft] | None = None,
) -> Inferred:  # fmt: skip
    """Return the table that follows from the pairs, and what is unproven, unmatched or wrong."""
    unproven = tuple(
        f"{' + '.join(wide.canonical)} = {' + '.join(wide.dialect)}: {body.doubt}"
        for wide, body in table.rows
        if body.doubt
    )
    lone = len(table.absent) + len(table.extra)
    heading = _heading(len(table.rows), len(unproven), lone)
    text = render(table, dialect, framework, family, heading, also=also)
    sides = ("right", "left") if swapped else ("left", "right")
    unmatched = [f"{sides[0]} {name}" for name in fold(table.absent)]
    unmatched += [f"{sides[1]} {name}" for name in fold(table.extra)]
    try:
        exact, problems = compared(text, dialect, pairs, files)
    except PorterError as error:
        exact, problems = False, (f"the table cannot be used: {error.message}",)
    return Inferred(
        text, dialect, swapped, len(table.rows), unproven, tuple(unmatched), exact, problems
    )


def _heading(rows: int, unproven: int, unmatched: int) -> list[str]:
    proof = "equal values prove them all"
    if unproven or unmatched:
        proof = f"{unproven} of them are unproven, {unmatched} tensors are without a partner"
    return [
        f"Proposed from two files by `porter table infer`: {rows} rows, {proof}.",
        "Read each line that is marked unproven before you use it: docs/mapping-format.md.",
    ]


def converted(table: Table | str, source: StateDict, names: tuple[str, str]) -> StateDict:
    """Convert a file from one dialect of a table to another; `table` may be its text."""
    table = _parsed(table) if isinstance(table, str) else table
    shapes = shapes_of(source)
    return plan(custom_architecture(table, shapes, names[0]), shapes, *names).apply(source)


def _parsed(text: str) -> Table:
    return parse(text, "the inferred table")


def compared(
    text: str, dialect: str, pairs: Pairs, files: Sequence[TensorFile] = ()
) -> tuple[bool, tuple[str, ...]]:
    """Convert both files with the table: whether all values are equal, and which should be.

    `files` are those in which stacks are whole, where the pairs are of their parts.
    """
    left, right = (file.state for file in files or (pairs.left, pairs.right))
    table = _parsed(text)
    doubted = {n for p in pairs.found if p.doubt for n in (*p.lefts, *map(stacks.whole, p.rights))}
    problems: list[str] = []
    exact = True
    for source, target, names in (
        (left, right, (CANONICAL, dialect)),
        (right, left, (dialect, CANONICAL)),
    ):
        result = converted(table, source, names)
        unpaired = set(pairs.free_left) | set(pairs.free_right)
        missing = sorted(set(target) - set(result) - unpaired)
        if missing:
            problems.append(f"{names[1]}: missing: {listed(fold(missing))}")
        both = [name for name in result if name in target and name not in unpaired]
        differing = [name for name in both if not same(result[name], target[name])]
        exact = exact and not differing and not missing
        wrong = [n for n in differing if n not in doubted or result[n].shape != target[n].shape]
        if wrong:
            problems.append(f"{names[1]}: differs from the file: {listed(fold(wrong))}")
    return exact, tuple(problems)
