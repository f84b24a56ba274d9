"""Propose a mapping table from two files of one model that name and lay out its tensors otherwise.

Values decide where the files hold the same weights: a row is proven when every tensor it stands
for was found by its elements, or beside one that was. All else is said to be unproven, in the
table and in the report. The proposal is then used as any table is, and its result compared.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from porter.errors import MappingError, PorterError, UsageError, listed, printable
from porter.infer.draft import Draft, draft
from porter.infer.evidence import same
from porter.infer.pairing import Pairing
from porter.infer.render import render
from porter.infer.side import Side
from porter.mapping.conventions import conventions
from porter.mapping.fold import fold
from porter.mapping.reader import parse
from porter.mapping.table import CANONICAL
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
    """The name that it gives the naming of the file that is not canonical."""
    swapped: bool
    """Whether the right file's names became the canonical ones."""
    rows: int
    """Groups of layers that were linked."""
    unproven: tuple[str, ...]
    """Each of those that values do not prove: its names, and why."""
    unmatched: tuple[str, ...]
    """Tensors of one side alone, folded, each with its side."""
    exact: bool
    """Whether the table makes all that is linked of one file out of the other, bit for bit."""
    problems: tuple[str, ...]
    """Where the table, used, does not give what the other file holds."""

    @property
    def proven(self) -> bool:
        """Whether values prove every row, every tensor has its place, and the result is exact."""
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

    Frameworks (`torch`, `paddle`, `numpy`) say whose layout a file has; they are told by its
    format, names and values when not given. Canonical names are PyTorch's, so where only the
    right file is, the sides are swapped. Raises `UsageError` where neither is, `InputError` and
    `SystemFault` as reading does.
    """
    states = [_state(left, key, progress), _state(right, key, progress)]
    asked = [_framework(left_framework), _framework(right_framework)]
    found = [framework or _told(state) for framework, state in zip(asked, states, strict=True)]
    swapped = found[0] != CANONICAL and found[1] == CANONICAL
    if swapped:
        states, asked, found = states[::-1], asked[::-1], found[::-1]
    if found[0] != CANONICAL:
        raise UsageError(
            f"canonical names are PyTorch's, and both files look like {found[0]};"
            " say --left torch or --right torch if one of them is not"
        )
    framework = found[1]
    if asked[1] is None and framework == CANONICAL and _is_transposed(*states):
        framework = "paddle"
    known = conventions()
    pairing = Pairing(Side(states[0], known[CANONICAL]), Side(states[1], known[framework]))
    pairing.run()
    if not pairing.ties:
        raise MappingError("the two files have nothing in common, neither values nor shapes")
    made = draft(pairing)
    name = dialect or ("paddle" if framework == "paddle" else "other")
    if name == CANONICAL or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{printable(name)!r} cannot be a dialect's name")
    return _finished(made, pairing, name, framework, family or "inferred", swapped)


def _state(
    given: str | os.PathLike[str] | StateDict, key: str | None, progress: Progress | None
) -> StateDict:
    state = given if isinstance(given, StateDict) else read(given, key=key, progress=progress)
    path = None if state.origin is None else state.origin.shown
    held = [name for name in state if "{" in name or "}" in name]
    if held:
        raise MappingError(f"a table cannot name tensors with braces: {listed(held)}", path)
    if not state:
        raise MappingError("holds no tensor", path)
    return state


def _framework(asked: str | None) -> str | None:
    if asked is not None and asked not in _FRAMEWORKS:
        raise UsageError(f"framework {printable(asked)!r} is none of torch, paddle, numpy")
    return None if asked is None else _FRAMEWORKS[asked]


def _told(state: StateDict) -> str:
    """Return the framework that a file's format and names speak for."""
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
    made: Draft, pairing: Pairing, dialect: str, framework: str, family: str, swapped: bool
) -> Inferred:
    rows = [(wide, body) for wide, body in made.rows]
    unproven = tuple(
        f"{' + '.join(wide.canonical)} = {' + '.join(wide.dialect)}: {body.doubt}"
        for wide, body in rows
        if body.doubt
    )
    text = render(made, dialect, framework, family, _heading(len(rows), len(unproven)))
    sides = ("right", "left") if swapped else ("left", "right")
    unmatched = [f"{sides[0]} {name}" for name in fold(made.absent)]
    unmatched += [f"{sides[1]} {name}" for name in fold(made.extra)]
    try:
        exact, problems = _compared(text, dialect, pairing)
    except PorterError as error:
        exact, problems = False, (f"the table cannot be used: {error.message}",)
    return Inferred(text, dialect, swapped, len(rows), unproven, tuple(unmatched), exact, problems)


def _heading(rows: int, unproven: int) -> list[str]:
    said = "equal values prove them all" if not unproven else f"{unproven} of them are unproven"
    return [
        f"Proposed from two files by `porter table infer`: {rows} rows, {said}.",
        "Read each line that says unproven before you use it; docs/mapping-format.md tells how.",
    ]


def _compared(text: str, dialect: str, pairing: Pairing) -> tuple[bool, tuple[str, ...]]:
    """Use the table both ways: whether all values come out, and what should have and does not."""
    left, right = pairing.left.state, pairing.right.state
    table = parse(text, "the inferred table")
    doubted = {name for tie in pairing.ties if tie.doubt for name in (*tie.lefts, *tie.rights)}
    problems: list[str] = []
    exact = True
    for source, target, names in (
        (left, right, (CANONICAL, dialect)),
        (right, left, (dialect, CANONICAL)),
    ):
        shapes = shapes_of(source)
        made = plan(custom_architecture(table, shapes, names[0]), shapes, *names).apply(source)
        alone = set(pairing.free_left) | set(pairing.free_right)
        missing = sorted(set(target) - set(made) - alone)
        if missing:
            problems.append(f"{names[1]}: not made: {listed(fold(missing))}")
        both = [name for name in made if name in target and name not in alone]
        other = [name for name in both if not same(made[name], target[name])]
        exact = exact and not other and not missing
        wrong = [n for n in other if n not in doubted or made[n].shape != target[n].shape]
        if wrong:
            problems.append(f"{names[1]}: not what the file holds: {listed(fold(wrong))}")
    return exact, tuple(problems)
