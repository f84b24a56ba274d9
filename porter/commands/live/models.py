"""Conversions and verdicts of models that porter does not define: both are built and run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from porter.commands.live.one import Side, fits
from porter.errors import MissingPackage, UsageError
from porter.frameworks.live.cases import read_inputs
from porter.frameworks.parallel import together
from porter.frameworks.references import Reference, parse, with_framework
from porter.mapping.table import Table
from porter.planning.plan import Plan
from porter.planning.target import completed
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.checks import TensorCheck
from porter.verification.diagnose.causes import of_tensors
from porter.verification.diagnose.finding import folded
from porter.verification.judge import concluded
from porter.verification.live import pair as live
from porter.verification.sides.report import SideReport
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
    device: str = "cpu"

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Build both models; they end with the context."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
            pair = stack.enter_context(
                live.opened(
                    self.left,
                    self.right,
                    self.inputs,
                    self.python,
                    folder,
                    others=self.others,
                    device=self.device,
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
    found = (
        reference_of(table, dialect, text, python)
        for text, dialect in ((left, dialects[0]), (right, dialects[1]))
    )
    references = [reference for reference in found if reference is not None]
    if not references:
        if inputs is not None:
            raise UsageError("--inputs need --left-model and --right-model")
        return None
    if len(references) == 1:
        raise UsageError("--left-model and --right-model are needed both")
    given = None if inputs is None else read_inputs(inputs)
    asked = left is not None or right is not None
    return Models(references[0], references[1], given, python, asked)


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
        fits(state, self.pair.left)

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
        reports = [left.report(self.pair.left), right.report(self.pair.right)]
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
        model.fill(*side.file(self._folder, model.reference.framework), rounded)

    def _moved(self, values: Mapping[str, LazyTensor], plan: Plan) -> Mapping[str, LazyTensor]:
        """Return the right model's tensors for other values of the left's."""
        return self.completed(plan.apply(StateDict(values)), plan)[0]


def reference_of(
    table: Table, dialect: str, text: str | None, python: Mapping[str, str] | None
) -> Reference | None:
    """Return the model that a person names for a dialect, or else the table's; None for none."""
    framework = table.dialect(dialect).convention.framework
    named = table.models.get(table.dialect(dialect).name)
    if text is not None:
        reference = with_framework(parse(text), python)
    elif named is not None:
        reference = parse(named, code=False)
    else:
        return None
    if reference.framework != framework:
        raise UsageError(
            f"the model {reference.text} is of {reference.framework}, and the dialect {dialect} of"
            f" {table.source} of {framework}"
        )
    return reference
