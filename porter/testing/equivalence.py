"""Assert that two sides compute the same: checkpoints and traces, or two live models."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from porter.commands.verify import verify
from porter.errors import InputError, UsageError, printable
from porter.report.text import plain
from porter.tensors.blocks import Array
from porter.testing import NotEquivalent, listeners
from porter.testing.live import Live, framework_of, is_model, live, shapes_of_model
from porter.testing.modules import Modules, naming, paths_of
from porter.testing.recording import Inputs, named, write_arguments
from porter.testing.tables import Named, planned, without_table
from porter.verification import trace as traces
from porter.verification.checks import EXACT, SINGLE
from porter.verification.comparisons import with_comparisons
from porter.verification.judge import concluded, judge
from porter.verification.run_notes import with_run_notes
from porter.verification.sides.open import rounding
from porter.verification.sides.pair import Pair
from porter.verification.sides.report import SideReport
from porter.verification.sides.side import Recorded
from porter.verification.stamp import Clock
from porter.verification.steps import Steps
from porter.verification.trace import Trace
from porter.verification.verdict import NOT_MADE, Verdict
from porter.zoo.architectures import Architecture


def assert_equivalent(
    left: Any, right: Any, table: Any = None, inputs: Inputs | None = None, **options: Any
) -> Verdict:
    """Compare two sides and raise `NotEquivalent` unless the verdict passes.

        assert_equivalent(torch_model, paddle_model, "table.toml", {"image": batch})
        assert_equivalent("vit-tiny-p16-224", "official.pth", "mine.pdparams")

    Two live models, or traces of such (`record`, given as `Path`): `table` is the path of a
    mapping table or the name of a variant, and None compares outputs only; with it every tensor
    is compared as well. `inputs` are the arguments of one call, by name and in order, or its only
    argument. Options: `left_dialect`, `right_dialect` (namings of the table), `modules` ({module
    of the right model: of the left}, where the table does not say it), `exact` (also run in
    float64), `device`, `diagnose`. Both models come back as they were.

    A variant of porter by name and two checkpoints or traces: options are those of
    `porter.verify`. A proof that could not be made (a framework is missing) raises too: a test
    that shows nothing must not pass.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not of this function
    verdict, clock = None, Clock()
    try:
        if isinstance(left, str | Architecture):
            verdict = verify(left, right, table, **options)
        else:
            verdict = clock.stamped(_models(left, right, table, inputs, **options))
    finally:
        _tell(verdict or clock.stamped(_not_made(left, table)))
    if not verdict.passed:
        raise NotEquivalent(plain(verdict), verdict)
    return verdict


def _tell(verdict: Verdict) -> None:
    for listener in listeners:
        listener(verdict)


def _not_made(left: Any, table: Any) -> Verdict:
    """Return the verdict of a comparison that the exception being handled has ended."""
    error = sys.exc_info()[1]
    known = isinstance(left, str | Architecture)
    name = getattr(left, "name", left) if known else Path(str(table or type(left).__name__)).stem
    side = SideReport("not run", "", "", "", "")
    return Verdict(str(name), NOT_MADE, f"{type(error).__name__}: {error}", side, side, 0, 0)


def _models(
    left: Any,
    right: Any,
    table: str | os.PathLike[str] | None,
    inputs: Inputs | None,
    *,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    modules: Modules | None = None,
    exact: bool = True,
    device: str = "cpu",
    diagnose: bool = True,
) -> Verdict:
    """Compare two live models, or traces of such."""
    plans = None
    if table is not None and is_model(left) and is_model(right):
        both = (left, left_dialect), (right, right_dialect)
        first, second = (Named(shapes_of_model(m), framework_of(m), dialect) for m, dialect in both)
        plans = planned(table, first, second)
    names = modules if modules is not None or plans is None else paths_of(plans.left, plans.right)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
        sides = [
            stack.enter_context(live(given, folder / side, device=device, name=naming(rename)))
            if is_model(given)
            else Recorded(_trace(given))
            for given, side, rename in ((left, "left", None), (right, "right", names))
        ]
        if isinstance(sides[0], Live):
            sides[0].rounded = rounding(*sides)
        path, case = write_arguments(folder, _same_inputs(sides, inputs), single_call=True)
        note = _computed(sides, path, case, exact)
        one, two = sides
        known = plans or without_table(one.architecture or type(left).__name__)
        for side, places in ((one, known.left), (two, known.right)):
            if isinstance(side, Live):
                side.planned(places, compared=plans is not None)
        pair = Pair(known.architecture, one, two, folder, SINGLE, case, Steps())
        return _judged(pair, diagnose, (note,) if note else ())


def _computed(sides: Sequence[Live | Recorded], path: Path, case: str, exact: bool) -> str:
    """Run both sides, in float64 as well if both can; return a note where one cannot."""
    note = ""
    if exact:
        try:
            for side in sides:
                side.compute(path, [EXACT, SINGLE], case)
            return ""
        except (RuntimeError, TypeError, ValueError) as error:
            # A constant that a model keeps in float32 does not fit its float64 weights.
            reason = printable(str(error).strip().partition("\n")[0], 120)
            note = f"float32 runs are compared: a side does not run in float64 ({reason})"
    for side in sides:
        side.compute(path, [SINGLE], case)
    return note


def _same_inputs(sides: list[Live | Recorded], inputs: Inputs | None) -> dict[str, Array]:
    """Return the arguments of the call; those of a trace are recorded in it."""
    given = [side.trace.inputs for side in sides if isinstance(side, Recorded)]
    given += [named(inputs)] if inputs is not None or not given else []
    for other in given[1:]:
        same = list(other) == list(given[0])
        if not same or not all(np.array_equal(other[n], a) for n, a in given[0].items()):
            raise UsageError("the two sides have different inputs: a trace stores its own")
    return dict(given[0])


def _trace(path: str | os.PathLike[str]) -> Trace:
    """Return a trace of a model that porter does not know."""
    trace = traces.load(path)
    if not trace.arguments:
        raise UsageError(f"is a trace of {printable(trace.architecture)}: name that first", path)
    return trace


def _judged(pair: Pair, diagnose: bool, notes: tuple[str, ...]) -> Verdict:
    """Judge what both sides computed, compare what else they show, and look for the fault."""
    left, right, more = _references(pair.left.trace, _aligned(pair.left.trace, pair.right.trace))
    pair.left.trace, pair.right.trace = left, right
    verdict = Verdict(
        pair.architecture.name, NOT_MADE, "", left.report, right.report, 0, 0, cases=left.cases,
        checks=judge(left, right, SINGLE), notes=(*notes, *more),
    )  # fmt: skip
    verdict = with_run_notes(verdict, pair)
    options = {"per_layer": False, "grad": False, "train_step": False}
    try:
        verdict = with_comparisons(verdict, pair, diagnose=diagnose, **options)
    except InputError as error:  # A module cannot be run with the other side's arguments.
        verdict = with_comparisons(verdict, pair, diagnose=False, **options)
        reason = f"the module that causes the difference: {error.message}"
        verdict = replace(verdict, skipped=(*verdict.skipped, reason))
    return concluded(verdict)


def _aligned(left: Trace, right: Trace) -> Trace:
    """Name the right side's outputs as the left's, in order, where the names are others."""
    names = list(next(iter(left.outputs.values())))
    theirs = list(next(iter(right.outputs.values())))
    if set(names) == set(theirs) or len(names) != len(theirs):
        return right
    new = dict(zip(theirs, names, strict=True))
    outputs = {p: {new[n]: a for n, a in run.items()} for p, run in right.outputs.items()}
    return replace(right, outputs=outputs)


def _references(left: Trace, right: Trace) -> tuple[Trace, Trace, tuple[str, ...]]:
    """Take the left side's float32 run for the reference where it has none in float64."""
    if EXACT in left.outputs:
        return left, right, ()
    outputs = {EXACT: left.outputs[SINGLE]}
    layers = {EXACT: left.layers[SINGLE]} if SINGLE in left.layers else {}
    note = "the reference is the left side's float32 run: it has none in float64"
    single = {SINGLE: right.outputs[SINGLE]}
    return replace(left, outputs=outputs, layers=layers), replace(right, outputs=single), (note,)
