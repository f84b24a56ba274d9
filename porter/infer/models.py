"""Propose a table by running the two models that it is to link.

The left model gets weights in which every tensor matters; its worker records what each module is
called with. The right model is filled from them while it runs (`porter.frameworks.live.search`).
Equal outputs on several inputs are the proof; what no output shows is unproven.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from porter.errors import InputError, MappingError, PorterError, UsageError
from porter.frameworks import exchange
from porter.frameworks.live.cases import Cases, varied, without_zeros, write_cases
from porter.frameworks.live.diagnosis import diagnosed
from porter.frameworks.live.search import LIMIT
from porter.frameworks.live.units import Unit
from porter.frameworks.parallel import together
from porter.frameworks.process import Worker, shared
from porter.frameworks.references import Reference
from porter.infer.draft import draft
from porter.infer.evidence import Chain, Relation
from porter.infer.file_values import FileValues, compare
from porter.infer.pairs import Pairs
from porter.infer.propose import Inferred, compared, converted
from porter.infer.render import reasoned, render
from porter.infer.tensor_file import Pair, TensorFile
from porter.mapping.conventions import conventions
from porter.mapping.table import CANONICAL, PADDLE
from porter.planning.target import UNSEEN, Target, mismatches
from porter.storage.progress import Progress
from porter.tensors import operations
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

EXACT, SINGLE = "float64", "float32"
SECONDS = 240.0
"""Time for other choices, after the first run."""
_ROUNDING = 5e-6
"""Relative rms in float64 of models with parts in float32."""
_LEAVES = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var",
           "count": "num_batches_tracked"}  # fmt: skip
_LAYERS = ("linear", "conv", "conv_transpose", "norm", "batchnorm", "embedding")
_UNMATCHED = "unproven: nothing in the other model matches it"


@dataclass(frozen=True, slots=True)
class _Left:
    """The left model's tensors under canonical names."""

    values: dict[str, Array]
    names: dict[str, str]
    """{the model's name: canonical name}."""
    before: dict[str, Chain]
    """{the model's name: operations that make its tensor of the canonical one}."""
    kinds: dict[str, str]


def infer_models(
    left: Reference,
    right: Reference,
    *,
    inputs: Mapping[str, Array] | None = None,
    dialect: str | None = None,
    family: str | None = None,
    python: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
    files: tuple[StateDict, StateDict] | None = None,
) -> Inferred:
    """Propose a table whose canonical names are `left`'s, PyTorch's where only `right` is.

    `inputs` are named arrays of any type, in the order of the arguments; a picture where there are
    none. `files` are checkpoints of both: where they have the same weights, equal values prove
    rows, too. Raises `MappingError` where they do not fit the models, `InputError` where a model
    cannot be built or run.
    """
    swapped = left.framework != CANONICAL and right.framework == CANONICAL
    if swapped:
        left, right = right, left
        files = None if files is None else files[::-1]
    name = dialect or (
        PADDLE if (left.framework, right.framework) == ("torch", "paddle") else "other"
    )
    if name == CANONICAL or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{name!r} is not a name for a dialect: use letters, digits, - and _")

    def step(text: str) -> None:
        if progress is not None:
            progress(text, 0, 0)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        pool = stack.enter_context(shared())
        one, two = (
            stack.enter_context(pool.worker(r.framework, (python or {}).get(r.framework)))
            for r in (left, right)
        )
        step("building the models")
        sides = together([_opener(one, left), _opener(two, right)])
        for side, reference, state in zip(sides, (left, right), files or (), strict=False):
            _check_fits(state, reference, side)
        given, file, values = (
            os.fspath(folder / f"{what}.safetensors") for what in ("inputs", "left", "right")
        )

        def matched(cases: Cases) -> tuple[dict[str, Any], dict[str, Any]]:
            write_cases(given, cases)
            return _matched((one, left), (two, right), given, file, seconds, step)

        recorded, match = matched(varied(inputs))
        worst = max(match["errors"].values())
        masked = None if worst <= LIMIT else without_zeros(inputs or {})
        padding: tuple[str, ...] = ()
        if masked is not None:
            step("trying inputs without the token 0")
            recorded, match = matched(varied(masked))
            if max(match["errors"].values()) <= LIMIT:
                padding = (
                    f"the outputs differ by {worst:.1e} on the inputs, and are equal where no token"
                    " is 0: one of the models masks 0 as padding",
                )
        silent = set(one.request("live_silent", inputs=given)["silent"])
        two.request("live_values", output=values)
        (was, _), (made, _) = exchange.load(file), exchange.load(values)
        proposal = _Proposal(
            left, right, recorded, match, sides, silent,
            {name: was[f"weight/{name}"] for name in sides[0]["tensors"]},
            {name: made[name] for name in sides[1]["tensors"]},
        )  # fmt: skip
        if files is not None:
            proposal.believe(*files, name)
        problems = () if proposal.agrees else (proposal.disagreement(one, two, given),)
        return proposal.inferred(name, family or "inferred", swapped, (*problems, *padding))


def _check_fits(state: StateDict, reference: Reference, side: Mapping[str, Any]) -> None:
    """Raise `MappingError` where a checkpoint is not one of a model."""
    own = {
        name: LazyTensor(DTYPES[dtype], tuple(shape), _unread)
        for name, (dtype, shape) in side["tensors"].items()
    }
    target = Target(f"the model {reference.text}", own, set(side["parameters"]), side["aliases"])
    problems = mismatches(state, target)
    if problems:
        path = None if state.origin is None else state.origin.shown
        raise MappingError(f"does not fit {target.name}: {'; '.join(problems[:8])}", path, problems)


def _unread() -> Array:
    raise AssertionError("only names, types and shapes are compared")


_Side = tuple[Worker, Reference]


def _matched(
    left: _Side, right: _Side, inputs: str, file: str, seconds: float, step: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run both models, in float64 where both can: deep networks enlarge the rounding of float32."""
    one, two = left[0], right[0]
    for precision in (EXACT, SINGLE):
        try:
            step(f"running the left model in {precision}")
            recorded = one.request(
                "live_record", seed=5, inputs=inputs, output=file, precision=precision
            )
            step(f"running the right model in {precision} with the left one's weights")
            match = two.request(
                "live_match", left=file, inputs=inputs, seconds=seconds, precision=precision
            )
        except InputError:
            if precision == SINGLE:
                raise
            together([_opener(*left), _opener(*right)])
        else:
            return recorded, {**match, "precision": precision}
    raise AssertionError


def _opener(worker: Worker, reference: Reference) -> Any:
    def run() -> dict[str, Any]:
        worker.request("hello", device="cpu")
        return worker.request("live_open", **reference.request)

    return run


class _Proposal:
    """What was found, as pairs of tensors."""

    def __init__(
        self, left: Reference, right: Reference, recorded: Mapping[str, Any],
        match: Mapping[str, Any], sides: Sequence[Mapping[str, Any]], silent: set[str],
        left_values: dict[str, Array], right_values: dict[str, Array],
    ) -> None:  # fmt: skip
        self.left, self.right = left, right
        self.match, self.sides, self.silent = match, sides, silent
        self.units = [Unit.of(unit) for unit in recorded["units"]]
        self.right_units = [Unit.of(unit) for unit in match["units"]]
        self._left_values = left_values
        self.canon = _canonical(self.units, left_values, left.framework)
        self.values: FileValues | None = None
        self.errors: dict[str, float] = match["errors"]
        states = [StateDict.of(self.canon.values), StateDict.of(right_values)]
        known = conventions()
        self.pairs = Pairs(
            TensorFile(states[0], known[CANONICAL]), TensorFile(states[1], known[right.framework])
        )
        self.pairs.kinds = self.canon.kinds
        self._pair()
        self._explain()

    @property
    def agrees(self) -> bool:
        """Whether the outputs are equal on every input."""
        return all(error <= LIMIT for error in self.errors.values())

    def _pair(self) -> None:
        """Add the pairs of tensors; parts of one tensor are one pair."""
        parts: dict[str, list[tuple[int, str, Mapping[str, Any], str]]] = {}
        for choice in self.match["choices"]:
            doubt = self._doubt(choice)
            for name, recipe in choice["recipes"].items():
                if recipe["part"] is not None:
                    start = recipe["part"][1]
                    parts.setdefault(recipe["left"][0], []).append((start, name, recipe, doubt))
                else:
                    self._add(recipe["left"], [name], recipe, recipe["join"], doubt)
        for left, found in parts.items():
            found.sort(key=lambda row: row[0])
            axis = found[0][2]["part"][0]
            sizes = [row[2]["part"][2] for row in found]
            whole = self.canon.values[self.canon.names[left]].shape
            before = self.canon.before.get(left, ())
            size = operations.shape_after([operations.parse(t, {}) for t in before], whole)[axis]
            alike = len({(*row[2]["ops"], "|", *row[2]["first"]) for row in found}) == 1
            if sum(sizes) != size or not alike:
                continue
            same = len(set(sizes)) == 1
            join = f"concat {axis}" if same else f"concat {axis} sizes {','.join(map(str, sizes))}"
            doubt = next((row[3] for row in found if row[3]), "")
            self._add([left], [row[1] for row in found], found[0][2], join, doubt)

    def _add(
        self, lefts: Sequence[str], rights: Sequence[str], recipe: Mapping[str, Any], join: str,
        doubt: str,
    ) -> None:  # fmt: skip
        names = [self.canon.names[name] for name in lefts]
        if any(n not in self.pairs.free_left for n in names):
            return
        if any(n not in self.pairs.free_right for n in rights):
            return
        ops = simplified((*self.canon.before.get(lefts[0], ()), *recipe["ops"]))
        self.pairs.add(names, rights, Relation(join, (ops,), tuple(recipe["first"])), doubt)

    def _doubt(self, choice: Mapping[str, Any]) -> str:
        """Return why a choice is not proven; empty if it is."""
        if not self.agrees:
            if choice["matched"] and choice["fitting"] == 1:
                return ""
            return "the outputs of the models differ"
        trained = set(self.sides[0]["parameters"])
        names = {
            name for unit in self.units if unit.key in choice["left"]
            for name in unit.roles.values() if name in trained
        }  # fmt: skip
        return "no output shows it" if names and names <= self.silent else ""

    def _explain(self) -> None:
        """Say why tensors have no partner."""
        reasons, aliases = self.pairs.reasons, self.sides[0]["aliases"]
        trained = [set(side["parameters"]) for side in self.sides]
        canonical = {name: native for native, name in self.canon.names.items()}
        free = {canonical[name] for name in self.pairs.free_left}
        paired = other_names(self.sides[0], free)
        for name in self.pairs.free_left:
            native = canonical[name]
            if native in paired or native in aliases:
                twin = self.canon.names[paired.get(native) or aliases[native]]
                reasons[name] = f"the tensor {twin} under a second name"
                if twin not in self.pairs.free_left:
                    self.pairs.shared[name] = twin
            elif native not in trained[0]:
                reasons[name] = "a constant that the other model does not store"
            elif native in self.silent and self.agrees:
                reasons[name] = UNSEEN
            else:
                reasons[name] = _UNMATCHED
        copies = other_names(self.sides[1], self.pairs.free_right)
        for name in list(self.pairs.free_right):
            if name in copies:
                self.pairs.copies[name] = copies[name]
            elif name in self.match["silent"] and self.agrees:
                reasons[name] = f"{UNSEEN}: a conversion keeps the target's"
            elif name in trained[1]:
                reasons[name] = _UNMATCHED
            else:
                reasons[name] = "a constant of the model: a conversion keeps the target's"

    def believe(self, left: StateDict, right: StateDict, dialect: str) -> None:
        """Use the values of two checkpoints: where they have the same weights, equal ones prove."""
        arrays = {n: left[n].read() if n in left else a for n, a in self._left_values.items()}
        source = StateDict.of(_canonical(self.units, arrays, self.left.framework).values)
        text = render(draft(self.pairs), dialect, self.right.framework, "inferred", ())
        try:
            made = converted(text, source, (CANONICAL, dialect))
        except PorterError:  # which the comparison of the finished table will report
            return
        self.values = compare(made, right)
        found = [(p, self.values.doubt(p.rights, p.doubt)) for p in self.pairs.found]
        proven = {_modules(p) for p, doubt in found if p.doubt and not doubt}
        self.pairs.found[:] = [
            replace(p, doubt="" if _modules(p) in proven and self.values.flat(p.rights) else doubt)
            for p, doubt in found
        ]

    def disagreement(self, one: Worker, two: Worker, inputs: str) -> str:
        """Return where the models begin to differ."""
        worst = max(self.errors.values())
        size = f"by {worst:.1e}" if worst < float("inf") else "in number, shape or by NaN"
        left, right = (w.request("live_calls", inputs=inputs)["calls"] for w in (one, two))
        pairs = {
            choice["unit"]: choice["left"][0]
            for choice in self.match["choices"] if len(choice["left"]) == 1
        }  # fmt: skip
        hooks = [{u.key: u.hook for u in units} for units in (self.units, self.right_units)]
        paths = {hooks[1][r]: hooks[0][le] for r, le in pairs.items()}
        story = diagnosed(left, right, paths)
        return f"the outputs differ {size} after {self.match['runs']} runs of the right model" + (
            f": {story}" if story else ""
        )

    def inferred(
        self, dialect: str, family: str, swapped: bool, problems: tuple[str, ...]
    ) -> Inferred:
        """Return the table, used both ways."""
        pairs = self.pairs
        table = draft(pairs)
        unproven = tuple(
            f"{' + '.join(wide.canonical)} = {' + '.join(wide.dialect)}: {body.doubt}"
            for wide, body in table.rows if body.doubt
        )  # fmt: skip
        models = {CANONICAL: self.left.text, dialect: self.right.text}
        if self.left.framework == PADDLE:
            models = {PADDLE: self.left.text, dialect: self.right.text}
        by_provider = self.left.provider and self.right.provider
        text = render(
            table, dialect, self.right.framework, family, self._heading(len(table.rows), unproven),
            models if by_provider else None,
        )  # fmt: skip
        sides = ("right", "left") if swapped else ("left", "right")
        gaps = [(sides[0], reasoned(table, table.absent)), (sides[1], reasoned(table, table.extra))]
        unmatched = [f"{side} {n}" for side, rows in gaps for n, why in rows if why == _UNMATCHED]
        notes = [
            f"{side} {n}: {why}" for side, rows in gaps for n, why in rows if why != _UNMATCHED
        ]
        values: tuple[str, ...] = () if self.values is None else (self.values.words,)
        values += more_than_rounding(max(self.errors.values()), self.match["precision"])
        try:
            exact, wrong = compared(text, dialect, pairs)
        except PorterError as error:
            exact, wrong = False, (f"the table cannot be used: {error.message}",)
        return Inferred(
            text, dialect, swapped, len(table.rows), unproven, tuple(unmatched), exact,
            (*problems, *wrong), (self._proof(), *values, *notes),
        )  # fmt: skip

    def _heading(self, rows: int, unproven: Sequence[str]) -> list[str]:
        proof = f"{len(unproven)} of them are unproven" if unproven else "all of them proven"
        if not self.agrees:
            proof = "the models do not compute the same"
        return [
            f"Inferred by `porter table infer` from two models: {rows} rows, {proof}.",
            f"W{self._proof()[1:]}.",
        ]

    def _proof(self) -> str:
        worst = max(self.errors.values())
        return (
            f"with the same weights their outputs differ by {worst:.1e} (relative rms,"
            f" {self.match['precision']}, {len(self.errors)} inputs)"
        )


def more_than_rounding(error: float, precision: str) -> tuple[str, ...]:
    """Return a note on models that agree, but not as closely as one computation would."""
    if precision != EXACT or not _ROUNDING < error <= LIMIT:
        return ()
    return (
        f"{error:.1e} is more than rounding in {precision}: the models compute a function in two"
        " ways, for example GELU and its tanh approximation",
    )


def other_names(side: Mapping[str, Any], free: Collection[str]) -> dict[str, str]:
    """Return the names of a model that are free and have a tensor which is not, and its name."""
    aliases = side["aliases"]
    taken = {aliases.get(n, n): n for n in reversed(list(side["tensors"])) if n not in free}
    found = {name: taken.get(aliases.get(name, name)) for name in free}
    return {name: twin for name, twin in found.items() if twin is not None}


def _modules(pair: Pair) -> tuple[tuple[str, ...], ...]:
    """Return the modules whose tensors are paired: one proves the others that they have."""
    return tuple(
        tuple(name.rpartition(".")[0] for name in names) for names in (pair.lefts, pair.rights)
    )


def _canonical(units: Sequence[Unit], values: Mapping[str, Array], framework: str) -> _Left:
    """Return the left's tensors under PyTorch's names and in its layout."""
    names = {name: name for name in values}
    before: dict[str, Chain] = {}
    kinds: dict[str, str] = {}
    rules = conventions()[framework].kinds
    for unit in units:
        if unit.kind not in _LAYERS or not set(unit.roles) <= set(_LEAVES):
            continue
        kind = rules[unit.kind]
        usual = all(
            name == f"{unit.key}.{kind[_LEAVES[role]].name}" if _LEAVES[role] in kind else False
            for role, name in unit.roles.items()
        )
        flipped = unit.kind == "linear" and unit.flipped
        if not usual or flipped != ("transpose" in kind["weight"].ops):
            continue
        kinds[unit.key] = unit.kind
        for role, name in unit.roles.items():
            names[name] = f"{unit.key}.{_LEAVES[role]}"
            if kind[_LEAVES[role]].ops:
                before[name] = kind[_LEAVES[role]].ops
    made = {}
    for name, value in values.items():
        tensor = LazyTensor.of(value)
        undo = operations.inverse([operations.parse(text, {}) for text in before.get(name, ())])
        made[names[name]] = operations.apply(undo, tensor).read().copy()
    return _Left(made, names, before, kinds)


def simplified(chain: Sequence[str]) -> Chain:
    """Return operations without those that undo each other."""
    kept: list[str] = []
    for text in chain:
        if kept and text == kept[-1] == "transpose":
            kept.pop()
        else:
            kept.append(text)
    return tuple(kept)
