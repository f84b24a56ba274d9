"""Conversions and verdicts of models that porter does not define: both are built and run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from porter import codecs
from porter.errors import MappingError, MissingPackage, UsageError
from porter.frameworks.live.cases import read_inputs
from porter.frameworks.parallel import together
from porter.frameworks.references import Reference, parse, with_framework
from porter.mapping.reader import load as load_table
from porter.mapping.table import Table
from porter.planning import custom_table, endpoint
from porter.planning.fit import fit
from porter.planning.plan import Plan
from porter.planning.recognise import shapes_of
from porter.planning.target import completed, mismatches
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification import live
from porter.verification.checks import TensorCheck
from porter.verification.diagnose.causes import of_tensors
from porter.verification.diagnose.finding import folded
from porter.verification.diagnose.tensors import compared
from porter.verification.judge import concluded
from porter.verification.sides.report import SideReport
from porter.verification.stamp import Clock, digest
from porter.verification.verdict import NOT_MADE, Verdict
from porter.verification.weights import WeightProof


@dataclass(frozen=True)
class Models:
    """The two models of a table, and what they are run on."""

    left: Reference
    right: Reference
    inputs: Mapping[str, Array] | None = None
    python: Mapping[str, str] | None = field(default=None)
    asked: bool = True
    """Whether a person named them; otherwise their table did."""
    others: bool = True
    """Whether inputs like those given are drawn, and run, too."""

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Build both models; they end with the context."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
            pair = stack.enter_context(
                live.opened(
                    self.left, self.right, self.inputs, self.python, folder, others=self.others
                )
            )
            yield Session(pair, folder)

    def opened_or_missing(self, stack: ExitStack) -> tuple[Session | None, str]:
        """Build both models until the stack ends.

        Where a table's own cannot be built because a package is missing, say what to install.
        """
        try:
            return stack.enter_context(self.opened()), ""
        except MissingPackage as error:
            if self.asked:
                raise
            return None, str(error)

    def not_made(self, name: str, dialects: tuple[str, str], reason: str) -> Verdict:
        """Return the verdict of models that could not be built."""
        left, right = (
            SideReport(label=r.text, framework=r.framework, dialect=d, file="", format="")
            for r, d in zip((self.left, self.right), dialects, strict=True)
        )
        return Verdict(name, NOT_MADE, reason, left, right, num_classes=0, image_size=0)


def models_of(
    table: Table,
    dialects: tuple[str, str],
    left: str | None,
    right: str | None,
    inputs: str | os.PathLike[str] | None,
    python: Mapping[str, str] | None,
) -> Models | None:
    """Return the models that a person names, or else those of the table; None for none.

    Each must be of the framework of its dialect. Raises `UsageError` where only one is named.
    """
    references = []
    for text, dialect in ((left, dialects[0]), (right, dialects[1])):
        framework = table.dialect(dialect).convention.framework
        named = table.models.get(table.dialect(dialect).name)
        if text is not None:
            references.append(with_framework(parse(text), python))
        elif named is not None:
            references.append(parse(named, code=False))
        else:
            continue
        if references[-1].framework != framework:
            raise UsageError(
                f"the model {references[-1].text} is of {references[-1].framework}, and the"
                f" dialect {dialect} of {table.source} of {framework}"
            )
    if not references:
        if inputs is not None:
            raise UsageError("--inputs need --left-model and --right-model")
        return None
    if len(references) == 1:
        raise UsageError("--left-model and --right-model are needed both")
    given = None if inputs is None else read_inputs(inputs)
    asked = left is not None or right is not None
    return Models(references[0], references[1], given, python, asked)


class Side(NamedTuple):
    """A checkpoint for one of the models."""

    state: StateDict
    """Under the model's names."""
    dialect: str
    key: str | None = None
    is_file: bool = True
    """Whether the file has just these names: the model's process then reads it itself."""


class Session:
    """Both models while they are open."""

    def __init__(self, pair: live.LivePair, folder: Path) -> None:
        self.pair = pair
        self._folder = folder

    def completed(self, converted: StateDict, plan: Plan) -> tuple[StateDict, list[str]]:
        """Return what the right model's checkpoint must have, and what of that is its own."""
        return completed(converted, self.pair.right.target, plan.target)

    def check_source(self, state: StateDict) -> None:
        """Raise `MappingError` where a checkpoint is not one of the left model."""
        target = self.pair.left.target
        problems = mismatches(state, target)
        if problems:
            path = None if state.origin is None else state.origin.shown
            raise MappingError(
                f"does not fit {target.name}: {'; '.join(problems[:8])}", path, problems
            )

    def verdict(
        self,
        plan: Plan,
        left: Side,
        right: Side,
        *,
        rounded: str | None = None,
        tensors: tuple[TensorCheck, ...] = (),
        weights: WeightProof | None = None,
    ) -> Verdict:
        """Fill both models, run them and judge."""
        together([
            partial(self._fill, self.pair.left, left, rounded),
            partial(self._fill, self.pair.right, right, None),
        ])  # fmt: skip
        found = self.pair.outcome(plan)
        fuzzed = self.pair.seeded(lambda values: self._moved(values, plan))
        reports = [_report(m, s) for m, s in ((self.pair.left, left), (self.pair.right, right))]
        notes = [*found.notes]
        if rounded is not None:
            notes.append(f"the left side's weights were rounded to {rounded}, as the right's are")
        return concluded(
            Verdict(
                architecture=plan.architecture.name, status=NOT_MADE, reason="", left=reports[0],
                right=reports[1], num_classes=0, image_size=0, cases=self.pair.cases,
                checks=found.checks, tensors=tensors, fuzzed=fuzzed, story=found.story,
                findings=folded([*of_tensors(tensors), *found.findings]),
                notes=tuple(notes), weights=weights,
            )
        )  # fmt: skip

    def _fill(self, model: live.LiveModel, side: Side, rounded: str | None) -> None:
        model.fill(*self._file(side, model.reference.framework), rounded)

    def _moved(self, values: Mapping[str, LazyTensor], plan: Plan) -> Mapping[str, LazyTensor]:
        """Return the right model's tensors for other values of the left's."""
        return self.completed(plan.apply(StateDict(values)), plan)[0]

    def _file(self, side: Side, name: str) -> tuple[str, str | None]:
        """Return a file with the tensors of a side, and the key in it."""
        origin = side.state.origin
        if side.is_file and origin is not None and os.path.isfile(origin.path):
            return origin.path, side.key
        path = os.fspath(self._folder / f"{name}-{side.dialect}.safetensors")
        codecs.write(side.state, path, format="safetensors", read_back=False, record=False)
        return path, None


def _report(model: live.LiveModel, side: Side) -> SideReport:
    origin, framework = side.state.origin, model.reference.framework
    return SideReport(
        label=f"{model.reference.text}", framework=framework, dialect=side.dialect,
        file="" if origin is None else origin.shown,
        format="" if origin is None else origin.format,
        weights=tuple(sorted({t.dtype.name for t in side.state.values() if t.dtype.is_float})),
        direct=side.is_file, device="cpu", versions=model.versions,
        key="" if origin is None else origin.wrapper,
        digest="" if origin is None else digest(origin.files),
    )  # fmt: skip


def verify_models(
    table: str | os.PathLike[str],
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    *,
    left_model: str | None = None,
    right_model: str | None = None,
    inputs: str | os.PathLike[str] | None = None,
    left_dialect: str | None = None,
    right_dialect: str | None = None,
    left_key: str | None = None,
    right_key: str | None = None,
    python: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Compare two checkpoints by a custom table: every tensor, and the outputs of both models.

    Dialects are `F[:DIALECT]` as `--from` takes them; None for the one that the file fits.
    Raises `MappingError` where a file does not fit the table or its model, `UsageError` where the
    table names no models and none are given.
    """
    loaded, clock = load_table(Path(table)), Clock()
    if progress is not None:
        progress("reading the checkpoints", 0, 0)
    states = [fetch.read(left, key=left_key), fetch.read(right, key=right_key)]
    dialects = [
        _dialect(loaded, state, asked)
        for state, asked in zip(states, (left_dialect, right_dialect), strict=True)
    ]
    models = models_of(loaded, (dialects[0], dialects[1]), left_model, right_model, inputs, python)
    if models is None:
        raise UsageError(
            "a verdict by a custom table needs the two models: name them by --left-model and"
            " --right-model, or in [models]", loaded.source,
        )  # fmt: skip
    architecture = custom_table.custom_architecture(loaded, shapes_of(states[0]), dialects[0])
    fitted = fit(architecture, states[0], dialects[0], dialects[1])
    with models.opened() as session:
        session.check_source(fitted.state)
        expected, kept = session.completed(fitted.plan.apply(fitted.state), fitted.plan)
        found = mismatches(states[1], session.pair.right.target)
        if found:
            name = session.pair.right.target.name
            raise MappingError(f"does not fit {name}: {'; '.join(found[:8])}", right, found)
        if progress is not None:
            progress("running both models", 0, 0)
        verdict = session.verdict(
            fitted.plan,
            Side(fitted.state, dialects[0], left_key, fitted.state is states[0]),
            Side(states[1], dialects[1], right_key),
            tensors=tuple(_tensors(expected, states[1], fitted.plan, set(kept))),
        )
        return clock.stamped(verdict)


def _dialect(table: Table, state: StateDict, asked: str | None) -> str:
    if asked is not None:
        return endpoint.parse(asked, table).dialect
    container = "" if state.origin is None else state.origin.format
    return custom_table.fitting(table, shapes_of(state), None, container)[1]


def _tensors(
    expected: Mapping[str, LazyTensor], found: Mapping[str, LazyTensor], plan: Plan, kept: set[str]
) -> Iterator[TensorCheck]:
    """Yield a check for each tensor that the table writes."""
    for name, tensor in expected.items():
        if name in kept or name not in found:
            continue
        link = plan.target.by_dialect.get(name)
        other = found[name]
        row = "" if link is None else link.row
        if other.dtype is not tensor.dtype:
            yield TensorCheck(name, row, f"is {other.dtype.name}, not {tensor.dtype.name}")
        else:
            yield compared(plan, name, row, expected, found)
