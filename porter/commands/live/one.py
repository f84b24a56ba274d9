"""One model with its checkpoint: run, described, recorded, compared with a trace."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from porter import codecs
from porter.errors import MappingError, UsageError
from porter.frameworks.live.cases import Cases, write_cases
from porter.frameworks.process import shared
from porter.frameworks.references import Reference
from porter.planning.target import mismatches
from porter.storage.progress import Progress
from porter.tensors.state_dict import StateDict
from porter.verification.judge import concluded
from porter.verification.live import pair as live
from porter.verification.live.trace import LiveTrace, is_live_trace, load
from porter.verification.sides.report import SideReport
from porter.verification.stamp import digest
from porter.verification.verdict import NOT_MADE, Verdict

RECORDED = "weights and seeded weights: a trace has outputs only"


class Asked(NamedTuple):
    """A checkpoint as it is asked for, or a trace."""

    path: str | os.PathLike[str]
    dialect: str | None
    key: str | None
    model: str | None = None


class Side(NamedTuple):
    """A checkpoint for one of the models."""

    state: StateDict
    """Under the model's names."""
    dialect: str
    key: str | None = None
    is_file: bool = True
    """Whether the file has just these names: the model's process then reads it itself."""

    def file(self, folder: Path, name: str) -> tuple[str, str | None]:
        """Return a file with the tensors, written to a folder if need be, and the key in it."""
        origin = self.state.origin
        if self.is_file and origin is not None and os.path.isfile(origin.path):
            return origin.path, self.key
        path = os.fspath(folder / f"{name}-{self.dialect}.safetensors")
        codecs.write(self.state, path, format="safetensors", read_back=False, record=False)
        return path, None

    def report(self, model: live.LiveModel) -> SideReport:
        """Describe the checkpoint in its model."""
        origin, framework = self.state.origin, model.reference.framework
        return SideReport(
            label=f"{model.reference.text}", framework=framework, dialect=self.dialect,
            file="" if origin is None else origin.shown,
            format="" if origin is None else origin.format,
            weights=tuple(sorted({t.dtype.name for t in self.state.values() if t.dtype.is_float})),
            direct=self.is_file, device=model.device, versions=model.versions,
            key="" if origin is None else origin.wrapper,
            digest="" if origin is None else digest(origin.files),
        )  # fmt: skip


def fits(state: StateDict, model: live.LiveModel) -> None:
    """Raise `MappingError` where a checkpoint is not one of a model."""
    problems = mismatches(state, model.target)
    if problems:
        path = None if state.origin is None else state.origin.shown
        raise MappingError(
            f"does not fit {model.target.name}: {'; '.join(problems[:8])}", path, problems
        )


@dataclass(frozen=True)
class One:
    """A model and its checkpoint, which are not the two sides of anything."""

    name: str
    """Of the variant, or of the mapping table."""
    reference: Reference
    side: Side
    python: Mapping[str, str] | None = None
    device: str = "auto"

    def trace(self, cases: Cases, progress: Progress | None = None) -> LiveTrace:
        """Run the model in float64 and float32; raises as `porter verify` does."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="porter-")))
            pool = stack.enter_context(shared())
            framework = self.reference.framework
            interpreter = (self.python or {}).get(framework)
            worker = stack.enter_context(pool.worker(framework, interpreter))
            if progress is not None:
                progress("building the model", 0, 0)
            model = live.LiveModel(self.reference, worker, folder, device=self.device)
            fits(self.side.state, model)
            model.fill(*self.side.file(folder, framework))
            inputs = os.fspath(folder / "inputs.safetensors")
            write_cases(inputs, cases)
            if progress is not None:
                progress("running the model", 0, 0)
            return LiveTrace(self.name, self.side.report(model), cases, live.runs(model, inputs))


def traces_of(
    given: Sequence[Asked], inputs: str | os.PathLike[str] | None
) -> list[LiveTrace | None]:
    """Read those of the files that are traces; `UsageError` for options that they leave no room."""
    found = [load(asked.path) if is_live_trace(asked.path) else None for asked in given]
    for place, asked, trace in zip(("left", "right"), given, found, strict=True):
        if trace is None:
            continue
        if asked[1:] != (None, None, None):
            options = f"--{place}, --{place}-key and --{place}-model"
            raise UsageError(f"is a trace, which has been run: leave {options} out", asked.path)
        if inputs is not None:
            raise UsageError("is a trace with inputs: leave --inputs out", asked.path)
    return found


def by_traces(
    name: str, given: Sequence[LiveTrace | One], progress: Progress | None = None
) -> Verdict:
    """Run the sides that are not traces on the inputs of one that is, and compare.

    Raises `UsageError` where two traces have other inputs, and as `One.trace`.
    """
    cases = next(side.cases for side in given if isinstance(side, LiveTrace))
    left, right = (
        side if isinstance(side, LiveTrace) else side.trace(cases, progress) for side in given
    )
    if not _same(left.cases, right.cases):
        raise UsageError("the two traces were recorded with different inputs")
    return concluded(
        Verdict(
            name, NOT_MADE, "", left.report, right.report, num_classes=0, image_size=0,
            cases=tuple(left.cases), checks=tuple(live.checks(left.outputs, right.outputs)),
            notes=tuple(live.not_exact(left.outputs, right.outputs)), skipped=(RECORDED,),
        )
    )  # fmt: skip


def _same(left: Cases, right: Cases) -> bool:
    return left.keys() == right.keys() and all(
        list(given) == list(right[case])
        and all((array.dtype, array.tobytes()) == (right[case][n].dtype, right[case][n].tobytes())
                for n, array in given.items())
        for case, given in left.items()
    )  # fmt: skip
